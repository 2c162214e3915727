"""Whether a scan without one block is a thing to suggest: one place is dead or far off, and everything else passes.

A suggestion, never a verdict: it stands beside the verdict with its grounds, and a physicist decides. Nothing is ever
suggested of what more than one place shares: bias, clock, cooling, link, source, settings, the whole scanner.

Source: daily-qc.md §5.3, item 1 (scan / scan with block 17 masked / do not scan).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.channel_map import channel_node
from petqc.diagnosis.places import address, topology_of, tree
from petqc.limits import Status

if TYPE_CHECKING:
    from petqc.diagnosis.places import Place
    from petqc.results import CheckResult, Run

LOCAL: Final = frozenset({"F01", "F02", "F09", "F10", "F13", "F16", "F28"})
"""Causes that sit in the crystals, SiPMs or front-end channels of a place, and in nothing that it shares."""
MOST_MASKED = 0.05
"""Larger a part of the scanner is not suggested to be left out: a hole that large shows in images. A twentieth is this
project's own choice, wider than the largest share of dead crystals that passes (1 %, daily-qc.md §5.2)."""
_LEVELS = ("module", "asic")
_BAD = frozenset({Status.FAIL, Status.WARN, Status.INVALID})
_COUNTED = frozenset({"prompts", "singles_rate", "block_efficiency"})
"""Sums that fall because a part of them is missing."""
_OF_MEAN = frozenset({"block_efficiency"})
"""What is given in per cent of the mean of all modules rises everywhere else when one of them falls."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Scan with one place masked. text: the suggestion; grounds: why that much is left to scan with."""

    node: str
    text: str
    grounds: str


def masking(run: Run) -> Suggestion | None:
    """The suggestion of a run, if there is one to make."""
    numbers = run.channels.get("channel")
    if run.verdict is not Status.FAIL or not run.diagnosis or numbers is None or not len(numbers):
        return None
    if not all(h.cause[:3] in LOCAL for h in run.diagnosis):
        return None
    topology = topology_of(run.channels)
    nodes = tree(topology)
    is_out = np.zeros(len(topology), np.bool_)
    for column in run.columns:
        if column.status.size == is_out.size:
            is_out |= np.isin(column.status.astype(str), (str(Status.WARN), str(Status.FAIL)))
    by_name = {place.node: place.members for place in nodes}
    by_name |= {channel_node(int(topology.channels[i])): np.array([i]) for i in np.flatnonzero(is_out)}
    if not all(h.node in by_name for h in run.diagnosis):
        return None
    concerned = np.union1d(np.concatenate([by_name[h.node] for h in run.diagnosis]), np.flatnonzero(is_out))
    bad = [c for c in run.checks if c.status in _BAD]
    for place in nodes:
        if place.level not in _LEVELS or place.members.size > MOST_MASKED * len(topology):
            continue
        if not np.isin(concerned, place.members).all():
            continue
        inside = {name for name, members in by_name.items() if np.isin(members, place.members).all()}
        above = {
            name for name, members in by_name.items() if name not in inside and np.isin(place.members, members).all()
        }
        if all(_is_of(c, inside, above) for c in bad):
            return _suggest(run, place, address(topology, place), len(topology), len(bad))
    return None


def _is_of(result: CheckResult, inside: set[str], above: set[str]) -> bool:
    """Whether a result is the place's own, or a count or sum or mean that it alone has spoilt."""
    parts = result.node.split(" - ")
    if any(part in inside for part in parts):
        return True
    if result.value is None:
        return False
    if result.id in _OF_MEAN and result.status is Status.WARN and result.value > (result.baseline or result.value):
        return True
    return (result.unit == "channels" or result.id in _COUNTED) and any(part in above for part in parts)


def _suggest(run: Run, place: Place, where: str, channels: int, bad: int) -> Suggestion:
    good = sum(1 for c in run.checks if c.status is Status.PASS)
    share = 100.0 * place.members.size / channels
    return Suggestion(
        place.node,
        f"scan with {where} masked, if the physicist agrees",
        f"every flagged channel is in it; all {bad} values that are outside limits or missing are its own, or counts "
        f"and means that it is part of; {good} other values are inside their limits; it has {place.members.size} of "
        f"{channels} channels ({share:.2g} %); and the likely cause ({run.diagnosis[0].cause}) is nothing that other "
        "parts share. The normalisation must know the mask.",
    )
