"""Kernels of the vendor-compatible mode, and those that write results, against plain twins.

Whole events of the vendor-compatible mode are compared with the vendor's own in tests/golden.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc.calibration.charge import code_of_time, time_of_code_newton
from petqc.processing import event_kernels as ek
from petqc.processing import pair_kernels as pk
from petqc.processing import vendor_kernels as vk


def edges_twin(frames: list[tuple[int, int]], capacity: int, large: int, *, closing: bool) -> list[int]:
    """Edges of buffers for (id, number of events) of frames with events."""
    edges, filled, room, begin, at = [0], 0, 0, 0, 0
    for number, n in frames:
        if filled and (filled + n > room or abs(number - begin) > 1 << 32):
            edges.append(at)
            filled = 0
        if not filled:
            begin, room = number, (n // 1024 + 1) * 1024 if n > large else capacity
        filled += n
        at += n
    if closing and filled:
        edges.append(at)
    return edges


@settings(deadline=None, max_examples=100)
@given(
    frames=st.lists(st.tuples(st.sampled_from([1, 2, 1 << 31, (1 << 32) + 1]), st.integers(1, 12)), max_size=30),
    closing=st.booleans(),
    large=st.sampled_from([5, 20]),
)
def test_edges_of_buffers(frames: list[tuple[int, int]], large: int, *, closing: bool) -> None:
    numbers = np.cumsum([step for step, _ in frames]).tolist()
    counts = [n for _, n in frames]
    ids = np.repeat(np.array(numbers, np.int64), counts)
    wanted = edges_twin(list(zip(numbers, counts, strict=True)), 15, large, closing=closing)
    assert vk.buffer_edges(ids, closing, 15, large).tolist() == wanted


@pytest.mark.parametrize(("n", "capacity"), [(2048, 3072), (2049, 3072), (3072, 4096), (5000, 5120)])
def test_a_frame_larger_than_usual_gets_a_larger_buffer(n: int, capacity: int) -> None:
    frames = np.concatenate([np.full(n, 1), np.arange(2, capacity - n + 5)])
    assert vk.buffer_edges(frames, False, 3072, 2048).tolist() == [0, capacity]


def test_newton_steps_bit_for_bit() -> None:
    rng = np.random.default_rng(4)
    p = np.zeros((400, 10), np.float32)
    for power, span in enumerate(((60, 120), (2, 3.5), (-2e-3, -1e-4), (-4e-6, 1e-6))):
        p[:, power] = rng.uniform(*span, 400)
    truth = rng.uniform(20, 400, 400)
    code = np.rint(code_of_time(truth, p.astype(float))).astype(np.float32)
    start = (truth - rng.uniform(-20, 150, 400)).astype(np.float32)
    row = rng.permutation(400).astype(np.uint32)
    wanted = time_of_code_newton(code[row], start[row], p[row])
    for n in (0, 1, vk.LANES - 1, vk.LANES, 400):
        ours = np.full(400, -7, np.float32)
        vk.charge_times(code[row], start[row], row, n, p, ours)
        np.testing.assert_array_equal(ours[:n], wanted[:n])
        assert (ours[n:] == -7).all()


def test_one_curve_without_an_answer_does_not_change_the_others() -> None:
    p = np.zeros((vk.LANES, 10), np.float32)
    p[:, 0], p[:, 1], p[:, 2] = 60, 2, -2e-3
    p[3] = 0  # flat: its steps never become small
    code, start = np.full(vk.LANES, 200, np.float32), np.linspace(10, 90, vk.LANES, dtype=np.float32)
    row, ours = np.arange(vk.LANES, dtype=np.uint32), np.zeros(vk.LANES, np.float32)
    vk.charge_times(code, start, row, vk.LANES, p, ours)
    others = np.arange(vk.LANES) != 3
    np.testing.assert_array_equal(ours[others], time_of_code_newton(code, start, p)[others])


def test_events_are_copied_with_their_frame() -> None:
    words = np.array([5 << 36 | 7, 3, 11, 12, 13, 2 << 36 | 8, 0, 3 << 36 | 9, 1, 14], np.uint64)
    events, frames = np.zeros(4, np.uint64), np.zeros(4, np.int64)
    vk.copy_events(words, np.array([0, 7]), 2, events, frames)
    assert events.tolist() == [11, 12, 13, 14]
    assert frames.tolist() == [7, 7, 7, 9]


def test_singles_in_the_energy_window_are_kept_for_pairing() -> None:
    rng = np.random.default_rng(5)
    n = 200
    time, energy = np.sort(rng.integers(0, 1000, n)), rng.uniform(0, 100, n).astype(np.float32)
    channel, hits = rng.integers(0, 10, n).astype(np.int32), rng.integers(1, 9, n).astype(np.uint8)
    kept = [np.zeros(n + 4, column.dtype) for column in (time, energy, channel, hits)]
    end = ek.select_singles(time, energy, channel, hits, 25.0, float(energy[7]), 4, *kept)
    inside = (energy >= 25) & (energy <= energy[7])
    assert end == 4 + inside.sum()
    for column, waiting in zip((time, energy, channel, hits), kept, strict=True):
        np.testing.assert_array_equal(waiting[4:end], column[inside])
        assert not waiting[:4].any()


@pytest.mark.parametrize("shift", [0, 1000])
def test_pairs_have_the_higher_region_as_side_a(shift: int) -> None:
    time, energy = np.array([10, 20, 30]), np.array([1, 2, 3], np.float32)
    channel, hits = np.array([0, 1, 2], np.int32), np.array([4, 5, 6], np.uint8)
    region, channel_of = np.array([1, 0, 1], np.int32), np.array([100, 101, 102], np.int32)
    pair = np.array([[0, 1], [1, 2], [0, 2]], np.int32)
    out = [np.zeros(4, t) for t in ("i8", "i8", "f4", "f4", "i4", "i4", "u1", "u1")]
    pk.give_pairs(pair, 3, shift, time, energy, channel, hits, region, channel_of, 1, *out)
    rows = [tuple(column[i].item() for column in out) for i in (1, 2, 3)]
    assert rows == [
        (10 + shift, 20, 1, 2, 100, 101, 4, 5),
        (30, 20 + shift, 3, 2, 102, 101, 6, 5),
        (30, 10 + shift, 3, 1, 102, 100, 6, 4),
    ]
