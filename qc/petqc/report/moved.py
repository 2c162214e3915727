"""What has moved since the run before, since the calibration, since the baseline: short lists for the first page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc.report.text import moment, plain, title_of, unit_text

if TYPE_CHECKING:
    from petqc.past import Change
    from petqc.results import Run


@dataclass(frozen=True, slots=True)
class MovedRow:
    """One line of what has moved."""

    title: str
    node: str
    text: str
    status: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What has moved since a moment."""

    since: str
    at: str
    rows: tuple[MovedRow, ...]
    more: int
    told: str


def moved(run: Run) -> list[Moved]:
    """What has moved since the run before, since the calibration, since the baseline: a list each."""
    found = []
    for c in () if run.past is None else run.past.changes:
        rows = tuple(MovedRow(title_of(f.check), f.node, change_text(f), _sign_of(f)) for f in c.found)
        compared = f"{c.compared} numbers compared; listed beyond {c.limit:.1f} σ of their own error"
        of = f", or with another status. Run {c.run_id}." if c.run_id else "."
        remarks = f" What else differs: {'; '.join(c.remarks)}." if c.remarks else ""
        found.append(Moved(c.since, moment(c.at), rows, c.more, compared + of + remarks))
    return found


def change_text(change: Change) -> str:
    """`510.2 → 509.1 keV (−4.3 σ), pass → warn`."""
    unit = f" {unit_text(change.unit)}" if change.unit else ""
    before, now = ("no number" if v is None else plain(v) for v in (change.before, change.now))
    if change.now is None:
        before, unit = before + unit, ""
    sigmas = "" if change.sigmas is None else f" ({change.sigmas:+.1f} σ)"
    is_other = change.status_before and change.status_before != change.status
    status = f", {change.status_before} → {change.status}" if is_other else ""
    return f"{before} → {now}{unit}{sigmas}{status}"


def _sign_of(change: Change) -> str:
    return change.status if change.status in _SIGNS else "no-limits"


_SIGNS = ("pass", "warn", "fail", "invalid")
