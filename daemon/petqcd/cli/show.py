"""A run, the history and the status as tables; a status is always a word and a symbol, never a colour alone."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from petqc.compare import SIGNIFICANT
from petqcd.cli.common import nobody_reads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.calibrate.accepted import Acceptance
    from petqc.calibrate.sets import CalibrationSetInfo
    from petqc.compare import Comparison
    from petqc.results import CheckResult, Run

SYMBOLS = {"pass": "✔", "warn": "▲", "fail": "✖", "invalid": "?", "missed": "–", "no-limits": "·"}
PLAIN_SYMBOLS = {"pass": "+", "warn": "!", "fail": "X", "invalid": "?", "missed": "-", "no-limits": "."}
STYLES = {
    "pass": "green", "warn": "yellow", "fail": "bold red", "invalid": "magenta", "missed": "magenta",
    "no-limits": "dim",
}  # fmt: skip
LEVELS = ("scanner", "module", "pair")
"""Levels that a table shows by themselves; of the others only what is not passing."""
_WORDS = {"no-limits": "no limits"}
_MOST_LOWER = 12
_MOST_MOVED = 25
_MOST_CHANGED = 4
_MOST_ALIKE = 8
"""Of more modules or pairs than this only those are listed that are not passing."""
_GRAVITY = {"fail": 0, "invalid": 1, "warn": 2}


class _Results(Console):
    def on_broken_pipe(self) -> None:  # Console's own ends the process with 1, which says `fail`
        self.quiet = True
        nobody_reads()


def console() -> Console:
    """Results go to stdout, without markup in values; a pipe gets lines that are not folded."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 140
    return _Results(markup=False, highlight=False, emoji=False, width=width)


def status_text(status: str) -> Text:
    """`✔ pass`."""
    encoding = (sys.stdout.encoding or "ascii").lower()
    symbols = SYMBOLS if encoding.startswith("utf") else PLAIN_SYMBOLS
    return Text(f"{symbols[status]} {_WORDS.get(status, status)}", STYLES[status])


def print_run(run: Run, *, everything: bool = False, where: Mapping[str, str] | None = None) -> None:
    """The verdict, a table a physicist understands, notes, and where the rest is.

    Args:
        run: the run.
        everything: all nodes, ASICs that pass too.
        where: further lines, by what they are.
    """
    out = console()
    head = Text.assemble(status_text(str(run.verdict)), "  ", (run.sentence, "bold"))
    mark = "REPLAYED · " if run.replayed else "SIMULATED · " if run.simulated else ""
    what = run.kind if run.kind.startswith("calibrate-") else f"{run.kind} QC"
    out.print(Text(f"{mark}{what} of {run.scanner or 'unnamed scanner'} · run {run.run_id}", "bold"))
    out.print(head)
    from petqc.diagnosis.masking import masking

    if (found := masking(run)) is not None:
        out.print(f"suggestion: {found.text}. Grounds: {found.grounds}")
    if run.parts:
        out.print(_parts(run))
    shown, hidden = chosen(run.checks, everything=everything)
    if shown:
        out.print(_table(shown))
    if hidden:
        out.print(f"and {hidden} more at lower levels, in the report and in the files of the run")
    if run.diagnosis:
        out.print(_causes(run))
    _print_changes(run, out)
    for note in run.notes:
        out.print(f"note: {note}")
    for name, value in (where or {}).items():
        out.print(f"{name + ':':<11}{value}", soft_wrap=True)


def _print_changes(run: Run, out: Console) -> None:
    """What has moved since when, a line for each; nothing where nothing has."""
    from petqc.report.moved import change_text
    from petqc.report.text import title_of

    for c in () if run.past is None else run.past.changes:
        for f in c.found[:_MOST_CHANGED]:
            out.print(f"moved since {c.since}: {title_of(f.check)} at {f.node} {change_text(f)}")
        more = len(c.found) + c.more - _MOST_CHANGED
        if more > 0:
            out.print(f"moved since {c.since}: {more} more, in the report")


def _parts(run: Run) -> Table:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("part", "verdict", "run"):
        table.add_column(name, overflow="fold", no_wrap=name != "run")
    for part in run.parts:
        table.add_row(part.kind, status_text(str(part.verdict)), part.run_id or part.sentence)
    return table


def chosen(checks: Sequence[CheckResult], *, everything: bool) -> tuple[list[CheckResult], int]:
    """The results that a table shows, in reading order, and how many flagged ones it leaves out."""
    from petqc.report.text import level_of, node_sort_key

    titles = list(_titles())

    def place(c: CheckResult) -> tuple[int, str, bool, tuple[int, tuple[int, ...], str]]:
        base, _, part = c.id.partition(".")
        return (titles.index(base) if base in titles else len(titles)), base, bool(part), node_sort_key(c.node)

    if everything:
        return sorted(checks, key=place), 0
    shown, flagged = [], []
    of_scanner = {c.id for c in checks if c.node == "scanner" and c.value is not None}
    many = Counter((c.id, level_of(c.node)) for c in checks)
    for c in checks:
        is_flagged = str(c.status) in _GRAVITY
        level = level_of(c.node)
        is_of_many = many[c.id, level] > _MOST_ALIKE or (level != "scanner" and c.is_chart)
        if level in LEVELS and not is_of_many:
            # A number without limits is worth a line where it describes the scanner, or where nothing does.
            plain = "." not in c.id and c.value is not None and (c.node == "scanner" or c.id not in of_scanner)
            if is_flagged or str(c.status) == "pass" or plain:
                shown.append(c)
        elif is_flagged:
            flagged.append(c)
    flagged.sort(key=lambda c: _GRAVITY[str(c.status)])
    return sorted(shown + flagged[:_MOST_LOWER], key=place), len(flagged[_MOST_LOWER:])


def _table(checks: Sequence[CheckResult]) -> Table:
    from petqc.report.text import limits_of, limits_text, measured, title_of

    titles = _titles()
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("check", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column("value ± uncertainty", justify="right", overflow="fold")
    table.add_column("limits", overflow="fold")
    table.add_column("status", no_wrap=True)
    last = ""
    for c in checks:
        base, _, part = c.id.partition(".")
        name = titles.get(base, title_of(base)) + (f", {part.replace('_', ' ')}" if part else "")
        value = measured(c.value, c.uncertainty, c.unit) if c.value is not None else f"no number: {c.reason}"
        table.add_row(
            name if name != last else "", c.node, value, limits_text(limits_of(c)), status_text(str(c.status))
        )
        last = name
    return table


def _causes(run: Run) -> Table:
    table = Table(show_edge=False, pad_edge=False, header_style="bold", title="possible causes", title_justify="left")
    table.add_column("cause", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("evidence, and what to do next", overflow="fold")
    for h in run.diagnosis:
        table.add_row(h.cause, h.node, f"{h.score:.2f}", f"{h.evidence[0]}. Next: {h.next_step}")
    return table


def _titles() -> dict[str, str]:
    """Titles of the checks in reading order; a run of another version may have others, which keep their ids."""
    from petqc.checks import all_checks

    return {c.id: c.title for c in all_checks()}


def print_comparison(a: Run, b: Run, found: Comparison, *, everything: bool = False) -> None:
    """What moved from a to b, the most remarkable first."""
    from petqc.report.text import fixed, measured, title_of

    out = console()
    moved = [d for d in found.differences if d.has_moved]
    out.print(f"{a.run_id} ({a.verdict}) and then {b.run_id} ({b.verdict})")
    out.print(
        f"{len(moved)} of {len(found.differences)} values moved by more than {SIGNIFICANT:g} standard errors or have "
        f"another status, {found.n_same} are the same to the last digit"
    )
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("check", "where", "before", "then", "change", "σ", "status"):
        table.add_column(
            name, overflow="fold", justify="right" if name in ("before", "then", "change", "σ") else "left"
        )
    shown = found.differences if everything else moved[:_MOST_MOVED]
    for d in shown:
        values = ["no number" if v is None else measured(v, None, d.unit) for v in (d.a, d.b)]
        change = "" if d.change is None else measured(d.change, d.error, d.unit)
        sigmas = "" if d.sigmas is None else fixed(d.sigmas, 1)
        status = d.status_b if d.status_a == d.status_b else f"{d.status_a} → {d.status_b}"
        table.add_row(title_of(d.check), d.node, *values, change, sigmas, status)
    if shown:
        out.print(table)
    if len(moved) > len(shown):
        out.print(f"and {len(moved) - len(shown)} more: --all")
    for remark in found.remarks:
        out.print(f"differs: {remark}")


def print_history(runs: Sequence[Mapping[str, Any]]) -> None:
    """The history, newest first."""
    from petqc.report.text import moment

    out = console()
    if not runs:
        out.print("no run yet")
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("started", "run", "kind", "verdict", "what it says"):
        table.add_column(name, overflow="fold", no_wrap=name in ("started", "run", "verdict"))
    for run in runs:
        kind = f"{run['kind']} (simulated)" if run["simulated"] else run["kind"]
        kind = f"· {kind}" if run.get("part_of") else kind
        verdict = status_text(run["verdict"]) if run["verdict"] else Text("going on")
        table.add_row(moment(run["started_at"]), run["run_id"], kind, verdict, run["sentence"] or "")
    out.print(table)


def print_status(status: Mapping[str, Any]) -> None:
    """What is, now."""
    from petqc.report.text import moment

    out = console()
    device, run, last = status["device"], status["run"], status.get("last_run")
    lines = {
        "scanner": status["scanner"] + (" (SIMULATED)" if status["simulated"] else ""),
        "daemon": f"petqc {status['version']}, process {status['process']}, since {status['started_at']}",
        "console": status["http"],
        "metrics": f"{status['http']}/metrics",
        "state in": status["state_dir"],
        "board": f"{device['name']}: {device['state']}" + (f" ({device['detail']})" if device["detail"] else ""),
        "bias": device["bias"],
        "calibrated": status["calibration_set"] or "as in the device's own configuration",
        **({"maintenance": "; ".join(_works(one) for one in works)} if (works := status.get("maintenance")) else {}),
        **({"not ready": "; ".join(status["missing"])} if status["missing"] else {}),
        "run": f"{run['run_id']}: {run['stage']}, {run['fraction']:.0%}, {run['detail']}" if run else "none going on",
    }
    for job in status.get("schedule", ()):
        late = f", overdue: {job['overdue']}" if job["overdue"] else ""
        lines[f"due {job['job']}"] = moment(job["next_due"]) + late
    if last:
        lines["last run"] = f"{last['run_id']}: {status_text(last['verdict']).plain}: {last['sentence']}"
    for name, value in lines.items():
        out.print(f"{name + ':':<12}{value}", soft_wrap=True)


def _works(one: Mapping[str, Any]) -> str:
    late = ", which is over" if one["is_overdue"] else ""
    return f"{one['device']} until {one['due']}{late} ({one['by']}: {one['reason']})"


def print_sets(sets: Sequence[CalibrationSetInfo], used: Mapping[str, str], junk: Mapping[str, str]) -> None:
    """Calibration sets, newest first.

    Args:
        sets: in the order in which they were made.
        used: devices by the set that was accepted for them.
        junk: entries that are no sets, with the reason.
    """
    from petqc.report.text import moment

    out = console()
    if not sets:
        out.print("no calibration set yet")
    else:
        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        for name in ("set", "made", "device", "from", "in use", "verdict", "what it says"):
            table.add_column(name, overflow="fold", no_wrap=name in ("set", "made", "verdict"))
        for info in reversed(sets):
            device = f"{info.device} (simulated)" if info.simulated else info.device
            verdict = status_text(str(info.verdict))
            parent = info.parent_set or "configuration"
            table.add_row(
                info.id, moment(info.created_at), device, parent, used.get(info.id, ""), verdict, info.sentence
            )
        out.print(table)
    for name, why in junk.items():
        out.print(f"note: {name}: {why}")


def print_set(info: CalibrationSetInfo, problems: Sequence[str], acts: Sequence[Acceptance]) -> None:
    """One calibration set: where it comes from, what is new in it, whether its files are as they were written."""
    from petqc.report.text import moment

    out = console()
    mark = "SIMULATED · " if info.simulated else ""
    out.print(Text(f"{mark}calibration set {info.id} of {info.device}", "bold"))
    out.print(Text.assemble(status_text(str(info.verdict)), "  ", (info.sentence, "bold")))
    shown, _ = chosen(info.quality, everything=False)
    if shown:
        out.print(_table(shown))
    lines = {
        "made": f"{moment(info.created_at)} by run {info.run_id}",
        "from": f"{info.parent_set or 'the own configuration of the device'}, {info.parent_hash}",
        "new tables": ", ".join(info.new_tables),
        "files": "; ".join(problems) if problems else f"{len(info.files)}, all as they were written",
    }
    for name, value in lines.items():
        out.print(f"{name + ':':<12}{value}", soft_wrap=True)
    for act in acts:
        if info.id in (act.set_id, act.previous):
            what = "accepted" if act.set_id == info.id else f"replaced by {act.set_id or 'the own configuration'}"
            reason = f", although it failed: {act.reason}" if act.reason and act.set_id == info.id else ""
            out.print(f"{what} for {act.device} by {act.who}, {moment(act.at)}{reason}")
