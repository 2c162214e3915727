"""Calibration recordings: literal bytes, interrupted scans that go on, and what is cut or spoiled."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.calibrate import EventPoint
from petqc.errors import BadInputError
from petqc.formats.petsys_calibration_raw import CalibrationReader, CalibrationRecording
from petqc.formats.petsys_frames import RawHeader, pack_frame
from petqc.formats.petsys_raw import RawReader, RawWriter

HEADER = RawHeader(sync_epoch_s=1.5e9, trigger_id=1, created_time_tag=77)


def point(step1: float, *events: tuple[int, int]) -> EventPoint:
    return EventPoint(
        step1, 0.5, np.array([w for w, _ in events], np.uint64), np.array([c for _, c in events], np.int32)
    )


POINTS = [point(0.25, (0x0123456789ABCDEF, 3), (0xFFFFFFFFFFFFFFFF, 1)), point(0.75), point(1.25, (42 << 42, 1 << 30))]


def write(prefix, points=POINTS):
    with CalibrationRecording(prefix, HEADER) as recording:
        for p in points:
            recording.add(p)
    return prefix.with_suffix(".rawf")


def test_the_bytes_are_those_of_the_reference(tmp_path):
    path = write(tmp_path / "scan")
    assert path.read_bytes()[64:] == bytes.fromhex(
        "efcdab8967452301 03000000 00000000ffffffffffffffff 01000000 000000000000000000a80000 00000040 00000000"
    )
    assert path.with_suffix(".idxf").read_text() == (
        "64\t96\t0\t0\t0.250000\t0.500000\n96\t96\t0\t0\t0.750000\t0.500000\n96\t112\t0\t0\t1.250000\t0.500000\n"
    )


def test_what_was_written_is_read(tmp_path):
    reader = CalibrationReader(write(tmp_path / "scan"))
    assert reader.header == HEADER
    assert not reader.damages
    for read, wrote in zip(reader.points(), POINTS, strict=True):
        assert (read.step1, read.step2) == (wrote.step1, wrote.step2)
        assert read.words.tolist() == wrote.words.tolist()
        assert read.counts.tolist() == wrote.counts.tolist()


@pytest.mark.parametrize("cut", range(64, 113, 8))
def test_an_interrupted_scan_goes_on_behind_its_last_whole_step(tmp_path, cut):
    path = write(tmp_path / "scan")
    path.write_bytes(path.read_bytes()[:cut])
    with CalibrationRecording(tmp_path / "scan", HEADER) as recording:
        kept = len(recording.steps)
        assert kept == (3 if cut == 112 else 2 if cut >= 96 else 0)
        recording.add(point(9.0, (7, 7)))
    found = list(CalibrationReader(path).points())
    assert [p.step1 for p in found] == [p.step1 for p in POINTS[:kept]] + [9.0]


@pytest.mark.parametrize(
    "tail", ["96\t112\t0", "garbage\n", "96\t9999999\t0\t0\t1.0\t0.5\n", "104\t112\t0\t0\t1.0\t0.5\n"]
)
def test_a_torn_or_foreign_index_line_ends_the_steps_and_is_told(tmp_path, tail):
    path = write(tmp_path / "scan")
    index = path.with_suffix(".idxf")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:2]) + tail)
    reader = CalibrationReader(path)
    assert len(reader.steps) == 2
    assert reader.damages.total == 1
    assert len(list(reader.points())) == 2


def test_another_recording_is_not_written_on(tmp_path):
    write(tmp_path / "scan")
    with pytest.raises(BadInputError, match="another kind"):
        CalibrationRecording(tmp_path / "scan", RawHeader(all_charge=True))


def test_without_an_index_it_is_refused(tmp_path):
    path = write(tmp_path / "scan")
    path.with_suffix(".idxf").unlink()
    with pytest.raises(BadInputError, match="cannot be read"):
        CalibrationReader(path)


def test_the_reader_of_frames_says_what_it_is(tmp_path):
    path = write(tmp_path / "scan")
    with pytest.raises(BadInputError, match="calibration run"):
        RawReader(path)
    with RawWriter(tmp_path / "frames", HEADER) as writer:
        writer.start_step()
        writer.write(pack_frame(0))
        writer.write(pack_frame(1, [5, 6, 7]))
    with RawReader(tmp_path / "frames.rawf") as reader:
        assert sum(block.size for block in reader.blocks()) == 7
