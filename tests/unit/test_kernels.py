"""Each compiled kernel against a plain twin, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc.calibration import charge_kernels as ck
from petqc.calibration.charge import charge_table, code_of_time, slope_at_time, time_of_code
from petqc.calibration.energy import kev_of_charge, linearised
from petqc.calibration.tdc import decoded_fine, interval_of_code
from petqc.processing import event_kernels as ek
from petqc.processing import hit_kernels as k
from petqc.processing import pair_kernels as pk
from petqc.processing.row_table import row_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = 1 << 62


def words_of(frames: list[tuple[int, int, bool]], rng: np.random.Generator) -> NDArray[np.uint64]:
    """Frames (id, number of events, lost flag) with random event words."""
    parts = []
    for frame, n, lost in frames:
        head = (n + 2) << 36 | frame % (1 << 36)
        parts.append(np.array([head, n | (1 << 16 if lost else 0)], np.uint64))
        parts.append(rng.integers(0, 1 << 64, n, np.uint64, endpoint=False))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def fresh_state() -> NDArray[np.int64]:
    state = np.zeros(k.N_STATE, np.int64)
    state[[k.S_LAST, k.S_FIRST, k.S_BEFORE]] = -1
    return state


def index_twin(frames: list[tuple[int, int, bool]], *, compacted: bool, keep_late: bool) -> dict[str, Any]:
    """The account and the list of frames, in Python, without the 36-bit counter."""
    account = dict.fromkeys(("frames", "lost", "partly", "empty", "late", "hits", "late_hits"), 0)
    listed = []
    last, kind = None, ""
    for frame, n, lost in frames:
        account["hits"] += n
        if last is not None and frame <= last:
            account["late"] += 1
            account["late_hits"] += n
            if keep_late and n:
                listed.append(frame)
            continue
        gap = 0 if last is None else frame - last - 1
        account["frames"] += gap + 1
        account["lost" if kind == "lost" or not compacted else "empty"] += gap
        kind = "hits" if n else ("lost" if lost else "empty")
        if n:
            account["partly"] += lost
            listed.append(frame)
        else:
            account[kind] += 1
        last = frame
    return {**account, "listed": listed}


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(-2, 5), st.integers(0, 4), st.booleans()), max_size=40),
    start=st.sampled_from([3, (1 << 36) - 30, (1 << 36) * 2 - 20]),
    most=st.integers(1, 20),
    compacted=st.booleans(),
    keep_late=st.booleans(),
)
def test_walk_over_frames(
    steps: list[tuple[int, int, bool]],
    start: int,
    most: int,
    *,
    compacted: bool,
    keep_late: bool,
) -> None:
    at, frames = start, []
    for step, n, lost in steps:
        at = max(at + step, 0)
        frames.append((at, n, lost))
    words = words_of(frames, np.random.default_rng(1))
    state = fresh_state()
    state[k.S_EPOCH] = start >> 36 << 36
    position, frame_id = np.empty(5, np.int64), np.empty(5, np.int64)
    begin, listed = 0, []
    while begin < words.size:
        n_listed, n_hits, begin, malformed = k.index_frames(
            words, begin, most, compacted, keep_late, state, position, frame_id
        )
        assert not malformed
        counts = [int(words[p + 1] & np.uint64(0x7FFF)) for p in position[:n_listed]]
        assert n_hits == sum(counts)
        assert n_hits <= most or n_listed == 1
        listed += frame_id[:n_listed].tolist()
    twin = index_twin(frames, compacted=compacted, keep_late=keep_late)
    assert listed == twin["listed"]
    found = [k.S_FRAMES, k.S_LOST, k.S_PARTLY_LOST, k.S_EMPTY, k.S_LATE, k.S_HITS, k.S_LATE_HITS]
    assert state[found].tolist() == [
        twin[name] for name in ("frames", "lost", "partly", "empty", "late", "hits", "late_hits")
    ]
    if frames:
        assert state[k.S_FIRST] == frames[0][0]


def test_a_frame_from_before_the_wrap_is_late_not_days_ahead() -> None:
    words = words_of(
        [((1 << 36) - 1, 1, False), (1 << 36, 1, False), ((1 << 36) - 1, 1, False)], np.random.default_rng(1)
    )
    position, frame_id, state = np.empty(5, np.int64), np.empty(5, np.int64), fresh_state()
    k.index_frames(words, 0, 100, True, True, state, position, frame_id)
    assert frame_id[:3].tolist() == [(1 << 36) - 1, 1 << 36, (1 << 36) - 1]
    assert state[[k.S_LATE, k.S_LATE_HITS, k.S_FRAMES]].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    "words",
    [
        [2 << 36],  # one word of a header
        [3 << 36, 1],  # its event is missing
        [4 << 36, 1, 0, 0],  # size and number of events disagree
        [1 << 36, 0],
    ],
)
def test_walk_stops_at_what_is_no_frame(words: list[int]) -> None:
    good = words_of([(5, 2, False)], np.random.default_rng(1))
    stream = np.concatenate([good, np.array(words, np.uint64)])
    position, frame_id = np.empty(5, np.int64), np.empty(5, np.int64)
    answer = k.index_frames(stream, 0, 100, True, False, fresh_state(), position, frame_id)
    assert answer == (1, 2, 4, 1)


def rising_twin(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last clock of the rise around 0, the whole grid at a time."""
    grid = np.arange(ck.T_LOW_CLOCKS, ck.T_HIGH_CLOCKS + 1.0)[:, None]
    origin = int(-ck.T_LOW_CLOCKS)
    slope, code = slope_at_time(grid, p), code_of_time(grid, p)
    flat = slope < ck.FLAT * slope[origin]
    above = (flat | (code > ck.CODE_HIGHEST))[origin:]
    below = (flat | (code < ck.CODE_LOWEST))[origin::-1]
    n_above = np.where(above.any(0), np.maximum(above.argmax(0) - 1, 1), above.shape[0] - 1)
    n_below = np.where(below.any(0), np.maximum(below.argmax(0) - 1, 0), below.shape[0] - 1)
    return -n_below.astype(float), n_above.astype(float)


def test_charge_curves() -> None:
    """Curves that bend either way, with and without an end of the rise on the grid, by the kernels and by arrays."""
    rng = np.random.default_rng(8)
    p = np.zeros((700, 10))
    for power, span in enumerate(((-200, 1200), (1e-3, 4), (-5e-3, 3e-3), (-6e-6, 6e-6), (-1e-9, 1e-9))):
        p[:, power] = rng.uniform(*span, 700)
    p[:20, 1:] *= 1e-3  # rise so slowly that they do not end
    by_power = np.ascontiguousarray(p.T)
    low, high = np.empty(700), np.empty(700)
    ck.rising_range(by_power, low, high)
    wanted_low, wanted_high = rising_twin(p)
    np.testing.assert_array_equal(low, wanted_low)
    np.testing.assert_array_equal(high, wanted_high)
    assert {low.min(), low.max(), high.min(), high.max()} == {-64.0, 0.0, 1.0, 1024.0}
    code = rng.uniform(-100.0, 1100.0, (5, 700))
    found = np.empty_like(code)
    ck.halve(by_power, low, high, code, found)
    left, right = (np.broadcast_to(end, code.shape).copy() for end in (low, high))
    for _ in range(ck.HALVINGS):
        middle = 0.5 * (left + right)
        above = code_of_time(middle, p) >= code
        left, right = np.where(above, left, middle), np.where(above, middle, right)
    np.testing.assert_array_equal(found, right)


class Detector:
    """Random calibrations of two chips, with every kind of gap."""

    def __init__(self, seed: int, *, charge: bool, linear: bool, kev: bool) -> None:
        rng = np.random.default_rng(seed)
        n = 2 * 256
        self.chip_row = np.full(1 << 16, k.CHIP_UNKNOWN, np.int32)
        self.chip_row[[3, 65535]] = 0, 256
        self.chip_row[70] = k.CHIP_TRIGGER
        tdc = np.stack([rng.uniform(*span, (2, n)) for span in ((60, 110), (150, 250), (-20, -0.01), (-0.4, 0.4))])
        self.tdc = np.ascontiguousarray(tdc.transpose(2, 1, 0).reshape(n, 8), np.float32)
        self.shift_ps = rng.uniform(-3000, 3000, n)
        p = np.zeros((n, 10))
        for power, span in enumerate(((60, 120), (2, 3.5), (-2e-3, -1e-4), (-3e-6, 0))):
            p[:, power] = rng.uniform(*span, n)
        self.curves = charge_table(p.astype(np.float32))
        self.linear = np.stack([rng.uniform(*s, n) for s in ((5, 9), (1, 1.05), (0.9, 1.05), (0.2, 0.5))], axis=1)
        self.linear = self.linear.astype(np.float32)[: n if linear else 0]
        self.kev = np.stack([rng.uniform(2, 5, n // 4), rng.uniform(100, 400, n // 4)], axis=1).astype(np.float32)
        self.kev[::3, 1] = np.inf
        self.kev = self.kev[: n // 4 if kev else 0]
        states = [k.ROW_CHARGE if charge else k.ROW_TOT] * 8 + [k.ROW_DROP + k.D_MAP, k.ROW_DROP + k.D_TDC]
        self.state = rng.choice(np.array(states, np.uint8), n)

    def twin(self, words: NDArray[np.uint64], frame: NDArray[np.int64], period_ps: float) -> dict[str, Any]:
        """Events of known frames to hits, whole arrays at a time."""
        tally = np.zeros(k.N_DROP, np.int64)
        chip = self.chip_row[(words >> np.uint64(48)).astype(np.int64)]
        tally[k.D_TRIGGER] += (chip == k.CHIP_TRIGGER).sum()
        tally[k.D_TDC] += (chip == k.CHIP_UNKNOWN).sum()
        words, frame, chip = words[chip >= 0], frame[chip >= 0], chip[chip >= 0]
        row = chip + (words >> np.uint64(40)).astype(np.int64) % 256
        state = self.state[row]
        np.add.at(tally, state[state >= k.ROW_DROP].astype(int) - k.ROW_DROP, 1)
        good = state < k.ROW_DROP
        words, frame, row, state = words[good], frame[good], row[good], state[good]
        coarse = (words >> np.uint64(30)).astype(np.int64) & 1023
        end = (words >> np.uint64(20)).astype(np.int64) & 1023
        end = np.where(end - coarse < -256, end + 1024, end)
        t_fine, e_fine = decoded_fine(words >> np.uint64(10)), decoded_fine(words)
        q = interval_of_code(t_fine.astype(np.float32), *self.tdc[row, :3].T)
        relative = (coarse - q.astype(np.float64)) * period_ps - self.shift_ps[row]
        q_end = interval_of_code(e_fine.astype(np.float32), *self.tdc[row, 4:7].T)
        end_time = end - q_end.astype(np.float64) - self.tdc[row, 7].astype(np.float64)
        tot = (end_time * (period_ps * 1e-3) - relative * 1e-3).astype(np.float32)
        t_eq = time_of_code(e_fine.astype(np.float32), row, self.curves)
        charge = (t_eq.astype(np.float64) - (end - relative / period_ps)).astype(np.float32)
        is_tot = state == k.ROW_TOT
        curve = np.isnan(q) | (is_tot & np.isnan(q_end))
        ends = self.curves.ends[row]
        beyond = ~is_tot & ~curve & ((e_fine < ends[:, 3]) | (e_fine > ends[:, 4]))
        if self.linear.size:
            charge = np.where(is_tot, charge, linearised(charge, *self.linear[row].T))
        energy = np.where(is_tot, tot, charge)
        if self.kev.size:
            energy = kev_of_charge(energy, *self.kev[row // 4].T)
        saturated = ~curve & ~np.isfinite(energy)
        kept = ~curve & ~saturated
        tally[[k.D_CURVE, k.D_SATURATED, k.D_BEYOND]] += curve.sum(), saturated.sum(), beyond.sum()
        tally[k.D_KEPT] += kept.sum()
        start = frame * round(period_ps * 1024)
        with np.errstate(invalid="ignore"):
            time = start + np.floor(relative + 0.5).astype(np.int64)
        return {"time": time[kept], "energy": energy[kept], "channel": row[kept] // 4, "tally": tally}


@pytest.mark.parametrize("charge", [False, True])
@pytest.mark.parametrize(("linear", "kev"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("first_frame", [0, (1 << 36) * 3])
def test_decoding_and_calibration(first_frame: int, *, charge: bool, linear: bool, kev: bool) -> None:
    detector = Detector(5, charge=charge, linear=linear, kev=kev)
    rng = np.random.default_rng(6)
    counts = rng.integers(1, 40, 200)
    words = words_of([(i, int(n), False) for i, n in enumerate(counts)], rng)
    position = np.concatenate([[0], np.cumsum(counts + 2)[:-1]]).astype(np.int64)
    frames = first_frame + np.cumsum(rng.integers(1, 5, counts.size))
    events = np.concatenate([np.arange(p + 2, p + 2 + n) for p, n in zip(position, counts, strict=True)])
    chips = rng.choice(np.array([3, 65535, 70, 9], np.uint64), events.size, p=[0.48, 0.48, 0.02, 0.02])
    words[events] = words[events] & np.uint64((1 << 48) - 1) | chips << np.uint64(48)
    n = events.size + 3
    time, energy, channel = np.full(n, -1, np.int64), np.zeros(n, np.float32), np.zeros(n, np.int32)
    tally = np.zeros(k.N_DROP, np.int64)
    table = row_table(detector.state, detector.tdc, detector.shift_ps, detector.curves.ends, detector.kev)
    assert table.rows.ctypes.data % 64 == 0
    out = k.decode_hits(
        words, position, frames, counts.size, 5000.0, detector.chip_row, table.rows, table.shift_ps, table.has_kev,
        detector.curves.cubics, detector.linear, 3, time, energy, channel, tally,
    )  # fmt: skip
    twin = detector.twin(words[events], np.repeat(frames, counts), 5000.0)
    assert (time[:3] == -1).all()
    np.testing.assert_array_equal(time[3:out], twin["time"])
    np.testing.assert_array_equal(channel[3:out], twin["channel"])
    np.testing.assert_array_equal(tally, twin["tally"])
    if linear or kev:  # a library's power and logarithm may differ in the last bit
        np.testing.assert_allclose(energy[3:out], twin["energy"], rtol=3e-7)
    else:
        np.testing.assert_array_equal(energy[3:out], twin["energy"])
    assert tally[k.D_KEPT] > 0.2 * events.size


def test_saturation_is_undone_as_a_library_would() -> None:
    rng = np.random.default_rng(11)
    limit = rng.uniform(50, 3000, 20_000).astype(np.float32)
    limit[::7] = np.inf
    kev = rng.uniform(2, 9, limit.size).astype(np.float32)
    share = np.concatenate([rng.uniform(-9, 1.2, 15_000), rng.choice([-1, 1], 4000) * 10 ** rng.uniform(-12, -1, 4000)])
    share = np.concatenate([share, 1 - 10 ** rng.uniform(-7, -1, 997), [0.0, 1.0, np.nan]])
    charge = (share * np.where(np.isinf(limit), 500, limit)).astype(np.float32)
    energy = charge.copy()
    k.undo_saturation(energy, kev, limit, energy.size, np.empty((3, energy.size)))
    np.testing.assert_allclose(energy, kev_of_charge(charge, kev, limit), rtol=1.2e-7)  # of the rounding to float32


def sorted_by_kernel(time: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    n = time.size
    time, energy, channel = time.copy(), np.arange(n, dtype=np.float32), np.arange(n, dtype=np.int32)
    ek.sort_hits(
        time, energy, channel, n, np.empty(n, np.int64), np.empty(n, np.int64), np.empty(2 * n + 2, np.int32),
        np.empty(n, np.float32), np.empty(n, np.int32),
    )  # fmt: skip
    return time, energy, channel


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 1000), max_size=300),
    st.sampled_from([1, 5000, 1 << 30, 1 << 45]),
    st.sampled_from([0, -(1 << 40), 1 << 61]),
)
def test_sorting_keeps_the_order_of_equals(times: list[int], scale: int, start: int) -> None:
    time = np.array(times, np.int64) * scale + start
    order = np.argsort(time, kind="stable")
    ours = sorted_by_kernel(time)
    np.testing.assert_array_equal(ours[0], time[order])
    np.testing.assert_array_equal(ours[1], order.astype(np.float32))
    np.testing.assert_array_equal(ours[2], order.astype(np.int32))


def test_late_hits_are_inserted_unless_there_are_too_many() -> None:
    rng = np.random.default_rng(9)
    n = 2000
    for disorder, done in ((3, True), (1000, False)):
        time = np.arange(n) + rng.integers(0, disorder, n)
        columns = [time, np.arange(n, dtype=np.float32), np.arange(n, dtype=np.int32)]
        wanted = [column[np.argsort(time, kind="stable")] for column in columns]
        assert ek.insert_late_hits(*columns, n) == done
        if done:
            for ours, theirs in zip(columns, wanted, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("gap_ps", [1_000_000, (1 << 40) - 100_000, 1 << 41])
def test_sorting_of_crowded_times_with_a_gap(gap_ps: int) -> None:
    """All but one hit fall into one bucket: this must neither be slow nor wrong."""
    rng = np.random.default_rng(3)
    time = np.append(rng.integers(0, 50_000, 100_000), gap_ps)
    order = np.argsort(time, kind="stable")
    np.testing.assert_array_equal(sorted_by_kernel(time)[2], order)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_merge_sort(n: int) -> None:
    key = np.random.default_rng(n).integers(-50, 50, n)
    wanted = np.sort(key)
    ek.merge_sort(key, n, np.empty(n, np.int64))
    np.testing.assert_array_equal(key, wanted)


REGION = np.array([0, 0, 1, 1, 2, -1], np.int32)
XYZ = np.array([[0, 0, 0], [3, 0, 0], [0, 0, 50], [30, 0, 50], [0, 0, 0], [0, 0, 0]], np.float32)
RELATION = np.array([[1, 2, 0], [2, 1, 1], [0, 1, 0]], np.uint8)


def group_twin(
    time: NDArray[np.int64], energy: NDArray[np.float32], channel: NDArray[np.int32], known: int, window: int, most: int
) -> tuple[list[tuple[int, float, int, int]], list[int], int]:
    """Photons, tally and first open hit, by the definition."""
    free = np.ones(time.size, bool)
    photons, tally = [], [0] * 6
    for i in range(time.size):
        if not free[i]:
            continue
        if time[i] + window >= known:
            return photons, tally, i
        seed = channel[i]
        near = np.linalg.norm(XYZ[channel] - XYZ[seed], axis=1) <= 10
        related = (REGION[channel] >= 0) & (REGION[seed] >= 0) & (RELATION[REGION[seed], REGION[channel]] & 1 > 0)
        after = np.arange(time.size) > i
        member = free & after & (time <= time[i] + window) & near & related
        member[i] = True
        free &= ~member
        at = np.flatnonzero(member)
        total = np.float32(energy[at].astype(np.float64).sum())
        strongest = at[np.argmax(energy[at])]
        reason = 2 if at.size > most else 3 if total < 2 else 4 if total > 90 else 0
        tally[reason] += 1
        if reason:
            tally[5] += at.size
        else:
            photons.append((int(time[strongest]), float(total), int(channel[strongest]), at.size))
    return photons, tally, time.size


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 60), st.sampled_from([20, 200, 2000]), st.sampled_from([0, 30, 100]), st.integers(0, 1 << 32))
def test_grouping(n: int, span: int, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, span, n))
    energy = rng.integers(0, 40, n).astype(np.float32)  # whole numbers: equals happen
    channel = rng.integers(0, REGION.size, n).astype(np.int32)
    known = int(rng.choice([FAR, span]))
    marked = channel.copy()
    out = [np.zeros(n + 1, t) for t in (np.int64, np.float32, np.int32, np.uint8)]
    tally = np.zeros(6, np.int64)
    first_open, end = ek.group_hits(
        time, energy, marked, n, known, window, 100.0, 1, 3, 2.0, 90.0, REGION, XYZ, RELATION, 1, *out, tally
    )
    photons, wanted_tally, wanted_open = group_twin(time, energy, channel, known, window, 3)
    assert [tuple(x.item() for x in row) for row in zip(*(o[1:end] for o in out), strict=True)] == photons
    assert tally.tolist() == wanted_tally
    assert first_open == wanted_open


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30), max_size=60))
def test_ordering_of_singles(times: list[int]) -> None:
    time = np.array(times, np.int64)
    n = time.size
    order = np.argsort(time, kind="stable")
    columns = [time, np.arange(n, dtype=np.float32), np.arange(n, dtype=np.int32), np.arange(n).astype(np.uint8)]
    wanted = [column[order] for column in columns]
    ek.order_singles(*columns, 0, n)
    for ours, theirs in zip(columns, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def pair_twin(
    time: NDArray[np.int64], channel: NDArray[np.int32], own: range, half: int, delay: int, *, everything: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[bool], int]:
    """Prompt pairs, delayed pairs, which of those are unambiguous, discarded prompts: from the matrix of all pairs."""
    region = REGION[channel]
    allowed = (region[:, None] >= 0) & (region[None] >= 0) & (RELATION[region[:, None], region[None]] & 2 > 0)
    later = time[None] - time[:, None]
    near = allowed & (np.abs(later) <= half) & ~np.eye(time.size, dtype=bool)
    shifted = allowed & (np.abs(later - delay) <= half)
    partners = near.sum(1)
    prompts = [(i, j) for i, j in np.argwhere(np.triu(near)).tolist() if i in own]
    kept = [(i, j) for i, j in prompts if everything or partners[i] == partners[j] == 1]
    delayed = [(i, j) for i, j in np.argwhere(shifted).tolist() if i in own]
    forward, back = shifted.sum(1), shifted.sum(0)
    alone = [bool(everything or (partners[i] == partners[j] == 0 and forward[i] == back[j] == 1)) for i, j in delayed]
    return kept, delayed, alone, len(prompts) - len(kept)


@settings(deadline=None, max_examples=150)
@given(
    n=st.integers(0, 60),
    span=st.sampled_from([50, 500, 5000]),
    seed=st.integers(0, 1 << 32),
    own_from=st.integers(0, 20),
    own_n=st.integers(0, 60),
    map_words=st.sampled_from([1, 2, 64]),
    everything=st.booleans(),
)
def test_pairing(n: int, span: int, seed: int, own_from: int, own_n: int, map_words: int, *, everything: bool) -> None:
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(-150, span, n))
    channel = rng.integers(0, REGION.size, n).astype(np.int32)
    own = range(min(own_from, n), min(own_from + own_n, n))
    prompt, delayed, alone = np.empty((2000, 2), np.int32), np.empty((2000, 2), np.int32), np.empty(2000, np.bool_)
    scratch = [*(np.full(n, 77, np.int32) for _ in range(3)), np.full(map_words, 99, np.uint64)]
    n_prompt, n_delayed, discarded, small = pk.pair_singles(
        time, channel, n, own.start, own.stop, 10, 100, REGION, RELATION, *scratch, prompt, delayed, alone, everything
    )
    wanted = pair_twin(time, channel, own, 10, 100, everything=everything)
    assert not small
    assert [tuple(x) for x in prompt[:n_prompt].tolist()] == wanted[0]
    assert [tuple(x) for x in delayed[:n_delayed].tolist()] == wanted[1]
    assert alone[:n_delayed].tolist() == wanted[2]
    assert discarded == wanted[3]


def test_pairing_says_when_there_is_no_room() -> None:
    time, channel = np.zeros(6, np.int64), np.array([0, 2, 0, 2, 0, 2], np.int32)
    scratch = [*(np.empty(6, np.int32) for _ in range(3)), np.empty(4, np.uint64)]
    pairs = np.empty((4, 2), np.int32)
    answer = pk.pair_singles(
        time,
        channel,
        6,
        0,
        6,
        10,
        100,
        REGION,
        RELATION,
        *scratch,
        pairs,
        pairs.copy(),
        np.empty(4, np.bool_),
        True,
    )
    assert answer[3] == 1
