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

from petqc.channel_map import SCANNER
from petqc.fits.energy_fits import ANNIHILATION_KEV, USUAL_TAIL, Refusal
from petqc.fits.peaks import onset
from petqc.qc_input import QcInput, resolution_percent
from petqc.results import Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class SoFar:
    """Figures of a run that goes on, and the spectra that they were fitted to, with the fits."""

    figures: list[Figure]
    spectra: list[Spectrum]


def so_far(summed: QcHistograms, context: RunContext) -> SoFar:
    """What a run has shown so far.

    Args:
        summed: what was counted, as `QcHistograms.summed` gives it.
        context: live time of the frames that were counted, source and kind of scanner are used. Without a source there
            are rates alone, and no fits.
    """
    n_singles, n_prompts = int(summed.singles.sum()), int(summed.prompts.sum())
    q = QcInput(summed, context)
    figures = [
        _rate("singles_rate", "Singles rate", n_singles, q.live_time_s),
        Figure("prompts_seen", "Prompts", float(n_prompts), math.sqrt(n_prompts), ""),
        _rate("prompts", "Prompt rate", n_prompts, q.live_time_s),
    ]
    energy: PeakFit | Refusal | None = None
    time: PeakFit | Refusal | None = None
    if context.source != "none" and q.is_kev:
        energy = _energy_fit(q)
        figures += _energies(energy)
    if context.source != "none" and not q.without_tof:
        time = q.time_fit(-1)
        title = "CTR" if context.source in {"point", "line"} else "Width of the time peak"
        figures.append(
            Figure("ctr_fit", title, None, None, "ps", time.reason)
            if isinstance(time, Refusal)
            else Figure("ctr_fit", title, time.fwhm, time.fwhm_error, "ps")
        )
    edges, counts = q.time_spectrum(-1)
    every = np.arange(len(q.topology))
    spectra = [
        _spectrum("energy", "energy", q.energy_unit, summed.energy_edges, q.spectrum(every), energy),
        _spectrum("time", "time difference", "ps", edges, counts, time),
    ]
    return SoFar(figures, spectra)


def _spectrum(
    id_: str,
    quantity: str,
    unit: str,
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    fit: PeakFit | Refusal | None,
) -> Spectrum:
    drawn = fit.on(edges) if fit is not None and not isinstance(fit, Refusal) else (None, None)
    text = fit.reason if isinstance(fit, Refusal) else ""
    return Spectrum(id_, SCANNER, quantity, unit, edges, counts, fit=drawn[0], background=drawn[1], text=text)


def _rate(id_: str, title: str, n: int, live_time_s: float | None) -> Figure:
    if live_time_s is None:
        return Figure(id_, title, None, None, "1/s", "no live time yet")
    return Figure(id_, title, n / live_time_s, math.sqrt(max(n, 1)) / live_time_s, "1/s")


def _energy_fit(q: QcInput) -> PeakFit | Refusal:
    """Photopeak of the sum."""
    edges = q.histograms.energy_edges
    missing = onset(edges, q.spectrum(np.arange(len(q.topology))), 0.3 * ANNIHILATION_KEV)
    # The share that a run measures itself takes three fits of each module: not to know it is part of the uncertainty.
    usual = missing is not None and missing >= _LIGHTLESS
    q.assume_tail((USUAL_TAIL, USUAL_TAIL, float(missing or 0.0)) if usual else (0.0, 0.0, 0.0))
    return q.energy_fit(next(q.nodes("scanner")))


def _energies(fit: PeakFit | Refusal) -> list[Figure]:
    if isinstance(fit, Refusal):
        return [
            Figure("photopeak", "Photopeak", None, None, "keV", fit.reason),
            Figure("energy_resolution", "Energy resolution", None, None, "%", fit.reason),
        ]
    return [
        Figure("photopeak", "Photopeak", fit.mu, fit.mu_error, "keV"),
        Figure("energy_resolution", "Energy resolution", *resolution_percent(fit), "%"),
    ]
