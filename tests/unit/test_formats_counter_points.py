"""Recordings of channel counters: written, read, written on, and damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc.calibrate import CounterPoint
from petqc.errors import BadInputError
from petqc.formats.counter_points import CounterHeader, CounterReader, CounterRecording

CHANNELS = np.array([0, 5, 64], np.int32)
HEADER = CounterHeader(CHANNELS, 1 << 22, {"baseline_t": np.array([60, 61, 59])})


def point(code: int) -> CounterPoint:
    return CounterPoint({"code": code}, CHANNELS, np.array([code, 1 << 22, 0]), 1 << 22)


@pytest.fixture
def recorded(tmp_path):
    with CounterRecording(tmp_path / "points", HEADER) as recording:
        for code in range(3):
            recording.add(point(code))
    return tmp_path / "points.jsonl"


def test_what_was_written_is_read(recorded):
    reader = CounterReader(recorded)
    assert reader.header.channels.tolist() == [0, 5, 64]
    assert reader.header.window_clk == 1 << 22
    assert reader.header.of_channels["baseline_t"].tolist() == [60, 61, 59]
    assert [p.settings for p in reader.points] == [{"code": 0.0}, {"code": 1.0}, {"code": 2.0}]
    assert reader.points[2].counts.tolist() == [2, 1 << 22, 0]
    assert not reader.damages


def test_a_torn_line_is_told_and_cut_when_written_on(recorded):
    whole = recorded.read_bytes()
    recorded.write_bytes(whole[:-7])
    reader = CounterReader(recorded)
    assert len(reader.points) == 2
    assert "without an end" in reader.damages[0].reason
    with CounterRecording(recorded.with_suffix(""), CounterHeader(CHANNELS, 1 << 22)) as recording:
        assert recording.n_points == 2
        assert recording.header.of_channels["baseline_t"].tolist() == [60, 61, 59]  # of the file that is written on
        recording.add(point(2))
    assert recorded.read_bytes() == whole


def test_a_file_without_a_whole_first_line_begins_afresh(tmp_path):
    (tmp_path / "points.jsonl").write_text('{"schema": "petqc-cou')
    with pytest.raises(BadInputError, match="no whole first line"):
        CounterReader(tmp_path / "points.jsonl")
    CounterRecording(tmp_path / "points", HEADER).close()
    assert CounterReader(tmp_path / "points.jsonl").points == []


def test_another_recording_is_not_written_on(recorded):
    with pytest.raises(BadInputError, match="other channels"):
        CounterRecording(recorded.with_suffix(""), CounterHeader(CHANNELS + 1, 1 << 22))


@pytest.mark.parametrize(
    "line",
    [
        '{"settings": {}, "counts": [1, 2]}',
        '{"settings": {}, "counts": [1, 2, -1]}',
        '{"settings": {}, "counts": [1, 2, 3.5]}',
        '{"settings": {}, "counts": [1, 2, true]}',
        f'{{"settings": {{}}, "counts": [1, 2, {1 << 70}]}}',
        '{"settings": [], "counts": [1, 2, 3]}',
        "[1]",
        "[" * 100_000,
    ],
)
def test_what_is_no_point_ends_the_points_and_is_counted(recorded, line):
    with recorded.open("a") as file:
        file.write(f"{line}\n")
        file.write(json.dumps({"settings": {}, "counts": [1, 2, 3]}) + "\n")
    reader = CounterReader(recorded)
    assert len(reader.points) == 3
    assert reader.damages.total == 1
    assert reader.end + reader.damages.bytes_left_out == recorded.stat().st_size


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "points.jsonl"
    path.write_bytes(HEADER.to_line().encode() + data)
    reader = CounterReader(path)
    assert reader.end + reader.damages.bytes_left_out == path.stat().st_size
    path.write_bytes(data)
    with pytest.raises(BadInputError):
        CounterReader(path)
