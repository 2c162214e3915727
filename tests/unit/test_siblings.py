"""Nodes compared with their like: what widens a limit, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.analysis import RunContext
from petqc.channel_map import Topology
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.qc_input import QcInput
from petqc.siblings import FEWEST, Siblings, spread_beyond


def test_a_few_bad_ones_neither_move_nor_widen():
    good = np.random.default_rng(1).normal(12.0, 0.3, 256)
    usual, found = Siblings.of(good), Siblings.of(np.concatenate([good[:246], np.full(10, 18.0)]))
    assert usual is not None
    assert found is not None
    assert found.median == pytest.approx(usual.median, abs=0.05)
    assert found.spread == pytest.approx(0.3, rel=0.15)


def test_few_nodes_have_a_median_and_no_spread():
    assert Siblings.of(np.full(FEWEST - 1, 10.0)) is None
    few = Siblings.of_any([10.0, 11.0, np.nan, 12.0])
    assert few is not None
    assert (few.median, few.spread) == (11.0, 0.0)
    assert Siblings.of_any([np.nan]) is None


@pytest.fixture(scope="module")
def total_body() -> QcInput:
    """A scanner of 9 728 ASICs, of one channel each here."""
    channels = np.arange(9728, dtype=np.int32) * 64
    h = QcHistograms(Topology.from_channels(channels, asics_per_module=64), "kev", HistogramSettings())
    return QcInput(h, RunContext("x"))


def test_healthy_asics_of_a_total_body_with_few_counts_are_not_warned_of(total_body):
    """Peaks differ by 0.2 %; ASICs at the ends, with half the counts, are known 1.4 times less well."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        error = np.where(np.arange(9728) < 4864, 0.9, 1.3) * rng.uniform(0.9, 1.1, 9728)
        value = 511.0 + rng.normal(0.0, np.hypot(1.03, error))
        spread = spread_beyond(value, error)
        assert spread == pytest.approx(1.03, rel=0.1)
        told = [
            total_body.judge("photopeak", ("asic", "asic:0.0.0"), v, "keV", e, 400, spread=spread).status
            for v, e in zip(value.tolist(), error.tolist(), strict=True)
        ]
        assert set(told) == {Status.PASS}
        blind = [
            total_body.judge("photopeak", ("asic", "asic:0.0.0"), v, "keV", e, 400).status
            for v, e in zip(value.tolist(), error.tolist(), strict=True)
        ]
        assert Status.WARN in blind


def test_a_fault_of_many_asics_does_not_hide_itself(total_body):
    rng = np.random.default_rng(4)
    value = 511.0 + rng.normal(0.0, 0.5, 9728)
    value[::2] -= 9.0
    spread = spread_beyond(value, np.full(9728, 0.3))
    assert spread > 4.0
    limits = total_body.judge("photopeak", ("asic", "asic:0.0.0"), 502.0, "keV", 0.3, 9000, spread=spread)
    assert limits.status is Status.WARN


def test_nodes_have_the_channels_whose_places_name_them():
    channels = np.random.default_rng(5).permutation(64 * 40).astype(np.int32)[:2000]
    outputs = {int(c): (0, int(c) % 5) for c in channels[:1500]}  # a quarter of the channels have none
    topology = Topology.from_channels(channels, asics_per_module=7, bias_output=outputs)
    q = QcInput(QcHistograms(topology, "kev", HistogramSettings()), RunContext("x"))
    found = {node.name: node.members.tolist() for node in q.nodes("module", "asic", "bias")}
    wanted = {
        name: np.flatnonzero(place == number).tolist()
        for names, place in (
            (topology.module_nodes, topology.module),
            (topology.asic_nodes, topology.asic),
            (topology.bias_nodes, topology.bias),
        )
        for number, name in enumerate(names)
    }
    assert found == wanted
    assert sum(len(found[name]) for name in topology.bias_nodes) == 1500
