"""Converting recordings: steps, indexes, text, damage, progress, modes, and both ways of processing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.convert import convert
from petqc.errors import BadInputError
from petqc.formats.petsys_config import write_config
from petqc.formats.petsys_ldat import open_events
from petqc.formats.petsys_raw import RawHeader, RawWriter
from petqc.formats.petsys_tables import TABLES
from petqc.processing import ProcessingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FRAME_PS = 5_120_000


def table(kind: Any, rows: list[tuple[Any, ...]]) -> NDArray[Any]:
    return np.array(rows, TABLES[kind].dtype)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    channels = [(0, 0, chip, c) for chip in (0, 1) for c in range(8)]
    tables: dict[Any, Any] = {
        "tdc": table("tdc", [(*a, t, b, 0.0, 27.0, 200.0, -0.01) for a in channels for t in range(4) for b in (0, 1)]),
        "qdc": table("qdc", [(*a, t, 50.0, 2.0, *[0.0] * 8) for a in channels for t in range(4)]),
        "channel_map": table("channel_map", [(*a, a[2], a[3], 0, 4.0 * a[3], 0.0, 100.0 * a[2]) for a in channels]),
        "trigger_map": table("trigger_map", [(0, 0, 0), (1, 1, 0), (0, 1, 1)]),
    }
    return write_config(tmp_path / "config", tables)


def event(chip: int, channel: int, clock: int, length: int) -> int:
    return chip << 48 | channel << 42 | clock << 30 | (clock + length) % 1024 << 20 | 200 << 10 | 200


def frame(number: int, events: list[int]) -> NDArray[np.uint64]:
    return np.array([(len(events) + 2) << 36 | number, len(events), *events], np.uint64)


def pair_frames(first: int, n: int) -> NDArray[np.uint64]:
    """A pair a frame; the second photon of two hits, the stronger one second."""
    return np.concatenate(
        [frame(first + i, [event(0, 1, 100, 40), event(1, 2, 100, 30), event(1, 3, 101, 50)]) for i in range(n)]
    )


def record(prefix: Path, steps: list[NDArray[np.uint64]], **header: Any) -> Path:
    modes = header.pop("modes", None)
    writer = RawWriter(prefix, RawHeader(**header), modes=modes)
    for number, words in enumerate(steps):
        writer.start_step(float(number), 0.5)
        writer.write(words)
        writer.end_step()
    writer.close()
    return prefix.with_name(prefix.name + ".rawf")


def events(path: Path, kind: Any = None) -> NDArray[Any]:
    with open_events(path, kind) as reader:
        return np.concatenate([*reader.blocks(), np.empty(0, reader.dtype)])


def test_time_offsets_have_the_precision_that_the_vendor_gives_them(tmp_path: Path) -> None:
    """The times are those of the vendor's converter for this recording: it keeps offsets in single precision."""
    channels = [(0, 0, 0, c) for c in range(2)]
    offsets = [(*channels[0], 1000.93189), (*channels[1], 1137.93189)]
    tables: dict[Any, Any] = {
        "tdc": table("tdc", [(*a, t, b, 0.0, 27.0, 200.0, -0.01) for a in channels for t in range(4) for b in (0, 1)]),
        "channel_map": table("channel_map", [(*a, 0, a[3], 0, 4.0 * a[3], 0.0, 0.0) for a in channels]),
        "trigger_map": table("trigger_map", [(0, 0, 0)]),
        "time_offset": table("time_offset", offsets),
    }
    config = write_config(tmp_path / "config", tables)
    path = record(tmp_path / "run", [np.concatenate([frame(1 + c, [event(0, c, 100, 40)]) for c in range(2)])])
    done = convert(path, "singles", config=config, out=tmp_path / "hits", vendor_compatible=True)
    assert events(done.path, "singles")["time_ps"].tolist() == [5613998, 10733861]


@pytest.mark.parametrize("vendor", [False, True])
def test_steps_are_converted_one_by_one(tmp_path: Path, config: Path, *, vendor: bool) -> None:
    path = record(tmp_path / "run", [pair_frames(1, 4), pair_frames(100, 3)])
    seen: list[tuple[int, int]] = []
    done = convert(
        path, "coincidences", config=config, out=tmp_path / "pairs", vendor_compatible=vendor,
        progress=lambda read, size: seen.append((read, size)),
    )  # fmt: skip
    assert done.path == tmp_path / "pairs.ldat"
    assert done.records == done.account.prompts == 7
    assert done.energy_unit == "ns"
    assert (tmp_path / "pairs.lidx").read_text().splitlines() == [
        "0\t144\t0.000000e+00\t5.000000e-01",
        "144\t252\t1.000000e+00\t5.000000e-01",
    ]
    size = path.stat().st_size
    assert seen[-1] == (size - 64, size) or seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert (done.account.frames, done.account.frames_lost) == (7, 0)
    assert not done.damages
    pairs = events(done.path, "coincidences")
    assert pairs["channel_a"].tolist() == [64 + 3] * 7
    assert pairs["channel_b"].tolist() == [1] * 7
    assert (pairs["n_a"].tolist(), pairs["n_b"].tolist()) == ([2] * 7, [1] * 7)
    np.testing.assert_array_equal(pairs["time_a_ps"] - pairs["time_b_ps"], 5000)
    # The vendor writes the energy of the strongest hit; ours is that of the photon.
    np.testing.assert_allclose(pairs["energy_a"], 250 if vendor else 400, rtol=1e-3)
    np.testing.assert_allclose(pairs["energy_b"], 200, rtol=1e-3)


def test_hits_photons_and_text(tmp_path: Path, config: Path) -> None:
    path = record(tmp_path / "run", [pair_frames(1, 3)])
    hits = events(convert(path, "singles", config=config, out=tmp_path / "hits").path, "singles")
    assert hits.size == 9
    assert (np.diff(hits["time_ps"]) >= 0).all()
    photons = convert(path, "groups", config=config, out=tmp_path / "photons.txt", text=True)
    assert photons.path == tmp_path / "photons.txt"
    lines = photons.path.read_text().splitlines()
    assert len(lines) == photons.records == 6
    assert lines[0].split("\t")[:2] == ["1", "0"]
    assert lines[0].split("\t")[4] == "1"


def test_settings_may_be_given(tmp_path: Path, config: Path) -> None:
    path = record(tmp_path / "run", [pair_frames(1, 3)])
    narrow = ProcessingSettings(coincidence_window_ps=5_000)
    assert convert(path, "coincidences", config=config, out=tmp_path / "p", settings=narrow).records == 0


def test_mode_clock_and_trigger_unit_come_from_the_recording(tmp_path: Path, config: Path) -> None:
    words = pair_frames(1, 2)
    charge = record(tmp_path / "charge", [words], all_charge=True)
    assert convert(charge, "groups", config=config, out=tmp_path / "a").energy_unit == "clock"
    slow = record(tmp_path / "slow", [words], frequency_hz=100_000_000)
    fast = record(tmp_path / "fast", [words])
    slow_hits = events(convert(slow, "singles", config=config, out=tmp_path / "b").path, "singles")
    fast_hits = events(convert(fast, "singles", config=config, out=tmp_path / "c").path, "singles")
    np.testing.assert_allclose(slow_hits["time_ps"], 2 * fast_hits["time_ps"], atol=2)
    unit = record(tmp_path / "unit", [words], trigger_id=0)
    for vendor in (False, True):
        done = convert(unit, "coincidences", config=config, out=tmp_path / f"d{vendor}", vendor_compatible=vendor)
        assert done.records == 0
        assert done.account.hits == 6
    modes = table("acquisition_mode", [(0, 0, chip, c, chip) for chip in (0, 1) for c in range(8)])
    mixed = record(tmp_path / "mixed", [words], mixed=True, modes=modes)
    done = convert(mixed, "singles", config=config, out=tmp_path / "e")
    assert done.energy_unit == "arbitrary"
    assert done.account.hits_kept == 6


def test_damage_is_passed_over_and_told(tmp_path: Path, config: Path) -> None:
    path = record(tmp_path / "run", [pair_frames(1, 50)])
    data = bytearray(path.read_bytes())
    del data[-100:]
    path.write_bytes(data)
    done = convert(path, "coincidences", config=config, out=tmp_path / "p")
    assert 0 < done.records < 50
    assert done.damages


def test_an_empty_recording_gives_an_empty_file(tmp_path: Path, config: Path) -> None:
    path = record(tmp_path / "run", [])
    done = convert(path, "groups", config=config, out=tmp_path / "p")
    assert (done.records, done.path.stat().st_size, done.account.frames) == (0, 0, 0)


def test_wrong_use_is_refused(tmp_path: Path, config: Path) -> None:
    path = record(tmp_path / "run", [pair_frames(1, 2)])
    with pytest.raises(BadInputError, match="cannot convert to 'hits'"):
        convert(path, "hits", config=config, out=tmp_path / "p")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="cannot be opened"):
        convert(tmp_path / "nothing.rawf", "groups", config=config, out=tmp_path / "p")
    with pytest.raises(BadInputError, match="cannot be written"):
        convert(path, "groups", config=config, out=tmp_path / "no" / "p")
    with pytest.raises(BadInputError, match="does not exist"):
        convert(path, "groups", config=tmp_path / "none.ini", out=tmp_path / "p")
