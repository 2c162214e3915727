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

from petqc.fits.row_kernels import bells, dot, logarithms, total
from petqc.jit import kernel, kernel_of_given_arrays

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
BY_ROOT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
STANDS_OUT = 5.0
"""Standard deviations that a peak must have above nothing. Source: as for channels, daily-qc.md §5.2."""


@kernel_of_given_arrays
def tail_over_exponential(a: float) -> float:
    """Upper tail of the normal distribution over exp(-a²/2), for a >= 0.

    The tail is off by 5e-16 at most. One exponential then serves tail and density, and an erfc costs four of them.
    Source: J. F. Hart et al., Computer Approximations (1968), no. 5666.
    """
    above = 0.03526249659989109
    above = above * a + 0.7003830644436881
    above = above * a + 6.373962203531650
    above = above * a + 33.91286607838300
    above = above * a + 112.0792914978709
    above = above * a + 221.2135961699311
    above = above * a + 220.2068679123761
    below = 0.08838834764831844
    below = below * a + 1.755667163182642
    below = below * a + 16.06417757920695
    below = below * a + 86.78073220294608
    below = below * a + 296.5642487796737
    below = below * a + 637.3336333788311
    below = below * a + 793.8265125199484
    below = below * a + 440.4137358247522
    return above / below


@kernel_of_given_arrays
def normal(
    edges: NDArray[np.float64], mu: float, sigma: float, z: NDArray[np.float64], q: NDArray[np.float64],
    f: NDArray[np.float64], g: NDArray[np.float64],
) -> None:  # fmt: skip
    """At every edge z = (x - mu) / sigma, the upper tail Q(z), the density phi(z), and Q's integral z·Q - phi."""
    by_sigma = 1.0 / sigma
    for k in range(edges.size):
        z[k] = (edges[k] - mu) * by_sigma
    bells(z, f, q, g)
    for k in range(edges.size):  # without a call that stays one: several edges are then compiled into one step
        tail = f[k] * tail_over_exponential(abs(z[k]))
        q[k] = tail if z[k] >= 0.0 else 1.0 - tail
    for k in range(edges.size):
        f[k] *= BY_ROOT_2PI
        g[k] = z[k] * q[k] - f[k]


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
        jac: (11, n) result.
    """
    expected_in(p, shape, edges, mu, jac, np.empty((4, mu.size + 1)))


@kernel_of_given_arrays
def expected_in(
    p: NDArray[np.float64],
    shape: NDArray[np.float64],
    edges: NDArray[np.float64],
    mu: NDArray[np.float64],
    jac: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """The same without asking for memory: half the time; scratch: (4 or more, n + 1 or more)."""
    n = mu.size
    # One row after the other: loops as plain as these are compiled for several bins at a time.
    z, q, f, g = scratch[0][: n + 1], scratch[1][: n + 1], scratch[2][: n + 1], scratch[3][: n + 1]
    by_a1, by_mu1, by_s1, by_step, by_low, by_high = jac[A1], jac[MU1], jac[S1], jac[STEP], jac[LOW], jac[HIGH]
    a1, mu1, s1, step, low, high = p[A1], p[MU1], p[S1], p[STEP], p[LOW], p[HIGH]
    normal(edges, mu1, s1, z, q, f, g)
    per_s = a1 / s1
    for k in range(n):
        by_a1[k] = q[k] - q[k + 1]
    for k in range(n):
        by_step[k] = s1 * (g[k + 1] - g[k])
    for k in range(n):
        by_mu1[k] = per_s * (f[k] - f[k + 1]) + step * (q[k] - q[k + 1])
    for k in range(n):
        by_s1[k] = per_s * (z[k] * f[k] - z[k + 1] * f[k + 1]) + step * (f[k] - f[k + 1])
    start, by_span = edges[0], 1.0 / (edges[n] - edges[0])
    for k in range(n):
        by_high[k] = (edges[k + 1] - edges[k]) * ((0.5 * (edges[k + 1] + edges[k]) - start) * by_span)
    for k in range(n):
        by_low[k] = edges[k + 1] - edges[k] - by_high[k]
    for k in range(n):
        mu[k] = a1 * by_a1[k] + step * by_step[k] + low * by_low[k] + high * by_high[k]
    width_missing = shape[TAIL_WIDTH]
    by_tail = jac[TAIL]
    by_tail[:] = 0.0
    if width_missing > 0.0:
        # What lacks up to so much: the peak's events between two such steps, one of them that much lower.
        per_missing = 1.0 / width_missing
        share = p[TAIL]
        for k in range(n):
            by_tail[k] = by_step[k]
            by_mu1[k] += share * a1 * per_missing * (q[k] - q[k + 1])
            by_s1[k] += share * a1 * per_missing * (f[k] - f[k + 1])
        normal(edges, mu1 - width_missing, s1, z, q, f, g)
        for k in range(n):
            by_tail[k] = (by_tail[k] - s1 * (g[k + 1] - g[k])) * per_missing
            by_mu1[k] -= share * a1 * per_missing * (q[k] - q[k + 1])
            by_s1[k] -= share * a1 * per_missing * (f[k] - f[k + 1])
        for k in range(n):
            by_a1[k] += share * by_tail[k]
            mu[k] += a1 * share * by_tail[k]
            by_tail[k] *= a1
    ratio = shape[EDGE_RATIO]
    by_edge = jac[EDGE]
    by_edge[:] = 0.0
    if ratio > 0.0:
        root, height = math.sqrt(ratio), p[EDGE]
        normal(edges, ratio * mu1, root * s1, z, q, f, g)
        for k in range(n):
            by_edge[k] = edges[k + 1] - edges[k] - root * s1 * (g[k + 1] - g[k])
        for k in range(n):
            mu[k] += height * by_edge[k]
            by_mu1[k] -= height * ratio * (q[k] - q[k + 1])
            by_s1[k] -= height * root * (f[k] - f[k + 1])
    by_a2, by_mu2, by_s2 = jac[A2], jac[MU2], jac[S2]
    by_a2[:] = 0.0
    by_mu2[:] = 0.0
    by_s2[:] = 0.0
    if p[S2] != 0.0:
        a2, per_s2 = p[A2], p[A2] / p[S2]
        normal(edges, p[MU2], p[S2], z, q, f, g)
        for k in range(n):
            by_a2[k] = q[k] - q[k + 1]
        for k in range(n):
            by_mu2[k] = per_s2 * (f[k] - f[k + 1])
        for k in range(n):
            by_s2[k] = per_s2 * (z[k] * f[k] - z[k + 1] * f[k + 1])
        for k in range(n):
            mu[k] += a2 * by_a2[k]


@kernel_of_given_arrays
def negative_log_likelihood(
    counts: NDArray[np.float64], mu: NDArray[np.float64], scratch: NDArray[np.float64]
) -> float:
    """Sum of mu - n·ln(mu); scratch: (4 or more, n or more)."""
    n = counts.size
    m, logarithm = scratch[0][:n], scratch[1][:n]
    for k in range(n):
        m[k] = max(mu[k], _FLOOR)
    logarithms(m, logarithm, scratch[2][:n], scratch[3][:n])
    for k in range(n):
        m[k] -= counts[k] * logarithm[k]
    return total(m)


@kernel_of_given_arrays
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


@kernel_of_given_arrays
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


@kernel_of_given_arrays
def pearson_sums(
    counts: NDArray[np.float64], model: NDArray[np.float64], shape_tolerance: float, scratch: NDArray[np.float64]
) -> tuple[float, float, float]:
    """What says how well a model describes its counts.

    Args:
        counts: (n,) counts.
        model: (n,) expected counts.
        shape_tolerance: see petqc.fits.SHAPE_TOLERANCE.
        scratch: (3 or more, n or more).

    Returns:
        Pearson's chi-square, the same with shape tolerance, and the sum of 1 / expected.
    """
    n = counts.size
    plain, tolerant, inverse = scratch[0, :n], scratch[1, :n], scratch[2, :n]
    for k in range(n):
        mu = max(model[k], 1e-3)
        plain[k] = (counts[k] - mu) * (counts[k] - mu)
        inverse[k] = 1.0 / mu
        tolerant[k] = plain[k] / (mu + (shape_tolerance * mu) * (shape_tolerance * mu))
    for k in range(n):
        plain[k] *= inverse[k]
    return total(plain), total(tolerant), total(inverse)


@kernel
def bins_of_a_tenth(fwhm: float, width: float) -> int:
    """How many bins of a width make a tenth of a peak's FWHM: finer ones hold too little to show a wrong shape."""
    return max(1, math.floor(fwhm / 10.0 / width))


_WEIGHT, _WEIGHTED, _PULL, _SLOPES = range(4)
"""Rows of what a step of the fit computes for each bin; from the last on one for each free quantity."""


@kernel_of_given_arrays
def sums_of_step(
    counts: NDArray[np.float64],
    mu: NDArray[np.float64],
    jac: NDArray[np.float64],
    times: NDArray[np.float64],
    slot: NDArray[np.int64],
    first: NDArray[np.int64],
    is_tied: NDArray[np.bool_],
    rows: NDArray[np.float64],
    score: NDArray[np.float64],
    fisher: NDArray[np.float64],
) -> None:
    """What a step of the fit follows from: slope of the likelihood by each free quantity, and the Fisher information.

    Args:
        counts: (n,) counts.
        mu: (n,) expected counts.
        jac: (11, n or more) their derivatives by the parameters.
        times: (11,) how much a parameter changes with its free quantity.
        slot: (11,) see poisson_fit.
        first: (n_free,) first parameter of each free quantity.
        is_tied: (n_free,) whether it has others.
        rows: (3 + n_free, n or more) scratch.
        score: (n_free,) result.
        fisher: (n_free, n_free) result, lower triangle.
    """
    n = mu.size
    weight, weighted, pull = rows[_WEIGHT][:n], rows[_WEIGHTED][:n], rows[_PULL][:n]
    for k in range(n):
        weight[k] = 1.0 / max(mu[k], _FLOOR)
    for k in range(n):
        pull[k] = counts[k] * weight[k] - 1.0
    for j in range(N_PARAMETERS):
        if slot[j] >= 0 and is_tied[slot[j]]:
            slope, one = rows[_SLOPES + slot[j]][:n], jac[j][:n]
            if first[slot[j]] == j:
                slope[:] = 0.0
            for k in range(n):
                slope[k] += times[j] * one[k]
    for a in range(first.size):
        # A quantity that is one parameter has that one's derivatives, where they are.
        slope = rows[_SLOPES + a][:n] if is_tied[a] else jac[first[a]][:n]
        score[a] = dot(slope, pull)
        for k in range(n):
            weighted[k] = slope[k] * weight[k]
        for b in range(a + 1):
            fisher[a, b] = dot(weighted, rows[_SLOPES + b][:n] if is_tied[b] else jac[first[b]][:n])


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
        slot: (11,) number of the free quantity a parameter belongs to (parameters that share one are tied: they keep
            the ratio in which they start), -1: fixed.
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
    # Memory is asked for a few times in all: a fit takes no longer than a hundred such requests.
    room = (n + 8) // 8 * 8
    of_bins = np.empty((2 * N_PARAMETERS + n_free + _SLOPES + 5, room))
    jac, trial_jac = of_bins[:N_PARAMETERS], of_bins[N_PARAMETERS : 2 * N_PARAMETERS]
    rows = of_bins[2 * N_PARAMETERS : 2 * N_PARAMETERS + _SLOPES + n_free]
    scratch = of_bins[2 * N_PARAMETERS + _SLOPES + n_free :]
    trial_mu = scratch[4][:n]
    of_free = np.zeros((5 + 2 * n_free, n_free))
    score, step, newton, row, bound = of_free[0], of_free[1], of_free[2], of_free[3], of_free[4]
    fisher, packed = of_free[5 : 5 + n_free], of_free[5 + n_free :]
    trial, times = np.empty(N_PARAMETERS), np.ones(N_PARAMETERS)
    # Of each free quantity: the first parameter that belongs to it, and the bound it meets first.
    numbers = np.empty((2, n_free), np.int64)
    first, active = numbers[0], numbers[1]
    flags = np.zeros((2, n_free), np.bool_)
    held, is_tied = flags[0], flags[1]
    bound[:] = -np.inf
    for j in range(N_PARAMETERS - 1, -1, -1):
        if slot[j] >= 0:
            first[slot[j]] = j
    for j in range(N_PARAMETERS):
        if slot[j] >= 0:
            is_tied[slot[j]] |= first[slot[j]] != j
            if p[j] != p[first[slot[j]]]:
                times[j] = p[j] / p[first[slot[j]]]
            bound[slot[j]] = max(bound[slot[j]], lower[j] / times[j])
    covariance[:, :] = 0.0
    expected_in(p, shape, edges, mu, jac, scratch)
    best = negative_log_likelihood(counts, mu, scratch)
    # With an edge behind the peak, step, edge and line may lie on their bounds in turn, and pull each other to and fro.
    many_bounds = shape[EDGE_RATIO] > 0.0
    status = NO_CONVERGENCE
    steps = 0
    m = 0
    value = best
    for steps in range(1, _MAX_STEPS + 1):  # noqa: B007 - the number of the last step is a result
        sums_of_step(counts, mu, jac, times, slot, first, is_tied, rows, score, fisher)
        # Solve for the step; a parameter that it takes over its bound goes to the bound instead and the others are
        # solved again with that. One on its bound that the likelihood pushes outwards stays there.
        for a in range(n_free):
            step[a] = 0.0
            held[a] = p[first[a]] <= bound[a] and score[a] <= 0.0
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
                one = active[a]
                step[one] = row[a]
                if p[first[one]] <= bound[one] and row[a] < 0.0:
                    held[one] = True
                    step[one] = 0.0
                    crossed = True
            for a in range(m if not crossed else 0):
                one = active[a]
                step[one] = row[a]
                if p[first[one]] + row[a] < bound[one]:
                    held[one] = True
                    step[one] = bound[one] - p[first[one]]
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
                if p[first[a]] + newton[a] < bound[a]:
                    share = min(share, (bound[a] - p[first[a]]) / newton[a])
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
                    trial[j] = max(p[j] + size * times[j] * step[slot[j]], lower[j])
            expected_in(trial, shape, edges, trial_mu, trial_jac, scratch)
            value = negative_log_likelihood(counts, trial_mu, scratch)
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
        jac, trial_jac = trial_jac, jac
        best = value
        if gained < 1e-9 * max(1.0, abs(best)) and decrement < 1e-4 and not to_bound:
            status = CONVERGED
            # The factor below belongs to the point before this last, negligible step.
            break
    if status == CONVERGED:
        inverse = fisher  # not needed any more
        inverse[:, :] = 0.0
        for a in range(m):
            row[:] = 0.0
            row[a] = 1.0
            cholesky_solve(packed, m, row)
            for b in range(m):
                inverse[active[a], active[b]] = row[b]
        for j in range(N_PARAMETERS):
            for i in range(N_PARAMETERS):
                if slot[j] >= 0 and slot[i] >= 0:
                    covariance[j, i] = times[j] * times[i] * inverse[slot[j], slot[i]]
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
