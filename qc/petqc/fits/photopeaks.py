"""Fits of photopeaks: of one spectrum with everything that belongs to the peak, and of every channel at once.

Source: daily-qc.md §2a and §2g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import (
    MIN_NET_COUNTS,
    MIN_P_VALUE,
    SHAPE_TOLERANCE,
    PeakFit,
    accept,
    error_scales,
    peak_fit,
    slots_of,
)
from petqc.fits.kernels import (
    A1,
    CONVERGED,
    EDGE,
    EDGE_RATIO,
    HIGH,
    LOW,
    MU1,
    N_CONSTANTS,
    N_PARAMETERS,
    NO_CONVERGENCE,
    S1,
    SINGULAR,
    STANDS_OUT,
    STEP,
    TAIL,
    TAIL_WIDTH,
)
from petqc.fits.peaks import FoundPeak, candidates
from petqc.fits.photopeak_kernels import (
    NO_RANGE,
    TOO_FEW,
    apparent_peaks,
    photopeak_fit,
    photopeak_fits,
    stands_out_by,
)
from petqc.statistics import FWHM_OF_SIGMA, sparse_chi2_p_value

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PeakShape:
    """What belongs to a photopeak besides Gauss, step and line.

    missing: an event of the peak may lack up to this much energy (light below a hit threshold), in the unit of the
    axis; 0: no such tail. tail: share of such events, relative to the others; None: fitted. edge_ratio: where another
    continuum begins, as a multiple of the peak's energy; 0: none. edge: its height in counts per unit; None: fitted.
    signed_step: the step may fall below zero: with counts enough to tell step, tail and line apart, a bound at zero
    would make the errors of all three too small. With few counts it keeps the fit from running away.
    """

    missing: float = 0.0
    tail: float | None = None
    edge_ratio: float = 0.0
    edge: float | None = None
    signed_step: bool = False

    def constants(self) -> NDArray[np.float64]:
        """(2,) for the kernels."""
        constants = np.zeros(N_CONSTANTS)
        constants[TAIL_WIDTH], constants[EDGE_RATIO] = self.missing, self.edge_ratio
        return constants

    def slots(self) -> NDArray[np.int64]:
        """(11,) which parameters are free."""
        groups: list[tuple[int, ...]] = [(A1,), (MU1,), (S1,), (STEP,), (LOW,), (HIGH,)]
        if self.missing > 0 and self.tail is None:
            groups.append((TAIL,))
        if self.edge_ratio > 0 and self.edge is None:
            groups.append((EDGE,))
        return slots_of(*groups)


def apparent_peak(
    sigma: NDArray[np.float64] | float, tail: NDArray[np.float64] | float, missing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a Gauss with its tail of missing light has its maximum, and its full width at half maximum.

    The fitted position of the Gauss and the share of the tail pull each other along: more tail, higher Gauss. The
    maximum of both together is what the spectrum shows, and stays.

    Args:
        sigma: of the Gauss (any shape).
        tail: share of events that lack light, relative to the others (same shape).
        missing: most that they lack.

    Returns:
        Maximum relative to the Gauss's position, and FWHM; in the unit of sigma.
    """
    s = np.asarray(sigma, np.float64)
    if missing <= 0:
        return np.zeros_like(s), FWHM_OF_SIGMA * s
    shift, width = np.empty(s.size), np.empty(s.size)
    apparent_peaks(s.ravel(), np.asarray(tail, np.float64).ravel(), missing, shift, width)
    return shift.reshape(s.shape), width.reshape(s.shape)


PLAIN = PeakShape()
LU_EDGE_RATIO = 597.0 / 511.0
"""Lu-176 whose three gammas stay in the crystal begins at their sum. Source: daily-qc.md §2g."""


def fit_photopeak(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    seed: float,
    *,
    shape: PeakShape = PLAIN,
    relative_range: tuple[float, float] = (400.0 / 511.0, 650.0 / 511.0),
    relative_sigma: float = 0.05,
    reach: float = 8.0,
    min_counts: int = MIN_NET_COUNTS,
    min_p_value: float | None = None,
) -> PeakFit:
    """Fit Gauss + erfc step + straight background around a photopeak.

    The range is 400-650 keV for a peak at 511 keV and moves with the peak.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        seed: position to start from, in the unit of edges.
        shape: what belongs to the peak besides Gauss, step and line.
        relative_range: ends of the fitted range as multiples of the peak position.
        relative_sigma: standard deviation to start from as a share of the position.
        reach: half of the longest range in sigma (for narrow peaks).
        min_counts: fewest counts in the peak.
        min_p_value: lowest goodness of fit to accept; default MIN_P_VALUE.

    Raises:
        TooFewCountsError: fewer than min_counts in the peak.
        FitFailedError: no convergence, edge of range, or the model does not describe the counts.

    Source: daily-qc.md §2a.
    """
    edges = np.ascontiguousarray(edges, np.float64)
    counts = np.ascontiguousarray(counts, np.float64)
    p, model = np.empty(N_PARAMETERS), np.zeros(counts.size)
    covariance = np.empty((N_PARAMETERS, N_PARAMETERS))
    slots, constants = shape.slots(), shape.constants()
    status, first, last, nll = NO_CONVERGENCE, 0, 0, 0.0
    # A start that is too wide may run away. Where step, edge and line lie on their bounds in turn, the fit may go to
    # and fro between them: then the step is let go below zero.
    for narrower, signed in (
        (1.0, shape.signed_step),
        (0.6, shape.signed_step),
        (0.35, shape.signed_step),
        (1.0, True),
    ):
        status, first, last, nll = photopeak_fit(
            edges, counts, seed, narrower * relative_sigma * seed, 1.0 - relative_range[0], relative_range[1] - 1.0,
            reach, float(min_counts), slots, constants, _tail_start(shape),
            -1.0 if shape.edge is None else shape.edge, -np.inf if signed else 0.0, p, model, covariance,
        )  # fmt: skip
        if status not in {NO_CONVERGENCE, SINGULAR}:
            break
    if status == NO_RANGE:
        raise FitFailedError(f"no room for a fit range around {seed:.4g} on this axis")
    if status == TOO_FEW:
        raise TooFewCountsError(f"{counts[first:last].sum():.0f} counts in the fit range, at least {min_counts} wanted")
    if status != CONVERGED:
        raise FitFailedError(f"the fit of a peak near {seed:.4g} does not converge")
    part_edges, part = edges[first : last + 1], counts[first:last]
    fit = peak_fit(part_edges, part, model[first:last], p, covariance, nll, slots, constants)
    stands_out = fit.area_over_error
    if stands_out < STANDS_OUT:
        stands_out = max(stands_out, stands_out_by(part, part_edges, p, constants, slots, nll) / fit.scale)
    return accept(fit, MIN_P_VALUE if min_p_value is None else min_p_value, min_counts, stands_out)


def _tail_start(shape: PeakShape) -> float:
    if shape.missing <= 0:
        return 0.0
    return 0.03 if shape.tail is None else shape.tail


_LINE_REACH = (3.5, 2.5)
"""Half of the range in sigma around a line of a spectrum whose other content is not known; the second where something
else stands too near for the first."""
_LINE_COUNTS = 50
"""Fewest counts of a line of a laboratory's spectrum: it is shown, not judged."""


def fit_lines(edges: NDArray[np.float64], counts: NDArray[np.float64], most: int = 8) -> list[PeakFit]:
    """Fit every line that stands out of a spectrum: Gauss + step + straight background, around the line only.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        most: lines to give.

    Returns:
        The fits that can be trusted, the most significant line (area over its error) first.
    """
    tried: list[FoundPeak] = []
    fits: list[PeakFit] = []
    for peak in candidates(edges, counts, min_significance=6.0):
        # One peak answers at several widths; a start for each octave of width is enough.
        if peak.position <= 0 or any(
            abs(peak.position - t.position) < 0.7 * min(peak.sigma, t.sigma) and 0.5 < peak.sigma / t.sigma < 2.0
            for t in tried
        ):
            continue
        tried.append(peak)
        for reach in _LINE_REACH:
            try:
                fit = fit_photopeak(
                    edges,
                    counts,
                    peak.position,
                    relative_range=(0.2, 1.8),
                    relative_sigma=0.6 * peak.sigma / peak.position,
                    reach=reach,
                    min_counts=_LINE_COUNTS,
                )
            except (TooFewCountsError, FitFailedError):
                continue
            if fit.fwhm < 0.8 * fit.mu:  # wider than that it is a continuum, not a line
                fits.append(fit)
            break
    fits.sort(key=lambda f: -f.area_over_error)
    found: list[PeakFit] = []
    for fit in fits:
        if all(abs(fit.mu - f.mu) > 0.6 * max(fit.fwhm, f.fwhm) for f in found):
            found.append(fit)
    return found[:most]


@dataclass(frozen=True, slots=True)
class PeakFits:
    """Many fitted photopeaks; arrays of one length, NaN where there is no number.

    mu, mu_error, fwhm, fwhm_error, area: as in PeakFit. reason: (m,) why there is no number, "" where there is one.
    parameters: (m, 11) in the order of petqc.fits.kernels. bins: (m, 2) int32, first and one past the last fitted bin;
    both 0 without a number. constants: (2,) of the shape.
    """

    mu: NDArray[np.float64]
    mu_error: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    fwhm_error: NDArray[np.float64]
    area: NDArray[np.float64]
    reason: NDArray[np.object_]
    parameters: NDArray[np.float64]
    bins: NDArray[np.int32]
    constants: NDArray[np.float64]


def fit_photopeaks(
    edges: NDArray[np.float64],
    counts: NDArray[np.uint32],
    centre: NDArray[np.float64],
    sigma: NDArray[np.float64],
    *,
    shape: PeakShape = PLAIN,
    tail: NDArray[np.float64] | None = None,
    edge: NDArray[np.float64] | None = None,
    search: float = 0.3,
    relative_range: tuple[float, float] = (400.0 / 511.0, 650.0 / 511.0),
    min_counts: int = MIN_NET_COUNTS,
) -> PeakFits:
    """Fit the photopeak of every channel, as fit_photopeak does for one.

    Args:
        edges: (n + 1,) bin edges.
        counts: (m, n) counts.
        centre: (m,) where to look for the peak.
        sigma: (m,) standard deviation to start from.
        shape: as for fit_photopeak; its tail and edge are not fitted here.
        tail: (m,) share of events that lack energy; default 0.
        edge: (m,) height of the other continuum; default 0.
        search: half of the range to look in, as a share of the centre.
        relative_range: as for fit_photopeak.
        min_counts: fewest counts in the peak.

    Source: daily-qc.md §2a.
    """
    m = counts.shape[0]
    status = np.zeros(m, np.int64)
    parameters = np.full((m, N_PARAMETERS), np.nan)
    errors, nll, quality = np.zeros((m, 3)), np.zeros(m), np.zeros((m, 5))
    slots, constants = PLAIN.slots(), shape.constants()
    tail = np.zeros(m) if tail is None else np.ascontiguousarray(tail, np.float64)
    edge = np.zeros(m) if edge is None else np.ascontiguousarray(edge, np.float64)
    photopeak_fits(
        np.ascontiguousarray(edges, np.float64), np.ascontiguousarray(counts, np.uint32),
        np.ascontiguousarray(centre, np.float64), np.ascontiguousarray(sigma, np.float64), search,
        1.0 - relative_range[0], relative_range[1] - 1.0, float(min_counts), slots,
        constants, tail, edge, status, parameters, errors, nll, quality, SHAPE_TOLERANCE,
    )  # fmt: skip
    n_parameters = int(slots.max()) + 1
    n_bins = quality[:, 2].astype(np.int64)
    p_value = sparse_chi2_p_value(quality[:, 0], n_bins, quality[:, 3], n_parameters)
    # With a tolerance a fit is never worse: where it is good enough without, there is no need to know how good.
    p_shape = p_value.copy()
    doubtful = p_value < MIN_P_VALUE
    p_shape[doubtful] = sparse_chi2_p_value(quality[doubtful, 1], n_bins[doubtful], quality[doubtful, 3], n_parameters)
    scale = error_scales(quality[:, 0], n_bins - n_parameters, p_value)
    area, mu, s = parameters[:, A1], parameters[:, MU1], parameters[:, S1]
    with np.errstate(invalid="ignore"):
        is_lost = (status == CONVERGED) & (area < STANDS_OUT * errors[:, 0] * scale)
    for i in np.flatnonzero(is_lost & (area >= min_counts)):
        first, last = int(quality[i, 4]), int(quality[i, 4]) + int(n_bins[i])
        part = counts[i, first:last].astype(np.float64)
        found = stands_out_by(part, edges[first : last + 1], parameters[i], constants, slots, nll[i])
        is_lost[i] = found < STANDS_OUT * scale[i]
    low, high = mu * relative_range[0], mu * relative_range[1]
    reason = np.full(m, "", dtype=object)
    with np.errstate(invalid="ignore"):
        refusals = (
            (p_shape < MIN_P_VALUE, "the model does not describe the spectrum"),
            (FWHM_OF_SIGMA * s > 0.75 * (high - low), "the peak fills the fit range"),
            (is_lost, "no peak stands out of the background"),
            (area < min_counts, f"fewer than {min_counts} counts in the peak"),
            (~np.isfinite(mu) | (status == SINGULAR) | (status == NO_CONVERGENCE), "the fit does not converge"),
            (status == NO_RANGE, "no room for a fit range on the axis"),
            (status == TOO_FEW, f"fewer than {min_counts} counts"),
        )
    for refused, why in refusals:  # the last one that applies is the most basic one
        reason[refused] = why
    usable = reason == ""
    safe = np.where(usable, s, 1.0)
    shift, width = apparent_peak(safe, tail, shape.missing)
    return PeakFits(
        mu=np.where(usable, mu + shift, np.nan),
        mu_error=np.where(usable, errors[:, 1] * scale, np.nan),
        fwhm=np.where(usable, width, np.nan),
        fwhm_error=np.where(usable, FWHM_OF_SIGMA * errors[:, 2] * scale, np.nan),
        area=np.where(usable, area, np.nan),
        reason=reason,
        parameters=parameters,
        bins=np.where(usable[:, None], quality[:, 4:] + np.outer(n_bins, [0, 1]), 0).astype(np.int32),
        constants=constants,
    )
