"""Checks of parts (ASICs, bias outputs, channels): planted widths, side peaks, thresholds, temperatures are found."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.analysis import RunContext, analyse
from petqc.channel_map import Topology
from petqc.checks import get_check
from petqc.checks import time_tails as tt
from petqc.checks.bias_peak import bias_peak
from petqc.checks.time_tails import time_tails
from petqc.checks.timing_width import timing_width
from petqc.events import Coincidences, Singles
from petqc.fits import group_widths as gw
from petqc.fits.group_widths import group_widths
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.qc_input import QcInput
from petqc.results import EnvironmentReading

WINDOW_PS = 10_000
FWHM = 2.3548


def modules_around(n_modules: int) -> Topology:
    """Modules of two ASICs of 16 crystals each, facing the middle from all sides."""
    per_module = 128
    channels = np.arange(n_modules * per_module)
    kept = channels[channels % 64 < 16]
    module, k = kept // per_module, np.arange(kept.size) % 32
    angle = 2.0 * np.pi * module / n_modules
    across = (k % 8 - 3.5) * 3.2
    xyz = np.stack(
        [
            60 * np.cos(angle) - across * np.sin(angle),
            (k // 8 - 1.5) * 3.2,
            60 * np.sin(angle) + across * np.cos(angle),
        ],
        axis=1,
    )
    return Topology.from_channels(
        kept.astype(np.int32), asics_per_module=2, column=(k % 8).astype(np.int16), row=(k // 8).astype(np.int16),
        xyz_mm=xyz.astype(np.float32), bias_output={int(c): (0, int(c) // 64) for c in kept},
    )  # fmt: skip


def with_pairs(topology: Topology, sigma: np.ndarray, n: int = 120_000, late=None, randoms: float = 0.1) -> QcInput:
    """Pairs of every two modules; sigma: of channels; late: (n,) -> extra delay of the side a, by its channel."""
    rng = np.random.default_rng(5)
    size = len(topology)
    a, b = rng.integers(0, size, n), rng.integers(0, size, n)
    apart = topology.module[a] > topology.module[b]
    a, b = a[apart], b[apart]
    flight = np.linalg.norm(topology.xyz_mm, axis=1) / 0.299792458
    dt = rng.normal(0.0, np.hypot(sigma[a], sigma[b])) + flight[a] - flight[b]
    if late is not None:
        dt += late(rng, a) - late(rng, b)
    is_random = rng.random(a.size) < randoms
    dt = np.where(is_random, rng.uniform(-WINDOW_PS / 2, WINDOW_PS / 2, a.size), dt)
    h = QcHistograms(topology, "kev", HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=WINDOW_PS))
    start = np.full(a.size, 10_000_000, np.int64)
    energy, ones = np.full(a.size, 511.0, np.float32), np.ones(a.size, np.uint8)
    h.add_prompts(
        Coincidences(
            start + np.rint(dt).astype(np.int64), start, energy, energy, topology.channels[a], topology.channels[b],
            ones, ones, "kev",
        )
    )  # fmt: skip
    return QcInput(h, RunContext("parts"))


def test_widths_of_groups_are_found_under_randoms_with_honest_errors():
    rng = np.random.default_rng(8)
    true = np.array([80.0, 95.0, 130.0])
    pulls = []
    for _ in range(30):
        group = rng.integers(0, 3, 9_000)
        value = np.where(rng.random(9_000) < 0.2, rng.uniform(-5000, 5000, 9_000), rng.normal(0.0, true[group]))
        found = group_widths(value, (group,), 4, window_ps=10_000.0, start_ps=100.0, min_pairs=100)
        assert np.isnan(found.sigma_ps[3])
        pulls.append((found.sigma_ps[:3] - true) / found.error_ps[:3])
    assert abs(np.mean(pulls)) < 0.35
    assert 0.7 < np.std(pulls) < 1.3


def test_widths_of_groups_are_those_of_plain_python_and_of_each_group_alone():
    rng = np.random.default_rng(9)
    group = rng.integers(0, 5, 3_000)
    value = np.where(rng.random(3_000) < 0.3, rng.uniform(-2000, 2000, 3_000), rng.normal(0.0, 60.0 + 20.0 * group))
    value = value.astype(np.float32)
    groups = (group.astype(np.int32),)
    compiled = gw._peaks(value, groups, 6, 4000.0, 100.0)
    plain = gw._peaks.py_func(value, groups, 6, 4000.0, 100.0)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    alone = gw._peaks(value[group == 3], (np.zeros(int((group == 3).sum()), np.int32),), 1, 4000.0, 100.0)
    assert [column[0] for column in alone] == [column[3] for column in compiled]


def test_a_pair_counts_in_two_groups_as_if_it_were_there_twice():
    rng = np.random.default_rng(10)
    value, a, b = rng.normal(0.0, 80.0, 3_000).astype(np.float32), *rng.integers(0, 5, (2, 3_000)).astype(np.int32)
    both = gw._peaks(value, (a, b), 5, 4000.0, 100.0)
    twice = gw._peaks(np.concatenate([value, value]), (np.concatenate([a, b]),), 5, 4000.0, 100.0)
    for one, other in zip(both, twice, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_wide_asic_is_told_by_pairs_of_many_modules_and_only_the_pairs_of_two():
    ring = modules_around(4)
    sigma = np.where(ring.asic == 3, 110.0, 70.0)
    output = timing_width(with_pairs(ring, sigma))
    width = {r.node: r for r in output.results}
    wide = width.pop(ring.asic_nodes[3])
    assert wide.value == pytest.approx(FWHM * 110.0, abs=5 * wide.uncertainty)
    assert wide.status is Status.FAIL
    for r in width.values():
        assert r.value == pytest.approx(FWHM * 70.0, abs=5 * r.uncertainty)
        assert r.status is Status.PASS
    assert output.notes == []
    two = modules_around(2)
    output = timing_width(with_pairs(two, np.where(two.asic == 3, 110.0, 70.0), n=60_000))
    assert "two facing groups" in output.notes[0]
    found = {r.node: r.value for r in output.results}
    assert max(found, key=found.get) == two.asic_nodes[3]


def test_a_second_place_in_time_of_one_channel_is_named_with_its_share_and_distance():
    ring = modules_around(4)
    bad = 40
    late = lambda rng, side: np.where((side == bad) & (rng.random(side.size) < 0.25), 450.0, 0.0)  # noqa: E731
    output = time_tails(with_pairs(ring, np.full(len(ring), 66.0), n=200_000, late=late))
    column = output.column
    assert np.flatnonzero(column.status.astype(str) == "warn").tolist() == [bad]
    assert 15 < column.value[bad] < 30
    share, _, distance = column.reason[bad].partition(" % of the pairs, ")
    assert share.startswith("side peak of ")
    assert float(distance.split()[0]) == pytest.approx(450.0, abs=80.0)
    ratio = next(r for r in output.results if r.id == "time_tails" and r.node == "scanner")
    assert ratio.value == pytest.approx(1.823, abs=0.05)


def test_times_are_counted_as_numpy_counts_them():
    rng = np.random.default_rng(11)
    a, b = rng.integers(0, 6, (2, 5_000)).astype(np.int32)
    edges = np.arange(-8, 9) * tt.BIN_PS
    residual = np.concatenate([rng.normal(0.0, 120.0, 4_960), np.full(6, np.nan), edges, -edges]).astype(np.float32)
    by_kernel = []
    for count in (tt._count, tt._count.py_func):
        counts, of_all = np.zeros((6, 16), np.uint32), np.zeros(16)
        count(a, b, residual, edges, counts, of_all)
        by_kernel.append(counts)
        known = np.isfinite(residual)
        np.testing.assert_array_equal(of_all, np.histogram(residual[known], edges)[0])
        for channel in range(6):
            late = np.concatenate([residual[known & (a == channel)], -residual[known & (b == channel)]])
            late = late[late < edges[-1]]  # the upper edge is outside
            np.testing.assert_array_equal(counts[channel], np.histogram(late, edges)[0])
    np.testing.assert_array_equal(*by_kernel)


def test_an_excess_is_where_neighbouring_bins_have_most_above_the_usual():
    rng = np.random.default_rng(12)
    counts, usual = rng.poisson(4.0, (7, 40)).astype(np.uint32), rng.random(36)
    far, total = np.arange(36) % 3 != 0, counts.sum(axis=1).astype(np.float64)
    there = np.array([np.convolve(row, np.ones(5), "valid") for row in counts])
    wanted = np.where(far, there - np.outer(total, usual), -np.inf)
    for find in (tt._find_excess, tt._find_excess.py_func):
        at, excess = np.zeros(7, np.int64), np.full(7, -np.inf)
        find(counts, total, usual, far, at, excess)
        np.testing.assert_array_equal(at, wanted.argmax(axis=1))
        np.testing.assert_array_equal(excess, wanted.max(axis=1))
        nowhere, none = np.zeros(7, np.int64), np.full(7, -np.inf)
        find(counts, total, usual, np.zeros(36, np.bool_), nowhere, none)
        assert (nowhere == 0).all()
        assert np.isneginf(none).all()


def test_outputs_whose_channels_have_too_few_counts_are_judged_by_their_sum():
    topology = modules_around(2)
    rng = np.random.default_rng(7)
    n = 120 * len(topology)
    k = rng.integers(0, len(topology), n)
    energy = np.where(topology.bias[k] == 1, 0.96, 1.0) * rng.normal(511.0, 23.0, n)
    h = QcHistograms(topology, "kev", HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=WINDOW_PS))
    numbers = np.ones(n, np.uint8)
    h.add_singles(Singles(np.arange(n), energy.astype(np.float32), topology.channels[k], numbers, "kev"))
    results = bias_peak(QcInput(h, RunContext("parts"))).results
    assert [r.node for r in results] == list(topology.bias_nodes)
    assert all("sum of" in r.method for r in results)
    by_node = {r.node: r for r in results}
    assert by_node[topology.bias_nodes[1]].value == pytest.approx(0.96 * 511.0, abs=3.0)
    assert by_node[topology.bias_nodes[1]].status is not Status.PASS
    assert by_node[topology.bias_nodes[0]].status is Status.PASS


def test_checks_of_energy_see_one_output_one_asic_and_one_module():
    topology = modules_around(2)
    rng = np.random.default_rng(6)
    n = 200_000
    k = rng.integers(0, len(topology), n)
    energy = np.where(rng.random(n) < 0.5, rng.normal(511.0, 23.0, n), rng.uniform(32.0, 460.0, n))
    energy = energy * np.where(topology.bias[k] == 1, 0.97, 1.0)
    kept = ~((topology.asic[k] == 2) & (energy < 95.0))
    lit = kept & ~((topology.module[k] == 1) & (rng.random(n) < 0.25))
    channel, energy = topology.channels[k][lit], energy[lit].astype(np.float32)
    h = QcHistograms(topology, "kev", HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=WINDOW_PS))
    h.add_singles(Singles(np.arange(channel.size), energy, channel, np.ones(channel.size, np.uint8), "kev"))
    sensors = tuple(
        EnvironmentReading("temperature_sipm", node, degc, "degC", True, "good", 0.0)
        for node, degc in zip(topology.asic_nodes, (22.0, 22.1, 24.9, 24.9), strict=True)
    )
    run = analyse(h, RunContext("parts", environment=sensors, live_time_s=10.0, elapsed_s=10.0))
    low = run.find("bias_peak", topology.bias_nodes[1])
    other = run.find("bias_peak", topology.bias_nodes[0])
    assert low.value / other.value == pytest.approx(0.97, abs=4 * low.uncertainty / 511.0)
    assert low.status is Status.WARN
    assert other.status is Status.PASS
    onset = run.find("energy_onset", topology.asic_nodes[2])
    assert onset.value == pytest.approx(95.0 + 0.05 * 155.0, abs=3.0)
    assert onset.status is Status.FAIL
    assert run.find("energy_onset", topology.asic_nodes[0]).status is Status.PASS
    assert run.find("block_efficiency", topology.module_nodes[1]).value == pytest.approx(200 * 0.75 / 1.75, abs=2.0)
    assert run.find("temperature", topology.module_nodes[0]).value == pytest.approx(22.05)
    assert run.find("temperature", topology.module_nodes[1]).status is Status.PASS
    assert get_check("temperature").unit == "degC"


def test_a_sensor_is_held_against_its_own_place_where_that_is_known():
    topology = Topology.from_channels(np.arange(256, dtype=np.int32))
    places = dict(zip(topology.asic_nodes, (19.0, 21.0, 23.0, 25.0), strict=True))
    usual = {"temperature": {topology.module_nodes[0]: 22.0, **places}}
    bad = topology.asic_nodes[3]
    sensors = tuple(
        EnvironmentReading("temperature_sipm", node, degc + 0.5 + 2.5 * (node == bad), "degC", True, "good", 0.0)
        for node, degc in places.items()
    )
    h = QcHistograms(topology, "kev")
    run = analyse(h, RunContext("parts", environment=sensors, baselines=usual))
    flagged = [c.node for c in run.checks if c.id == "temperature" and c.status is Status.WARN]
    assert flagged == [bad], "half a kelvin more for all is the module's, and its places differ by six"
    run = analyse(h, RunContext("parts", environment=sensors))
    assert run.find("temperature", topology.asic_nodes[0]).status is Status.WARN, "nothing is known of its place"


def test_a_temperature_that_was_not_measured_is_not_used():
    topology = modules_around(2)
    h = QcHistograms(topology, "kev")
    reading = EnvironmentReading("temperature_sipm", topology.asic_nodes[0], 35.0, "degC", False, "good", 0.0)
    run = analyse(h, RunContext("parts", environment=(reading,)))
    assert not [c for c in run.checks if c.id == "temperature"]
