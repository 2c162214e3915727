"""Two runs side by side: what moved, by how much, and whether that is more than both their uncertainties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from petqc.results import CheckResult, EnvironmentReading, Run

SIGNIFICANT: Final = 3.0
"""Differences of more of their own standard errors are said to have moved."""
_SHOWN: Final = 3
COUNTED: Final = "channels"
"""Unit of what is counted: it has no noise, and one channel more has moved."""


def is_other_count(unit: str, change: float | None) -> bool:
    """Whether a change is one of a count, by one or more."""
    return unit == COUNTED and change is not None and abs(change) >= 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One check at one node in both runs; values in `unit`. change is b - a; sigmas: over its standard error.

    change is None where one of the runs has no value; sigmas also where none of them has an uncertainty, and of counts.
    """

    check: str
    node: str
    unit: str
    a: float | None
    b: float | None
    change: float | None
    error: float | None
    status_a: str
    status_b: str

    @property
    def sigmas(self) -> float | None:
        """The change over its standard error."""
        if self.change is None or not self.error or self.unit == COUNTED:
            return None
        return self.change / self.error

    @property
    def is_counted(self) -> bool:
        """Whether a count has changed, by one or more."""
        return is_other_count(self.unit, self.change)

    @property
    def has_moved(self) -> bool:
        """More than its errors explain, or another status, or a value that is there in one run only."""
        if (self.a is None) != (self.b is None) or self.status_a != self.status_b:
            return True
        return self.is_counted or (self.sigmas is not None and abs(self.sigmas) > SIGNIFICANT)

    @property
    def is_same(self) -> bool:
        """Value, or none, and status are the same to the last digit."""
        return self.a == self.b and self.status_a == self.status_b

    @property
    def weight(self) -> float:
        """For an order by how remarkable it is: other statuses first, then by standard errors."""
        first = 1e6 if self.status_a != self.status_b else 0.0
        if (self.a is None) != (self.b is None):
            first += 1e6
        if self.is_counted:
            first += 1e5
        return first + abs(self.sigmas or 0.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a. differences: of everything that both or one of them measured, the most remarkable first.

    remarks: what else differs, such as calibration, configuration, software or scanner.
    """

    differences: list[Difference]
    remarks: list[str]

    @property
    def n_same(self) -> int:
        """Values that are the same to the last digit, as those of a recording that was analysed again must be."""
        return sum(difference.is_same for difference in self.differences)


def compare(a: Run, b: Run) -> Comparison:
    """Every check at every node above channels; charts, which compare with a history already, are left out."""
    of_a, of_b = _by_place(a), _by_place(b)
    found = []
    for key in [*of_a, *(k for k in of_b if k not in of_a)]:
        one, other = of_a.get(key), of_b.get(key)
        unit = (one or other).unit  # type: ignore[union-attr]  # the key is from one of them
        value_a, value_b = (None if c is None else c.value for c in (one, other))
        change = None if value_a is None or value_b is None else value_b - value_a
        errors = [c.uncertainty for c in (one, other) if c is not None and c.uncertainty is not None]
        error = math.hypot(*errors) if change is not None and errors else None
        status_a, status_b = ("not there" if c is None else str(c.status) for c in (one, other))
        found.append(Difference(*key, unit, value_a, value_b, change, error, status_a, status_b))
    found.sort(key=lambda d: -d.weight)
    return Comparison(found, _remarks(a, b))


def _by_place(run: Run) -> dict[tuple[str, str], CheckResult]:
    return {(c.id, c.node): c for c in run.checks if not c.node.startswith("channel:") and not c.is_chart}


def _remarks(a: Run, b: Run) -> list[str]:
    told = [
        f"{which} is a re-analysis of {'the first' if run.reanalysis_of == a.run_id else f'run {run.reanalysis_of}'}"
        for which, run in (("the first", a), ("the second", b))
        if run.reanalysis_of
    ]
    if told and a.raw_files != b.raw_files:
        told.append("they are of different recordings")
    for name, one, other in (
        ("kind", a.kind, b.kind),
        ("scanner", a.scanner, b.scanner),
        ("simulated", a.simulated, b.simulated),
        ("configuration", a.config_hash[:12], b.config_hash[:12]),
        ("likeliest cause", _cause(a), _cause(b)),
    ):
        if one != other:
            told.append(f"{name}: {one or 'none'} and {other or 'none'}")
    for what, first, second in (
        ("calibration", a.calibration_ids, b.calibration_ids),
        ("software", a.software, b.software),
    ):
        names = sorted(n for n in first.keys() | second.keys() if first.get(n) != second.get(n))
        told += [f"{what} {n}: {first.get(n, 'none')[:12]} and {second.get(n, 'none')[:12]}" for n in names]
    return told + _readings(a, b)


def _cause(run: Run) -> str:
    return f"{run.diagnosis[0].cause} at {run.diagnosis[0].node}" if run.diagnosis else ""


def _readings(a: Run, b: Run) -> list[str]:
    """Readings around the detector that differ by value, in one sentence; the last of each name and node counts."""
    of_a, of_b = ({(r.name, r.node): r for r in run.environment} for run in (a, b))
    other = [k for k in of_a if k in of_b and of_a[k].value != of_b[k].value]
    alone = of_a.keys() ^ of_b.keys()
    if not other and not alone:
        return []
    shown = [
        f"{name.replace('_', ' ')} at {node} {_number(of_a[name, node])} and {_number(of_b[name, node])}"
        for name, node in other[:_SHOWN]
    ]
    parts = [f"{len(other)} of {len(of_a.keys() & of_b.keys())} differ"] if other else []
    parts += [f"{len(alone)} are in one of them only"] if alone else []
    return [f"readings: {', '.join(parts)}" + (f" ({'; '.join(shown)})" if shown else "")]


def _number(reading: EnvironmentReading) -> str:
    return "none" if reading.value is None else f"{reading.value:.4g} {reading.unit}".rstrip()
