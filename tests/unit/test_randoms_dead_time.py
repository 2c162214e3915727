"""Randoms two ways and dead time, on streams of singles drawn from rates that are known."""

from __future__ import annotations

import numpy as np
import pytest

from petqc import event_times
from petqc.channel_map import Topology
from petqc.checks import get_check
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.event_times import EventTimes
from petqc.events import Coincidences, Singles
from petqc.fits.dead_time import AsleepError, dead_time
from petqc.fits.randoms import module_ratios, ratio
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.processing import Processed
from petqc.qc_input import QcInput, RunContext

MODULES = 5
CHANNELS = np.concatenate([np.arange(4) + 256 * m for m in range(MODULES)]).astype(np.int32)
TOPOLOGY = Topology.from_channels(CHANNELS)
SECONDS = 20.0
WINDOW_PS = 20_000


def stream(rng, rate_hz, shape=lambda t: 1.0 + 0.0 * t):
    """Singles of all channels, the rate of each module times a shape between 0 and 1 over the run."""
    parts = []
    for module in range(MODULES):
        at = rng.uniform(0.0, SECONDS, rng.poisson(rate_hz * SECONDS))
        at = at[rng.random(at.size) < shape(at / SECONDS)]
        parts.append(np.stack([at * 1e12, rng.choice(CHANNELS[4 * module : 4 * module + 4], at.size)]))
    time, channel = np.concatenate(parts, axis=1).astype(np.int64)
    order = np.argsort(time)
    n = time.size
    return Singles(
        time[order], np.full(n, 511.0, np.float32), channel[order].astype(np.int32), np.ones(n, np.uint8), "kev"
    )


def counted(singles, delayed=None, feeds=1):
    h = QcHistograms(TOPOLOGY, "kev", HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=WINDOW_PS))
    empty = Processed.empty("kev")
    for part in np.array_split(np.arange(len(singles)), feeds):
        s = Singles(*(getattr(singles, k)[part] for k in ("time_ps", "energy", "channel", "n_hits")), "kev")
        h.add(Processed(s, empty.prompts, empty.delayed, empty.delayed_unambiguous))
    if delayed is not None:
        h.add_delayed(delayed)
    return h


def delayed_pairs(rng, per_pair):
    """Pairs of the delayed window, by pair of modules."""
    a = np.concatenate([np.full(n, CHANNELS[4 * i]) for (i, _), n in per_pair.items()]).astype(np.int32)
    b = np.concatenate([np.full(n, CHANNELS[4 * j]) for (_, j), n in per_pair.items()]).astype(np.int32)
    n = a.size
    time, one, e = np.zeros(n, np.int64), np.ones(n, np.uint8), np.full(n, 511.0, np.float32)
    return Coincidences(time + rng.integers(-9000, 9000, n), time, e, e, a, b, one, one, "kev")


def ask(h, check="randoms_delayed", **context):
    q = QcInput(h, RunContext("r", elapsed_s=SECONDS, live_time_s=SECONDS, **context))
    return get_check(check).function(q)


def test_rates_that_change_do_not_look_like_noise():
    rng = np.random.default_rng(1)
    for shape, together in (
        (lambda t: np.exp(-3.0 * t), (1 - np.exp(-6)) / 6.0),  # a source that decays away
        (lambda t: 1.0 * (t < 0.25), 0.25),  # bias off after a quarter of the run
    ):
        both_ways = 2.0 * WINDOW_PS * 1e-12 * 20_000.0**2 * SECONDS * together
        h = counted(stream(rng, 20_000.0, shape), delayed_pairs(rng, {(1, 0): round(both_ways)}))
        pair = next(r for r in ask(h).results if " - " in r.node)
        assert pair.value == pytest.approx(1.0, abs=0.03)


def test_short_bursts_stay_what_they_are():
    def bursts(t):
        return 1.0 * ((t * SECONDS * 1000.0) % 10.0 < 1.0)  # 1 ms of every 10 ms

    times = counted(stream(np.random.default_rng(2), 20_000.0, bursts)).times
    n = times.in_slices.astype(float)
    assert times.together_s(3, 1) * 19.8 / (n[3] * n[1]) == pytest.approx(1.0, abs=0.02)


def test_filling_does_not_depend_on_feeds_and_equals_python():
    rng = np.random.default_rng(3)
    singles = stream(rng, 400.0)
    whole, parts = counted(singles), counted(singles, feeds=7)
    plain = EventTimes(len(TOPOLOGY), MODULES)
    event_times.fill_times.py_func(
        singles.time_ps, singles.channel, singles.energy, whole._index, TOPOLOGY.module, 425.0, 650.0, plain._state,
        plain._now, plain._last_ps, plain._n_slices, plain.in_slices, plain.products, plain.gaps,
    )  # fmt: skip
    for other in (parts.times, plain):
        np.testing.assert_array_equal(whole.times.products, other.products)
        np.testing.assert_array_equal(whole.times.gaps, other.gaps)
        np.testing.assert_array_equal(whole.times.in_slices, other.in_slices)
        assert whole.times.n_slices == other.n_slices == 198  # the first and the last slice are not whole
    module = TOPOLOGY.module[TOPOLOGY.index_of(singles.channel)]
    slices = np.zeros((200, MODULES))
    np.add.at(slices, (singles.time_ps // event_times.SLICE_PS, module), 1)
    np.testing.assert_allclose(np.tril(slices[1:-1].T @ slices[1:-1], -1), whole.times.products)


def test_a_module_explains_its_pairs():
    rng = np.random.default_rng(4)
    expected = WINDOW_PS * 1e-12 * 20_000.0**2 * SECONDS
    found = {
        (i, j): rng.poisson(2 * expected * (1.3 if 2 in (i, j) else 1.0)) for i in range(MODULES) for j in range(i)
    }
    out = ask(counted(stream(rng, 20_000.0), delayed_pairs(rng, found)))
    modules = [r for r in out.results if r.node in TOPOLOGY.module_nodes]
    assert [r.node for r in modules if r.status is not Status.PASS] == [TOPOLOGY.module_nodes[2]]
    odd = modules[2]
    assert odd.value == pytest.approx(1.3, abs=4 * odd.uncertainty)
    assert odd.method.endswith("of this module alone")
    assert odd.reason.startswith("pairs without this module: 1.0") or "0.9" in odd.reason
    assert sum(" - " in r.node for r in out.results) == 10
    few = ask(counted(stream(rng, 20_000.0), delayed_pairs(rng, dict.fromkeys(found, 3))))
    assert not any(" - " in r.node for r in few.results)
    assert few.notes[0].startswith("Randoms: 10 of 10 pairs of modules have too few delayed pairs")


def test_lost_frames_leave_rates_constant():
    rng = np.random.default_rng(5)
    h = counted(stream(rng, 20_000.0, lambda t: 1.0 * (t < 0.5)), delayed_pairs(rng, {(1, 0): 4000}))
    by_slice = ask(h).results[1]
    lost = ask(h, account={"frames": 1000, "frames_lost": 10}).results[1]
    assert lost.value == pytest.approx(2.0 * by_slice.value, rel=0.05)
    assert lost.method.endswith("since frames were lost")


def test_module_ratios_pull_and_bipartite():
    rng = np.random.default_rng(6)
    a, b = (np.array(x) for x in zip(*[(i, j) for i in range(8) for j in range(i)], strict=True))
    true = 1.0 + rng.normal(0.0, 0.05, 8)
    expected = rng.uniform(2.0, 60.0, a.size)
    mean = 2.0 * expected * (true[a] + true[b] - 1.0)
    found = [module_ratios(rng.poisson(mean), expected, a, b, 8) for _ in range(400)]
    pulls = np.array([(f.value - true) / f.error for f in found])
    assert all(f.alone.all() for f in found)
    assert abs(pulls.mean()) < 0.06
    assert pulls.std() == pytest.approx(1.0, abs=0.06)
    two_sides = (a >= 4) & (b < 4)
    sides = module_ratios(rng.poisson(mean)[two_sides], expected[two_sides], a[two_sides], b[two_sides], 9)
    assert not sides.alone.any()
    assert np.isnan(sides.value[8])
    assert ratio(0, 10.0) == (0.0, pytest.approx(np.sqrt(1 / 20)))


# --- dead time -------------------------------------------------------------------------------------------------------


def sleepy(rng, rate_hz, dead_ns, seconds):
    """Times of one channel that sleeps for dead_ns after each hit."""
    gaps = rng.exponential(1e12 / rate_hz, int(rate_hz * seconds)) + 1e3 * dead_ns
    return np.cumsum(gaps).astype(np.int64)


@pytest.mark.parametrize("dead_ns", [0.0, 326.0, 1400.0, 50_326.0])
def test_dead_time_is_found(dead_ns):
    rng = np.random.default_rng(7)
    pulls = []
    for _ in range(30):
        t = sleepy(rng, 4000.0, dead_ns, 100.0)
        gap = np.diff(t) // event_times.GAP_BIN_PS
        counts = np.bincount(gap[gap < event_times.GAP_BINS], minlength=event_times.GAP_BINS)
        found = dead_time(counts, t.size / (t[-1] * 1e-12))
        pulls.append((found.value_ns - dead_ns) / found.error_ns)
    assert abs(np.mean(pulls)) < 0.6
    assert 0.6 < np.std(pulls) < 1.4
    if dead_ns:
        assert dead_ns - 200 < found.first_ns < dead_ns + 400


def test_dead_time_says_what_it_cannot_tell():
    flat = np.full(event_times.GAP_BINS, 100)
    with pytest.raises(TooFewCountsError, match="400 wanted"):
        dead_time(flat // 300, 100.0)
    noisy = flat.copy()
    noisy[:5] = 1000
    with pytest.raises(FitFailedError, match="in bursts"):
        dead_time(noisy, 100.0)
    asleep = flat.copy()
    asleep[:900] = 0
    with pytest.raises(AsleepError, match="longer than can be told"):
        dead_time(asleep, 100.0)


def test_dead_time_of_a_run():
    rng = np.random.default_rng(8)
    parts = [(sleepy(rng, 9000.0, 400.0, SECONDS), c) for c in CHANNELS]
    time = np.concatenate([t for t, _ in parts])
    channel = np.concatenate([np.full(t.size, c) for t, c in parts]).astype(np.int32)
    order = np.argsort(time)
    n = time.size
    singles = Singles(time[order], np.full(n, 511.0, np.float32), channel[order], np.ones(n, np.uint8), "kev")
    out = ask(counted(singles), "dead_time", account={"hits_kept": 3 * n, "singles": 2 * n})
    whole = next(r for r in out.results if r.id == "dead_time" and r.node == "scanner")
    assert whole.value == pytest.approx(100.0 * 1.5 * 9000.0 * 400e-9, abs=4 * whole.uncertainty)
    assert whole.uncertainty < 0.05
    assert len(out.results) == 2 * (1 + MODULES)
    none = ask(counted(stream(rng, 100.0)), "dead_time")
    (only,) = none.results
    assert only.value is None
    assert only.status is Status.NO_LIMITS
    assert none.notes == ["Dead time: 5 of 5 modules have too few short gaps for a number of their own."]
