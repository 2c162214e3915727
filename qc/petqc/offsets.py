"""Time offsets of channels from coincidences: robust least squares on the graph of who coincides with whom.

Model: dt = o_a - o_b + g + noise, plus randoms that are flat over the window. Each pair is weighted with the
probability that it is not a random (the share that the fitted Gaussian has of the density at its residual), the
weights and the offsets are improved in turn, from a wide start so that a channel that is far off is still found.

Source: daily-qc.md §2d (1: graph Laplacian, connected components; 4: robust weights; 5: levels);
performance.md §5 (mixture reweighting is the weight closest to the bound; conjugate gradients to 1e-4 or tighter).
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
DENSE = 2500
"""Up to this many channels the whole covariance is calculated; beyond it only approximate standard deviations."""
MIN_PAIRS = 20
"""Fewest pairs of a channel that its offset is given for."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Solved offsets; arrays over all channels.

    offset_ps: mean zero over every connected component, NaN where there is none. error_ps: standard deviations.
    pairs: sum of weights (pairs that are no randoms). component: number of the connected component, the largest is 0,
    -1: too few pairs. sigma_ps: of one pair around its expectation. share: of pairs that are no randoms.
    covariance: (n, n) of offset_ps, or None for many channels.
    """

    offset_ps: NDArray[np.float64]
    error_ps: NDArray[np.float64]
    pairs: NDArray[np.float64]
    component: NDArray[np.int64]
    sigma_ps: float
    share: float
    covariance: NDArray[np.float64] | None

    @property
    def n_components(self) -> int:
        """Number of connected components."""
        return int(self.component.max(initial=-1)) + 1

    def mean_error(self, members: NDArray[np.int64], others: NDArray[np.int64]) -> float:
        """Standard deviation of mean(offset of members) minus mean(offset of others), which contain the members."""
        if self.covariance is None:
            variance = float(np.sum(self.error_ps[members] ** 2)) / members.size**2
            return math.sqrt(variance * max(0.0, 1.0 - members.size / max(others.size, 1)))
        weights = np.zeros(self.offset_ps.size)
        weights[others] -= 1.0 / others.size
        weights[members] += 1.0 / members.size
        return math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))


def solve_offsets(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    dt_ps: NDArray[np.float64],
    n: int,
    *,
    window_ps: float,
    start_ps: NDArray[np.float64],
    sigma_ps: float,
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

    Raises:
        TooFewCountsError: hardly any pairs.
    """
    if a.size < 200:
        raise TooFewCountsError(f"{a.size} pairs, at least 200 wanted")
    a, b = np.ascontiguousarray(a, np.int32), np.ascontiguousarray(b, np.int32)
    dt = np.ascontiguousarray(dt_ps, np.float64)
    offset = start_ps.astype(np.float64).copy()
    degree, right = np.empty(n), np.empty(n)
    weight = np.empty(dt.size)
    sigma, share = max(_WIDE_PS[0], 3.0 * sigma_ps), 0.8
    for round_ in range(_ROUNDS):
        used = max(_WIDE_PS[round_], sigma_ps) if round_ < len(_WIDE_PS) else sigma
        total, squares = weigh(a, b, dt, offset, used, share, 1.0 / window_ps, weight, degree, right)
        step = _conjugate_gradients(a, b, weight, degree, right)
        offset = offset + step
        share = min(max(total / dt.size, 0.01), 0.999)
        sigma = max(math.sqrt(squares / max(total, 1e-9)), 1.0)
        if round_ >= len(_WIDE_PS) and float(np.max(np.abs(step), initial=0.0)) < _SETTLED_PS:
            break
    total, squares = weigh(a, b, dt, offset, sigma, share, 1.0 / window_ps, weight, degree, right)
    component = _components(a, b, weight, degree, n)
    offset = np.where(component >= 0, offset, np.nan)
    for number in range(int(component.max(initial=-1)) + 1):
        inside = component == number
        offset[inside] -= offset[inside].mean()
    covariance, error = _errors(a, b, weight, degree, component, sigma)
    return Offsets(offset, error, degree.copy(), component, sigma, share, covariance)


@kernel
def weigh(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    dt: NDArray[np.float64],
    offset: NDArray[np.float64],
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
        dt: (m,) time differences.
        offset: (n,) present offsets.
        sigma: width of the weight.
        share: share of pairs that are no randoms.
        flat: density of randoms, 1 over the window.
        weight: (m,) result.
        degree: (n,) result: sum of weights of a channel.
        right: (n,) result: right side of the normal equations.

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
        r = dt[k] - (offset[a[k]] - offset[b[k]])
        signal = peak * math.exp(-0.5 * (r / sigma) ** 2)
        w = signal / (signal + background)
        weight[k] = w
        total += w
        squares += w * r * r
        degree[a[k]] += w
        degree[b[k]] += w
        right[a[k]] += w * r
        right[b[k]] -= w * r
    return total, squares


@kernel
def apply_laplacian(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    weight: NDArray[np.float64],
    x: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Weighted graph Laplacian times a vector."""
    out[:] = 0.0
    for k in range(a.size):
        d = weight[k] * (x[a[k]] - x[b[k]])
        out[a[k]] += d
        out[b[k]] -= d


def _conjugate_gradients(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    right: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve L x = right, Jacobi-preconditioned, matrix-free; channels without pairs stay at zero."""
    inverse = np.where(degree > 1e-6, 1.0 / np.maximum(degree, 1e-6), 0.0)
    x = np.zeros(right.size)
    residual = np.where(degree > 1e-6, right, 0.0)
    z = inverse * residual
    direction = z.copy()
    rho = float(residual @ z)
    goal = rho * _TOLERANCE**2
    product = np.empty_like(x)
    for _ in range(200):
        if rho <= goal or rho <= 0.0:
            break
        apply_laplacian(a, b, weight, direction, product)
        curvature = float(direction @ product)
        if curvature <= 0.0:
            break
        alpha = rho / curvature
        x += alpha * direction
        residual -= alpha * product
        z = inverse * residual
        rho, old = float(residual @ z), rho
        direction = z + (rho / old) * direction
    return x


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
    weight: NDArray[np.float64],
    degree: NDArray[np.float64],
    component: NDArray[np.int64],
    sigma: float,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Covariance sigma² L⁺ of every component (zero between components), and its diagonal's square root."""
    n = degree.size
    error = np.full(n, np.nan)
    if n > DENSE:
        # A channel among many well-connected ones: the diagonal of the Laplacian is what counts.
        error[component >= 0] = sigma / np.sqrt(degree[component >= 0])
        return None, error
    from scipy.sparse import coo_array

    joint = coo_array((weight, (a, b)), shape=(n, n)).toarray()
    joint += joint.T
    covariance = np.zeros((n, n))
    for number in range(int(component.max(initial=-1)) + 1):
        inside = np.flatnonzero(component == number)
        part = joint[np.ix_(inside, inside)]
        laplacian = np.diag(part.sum(axis=1)) - part
        one = np.full_like(laplacian, 1.0 / inside.size)
        covariance[np.ix_(inside, inside)] = sigma**2 * (np.linalg.inv(laplacian + one * laplacian.trace()) - one / (
            laplacian.trace()
        ))  # fmt: skip
        error[inside] = np.sqrt(np.maximum(np.diag(covariance)[inside], 0.0))
    return covariance, error
