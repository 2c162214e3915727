"""What was measured beside what is published for this kind of scanner: said, never judged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.fits import PeakFit
from petqc.limits import Limits
from petqc.qc_input import resolution_percent

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput

CONSISTENT_SIGMAS = 2.0
_NOT_MEASURED = "not measured in this run"
_ROUNDED = 1.0 / math.sqrt(12.0)
"""Standard deviation of what rounding took from a number, in units of its last digit."""


@check(
    "published",
    title="Against published values",
    unit="",
    levels=("scanner",),
    order=58,
    source="formula: measured minus published over the measured uncertainty and the rounding of the published value; "
    "published values: the scanner's description, each with its own source, as in daily-qc.md; no limits: another "
    "detector, other conditions",
)
def published(q: QcInput) -> CheckOutput:
    """Energy and time resolution of the scanner, and how far they are from what is published for its kind."""
    from petqc.report.text import measured as written

    if q.context.reference is None or not q.is_calibrated:
        return CheckOutput()
    results, notes = [], []
    where: tuple[Level, str] = ("scanner", SCANNER)
    for part, name, unit, found in (
        ("energy_resolution", "energy_resolution_percent", "%", _energy(q)),
        ("time_resolution", "tof_fwhm_ps", "ps", _time(q)),
    ):
        value = q.context.reference.number(name)
        if value is None:
            continue
        what, cited = part.replace("_", " ").capitalize(), f"published {q.context.reference.cite(name)}"
        if isinstance(found, str):
            notes.append(f"{what}: {cited}; {found}.")
            continue
        measured, error, n = found
        told = f"{cited}; {_compared(measured, error, value)}"
        results.append(q.judge("published", where, measured, unit, error, n, limits=Limits(), part=part, reason=told))
        notes.append(f"{what} {written(measured, error, unit)}: {told}.")
    return CheckOutput(results, notes=notes)


def _energy(q: QcInput) -> tuple[float, float, float] | str:
    if not (q.context.has_singles and q.context.has_energies):
        return _NOT_MEASURED
    fit = q.energy_fit(next(iter(q.nodes("scanner"))))
    return (*resolution_percent(fit), fit.area) if isinstance(fit, PeakFit) else _NOT_MEASURED


def _time(q: QcInput) -> tuple[float, float, float] | str:
    if q.without_tof or not q.context.has_pair_search or not q.histograms.n_pairs:
        return _NOT_MEASURED
    if q.context.source not in {"point", "line"}:
        return "the width of an extended source's time peak contains the source and compares with nothing"
    fit = q.time_fit(-1 if q.histograms.n_pairs > 1 else 0)
    return (fit.fwhm, fit.fwhm_error, fit.area) if isinstance(fit, PeakFit) else _NOT_MEASURED


def _compared(measured: float, error: float, value: float) -> str:
    pull = (measured - value) / math.hypot(error, _ROUNDED * _last_digit(value))
    percent = 100.0 * (measured / value - 1.0)
    verdict = (
        f"consistent with published within {CONSISTENT_SIGMAS:g} σ"
        if abs(pull) <= CONSISTENT_SIGMAS
        else "differs from published"
    )
    return f"{abs(percent):.2g} % {'below' if percent < 0 else 'above'}, {abs(pull):.1f} σ: {verdict}"


def _last_digit(value: float) -> float:
    """One unit of the last digit a number is given to: 390 → 1, 10.5 → 0.1."""
    return float(10.0 ** -len(f"{value:g}".partition(".")[2]))
