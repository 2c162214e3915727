"""Photopeaks of scanner, modules and ASICs: which model, from where, and what it leaves uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import MIN_NET_COUNTS, MIN_P_VALUE, PeakFit
from petqc.fits.kernels import TAIL
from petqc.fits.peaks import candidates, find_peaks, onset
from petqc.fits.photopeaks import LU_EDGE_RATIO, PeakShape, apparent_peak, fit_photopeak
from petqc.statistics import FAMILY_FALSE_ALARM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import Node, QcInput

ANNIHILATION_KEV = 510.99895
"""Source: CODATA electron rest energy."""
USUAL_TAIL = 0.03
"""Share of full-energy events that lack light below the hit threshold, before a run has measured it, and its
uncertainty: that of 3 mm crystals with a threshold of 30 keV, from none at all to twice as many."""
LYSO_RANGE = (400.0 / ANNIHILATION_KEV, 620.0 / ANNIHILATION_KEV)
"""Fit range of LYSO photopeaks as multiples of the peak. The range of daily-qc.md §2a ends at 650 keV; from 620 keV on
the continuum of Lu-176 behind its edge bends, which a straight line turns into 0.1 keV at the peak."""
MODEL_POSITION, MODEL_WIDTH = 4e-5, 1e-3
"""Relative systematic uncertainties of a photopeak's position and FWHM: what the model leaves on spectra of simulated
LYSO blocks without statistical noise (0.02 keV, 0.01 % of 511 keV)."""
_NEAR = 0.12
"""Where most counts are of lutetium in the crystals, the photopeak is looked for this near 511 keV, as a share of it:
its other lines and the edge of their sum, at 307 and 597 keV, are further off."""
_MANY = 20_000
"""Counts of a spectrum from which on step, tail and line can be told apart."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no fit; n is the number of counts there were.

    times_as_long: how many times as many would do; 1: not known.
    """

    reason: str
    n: int
    times_as_long: float = 1.0


def fit_plain(q: QcInput, node: Node) -> PeakFit | Refusal:
    """Photopeak of a node's summed spectrum alone, from any start: where a fit of all that belongs to it starts.

    Of detectors that are not calibrated it is all there is.
    """
    edges, counts = q.histograms.energy_edges, q.spectrum(node.members)
    n = int(counts.sum())
    if n < MIN_NET_COUNTS:
        if not n:
            return Refusal("no counts at all", n)
        return Refusal(f"{n} counts, at least {MIN_NET_COUNTS} wanted", n, MIN_NET_COUNTS / n)
    humps = q.humps(node)
    if humps is not None:
        unit = q.energy_unit
        return Refusal(
            f"two humps near {humps.low:.4g} and {humps.high:.4g} {unit}, not one photopeak: "
            "parts of this node differ in gain",
            n,
        )
    if not q.is_kev:
        lines = q.lines(node)
        return lines[0] if lines else Refusal("no peak stands out of the spectrum", n)
    peaks = [
        p
        for p in candidates(edges, counts)
        if 0.55 < p.position / ANNIHILATION_KEV < 1.6 and 0.02 < p.sigma / p.position < 0.15
    ]
    if q.is_mostly_own:  # the line of 307 keV may stand out more than the source's
        peaks = [p for p in peaks if abs(p.position / ANNIHILATION_KEV - 1.0) < _NEAR]
    if not peaks:
        return Refusal("no peak stands out of the spectrum", n)
    seed, width = peaks[0].position, peaks[0].sigma / peaks[0].position
    try:
        return fit_photopeak(edges, counts, seed, relative_sigma=width, min_p_value=0.0)
    except (TooFewCountsError, FitFailedError) as problem:
        return Refusal(str(problem), n, getattr(problem, "times_as_long", 1.0))


def fit_energy(q: QcInput, node: Node, shape: PeakShape | None = None) -> PeakFit | Refusal:
    """Photopeak of a node's summed spectrum, with everything that belongs to it; shape: instead of the measured one."""
    plain = q.plain_fit(node)
    if isinstance(plain, Refusal) or not q.is_kev:
        return plain
    edges, counts = q.histograms.energy_edges, q.spectrum(node.members)
    n = int(counts.sum())
    try:
        if shape is not None:
            return fit_photopeak(
                edges,
                counts,
                plain.mu,
                shape=shape,
                relative_range=LYSO_RANGE,
                relative_sigma=plain.sigma / plain.mu,
            )
        tail, error, missing = q.energy_tail()
        found, more = (
            fit_photopeak(
                edges,
                counts,
                plain.mu,
                shape=PeakShape(missing, share, LU_EDGE_RATIO, None, signed_step=n > _MANY),
                relative_range=LYSO_RANGE,
                relative_sigma=plain.sigma / plain.mu,
                min_p_value=least,
            )
            for share, least in ((tail, _least_p_value(q, node)), (tail + error, 0.0))
        )
    except (TooFewCountsError, FitFailedError) as problem:
        return Refusal(str(problem), n, getattr(problem, "times_as_long", 1.0))
    (shift, fwhm), (more_shift, more_fwhm) = (
        (float(v) for v in apparent_peak(fit.sigma, share, missing))
        for fit, share in ((found, tail), (more, tail + error))
    )
    # What the tail's uncertainty does to this node is what a little more of it does.
    by_tail = (more.mu + more_shift - found.mu - shift, more_fwhm - fwhm)
    q.by_tail[node.name] = by_tail
    return replace(
        found,
        mu=found.mu + shift,
        fwhm=fwhm,
        mu_error=math.hypot(found.mu_error, by_tail[0], MODEL_POSITION * found.mu),
        fwhm_error=math.hypot(found.fwhm_error, by_tail[1], MODEL_WIDTH * found.fwhm),
    )


def _least_p_value(q: QcInput, node: Node) -> float:
    """Of many nodes that fit well, a few have a low p-value by chance."""
    family = {"asic": q.topology.asic_nodes, "bias": q.topology.bias_nodes}.get(node.level, ())
    return min(MIN_P_VALUE, FAMILY_FALSE_ALARM / max(len(family), 1))


def find_tail(q: QcInput) -> tuple[float, float, float]:
    """Share of full-energy events that lack light below the hit threshold, its error, and that threshold."""
    if not q.is_kev:
        return 0.0, 0.0, 0.0
    edges = q.histograms.energy_edges
    missing = onset(edges, q.spectrum(np.arange(len(q.histograms.topology))), 0.3 * ANNIHILATION_KEV)
    if missing is None or missing < 2.0:
        return 0.0, 0.0, 0.0
    values, weights = [], []
    usual = PeakShape(missing, USUAL_TAIL, LU_EDGE_RATIO, None, signed_step=True)
    free = replace(usual, tail=None)
    for node in q.nodes("module"):
        fit, reference = fit_energy(q, node, free), fit_energy(q, node, usual)
        if isinstance(fit, Refusal) or isinstance(reference, Refusal):
            continue
        # The error that a fit states for this share grows with the share it happens to find, which would give low
        # values the larger weight. So it is taken from the noiseless spectrum of the usual share.
        try:
            noiseless = fit_photopeak(
                reference.edges,
                reference.model,
                reference.mu,
                shape=free,
                relative_range=LYSO_RANGE,
                relative_sigma=reference.sigma / reference.mu,
            )
        except (TooFewCountsError, FitFailedError):
            continue
        variance = float(noiseless.covariance[TAIL, TAIL]) * fit.scale**2
        if variance > 0:
            values.append(float(fit.parameters[TAIL]))
            weights.append(1.0 / variance)
    if sum(weights) * USUAL_TAIL**2 < 1.0:  # the run alone says less than what is usual
        values.append(USUAL_TAIL)
        weights.append(1.0 / USUAL_TAIL**2)
    return float(np.average(values, weights=weights)), 1.0 / math.sqrt(sum(weights)), missing


def bulk(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Where humps are looked for on an axis without keV: around the strongest peaks."""
    peaks = [p for p in find_peaks(edges, counts, min_significance=8.0) if p.sigma / max(p.position, 1e-9) > 0.05]
    if not peaks:
        return float(edges[0]), float(edges[-1])
    top = max(p.position for p in peaks[:2])
    return 0.2 * top, min(2.0 * top, float(edges[-1]))
