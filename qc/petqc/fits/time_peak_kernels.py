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
    bins_of_a_tenth,
    cholesky,
    cholesky_solve,
    expected,
    negative_log_likelihood,
    normal,
    pearson_sums,
    poisson_fit,
)
from petqc.fits.row_kernels import dot, total
from petqc.jit import kernel, kernel_of_given_arrays
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAR = 7.0
"""Standard deviations from where on a peak adds nothing to the flat part: 1e-12 of its counts."""
_MOST_COUNTS = 64
"""Larger counts are not tallied for their median, but put in order."""
_MOST_STEPS = 12
_LAST_STEP = 1e-4
"""Gain in log-likelihood from where on a Newton step is the last: what it leaves is 1e-5 of an error."""
_ONE, _AREA, _MEAN, _WIDTH, _BEND, _TWIST, _COUNTS, _EXPECTED, _PULL, _WEIGHT, _WEIGHTED = range(11)
"""Rows of what a Newton step computes for each bin: the first four are what the expected counts are derived by, but for
the height of the peak; with them and the next two are written their second derivatives."""
_N_ROWS = 11
_NARROWEST = 0.04
"""Least variance of a peak in squared bins: what is narrower has no measurable width."""
_NEAR = 4.5
"""Standard deviations to either side of a peak whose counts tell where it is, and how wide."""
_FREE = (LOW, A1, MU1, S1)
_FLOOR = 1e-12


@kernel
def median_of_counts(counts: NDArray[np.float64]) -> float:
    """Median; small whole numbers are tallied, which takes a quarter of the time of putting them in order.

    Args:
        counts: (n,) counts, not negative.
    """
    tally = np.zeros(_MOST_COUNTS, np.int64)
    n_tallied = 0
    for k in range(counts.size):
        if counts[k] < _MOST_COUNTS:
            whole = int(counts[k])
            if whole != counts[k]:
                return float(np.median(counts))
            tally[whole] += 1
            n_tallied += 1
    # The two in the middle, which are one where the number of bins is odd.
    lower, upper = (counts.size - 1) // 2, counts.size // 2
    if n_tallied <= upper:
        return float(np.median(counts))
    below, value, first = 0, 0, -1
    while True:
        below += tally[value]
        if first < 0 and below > lower:
            first = value
        if below > upper:
            return 0.5 * (first + value)
        value += 1


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
    # Up to each bin, sums of counts are exact; before and behind the axis there are none.
    memory = np.empty((2, n + taps))
    below, flat = memory[0], memory[1]
    below[: smooth + 1] = 0.0
    for k in range(n):
        below[smooth + k + 1] = below[smooth + k] + counts[k]
    for k in range(n, n + smooth):
        below[smooth + k + 1] = below[smooth + n]
    sums = below[smooth : smooth + n + 1]
    for k in range(n):
        flat[k] = (below[k + taps] - below[k]) / taps
    top = 0
    for k in range(n):
        if flat[k] > flat[top]:
            top = k
    background = median_of_counts(counts)
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
    reach = math.ceil(2.0 * fwhm / width) - 1
    first, last = max(top - reach, 0), min(top + reach + 1, n)
    n_near, near = last - first, sums[last] - sums[first]
    if n - n_near > n // 8:
        background = (sums[n] - near) / (n - n_near)
    start[:] = 0.0
    start[LOW] = start[HIGH] = max(background, 0.01) / width
    start[A1] = max(near - n_near * background, 0.1 * sums[n], 10.0)
    start[MU1] = 0.5 * (edges[top] + edges[top + 1])
    start[S1] = max(fwhm / FWHM_OF_SIGMA, 0.5 * width)


@kernel_of_given_arrays
def gauss_rows(
    edges: NDArray[np.float64], p: NDArray[np.float64], rows: NDArray[np.float64], scratch: NDArray[np.float64]
) -> None:
    """Expected counts of a Gaussian on a flat part, and what their derivatives are made of.

    With z = (x - mu) / s, Q its upper tail and f its density, these are the differences over a bin of Q, f, z·f, z²·f
    and z³·f. They are 0 in the last bin, which stands for all that the peak does not reach.

    Args:
        edges: (n + 1,) edges of the bins that the peak reaches.
        p: (11,) parameters, in the order of petqc.fits.kernels.
        rows: (11, n + 1) result; the widths of the bins (_ONE) and their counts are there already.
        scratch: (4, n + 1).
    """
    n = edges.size - 1
    z, q, f = scratch[0], scratch[1], scratch[2]
    normal(edges, p[MU1], p[S1], z, q, f, scratch[3])
    area, mean, width, bend, twist = rows[_AREA], rows[_MEAN], rows[_WIDTH], rows[_BEND], rows[_TWIST]
    for k in range(n):
        area[k] = q[k] - q[k + 1]
    for k in range(n):
        mean[k] = f[k] - f[k + 1]
    for row in (width, bend, twist):
        for k in range(n + 1):
            f[k] *= z[k]
        for k in range(n):
            row[k] = f[k] - f[k + 1]
    rows[_AREA : _TWIST + 1, n] = 0.0
    a, level = p[A1], p[LOW]
    one, mu, by_mu, pull = rows[_ONE], rows[_EXPECTED], rows[_WEIGHT], rows[_PULL]
    for k in range(n + 1):
        mu[k] = a * area[k] + level * one[k]
    for k in range(n + 1):
        by_mu[k] = 1.0 / max(mu[k], _FLOOR)
    counts = rows[_COUNTS]
    for k in range(n + 1):
        pull[k] = counts[k] * by_mu[k] - 1.0


@kernel_of_given_arrays
def information(rows: NDArray[np.float64], p: NDArray[np.float64], fisher: NDArray[np.float64]) -> None:
    """Weighted products of the derivatives by level, area, mean and width, summed over the bins.

    Args:
        rows: (11, n) as of gauss_rows; _WEIGHT: the weight of each bin.
        p: (11,) parameters.
        fisher: (4, 4) result, lower triangle.
    """
    per_s = p[A1] / p[S1]
    weight, weighted = rows[_WEIGHT], rows[_WEIGHTED]
    for i in range(4):
        row = rows[_ONE + i]
        for k in range(weight.size):
            weighted[k] = weight[k] * row[k]
        for j in range(i + 1):
            fisher[i, j] = dot(weighted, rows[_ONE + j])
    for j in range(4):
        fisher[2, j] *= per_s
        fisher[3, j] *= per_s
    fisher[2, 2] *= per_s
    fisher[3, 2] *= per_s
    fisher[3, 3] *= per_s


@kernel_of_given_arrays
def newton_steps(
    edges: NDArray[np.float64],
    p: NDArray[np.float64],
    least_width: float,
    rows: NDArray[np.float64],
    scratch: NDArray[np.float64],
    small: NDArray[np.float64],
) -> int:
    """Newton's steps to the maximum of the Poisson likelihood of Gauss + flat, as long as each makes the rest smaller.

    Args:
        edges: (n + 1,) edges of the bins that the peak reaches.
        p: (11,) start values, replaced by the result.
        least_width: lower bound of the width; area and flat part are bounded by 0.
        rows: (11, n + 1) as for gauss_rows.
        scratch: (4, n + 1).
        small: (6, 4) scratch.

    Returns:
        Number of steps; 0: they lead nowhere, or to a bound, and p is no result.
    """
    fisher, step, score = small[:4], small[4], small[5]
    weight, pull = rows[_WEIGHT], rows[_PULL]
    before = np.inf
    for steps in range(1, _MOST_STEPS + 1):
        gauss_rows(edges, p, rows, scratch)
        for k in range(pull.size):
            weight[k] *= pull[k] + 1.0
        information(rows, p, fisher)
        by_s = 1.0 / p[S1]
        per_s = p[A1] * by_s
        one, area, mean = dot(pull, rows[_ONE]), dot(pull, rows[_AREA]), dot(pull, rows[_MEAN])
        width, bend, twist = dot(pull, rows[_WIDTH]), dot(pull, rows[_BEND]), dot(pull, rows[_TWIST])
        fisher[2, 1] -= mean * by_s
        fisher[3, 1] -= width * by_s
        fisher[2, 2] -= width * per_s * by_s
        fisher[3, 2] -= (bend - mean) * per_s * by_s
        fisher[3, 3] -= (twist - 2.0 * width) * per_s * by_s
        score[0], score[1], score[2], score[3] = one, area, mean * per_s, width * per_s
        for j in range(4):
            step[j] = score[j]
        if not cholesky(fisher, 4):
            return 0
        cholesky_solve(fisher, 4, step)
        decrement = 0.0
        for j in range(4):
            decrement += step[j] * score[j]
        if not decrement < 0.5 * before:
            return 0
        before = decrement
        p[LOW] += step[0]
        p[HIGH] = p[LOW]
        p[A1] += step[1]
        p[MU1] += step[2]
        p[S1] += step[3]
        if not (p[LOW] > 0.0 and p[A1] > 0.0 and p[S1] > least_width):
            return 0
        if decrement < _LAST_STEP:
            return steps
    return 0


@kernel_of_given_arrays
def move_to_moments(edges: NDArray[np.float64], counts: NDArray[np.float64], p: NDArray[np.float64]) -> None:
    """Move a start to area, mean and width of the counts around it that are not the flat part, if those are most.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (n,) counts.
        p: (11,) start values, replaced.
    """
    width = edges[1] - edges[0]
    centre = (p[MU1] - edges[0]) / width - 0.5
    first = max(math.ceil(centre - _NEAR * p[S1] / width), 0)
    last = min(math.floor(centre + _NEAR * p[S1] / width) + 1, counts.size)
    level = p[LOW] * width
    area, by_x, by_square = 0.0, 0.0, 0.0
    for k in range(first, last):
        x = k - centre
        excess = counts[k] - level
        area += excess
        by_x += excess * x
        by_square += excess * x * x
    if not area > max(level * (last - first), 0.0):
        return
    mean = by_x / area
    variance = by_square / area - mean * mean - 1.0 / 12.0  # a bin's own
    if variance > _NARROWEST:
        p[A1], p[MU1], p[S1] = area, p[MU1] + mean * width, math.sqrt(variance) * width


@kernel
def newton_fit(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    p: NDArray[np.float64],
    least_width: float,
    covariance: NDArray[np.float64],
    model: NDArray[np.float64],
) -> int:
    """Fit Gauss + flat where the maximum of the likelihood is no bound; bins that the peak does not reach are one bin.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        p: (11,) start values, replaced by the result.
        least_width: lower bound of the width.
        covariance: (11, 11) result, as of poisson_fit.
        model: (n,) result: expected counts.

    Returns:
        Number of steps; 0: no such maximum was found, and nothing is a result.
    """
    move_to_moments(edges, counts, p)
    first, last = reached(edges, p)
    n, n_inside = counts.size, last - first
    rows, scratch = np.empty((_N_ROWS, n_inside + 1)), np.empty((4, n_inside + 1))
    widths, inside = rows[_ONE], rows[_COUNTS]
    outside = total(counts[:first]) + total(counts[last:])
    for k in range(n_inside):
        inside[k] = counts[first + k]
        widths[k] = edges[first + k + 1] - edges[first + k]
    inside[n_inside] = outside
    widths[n_inside] = edges[first] - edges[0] + edges[n] - edges[last]
    small = np.empty((6, 4))
    fisher, column = small[:4], small[4]
    part = edges[first : last + 1]
    steps = newton_steps(part, p, least_width, rows, scratch, small)
    if steps == 0 or not is_reached(edges, p, first, last):
        return 0
    gauss_rows(part, p, rows, scratch)
    information(rows, p, fisher)
    if not cholesky(fisher, 4):
        return 0
    covariance[:, :] = 0.0
    for i in range(4):
        column[:] = 0.0
        column[i] = 1.0
        cholesky_solve(fisher, 4, column)
        for j in range(4):
            covariance[_FREE[i], _FREE[j]] = column[j]
    covariance[HIGH, :] = covariance[LOW, :]
    covariance[:, HIGH] = covariance[:, LOW]
    for k in range(n):
        model[k] = p[LOW] * (edges[k + 1] - edges[k])
    model[first:last] = rows[_EXPECTED, :n_inside]
    return steps


@kernel_of_given_arrays
def reached(edges: NDArray[np.float64], p: NDArray[np.float64]) -> tuple[int, int]:
    """First and one past the last bin that a peak reaches, with some room for it to move; edges (n + 1,), p (11,)."""
    n = edges.size - 1
    first, last = 0, n
    while first < n and edges[first + 1] < p[MU1] - 1.15 * _FAR * p[S1]:
        first += 1
    while last > first + 1 and edges[last - 1] > p[MU1] + 1.15 * _FAR * p[S1]:
        last -= 1
    return first, last


@kernel_of_given_arrays
def is_reached(edges: NDArray[np.float64], p: NDArray[np.float64], first: int, last: int) -> bool:
    """Whether a peak reaches no other bins than these."""
    reach = _FAR * p[S1]
    left_out = first == 0 or edges[first] < p[MU1] - reach
    return bool(left_out and (last == edges.size - 1 or edges[last] > p[MU1] + reach))


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
    first, last = reached(edges, p)
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
        if status == CONVERGED and is_reached(edges, p, first, last):
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
    jac, start = np.empty((N_PARAMETERS, n)), np.empty(N_PARAMETERS)
    rows = np.empty((5, n))
    for m in range(counts.shape[0]):
        p = parameters[m]
        time_start(edges, counts[m], start)
        p[:] = start
        steps = newton_fit(edges, counts[m], p, lower[S1], covariance[m], model[m])
        status[m, 0], status[m, 1] = CONVERGED, steps
        if steps == 0:
            p[:] = start
            status[m, 0], status[m, 1] = gauss_on_flat(edges, counts[m], p, slot, lower, covariance[m])
            if status[m, 0] != CONVERGED:
                continue
            expected(p, shape, edges, model[m], jac)
        for k in range(n):
            background[m, k] = p[LOW] * (edges[k + 1] - edges[k])
        quality[m, 0] = negative_log_likelihood(counts[m], model[m], rows)
        every = bins_of_a_tenth(FWHM_OF_SIGMA * p[S1], width)
        n_bins = n // every
        quality[m, 3] = n_bins
        found, mu = rows[3, :n_bins], rows[4, :n_bins]
        found[:] = 0.0
        mu[:] = 0.0
        for j in range(every):
            for b in range(n_bins):
                found[b] += counts[m, b * every + j]
            for b in range(n_bins):
                mu[b] += model[m, b * every + j]
        quality[m, 1], quality[m, 2], quality[m, 4] = pearson_sums(found, mu, shape_tolerance, rows)
