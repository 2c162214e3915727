"""Photopeak fits of many spectra, compiled: look for the peak, choose the range, fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.fits.kernels import (
    A1,
    BY_ROOT_2PI,
    CONVERGED,
    EDGE,
    EDGE_RATIO,
    HIGH,
    LOW,
    MU1,
    N_PARAMETERS,
    NO_CONVERGENCE,
    S1,
    STEP,
    TAIL,
    pearson_sums,
    poisson_fit,
    tail_over_exponential,
)
from petqc.fits.row_kernels import bells, total
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOO_FEW = 3
NO_RANGE = 4
"""Further outcomes, after those of petqc.fits.kernels."""

_MOST_STEPS = 60
_CLOSE = 1e-13
"""Steps shorter than this share of sigma are rounding."""


@kernel
def photopeak_fit(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    seed: float,
    seed_sigma: float,
    below: float,
    above: float,
    reach: float,
    min_counts: float,
    slot: NDArray[np.int64],
    shape: NDArray[np.float64],
    tail: float,
    edge: float,
    least_step: float,
    p: NDArray[np.float64],
    model: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[int, int, int, float]:
    """Fit a photopeak; the range moves with the peak and shrinks to `reach` sigma for a narrow one.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (n,) counts.
        seed: position to start from.
        seed_sigma: standard deviation to start from.
        below: lower end of the range as a share of the position below the peak.
        above: the same above.
        reach: half of the longest range in sigma.
        min_counts: fewest counts in the range.
        slot: as for poisson_fit.
        shape: constants of the shape, see `expected`.
        tail: TAIL to start from (or to keep, if it has no slot).
        edge: EDGE to start from (or to keep); negative: start from the data.
        least_step: lower bound of STEP.
        p: (11,) result.
        model: (n,) expected counts; only first .. last - 1 are written.
        covariance: (11, 11) result.

    Returns:
        status, first and one past the last bin, negative log-likelihood.
    """
    n = counts.size
    width = edges[1] - edges[0]
    position = seed
    sigma = seed_sigma
    lower = np.zeros(N_PARAMETERS)
    first = 0
    last = 0
    nll = 0.0
    for _ in range(4):
        old_first = first
        old_last = last
        first = math.floor((position - min(below * position, reach * sigma) - edges[0]) / width + 0.5)
        last = math.floor((position + min(above * position, reach * sigma) - edges[0]) / width + 0.5)
        first = max(first, 0)
        last = min(last, n)
        if last - first < 10:
            return NO_RANGE, first, last, nll
        if first == old_first and last == old_last:
            break
        part_edges = edges[first : last + 1]
        part = counts[first:last]
        total = part.sum()
        if total < min_counts:
            return TOO_FEW, first, last, nll
        few = max(2, (last - first) // 16)
        low = max(part[:few].mean(), 0.05) / width
        high = max(part[part.size - few :].mean(), 0.05) / width
        p[:] = 0.0
        p[LOW] = high
        p[HIGH] = high
        p[STEP] = max(low - high, 0.2 * low)
        background = high * (part_edges[-1] - part_edges[0]) + p[STEP] * max(position - part_edges[0], 0.0)
        p[A1] = max(total - background, 0.2 * total, 10.0)
        p[MU1] = position
        p[S1] = sigma
        p[TAIL] = tail
        if shape[EDGE_RATIO] > 0.0:
            p[EDGE] = edge if edge >= 0.0 else 0.5 * high
        lower[:] = 0.0
        lower[MU1] = edges[first]
        lower[STEP] = least_step
        lower[TAIL] = -0.1  # none at all must be able to scatter around 0
        lower[S1] = 0.2 * width
        status, _, nll = poisson_fit(part, part_edges, p, shape, slot, lower, model[first:last], covariance)
        if status != CONVERGED:
            return status, first, last, nll
        position = p[MU1]
        sigma = p[S1]
        if not (edges[0] < position < edges[n]):
            return NO_CONVERGENCE, first, last, nll
    return CONVERGED, first, last, nll


@kernel
def seed_position(
    edges: NDArray[np.float64], counts: NDArray[np.float64], low: float, high: float, sigma: float
) -> tuple[float, float]:
    """Place of the strongest peak of a known width between low and high, and its significance.

    Matched filter without area, so that a straight background drops out (see petqc.fits.peaks.find_peaks).
    """
    n = counts.size
    width = edges[1] - edges[0]
    s = sigma / width
    reach = math.ceil(3.5 * s)
    size = 2 * reach + 1
    taps = np.empty((4, size))
    x, shape = taps[0], taps[1]
    for i in range(size):
        x[i] = (i - reach) / s
    bells(x, shape, taps[2], taps[3])
    for i in range(size):
        shape[i] *= 1.0 - x[i] * x[i]
    mean = total(shape) / size
    for i in range(size):
        shape[i] -= mean
    best = 0.0
    where = -1
    first = max(int((low - edges[0]) / width), 0)
    last = min(int((high - edges[0]) / width) + 1, n)
    m = max(last - first, 0)
    places = np.empty((3, m + size))
    signal, variance, around = places[0][:m], places[1][:m], places[2]
    signal[:] = 0.0
    variance[:] = 1e-9
    for k in range(m + size):
        around[k] = counts[min(max(first + k - reach, 0), n - 1)]
    whole = size - size % 4
    for i in range(0, whole, 4):  # a few taps, then all places: several places are compiled into one step
        s0, s1, s2, s3 = shape[i], shape[i + 1], shape[i + 2], shape[i + 3]
        a0, a1, a2, a3 = around[i:], around[i + 1 :], around[i + 2 :], around[i + 3 :]
        for k in range(m):
            signal[k] += (s0 * a0[k] + s1 * a1[k]) + (s2 * a2[k] + s3 * a3[k])
        s0, s1, s2, s3 = s0 * s0, s1 * s1, s2 * s2, s3 * s3
        for k in range(m):
            variance[k] += (s0 * a0[k] + s1 * a1[k]) + (s2 * a2[k] + s3 * a3[k])
    for i in range(whole, size):
        s0, a0 = shape[i], around[i:]
        for k in range(m):
            signal[k] += s0 * a0[k]
        s0 = s0 * s0
        for k in range(m):
            variance[k] += s0 * a0[k]
    for k in range(m):
        value = signal[k] / math.sqrt(variance[k])
        if value > best:
            best = value
            where = first + k
    if where < 0:
        return 0.5 * (low + high), 0.0
    return 0.5 * (edges[where] + edges[where + 1]), best


@kernel
def stands_out_by(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    p: NDArray[np.float64],
    shape: NDArray[np.float64],
    slot: NDArray[np.int64],
    nll: float,
) -> float:
    """Standard deviations by which a fitted peak stands above nothing, where its area over its error says too few.

    How much worse the counts are described without any peak: square root of twice the difference in log-likelihood. The
    error of the area alone does not tell: of a broad peak that ends where the fit range does, width and background are
    hard to tell apart, so that its area is uncertain, and yet it is there.

    Args:
        counts: (n,) counts of the fit range.
        edges: (n + 1,) bin edges.
        p: (11,) result of photopeak_fit.
        shape: as for photopeak_fit.
        slot: as for photopeak_fit.
        nll: negative log-likelihood of the fit.
    """
    without = np.full(N_PARAMETERS, -1, np.int64)
    lower = np.zeros(N_PARAMETERS)
    lower[MU1] = edges[0]
    lower[S1] = 0.2 * (edges[1] - edges[0])
    model = np.empty(counts.size)
    covariance = np.empty((N_PARAMETERS, N_PARAMETERS))
    width = edges[1] - edges[0]
    few = max(2, counts.size // 8)
    high = max(counts[counts.size - few :].mean(), 0.05) / width
    fall = max(counts[:few].mean() / width - high, 0.05 / width)
    length = edges[-1] - edges[0]
    best = np.inf
    for start in range(5):  # a step that falls where the peak stands, or elsewhere; then a line without any step
        with_step = start < 4
        without[LOW] = 0
        without[HIGH] = 0 if with_step else 1  # a line that rises up to the step would be a peak
        n_free = without[HIGH] + 1
        if slot[EDGE] >= 0:
            without[EDGE] = n_free
            n_free += 1
        for j in (STEP, MU1, S1):
            without[j] = n_free if with_step else -1
            n_free += 1
        trial = p.copy()
        trial[A1] = 0.0
        trial[LOW] = high
        trial[HIGH] = high
        trial[STEP] = fall if with_step else 0.0
        if 0 < start < 4:
            trial[MU1] = edges[0] + 0.25 * start * length
            trial[S1] = 0.125 * length
        _, _, found = poisson_fit(counts, edges, trial, shape, without, lower, model, covariance)
        best = min(best, found)  # where it did not converge, too: the counts are described so well without a peak
    return math.sqrt(max(2.0 * (best - nll), 0.0))


@kernel
def photopeak_fits(
    edges: NDArray[np.float64],
    counts: NDArray[np.uint32],
    centre: NDArray[np.float64],
    sigma: NDArray[np.float64],
    search: float,
    below: float,
    above: float,
    min_counts: float,
    slot: NDArray[np.int64],
    shape: NDArray[np.float64],
    tail: NDArray[np.float64],
    edge: NDArray[np.float64],
    status: NDArray[np.int64],
    parameters: NDArray[np.float64],
    errors: NDArray[np.float64],
    nll: NDArray[np.float64],
    quality: NDArray[np.float64],
    shape_tolerance: float,
) -> None:
    """Fit many photopeaks, each looked for within `search` (a share) of its centre first.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (m, n) counts.
        centre: (m,) where to look.
        sigma: (m,) standard deviation to look for.
        search: half of the range to look in, as a share of the centre.
        below: as for photopeak_fit.
        above: as for photopeak_fit.
        min_counts: as for photopeak_fit.
        slot: as for poisson_fit.
        shape: as for photopeak_fit.
        tail: (m,) as for photopeak_fit.
        edge: (m,) as for photopeak_fit.
        status: (m,) result.
        parameters: (m, 11) result.
        errors: (m, 3) result: standard deviations of area, position, sigma.
        nll: (m,) result: negative log-likelihood.
        quality: (m, 5) result: Pearson's chi-square, the same with shape tolerance, bins, sum of 1 / expected, and the
            first bin.
        shape_tolerance: see petqc.fits.SHAPE_TOLERANCE.
    """
    n = counts.shape[1]
    model = np.empty(n)
    covariance = np.empty((N_PARAMETERS, N_PARAMETERS))
    row, scratch = np.empty(n), np.empty((3, n))
    for m in range(counts.shape[0]):
        total = 0.0
        for k in range(n):
            row[k] = float(counts[m, k])
            total += row[k]
        errors[m, :] = 0.0
        quality[m, :] = 0.0
        if total < min_counts:
            status[m] = TOO_FEW
            continue
        seed, _ = seed_position(edges, row, centre[m] * (1.0 - search), centre[m] * (1.0 + search), sigma[m])
        found, first, last, nll[m] = photopeak_fit(
            edges,
            row,
            seed,
            sigma[m],
            below,
            above,
            8.0,
            min_counts,
            slot,
            shape,
            tail[m],
            edge[m],
            0.0,
            parameters[m],
            model,
            covariance,
        )
        status[m] = found
        if found != CONVERGED:
            continue
        errors[m, 0] = math.sqrt(covariance[A1, A1])
        errors[m, 1] = math.sqrt(covariance[MU1, MU1])
        errors[m, 2] = math.sqrt(covariance[S1, S1])
        quality[m, 2] = float(last - first)
        quality[m, 4] = float(first)
        quality[m, 0], quality[m, 1], quality[m, 3] = pearson_sums(
            row[first:last], model[first:last], shape_tolerance, scratch
        )


@kernel
def _density(z: float, s: float, share: float, missing: float) -> tuple[float, float]:
    """Density of a Gauss with its tail of missing light at z from the Gauss, and its slope."""
    here, there = z / s, (z + missing) / s
    e, far = math.exp(-0.5 * here * here), math.exp(-0.5 * there * there)
    q, beyond = e * tail_over_exponential(abs(here)), far * tail_over_exponential(abs(there))
    q = q if here >= 0.0 else 1.0 - q
    beyond = beyond if there >= 0.0 else 1.0 - beyond
    lacking = share / missing
    slope = (lacking * (far - e) - z / (s * s) * e) * BY_ROOT_2PI / s
    return e * BY_ROOT_2PI / s + lacking * (q - beyond), slope


@kernel
def apparent_peaks(
    sigma: NDArray[np.float64],
    share: NDArray[np.float64],
    missing: float,
    shift: NDArray[np.float64],
    width: NDArray[np.float64],
) -> None:
    """Maximum and full width at half maximum of Gauss and tail together, by Newton's steps.

    Args:
        sigma: (m,) of the Gauss.
        share: (m,) of events that lack light, relative to the others.
        missing: most that they lack, above 0.
        shift: (m,) result: maximum from the Gauss's position, at most half a sigma.
        width: (m,) result.
    """
    for m in range(sigma.size):
        s = sigma[m]
        lacking = share[m] / missing
        top = 0.0
        for _ in range(_MOST_STEPS):  # where the slope over the Gauss's density is zero: it is convex, and falls
            e = math.exp(-missing * (0.5 * missing + top) / (s * s))
            step = (lacking * (e - 1.0) * s * s - top) / (1.0 + share[m] * e)
            before = top
            top = min(max(top + step, -0.5 * s), 0.5 * s)
            if abs(top - before) < _CLOSE * s:
                break
        half = 0.5 * _density(top, s, share[m], missing)[0]
        ends = 0.0
        for side in (-1.0, 1.0):
            inner, outer = top, top + side * (3.0 * s + missing)
            z = top + side * 1.2 * s
            for _ in range(_MOST_STEPS):
                value, slope = _density(z, s, share[m], missing)
                if value > half:
                    inner = z
                else:
                    outer = z
                before = z
                z -= (value - half) / slope
                if not min(inner, outer) < z < max(inner, outer):
                    z = 0.5 * (inner + outer)
                if abs(z - before) < _CLOSE * s:
                    break
            ends += side * z
        shift[m], width[m] = top, ends
