"""Time offsets of channels from coincidences: robust least squares on the graph of who coincides with whom.

Model: dt = o_a - o_b + g + noise, plus randoms that are flat over the window. With a point source, of two crystals that
face each other the one further out was hit deeper, and depth is time: g depends on the difference of depth, odd and the
same everywhere, and is fitted along (`petqc.fits.depth`). A pattern of offsets over each module looks much
the same: it is hardly seen, and a daily check takes it out.

Each pair is weighted with the probability that it is not a random: the share that the fitted Gaussian has of the
density at its residual. How many are no randoms is found for each pair of modules, on lines through the source and off
them. Weights and offsets are improved in turn, from a wide start so that a channel that is far off is still found; of
very many pairs a part first, then all.

Source: daily-qc.md §2d (1: graph Laplacian, connected components; 4: robust weights; 5: levels).
Mixture reweighting comes closest to the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import TooFewCountsError
from petqc.fits import offset_errors as errors
from petqc.fits.offset_kernels import conjugate_gradients, number_lines, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

_WIDE_PS = (800.0, 400.0, 200.0)
"""Widths of the weight while offsets are still unknown; the last steps use the width that the data have."""
_ROUNDS = 12
_SETTLED_PS = 0.02
_SETTLED_SHARE = 0.02
"""Settled too when no channel moves by more than this share of what its own pairs leave uncertain."""
_TOLERANCE = 1e-4
_FIRST_PAIRS = 1_000_000
"""Of more than three times as many, every so-manieth is solved first."""
DENSE = 2500
"""Up to this many channels the whole covariance is calculated; beyond it follows from samples."""
MIN_PAIRS = 20
"""Fewest pairs of a channel that its offset is given for."""
MOST_GROUPS = 1024
"""By way of which channels are solved, with a dense matrix over them. Of more, neighbours in number are taken together:
groups make the way to the solution short and have no part in it."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Solved offsets; arrays over all channels.

    offset_ps: mean zero over every connected component, NaN where there is none. error_ps: standard deviations.
    pairs: sum of weights (pairs that are no randoms). component: number of the connected component, the largest is 0,
    -1: too few pairs. sigma_ps: of one pair around its expectation. share: of pairs that are no randoms.
    covariance: (n, n) of offset_ps, or None with many channels; then drawn: (n, samples) offsets as noise makes them.
    """

    offset_ps: NDArray[np.float64]
    error_ps: NDArray[np.float64]
    pairs: NDArray[np.float64]
    component: NDArray[np.int64]
    sigma_ps: float
    share: float
    covariance: NDArray[np.float64] | None
    drawn: NDArray[np.float64] | None = None

    @property
    def n_components(self) -> int:
        """Number of connected components."""
        return int(self.component.max(initial=-1)) + 1

    def mean_error(self, members: NDArray[np.int64], others: NDArray[np.int64]) -> float:
        """Standard deviation of mean(offset of members) minus mean(offset of others), which contain the members."""
        if self.drawn is not None:
            means = self.drawn[members].mean(axis=0) - self.drawn[others].mean(axis=0)
            return math.sqrt(float((means**2).mean()))
        weights: NDArray[np.float64] = np.zeros(self.offset_ps.size)
        weights[others] -= 1.0 / others.size
        weights[members] += 1.0 / members.size
        assert self.covariance is not None  # noqa: S101 - one of the two is always there
        return math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))


@dataclass(frozen=True, slots=True)
class Depths:
    """The part of g that is fitted along, by classes of how much deeper one crystal of a pair was hit than the other.

    group: (m,) class of each pair; sign: (m,) +1 if crystal a was hit deeper, -1 if b, 0 where neither was. Both are
    empty where depth plays no part (a line or an extended source, or no positions). n: classes; the last is of pairs
    that no line through the source meets: randoms, and gammas that scattered.
    """

    group: NDArray[np.int16]
    sign: NDArray[np.int8]
    n: int

    @classmethod
    def none(cls) -> Depths:
        """Nothing of the kind."""
        return cls(np.empty(0, np.int16), np.empty(0, np.int8), 0)


@dataclass(frozen=True, slots=True)
class Graph:
    """Who coincides with whom: (m,) pairs a, b of n channels, their classes of depth, and groups of channels."""

    a: NDArray[np.int32]
    b: NDArray[np.int32]
    depth: NDArray[np.int16]
    sign: NDArray[np.int8]
    n: int
    classes: int
    group: NDArray[np.int32]
    n_groups: int

    def every(self, stride: int) -> Graph:
        """The graph of every so-manieth pair."""
        part = slice(None, None, stride)
        return replace(
            self,
            a=np.ascontiguousarray(self.a[part]),
            b=np.ascontiguousarray(self.b[part]),
            depth=np.ascontiguousarray(self.depth[part]),
            sign=np.ascontiguousarray(self.sign[part]),
        )

    def lines(self) -> Lines:
        """The same with every line of response once."""
        order, first, begin = (np.empty(self.a.size + k, np.int32) for k in (0, 0, 1))
        count = number_lines(self.a, self.b, self.depth, self.sign, self.n, order, first, begin)
        first = first[:count]
        depth = self.depth[first] if self.depth.size else self.depth
        sign = self.sign[first] if self.sign.size else self.sign
        graph = replace(self, a=self.a[first], b=self.b[first], depth=depth, sign=sign)
        return Lines(graph, order, begin[: count + 1].copy())

    def normal(self, weight: NDArray[np.float64]) -> csr_array:
        """Normal matrix of the least-squares problem, (n + classes, n + classes)."""
        from scipy.sparse import coo_array

        size = self.n + self.classes
        rows, columns, values = [self.a, self.b], [self.b, self.a], [-weight, -weight]
        diagonal = np.bincount(self.a, weights=weight, minlength=size)
        diagonal += np.bincount(self.b, weights=weight, minlength=size)
        if self.classes:
            place, signed = self.n + self.depth.astype(np.int32), weight * self.sign
            rows += [self.a, place, self.b, place]
            columns += [place, self.a, place, self.b]
            values += [signed, signed, -signed, -signed]
            diagonal += np.bincount(place, weights=weight * self.sign**2, minlength=size)
        joint = coo_array(
            (np.concatenate(values).astype(np.float64), (np.concatenate(rows), np.concatenate(columns))),
            shape=(size, size),
        )
        return (joint + coo_array((diagonal, (np.arange(size), np.arange(size))), shape=(size, size))).tocsr()


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of response that m pairs are on, far fewer than pairs: the normal equations need only their weights.

    graph: each line once. order: (m,) pairs line by line. begin: (lines + 1,) place of each line's first pair there.
    """

    graph: Graph
    order: NDArray[np.int32]
    begin: NDArray[np.int32]

    def summed(self, weight: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weight of each line, (lines,): the sum of those of its pairs, (m,)."""
        if not self.order.size:
            return np.zeros(0)
        sums: NDArray[np.float64] = np.add.reduceat(weight[self.order], self.begin[:-1], dtype=np.float64)
        return sums

    def of_pairs(self, along: NDArray[np.float32]) -> NDArray[np.float32]:
        """In the order in which the pairs came what is given line by line, (m,)."""
        found = np.empty_like(along)
        found[self.order] = along
        return found

    def solve(
        self, summed: NDArray[np.float64], degree: NDArray[np.float64], right: NDArray[np.float64],
        coarse: NDArray[np.float64], *, depths: bool = True,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Solution of the normal equations, (n + classes,), or of those of offsets alone, (n,).

        Args:
            summed: (lines,) weights.
            degree: sums of weights of the unknowns.
            right: right side.
            coarse: see conjugate_gradients.
            depths: whether classes of depth are among the unknowns.
        """
        g = self.graph
        depth, sign = (g.depth, g.sign) if depths else (g.depth[:0], g.sign[:0])
        x = np.empty(right.size)
        conjugate_gradients(g.a, g.b, depth, sign, g.n, summed, degree, right, g.group, coarse, _TOLERANCE, x)
        return x


@dataclass(frozen=True, slots=True)
class _Weights:
    """What pairs count for in the end.

    of_pairs: (m,) in the order in which they came. lines: those the pairs are on; summed: (lines,) their weights.
    degree, sums: see offset_kernels.weigh.
    """

    of_pairs: NDArray[np.float32]
    lines: Lines
    summed: NDArray[np.float64]
    degree: NDArray[np.float64]
    sums: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Solution:
    """Solved offsets of n channels whose errors nobody has asked for yet.

    offset_ps, component, sigma_ps, share: as in Offsets. x: (n + classes,) the unknowns. degree: of each of them, sum
    of weights. pattern: see offset_errors.without. line, tells: each line once, and what it tells, (lines,); sample:
    some of the pairs, for many channels.
    """

    offset_ps: NDArray[np.float64]
    component: NDArray[np.int64]
    sigma_ps: float
    share: float
    x: NDArray[np.float64]
    degree: NDArray[np.float64]
    pattern: NDArray[np.float64] | None
    line: Graph
    tells: NDArray[np.float64]
    sample: errors.Sample | None

    def with_errors(self) -> Offsets:
        """How sure they are."""
        n = self.offset_ps.size
        known, error = self.component >= 0, np.full(n, np.nan)
        covariance, drawn = None, None
        if self.sample is not None:
            thin = errors.Thinned.of(self.sample)
            drawn = errors.samples(thin, self.x, self.degree, self.component, self.pattern)
            error[known] = errors.channel_errors(thin, self.degree[:n], drawn, self.sigma_ps)[known]
        else:
            covariance = errors.covariance(self.line, self.tells, self.component, self.pattern, self.sigma_ps)
            error[known] = np.sqrt(np.maximum(np.diag(covariance)[known], 0.0))
        return Offsets(
            self.offset_ps, error, self.degree[:n].copy(), self.component, self.sigma_ps, self.share, covariance, drawn
        )


@dataclass(slots=True)
class _State:
    """Where the improvement in turn stands."""

    x: NDArray[np.float64]
    sigma: float
    share: NDArray[np.float64]


def solve_offsets(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    dt_ps: NDArray[np.float32] | NDArray[np.float64],
    n: int,
    *,
    window_ps: float,
    start_ps: NDArray[np.float64],
    sigma_ps: float,
    depths: Depths | None = None,
    without_pattern: bool = True,
    module: NDArray[np.int32] | None = None,
    group: NDArray[np.int32] | None = None,
) -> Solution:
    """Solve for the offsets of n channels.

    Args:
        a: (m,) positions of the channels of side a.
        b: (m,) of side b.
        dt_ps: (m,) t_a - t_b minus what geometry explains.
        n: number of channels.
        window_ps: full width over which randoms are flat.
        start_ps: (n,) offsets to start from (module offsets).
        sigma_ps: standard deviation of one pair, to start from and as the smallest.
        depths: the part of g that is fitted along; default none.
        without_pattern: take out the pattern of offsets that looks like depth. A calibration needs it, as well as it is
            seen.
        module: (n,) numbers of modules: the share of randoms is found for each pair of them; default one share.
        group: (n,) numbers of ASICs or such: many channels are solved by way of them.

    Raises:
        TooFewCountsError: hardly any pairs.
    """
    if a.size < 200:
        raise TooFewCountsError(f"{a.size} pairs, at least 200 wanted")
    g = depths or Depths.none()
    none = np.zeros(n, np.int32)
    group = none if group is None else _at_most(MOST_GROUPS, group)
    module = none if module is None else np.ascontiguousarray(module, np.int32)
    graph = Graph(
        np.ascontiguousarray(a, np.int32), np.ascontiguousarray(b, np.int32), g.group, g.sign, n, g.n, group,
        int(group.max(initial=-1)) + 1,
    )  # fmt: skip
    dt = np.ascontiguousarray(dt_ps, np.float32)
    # Unknowns: offsets, then one number for each class of depth.
    modules = int(module.max(initial=0)) + 1
    x = np.concatenate([start_ps.astype(np.float64), np.zeros(g.n)])
    state = _State(x, max(_WIDE_PS[0], 3.0 * sigma_ps), np.full((2, modules, modules), 0.8))
    wide = [max(width, sigma_ps) for width in _WIDE_PS]
    if dt.size > 3 * _FIRST_PAIRS:
        stride = dt.size // _FIRST_PAIRS
        _improve(graph.every(stride), np.ascontiguousarray(dt[::stride]), window_ps, module, state, wide)
        wide = []
    found = _improve(graph, dt, window_ps, module, state, wide)
    degree = found.degree
    component = errors.components(found.lines, found.of_pairs, degree[:n], MIN_PAIRS)
    pattern = _unseen(found, component) if without_pattern else None
    x = errors.without(errors.centred(state.x[:n], component), pattern)
    offset = np.where(component >= 0, x, np.nan)
    share = float(found.sums[..., 1].sum()) / dt.size
    told = errors.told_shares(found.sums)
    tells = found.summed * errors.told_by(found.lines.graph, told, module)
    sample = errors.Sample.of(graph, dt, found.of_pairs, told, module) if n > DENSE else None
    return Solution(offset, component, state.sigma, share, state.x, degree, pattern, found.lines.graph, tells, sample)


def _at_most(most: int, group: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbers of larger groups, so that there are no more than so many; the same where there are not."""
    return np.ascontiguousarray(group // (1 + int(group.max(initial=0)) // most), np.int32)


def _improve(
    graph: Graph,
    dt: NDArray[np.float32],
    window_ps: float,
    module: NDArray[np.int32],
    state: _State,
    wide: list[float],
) -> _Weights:
    """Improve offsets, width and shares in turn, first with the wide widths; the weights are the last ones."""
    size = state.x.size
    degree, right = np.empty(size), np.empty(size)
    sums = np.empty((*state.share.shape, 3))
    coarse = np.zeros((0, 0))
    lines = graph.lines()
    line, dt = lines.graph, dt[lines.order]
    along, summed = np.empty(dt.size, np.float32), np.empty(line.a.size)

    def weights(sigma: float) -> float:
        return weigh(
            line.a, line.b, line.depth, line.sign, line.n, lines.begin, module, dt, state.x, sigma, state.share,
            1.0 / window_ps, along, summed, degree, right, sums,
        )  # fmt: skip

    for round_ in range(_ROUNDS):
        squares = weights(wide[round_] if round_ < len(wide) else state.sigma)
        if round_ <= len(wide) and graph.n > DENSE:
            coarse = errors.coarse_inverse(line, summed)
        step = lines.solve(summed, degree, right, coarse)
        state.x = state.x + step
        total = float(sums[..., 1].sum())
        state.share = _shares(sums)
        state.sigma = max(math.sqrt(squares / max(total, 1e-9)), 1.0)
        own = state.sigma / math.sqrt(max(2.0 * total / graph.n, 1.0))
        if round_ >= len(wide) and float(np.max(np.abs(step), initial=0.0)) < max(_SETTLED_PS, _SETTLED_SHARE * own):
            break
    weights(state.sigma)
    return _Weights(lines.of_pairs(along), lines, summed, degree, sums)


def _shares(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of pairs that are no randoms, by pair of modules either way round; hardly any pairs have the common one."""
    pairs, signal = (sums[..., k] + sums[..., k].transpose(0, 2, 1) for k in (0, 1))
    common = float(signal.sum()) / max(float(pairs.sum()), 1.0)
    return np.asarray(np.clip((signal + common) / (pairs + 1.0), 0.001, 0.999))


def _unseen(found: _Weights, component: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The pattern of offsets, of length 1, that looks like a depth that counts in proportion; None without depths."""
    graph, summed = found.lines.graph, found.summed
    if not graph.classes:
        return None
    pull = summed * graph.sign * (graph.depth + 0.5)
    right: NDArray[np.float64] = np.bincount(graph.a, weights=pull, minlength=graph.n).astype(np.float64)
    right -= np.bincount(graph.b, weights=pull, minlength=graph.n)
    coarse = errors.coarse_inverse(graph, summed)
    x = found.lines.solve(summed, found.degree[: graph.n], right, coarse, depths=False)
    pattern = errors.centred(x, component)
    length = float(np.linalg.norm(pattern))
    return pattern / length if length > 1e-6 else None
