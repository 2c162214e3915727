"""Signs that rates give: false triggers, missing coincidences, blind channels, dark counts that rose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.diagnosis.places import compared, pair, scanner
from petqc.diagnosis.signs import Sign
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.channel_map import Topology
    from petqc.diagnosis.places import Place
    from petqc.diagnosis.signs import Quantity
    from petqc.results import CheckResult, Run

_FLAGGED = {Status.WARN, Status.FAIL}
_CHANGES = ("mr_rate", "mr_peak")
_GONE = 0.1
"""Share of the usual coincidences below which what is left may all be randoms."""
_ALIKE = 0.8
"""Share of the modules from which on something is the scanner's. Source: daily-qc.md §3, root-cause logic."""


def rate_signs(
    topology: Topology, run: Run, by_name: Mapping[str, Place], *, hot: Sequence[Sign], has_dead: bool
) -> list[Sign]:
    """All of them.

    Args:
        topology: the channels.
        run: with its results.
        by_name: places above channels.
        hot: channels that count too much, which explain the rate of their module.
        has_dead: whole parts are silent, which explains fewer coincidences.
    """
    rates = _of_modules(topology, run, by_name, "singles_rate", "singles")
    signs = [
        *(s for s in rates if not any(s.place.overlap(h.place) > 0.0 for h in hot)),
        *_of_modules(topology, run, by_name, "dead_time", "dead_time"),
        *_of_modules(topology, run, by_name, "dark_count_rate", "dark"),
        *_of_modules(topology, run, by_name, "mr_rate", "singles"),
        *_of_modules(topology, run, by_name, "mr_peak", "mr_peak", way=-1.0),
    ]
    unpaired = _unpaired(topology, run, by_name)
    if has_dead:
        return signs
    return [*signs, *unpaired, *([] if unpaired else _prompts(topology, run))]


def _of_modules(
    topology: Topology, run: Run, by_name: Mapping[str, Place], check: str, quantity: Quantity, *, way: float = 1.0
) -> list[Sign]:
    """Modules with more than they should have (way -1: less); nearly all of them are the scanner."""
    results = [c for c in run.checks if c.id == check and c.node in topology.module_nodes and c.value is not None]
    more = [c for c in results if c.status in _FLAGGED and way * _change(c) > 0.0]
    if not more:
        return []
    if len(more) >= _ALIKE * len(topology.module_nodes) and len(topology.module_nodes) > 1:
        value = sum(_change(c) for c in more) / len(more)
        told = f"{len(more)} of {len(topology.module_nodes)} modules alike: {_told(more[0])}"
        return [Sign(quantity, scanner(topology), value, 0.0, _unit(more[0]), 0, told)]
    return [Sign(quantity, by_name[c.node], _change(c), 0.0, _unit(c), 0, _told(c)) for c in more if c.node in by_name]


def _change(c: CheckResult) -> float:
    """Over the baseline in per cent where there is one, else over the warn limit in the check's own unit.

    What the MR changes is a change already.
    """
    value = c.value or 0.0
    if c.id in _CHANGES:
        return value
    if c.baseline:
        return 100.0 * (value - c.baseline) / abs(c.baseline)
    return value - (c.limits.warn_high if c.limits.warn_high is not None else value)


def _unit(c: CheckResult) -> str:
    return "%" if c.baseline else c.unit


def _told(c: CheckResult) -> str:
    from petqc.verdict import say

    if c.id in _CHANGES:
        return f"{say(c.value or 0.0, c.uncertainty, c.unit)} at {c.node} under stress of the MR"
    should = f"instead of {say(c.baseline, abs(c.baseline) * 1e-3, c.unit)}" if c.baseline else "above its limit"
    return f"{say(c.value or 0.0, c.uncertainty, c.unit)} at {c.node}, {should}"


def _unpaired(topology: Topology, run: Run, by_name: Mapping[str, Place]) -> list[Sign]:
    """Modules that count and have no coincidences with any other."""
    of = {c.node: c for c in run.checks if c.id == "module_time_offset" and c.node in topology.module_nodes}
    rates = {c.node: c for c in run.checks if c.id == "singles_rate" and c.node in topology.module_nodes}
    alone = [
        node
        for node, c in of.items()
        if c.value is None and c.status is Status.INVALID and (rates[node].value if node in rates else None)
    ]
    told = "it counts, and has no coincidences with the rest of the scanner"
    if len(alone) == len(of) > 0 or (not of and _are_all_alone(run)):
        alone = []
        place = compared(topology)
        return [Sign("pairs", place, -100.0, 0.0, "%", 0, "both count, and there are no coincidences between them")]
    between = next((c.node for c in run.checks if c.id == "prompts" and set(c.node.split(" - ")) == set(alone)), None)
    if between is not None:
        # Where the source lets two modules see each other only, one that is out of step leaves both without partners.
        told = "both count, and neither has coincidences; if they see only each other, one of the two is out of step"
        return [Sign("pairs", pair(topology, between), -100.0, 0.0, "%", 0, told)]
    return [Sign("pairs", by_name[node], -100.0, 0.0, "%", 0, told) for node in alone if node in by_name]


def _are_all_alone(run: Run) -> bool:
    """Whether coincidences have gone but for randoms, so that no module's times could be compared with another's."""
    times, prompts = run.find("module_time_offset"), run.find("prompts")
    if times is None or times.status is not Status.INVALID or prompts is None or not prompts.baseline:
        return False
    return prompts.value is not None and prompts.value < _GONE * prompts.baseline


def _prompts(topology: Topology, run: Run) -> list[Sign]:
    c = run.find("prompts")
    if any(one.id == "ctr_fit" and one.status is Status.INVALID for one in run.checks):
        return []  # times that make no peak lose coincidences, whatever the rate
    if c is None or c.status not in _FLAGGED or c.value is None or not c.baseline:
        return []
    return [Sign("prompts", scanner(topology), _change(c), 0.0, "%", 0, _told(c))]
