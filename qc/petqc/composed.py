"""A run that is composed of others, such as the day's: their checks in one document, the worst verdict, one sentence.

Every part is a run of its own and stays one. Where parts have the same check at the same place, the worst result
counts; of equal ones the last.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.channel_map import is_device_node
from petqc.limits import Status, worst
from petqc.results import ChannelColumn, CheckResult, RawFile, Run, RunPart, Spectrum
from petqc.verdict import not_measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.qc_input import RunContext
    from petqc.results import EnvironmentReading

SAYS_WHETHER_TO_SCAN: Final = ("source", "lutetium")
"""Kinds whose sentence begins with what to do; the most important first."""
_NAMED = 2
_GRAVITY = (Status.NO_LIMITS, Status.PASS, Status.WARN, Status.INVALID, Status.FAIL)


def compose(
    context: RunContext,
    parts: Sequence[RunPart],
    runs: Sequence[Run],
    titles: Mapping[str, str],
    *,
    ended: str = "",
) -> Run:
    """The composed run.

    Args:
        context: what is known about the whole.
        parts: in the order in which they were to run.
        runs: those of them that are stored.
        titles: of the kinds, for the sentence.
        ended: why not all parts ran; empty: nothing ended it.
    """
    run = not_measured(context, ended or "no part of it ran")
    run.parts = list(parts)
    run.checks = _checks(runs)
    run.channels, run.columns = _channels(runs)
    run.spectra = _spectra(runs)
    run.diagnosis = sorted({(h.cause, h.node): h for r in runs for h in r.diagnosis}.values(), key=lambda h: -h.score)
    run.raw_files = [RawFile(f"../{r.run_id}/{f.name}", f.sha256) for r in runs for f in r.raw_files]
    for r in runs:
        run.software |= r.software
        run.calibration_ids |= r.calibration_ids
        run.baselines |= {f"{r.kind}.{role}": digest for role, digest in r.baselines.items()}
        run.notes += [note for note in r.notes if note not in run.notes]
        for name, value in r.account.items():
            run.account[name] = run.account.get(name, 0) + value
    run.environment = _environment(run, runs)
    told = [f"{titles.get(p.kind, p.kind)}: {p.verdict}" + (f", run {p.run_id}" if p.run_id else "") for p in parts]
    run.notes.insert(0, f"Parts: {'; '.join(told)}.")
    if not parts:
        return run
    run.verdict = worst([Status.INVALID if p.verdict is Status.MISSED else p.verdict for p in parts])
    if ended:
        run.verdict = worst([run.verdict, Status.INVALID])
    run.sentence = _sentence(run, parts, titles, ended)
    return run


def _environment(run: Run, runs: Sequence[Run]) -> list[EnvironmentReading]:
    """The last reading of each place; of an instrument the first one, too."""
    every = [_aged(e, r, run) for r in runs for e in r.environment]
    last = {(e.name, e.node): e for e in every}
    first = {(e.name, e.node): e for e in reversed(every) if is_device_node(e.node)}
    return [*(e for place, e in first.items() if e is not last[place]), *last.values()]


def _sentence(run: Run, parts: Sequence[RunPart], titles: Mapping[str, str], ended: str) -> str:
    """What to do and why, of the worst parts; and how the others were."""
    if ended and run.verdict is not Status.FAIL:
        done = [titles.get(p.kind, p.kind) for p in parts if p.verdict not in {Status.MISSED, Status.INVALID}]
        of = f"; done before: {', '.join(done)}" if done else ""
        return f"Not measured to the end: {ended.rstrip('.')}{of}."
    ordered = sorted(parts, key=lambda p: _rank(p.kind))
    bad = [p for p in ordered if (Status.INVALID if p.verdict is Status.MISSED else p.verdict) is run.verdict]
    others = [p for p in ordered if p not in bad]
    if run.verdict is Status.PASS:
        first, *rest = ordered
        also = f" Also as it should be: {', '.join(titles.get(p.kind, p.kind) for p in rest)}." if rest else ""
        return first.sentence + also
    told = [p.sentence if p.kind in SAYS_WHETHER_TO_SCAN else f"{_name(p, titles)}: {p.sentence}" for p in bad[:_NAMED]]
    if len(bad) > _NAMED:
        told.append(f"And {len(bad) - _NAMED} more.")
    if others:
        told.append("Other parts: " + ", ".join(f"{titles.get(p.kind, p.kind)} {p.verdict}" for p in others) + ".")
    if ended:
        told.append(f"Not measured to the end: {ended.rstrip('.')}.")
    return " ".join(told)


def _name(part: RunPart, titles: Mapping[str, str]) -> str:
    title = titles.get(part.kind, part.kind)
    return title[:1].upper() + title[1:]


def _rank(kind: str) -> int:
    return SAYS_WHETHER_TO_SCAN.index(kind) if kind in SAYS_WHETHER_TO_SCAN else len(SAYS_WHETHER_TO_SCAN)


def _checks(runs: Sequence[Run]) -> list[CheckResult]:
    found: dict[tuple[str, str], CheckResult] = {}
    for r in runs:
        for c in r.checks:
            there = found.get((c.id, c.node))
            if there is None or _GRAVITY.index(c.status) >= _GRAVITY.index(there.status):
                found[c.id, c.node] = c
    return list(found.values())


def _spectra(runs: Sequence[Run]) -> list[Spectrum]:
    return list({(s.id, s.node): s for r in runs for s in r.spectra}.values())


def _aged(reading: Any, part: Run, whole: Run) -> Any:
    """A reading with its age at the end of the whole."""
    later = datetime.fromisoformat(whole.finished_at) - datetime.fromisoformat(part.finished_at)
    return replace(reading, age_s=round(reading.age_s + max(later.total_seconds(), 0.0), 3))


def _channels(runs: Sequence[Run]) -> tuple[dict[str, NDArray[Any]], list[ChannelColumn]]:
    """All channels of all parts, and every column over all of them; of the same column the last part's."""
    with_channels = [r for r in runs if r.channels]
    if not with_channels:
        return {}, []
    # The table of most channels, and of those the one that knows where most are; channels of others are added.
    tables = sorted((r.channels for r in with_channels), key=lambda t: (-len(t["channel"]), -_known(t)))
    channels = {name: values.copy() for name, values in tables[0].items() if not _is_of_a_column(name)}
    for table in tables[1:]:
        new = ~np.isin(table["channel"], channels["channel"])
        if new.any():
            channels = {name: np.concatenate([values, table[name][new]]) for name, values in channels.items()}
    order = np.argsort(channels["channel"], kind="stable")
    channels = {name: values[order] for name, values in channels.items()}
    columns: dict[str, ChannelColumn] = {}
    for r in with_channels:
        place, size = np.searchsorted(channels["channel"], r.channels["channel"]), channels["channel"].size
        columns |= {c.id: c.spread(place, size, "not in this part") for c in r.columns}
        for name in filter(_is_of_a_column, r.channels):
            channels[name] = np.full(size, np.nan)
            channels[name][place] = r.channels[name]
    return channels, list(columns.values())


def _is_of_a_column(name: str) -> bool:
    """Whether it goes with a column, as `photopeak.baseline`, and does not say which channel a row is."""
    return "." in name


def _known(table: Mapping[str, NDArray[Any]]) -> int:
    """Of how many channels the place and the bias output are known."""
    places = int(np.isfinite(table["x_mm"]).sum()) if "x_mm" in table else 0
    return places + int((table["bias"] != "").sum() if "bias" in table else 0)
