"""The tables of the report: checks, channels that need attention, readings, the account, traceability."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.limits import Status
from petqc.report.channels import MARKED, Offender, map_columns, status_at, statuses
from petqc.report.text import (
    NO_NUMBER,
    STATUS_ORDER,
    STATUS_WORD,
    age,
    inside,
    level_of,
    limits_of,
    limits_text,
    measured,
    node_sort_key,
    plain,
    sentence_case,
    source_of,
    status_word,
    title_of,
    unit_text,
    value_and_uncertainty,
)

if TYPE_CHECKING:
    from petqc.report.channels import Channels
    from petqc.results import ChannelColumn, CheckResult, Run

MOST_OFFENDERS = 100
MOST_CHECK_ROWS = 1200
_UPPER = ("scanner", "module", "pair")
MOST_CHANNEL_ROWS = 2048
_MOST_ATTENTION = 8
_MOST_NODES = 5
"""Of one finding that are named."""
_SHARES_OF_FRAMES = {
    "frames_lost", "frames_partly_lost", "frames_empty", "frames_missing", "frames_dropped",
    "frames_not_analysed_live",
}  # fmt: skip
_NEEDS_ATTENTION = (Status.FAIL, Status.INVALID, Status.WARN)


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One result as a table row."""

    anchor: str
    title: str
    node: str
    level: str
    value: str
    sigma: str
    unit: str
    status: Status
    word: str
    limits: str
    warn: str
    fail: str
    n: str
    baseline: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckTable:
    """Rows, how many of each status there are, and how many lower ones that pass were left out."""

    rows: tuple[CheckRow, ...]
    counts: tuple[tuple[Status, str, int], ...]
    left_out: int = 0


def check_table(run: Run) -> CheckTable:
    """Results above channel level, in the order of the run's checks, then of the hardware tree.

    All of a small detector. Of a large one those of scanner, modules and their pairs, and what is not passing below.
    """
    above = [c for c in run.checks if level_of(c.node) != "channel"]
    left_out = 0
    if len(above) > MOST_CHECK_ROWS:
        shown = [c for c in above if level_of(c.node) in _UPPER or c.status in _NEEDS_ATTENTION][:MOST_CHECK_ROWS]
        left_out, above = len(above) - len(shown), shown
    first = {check_id: i for i, check_id in reversed(list(enumerate(c.id for c in above)))}
    ordered = sorted(above, key=lambda c: (first[c.id], node_sort_key(c.node)))
    rows = tuple(_row(i, c) for i, c in enumerate(ordered))
    counts = tuple((s, STATUS_WORD[s], sum(r.status is s for r in rows)) for s in STATUS_ORDER)
    return CheckTable(rows, counts, left_out)


def _row(number: int, result: CheckResult) -> CheckRow:
    value, sigma = (NO_NUMBER, "") if result.value is None else value_and_uncertainty(result.value, result.uncertainty)
    return CheckRow(
        anchor=f"check-{number}",
        title=title_of(result.id),
        node=result.node,
        level=level_of(result.node),
        value=value,
        sigma=sigma,
        unit=unit_text(result.unit),
        status=result.status,
        word=status_word(result),
        limits=limits_text(shown := limits_of(result)),
        warn=inside(shown.warn_low, shown.warn_high),
        fail=inside(shown.fail_low, shown.fail_high),
        n=plain(float(result.n)),
        baseline="" if result.baseline is None else plain(result.baseline),
        reason=result.reason or "",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """One row to look at, or several that have no number for the same reason.

    first: the row that speaks for all. titles: of the checks, each with an anchor. where: their nodes.
    """

    first: CheckRow
    titles: tuple[tuple[str, str], ...]
    where: str


def attention(table: CheckTable) -> tuple[tuple[Finding, ...], int]:
    """What to read first, worst first, and how many more there are."""
    found: dict[tuple[str, ...], list[CheckRow]] = {}
    for status in _NEEDS_ATTENTION:
        for row in table.rows:
            if row.status is status:
                key = (row.status, row.reason) if status is Status.INVALID else (row.anchor,)
                found.setdefault(key, []).append(row)
    findings = [_finding(rows) for rows in found.values()]
    return tuple(findings[:_MOST_ATTENTION]), max(len(findings) - _MOST_ATTENTION, 0)


def _finding(rows: list[CheckRow]) -> Finding:
    titles = {row.title: row.anchor for row in reversed(rows)}
    nodes = list(dict.fromkeys(row.node for row in rows))
    more = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    named = dict.fromkeys(row.title for row in rows)
    return Finding(rows[0], tuple((titles[t], t) for t in named), ", ".join(nodes[:_MOST_NODES]) + more)


@dataclass(frozen=True, slots=True)
class MethodRow:
    """How one check came to its values: methods, limits by level, source."""

    title: str
    id: str
    methods: str
    limits: tuple[tuple[str, str], ...]
    source: str


def method_rows(run: Run) -> list[MethodRow]:
    """One row a check, in the order of the run: what is needed to judge its values years later."""
    rows = []
    for check_id in dict.fromkeys(c.id for c in run.checks):
        results = sorted((c for c in run.checks if c.id == check_id), key=lambda c: node_sort_key(c.node))
        limits = dict.fromkeys((level_of(c.node), limits_text(limits_of(c))) for c in results)
        by_level: dict[str, list[str]] = {}
        for level, said in limits:
            by_level.setdefault(level, []).append(said)
        by_limits: dict[str, list[str]] = {}
        for level, several in by_level.items():
            one = several[0] if len(several) == 1 else "by node, as in the table of checks"
            by_limits.setdefault(one, []).append(level)
        rows.append(
            MethodRow(
                title=title_of(check_id),
                id=check_id,
                methods="; ".join(dict.fromkeys(c.method for c in results if c.method)),
                limits=tuple((", ".join(levels), said) for said, levels in by_limits.items()),
                source="" if "." in check_id else source_of(check_id),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class ColumnCount:
    """How many channels have each status in one check."""

    title: str
    counts: tuple[int, ...]
    reasons: tuple[tuple[str, int], ...]


def column_counts(run: Run) -> list[ColumnCount]:
    """Channels by status for each check, with the reasons for values not given, most frequent first."""
    out = []
    for column in run.columns:
        found = statuses(column)
        why: dict[str, int] = {}
        for i, status in enumerate(found):
            if status is Status.INVALID and column.reason[i]:
                kind = re.sub(r"\d[\d.,]*", "…", str(column.reason[i]))  # the same reason with other numbers
                why[kind] = why.get(kind, 0) + 1
        common = sorted(why.items(), key=lambda item: (-item[1], item[0]))[:3]
        out.append(ColumnCount(title_of(column.id), tuple(found.count(s) for s in STATUS_ORDER), tuple(common)))
    return out


def offenders(run: Run, channels: Channels) -> list[Offender]:
    """Channels outside limits or without a number, worst first."""
    found = []
    calm = [str(status) for status in Status if status not in _NEEDS_ATTENTION]
    is_flagged = np.zeros(len(channels), np.bool_)
    columns = [(column, title_of(column.id), statuses(column)) for column in run.columns]
    for column in run.columns:
        is_flagged |= ~np.isin(column.status.astype(str), calm)
    for index in np.flatnonzero(is_flagged).tolist():
        said: dict[tuple[Status, str], list[str]] = {}
        for column, title, of_all in columns:
            status = of_all[index]
            if status in _NEEDS_ATTENTION:
                said.setdefault((status, _cell(column, index)), []).append(title)
        if said:
            issues = [(", ".join(titles), status, what) for (status, what), titles in said.items()]
            issues.sort(key=lambda issue: STATUS_ORDER.index(issue[1]))
            found.append(Offender(index, channels.nodes[index], issues[0][1], tuple(issues)))
    return sorted(found, key=lambda o: (STATUS_ORDER.index(o.status), -len(o.issues), node_sort_key(o.node)))


def _cell(column: ChannelColumn, index: int) -> str:
    value = float(column.value[index])
    if np.isfinite(value) and column.id in MARKED and column.reason[index]:
        return str(column.reason[index])
    if np.isfinite(value):
        return measured(value, float(column.uncertainty[index]), column.unit)
    return f"no number: {column.reason[index] or 'not given'}"


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """One channel with its number in every mapped check; status of each for marking."""

    node: str
    module: str
    place: str
    cells: tuple[tuple[str, Status], ...]
    marks: str


def channel_rows(run: Run, channels: Channels) -> tuple[list[str], list[ChannelRow]]:
    """Headings and rows of the table of all channels (at most MOST_CHANNEL_ROWS)."""
    columns = map_columns(run)
    headings = [f"{title_of(c.id)}, {c.unit}" if c.unit else title_of(c.id) for c in columns]
    where = {
        int(i): (m.node, f"{m.column[k]}, {m.row[k]}" if m.is_mapped else NO_NUMBER)
        for m in channels.modules
        for k, i in enumerate(m.index)
    }
    rows = [
        ChannelRow(
            node=channels.nodes[i],
            module=where[i][0],
            place=where[i][1],
            cells=tuple((measured(float(c.value[i]), float(c.uncertainty[i])), status_at(c, i)) for c in columns),
            marks=" ".join(word for word, flags in channels.marks.items() if flags[i]),
        )
        for i in range(min(len(channels), MOST_CHANNEL_ROWS))
    ]
    return headings, rows


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """An environment reading."""

    name: str
    node: str
    value: str
    unit: str
    source: str
    quality: str
    age: str
    is_doubtful: bool


def reading_rows(run: Run) -> list[ReadingRow]:
    """Readings by name, then by place."""
    return [
        ReadingRow(
            name=sentence_case(r.name),
            node=r.node,
            value=NO_NUMBER if r.value is None else plain(r.value),
            unit=unit_text(r.unit),
            source="measured" if r.measured else "commanded",
            quality=r.quality if not r.reason else f"{r.quality}: {r.reason}",
            age=age(r.age_s),
            is_doubtful=r.value is None or r.quality.lower() not in {"ok", "good", "fresh"},
        )
        for r in sorted(run.environment, key=lambda r: (r.name, node_sort_key(r.node)))
    ]


def account_rows(run: Run) -> list[tuple[str, str, str]]:
    """What, how many, and the share of all frames or hits where that says something."""
    frames, hits = run.account.get("frames"), run.account.get("hits")
    rows = []
    for key, value in run.account.items():
        whole = hits if key.startswith("hits_") else frames if key in _SHARES_OF_FRAMES else None
        share = f"{plain(round(100.0 * value / whole, 4))} %" if whole else ""
        name, unit = (key[:-2], " s") if key.endswith("_s") else (key, "")
        for group in ("hits_dropped_", "groups_rejected_"):
            name = name.replace(group, f"{group[:-1]}: ")
        rows.append((sentence_case(name), plain(float(value)) + unit, share))
    return rows


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """What one quantity of a new table changed; lines: the largest changes, with before, after and difference."""

    table: str
    quantity: str
    unit: str
    n: str
    n_new: str
    n_gone: str
    median: str
    largest: str
    lines: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class SetView:
    """The calibration set that a run made."""

    id: str
    parent: str
    parent_hash: str
    new_tables: str
    files: tuple[tuple[str, str], ...]
    changes: tuple[ChangeRow, ...]


def calibration_set(run: Run) -> SetView | None:
    """The calibration set of a run; None: it made none."""
    made = run.calibration_set
    if made is None:
        return None

    def number(value: float | None) -> str:
        return NO_NUMBER if value is None else f"{value:.4g}"

    rows = tuple(
        ChangeRow(
            table=c["table"],
            quantity=sentence_case(c["quantity"]),
            unit=c["unit"],
            n=plain(c["n"]),
            n_new=plain(c["n_new"]),
            n_gone=plain(c["n_gone"]),
            median=number(c["median"]),
            largest=number(c["largest"]),
            lines=tuple((str(a), number(b), number(d), f"{d - b:+.3g}") for a, b, d in c["lines"]),
        )
        for c in made["changes"]
    )
    return SetView(
        id=made["id"],
        parent=made["parent_set"] or "the own configuration of the device",
        parent_hash=made["parent_hash"],
        new_tables=", ".join(made["new_tables"]),
        files=tuple(sorted(made["files"].items())),
        changes=rows,
    )
