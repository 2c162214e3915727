"""Trends: any quantity at any node over the runs of a kind, with what it is judged by and what happened in between."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from petqcd.errors import NotFoundError
from petqcd.store import schema
from petqcd.store.annotations import read_annotations

if TYPE_CHECKING:
    from petqcd.app import Daemon
    from petqcd.store import Store

MOST_RUNS = 4000
"""Of one trend: the days of ten years."""
_AT_ONCE = 400


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number that runs of a kind give: check, node, unit, and how many runs gave it."""

    check: str
    node: str
    unit: str
    runs: int


def quantities(store: Store, kind: str) -> list[Quantity]:
    """Every check and node that finished runs of a kind gave a number for; reads the history."""
    r, runs = schema.results.c, schema.runs.c
    query = (
        select(r.check_id, r.node, func.max(r.unit).label("unit"), func.count().label("runs"))
        .select_from(schema.results.join(schema.runs, runs.sequence == r.run))
        .where(runs.kind == kind, r.value.is_not(None))
        .group_by(r.check_id, r.node)
    )
    found = [Quantity(row["check_id"], row["node"], row["unit"], row["runs"]) for row in store.rows(query)]
    return sorted(found, key=lambda q: (q.check, q.node != "scanner", q.node))


def trend(daemon: Daemon, *, kind: str, check: str, node: str, scanner: str = "") -> dict[str, Any]:
    """One quantity over the runs of a kind on one scanner, oldest first, as plain types; reads the history.

    `points` have the value with its standard error, the status it was given, and the number of the calibration it was
    measured with: a step at another number is no drift. `limits` and `baseline` are those of the newest run. What was
    told in another unit than the newest is no point; `in_other_units` is how many there are.

    Args:
        daemon: whose history.
        kind: of the runs.
        check: id.
        node: of the scanner.
        scanner: name; default: the daemon's own, and where that has no such run the one with the newest.

    Raises:
        NotFoundError: no run of the kind gave this number.
    """
    store = daemon.store
    name, is_simulated = whose(daemon, kind, scanner)
    lines = store.values(kind, scanner=name, simulated=is_simulated, checks=(), most=MOST_RUNS)
    lines.sort(key=lambda line: line.started_at)  # imported history comes in any order
    values = _values(store, [line.run_id for line in lines], check, node)
    points: list[dict[str, Any]] = []
    calibration, before = -1, None
    for line in lines:
        if line.calibration_ids != before:
            calibration, before = calibration + 1, line.calibration_ids
        value = values.get(line.run_id)
        if value is not None:
            points.append({"run_id": line.run_id, "at": line.started_at, "calibration": calibration, **value})
    if not points:
        raise NotFoundError(f"no {kind} run gave {check} at {node}")
    unit = points[-1]["unit"]
    given, points = len(points), [point for point in points if point.pop("unit") == unit]
    newest = store.document(points[-1]["run_id"])
    judged = next(c for c in newest["checks"] if (c["id"], c["node"]) == (check, node))
    is_own = (name, is_simulated) == _own(daemon)
    accepted = daemon.baselines.current(kind) if is_own else None
    return {
        "kind": kind,
        "check": check,
        "node": node,
        "scanner": name,
        "simulated": is_simulated,
        "unit": unit,
        "points": points,
        "in_other_units": given - len(points),
        "limits": judged["limits"],
        "baseline": judged["baseline"],
        "accepted": None if accepted is None else {"number": accepted.number, "at": accepted.at, "who": accepted.who},
        "annotations": [one.document() for one in read_annotations(store)],
    }


def whose(daemon: Daemon, kind: str, scanner: str = "") -> tuple[str, bool]:
    """Name of the scanner that a trend is of, and whether it is simulated; `trend` says which."""
    own, there = _own(daemon), daemon.store.scanners(kind)
    wanted = [one for one in there if one[0] == scanner] if scanner else there
    return own if own in wanted or not wanted else wanted[0]


def _own(daemon: Daemon) -> tuple[str, bool]:
    return daemon.config.scanner.name, daemon.config.board.is_simulated


def quantity_documents(store: Store, kind: str) -> list[dict[str, Any]]:
    """`quantities` as plain types."""
    return [asdict(one) for one in quantities(store, kind)]


def _values(store: Store, run_ids: list[str], check: str, node: str) -> dict[str, dict[str, Any]]:
    r, runs = schema.results.c, schema.runs.c
    found: dict[str, dict[str, Any]] = {}
    for first in range(0, len(run_ids), _AT_ONCE):
        query = (
            select(runs.run_id, r.value, r.uncertainty, r.status, r.unit)
            .select_from(schema.results.join(schema.runs, runs.sequence == r.run))
            .where(r.check_id == check, r.node == node, r.value.is_not(None))
            .where(runs.run_id.in_(run_ids[first : first + _AT_ONCE]))
        )
        for row in store.rows(query):
            found[row["run_id"]] = {key: row[key] for key in ("value", "uncertainty", "status", "unit")}
    return found
