"""Poisson likelihood fit of one or two Gaussians, a step and a straight background to a histogram, compiled.

Model, integrated over each bin (no centre-of-bin error):
`A1·N(mu1, s1) + A2·N(mu2, s2) + STEP·Q((x - mu1) / s1) + straight line from LOW to HIGH`, with Q the upper tail of the
normal distribution (half an erfc), areas in counts, STEP, LOW and HIGH in counts per unit of x. LOW and HIGH are
the line's values at the ends of the range, so that "not negative" is two simple bounds.

Source: daily-qc.md §2a (photopeak: Gauss + erfc step + background) and §2c (time: Gauss + second Gauss + flat);
maximum likelihood by Fisher scoring: performance.md §4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

A1, MU1, S1, A2, MU2, S2, STEP, LOW, HIGH = range(9)
N_PARAMETERS = 9

CONVERGED = 0
NO_CONVERGENCE = 1
SINGULAR = 2
TOO_FEW = 3
NO_RANGE = 4

_MAX_STEPS = 100
_HALVINGS = 25
_DECREMENT = 1e-7
"""Stop when the next step would gain less than this in log-likelihood: a thousandth of a standard deviation squared."""
_FLOOR = 1e-12
_ROOT_2 = math.sqrt(2.0)
_ROOT_2PI = math.sqrt(2.0 * math.pi)


@kernel
def expected(
    p: NDArray[np.float64], edges: NDArray[np.float64], mu: NDArray[np.float64], jac: NDArray[np.float64]
) -> None:
    """Expected counts of each bin and their derivatives by the nine parameters.

    Args:
        p: (9,) parameters.
        edges: (n + 1,) bin edges.
        mu: (n,) result.
        jac: (n, 9) result.
    """
    n = mu.size
    start = edges[0]
    span = edges[n] - edges[0]
    two = p[A2] != 0.0 or p[S2] != 0.0
    z = (edges[0] - p[MU1]) / p[S1]
    q0 = 0.5 * math.erfc(z / _ROOT_2)
    f0 = math.exp(-0.5 * z * z) / _ROOT_2PI
    z0 = z
    q20 = 0.0
    f20 = 0.0
    z20 = 0.0
    if two:
        z20 = (edges[0] - p[MU2]) / p[S2]
        q20 = 0.5 * math.erfc(z20 / _ROOT_2)
        f20 = math.exp(-0.5 * z20 * z20) / _ROOT_2PI
    for k in range(n):
        right = edges[k + 1]
        width = right - edges[k]
        z1 = (right - p[MU1]) / p[S1]
        q1 = 0.5 * math.erfc(z1 / _ROOT_2)
        f1 = math.exp(-0.5 * z1 * z1) / _ROOT_2PI
        share = q0 - q1
        tail = p[S1] * ((z1 * q1 - f1) - (z0 * q0 - f0))
        middle = (0.5 * (right + edges[k]) - start) / span
        jac[k, A1] = share
        jac[k, MU1] = p[A1] * (f0 - f1) / p[S1] + p[STEP] * share
        jac[k, S1] = p[A1] * (z0 * f0 - z1 * f1) / p[S1] + p[STEP] * (f0 - f1)
        jac[k, STEP] = tail
        jac[k, LOW] = width * (1.0 - middle)
        jac[k, HIGH] = width * middle
        value = p[A1] * share + p[STEP] * tail + p[LOW] * jac[k, LOW] + p[HIGH] * jac[k, HIGH]
        if two:
            z21 = (right - p[MU2]) / p[S2]
            q21 = 0.5 * math.erfc(z21 / _ROOT_2)
            f21 = math.exp(-0.5 * z21 * z21) / _ROOT_2PI
            jac[k, A2] = q20 - q21
            jac[k, MU2] = p[A2] * (f20 - f21) / p[S2]
            jac[k, S2] = p[A2] * (z20 * f20 - z21 * f21) / p[S2]
            value += p[A2] * jac[k, A2]
            q20 = q21
            f20 = f21
            z20 = z21
        else:
            jac[k, A2] = 0.0
            jac[k, MU2] = 0.0
            jac[k, S2] = 0.0
        mu[k] = value
        q0 = q1
        f0 = f1
        z0 = z1


@kernel
def negative_log_likelihood(counts: NDArray[np.float64], mu: NDArray[np.float64]) -> float:
    """Sum of mu - n·ln(mu)."""
    total = 0.0
    for k in range(counts.size):
        m = max(mu[k], _FLOOR)
        total += m
        if counts[k] > 0.0:
            total -= counts[k] * math.log(m)
    return total


@kernel
def cholesky(a: NDArray[np.float64], n: int) -> bool:
    """Factor the leading n x n part of a symmetric matrix in place (lower triangle); False if not positive."""
    for i in range(n):
        for j in range(i + 1):
            s = a[i, j]
            for k in range(j):
                s -= a[i, k] * a[j, k]
            if i == j:
                if not s > 0.0:
                    return False
                a[i, i] = math.sqrt(s)
            else:
                a[i, j] = s / a[j, j]
    return True


@kernel
def cholesky_solve(a: NDArray[np.float64], n: int, b: NDArray[np.float64]) -> None:
    """Solve with a factor of `cholesky`, in place."""
    for i in range(n):
        s = b[i]
        for k in range(i):
            s -= a[i, k] * b[k]
        b[i] = s / a[i, i]
    for i in range(n - 1, -1, -1):
        s = b[i]
        for k in range(i + 1, n):
            s -= a[k, i] * b[k]
        b[i] = s / a[i, i]


@kernel
def poisson_fit(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    p: NDArray[np.float64],
    slot: NDArray[np.int64],
    lower: NDArray[np.float64],
    mu: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[int, int, float]:
    """Maximise the Poisson likelihood by Fisher scoring with step halving and lower bounds.

    Args:
        counts: (n,) counts.
        edges: (n + 1,) bin edges.
        p: (9,) start values, replaced by the result.
        slot: (9,) number of the free quantity a parameter belongs to (parameters that share one are tied and must
            start equal), -1: fixed.
        lower: (9,) lower bounds.
        mu: (n,) expected counts at the result.
        covariance: (9, 9) inverse Fisher information at the result; rows of parameters that are fixed or on their
            bound are zero.

    Returns:
        CONVERGED, NO_CONVERGENCE or SINGULAR; number of steps; negative log-likelihood.
    """
    n = counts.size
    n_free = 0
    for j in range(N_PARAMETERS):
        n_free = max(n_free, slot[j] + 1)
    jac = np.empty((n, N_PARAMETERS))
    fisher = np.empty((n_free, n_free))
    packed = np.empty((n_free, n_free))
    score = np.empty(n_free)
    step = np.empty(n_free)
    row = np.empty(n_free)
    active = np.empty(n_free, np.int64)
    trial = np.empty(N_PARAMETERS)
    trial_mu = np.empty(n)
    trial_jac = np.empty((n, N_PARAMETERS))
    covariance[:, :] = 0.0
    expected(p, edges, mu, jac)
    best = negative_log_likelihood(counts, mu)
    status = NO_CONVERGENCE
    steps = 0
    m = 0
    value = best
    for steps in range(1, _MAX_STEPS + 1):  # noqa: B007 - the number of the last step is a result
        fisher[:, :] = 0.0
        score[:] = 0.0
        for k in range(n):
            row[:] = 0.0
            for j in range(N_PARAMETERS):
                if slot[j] >= 0:
                    row[slot[j]] += jac[k, j]
            value = max(mu[k], _FLOOR)
            pull = counts[k] / value - 1.0
            for a in range(n_free):
                score[a] += row[a] * pull
                weighted = row[a] / value
                for b in range(a + 1):
                    fisher[a, b] += weighted * row[b]
        # A parameter on its bound that the likelihood pushes outwards stays there for this step.
        m = 0
        for a in range(n_free):
            held = False
            for j in range(N_PARAMETERS):
                if slot[j] == a and p[j] <= lower[j] and score[a] <= 0.0:
                    held = True
            if not held:
                active[m] = a
                m += 1
        for a in range(m):
            for b in range(a + 1):
                packed[a, b] = fisher[active[a], active[b]]
            step[a] = score[active[a]]
        if m == 0 or not cholesky(packed, m):
            status = SINGULAR
            break
        cholesky_solve(packed, m, step)
        decrement = 0.0
        for a in range(m):
            decrement += step[a] * score[active[a]]
        if not math.isfinite(decrement):
            status = SINGULAR
            break
        if decrement < _DECREMENT:
            status = CONVERGED
            break
        size = 1.0
        moved = False
        for _ in range(_HALVINGS):
            for j in range(N_PARAMETERS):
                trial[j] = p[j]
            for a in range(m):
                for j in range(N_PARAMETERS):
                    if slot[j] == active[a]:
                        trial[j] = max(p[j] + size * step[a], lower[j])
            expected(trial, edges, trial_mu, trial_jac)
            value = negative_log_likelihood(counts, trial_mu)
            if value <= best + 1e-12 * abs(best) and math.isfinite(value):
                moved = True
                break
            size *= 0.5
        if not moved:
            # No better point along the step: rounding is all that is left, or the model is hopeless here.
            status = CONVERGED if decrement < 1e-3 else NO_CONVERGENCE
            break
        gained = best - value
        for j in range(N_PARAMETERS):
            p[j] = trial[j]
        mu[:] = trial_mu
        jac[:, :] = trial_jac
        best = value
        if gained < 1e-9 * max(1.0, abs(best)) and decrement < 1e-4:
            status = CONVERGED
            # The factor below belongs to the point before this last, negligible step.
            break
    if status == CONVERGED:
        for a in range(m):
            step[:m] = 0.0
            step[a] = 1.0
            cholesky_solve(packed, m, step)
            for b in range(m):
                for j in range(N_PARAMETERS):
                    if slot[j] == active[a]:
                        for i in range(N_PARAMETERS):
                            if slot[i] == active[b]:
                                covariance[j, i] = step[b]
    return status, steps, best


@kernel
def photopeak_fit(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    seed: float,
    seed_sigma: float,
    below: float,
    above: float,
    min_counts: float,
    slot: NDArray[np.int64],
    p: NDArray[np.float64],
    model: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[int, int, int, float]:
    """Fit a photopeak; the range moves with the peak and shrinks to eight sigma for a narrow one.

    Args:
        edges: (n + 1,) bin edges of one width.
        counts: (n,) counts.
        seed: position to start from.
        seed_sigma: standard deviation to start from.
        below: lower end of the range as a share of the position below the peak.
        above: the same above.
        min_counts: fewest counts in the range.
        slot: as for poisson_fit.
        p: (9,) result.
        model: (n,) expected counts; only first .. last - 1 are written.
        covariance: (9, 9) result.

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
        first = math.floor((position - min(below * position, 8.0 * sigma) - edges[0]) / width + 0.5)
        last = math.floor((position + min(above * position, 8.0 * sigma) - edges[0]) / width + 0.5)
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
        lower[:] = 0.0
        lower[MU1] = edges[first]
        lower[S1] = 0.2 * width
        status, _, nll = poisson_fit(part, part_edges, p, slot, lower, model[first:last], covariance)
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

    Matched filter without area, so that a straight background drops out (see petqc.peaks.find_peaks).
    """
    n = counts.size
    width = edges[1] - edges[0]
    s = sigma / width
    reach = math.ceil(3.5 * s)
    size = 2 * reach + 1
    shape = np.empty(size)
    for i in range(size):
        x = (i - reach) / s
        shape[i] = (1.0 - x * x) * math.exp(-0.5 * x * x)
    shape -= shape.mean()
    best = 0.0
    where = -1
    first = max(int((low - edges[0]) / width), 0)
    last = min(int((high - edges[0]) / width) + 1, n)
    for k in range(first, last):
        signal = 0.0
        variance = 1e-9
        for i in range(size):
            j = min(max(k + i - reach, 0), n - 1)
            signal += shape[i] * counts[j]
            variance += shape[i] * shape[i] * counts[j]
        value = signal / math.sqrt(variance)
        if value > best:
            best = value
            where = k
    if where < 0:
        return 0.5 * (low + high), 0.0
    return 0.5 * (edges[where] + edges[where + 1]), best


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
    status: NDArray[np.int64],
    parameters: NDArray[np.float64],
    errors: NDArray[np.float64],
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
        status: (m,) result.
        parameters: (m, 9) result.
        errors: (m, 3) result: standard deviations of area, position, sigma.
        quality: (m, 4) result: Pearson's chi-square, the same with shape tolerance, bins, sum of 1 / expected.
        shape_tolerance: see petqc.fits.SHAPE_TOLERANCE.
    """
    n = counts.shape[1]
    model = np.empty(n)
    covariance = np.empty((N_PARAMETERS, N_PARAMETERS))
    row = np.empty(n)
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
        found, first, last, _ = photopeak_fit(
            edges, row, seed, sigma[m], below, above, min_counts, slot, parameters[m], model, covariance
        )
        status[m] = found
        if found != CONVERGED:
            continue
        errors[m, 0] = math.sqrt(covariance[A1, A1])
        errors[m, 1] = math.sqrt(covariance[MU1, MU1])
        errors[m, 2] = math.sqrt(covariance[S1, S1])
        quality[m, 2] = float(last - first)
        for k in range(first, last):
            mu = max(model[k], 1e-3)
            difference = row[k] - mu
            quality[m, 0] += difference * difference / mu
            quality[m, 1] += difference * difference / (mu + (shape_tolerance * mu) ** 2)
            quality[m, 3] += 1.0 / mu
