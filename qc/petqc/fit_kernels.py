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
