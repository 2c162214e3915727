"""Fits of coincidence peaks: one Gaussian or two on flat randoms, alone or many that have one shape.

Source: daily-qc.md §2c for the model, §2k for the bounds.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, QcError, TooFewCountsError
from petqc.fits import (
    MIN_NET_COUNTS,
    MIN_P_VALUE,
    SHAPE_TOLERANCE,
    Goodness,
    PeakFit,
    accept,
    error_scales,
    fit_from,
    lower_bounds,
    of_one,
    slots_of,
)
from petqc.fits.kernels import A1, A2, CONVERGED, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, S2, bins_of_a_tenth
from petqc.fits.time_peak_kernels import time_peak_fits, time_start
from petqc.fits.time_shapes import fit_shape
from petqc.statistics import FWHM_OF_SIGMA, sparse_chi2_p_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

_USUAL = 0.1
"""How far a peak's width may be from the median if it shall tell the shape of all of them."""
_SECONDS = ((1.8, 0.15), (3.5, 0.05), (1.35, 0.3))
"""Where the fit of a second Gaussian starts: its width relative to the first one's, and its share of the counts."""
_SECOND_COSTS = 2.0
"""What two parameters more gain in log-likelihood for nothing, as Akaike's criterion counts it."""
_DOUBTFUL, _CERTAIN = 1.0, 6.9
"""Gain in log-likelihood from where on another shape is considered, and taken: the latter comes by noise in one of a
thousand peaks, where it has two parameters more."""
_SLOTS_TIME = slots_of((A1,), (MU1,), (S1,), (LOW, HIGH))
_SLOTS_TIME_DOUBLE = slots_of((A1,), (MU1, MU2), (S1,), (A2,), (S2,), (LOW, HIGH))
_SLOTS_TIME_SHAPE = slots_of((A1, A2), (MU1, MU2), (S1, S2), (LOW, HIGH))


def fit_time_peak(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    min_p_value: float = MIN_P_VALUE,
    min_net_counts: int = MIN_NET_COUNTS,
    allow_second: bool = True,
) -> PeakFit:
    """Fit a coincidence peak: Gauss (and a second, wider one with the same mean if the counts ask for it) + flat.

    Where the counts do not decide between the two, errors of the widths hold the difference.

    Args:
        edges: (n + 1,) bin edges, only bins that lie wholly inside the coincidence window.
        counts: (n,) counts.
        min_p_value: lowest goodness of fit to accept.
        min_net_counts: fewest counts in the peak.
        allow_second: try the second Gaussian.

    Raises:
        TooFewCountsError: fewer than min_net_counts in the peak.
        FitFailedError: no convergence, edge of range, or the model does not describe the counts.

    Source: daily-qc.md §2c.
    """
    found = fit_time_peaks(
        edges, counts[None, :], min_p_value=min_p_value, min_net_counts=min_net_counts, allow_second=allow_second
    )[0]
    if isinstance(found, PeakFit):
        return found
    raise found


def fit_whole_peak(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    min_p_value: float = MIN_P_VALUE,
    min_net_counts: int = MIN_NET_COUNTS,
) -> PeakFit:
    """Fit the coincidence peak of all pairs together, whose shape nothing else tells: it is fitted along.

    Args:
        edges: (n + 1,) bin edges, only bins that lie wholly inside the coincidence window.
        counts: (n,) counts.
        min_p_value: lowest goodness of fit to accept.
        min_net_counts: fewest counts in the peak.

    Raises:
        TooFewCountsError: fewer than min_net_counts in the peak.
        FitFailedError: no convergence, edge of range, or the model does not describe the counts.

    Source: daily-qc.md §2c; petqc.fits.time_shapes.
    """
    one = fit_time_peak(edges, counts, min_p_value=0.0, min_net_counts=min_net_counts, allow_second=False)
    return accept(_judged_coarsely(fit_shape(one.edges, one.counts, one)), min_p_value, min_net_counts)


def fit_time_peaks(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    min_p_value: float = MIN_P_VALUE,
    min_net_counts: int = MIN_NET_COUNTS,
    allow_second: bool = True,
    of_one_kind: bool = False,
) -> list[PeakFit | QcError]:
    """Fit many coincidence peaks of one axis, each as fit_time_peak does.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (m, n) counts.
        min_p_value: as for fit_time_peak.
        min_net_counts: as for fit_time_peak.
        allow_second: as for fit_time_peak.
        of_one_kind: the peaks are of the same events and detectors, so that all have the shape which they have together
            in units of their widths, unless their counts say otherwise. A single one is fitted as fit_whole_peak does.

    Returns:
        m fits, or why there is none.

    Source: daily-qc.md §2c.
    """
    if of_one_kind and len(counts) == 1:
        try:
            return [fit_whole_peak(edges, counts[0], min_p_value=min_p_value, min_net_counts=min_net_counts)]
        except QcError as problem:
            return [problem]
    total = counts.sum(axis=1)
    enough = np.flatnonzero(total >= min_net_counts)
    edges, counts = np.ascontiguousarray(edges, np.float64), np.ascontiguousarray(counts[enough], np.float64)
    m, n = counts.shape
    status, quality = np.zeros((m, 2), np.int64), np.zeros((m, 5))
    parameters, covariance = np.zeros((m, N_PARAMETERS)), np.zeros((m, N_PARAMETERS, N_PARAMETERS))
    model, background = np.zeros((m, n)), np.zeros((m, n))
    time_peak_fits(
        edges, counts, _SLOTS_TIME, lower_bounds(_SLOTS_TIME, edges), SHAPE_TOLERANCE,
        status, parameters, covariance, model, background, quality,
    )  # fmt: skip
    n_parameters = int(_SLOTS_TIME.max()) + 1
    n_bins = quality[:, 3].astype(np.int64)
    n_free = n_bins - n_parameters
    p_value, p_shape = (sparse_chi2_p_value(quality[:, k], n_bins, quality[:, 4], n_parameters) for k in (1, 2))
    scale = error_scales(quality[:, 1], n_free, p_value)
    values, errors = of_one(parameters, covariance)
    with_errors = np.stack((values, errors * scale[:, None]), axis=2).reshape(m, 2 * values.shape[1])
    # All numbers of a fit, in the order in which PeakFit has them.
    numbers = (*with_errors.T, quality[:, 1], n_free, p_value, p_shape, scale, -quality[:, 0])
    rows = zip(*(column.tolist() for column in numbers), strict=True)
    fitted = status[:, 0] == CONVERGED
    like = _common_shape(edges, counts[fitted], parameters[fitted]) if of_one_kind else None
    fits: list[PeakFit | QcError] = []
    for (outcome, steps), p, of_p, row, mu, flat, told_of in zip(
        status.tolist(), parameters, covariance, counts, model, background, rows, strict=True
    ):
        try:
            if outcome != CONVERGED:
                raise FitFailedError(f"the fit does not converge ({steps} steps)")
            fit = PeakFit(p, of_p, edges, row, mu, flat, *told_of)
            free = allow_second and fit.area > 10 * min_net_counts
            if free or like is not None:
                one = _rejudged(fit, Goodness.found(row, mu, n_parameters))
                fit = _judged_coarsely(_as_likely(edges, row, one, like, free=free))
            fits.append(accept(fit, min_p_value, min_net_counts))
        except QcError as problem:
            fits.append(problem)
    next_fit = iter(fits)
    return [
        next(next_fit)
        if n_pairs >= min_net_counts
        else TooFewCountsError(f"{n_pairs:.0f} pairs, at least {min_net_counts} wanted")
        for n_pairs in total.tolist()
    ]


def _common_shape(edges: NDArray[np.float64], counts: NDArray[np.float64], ones: NDArray[np.float64]) -> PeakFit | None:
    """Peak of all together, each moved and stretched onto the others; None: alone, or none that a fit describes.

    Those of an unusual width are left out: what widens a peak may change its shape.

    Args:
        edges: (n + 1,) bin edges.
        counts: (m, n) counts.
        ones: (m, 11) fits of one Gaussian to them.
    """
    enough = ones[:, A1] >= MIN_NET_COUNTS
    if not enough.any():
        return None
    sigma = float(np.median(ones[enough, S1]))
    usual = np.flatnonzero(enough & (np.abs(ones[:, S1] / sigma - 1.0) < _USUAL))
    if usual.size < 2:
        return None
    together = np.zeros(edges.size - 1)
    for row, mu, s in zip(counts[usual], ones[usual, MU1], ones[usual, S1], strict=True):
        below = np.concatenate(([0.0], np.cumsum(row)))
        together += np.diff(np.interp(mu + edges * s / sigma, edges, below))
    try:
        return fit_whole_peak(edges, together)
    except QcError:
        return None


def _of_a_shape(edges: NDArray[np.float64], counts: NDArray[np.float64], one: PeakFit, like: PeakFit) -> PeakFit | None:
    """Two Gaussians in the proportions of `like`, whose own uncertainty belongs to the widths; None: no convergence."""
    if not like.is_double:  # flatter than a Gaussian, as two of one mean cannot be: one is the nearest
        return _with_shape_of(one, like)
    first, second = (float(like.parameters[j]) for j in (A1, A2))
    start = one.parameters.copy()
    start[A1], start[A2] = one.area * first / (first + second), one.area * second / (first + second)
    start[MU2] = start[MU1]
    start[S1] = one.fwhm * like.sigma / like.fwhm
    start[S2] = start[S1] * float(like.parameters[S2] / like.parameters[S1])
    try:
        return _with_shape_of(fit_from(edges, counts, start, _SLOTS_TIME_SHAPE), like)
    except FitFailedError:
        return None


def _with_shape_of(found: PeakFit, like: PeakFit) -> PeakFit:
    return replace(
        found,
        fwhm_error=math.hypot(found.fwhm_error, found.fwhm * like.fwhm_error / like.fwhm),
        fwtm_error=math.hypot(found.fwtm_error, found.fwtm * like.fwtm_error / like.fwtm),
        has_given_shape=True,
    )


def _as_likely(
    edges: NDArray[np.float64], counts: NDArray[np.float64], one: PeakFit, like: PeakFit | None, *, free: bool
) -> PeakFit:
    """One Gaussian, the shape of `like`, or two free Gaussians, whichever the counts ask for.

    Events of many energies make a peak that is no Gaussian, and the width of the best Gaussian is not its FWHM: few
    counts cannot show it, and yet it is off by more than their error. A peak with many more counts can, if there is
    one. What the shapes that were not taken would make of the widths belongs to the error, with their weights
    exp(-AIC / 2). The value stays that of the simple one, `like` if it is there, until another is certain: a mean would
    vary by 29 % more where one Gaussian is true (3000 pairs).
    """
    simple, others = one, []
    given = _of_a_shape(edges, counts, one, like) if like is not None else None
    if given is not None:
        simple, other = (given, one) if one.log_likelihood < given.log_likelihood + _CERTAIN else (one, given)
        others.append((other, other.log_likelihood - simple.log_likelihood))
    two = _best_of_two(edges, counts, one, must_be_sane=given is not None) if free else None
    if two is not None:
        gain = two.log_likelihood - simple.log_likelihood
        if gain > _CERTAIN and _is_sane_double(two, edges):
            return two
        if gain >= _DOUBTFUL and math.isfinite(two.fwhm_error):
            others.append((two, gain - _SECOND_COSTS))
    weights = [math.exp(min(gain, 50.0)) for _, gain in others]
    fwhm_error, fwtm_error = simple.fwhm_error, simple.fwtm_error
    for weight, (other, _) in zip(weights, others, strict=True):
        share = weight / (1.0 + sum(weights))
        fwhm_error = math.hypot(fwhm_error, share * (other.fwhm - simple.fwhm))
        fwtm_error = math.hypot(fwtm_error, share * (other.fwtm - simple.fwtm))
    return replace(simple, fwhm_error=fwhm_error, fwtm_error=fwtm_error)


def _best_of_two(
    edges: NDArray[np.float64], counts: NDArray[np.float64], one: PeakFit, *, must_be_sane: bool
) -> PeakFit | None:
    """Two free Gaussians from several starts; one that cannot be taken for the peak, a doubt, if there is no other."""
    found = []
    for wider, share in _SECONDS:
        start = one.parameters.copy()
        start[A1], start[A2] = one.area * (1 - share), one.area * share
        start[MU2], start[S2] = start[MU1], one.sigma * wider
        start[S1] = one.sigma * (0.95 if wider > 1.5 else 0.85)
        with contextlib.suppress(FitFailedError):
            found.append(fit_from(edges, counts, start, _SLOTS_TIME_DOUBLE))
    sane = [fit for fit in found if _is_sane_double(fit, edges)]
    return max(sane or ([] if must_be_sane else found), key=lambda fit: fit.log_likelihood, default=None)


def _is_sane_double(fit: PeakFit, edges: NDArray[np.float64]) -> bool:
    p = fit.parameters
    return bool(
        p[S2] < 0.5 * (edges[-1] - edges[0])
        and p[A2] > 0.01 * fit.area
        and p[A1] > 0.1 * fit.area
        and math.isfinite(fit.fwhm_error)
        and fit.fwhm_error > 0
    )


def _judged_coarsely(fit: PeakFit) -> PeakFit:
    """The fit with its goodness in bins of a tenth of its FWHM: finer ones hold too little to show a wrong shape."""
    width = float(fit.edges[1] - fit.edges[0])
    every = bins_of_a_tenth(fit.fwhm, width)
    if every == 1:
        return fit
    counts, model = (rebinned(a, every) for a in (fit.counts, fit.model))
    return _rejudged(fit, Goodness.found(counts, model, fit.counts.size - fit.n_free_bins))


def _rejudged(fit: PeakFit, goodness: Goodness) -> PeakFit:
    """The fit with another goodness, and errors as large as that asks for."""
    more = goodness.scale / fit.scale
    return replace(
        fit,
        area_error=fit.area_error * more,
        mu_error=fit.mu_error * more,
        fwhm_error=fit.fwhm_error * more,
        fwtm_error=fit.fwtm_error * more,
        **goodness._asdict(),
    )


def rebinned(values: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """Neighbours added up, `every` at a time; what is left over at the end is dropped."""
    n = values.size // every
    summed: NDArray[np.float64] = values[: n * every].reshape(n, every).sum(axis=1)
    return summed


def rough_time_peak(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float, float]:
    """Position, FWHM and background per bin of a time peak, from the smoothed histogram; for starts, not for results.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
    """
    start = np.empty(N_PARAMETERS)
    time_start(np.ascontiguousarray(edges, np.float64), np.ascontiguousarray(counts, np.float64), start)
    width = float(edges[1] - edges[0])
    return float(start[MU1]), FWHM_OF_SIGMA * float(start[S1]), float(start[LOW]) * width
