"""Histograms: compiled filling equals plain numpy, parts add up to the whole, the pair buffer stays bounded."""

from __future__ import annotations

import numpy as np
import pytest

from petqc import histograms as hm
from petqc.channel_map import Topology
from petqc.errors import BadInputError
from petqc.events import Coincidences, Singles
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.recorded.axes import energy_axis
from petqc.recorded.pair_search import DELAY_PS, PairSearch, find_pairs

CHANNELS = np.concatenate([np.arange(0, 64), np.arange(256, 320), np.arange(512, 576)]).astype(np.int32)
TOPOLOGY = Topology.from_channels(CHANNELS)


def singles(rng, n=5000):
    energy = rng.uniform(-50.0, 2000.0, n).astype(np.float32)
    energy[:3] = np.nan, np.inf, 0.0
    channel = rng.choice(np.concatenate([CHANNELS, [70, 10_000]]), n).astype(np.int32)
    return Singles(np.sort(rng.integers(0, 10**12, n)), energy, channel, np.ones(n, np.uint8), "kev")


def pairs(rng, n=4000):
    channel = rng.choice(np.concatenate([CHANNELS, [70]]), (2, n)).astype(np.int32)
    time = rng.integers(0, 10**12, n)
    dt = rng.integers(-6000, 6001, n)
    energy, one = np.full(n, 511.0, np.float32), np.ones(n, np.uint8)
    return Coincidences(time + dt, time, energy, energy, channel[0], channel[1], one, one, "kev")


def test_energy_filling_equals_numpy():
    rng = np.random.default_rng(1)
    events = singles(rng)
    h = QcHistograms(TOPOLOGY, "kev", HistogramSettings(energy_window=(425.0, 650.0)))
    h.add_singles(events)
    index = TOPOLOGY.index_of(events.channel)
    known = index >= 0
    assert h.unknown == int((~known).sum())
    energy = events.energy.astype(np.float64)
    np.testing.assert_array_equal(h.singles, np.bincount(index[known], minlength=192))
    window = known & (energy >= 425.0) & (energy <= 650.0)
    np.testing.assert_array_equal(h.singles_in_window, np.bincount(index[window], minlength=192))
    on_axis = known & (energy >= 0.0) & (energy < 1600.0)
    wanted = np.zeros((192, 400), np.int64)
    np.add.at(wanted, (index[on_axis], (energy[on_axis] / 4.0).astype(np.int64)), 1)
    np.testing.assert_array_equal(h.energy_counts, wanted)
    np.testing.assert_array_equal(h.energy_counts.sum(axis=1) + h.energy_outside.sum(axis=1), h.singles)


def test_time_filling_equals_numpy():
    rng = np.random.default_rng(2)
    events = pairs(rng)
    h = QcHistograms(TOPOLOGY, "kev", HistogramSettings(coincidence_window_ps=10_000, tof_bin_ps=10))
    h.add_prompts(events)
    a, b = TOPOLOGY.index_of(events.channel_a), TOPOLOGY.index_of(events.channel_b)
    dt = events.time_a_ps - events.time_b_ps
    known = (a >= 0) & (b >= 0)
    ma, mb = TOPOLOGY.module[a], TOPOLOGY.module[b]
    assert h.unknown == int((~known).sum())
    assert h.same_module == int((known & (ma == mb)).sum())
    for pair in range(3):
        high, low = h.pair_modules(pair)
        assert h.pair_name(pair) == f"{TOPOLOGY.module_nodes[high]} - {TOPOLOGY.module_nodes[low]}"
        mine = known & (((ma == high) & (mb == low)) | ((ma == low) & (mb == high)))
        sign = np.where(ma == high, 1, -1)
        assert h.prompts[pair] == int(mine.sum())
        np.testing.assert_array_equal(h.tof_prompt[pair], np.histogram((dt * sign)[mine], h.tof_edges)[0])
    ia, ib, kept = h.pairs()
    assert kept.size == int(h.tof_prompt.sum()) == h.pairs_seen
    assert (TOPOLOGY.module[ia] > TOPOLOGY.module[ib]).all()
    np.testing.assert_array_equal(np.histogram(kept, h.tof_edges)[0], h.tof_prompt.sum(axis=0))


def test_compiled_kernels_equal_python():
    rng = np.random.default_rng(3)
    s, c = singles(rng, 300), pairs(rng, 300)
    results = []
    for function in (hm.fill_energy, hm.fill_energy.py_func):
        h = QcHistograms(TOPOLOGY, "kev")
        unknown = function(
            s.channel, s.energy, h._index, 4.0, 425.0, 650.0, h.energy_counts, h.energy_outside, h.singles,
            h.singles_in_window,
        )  # fmt: skip
        results.append((unknown, h.energy_counts, h.energy_outside, h.singles, h.singles_in_window))
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)
    results = []
    for function in (hm.fill_tof, hm.fill_tof.py_func):
        h = QcHistograms(TOPOLOGY, "kev")
        out = [np.zeros(300, np.int32) for _ in range(3)]
        counted = function(
            c.channel_a, c.channel_b, c.time_a_ps, c.time_b_ps, h._index, TOPOLOGY.module, float(h.tof_edges[0]), 10.0,
            h.tof_prompt, h.prompts, *out,
        )  # fmt: skip
        results.append((*counted, h.tof_prompt, h.prompts, *out))
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_parts_merge_to_the_whole():
    rng = np.random.default_rng(4)
    whole, first, second = (QcHistograms(TOPOLOGY, "kev") for _ in range(3))
    for part in (first, second):
        s, p, d = singles(rng), pairs(rng), pairs(rng)
        for h in (whole, part):
            h.add_singles(s)
            h.add_prompts(p)
            h.add_delayed(d)
            h.add_hits(s.channel)
    first.merge(second)
    for name in (
        "energy_counts", "energy_outside", "singles", "hits", "singles_in_window",
        "tof_prompt", "tof_delayed", "prompts", "delayed",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(first, name), getattr(whole, name))
    assert (first.unknown, first.same_module, first.pairs_seen) == (whole.unknown, whole.same_module, whole.pairs_seen)
    for x, y in zip(first.pairs(), whole.pairs(), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(BadInputError, match="do not add up"):
        first.merge(QcHistograms(TOPOLOGY, "kev", HistogramSettings(energy_bin=2.0)))


def test_pair_buffer_is_bounded_and_does_not_depend_on_feeds():
    rng = np.random.default_rng(5)
    events = pairs(rng, 20_000)
    settings = HistogramSettings(max_pairs=1000)

    def part(a, b):
        return Coincidences(
            events.time_a_ps[a:b], events.time_b_ps[a:b], events.energy_a[a:b], events.energy_b[a:b],
            events.channel_a[a:b], events.channel_b[a:b], events.n_hits_a[a:b], events.n_hits_b[a:b], "kev",
        )  # fmt: skip

    found = []
    for size in (20_000, 777, 50):
        h = QcHistograms(TOPOLOGY, "kev", settings)
        for at in range(0, 20_000, size):
            h.add_prompts(part(at, at + size))
        assert h.pairs()[0].size <= 1000
        assert h.pairs_stride == 2 ** int(np.log2(h.pairs_stride))
        found.append((h.pairs_stride, *h.pairs()))
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)
    a, b = (QcHistograms(TOPOLOGY, "kev", settings) for _ in range(2))
    a.add_prompts(part(0, 15_000))
    b.add_prompts(part(15_000, 17_000))
    a.merge(b)
    assert a.pairs()[0].size <= 1000


def test_nothing_and_nonsense():
    h = QcHistograms(TOPOLOGY, "kev")
    h.add_singles(Singles.empty("kev"))
    h.add_prompts(Coincidences.empty("kev"))
    h.add_delayed(Coincidences.empty("kev"))
    assert h.pairs()[0].size == 0
    one = (np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros(1, np.int32), np.ones(1, np.uint8))
    with pytest.raises(BadInputError, match="energies in ns"):
        h.add_singles(Singles(*one, "ns"))
    for bad in (
        {"energy_bin": 0.0},
        {"energy_bins": 3},
        {"tof_bin_ps": 0},
        {"max_pairs": 1},
        {"energy_window": (2.0, 1.0)},
    ):
        with pytest.raises(BadInputError):
            HistogramSettings(**bad)
    empty = QcHistograms(Topology.from_channels(np.empty(0, np.int32)), "kev")
    empty.add_singles(singles(np.random.default_rng(6), 10))
    assert empty.unknown == 10


def test_axes_come_from_the_processing():
    class Settings:
        coincidence_window_ps = 20_000.0
        coincidence_energy = (425.0, 650.0)

    made = HistogramSettings.from_processing(Settings(), "kev")
    assert (made.energy_bin, made.energy_bins, made.energy_window) == (4.0, 400, (425.0, 650.0))
    assert made.coincidence_window_ps == 20_000
    h = QcHistograms(TOPOLOGY, "kev", made)
    assert h.tof_edges[0] == -10_000.5
    assert h.tof_edges[-1] == 9_999.5


def test_axis_of_an_unknown_unit():
    rng = np.random.default_rng(7)
    adc = np.rint(rng.normal(1436.0, 3.7, 5000))
    width, bins = energy_axis([adc])
    assert width == 1.0
    assert bins * width >= adc.max()
    volts = rng.normal(23.7, 1.4, 5000)
    width, bins = energy_axis([volts])
    assert 0.1 <= width <= 0.5
    assert 16 <= bins <= 8192
    assert energy_axis([np.full(10, np.nan)])[1] >= 16
    assert energy_axis([])[0] > 0


# --- pairs in files --------------------------------------------------------------------------------------------------


def slow_pairs(time, module, shift, half):
    n = time.size
    found = [
        (i, j)
        for i in range(n)
        for j in range(n)
        if (i < j or shift) and abs(time[j] - time[i] - shift) <= half and module[i] != module[j] and i != j
        and module[i] >= 0 and module[j] >= 0 and (time[j] >= time[i])
    ]  # fmt: skip
    return sorted(found)


@pytest.mark.parametrize("shift", [0, 5_000])
def test_pair_search_equals_its_definition(shift):
    rng = np.random.default_rng(8)
    time = np.sort(rng.integers(0, 60_000, 200))
    module = rng.integers(-1, 3, 200).astype(np.int32)
    for function in (find_pairs, find_pairs.py_func):
        n = function(time, module, 200, shift, 400, np.empty((0, 2), np.int64), 10_000)
        out = np.empty((n, 2), np.int64)
        function(time, module, 200, shift, 400, out, 10_000)
        assert sorted(map(tuple, out.tolist())) == slow_pairs(time, module, shift, 400)


def test_pair_search_refuses_columns_that_are_no_times():
    n = 3000
    time = np.arange(n) % 7
    channel = np.where(np.arange(n) % 2, 0, 256).astype(np.int32)
    search = PairSearch(TOPOLOGY, 20_000)
    search.feed(Singles(time, np.ones(n, np.float32), channel, np.ones(n, np.uint8)))
    with pytest.raises(BadInputError, match="not one of detector hits"):
        search.finish()


def test_pair_search_in_pieces_equals_the_whole(monkeypatch):
    monkeypatch.setattr("petqc.recorded.pair_search._HELD", 500)
    rng = np.random.default_rng(9)
    n = 6000
    time = np.sort(rng.integers(0, 3_000_000_000, n))
    time = time + rng.integers(0, 20_000, n)  # nearly in order, as converters write
    channel = rng.choice(CHANNELS, n).astype(np.int32)
    energy, one = np.ones(n, np.float32), np.ones(n, np.uint8)
    found = []
    for size in (n, 400):
        search = PairSearch(TOPOLOGY, 20_000)
        h = QcHistograms(TOPOLOGY, "arbitrary", HistogramSettings(coincidence_window_ps=20_000))
        for at in range(0, n, size):
            end = at + size
            prompts, delayed = search.feed(Singles(time[at:end], energy[at:end], channel[at:end], one[at:end]))
            h.add_prompts(prompts)
            h.add_delayed(delayed)
        prompts, delayed = search.finish()
        h.add_prompts(prompts)
        h.add_delayed(delayed)
        found.append(h)
    assert found[0].prompts.sum() > 50
    assert found[0].delayed.sum() > 50
    np.testing.assert_array_equal(found[0].tof_prompt, found[1].tof_prompt)
    np.testing.assert_array_equal(found[0].tof_delayed, found[1].tof_delayed)
    # Flat arrivals: as many pairs in the prompt window as half of those delayed either way.
    assert found[0].delayed.sum() / 2 == pytest.approx(found[0].prompts.sum(), rel=0.35)
    assert DELAY_PS % 5_000 != 0
