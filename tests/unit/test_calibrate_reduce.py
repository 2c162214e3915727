"""Frames to points: which frames belong to a point, and that nothing is counted twice; what a new table changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from petqc.calibrate import reduce
from petqc.calibrate.changes import changes
from petqc.calibrate.reduce import PointCollector, TakenPoint, take_events
from petqc.formats.petsys_frames import pack_frame
from petqc.formats.petsys_tables import TABLES

MODULO = 1 << 36


def frames(*given: tuple[int, list[int]]) -> np.ndarray:
    return np.concatenate([pack_frame(frame % MODULO, words) for frame, words in given])


def collected(*blocks: np.ndarray, first: int, span: int) -> tuple[list[TakenPoint], PointCollector]:
    taken: list[TakenPoint] = []
    collector = PointCollector(taken.append)
    collector.begin(0.25, 1.0, first % MODULO, span)
    for block in blocks:
        collector.write(block)
    return taken, collector


@pytest.mark.parametrize("first", [100, MODULO - 2])
def test_a_point_has_the_events_of_its_frames_and_no_others(first: int) -> None:
    blocks = [
        frames((first - 1, [9]), (first, [7, 7, 5])),
        frames((first + 1, [])),
        frames((first + 2, [7]), (first + 3, [9]), (first + 4, [])),
    ]
    (point,), collector = collected(*blocks, first=first, span=3)
    assert_array_equal(point.point.words, np.array([5, 7], np.uint64))
    assert_array_equal(point.point.counts, np.array([1, 3], np.int32))
    assert (point.point.step1, point.point.step2) == (0.25, 1.0)
    assert (point.frames, point.events) == (3, 4)
    assert (point.first_frame, point.last_frame) == (first % MODULO, (first + 2) % MODULO)
    assert collector.frames_recorded == 6


def test_a_point_ends_when_a_later_frame_comes_and_says_what_it_lacks() -> None:
    taken, _ = collected(frames((10, [1]), (11, [1])), first=10, span=4)
    assert taken == []
    (point,), _ = collected(frames((10, [1]), (11, [1])), frames((40, [2])), first=10, span=4)
    assert (point.frames, point.events) == (2, 2)


def test_a_point_never_begins_before_frames_that_are_past() -> None:
    taken, collector = collected(frames((10, [1])), first=10, span=1)
    collector.write(frames((11, [1]), (12, [1])))
    collector.begin(0.5, 1.0, 11, 2)
    collector.write(frames((13, [2]), (14, [2])))
    assert [p.first_frame for p in taken] == [10, 13]
    assert_array_equal(taken[1].point.words, np.array([2], np.uint64))


def test_what_is_held_of_a_point_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "MOST_HELD", 10)
    blocks = [frames((k, [3, k % 2, 3])) for k in range(200)]
    (point,), collector = collected(*blocks, first=0, span=200)
    assert_array_equal(point.point.words, np.array([0, 1, 3], np.uint64))
    assert_array_equal(point.point.counts, np.array([100, 100, 400], np.int32))
    assert not collector._held


def test_the_kernel_equals_its_plain_twin() -> None:
    random = np.random.default_rng(5)
    words = frames(*((k, random.integers(0, 50, random.integers(0, 4)).tolist()) for k in range(90, 160)))
    results = []
    for function in (take_events, take_events.py_func):
        out, result = np.zeros(words.size, np.uint64), np.zeros(5, np.int64)
        function(words, 100, 37, out, result)
        results.append((out.tolist(), result.tolist()))
    assert results[0] == results[1]


def tdc_line(channel: int, branch: int, **changed: float) -> tuple[object, ...]:
    values = {"t0": 0.0, "a0": 10.0, "a1": 180.0, "a2": -2.0, **changed}
    return (0, 0, 1, channel, 0, branch, *values.values())


def test_a_shift_that_the_convention_leaves_open_is_no_change() -> None:
    dtype = TABLES["tdc"].dtype
    old = np.array([tdc_line(c, b) for c in range(4) for b in (0, 1)], dtype)
    new = np.array([tdc_line(c, b, t0=0.3) for c in range(5) for b in (0, 1)], dtype)
    time, step = changes("tdc", old, new)
    assert (time.n, time.n_new, time.n_gone) == (8, 2, 0)
    assert time.largest == pytest.approx(0.0, abs=0.01)
    assert step.largest == 0.0
    new["t0"][2] += 0.01  # 50 ps of channel 1, T branch, against the mean of four
    time, _ = changes("tdc", old, new)
    assert time.largest == pytest.approx(37.5, abs=0.1)
    assert time.lines[0][0] == "channel:0.0.1.1 TAC 0 T branch"
    assert changes("tdc", None, new)[0].median is None


def test_every_kind_of_table_can_be_compared() -> None:
    for kind, form in TABLES.items():
        table = np.zeros(1, form.dtype)
        for change in changes(kind, table, table):
            assert change.n == 1
            assert change.document()["table"] == kind
