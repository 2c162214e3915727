"""Which spectra the report shows, where, how large, and what it says in words beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.report import spectra
from petqc.report.text import (
    fixed,
    limits_text,
    node_sort_key,
    plain,
    result_text,
    sentence_case,
    title_of,
)

if TYPE_CHECKING:
    from markupsafe import Markup

    from petqc.limits import Status
    from petqc.results import CheckResult, Run, Spectrum

ENERGY_CHECKS = ("photopeak", "energy_resolution", "window_acceptance")
TIMING_CHECKS = ("ctr_fit", "ctr_nema", "module_time_offset", "prompts", "randoms_delayed")
_MOST_SMALL = 64
"""Panels below the system's; a large scanner's module spectra are in the Parquet file."""


@dataclass(frozen=True, slots=True)
class Line:
    """A check's outcome beside a figure."""

    title: str
    text: str
    limits: str
    status: Status


@dataclass(frozen=True, slots=True)
class Figure:
    """A spectrum as the template shows it: one or two panels and what they say."""

    title: str
    node: str
    panels: tuple[Markup, ...]
    words: str
    text: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The figures of one section: the system's first, then those of its parts; left_out could not be shown."""

    large: tuple[Figure, ...]
    small: tuple[Figure, ...]
    left_out: int
    keys: tuple[tuple[str, str], ...]


def is_energy(spectrum: Spectrum) -> bool:
    """A spectrum of energies (or of charge that stands for energy)."""
    return spectrum.id in ENERGY_CHECKS or "energy" in spectrum.quantity.lower() or spectrum.unit.lower() == "kev"


def is_timing(spectrum: Spectrum) -> bool:
    """A histogram of time differences."""
    return not is_energy(spectrum) and (spectrum.id in TIMING_CHECKS or spectrum.unit in {"ps", "ns"})


def energy_figures(run: Run) -> Group:
    """Energy spectra: the whole axis, linear with pulls, and logarithmic."""
    return _group(run, [s for s in run.spectra if is_energy(s)], ENERGY_CHECKS)


def timing_figures(run: Run) -> Group:
    """Time differences: the peak close up with pulls, and the whole axis on a logarithmic scale."""
    return _group(run, [s for s in run.spectra if is_timing(s)], TIMING_CHECKS)


def other_figures(run: Run) -> Group:
    """Spectra of anything else; of a calibration all: they are distributions of channels."""
    return _group(run, [s for s in run.spectra if run.is_calibration or not (is_energy(s) or is_timing(s))], ())


def _group(run: Run, found: list[Spectrum], checks: tuple[str, ...]) -> Group:
    usable = sorted((s for s in found if s.counts.size and s.edges.size == s.counts.size + 1), key=_reading_order)
    top = node_sort_key(usable[0].node)[0] if usable else 0
    large = [s for s in usable if node_sort_key(s.node)[0] == top]
    if (top > 0 and len(large) > 1) or run.is_calibration:
        large = []  # no spectrum of the whole, or several that are all alike: small multiples
    small = [s for s in usable if all(s is not one for one in large)]
    keys = (
        ("counts", "counts"),
        *((("fit", "fit"),) if any(s.fit is not None for s in usable) else ()),
        *((("background", "fitted background"),) if any(s.background is not None for s in usable) else ()),
        *((("delayed", "delayed window, smoothed"),) if any(s.delayed is not None for s in usable) else ()),
        *(
            (("window", "energy window" if checks == ENERGY_CHECKS else "window"),)
            if any(spectra.has_window(s) for s in usable)
            else ()
        ),
        *((("band", "pulls within ±2"),) if any(s.fit is not None for s in usable) else ()),
    )
    results: dict[str, list[CheckResult]] = {}
    for result in run.checks:
        results.setdefault(result.node, []).append(result)
    return Group(
        large=tuple(_figure(run, s, checks, results.get(s.node, []), is_large=True) for s in large),
        small=tuple(_figure(run, s, checks, results.get(s.node, []), is_large=False) for s in small[:_MOST_SMALL]),
        left_out=max(len(small) - _MOST_SMALL, 0) + len(found) - len(usable),
        keys=keys if usable else (),
    )


def _reading_order(spectrum: Spectrum) -> tuple[tuple[int, tuple[int, ...], str], str]:
    return node_sort_key(spectrum.node), spectrum.id


def _figure(
    run: Run, spectrum: Spectrum, checks: tuple[str, ...], of_node: list[CheckResult], *, is_large: bool
) -> Figure:
    wanted = checks or (spectrum.id,)
    results = [c for i in wanted for c in of_node if c.id == i]
    by_id = {c.id: c for c in results}
    title = sentence_case(spectrum.quantity or title_of(spectrum.id))
    words = _words(spectrum, title, results)
    whole = spectra.extent(spectrum)
    near = spectra.close_up(spectrum) if is_timing(spectrum) and not run.is_calibration else whole
    peak = _label(by_id.get("photopeak"))
    width = _label(by_id.get("energy_resolution") or by_id.get("ctr_fit"))
    size = spectra.LARGE if is_large else spectra.SMALL
    said = f"Linear. {words}" if is_large else words
    panels = [spectra.draw(spectrum, said, size=size, between=near, peak_label=peak, width_label=width)]
    if is_large:
        panels.append(
            spectra.draw(
                spectrum, f"Logarithmic: {title}, {spectrum.node}.", size=spectra.LARGE_LOG, between=whole, is_log=True
            )
        )
    said_by_checks = any(c.reason and c.reason == spectrum.text for c in results)
    return Figure(
        title, spectrum.node, tuple(panels), words, "" if said_by_checks else spectrum.text, tuple(_lines(results))
    )


def _lines(results: list[CheckResult]) -> list[Line]:
    """A line a check; checks that have no number for one reason share one."""
    shared: dict[str, list[CheckResult]] = {}
    for result in results:
        shared.setdefault(result.reason or "" if result.value is None else result.id, []).append(result)
    return [
        Line(
            ", ".join(title_of(c.id) for c in together),
            result_text(together[0]),
            limits_text(together[0].limits) if together[0].value is not None else "none",
            together[0].status,
        )
        for together in shared.values()
    ]


def _label(result: CheckResult | None) -> str:
    return "" if result is None or result.value is None else result_text(result)


def _words(spectrum: Spectrum, title: str, results: list[CheckResult]) -> str:
    edges = spectrum.edges
    total = float(np.nansum(spectrum.counts))
    span = f"from {plain(float(edges[0]))} to {plain(float(edges[-1]))} {spectrum.unit}"
    parts = [f"{title} of {spectrum.node}: {plain(total)} counts in {spectrum.counts.size} bins {span}"]
    if spectrum.window is not None:
        parts.append(f"window {plain(spectrum.window[0])} to {plain(spectrum.window[1])} {spectrum.unit}")
    if spectrum.delayed is not None:
        parts.append(f"{plain(float(np.nansum(spectrum.delayed)))} counts in the delayed window")
    parts += [f"{title_of(c.id).lower()} {result_text(c)}" for c in results]
    fitted = spectra.agreement(spectrum)
    if fitted is None:
        parts.append("no fit")
    else:
        parts.append(
            f"chi-square of the fit {fixed(fitted.chi2, 0)} in {fitted.n} bins, largest pull {fixed(fitted.largest, 1)}"
        )
    return "; ".join(parts) + "."
