"""Fits of many coincidence peaks, compiled: start from the data, fit Gauss + flat, and its goodness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.fits.kernels import (
    A1,
    CONVERGED,
    HIGH,
    LOW,
    MU1,
    N_CONSTANTS,
    N_PARAMETERS,
    S1,
    add_pearson,
    bins_of_a_tenth,
    expected,
    negative_log_likelihood,
    poisson_fit,
)
from petqc.jit import kernel
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAR = 7.0
"""Standard deviations from where on a peak adds nothing to the flat part: 1e-12 of its counts."""


@kernel
def time_start(edges: NDArray[np.float64], counts: NDArray[np.float64], start: NDArray[np.float64]) -> None:
    """Start from the data: smoothed maximum, background away from it, width of the half of the excess around it.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (n,) counts.
        start: (11,) result, in the order of petqc.fits.kernels.
    """
    n = counts.size
    width = edges[1] - edges[0]
    smooth = max(1, n // 60)
    taps = 2 * smooth + 1
    flat = np.empty(n)
    total = 0.0
    inside = 0.0
    for k in range(min(smooth, n)):
        inside += counts[k]
    for k in range(n):  # sums of counts are exact
        total += counts[k]
        if k + smooth < n:
            inside += counts[k + smooth]
        if k > smooth:
            inside -= counts[k - smooth - 1]
        flat[k] = inside / taps
    top = 0
    for k in range(n):
        if flat[k] > flat[top]:
            top = k
    background = float(np.median(counts))
    if not background > 0.0:
        lower = np.sort(counts)
        background = 0.0
        for k in range(n // 2):
            background += lower[k]
        background /= n // 2
    half = 0.5 * (flat[top] + background)
    left = top
    while left > 0 and flat[left] > half:
        left -= 1
    right = top
    while right < n - 1 and flat[right] > half:
        right += 1
    fwhm = max(right - left, 2) * width
    blur = 0.8 * taps * width
    fwhm = math.sqrt(max(fwhm * fwhm - blur * blur, 2.25 * width * width))
    n_near = 0
    near = 0.0
    for k in range(n):
        if abs(k - top) * width < 2.0 * fwhm:
            n_near += 1
            near += counts[k]
    if n - n_near > n // 8:
        background = (total - near) / (n - n_near)
    start[:] = 0.0
    start[LOW] = start[HIGH] = max(background, 0.01) / width
    start[A1] = max(near - n_near * background, 0.1 * total, 10.0)
    start[MU1] = 0.5 * (edges[top] + edges[top + 1])
    start[S1] = max(fwhm / FWHM_OF_SIGMA, 0.5 * width)


@kernel
def gauss_on_flat(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    p: NDArray[np.float64],
    slot: NDArray[np.int64],
    lower: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[int, int]:
    """Fit Gauss + flat; bins that the peak does not reach are taken together, as one bin says as much as they do.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        p: (11,) start values, replaced by the result.
        slot: as for poisson_fit; LOW and HIGH share one.
        lower: (11,) lower bounds.
        covariance: (11, 11) result.

    Returns:
        status and number of steps, as poisson_fit.
    """
    n = counts.size
    shape = np.zeros(N_CONSTANTS)
    start = p.copy()
    first, last = 0, n
    while first < n and edges[first + 1] < p[MU1] - 1.15 * _FAR * p[S1]:
        first += 1
    while last > first + 1 and edges[last - 1] > p[MU1] + 1.15 * _FAR * p[S1]:
        last -= 1
    if first > 1 or last < n - 1:
        before, after = min(first, 1), min(n - last, 1)
        m = before + (last - first) + after
        few, few_edges = np.zeros(m), np.empty(m + 1)
        for k in range(first):
            few[0] += counts[k]
        for k in range(first, last):
            few[before + k - first] = counts[k]
        for k in range(last, n):
            few[m - 1] += counts[k]
        few_edges[0], few_edges[m] = edges[0], edges[n]
        for k in range(first, last + 1):
            few_edges[before + k - first] = edges[k]
        status, steps, _ = poisson_fit(few, few_edges, p, shape, slot, lower, np.empty(m), covariance)
        reach = _FAR * p[S1]
        left_out = first == 0 or edges[first] < p[MU1] - reach
        if status == CONVERGED and left_out and (last == n or edges[last] > p[MU1] + reach):
            return status, steps
        p[:] = start
    status, steps, _ = poisson_fit(counts, edges, p, shape, slot, lower, np.empty(n), covariance)
    return status, steps


@kernel
def time_peak_fits(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    slot: NDArray[np.int64],
    lower: NDArray[np.float64],
    shape_tolerance: float,
    status: NDArray[np.int64],
    parameters: NDArray[np.float64],
    covariance: NDArray[np.float64],
    model: NDArray[np.float64],
    background: NDArray[np.float64],
    quality: NDArray[np.float64],
) -> None:
    """Fit many coincidence peaks with Gauss + flat.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (m, n) counts.
        slot: as for poisson_fit; LOW and HIGH share one.
        lower: (11,) lower bounds.
        shape_tolerance: see petqc.fits.SHAPE_TOLERANCE.
        status: (m, 2) result: status and number of steps, as of poisson_fit; without CONVERGED the rest is no result.
        parameters: (m, 11) result.
        covariance: (m, 11, 11) result.
        model: (m, n) result: expected counts.
        background: (m, n) result: without the peak.
        quality: (m, 5) result: negative log-likelihood, and in bins of a tenth of the FWHM Pearson's chi-square, the
            same with shape tolerance, how many bins, and the sum of 1 / expected.
    """
    n = counts.shape[1]
    width = edges[1] - edges[0]
    shape = np.zeros(N_CONSTANTS)
    jac = np.empty((N_PARAMETERS, n))
    for m in range(counts.shape[0]):
        p = parameters[m]
        time_start(edges, counts[m], p)
        status[m, 0], status[m, 1] = gauss_on_flat(edges, counts[m], p, slot, lower, covariance[m])
        if status[m, 0] != CONVERGED:
            continue
        expected(p, shape, edges, model[m], jac)
        for k in range(n):
            background[m, k] = p[LOW] * jac[LOW, k] + p[HIGH] * jac[HIGH, k]
        quality[m, 0] = negative_log_likelihood(counts[m], model[m])
        every = bins_of_a_tenth(FWHM_OF_SIGMA * p[S1], width)
        n_bins = n // every
        quality[m, 1:] = 0.0
        quality[m, 3] = n_bins
        for b in range(n_bins):
            found, mu = 0.0, 0.0
            for k in range(b * every, (b + 1) * every):
                found += counts[m, k]
                mu += model[m, k]
            add_pearson(found, mu, shape_tolerance, quality[m, 1:])
