"""What a run is told of the past: how its numbers went over the last weeks, and what has moved since when.

It becomes part of the run's document, so that a report made from the document alone shows the same on any day.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from petqc.compare import COUNTED, SIGNIFICANT, compare, is_other_count
from petqc.statistics import family_sigmas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.baseline import AcceptedBaseline
    from petqc.results import Run

TREND_DAYS: Final = 90.0
"""A quarter of a year, as of a tile on the first page."""
MOST_CHANGES: Final = 12
"""Since each moment; a run in which more has moved has one cause, and the worst show it."""


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One value of the past. at: ISO 8601. calibration: 0, 1, …, another number for another calibration."""

    at: str
    value: float
    uncertainty: float
    status: str
    calibration: int


@dataclass(frozen=True, slots=True)
class Trend:
    """One check at one node over the last `TREND_DAYS`, oldest first, this run last."""

    check: str
    node: str
    unit: str
    points: tuple[TrendPoint, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One number that moved. before, now: in `unit`, None where there was none. sigmas: of the change's own error."""

    check: str
    node: str
    unit: str
    before: float | None
    now: float | None
    sigmas: float | None
    status_before: str
    status: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What moved since a moment, the most remarkable first.

    since: in words. run_id: of the run compared with; None: a baseline. at: its time. compared: numbers that both have.
    limit: standard deviations that one of that many healthy numbers exceeds in one run of a hundred. more: left out.
    remarks: what else differs, such as the calibration.
    """

    since: str
    run_id: str | None
    at: str
    compared: int
    limit: float
    found: tuple[Change, ...]
    more: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """All of it."""

    trends: tuple[Trend, ...] = ()
    changes: tuple[Changes, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "trends": [{**asdict(t), "points": [asdict(p) for p in t.points]} for t in self.trends],
            "changes": [
                {**asdict(c), "found": [asdict(f) for f in c.found], "remarks": list(c.remarks)} for c in self.changes
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Past:
        """What `document` wrote."""
        return cls(
            tuple(Trend(**{**t, "points": tuple(TrendPoint(**p) for p in t["points"])}) for t in document["trends"]),
            tuple(
                Changes(
                    **{**c, "found": tuple(Change(**f) for f in c["found"]), "remarks": tuple(c["remarks"])},
                )
                for c in document["changes"]
            ),
        )


def since_run(run: Run, earlier: Run, since: str) -> Changes:
    """What moved since an earlier run.

    Args:
        run: this one.
        earlier: the other one.
        since: what it is, in words.
    """
    comparison = compare(earlier, run)
    both = [d for d in comparison.differences if d.a is not None and d.b is not None]
    limit = _limit(len(both))
    moved = [
        Change(d.check, d.node, d.unit, d.a, d.b, d.sigmas, d.status_a, d.status_b)
        for d in comparison.differences
        if d.is_counted or _is_remarkable(d.sigmas, d.status_a, d.status_b, limit)
    ]
    return _changes(since, earlier.run_id, earlier.started_at, len(both), limit, moved, comparison.remarks)


def since_baseline(run: Run, baseline: AcceptedBaseline, at_d: float, half_life_d: float | None) -> Changes:
    """What moved since a baseline, whose values and errors are brought to the run's day.

    Args:
        run: this one.
        baseline: what it is compared with.
        at_d: day of the run, since 1970.
        half_life_d: of the source; None: it does not decay.
    """
    references = baseline.references(run.calibration_ids, at_d, half_life_d)
    errors = baseline.reference_errors(run.calibration_ids, at_d, half_life_d)
    found, compared = [], 0
    of_run = {(c.id, c.node): c for c in run.checks if c.value is not None and not c.is_chart}
    for (check, node), result in of_run.items():
        before = references.get(check, {}).get(node)
        if before is None or result.value is None:
            continue
        compared += 1
        error = ((result.uncertainty or 0.0) ** 2 + errors[check][node] ** 2) ** 0.5
        change = result.value - before
        sigmas = change / error if error and result.unit != COUNTED else None
        one = Change(check, node, result.unit, before, result.value, sigmas, "", str(result.status))
        found.append((one, is_other_count(result.unit, change)))
    limit = _limit(compared)
    moved = [c for c, is_other in found if is_other or _is_remarkable(c.sigmas, c.status, c.status, limit)]
    moved.sort(key=lambda c: -abs(c.sigmas or 0.0))
    return _changes(f"{baseline.role} baseline {baseline.number}", None, baseline.at, compared, limit, moved, ())


def _limit(n: int) -> float:
    return max(family_sigmas(n), SIGNIFICANT)


def _is_remarkable(sigmas: float | None, before: str, now: str, limit: float) -> bool:
    return before != now or (sigmas is not None and abs(sigmas) > limit)


def _changes(
    since: str, run_id: str | None, at: str, compared: int, limit: float, moved: list[Change], remarks: Sequence[str]
) -> Changes:
    more = max(len(moved) - MOST_CHANGES, 0)
    return Changes(since, run_id, at, compared, limit, tuple(moved[:MOST_CHANGES]), more, tuple(remarks))
