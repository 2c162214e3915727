"""Timing board and counter as witnesses: a module that moved, a clock that moved, and instruments that cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.channel_map import SCANNER, Topology
from petqc.checks import get_check
from petqc.diagnosis import diagnose
from petqc.diagnosis.witnesses import Witnesses
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Limits, Status
from petqc.qc_input import QcInput, RunContext
from petqc.results import CheckResult, EnvironmentReading, Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OFFSET_LIMITS = Limits(-75.0, -20.0, 20.0, 75.0)
BASELINES = {
    "time_interval": {"module:0.0.0 - module:0.0.1": 500.0, "module:0.0.0 - module:0.0.2": -40.0,
                      "module:0.0.1 - module:0.0.2": -540.0},
    "clock_skew": {"module:0.0.2 - reference": 900.0, "module:0.0.1 - reference": 120.0},
}  # fmt: skip


def topology(modules: int) -> Topology:
    return Topology.from_channels(np.arange(256 * modules, dtype=np.int32))


def reading(name: str, node: str, value: float | None, quality: str = "good", reason: str | None = None):
    return EnvironmentReading(name, node, value, "ps", value is not None, quality, 0.5, reason)


def checked(tree: Topology, environment: Sequence[EnvironmentReading]) -> list[CheckResult]:
    """Results of the three checks of a run with these readings."""
    context = RunContext("r", environment=tuple(environment), baselines=BASELINES)
    q = QcInput(QcHistograms(tree, HistogramSettings()), context)
    return [
        c for name in ("time_interval", "clock_skew", "clock_reference") for c in get_check(name).function(q).results
    ]


def readings(moved: Mapping[str, float], clocks: Mapping[str, float] | None = None) -> list[EnvironmentReading]:
    """What board and counter read where modules and clocks have moved by so much."""
    found = []
    for node, value in BASELINES["time_interval"].items():
        a, b = node.split(" - ")
        between = value + moved.get(a, 0.0) - moved.get(b, 0.0)
        found += [reading("time_interval", node, between), reading("time_interval_uncertainty", node, 3.0)]
        found.append(reading("time_interval_pairs", node, 800.0))
    for node, value in BASELINES["clock_skew"].items():
        skew = value + (clocks or {}).get(node.split(" - ")[0], 0.0)
        found += [reading("clock_skew", node, skew), reading("clock_skew_uncertainty", node, 1.0)]
    return found


def run_of(tree: Topology, late: Mapping[str, float], environment: Sequence[EnvironmentReading]) -> Run:
    """A run whose readout says that modules are late."""
    mean = sum(late.values()) / len(tree.module_nodes)
    offsets = [
        CheckResult.measured("module_time_offset", node, late.get(node, 0.0) - mean, "ps", 0.5, 9000, OFFSET_LIMITS)
        for node in tree.module_nodes
    ]
    run = Run("r", "daily", "", "", True, Status.PASS, "", {}, "", {})
    run.checks = [*offsets, *checked(tree, environment)]
    return run


def test_a_module_that_the_board_sees_move_too_is_the_module_and_its_clock_stays() -> None:
    run = run_of(topology(3), {"module:0.0.2": 150.0}, readings({"module:0.0.2": 148.0}))
    found, _ = diagnose(topology(3), run)
    assert (found[0].cause[:3], found[0].node) == ("F29", "module:0.0.2")
    assert "the timing board sees it too: +148 ± 2 ps against its baseline" in found[0].evidence
    assert "the counter between the clocks does not see it: +0 ± 1 ps against its baseline" in found[0].evidence
    assert "F14" not in {h.cause[:3] for h in found}


def test_a_module_that_the_board_does_not_see_move_is_its_clock() -> None:
    environment = readings({}, {"module:0.0.2": -150.0})
    found, _ = diagnose(topology(3), run_of(topology(3), {"module:0.0.2": 150.0}, environment))
    assert (found[0].cause[:3], found[0].node) == ("F14", "module:0.0.2")
    assert "the timing board does not see it: +0 ± 2 ps against its baseline" in found[0].evidence
    assert "the counter between the clocks sees it too: -150 ± 1 ps against its baseline" in found[0].evidence
    assert any("clock skew module:0.0.2 - reference has moved by -150" in told for told in found[0].evidence)
    assert "F29" not in {h.cause[:3] for h in found}


def test_of_two_modules_the_pair_is_told_as_module_or_clock() -> None:
    tree = topology(2)
    pair = "module:0.0.0 - module:0.0.1"
    late = {"module:0.0.1": 200.0}
    for moved, cause in ((late, "F29"), ({}, "F14")):
        found, _ = diagnose(tree, run_of(tree, late, readings(moved)))
        assert (found[0].cause[:3], found[0].node) == (cause, pair)


def test_without_witnesses_nothing_is_told_apart_that_cannot_be() -> None:
    found, _ = diagnose(topology(3), run_of(topology(3), {"module:0.0.2": 150.0}, []))
    assert [h.cause[:3] for h in found] == ["F14"]


def test_a_witness_that_is_not_sure_enough_says_nothing() -> None:
    run = run_of(topology(3), {"module:0.0.2": 25.0}, readings({"module:0.0.2": 25.0}))
    run.checks = [
        CheckResult.measured(c.id, c.node, c.value, c.unit, 30.0, c.n, c.limits) if c.id == "time_interval" else c
        for c in run.checks
        if c.value is not None
    ]
    place = next(p for p in _tree() if p.node == "module:0.0.2")
    assert Witnesses(run, topology(3).module_nodes).seen("interval", place, 25.0) is None


def _tree():
    from petqc.diagnosis.places import tree

    return tree(topology(3))


def test_a_drifting_reference_alone_is_told_before_it_moves_a_module() -> None:
    run = run_of(topology(3), {}, readings({}, {"module:0.0.1": 60.0}))
    found, _ = diagnose(topology(3), run)
    assert (found[0].cause[:3], found[0].node) == ("F30", "module:0.0.1")
    assert "has moved by +60" in found[0].evidence[0]


def test_a_missing_reference_is_named_and_its_numbers_are_not_judged() -> None:
    environment = [
        reading("clock_reference", "skew", 0.0, "bad", "no 10 MHz reference"),
        reading("clock_locked", "timing", 1.0),
        reading("clock_skew", "module:0.0.2 - reference", 5000.0, "uncertain", "no 10 MHz reference"),
        reading("time_interval", "module:0.0.0 - module:0.0.1", None, "absent", "no peak in 3 pairs"),
    ]
    run = run_of(topology(3), {}, environment)
    reference, skew, interval = (run.find(c, n) for c, n in (
        ("clock_reference", SCANNER),
        ("clock_skew", "module:0.0.2 - reference"),
        ("time_interval", "module:0.0.0 - module:0.0.1"),
    ))  # fmt: skip
    assert reference is not None
    assert (reference.value, reference.n, reference.status) == (1.0, 2, Status.WARN)
    assert reference.reason == "skew: no 10 MHz reference"
    assert skew is not None
    assert (skew.value, skew.status, skew.reason) == (None, Status.NO_LIMITS, "no 10 MHz reference")
    assert interval is not None
    assert interval.reason == "no peak in 3 pairs"
    found, _ = diagnose(topology(3), run)
    assert (found[0].cause[:3], found[0].node) == ("F30", SCANNER)
    assert found[0].evidence[0] == "skew: no 10 MHz reference"


@pytest.mark.parametrize("node", ["board - module:0.0.0", "skew"])
def test_readings_of_other_places_are_no_results(node: str) -> None:
    assert checked(topology(2), [reading("time_interval", node, 1.0), reading("clock_skew", node, 1.0)]) == []
