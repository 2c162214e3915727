"""Poisson likelihood fit of peaks on their backgrounds to a histogram, compiled.

Model, integrated over each bin (no centre-of-bin error), with N a normal density and Q its upper tail (half an erfc):

- `A1·N(mu1, s1) + A2·N(mu2, s2)`: one peak or two, or one peak of two widths;
- `TAIL·A1·(events of peak 1 that lack up to `tail` of their energy, evenly)`: light that stayed below a threshold;
- `STEP·Q((x - mu1) / s1)`: scatter below peak 1;
- `EDGE·(1 - Q((x - r·mu1) / (√r·s1)))`: a continuum that begins at r times the energy of peak 1;
- a straight line from LOW to HIGH at the ends of the range, so that "not negative" is two simple bounds.

Areas are counts, TAIL is a share of A1, STEP, EDGE, LOW and HIGH are counts per unit of x.

Source: daily-qc.md §2a (photopeak: Gauss + erfc step + background), §2c (time: Gauss + second Gauss + flat) and §2g
(the continuum of Lu-176 has an edge at 597 keV); maximum of the Poisson likelihood by Fisher scoring.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

A1, MU1, S1, A2, MU2, S2, STEP, LOW, HIGH, TAIL, EDGE = range(11)
N_PARAMETERS = 11

# Constants of the shape.
TAIL_WIDTH, EDGE_RATIO = range(2)
N_CONSTANTS = 2

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
def _tail_at(x: float, mu: float, sigma: float) -> tuple[float, float, float]:
    """Q(z), its integral z·Q - phi, and phi at z = (x - mu) / sigma."""
    z = (x - mu) / sigma
    q = 0.5 * math.erfc(z / _ROOT_2)
    f = math.exp(-0.5 * z * z) / _ROOT_2PI
    return q, z * q - f, f


@kernel
def expected(
    p: NDArray[np.float64],
    shape: NDArray[np.float64],
    edges: NDArray[np.float64],
    mu: NDArray[np.float64],
    jac: NDArray[np.float64],
) -> None:
    """Expected counts of each bin and their derivatives by the parameters.

    Args:
        p: (11,) parameters.
        shape: (2,) constants: width of the missing energy, and where the edge stands as a multiple of the peak. A
            width of 0 means no tail, a ratio of 0 no edge.
        edges: (n + 1,) bin edges.
        mu: (n,) result.
        jac: (n, 11) result.
    """
    n = mu.size
    start = edges[0]
    span = edges[n] - edges[0]
    s = p[S1]
    two = p[S2] != 0.0
    width_missing = shape[TAIL_WIDTH]
    tail = width_missing > 0.0
    ratio = shape[EDGE_RATIO]
    edge = ratio > 0.0
    root = math.sqrt(ratio)
    jac[:, :] = 0.0
    q0, g0, f0 = _tail_at(edges[0], p[MU1], s)
    q20, f20 = 0.0, 0.0
    qt0, gt0, ft0 = 0.0, 0.0, 0.0
    qe0, ge0, fe0 = 0.0, 0.0, 0.0
    if two:
        q20, _, f20 = _tail_at(edges[0], p[MU2], p[S2])
    if tail:
        qt0, gt0, ft0 = _tail_at(edges[0], p[MU1] - width_missing, s)
    if edge:
        qe0, ge0, fe0 = _tail_at(edges[0], ratio * p[MU1], root * s)
    for k in range(n):
        right = edges[k + 1]
        width = right - edges[k]
        q1, g1, f1 = _tail_at(right, p[MU1], s)
        share = q0 - q1
        scatter = s * (g1 - g0)
        middle = (0.5 * (right + edges[k]) - start) / span
        by_mu = p[A1] * (f0 - f1) / s + p[STEP] * share
        z0 = (edges[k] - p[MU1]) / s
        z1 = (right - p[MU1]) / s
        by_s = p[A1] * (z0 * f0 - z1 * f1) / s + p[STEP] * (f0 - f1)
        by_a = share
        if tail:
            qt1, gt1, ft1 = _tail_at(right, p[MU1] - width_missing, s)
            missing = s * ((g1 - g0) - (gt1 - gt0)) / width_missing
            by_a += p[TAIL] * missing
            by_mu += p[TAIL] * p[A1] * (share - (qt0 - qt1)) / width_missing
            by_s += p[TAIL] * p[A1] * ((f0 - f1) - (ft0 - ft1)) / width_missing
            jac[k, TAIL] = p[A1] * missing
            qt0, gt0, ft0 = qt1, gt1, ft1
        value = p[A1] * by_a + p[STEP] * scatter
        jac[k, A1] = by_a
        jac[k, STEP] = scatter
        jac[k, LOW] = width * (1.0 - middle)
        jac[k, HIGH] = width * middle
        value += p[LOW] * jac[k, LOW] + p[HIGH] * jac[k, HIGH]
        if edge:
            qe1, ge1, fe1 = _tail_at(right, ratio * p[MU1], root * s)
            beyond = width - root * s * (ge1 - ge0)
            jac[k, EDGE] = beyond
            value += p[EDGE] * beyond
            by_mu -= p[EDGE] * ratio * (qe0 - qe1)
            by_s -= p[EDGE] * root * (fe0 - fe1)
            qe0, ge0, fe0 = qe1, ge1, fe1
        jac[k, MU1] = by_mu
        jac[k, S1] = by_s
        if two:
            q21, _, f21 = _tail_at(right, p[MU2], p[S2])
            z0 = (edges[k] - p[MU2]) / p[S2]
            z1 = (right - p[MU2]) / p[S2]
            jac[k, A2] = q20 - q21
            jac[k, MU2] = p[A2] * (f20 - f21) / p[S2]
            jac[k, S2] = p[A2] * (z0 * f20 - z1 * f21) / p[S2]
            value += p[A2] * jac[k, A2]
            q20, f20 = q21, f21
        mu[k] = value
        q0, g0, f0 = q1, g1, f1


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
    shape: NDArray[np.float64],
    slot: NDArray[np.int64],
    lower: NDArray[np.float64],
    mu: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[int, int, float]:
    """Maximise the Poisson likelihood by Fisher scoring with step halving and lower bounds.

    Args:
        counts: (n,) counts.
        edges: (n + 1,) bin edges.
        p: (11,) start values, replaced by the result.
        shape: (2,) constants of the shape, see `expected`.
        slot: (11,) number of the free quantity a parameter belongs to (parameters that share one are tied and must
            start equal), -1: fixed.
        lower: (11,) lower bounds.
        mu: (n,) expected counts at the result.
        covariance: (11, 11) inverse Fisher information at the result; rows of parameters that are fixed or on their
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
    newton = np.zeros(n_free)
    row = np.empty(n_free)
    active = np.empty(n_free, np.int64)
    held = np.empty(n_free, np.bool_)
    trial = np.empty(N_PARAMETERS)
    trial_mu = np.empty(n)
    trial_jac = np.empty((n, N_PARAMETERS))
    covariance[:, :] = 0.0
    expected(p, shape, edges, mu, jac)
    best = negative_log_likelihood(counts, mu)
    # With an edge behind the peak, step, edge and line may lie on their bounds in turn, and pull each other to and fro.
    many_bounds = shape[EDGE_RATIO] > 0.0
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
        # Solve for the step; a parameter that it takes over its bound goes to the bound instead and the others are
        # solved again with that. One on its bound that the likelihood pushes outwards stays there.
        for a in range(n_free):
            held[a] = False
            step[a] = 0.0
            for j in range(N_PARAMETERS):
                if slot[j] == a and p[j] <= lower[j] and score[a] <= 0.0:
                    held[a] = True
        solved = False
        inside = False
        for _ in range(n_free + 1):
            m = 0
            for a in range(n_free):
                if not held[a]:
                    active[m] = a
                    m += 1
            if m == 0:  # everything on its bound: no fit to speak of
                solved = False
                break
            for a in range(m):
                row[a] = score[active[a]]
                for b in range(n_free):
                    if held[b]:
                        low, high = (active[a], b) if active[a] > b else (b, active[a])
                        row[a] -= fisher[low, high] * step[b]
                for b in range(a + 1):
                    packed[a, b] = fisher[active[a], active[b]]
            solved = cholesky(packed, m)
            if not solved:
                break
            cholesky_solve(packed, m, row)
            if not inside:
                newton[:] = 0.0
                for a in range(m):
                    newton[active[a]] = row[a]
            # Those that are on their bound already stay there, before others are taken to theirs.
            crossed = False
            for a in range(m if many_bounds else 0):
                step[active[a]] = row[a]
                for j in range(N_PARAMETERS):
                    if slot[j] == active[a] and p[j] <= lower[j] and row[a] < 0.0:
                        held[active[a]] = True
                        step[active[a]] = 0.0
                        crossed = True
            for a in range(m if not crossed else 0):
                step[active[a]] = row[a]
                for j in range(N_PARAMETERS):
                    if slot[j] == active[a] and p[j] + row[a] < lower[j]:
                        held[active[a]] = True
                        step[active[a]] = lower[j] - p[j]
                        crossed = True
                        inside = True
            if not crossed:
                break
        if not solved:
            status = SINGULAR
            break
        decrement = 0.0
        to_bound = False
        for a in range(n_free):
            decrement += step[a] * score[a]
            if held[a] and step[a] != 0.0:
                to_bound = True
        if not math.isfinite(decrement):
            status = SINGULAR
            break
        if many_bounds and inside and decrement <= 0.0:
            # All the way to the bound leads down: then as far along the free step as the first bound lets it go.
            share = 1.0
            for a in range(n_free):
                for j in range(N_PARAMETERS):
                    if slot[j] == a and p[j] + newton[a] < lower[j]:
                        share = min(share, (lower[j] - p[j]) / newton[a])
            decrement = 0.0
            for a in range(n_free):
                step[a] = share * newton[a]
                decrement += step[a] * score[a]
        if decrement < _DECREMENT and not to_bound:
            status = CONVERGED
            break
        size = 1.0
        moved = False
        for _ in range(_HALVINGS):
            for j in range(N_PARAMETERS):
                trial[j] = p[j]
            for j in range(N_PARAMETERS):
                if slot[j] >= 0:
                    trial[j] = max(p[j] + size * step[slot[j]], lower[j])
            expected(trial, shape, edges, trial_mu, trial_jac)
            value = negative_log_likelihood(counts, trial_mu)
            if value <= best + 1e-12 * abs(best) and math.isfinite(value):
                moved = True
                break
            size *= 0.5
        if not moved:
            # No better point along the step: rounding is all that is left, or the model is hopeless here.
            status = CONVERGED if decrement < 1e-3 and not to_bound else NO_CONVERGENCE
            break
        gained = best - value
        for j in range(N_PARAMETERS):
            p[j] = trial[j]
        mu[:] = trial_mu
        jac[:, :] = trial_jac
        best = value
        if gained < 1e-9 * max(1.0, abs(best)) and decrement < 1e-4 and not to_bound:
            status = CONVERGED
            # The factor below belongs to the point before this last, negligible step.
            break
    if status == CONVERGED:
        for a in range(m):
            row[:] = 0.0
            row[a] = 1.0
            cholesky_solve(packed, m, row)
            for b in range(m):
                for j in range(N_PARAMETERS):
                    if slot[j] == active[a]:
                        for i in range(N_PARAMETERS):
                            if slot[i] == active[b]:
                                covariance[j, i] = row[b]
    return status, steps, best


@kernel
def _full_width(a1: float, s1: float, a2: float, s2: float, fraction: float) -> float:
    """Full width at a fraction of the maximum of two Gaussians with one mean, by halving."""
    h1 = a1 / s1
    h2 = a2 / s2
    target = fraction * (h1 + h2)
    low = 0.0
    high = 10.0 * max(s1, s2)
    for _ in range(80):
        x = 0.5 * (low + high)
        z1 = x / s1
        z2 = x / s2
        if h1 * math.exp(-0.5 * z1 * z1) + h2 * math.exp(-0.5 * z2 * z2) > target:
            low = x
        else:
            high = x
    return low + high


@kernel
def width_of_two(shape: NDArray[np.float64], covariance: NDArray[np.float64], fraction: float) -> tuple[float, float]:
    """Full width at a fraction of the maximum of two Gaussians with one mean, and its variance.

    Args:
        shape: (4,) area and sigma of the one, then of the other.
        covariance: (4, 4) of them.
        fraction: 0.5 for FWHM.
    """
    gradient = np.empty(4)
    moved = shape.copy()
    for j in range(4):
        step = 1e-4 * max(abs(shape[j]), 1e-9)
        moved[j] = shape[j] + step
        wider = _full_width(moved[0], moved[1], moved[2], moved[3], fraction)
        moved[j] = shape[j] - step
        narrower = _full_width(moved[0], moved[1], moved[2], moved[3], fraction)
        moved[j] = shape[j]
        gradient[j] = (wider - narrower) / (2.0 * step)
    variance = 0.0
    for i in range(4):
        for j in range(4):
            variance += gradient[i] * covariance[i, j] * gradient[j]
    return _full_width(shape[0], shape[1], shape[2], shape[3], fraction), variance
