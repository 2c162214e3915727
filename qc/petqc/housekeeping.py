"""Housekeeping: readings of the hardware, taken twice without bias and without a source, to a run with a verdict.

The first reading says what counters stood at, the last what they and everything else came to. What was not read is
missing, never good.

Source: daily-qc.md §5.1, P0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc.check_input import CheckInput
from petqc.limits import Status
from petqc.verdict import Words, conclude

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.calibrate.ages import TableAge
    from petqc.channel_map import Topology
    from petqc.qc_input import RunContext
    from petqc.results import EnvironmentReading, Run

    Readings = Mapping[tuple[str, str], EnvironmentReading]

WORDS: Final = Words(
    opening={
        Status.FAIL: "Housekeeping out of limits: ",
        Status.WARN: "Look at ",
        Status.INVALID: "Housekeeping not whole: ",
    },
    passing="Housekeeping as it should be: ",
    headlines=("link_errors", "calibration_age"),
    essential="clock_lock",
    without_essential="nothing tells whether the clocks are locked",
)
_NAMED = 4
"""So many places are named in a reason."""
_OF_UNITS = ("board", "asic", "lane", "link", "supply", "module")
_OF_ASICS = ("asic", "lane")


@dataclass(slots=True)
class HousekeepingInput(CheckInput):
    """Readings by name and node, handed to every check of housekeeping.

    first, last: at the beginning and at the end. watched_s: time between them. ages: of the calibration in use.
    """

    first: Readings
    last: Readings
    watched_s: float
    ages: Sequence[TableAge]
    of: Topology
    context: RunContext

    @property
    def topology(self) -> Topology:
        """The channels of the board."""
        return self.of

    def grown(self, name: str, node: str) -> float | None:
        """By how much a counter rose; None if it was not read twice or went backwards."""
        a, b = self.first.get((name, node)), self.last.get((name, node))
        if a is None or b is None or a.value is None or b.value is None or b.value < a.value:
            return None
        return b.value - a.value

    def unit_of(self, node: str) -> str | None:
        """The board that a reading's node belongs to; None: none."""
        kind, _, address = node.partition(":")
        return "unit:" + ".".join(address.split(".")[:2]) if kind in _OF_UNITS else None

    def module_of(self, node: str) -> str | None:
        """The module that a reading's node belongs to; None: none, or one that is not in use."""
        kind, _, address = node.partition(":")
        if kind == "module":
            return node if node in self.of.module_nodes else None
        if kind not in _OF_ASICS:
            return None
        asic = "asic:" + ".".join(address.split(".")[:3])
        if asic not in self.of.asic_nodes:
            return None
        at = self.of.asic_nodes.index(asic)
        return self.of.module_nodes[int(self.of.module[self.of.asic == at][0])]

    @staticmethod
    def named(found: Sequence[str]) -> str | None:
        """Some places in words; None: there is none."""
        if not found:
            return None
        more = len(found) - _NAMED
        return ", ".join(found[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def by_place(readings: Sequence[EnvironmentReading]) -> Readings:
    """Readings by name and node; the last of each counts."""
    return {(r.name, r.node): r for r in readings}


def analyse_housekeeping(
    first: Sequence[EnvironmentReading],
    last: Sequence[EnvironmentReading],
    watched_s: float,
    ages: Sequence[TableAge],
    topology: Topology,
    context: RunContext,
) -> Run:
    """Every check of housekeeping, and the verdict.

    Args:
        first: readings at the beginning.
        last: at the end; temperatures are taken from the context's environment.
        watched_s: time between them.
        ages: of the tables of the calibration in use.
        topology: all channels of the board.
        context: everything else that is known about the run.
    """
    from petqc.checks import checks_of, run_checks

    shared = HousekeepingInput(by_place(first), by_place(last), watched_s, ages, topology, context)
    return conclude(topology, context, run_checks(checks_of("housekeeping"), shared), WORDS)
