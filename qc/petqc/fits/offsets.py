"""Time offsets of channels from coincidences: robust least squares on the graph of who coincides with whom.

Model: dt = o_a - o_b + g + noise, plus randoms that are flat over the window. With a point source, the crystal that is
further from the axis than its partner was hit deeper, and depth is time: g has a part that depends on how much
further, odd and the same everywhere, which is fitted along. A slope of all offsets with the distance from the axis
looks the same and is therefore not seen: it is taken out.

Each pair is weighted with the
probability that it is not a random (the share that the fitted Gaussian has of the density at its residual), the
weights and the offsets are improved in turn, from a wide start so that a channel that is far off is still found.

Source: daily-qc.md §2d (1: graph Laplacian, connected components; 4: robust weights; 5: levels).
Mixture reweighting comes closest to the bound; conjugate gradients are solved to 1e-4 or tighter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import TooFewCountsError
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDE_PS = (800.0, 400.0, 200.0)
"""Widths of the weight while offsets are still unknown; the last steps use the width that the data have."""
_ROUNDS = 12
_SETTLED_PS = 0.02
_TOLERANCE = 1e-6
MOST_STEPS = 300
DENSE = 2500
"""Up to this many channels the whole covariance is calculated; beyond it that of groups of channels, if there are such,
and the rest from a channel's own pairs."""
MIN_PAIRS = 20
"""Fewest pairs of a channel that its offset is given for."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Solved offsets; arrays over all channels.

    offset_ps: mean zero over every connected component, NaN where there is none. error_ps: standard deviations.
    pairs: sum of weights (pairs that are no randoms). component: number of the connected component, the largest is 0,
    -1: too few pairs. sigma_ps: of one pair around its expectation. share: of pairs that are no randoms.
    covariance: (n, n) of offset_ps; for many channels (groups, groups) of the groups' means, or None without groups.
    group: (n,) the group of each channel where covariance is that of groups, else None.
    """

    offset_ps: NDArray[np.float64]
    error_ps: NDArray[np.float64]
    pairs: NDArray[np.float64]
    component: NDArray[np.int64]
    sigma_ps: float
    share: float
    covariance: NDArray[np.float64] | None
    group: NDArray[np.int64] | None = None

    @property
    def n_components(self) -> int:
        """Number of connected components."""
        return int(self.component.max(initial=-1)) + 1

    def mean_error(self, members: NDArray[np.int64], others: NDArray[np.int64]) -> float:
        """Standard deviation of mean(offset of members) minus mean(offset of others), which contain the members."""
        if self.covariance is None:
            variance = float(np.sum(self.error_ps[members] ** 2)) / members.size**2
            return math.sqrt(variance * max(0.0, 1.0 - members.size / max(others.size, 1)))
        weights: NDArray[np.float64] = np.zeros(self.offset_ps.size)
        weights[others] -= 1.0 / others.size
        weights[members] += 1.0 / members.size
        if self.group is not None:
            weights = np.asarray(np.bincount(self.group, weights=weights, minlength=self.covariance.shape[0]))
        return math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))


@dataclass(frozen=True, slots=True)
class Parallax:
    """The part of g that is fitted along.

    group: (m,) number of a pair's class by how much further one crystal is from the axis than the other; the last
    class has none. sign: (m,) +1 if crystal a is further out, -1 if b is, 0 in the last class. distance_mm: (n,) of
    channels from the axis. n: classes, the last one included.
    """

    group: NDArray[np.int64]
    sign: NDArray[np.float64]
    distance_mm: NDArray[np.float64]
    n: int

    @classmethod
    def none(cls, m: int, n: int) -> Parallax:
        """Nothing of the kind: a line or an extended source, or no positions."""
        return cls(np.zeros(m, np.int64), np.zeros(m), np.zeros(n), 1)

    @classmethod
    def of(
        cls, a: NDArray[np.int32], b: NDArray[np.int32], distance_mm: NDArray[np.float64], classes: int = 12
    ) -> Parallax:
        """For a point source; distance_mm: (n,) of the channels from the axis of their module."""
        further = distance_mm[a] - distance_mm[b]
        size = np.abs(further)
        top = float(np.quantile(size, 0.99)) if size.size else 0.0
        if top <= 0.5:
            return cls.none(a.size, distance_mm.size)
        group = np.minimum((size / top * classes).astype(np.int64), classes - 1)
        near = size < 0.25
        group[near] = classes
        return cls(group, np.where(near, 0.0, np.sign(further)), distance_mm, classes + 1)


def solve_offsets(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    dt_ps: NDArray[np.float64],
    n: int,
    *,
    window_ps: float,
    start_ps: NDArray[np.float64],
    sigma_ps: float,
    parallax: Parallax | None = None,
    group: NDArray[np.int32] | None = None,
) -> Offsets:
    """Solve for the offsets of n channels.

    Args:
        a: (m,) positions of the channels of side a.
        b: (m,) of side b.
        dt_ps: (m,) t_a - t_b minus what geometry explains.
        n: number of channels.
        window_ps: full width over which randoms are flat.
        start_ps: (n,) offsets to start from (module offsets).
        sigma_ps: standard deviation of one pair, to start from and as the smallest.
        parallax: the part of g that is fitted along; default none.
        group: (n,) numbers of ASICs or such: uncertainties of many channels are found by way of them.

    Raises:
        TooFewCountsError: hardly any pairs.
    """
    if a.size < 200:
        raise TooFewCountsError(f"{a.size} pairs, at least 200 wanted")
    a, b = np.ascontiguousarray(a, np.int32), np.ascontiguousarray(b, np.int32)
    dt = np.ascontiguousarray(dt_ps, np.float64)
    g = parallax or Parallax.none(a.size, n)
    # Unknowns: offsets, then one number for each class of parallax (the last one stays 0).
    x = np.concatenate([start_ps.astype(np.float64), np.zeros(g.n)])
    degree, right = np.empty(n + g.n), np.empty(n + g.n)
    weight, step = np.empty(dt.size), np.empty(n + g.n)
    sigma, share = max(_WIDE_PS[0], 3.0 * sigma_ps), 0.8
    for round_ in range(_ROUNDS):
        used = max(_WIDE_PS[round_], sigma_ps) if round_ < len(_WIDE_PS) else sigma
        total, squares = weigh(a, b, g.group, g.sign, n, dt, x, used, share, 1.0 / window_ps, weight, degree, right)
        conjugate_gradients(a, b, g.group, g.sign, n, weight, degree, right, _TOLERANCE, step)
        x = x + step
        share = min(max(total / dt.size, 0.01), 0.999)
        sigma = max(math.sqrt(squares / max(total, 1e-9)), 1.0)
        if round_ >= len(_WIDE_PS) and float(np.max(np.abs(step), initial=0.0)) < _SETTLED_PS:
            break
    weigh(a, b, g.group, g.sign, n, dt, x, sigma, share, 1.0 / window_ps, weight, degree, right)
    component = _components(a, b, weight, degree[:n], n)
    offset = np.where(component >= 0, x[:n], np.nan)
    unseen = _unseen(component, g.distance_mm)
    for mode in unseen:
        offset[component >= 0] -= mode[component >= 0] * float(np.sum(mode[component >= 0] * offset[component >= 0]))
    if n > DENSE:
        covariance, error = _coarse_errors(a, b, weight, degree[:n], component, group, sigma)
        groups = None if covariance is None or group is None else group.astype(np.int64)
        return Offsets(offset, error, degree[:n].copy(), component, sigma, share, covariance, groups)
    covariance, error = _errors(a, b, g, weight, degree[:n], component, unseen, sigma)
    return Offsets(offset, error, degree[:n].copy(), component, sigma, share, covariance)


def _coarse_errors(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    component: NDArray[np.int64],
    group: NDArray[np.int32] | None,
    sigma: float,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Covariance of the means of groups, from the graph of groups, and errors of channels.

    A channel is known as well as its own pairs say, and its group's mean on top of that. With a source whose lines
    meet few partners (a point in a ring meets the opposite side only), the latter is what counts.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    error = np.full(degree.size, np.nan)
    known = component == 0
    error[component >= 0] = sigma / np.sqrt(degree[component >= 0])
    n_groups = 0 if group is None else int(group.max()) + 1
    if group is None or n_groups > DENSE:
        return None, error
    used = known[a] & known[b]
    joint = coo_array((weight[used], (group[a[used]], group[b[used]])), shape=(n_groups, n_groups)).toarray()
    joint += joint.T
    np.fill_diagonal(joint, 0.0)
    seen = joint.sum(axis=1) > 0.0
    size = int(seen.sum())
    normal = np.diag(joint.sum(axis=1)) - joint
    _, label = connected_components(joint[np.ix_(seen, seen)] > 0.0, directed=False)
    pattern = np.eye(int(label.max(initial=-1)) + 1)[label]
    pattern /= np.sqrt(pattern.sum(axis=0))
    shared = pattern @ pattern.T
    scale = float(np.trace(normal)) / max(size, 1)
    inverse = np.linalg.inv(normal[np.ix_(seen, seen)] + scale * shared)
    projector = np.eye(size) - shared
    covariance = np.zeros((n_groups, n_groups))
    covariance[np.ix_(seen, seen)] = sigma**2 * projector @ inverse @ projector
    error[known] = np.sqrt(error[known] ** 2 + np.maximum(np.diag(covariance)[group[known]], 0.0))
    return covariance, error


def _unseen(component: NDArray[np.int64], distance_mm: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Orthonormal patterns that coincidences do not show: a constant of each component, a slope with the distance."""
    modes = []
    slope = np.where(component >= 0, distance_mm, 0.0)
    for number in range(int(component.max(initial=-1)) + 1):
        inside = component == number
        mode = inside / math.sqrt(float(inside.sum()))
        modes.append(mode)
        slope = slope - mode * float(slope @ mode)
    length = float(np.linalg.norm(slope))
    return [*modes, slope / length] if length > 1e-6 else modes


@kernel
def weigh(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    group: NDArray[np.int64],
    sign: NDArray[np.float64],
    n: int,
    dt: NDArray[np.float64],
    x: NDArray[np.float64],
    sigma: float,
    share: float,
    flat: float,
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    right: NDArray[np.float64],
) -> tuple[float, float]:
    """Weights of all pairs, and what the least-squares step needs of them.

    Args:
        a: (m,) positions of side a.
        b: (m,) positions of side b.
        group: (m,) see Parallax.
        sign: (m,) see Parallax.
        n: channels.
        dt: (m,) time differences.
        x: (n + groups,) present unknowns.
        sigma: width of the weight.
        share: share of pairs that are no randoms.
        flat: density of randoms, 1 over the window.
        weight: (m,) result.
        degree: (n + groups,) result: sum of weights of an unknown.
        right: (n + groups,) result: right side of the normal equations.

    Returns:
        sum of weights, sum of weighted squared residuals.
    """
    degree[:] = 0.0
    right[:] = 0.0
    total = 0.0
    squares = 0.0
    peak = share / (sigma * math.sqrt(2.0 * math.pi))
    background = (1.0 - share) * flat
    for k in range(a.size):
        r = dt[k] - (x[a[k]] - x[b[k]] + sign[k] * x[n + group[k]])
        signal = peak * math.exp(-0.5 * (r / sigma) ** 2)
        w = signal / (signal + background)
        weight[k] = w
        total += w
        squares += w * r * r
        degree[a[k]] += w
        degree[b[k]] += w
        degree[n + group[k]] += w * sign[k] * sign[k]
        right[a[k]] += w * r
        right[b[k]] -= w * r
        right[n + group[k]] += w * r * sign[k]
    return total, squares


@kernel
def apply_normal(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    group: NDArray[np.int64],
    sign: NDArray[np.float64],
    n: int,
    weight: NDArray[np.float64],
    x: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Normal matrix times a vector: the weighted graph Laplacian, bordered by the classes of parallax."""
    out[:] = 0.0
    for k in range(a.size):
        d = weight[k] * (x[a[k]] - x[b[k]] + sign[k] * x[n + group[k]])
        out[a[k]] += d
        out[b[k]] -= d
        out[n + group[k]] += d * sign[k]


@kernel
def conjugate_gradients(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    group: NDArray[np.int64],
    sign: NDArray[np.float64],
    n: int,
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    right: NDArray[np.float64],
    tolerance: float,
    x: NDArray[np.float64],
) -> int:
    """Solve the normal equations, Jacobi-preconditioned, matrix-free; unknowns without pairs stay as they are.

    Written out rather than as products of vectors: those start threads, which on a busy machine wait for each other.

    Args:
        a: (m,) see weigh, as group, sign, n, weight, degree and right.
        b: (m,).
        group: (m,).
        sign: (m,).
        n: channels.
        weight: (m,).
        degree: (n + groups,).
        right: (n + groups,).
        tolerance: of the residual's norm, relative to its start.
        x: (n + groups,) result.

    Returns:
        Number of steps taken.
    """
    size = right.size
    residual = np.empty(size)
    direction = np.empty(size)
    product = np.empty(size)
    rho = 0.0
    for k in range(size):
        x[k] = 0.0
        residual[k] = right[k] if degree[k] > 1e-6 else 0.0
        direction[k] = residual[k] / degree[k] if degree[k] > 1e-6 else 0.0
        rho += residual[k] * direction[k]
    goal = rho * tolerance * tolerance
    for step in range(MOST_STEPS):
        if rho <= goal or rho <= 0.0:
            return step
        apply_normal(a, b, group, sign, n, weight, direction, product)
        curvature = 0.0
        for k in range(size):
            curvature += direction[k] * product[k]
        if curvature <= 0.0:
            return step
        alpha = rho / curvature
        before = rho
        rho = 0.0
        for k in range(size):
            x[k] += alpha * direction[k]
            residual[k] -= alpha * product[k]
            product[k] = residual[k] / degree[k] if degree[k] > 1e-6 else 0.0
            rho += residual[k] * product[k]
        for k in range(size):
            direction[k] = product[k] + rho / before * direction[k]
    return MOST_STEPS


def _components(
    a: NDArray[np.int32], b: NDArray[np.int32], weight: NDArray[np.float64], degree: NDArray[np.float64], n: int
) -> NDArray[np.int64]:
    """Connected components of channels with pairs enough, the largest first. Source: daily-qc.md §2d.1."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    good = degree >= MIN_PAIRS
    edge = (weight > 0.5) & good[a] & good[b]
    graph = coo_array((np.ones(int(edge.sum())), (a[edge], b[edge])), shape=(n, n)).tocsr()
    _, label = connected_components(graph, directed=False)
    found = np.full(n, -1, np.int64)
    names, counts = np.unique(label[good], return_counts=True)
    for number, name in enumerate(names[np.argsort(-counts, kind="stable")]):
        found[good & (label == name)] = number
    return found


def _errors(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    g: Parallax,
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    component: NDArray[np.int64],
    unseen: list[NDArray[np.float64]],
    sigma: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of the offsets without the unseen patterns, and its diagonal's square root."""
    n = degree.size
    error = np.full(n, np.nan)
    known = component >= 0
    from scipy.sparse import coo_array

    joint = coo_array((weight, (a, b)), shape=(n, n)).toarray()
    joint += joint.T
    normal = np.zeros((n + g.n, n + g.n))
    normal[:n, :n] = np.diag(joint.sum(axis=1)) - joint
    signed = weight * g.sign
    border = coo_array((signed, (a, g.group)), shape=(n, g.n)).toarray()
    border -= coo_array((signed, (b, g.group)), shape=(n, g.n)).toarray()
    normal[:n, n:] = border
    normal[n:, :n] = border.T
    normal[n:, n:] = np.diag(np.bincount(g.group, weights=weight * g.sign**2, minlength=g.n))
    used = np.concatenate([known, np.diag(normal)[n:] > 0])
    part = normal[np.ix_(used, used)]
    patterns = np.zeros((len(unseen), int(used.sum())))
    for row, mode in zip(patterns, unseen, strict=True):
        row[: int(known.sum())] = mode[known]
    # The unseen patterns get a weight of their own, so that the matrix has an inverse; then they are taken out of it.
    scale = float(np.trace(part)) / part.shape[0]
    inverse = np.linalg.inv(part + scale * patterns.T @ patterns)
    size = int(known.sum())
    projector = np.eye(size) - patterns[:, :size].T @ patterns[:, :size]
    covariance = np.zeros((n, n))
    covariance[np.ix_(known, known)] = sigma**2 * projector @ inverse[:size, :size] @ projector
    error[known] = np.sqrt(np.maximum(np.diag(covariance)[known], 0.0))
    return covariance, error
