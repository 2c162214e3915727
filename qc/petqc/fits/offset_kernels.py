"""Kernels of the time offsets: weights of pairs, and the normal equations on the graph of who coincides with whom.

Common arguments: a, b (m,) positions of a pair's channels; dt (m,) its time difference; depth, sign (m,) its class of
depth and which side was hit deeper (both empty where no depth is fitted along); x (n + classes,) the unknowns, offsets
first; module (n,) module of a channel; share (2, modules, modules) of the pairs of two modules that are no randoms, of
those on a line through the source and of those off it (the last class of depth).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.fits.group_begins import group_begins
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_STEPS = 300
MOST_LEVERAGE = 0.5
"""A pair that its channels follow more than that says nothing of its own noise."""


@kernel
def weigh(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    depth: NDArray[np.int16],
    sign: NDArray[np.int8],
    n: int,
    begin: NDArray[np.int32],
    module: NDArray[np.int32],
    dt: NDArray[np.float32],
    x: NDArray[np.float64],
    sigma: float,
    share: NDArray[np.float64],
    flat: float,
    weight: NDArray[np.float32],
    summed: NDArray[np.float64],
    degree: NDArray[np.float64],
    right: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> float:
    """Weights of all pairs (the probability that each is no random), and what the least-squares step needs of them.

    Line by line: what pairs of a line have in common is looked up once.

    Args:
        a: (lines,) see above, as b, depth and sign; of each line.
        b: .
        depth: .
        sign: .
        n: channels.
        begin: (lines + 1,) place of each line's first pair among the m pairs.
        module: see above, as x and share.
        dt: (m,) of pairs, line by line.
        x: .
        sigma: width of the weight.
        share: .
        flat: density of randoms, 1 over the window.
        weight: (m,) result, line by line.
        summed: (lines,) result: sum of the weights of each line.
        degree: (n + classes,) result: sum of weights of an unknown.
        right: (n + classes,) result: right side of the normal equations.
        sums: (2, modules, modules, 3) result: as share, pairs, weights, and what the weights tell of a shift: a
            random that passes for a pair has a weight, but tells nothing (Louis' observed information).

    Returns:
        sum of weighted squared residuals.
    """
    degree[:] = 0.0
    right[:] = 0.0
    sums[:] = 0.0
    squares = 0.0
    height = 1.0 / (sigma * math.sqrt(2.0 * math.pi))
    narrow = 1.0 / sigma
    last = x.size - n - 1
    for line in range(a.size):
        i, j = a[line], b[line]
        expected = x[i] - x[j]
        off = 0
        if depth.size:
            expected += sign[line] * x[n + depth[line]]
            off = 1 if depth[line] == last else 0
        p, q = module[i], module[j]
        peak, random = share[off, p, q] * height, (1.0 - share[off, p, q]) * flat
        total, pull, tells = 0.0, 0.0, 0.0
        for k in range(begin[line], begin[line + 1]):
            r = dt[k] - expected
            z = (r * narrow) ** 2
            signal = peak * math.exp(-0.5 * z)
            w = signal / (signal + random)
            weight[k] = w
            total += w
            pull += w * r
            squares += w * r * r
            tells += w * (1.0 - (1.0 - w) * z)
        summed[line] = total
        sums[off, p, q, 0] += begin[line + 1] - begin[line]
        sums[off, p, q, 1] += total
        sums[off, p, q, 2] += tells
        degree[i] += total
        degree[j] += total
        right[i] += pull
        right[j] -= pull
        if depth.size and sign[line] != 0:
            degree[n + depth[line]] += total
            right[n + depth[line]] += pull * sign[line]
    return squares


@kernel
def number_lines(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    depth: NDArray[np.int16],
    sign: NDArray[np.int8],
    n: int,
    order: NDArray[np.int32],
    first: NDArray[np.int32],
    begin: NDArray[np.int32],
) -> int:
    """Number the lines of response, those of one channel a after the other; pairs of a line differ in nothing but dt.

    Depth follows from the two channels; where it does not, a line has several numbers.

    Args:
        a: see above, as b, depth and sign.
        b: .
        depth: .
        sign: .
        n: channels.
        order: (m,) result: pairs line by line, those of a line in the order they came.
        first: (m,) result: a pair of each line, as many as there are lines.
        begin: (m + 1,) result: place of each line's first pair in order, and the number of pairs at the end.

    Returns:
        Number of lines.
    """
    bound = group_begins(a, n)
    # Side by side what is looked at together: of the pairs of one channel a, the other channel and the pair's number.
    near = np.empty((a.size, 2), np.int32)
    at = bound[:-1].copy()
    for k in range(a.size):
        m = at[a[k]]
        near[m, 0], near[m, 1] = b[k], k
        at[a[k]] += 1
    # By the other channel: the line that is open, and whose.
    place, whose = np.zeros(n, np.int32), np.full(n, -1, np.int32)
    count = 0
    for i in range(n):
        low, high, lines = bound[i], bound[i + 1], count
        for m in range(low, high):
            j, k = near[m, 0], near[m, 1]
            same = whose[j] == i
            if same and depth.size:
                f = first[place[j]]
                same = depth[f] == depth[k] and sign[f] == sign[k]
            if not same:
                place[j] = np.int32(count)
                whose[j] = np.int32(i)
                first[count] = k
                begin[count] = 0
                count += 1
            near[m, 0] = place[j]
            begin[place[j]] += 1
        # Sizes become places, which move on as pairs are put there, and at last back.
        total = low
        for line in range(lines, count):
            size = begin[line]
            begin[line] = total
            total += size
        for m in range(low, high):
            line = near[m, 0]
            order[begin[line]] = near[m, 1]
            begin[line] += 1
        for line in range(count - 1, lines, -1):
            begin[line] = begin[line - 1]
        if count > lines:
            begin[lines] = low
    begin[count] = a.size
    return count


@kernel
def apply_normal(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    depth: NDArray[np.int16],
    sign: NDArray[np.int8],
    n: int,
    weight: NDArray[np.float64],
    x: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Normal matrix times a vector: the weighted graph Laplacian, bordered by the classes of depth."""
    out[:] = 0.0
    # Lines of one channel a follow one another: its sum is kept at hand until another one's begins.
    i, own, total = -1, 0.0, 0.0
    for k in range(a.size):
        j = b[k]
        if a[k] != i:
            if i >= 0:
                out[i] = total
            i = a[k]
            own, total = x[i], out[i]
        d = own - x[j]
        if depth.size:
            d += sign[k] * x[n + depth[k]]
        d *= weight[k]
        total += d
        out[j] -= d
        if depth.size:
            out[n + depth[k]] += d * sign[k]
    if i >= 0:
        out[i] = total


@kernel
def join_groups(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    weight: NDArray[np.float32] | NDArray[np.float64],
    group: NDArray[np.int32],
    out: NDArray[np.float64],
) -> None:
    """Sum of the weights between any two groups of channels, (groups, groups), symmetric."""
    out[:] = 0.0
    for k in range(a.size):
        i, j = group[a[k]], group[b[k]]
        out[i, j] += weight[k]
        out[j, i] += weight[k]


@kernel
def conjugate_gradients(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    depth: NDArray[np.int16],
    sign: NDArray[np.int8],
    n: int,
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    right: NDArray[np.float64],
    group: NDArray[np.int32],
    coarse: NDArray[np.float64],
    tolerance: float,
    x: NDArray[np.float64],
) -> int:
    """Solve the normal equations, matrix-free; unknowns without pairs stay as they are.

    Preconditioned by the diagonal and by the inverse of the graph of groups: a source whose lines meet few partners
    links a ring like a long chain, along which the diagonal alone would need thousands of steps.

    Written out rather than as products of vectors: those start threads, which on a busy machine wait for each other.

    Args:
        a: see apply_normal, as b, depth, sign, n and weight.
        b: .
        depth: .
        sign: .
        n: channels.
        weight: .
        degree: (n + classes,) see weigh, as right.
        right: .
        group: (n,) group of a channel.
        coarse: (groups, groups) inverse of their graph; (0, 0): none.
        tolerance: of the residual's norm, relative to its start.
        x: (n + classes,) result.

    Returns:
        Number of steps taken.
    """
    size = right.size
    residual, direction = np.empty(size), np.empty(size)
    product, good = np.empty(size), np.empty(size)
    summed, mean = np.zeros(coarse.shape[0]), np.zeros(coarse.shape[0])
    rho, goal = 0.0, 0.0
    for k in range(size):
        x[k] = 0.0
        residual[k] = right[k] if degree[k] > 1e-6 else 0.0
        direction[k] = 0.0
    for step in range(MOST_STEPS):
        before, rho = rho, 0.0
        summed[:] = 0.0
        for k in range(n if coarse.size else 0):
            summed[group[k]] += residual[k]
        for i in range(coarse.shape[0]):
            value = 0.0
            for j in range(coarse.shape[0]):
                value += coarse[i, j] * summed[j]
            mean[i] = value
        for k in range(size):
            good[k] = residual[k] / degree[k] if degree[k] > 1e-6 else 0.0
            if coarse.size and k < n and degree[k] > 1e-6:
                good[k] += mean[group[k]]
            rho += residual[k] * good[k]
        if step == 0:
            goal = rho * tolerance * tolerance
        if rho <= goal or rho <= 0.0:
            return step
        for k in range(size):
            direction[k] = good[k] + (rho / before * direction[k] if step else 0.0)
        apply_normal(a, b, depth, sign, n, weight, direction, product)
        curvature = 0.0
        for k in range(size):
            curvature += direction[k] * product[k]
        if curvature <= 0.0:
            return step
        for k in range(size):
            x[k] += rho / curvature * direction[k]
            residual[k] -= rho / curvature * product[k]
    return MOST_STEPS


@kernel
def shake(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    depth: NDArray[np.int16],
    sign: NDArray[np.int8],
    n: int,
    dt: NDArray[np.float32],
    x: NDArray[np.float64],
    weight: NDArray[np.float32],
    degree: NDArray[np.float64],
    seed: int,
    out: NDArray[np.float64],
) -> None:
    """Right sides as noise makes them: each pair pulls its unknowns by its own weighted residual, up or down by chance.

    So pairs of larger spread than the others (gammas that scattered into a distant crystal) count with theirs. What a
    pair leaves is less than its noise, because the offsets of its two channels went along with it, most where a channel
    has few pairs: its residual is divided by what is left of it, as leaving it out of the solution would. Source: wild
    bootstrap, Wu 1986, doi:10.1214/aos/1176350142; signs of Liu 1988 and Mammen 1993; leverage as in HC3 of MacKinnon
    and White 1985, doi:10.1016/0304-4076(85)90158-7.

    Args:
        a: see above, as b, depth, sign, dt and x.
        b: .
        depth: .
        sign: .
        n: channels.
        dt: .
        x: .
        weight: (m,) weights of the solution.
        degree: (n + classes,) sums of the weights.
        seed: of the ups and downs, not 0.
        out: (n + classes, samples) result, at most 64 samples.
    """
    out[:] = 0.0
    state = np.uint64(seed)
    for k in range(a.size):
        r = dt[k] - (x[a[k]] - x[b[k]])
        if depth.size:
            r -= sign[k] * x[n + depth[k]]
        leverage = weight[k] * (1.0 / max(degree[a[k]], 1e-9) + 1.0 / max(degree[b[k]], 1e-9))
        pull = weight[k] * r / (1.0 - min(leverage, MOST_LEVERAGE))
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        bits = state * np.uint64(2685821657736338717)
        for s in range(out.shape[1]):
            up = pull if (bits >> np.uint64(s)) & np.uint64(1) else -pull
            out[a[k], s] += up
            out[b[k], s] -= up
            if depth.size:
                out[n + depth[k], s] += up * sign[k]
