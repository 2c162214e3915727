"""What a run has shown so far, while it goes on: rates, photopeak and time resolution of the whole scanner.

They are fits of the same models as the verdict's, to the sum of all modules, with the usual share of missing light in
place of the run's own. So they agree with the verdict's within their uncertainties, and are none: no limit is looked
at, and nothing is said about modules, channels or what is missing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.fits.energy_fits import ANNIHILATION_KEV, USUAL_TAIL, Refusal
from petqc.fits.peaks import onset
from petqc.qc_input import QcInput, resolution_percent

if TYPE_CHECKING:
    from petqc.fits import PeakFit
    from petqc.histograms import QcHistograms
    from petqc.qc_input import RunContext

NO_VERDICT: Final = "so far, not a verdict"
_LIGHTLESS: Final = 2.0
"""An onset below this, in keV, is none. Source: petqc.fits.energy_fits.find_tail."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. id: of the check that will give it in the end, or `prompts_seen`. value None: reason says why."""

    id: str
    title: str
    value: float | None
    uncertainty: float | None
    unit: str
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Plain types for JSON, with the number as people read it."""
        from petqc.report.text import measured

        return {**asdict(self), "text": measured(self.value, self.uncertainty, self.unit)}


def figures(summed: QcHistograms, context: RunContext) -> list[Figure]:
    """Figures of a run that goes on.

    Args:
        summed: what was counted so far, as `QcHistograms.summed` gives it.
        context: live time of the frames that were counted, source and kind of scanner are used. Without a source there
            are rates alone.
    """
    n_singles, n_prompts = int(summed.singles.sum()), int(summed.prompts.sum())
    q = QcInput(summed, context)
    found = [
        _rate("singles_rate", "Singles rate", n_singles, q.live_time_s),
        Figure("prompts_seen", "Prompts", float(n_prompts), math.sqrt(n_prompts), ""),
        _rate("prompts", "Prompt rate", n_prompts, q.live_time_s),
    ]
    if context.source == "none":
        return found
    if q.is_kev:
        found += _energies(q)
    if not q.without_tof:
        found.append(_width(q))
    return found


def _width(q: QcInput) -> Figure:
    """Width of the coincidence peak of all pairs together."""
    title = "CTR" if q.context.source in {"point", "line"} else "Width of the time peak"
    fit = q.time_fit(-1)
    if isinstance(fit, Refusal):
        return Figure("ctr_fit", title, None, None, "ps", fit.reason)
    return Figure("ctr_fit", title, fit.fwhm, fit.fwhm_error, "ps")


def _rate(id_: str, title: str, n: int, live_time_s: float | None) -> Figure:
    if live_time_s is None:
        return Figure(id_, title, None, None, "1/s", "no live time yet")
    return Figure(id_, title, n / live_time_s, math.sqrt(max(n, 1)) / live_time_s, "1/s")


def _energies(q: QcInput) -> list[Figure]:
    """Photopeak and energy resolution of the sum."""
    edges = q.histograms.energy_edges
    missing = onset(edges, q.spectrum(np.arange(len(q.topology))), 0.3 * ANNIHILATION_KEV)
    # The share that a run measures itself takes three fits of each module: not to know it is part of the uncertainty.
    usual = missing is not None and missing >= _LIGHTLESS
    q.assume_tail((USUAL_TAIL, USUAL_TAIL, float(missing or 0.0)) if usual else (0.0, 0.0, 0.0))
    fit: PeakFit | Refusal = q.energy_fit(next(q.nodes("scanner")))
    if isinstance(fit, Refusal):
        return [
            Figure("photopeak", "Photopeak", None, None, "keV", fit.reason),
            Figure("energy_resolution", "Energy resolution", None, None, "%", fit.reason),
        ]
    return [
        Figure("photopeak", "Photopeak", fit.mu, fit.mu_error, "keV"),
        Figure("energy_resolution", "Energy resolution", *resolution_percent(fit), "%"),
    ]
