"""The page: what each section is given, and the template that writes it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.diagnosis.masking import masking
from petqc.limits import Status
from petqc.report import channels as channel_view
from petqc.report import figures, maps, moved, ring_maps, tables, text, tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment
    from markupsafe import Markup
    from numpy.typing import NDArray

    from petqc.report.channels import Channels, Module
    from petqc.results import ChannelColumn, Run

_VERDICT_WORD = {
    Status.PASS: "Pass",
    Status.WARN: "Warning",
    Status.FAIL: "Fail",
    Status.INVALID: "Invalid",
    Status.MISSED: "Missed",
    Status.NO_LIMITS: "No limits",
}


_FLAGGED = (str(Status.WARN), str(Status.FAIL))
_MOST_PRINTED = 8
"""Modules of each quantity in the PDF."""


@dataclass(frozen=True, slots=True)
class MapFigure:
    """Maps of one quantity: one panel a module, one colour scale for all."""

    title: str
    unit: str
    panels: tuple[tuple[str, bool, Markup], ...]
    scale: Markup | None


def render(run: Run) -> str:
    """The page of a run."""
    return _environment().get_template("page.html.j2").render(view(run))


def policy() -> str:
    """Nothing is loaded and nothing runs; the one style sheet is known by its hash, pictures stand in the page."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def style() -> str:
    """The style sheet."""
    return resources.files("petqc.report").joinpath("templates/style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("petqc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(moment=text.moment, sentence_case=text.sentence_case, commands=text.with_commands)
    return environment


def view(run: Run) -> dict[str, Any]:
    """What each section is given, of the page and of the print."""
    from markupsafe import Markup

    found = channel_view.read_channels(run)
    checks = tables.check_table(run)
    attention, more_attention = tables.attention(checks)
    offenders = tables.offenders(run, found) if found else []
    headings, rows = tables.channel_rows(run, found) if found else ([], [])
    return {
        "run": run,
        "style": Markup(style()),  # noqa: S704 - our own file, and its hash is in the policy
        "policy": policy(),
        "masking": masking(run),
        "verdict_word": _VERDICT_WORD[run.verdict],
        "duration": text.duration(run.started_at, run.finished_at),
        "size": _size(found),
        "tiles": tiles.tiles(run),
        "is_of_a_source": tiles.is_of_a_source(run),
        "changes": moved.moved(run),
        "attention": attention,
        "more_attention": more_attention,
        "energy": figures.energy_figures(run),
        "timing": figures.timing_figures(run),
        "other": figures.other_figures(run),
        "ring_maps": ring_maps.ring_maps(run, found) if found else [],
        "maps": _maps(run, found) if found else [],
        "print_modules": _worst_modules(run, found)[:_MOST_PRINTED] if found else [],
        "modules_left_out": _modules_left_out(run, found) if found else 0,
        "calibration": tables.calibration_set(run),
        "checks": checks,
        "status_words": [(s, text.STATUS_WORD[s]) for s in text.STATUS_ORDER],
        "is_measured": bool(run.checks or run.spectra or run.columns),
        "methods": tables.method_rows(run),
        "column_counts": tables.column_counts(run),
        "offenders": offenders[: tables.MOST_OFFENDERS],
        "more_offenders": max(len(offenders) - tables.MOST_OFFENDERS, 0),
        "channel_headings": headings,
        "channel_rows": rows,
        "more_channels": max((len(found) if found else 0) - tables.MOST_CHANNEL_ROWS, 0),
        "readings": tables.reading_rows(run),
        "account": tables.account_rows(run),
    }


def _size(found: Channels | None) -> str:
    if found is None:
        return ""
    parts = [(len(found.modules), "module"), (len(set(found.asics)), "ASIC"), (len(found), "channel")]
    return ", ".join(f"{text.plain(n)} {word}{'' if n == 1 else 's'}" for n, word in parts)


def _maps(run: Run, found: Channels) -> list[MapFigure]:
    columns = [c for c in channel_view.map_columns(run) if c.value.size == len(found)]
    has_titles = len(found) * len(columns) <= maps.MOST_TITLES
    shown = _shown_modules(run, found)
    figures = []
    for column in columns if shown else []:
        figures.append(_map_figure(column, found, shown, has_titles=has_titles))
        baseline = run.channels.get(f"{column.id}.baseline")
        if baseline is not None:
            since = replace(column, value=column.value - np.asarray(baseline, np.float64))
            figure = _map_figure(since, found, shown, has_titles=has_titles)
            figures.append(replace(figure, title=f"{figure.title} minus baseline"))
    return figures


def _shown_modules(run: Run, found: Channels) -> tuple[Module, ...]:
    """All modules of a small detector; of a large one those with crystals that are flagged, the worst first."""
    if len(found) <= maps.MOST_CHANNELS:
        return found.modules
    bad = _flagged(run, found)
    worst = sorted((m for m in found.modules if bad[m.index].any()), key=lambda m: -int(bad[m.index].sum()))
    return tuple(worst[: maps.MOST_MODULES])


def _worst_modules(run: Run, found: Channels) -> list[str]:
    """Names of the modules, those with most flagged crystals first."""
    bad = _flagged(run, found)
    return [m.node for m in sorted(found.modules, key=lambda m: -int(bad[m.index].sum()))]


def _flagged(run: Run, found: Channels) -> NDArray[np.int64]:
    """By how many checks each channel is flagged, (n channels,)."""
    bad: NDArray[np.int64] = np.sum(list(found.marks.values()), axis=0).astype(np.int64)
    for column in channel_view.map_columns(run):
        if column.value.size == len(found):
            bad = bad + np.isin(column.status.astype(str), _FLAGGED)
    return bad


def _modules_left_out(run: Run, found: Channels) -> int:
    return len(found.modules) - len(_shown_modules(run, found))


def _map_figure(column: ChannelColumn, found: Channels, shown: Sequence[Module], *, has_titles: bool) -> MapFigure:
    colours = maps.colour_range(column.value)
    return MapFigure(
        title=text.title_of(column.id),
        unit=column.unit,
        panels=tuple(
            (m.node, m.is_mapped, maps.draw_map(column, found, m, colours, has_titles=has_titles)) for m in shown
        ),
        scale=maps.draw_scale(column, colours) if colours is not None else None,
    )
