"""From flags to named causes: where it is, what it probably is, on what evidence, and which test decides.

`diagnose` looks at a run's results, channel columns and readings only; the same run gives the same hypotheses.

1. Places: for each quantity, the smallest place of the hardware tree that explains the deviations (`signs`, `places`).
2. Causes: what moved and what did not move at that place, against the signatures of the catalogue (`catalogue`).
3. Never a bare name: sentences with numbers, and the next test (`words`).

Source: daily-qc.md §3, root-cause logic.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.diagnosis.catalogue import CATALOGUE, EITHER, Cause
from petqc.diagnosis.places import SAME, Place, facing, scanner, topology_of, tree
from petqc.diagnosis.signs import Deviations, Quantity, Sign, deviations, scattered, steps
from petqc.diagnosis.single_signs import SIGMAS, chart_signs, mixed, single_signs
from petqc.diagnosis.witnesses import Witnesses
from petqc.diagnosis.words import evidence, next_step
from petqc.limits import Status
from petqc.results import Hypothesis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.results import Run

log = logging.getLogger(__name__)

__all__ = ["diagnose", "diagnose_again"]

_REMARK = "Diagnosis:"
MIN_SCORE = 0.35
"""A cause that fits worse is not named."""
MOST = 8
_ECHO = 0.85
"""Timing that is off by less than this share of what another module's part is off by may be its echo."""
_TIMES = frozenset({"width", "offset", "side_peak"})
_OF_ALL = frozenset({"frames", "unused", "source", "window"})
"""Quantities of the whole run: they explain what else is off, and come first."""

_OF_WINDOWS = frozenset({"prompts", "width"})
"""What another window moves of the whole scanner, and need not be said beside it."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Everything that moved at one place, the strongest first."""

    place: Place
    signs: tuple[Sign, ...]

    def find(self, quantity: Quantity) -> Sign | None:
        return next((s for s in self.signs if s.quantity == quantity), None)


def diagnose(topology: Topology, run: Run) -> tuple[list[Hypothesis], str]:
    """Ranked hypotheses, and a remark where something was flagged that none of them fits.

    A diagnosis that breaks is a remark, too: what was measured and judged does not depend on it.

    Args:
        topology: the channels and what they are connected to.
        run: with its results and columns.
    """
    try:
        return _hypotheses(topology, run)
    except Exception as error:
        log.exception("the diagnosis of run %s", run.run_id)
        told = f"{type(error).__name__}: {error}"
        return [], f"{_REMARK} it did not work ({told}); what was measured and judged does not depend on it."


def _hypotheses(topology: Topology, run: Run) -> tuple[list[Hypothesis], str]:
    flags = [c for c in run.checks if c.status in {Status.WARN, Status.FAIL}]
    is_out = np.zeros(len(topology), np.bool_)
    for column in run.columns:
        if column.status.size == is_out.size:
            is_out |= np.isin(column.status.astype(str), (str(Status.WARN), str(Status.FAIL)))
    if not flags and not is_out.any():
        return [], ""
    nodes = tree(topology)
    found = deviations(topology, run)
    witnesses = Witnesses(run, topology.module_nodes)
    groups = _groups(_signs(topology, run, nodes, found))
    ranked: list[tuple[float, int, Hypothesis]] = []
    same = _of_same_channels(nodes)
    for number, (found_group, share) in enumerate(zip(groups, _shares(groups, is_out), strict=True)):
        for cause in CATALOGUE:
            group = _placed(cause, found_group, same)
            fit = _fit(cause, group, found, witnesses)
            if fit >= MIN_SCORE:
                ranked.append((fit * share, number, _hypothesis(topology, cause, group, found, fit, is_out, witnesses)))
    best: dict[tuple[int, str], tuple[float, int, Hypothesis]] = {}
    for one in ranked:
        best.setdefault((one[1], one[2].cause), one)  # a cause may be known by more than one first sign
    ranked = list(best.values())
    # Every place first with its best cause, the place that explains most before the others; then what else it could be.
    ranked.sort(key=lambda r: (-r[0], r[1]))
    firsts = {number: place for place, (_, number, _) in reversed(list(enumerate(ranked)))}
    order = [*sorted(firsts.values()), *(k for k in range(len(ranked)) if k not in firsts.values())]
    if order:
        return [ranked[k][2] for k in order[:MOST]], ""
    told = ", ".join(dict.fromkeys(f"{c.id} at {c.node}" for c in flags[:3])) or f"{int(is_out.sum())} channels"
    return [], f"{_REMARK} no hypothesis of the catalogue fits what was flagged ({told})."


def diagnose_again(run: Run) -> None:
    """Diagnose a run whose checks have grown since (by control charts), from the channels that it carries."""
    numbers = run.channels.get("channel")
    if numbers is None or not len(numbers):
        return
    topology = topology_of(run.channels)
    run.notes = [note for note in run.notes if not note.startswith(_REMARK)]
    run.diagnosis, remark = diagnose(topology, run)
    run.notes += [remark] if remark else []


def _signs(topology: Topology, run: Run, nodes: Sequence[Place], found: Mapping[Quantity, Deviations]) -> list[Sign]:
    """Everything that moved; what explains other signs away leaves them out."""
    single = single_signs(topology, run, nodes)
    of_all = [s for s in single if s.quantity in _OF_ALL]
    if any(s.quantity == "source" for s in of_all):
        # Crystals that go by each other's name put the source elsewhere, too; their energies do not know where it is.
        if not scattered({q: one for q, one in found.items() if q == "energy"}, nodes):
            return of_all
        of_all = [s for s in of_all if s.quantity != "source"]
    swapped = scattered(dict(found), nodes)
    n_asics = sum(place.level == "asic" for place in nodes)
    if swapped and len(swapped) >= SAME * n_asics:
        everything = scanner(topology)
        told = f"{len(swapped)} of {n_asics} ASICs alike: {swapped[0].told}"
        return [*of_all, replace(swapped[0], place=everything, channels=everything.members.size, told=told)]
    if swapped:
        names = [s.place.node for s in swapped]
        return [
            *of_all,
            *(replace(s, told=f"{s.told}; so does {_others(names, s.place.node)}") for s in swapped),
        ]
    left_out = np.zeros(len(topology), np.bool_)
    for sign in single:
        if sign.quantity in {"dead", "hot"}:
            left_out[sign.place.members] = True
    pairs = facing(topology, run)
    moved = [
        s
        for quantity, one in found.items()
        if quantity != "temperature"  # a reading states its place itself
        for s in steps(topology, one, [*nodes, *pairs] if quantity == "width" else nodes, left_out)
        if _is_flagged(run, one, s)
    ]
    known = mixed(_without_echoes(topology, [*single, *moved]), nodes)
    signs = [*known, *chart_signs(topology, run, nodes, known)]
    if any(s.quantity == "window" for s in of_all):
        return [s for s in signs if s.quantity not in _OF_WINDOWS or s.place.level not in {"scanner", "pair"}]
    return signs


def _others(names: Sequence[str], name: str) -> str:
    return ", ".join(n for n in names if n != name) or "no other ASIC"


def _without_echoes(topology: Topology, signs: Sequence[Sign]) -> list[Sign]:
    """A part whose times are wrong makes those of its partners in other modules look worse, too, only less."""
    timed = [s for s in signs if s.quantity in _TIMES and s.place.level not in {"scanner", "pair"}]
    modules = {id(s): set(topology.module[s.place.members].tolist()) for s in timed}
    return [
        sign
        for sign in signs
        if not any(
            sign is s
            and other.quantity == s.quantity
            and abs(s.value) < _ECHO * abs(other.value)
            and modules[id(s)].isdisjoint(modules[id(other)])
            for s in timed
            for other in timed
        )
    ]


def _is_flagged(run: Run, one: Deviations, sign: Sign) -> bool:
    """Whether a check has something against it: below its limits nothing is a hypothesis."""
    if one.flagged[sign.place.members].any():
        return True
    return any(
        c.status in {Status.WARN, Status.FAIL} and c.id.partition(".")[0] in one.measure.checks for c in run.checks
    )


def _groups(signs: Sequence[Sign]) -> list[_Group]:
    """Signs of one place together; a side peak, width and offset of one channel are one thing."""
    groups: list[tuple[Place, list[Sign]]] = []
    for sign in signs:
        for place, members in groups:
            if place.overlap(sign.place) >= SAME and sign.quantity not in {s.quantity for s in members}:
                members.append(sign)
                break
        else:
            groups.append((sign.place, [sign]))
    groups = _told_apart(groups)
    found = [_Group(place, tuple(members)) for place, members in groups]
    return [group for group in found if not any(_is_echo(group, other) for other in found)]


def _told_apart(groups: list[tuple[Place, list[Sign]]]) -> list[tuple[Place, list[Sign]]]:
    """Times of two facing modules that cannot be told apart belong to the one that has something else the matter."""
    kept = []
    for place, members in groups:
        inside = [
            (other, signs)
            for other, signs in groups
            if place.level == "pair" and other.level == "module" and place.overlap(other) > 0.0
        ]
        times = all(s.quantity in _TIMES for s in members)
        if times and len(inside) == 1 and not {s.quantity for s in members} & {s.quantity for s in inside[0][1]}:
            inside[0][1].extend(members)
        else:
            kept.append((place, members))
    return kept


def _is_echo(group: _Group, other: _Group) -> bool:
    """Whether all that is off at a place is a time that another place, which has more to show, may have made so."""
    if group is other or len(other.signs) <= len(group.signs) or group.place.overlap(other.place) > 0.0:
        return False
    return all(
        s.quantity in _TIMES and (same := other.find(s.quantity)) is not None and abs(s.value) < 1.1 * abs(same.value)
        for s in group.signs
    )


def _shares(groups: Sequence[_Group], is_out: NDArray[np.bool_]) -> list[float]:
    """Of all flagged channels that any of the places explains, the share of each; readings and means stand alone."""
    explained = np.zeros(is_out.size, np.bool_)
    for group in groups:
        explained[group.place.members] |= is_out[group.place.members]
    total = int(explained.sum())
    shares = []
    for group in groups:
        mine = int(is_out[group.place.members].sum())
        whole = mine == 0 or any(s.quantity in _OF_ALL for s in group.signs)
        shares.append(1.0 if whole else mine / total)
    return shares


def _of_same_channels(nodes: Sequence[Place]) -> dict[bytes, list[Place]]:
    """Nodes by their channels: a bias output may feed exactly one ASIC, and an ASIC may be all of a module."""
    found: dict[bytes, list[Place]] = {}
    for place in nodes:
        found.setdefault(place.members.tobytes(), []).append(place)
    return found


def _placed(cause: Cause, group: _Group, same: Mapping[bytes, Sequence[Place]]) -> _Group:
    """The group at that node of the same channels where this cause sits, if it may sit at another than it was found."""
    if group.place.level not in {"bias", "asic", "module"}:
        return group
    places = (group.place, *same.get(group.place.members.tobytes(), ()))
    return replace(group, place=max(places, key=lambda place: cause.levels.get(place.level, 0.0)))


def _fit(cause: Cause, group: _Group, found: Mapping[Quantity, Deviations], witnesses: Witnesses) -> float:
    """How well a cause's signature fits what moved and what did not, 0 to 1."""
    level = cause.levels.get(group.place.level, 0.0)
    sign = group.find(cause.first[0])
    if level == 0.0 or sign is None or not _is(cause.first[1], 1 if sign.value > 0 else -1):
        return 0.0
    right, weight = 2.0, 2.0 + len(cause.signs)
    for quantity, wanted in cause.witnesses.items():
        heard = witnesses.seen(quantity, group.place, sign.value) if sign.unit == "ps" else None
        if heard is None and quantity == cause.needs:
            return 0.0
        if heard is not None:
            weight += 1.0
            right += 1.0 if _is(wanted, heard) else -1.0
    for quantity, wanted in cause.signs.items():
        seen = _seen(quantity, group, found)
        if seen is not None:
            right += 1.0 if _is(wanted, seen) else -1.0
    # What moved here and is not part of the signature speaks against it.
    expected = {cause.first[0], "resolution", *cause.signs, *cause.may}
    strange = [s for s in group.signs if s.quantity not in expected]
    score = max(right - 0.5 * len(strange), 0.0) / weight
    if cause.sizes is not None and sign.unit != SIGMAS and not cause.sizes[0] <= abs(sign.value) <= cause.sizes[1]:
        score *= 0.7
    for quantity, (low, high) in cause.others.items():
        size = _size(quantity, group, found)
        if size is not None and not low <= abs(size) <= high:
            score *= 0.7
    return level * min(score, 1.0)


def _is(wanted: int, seen: int) -> bool:
    return seen != 0 if wanted == EITHER else seen == wanted


def _seen(quantity: Quantity, group: _Group, found: Mapping[Quantity, Deviations]) -> int | None:
    """+1, -1, 0 for not moved, None where it was not measured well enough to say."""
    sign = group.find(quantity)
    if sign is not None:
        return 1 if sign.value > 0 else -1
    one = found.get(quantity)
    if one is None:
        return None
    mean, error, n = one.mean(group.place.members)
    least = one.least(group.place)
    if n == 0 or error > 0.5 * least:
        return None
    if abs(mean) < max(0.5 * least, 3.0 * error):
        return 0
    return 1 if mean > 0 else -1


def _size(quantity: Quantity, group: _Group, found: Mapping[Quantity, Deviations]) -> float | None:
    """By how much a quantity moved at a place; None where that is not known."""
    if (sign := group.find(quantity)) is not None:
        return None if sign.unit == SIGMAS else sign.value
    one = found.get(quantity)
    mean = math.nan if one is None else one.mean(group.place.members)[0]
    return None if math.isnan(mean) else mean


def _hypothesis(
    topology: Topology, cause: Cause, group: _Group, found: Mapping[Quantity, Deviations], score: float,
    is_out: NDArray[np.bool_], witnesses: Witnesses,
) -> Hypothesis:  # fmt: skip
    return Hypothesis(
        f"{cause.id} {cause.title}",
        group.place.node,
        round(score, 3),
        tuple(evidence(topology, group.place, group.signs, cause, found, is_out, witnesses)),
        next_step(topology, cause, group.place),
    )
