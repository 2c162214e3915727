"""How sure time offsets are: which channels the coincidences connect, and what noise does to offsets along the graph.

Few channels: the inverse of the normal matrix. Many: samples of the solution under the noise that the pairs have; from
samples follows the error of any mean or difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.fits.offset_kernels import join_groups, shake

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from petqc.fits.offsets import Graph, Lines

SAMPLES = 64
"""Solutions drawn: an error is known to 1 / sqrt(2 x 64) = 9 %."""
MOST_SAMPLED = 1_000_000
"""Of more pairs every so-manieth is drawn from, as if it were as many."""
_SEED = 20_160
_TOLERANCE = 3e-3
_MOST_STEPS = 200


def components(
    lines: Lines, weight: NDArray[np.float32], degree: NDArray[np.float64], least: float
) -> NDArray[np.int64]:
    """Number of each channel's connected component, the largest is 0; -1: fewer than `least` pairs.

    Args:
        lines: those of m pairs.
        weight: (m,) of pairs; one that is likelier no random connects its channels.
        degree: (n,) sums of weights.
        least: see above.

    Source: daily-qc.md §2d.1.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = lines.graph
    good = degree >= least
    edge = good[graph.a] & good[graph.b]
    if edge.size:
        edge &= np.logical_or.reduceat(weight[lines.order] > 0.5, lines.begin[:-1])
    joint = coo_array((np.ones(int(edge.sum()), np.int8), (graph.a[edge], graph.b[edge])), shape=(graph.n, graph.n))
    _, label = connected_components(joint.tocsr(), directed=False)
    found = np.full(graph.n, -1, np.int64)
    names, counts = np.unique(label[good], return_counts=True)
    place = np.full(int(label.max(initial=0)) + 1, -1, np.int64)
    place[names[np.argsort(-counts, kind="stable")]] = np.arange(names.size)
    found[good] = place[label[good]]
    return found


def centred(values: NDArray[np.float64], component: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of channels minus the mean of their component, 0 outside; (n,) or (n, samples)."""
    from scipy.sparse import csr_array

    n = component.size
    known = component >= 0
    size = np.maximum(np.bincount(component[known], minlength=1), 1)
    sums = csr_array((np.ones(int(known.sum())), (component[known], np.flatnonzero(known))), shape=(size.size, n))
    means = (sums @ values) / (size if values.ndim == 1 else size[:, None])
    return np.where(known if values.ndim == 1 else known[:, None], values - means[component], 0.0)


def without(values: NDArray[np.float64], pattern: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Values of channels, (n,) or (n, samples), without their part along a pattern of length 1."""
    if pattern is None:
        return values
    along = pattern @ values
    return values - (pattern * along if values.ndim == 1 else np.outer(pattern, along))


def inverse_of_groups(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pseudo-inverse of the Laplacian of a graph, (groups, groups); joint: weights between groups."""
    from scipy.sparse.csgraph import connected_components

    np.fill_diagonal(joint, 0.0)
    total = joint.sum(axis=1)
    seen = total > 0.0
    found = np.zeros_like(joint)
    if not seen.any():
        return found
    part = joint[np.ix_(seen, seen)]
    _, label = connected_components(part > 0.0, directed=False)
    pattern = np.eye(int(label.max()) + 1)[label]
    pattern /= np.sqrt(pattern.sum(axis=0))
    shared = pattern @ pattern.T
    scale = float(total[seen].mean())
    inverse = np.linalg.inv(np.diag(total[seen]) - part + scale * shared)
    found[np.ix_(seen, seen)] = inverse - shared / scale
    return found


def coarse_inverse(graph: Graph, weight: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the graph of groups for the preconditioner; (0, 0) where there are none."""
    if graph.n_groups < 2:
        return np.zeros((0, 0))
    joint = np.empty((graph.n_groups, graph.n_groups))
    join_groups(graph.a, graph.b, weight, graph.group, joint)
    return inverse_of_groups(joint)


def told_shares(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of a weight tells of a shift, (2, modules, modules); sums: see offset_kernels.weigh."""
    return np.asarray(np.clip(sums[..., 2] / np.maximum(sums[..., 1], 1e-9), 0.02, 1.0))


def told_by(line: Graph, share: NDArray[np.float64], module: NDArray[np.int32]) -> NDArray[np.float64]:
    """The same of the modules of each line, (lines,).

    Args:
        line: each line once.
        share: see told_shares.
        module: (n,) module of a channel.
    """
    off = (line.depth == line.classes - 1).astype(np.int8) if line.classes else 0
    return np.asarray(share[off, module[line.a], module[line.b]])


def covariance(
    graph: Graph,
    weight: NDArray[np.float64],
    component: NDArray[np.int64],
    pattern: NDArray[np.float64] | None,
    sigma: float,
) -> NDArray[np.float64]:
    """Covariance of the offsets without what coincidences do not show, (n, n)."""
    n = graph.n
    normal = graph.normal(weight).toarray()
    known = component >= 0
    used = np.concatenate([known, np.diag(normal)[n:] > 0])
    part = normal[np.ix_(used, used)]
    # What is not seen gets a weight of its own, so that the matrix has an inverse; then it is taken out again.
    where = component[known]
    unseen = np.eye(int(where.max(initial=-1)) + 1)[where]
    unseen /= np.sqrt(np.maximum(unseen.sum(axis=0), 1.0))
    if pattern is not None:
        unseen = np.column_stack([unseen, pattern[known]])
    size = int(known.sum())
    shared = unseen @ unseen.T
    part[:size, :size] += float(np.trace(part)) / max(part.shape[0], 1) * shared
    inverse = np.linalg.inv(part)[:size, :size]
    projector = np.eye(size) - shared
    found = np.zeros((n, n))
    found[np.ix_(known, known)] = sigma**2 * projector @ inverse @ projector
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """Every stride-th pair, at most MOST_SAMPLED of them, with what tells how noise pulls at its channels.

    graph: the pairs. dt, weight: (m,) of each, the latter of the solution. share, module: see told_by.
    """

    stride: int
    graph: Graph
    dt: NDArray[np.float32]
    weight: NDArray[np.float32]
    share: NDArray[np.float64]
    module: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        graph: Graph,
        dt: NDArray[np.float32],
        weight: NDArray[np.float32],
        share: NDArray[np.float64],
        module: NDArray[np.int32],
    ) -> Sample:
        """Of all pairs; arguments as above."""
        stride = -(-graph.a.size // MOST_SAMPLED)
        dt, weight = (each[::stride].copy() for each in (dt, weight))
        return cls(stride, graph.every(stride), dt, weight, share, module)


@dataclass(frozen=True, slots=True)
class Thinned:
    """A sample of the pairs, the lines it is on, what each of these tells, (lines,), and their normal matrix.

    normal: (n + classes, n + classes).
    """

    sample: Sample
    line: Graph
    tells: NDArray[np.float64]
    normal: csr_array

    @classmethod
    def of(cls, sample: Sample) -> Thinned:
        """The lines of a sample."""
        lines = sample.graph.lines()
        tells = lines.summed(sample.weight) * told_by(lines.graph, sample.share, sample.module)
        return cls(sample, lines.graph, tells, lines.graph.normal(tells))


def samples(
    thin: Thinned,
    x: NDArray[np.float64],
    degree: NDArray[np.float64],
    component: NDArray[np.int64],
    pattern: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Offsets as noise alone would make them, (n, SAMPLES).

    Args:
        thin: a sample of the pairs.
        x: (n + classes,) the solution.
        degree: (n + classes,) sums of the weights.
        component: (n,) see components.
        pattern: (n,) see without.
    """
    some = thin.sample
    g = some.graph
    right = np.empty((g.n + g.classes, SAMPLES))
    shake(g.a, g.b, g.depth, g.sign, g.n, some.dt, x, some.weight, degree, _SEED, right)
    # Of every stride-th pair alone the noise is that much larger.
    found = _solve(thin, right)[: g.n] / math.sqrt(some.stride)
    return without(centred(found, component), pattern)


def _solve(thin: Thinned, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Conjugate gradients for many right sides, (n + classes, samples), which are used up.

    See offset_kernels.conjugate_gradients.
    """
    from scipy.sparse import csr_array

    graph, normal = thin.line, thin.normal
    n = graph.n
    diagonal = normal.diagonal()
    scale = np.where(diagonal > 1e-6, 1.0 / np.maximum(diagonal, 1e-6), 0.0)[:, None]
    coarse = coarse_inverse(graph, thin.tells)
    seen = np.flatnonzero(diagonal[:n] > 1e-6)
    gather = csr_array((np.ones(seen.size), (graph.group[seen], seen)), shape=(graph.n_groups, diagonal.size))
    spread = gather.T.tocsr()

    def improved(residual: NDArray[np.float64]) -> NDArray[np.float64]:
        if not coarse.size:
            return scale * residual
        good = spread @ (coarse @ (gather @ residual))
        good += scale * residual
        return np.asarray(good)

    # In place where it can be: with a quarter of a million channels each array has 125 MB.
    x = np.zeros_like(right)
    right[scale[:, 0] <= 0.0] = 0.0
    residual = right
    direction = improved(residual)
    rho = (residual * direction).sum(axis=0)
    goal = rho * _TOLERANCE**2
    for _ in range(_MOST_STEPS):
        if (rho <= goal).all():
            break
        product = normal @ direction
        alpha = rho / np.maximum((direction * product).sum(axis=0), 1e-300)
        x += alpha * direction
        product *= alpha
        residual -= product
        del product
        good = improved(residual)
        before, rho = rho, (residual * good).sum(axis=0)
        direction *= rho / np.maximum(before, 1e-300)
        direction += good
        del good
    return x


def channel_errors(
    thin: Thinned, degree: NDArray[np.float64], drawn: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """Error of each channel, (n,): what its own pairs leave, and that of its partners' mean, from the samples."""
    n = thin.line.n
    normal = thin.normal[:n, :n]
    diagonal = normal.diagonal()
    partners = drawn - (normal @ drawn) / np.maximum(diagonal, 1e-9)[:, None]
    own = sigma**2 / np.maximum(degree, 1e-9)
    return np.asarray(np.sqrt(own + (partners**2).mean(axis=1)))
