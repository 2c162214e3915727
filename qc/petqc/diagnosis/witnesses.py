"""What instruments with a clock of their own say where the readout says that a module's times have moved.

A timing board sees the modules' fast outputs and no clock of the readout; a counter sees clocks and no module. So a
module that has moved by itself (front end, cable, bias) moves on the board and leaves the clocks alone; a clock, or the
reference that they come from, that has moved leaves the board's intervals alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import REFERENCE_CLOCK
from petqc.checks.clock_skew import CLOCK_SKEW
from petqc.checks.time_interval import TIME_INTERVAL
from petqc.diagnosis.places import compared, scanner
from petqc.diagnosis.signs import Sign
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.channel_map import Topology
    from petqc.diagnosis.places import Place
    from petqc.diagnosis.signs import Quantity
    from petqc.results import Run

_SAME, _SURE = 0.5, 0.2
"""A witness that moved by this share of what the readout says has seen it too; it must be sure to this share."""
_LEAST_ERROR_PS = 1.0
WITNESSES: Mapping[Quantity, tuple[str, str]] = {
    "interval": (TIME_INTERVAL, "the timing board"),
    "clock": (CLOCK_SKEW, "the counter between the clocks"),
}
"""Check and name of each."""


class Witnesses:
    """How far modules and clocks have moved by each witness, against the baselines of its results; pure.

    Args:
        run: with its results.
        modules: nodes of all modules.
    """

    def __init__(self, run: Run, modules: Sequence[str]) -> None:
        self._moved: dict[Quantity, dict[str, tuple[float, float]]] = {}
        for quantity, (check, _) in WITNESSES.items():
            edges = []
            for c in run.checks:
                if c.id == check and c.value is not None and c.baseline is not None:
                    first, _, second = c.node.partition(" - ")
                    edges.append((first, second, c.value - c.baseline, max(c.uncertainty or 0.0, _LEAST_ERROR_PS)))
            self._moved[quantity] = _solved(edges, modules)

    def moved(self, quantity: Quantity, place: Place) -> tuple[float, float] | None:
        """By how much a module has moved against the others, or of two modules one against the other, and its error.

        None: this witness says nothing of that place.
        """
        found = self._moved[quantity]
        if place.level != "pair":
            return found.get(place.node)
        mine = [found[node] for node in place.node.split(" - ") if node in found]
        if not mine:
            return None
        signed = mine if len(mine) == 1 else [(-mine[0][0], mine[0][1]), mine[1]]
        return sum(value for value, _ in signed), math.hypot(*(error for _, error in signed))

    def seen(self, quantity: Quantity, place: Place, offset_ps: float) -> int | None:
        """Whether a witness saw what the readout says (1 or 0); None: it was not there or cannot tell."""
        found = self.moved(quantity, place)
        if found is None or found[1] > _SURE * abs(offset_ps):
            return None
        sees = abs(found[0]) >= _SAME * abs(offset_ps)
        if not sees and not set(place.node.split(" - ")) <= set(self._moved[quantity]):
            return None  # the one of the two that it does not look at may have moved
        return int(sees)

    def told(self, quantity: Quantity, place: Place, offset_ps: float) -> str | None:
        """The same in words."""
        found, seen = self.moved(quantity, place), self.seen(quantity, place, offset_ps)
        if found is None or seen is None:
            return None
        value, error = found
        sees = "sees it too" if seen else "does not see it"
        return f"{WITNESSES[quantity][1]} {sees}: {value:+.0f} ± {max(error, 1.0):.0f} ps against its baseline"


def clock_signs(topology: Topology, run: Run, by_name: Mapping[str, Place]) -> list[Sign]:
    """Clocks that have moved, and timing instruments that have lost their reference."""
    signs = []
    for c in run.checks:
        if c.status not in {Status.WARN, Status.FAIL} or c.value is None:
            continue
        if c.id == "clock_reference":
            signs.append(Sign("reference", scanner(topology), c.value, 0.0, c.unit, 0, c.reason or ""))
        elif c.id == CLOCK_SKEW and c.baseline is not None:
            moved, two = c.value - c.baseline, len(topology.module_nodes) == 2
            told = f"the clock skew {c.node} has moved by {moved:+.0f} ± {c.uncertainty or 0:.1g} ps"
            nodes = [node for node in c.node.split(" - ") if node in by_name]
            place = compared(topology) if two else by_name[nodes[0]]
            signs.append(Sign("clock", place, moved, c.uncertainty or 0.0, "ps", 0, told))
    return signs


def _solved(edges: Sequence[tuple[str, str, float, float]], modules: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Movement and error of each module from those of pairs, first minus second, by least squares.

    Against the reference where a pair has it; else against the median module, or of two modules the second's against
    the first's as half to either side.
    """
    names = sorted({name for a, b, _, _ in edges for name in (a, b)})
    if not names or not set(names) <= {REFERENCE_CLOCK, *modules}:
        return {}
    at = {name: k for k, name in enumerate(names)}
    design = np.zeros((len(edges), len(names)))
    for row, (a, b, _, _) in enumerate(edges):
        design[row, at[a]], design[row, at[b]] = 1.0, -1.0
    error = np.array([e for _, _, _, e in edges])
    change = np.array([c for _, _, c, _ in edges])
    inverse = np.linalg.pinv(design / error[:, None])
    moved, covariance = inverse @ (change / error), inverse @ inverse.T
    own = np.diag(covariance)
    errors = np.sqrt(2.0 * own)
    if REFERENCE_CLOCK in at:
        reference = at[REFERENCE_CLOCK]
        moved = moved - moved[reference]
        errors = np.sqrt(own + own[reference] - 2.0 * covariance[reference])
    elif len(names) > 2:
        moved = moved - np.median(moved)
    return {name: (float(moved[k]), float(errors[k])) for name, k in at.items() if name != REFERENCE_CLOCK}
