"""Times of beta-gamma pairs: time offsets, and whether flight over a known distance takes the known time.

An electron of module i and its gamma in module j have `t_gamma - t_beta = r/c + o_j - o_i`; with the roles exchanged
flight keeps its sign and the offsets change theirs. So the midpoint of the two peaks is the difference of offsets, and
half of their separation is the flight time: a clock of its own in every crystal, against which the TDC's scale is read.

Only pairs of single hits are taken: beside an electron the strongest of several is often a gamma of the same decay,
absorbed further on, more often so the less energy the electron has; that looks like walk.

Fitted together by least squares whose weights are the probability that a pair is no random: the scale, the walk of
time with energy (`walk * (511 keV / E - 1)`), the depth of interactions, and the offsets of modules. The depth is known
from the attenuation of the crystal within a prior width, so that what is not known of it is part of the scale's
uncertainty; distances that differ, as in a ring, improve on it.

Source: daily-qc.md §2g (timing), §2d (robust weights; offsets on two levels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import square_to
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.lutetium import LINE_WINDOWS_KEV
from petqc.lutetium.crystals import mean_depth_mm
from petqc.statistics import pearson_p_value, robust_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.lutetium import BetaGammaPairs
    from petqc.lutetium.crystals import Material

C_MM_PER_PS = 0.299792458
MIN_PAIRS = 200
MIN_DIRECTION = 20
"""Fewest pairs of two modules in each direction: one alone cannot tell an offset from flight."""
DEPTH_PRIOR_MM = 0.5
"""What attenuation that is known to 10 %, and crystals cut to size, leave open of the mean depth."""
LOWER_DEPTH_PRIOR_MM = 1.0
"""The same of the lower line, of whose pairs it is less known what they are."""
UNKNOWN_DEPTH_MM = 10.0
SCATTERED = 0.2
"""Of the pairs in the window of the lower line, those whose gamma is one of the upper line that has scattered: a
quarter in simulated bench and ring, fewer where the gamma's single has one hit. They come from as deep, and go as deep,
as the upper line's do; taken for the lower line's they made the flight 1.3 mm longer, 0.1 % of the scale in a ring."""
WALK_PRIOR_PS = 100.0
WALK_MODEL_PS = 4.0
"""Of the walk, beyond counts and depth: in a simulated ring both lines are later than walk, flight and attenuation say,
by 6 and 3 ps. That is in the ratio of walk, and no cut in angle or in the electron's energy takes it out."""
MIN_SHARE = 0.5
MIN_P_VALUE = 1e-4
SHAPE_TOLERANCE = 0.1
"""Depths are not Gaussian: the shape of the residuals is trusted to this share of a bin's counts."""
_COMMON = 4
"""Unknowns that all pairs share: scale, walk, and the depth of either line."""
_ROUNDS = 40
_SETTLED_PS = 0.01
_WIDE_PS = (800.0, 400.0, 200.0)


@dataclass(frozen=True, slots=True)
class ModuleScale:
    """Scale as the pairs of one module show it. pairs: their sum of weights."""

    value: float
    error: float
    pairs: float


@dataclass(frozen=True, slots=True)
class FlightFit:
    """What the times of beta-gamma pairs say.

    scale: measured over true flight time; scale_error: one standard deviation, with depth and walk; scale_noise: its
    part by counting alone. flight_ps: mean flight time. walk_ps, walk_error: coefficient. depth_mm, depth_error:
    further than attenuation says, by line. module_ps: (n_modules,) offsets, positive is late, mean zero over the
    largest connected group, NaN elsewhere; module_error. component: (n_modules,) 0 for that group, -1 or more for the
    others. by_module: scale by module. left_ps: (n,) dt without flight and walk, of every pair. sigma_ps: (2,) of one
    pair, by line. share: of pairs that are no randoms. pairs: their number. p_value: goodness of the residuals' shape.
    """

    scale: float
    scale_error: float
    scale_noise: float
    flight_ps: float
    walk_ps: float
    walk_error: float
    depth_mm: tuple[float, float]
    depth_error: tuple[float, float]
    module_ps: NDArray[np.float64]
    module_error: NDArray[np.float64]
    component: NDArray[np.int64]
    by_module: tuple[ModuleScale, ...]
    left_ps: NDArray[np.float64]
    sigma_ps: NDArray[np.float64]
    share: float
    pairs: float
    p_value: float


@dataclass(frozen=True, slots=True)
class _Paths:
    """Of every pair: flight path at the expected depths, and how it grows with depth (mm per mm)."""

    mm: NDArray[np.float64]
    by_depth: NDArray[np.float64]


def outward(topology: Topology) -> NDArray[np.float64]:
    """Unit vector of each channel's crystal, away from the scanner's middle, (n, 3): square to its module's plane."""
    xyz = topology.xyz_mm.astype(np.float64)
    centre = xyz.mean(axis=0)
    found = np.zeros_like(xyz)
    for module in range(len(topology.module_nodes)):
        mine = np.flatnonzero(topology.module == module)
        found[mine] = square_to(xyz[mine], xyz[mine].mean(axis=0) - centre)
    return found


def fit_flight(
    pairs: BetaGammaPairs, topology: Topology, *, window_ps: float, material: Material | None, length_mm: float | None
) -> FlightFit:
    """Fit scale, walk, depth and module offsets.

    Args:
        pairs: gammas in one of the two lines.
        topology: with the middles of the crystals.
        window_ps: full width over which randoms are flat.
        material: of the crystals; None with unknown length.
        length_mm: of the crystals; None: the depth is not known.

    Raises:
        TooFewCountsError: too few pairs, or no two modules with pairs in both directions.
        FitFailedError: randoms prevail, or the residuals have another shape than one peak.
    """
    if not np.isfinite(topology.xyz_mm).all():
        raise TooFewCountsError("there is no map that says where the crystals are")
    beta_module, gamma_module = (topology.module[i].astype(np.int64) for i in (pairs.beta, pairs.gamma))
    n_modules = len(topology.module_nodes)
    # The mean of dt tells flight from walk only where the time is the electron's own.
    alone = np.flatnonzero(pairs.alone)
    component, usable = _connected(beta_module[alone], gamma_module[alone], n_modules)
    used = alone[usable]
    if used.size < MIN_PAIRS:
        raise TooFewCountsError(
            f"{used.size} beta-gamma pairs of modules that see each other both ways (of one hit each), "
            f"{MIN_PAIRS} wanted"
        )
    line = (pairs.gamma_kev > 0.5 * (LINE_WINDOWS_KEV[0][1] + LINE_WINDOWS_KEV[1][0])).astype(np.int64)
    paths = _paths(pairs, topology, line, material, length_mm)
    walk = 511.0 / pairs.gamma_kev.astype(np.float64) - 511.0 / pairs.beta_kev.astype(np.float64)
    by_depth = paths.by_depth / C_MM_PER_PS
    columns = np.stack([paths.mm / C_MM_PER_PS, walk, by_depth * (line == 0), by_depth * (line == 1)])
    y = pairs.dt_ps.astype(np.float64) - columns[0]
    lower, upper = (LOWER_DEPTH_PRIOR_MM, DEPTH_PRIOR_MM) if length_mm else (UNKNOWN_DEPTH_MM, UNKNOWN_DEPTH_MM)
    prior = np.array([0.0, WALK_PRIOR_PS**-2.0, lower**-2.0, upper**-2.0])
    problem = _Problem(columns[:, used], y[used], beta_module[used], gamma_module[used], line[used], n_modules)
    x, sigma, share, weight, inverse, noise = problem.solve(prior, 1.0 / window_ps)
    if share.min() < MIN_SHARE:
        raise FitFailedError(f"only {100.0 * share.min():.0f} % of the pairs stand in the peaks, the rest are randoms")
    residual = problem.residual(x)
    p_value = _goodness(residual, sigma[problem.line], share[problem.line], window_ps)
    if p_value < MIN_P_VALUE:
        raise FitFailedError(f"the times of pairs are no peak around flight: p = {p_value:.1e}")
    main = component == 0
    offset = np.where(main, x[_COMMON:], np.nan)
    offset -= np.nanmean(offset)
    # Of differences from the mean of the group: the constant that no pair sees is taken out.
    projector = np.diag(main.astype(np.float64)) - np.outer(main, main) / main.sum()
    error = np.sqrt(np.maximum(np.diag(projector @ inverse[_COMMON:, _COMMON:] @ projector), 0.0))
    model = columns[0] + x[:_COMMON] @ columns
    return FlightFit(
        scale=1.0 + float(x[0]),
        scale_error=math.sqrt(inverse[0, 0]),
        scale_noise=noise,
        flight_ps=float(np.average(columns[0][used], weights=weight)),
        walk_ps=float(x[1]),
        walk_error=math.hypot(math.sqrt(inverse[1, 1]), WALK_MODEL_PS),
        depth_mm=(float(x[2]), float(x[3])),
        depth_error=(math.sqrt(inverse[2, 2]), math.sqrt(inverse[3, 3])),
        module_ps=offset,
        module_error=np.where(main, error, np.nan),
        component=component,
        by_module=problem.by_module(x, residual, weight, sigma, inverse[0, 0]),
        left_ps=np.asarray(pairs.dt_ps - model),
        sigma_ps=sigma,
        share=float(weight.sum() / weight.size),
        pairs=float(weight.sum()),
        p_value=p_value,
    )


def _connected(
    beta: NDArray[np.int64], gamma: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Groups of modules by pairs in both directions, the largest 0 and lone modules -1; and pairs inside group 0."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    count = np.bincount(beta * n + gamma, minlength=n * n).reshape(n, n)
    both = (count >= MIN_DIRECTION) & (count.T >= MIN_DIRECTION)
    _, label = connected_components(csr_array(both.astype(np.int8)), directed=False)
    found = np.full(n, -1, np.int64)
    size = np.bincount(label)
    groups = [g for g in np.argsort(-size, kind="stable") if size[g] > 1]
    for number, group in enumerate(groups):
        found[label == group] = number
    return found, (found[beta] == 0) & (found[gamma] == 0) & both[beta, gamma]


def _paths(
    pairs: BetaGammaPairs,
    topology: Topology,
    line: NDArray[np.int64],
    material: Material | None,
    length_mm: float | None,
) -> _Paths:
    xyz, normal = topology.xyz_mm.astype(np.float64), outward(topology)
    from_, to = xyz[pairs.beta], xyz[pairs.gamma]
    out_from, out_to = normal[pairs.beta], normal[pairs.gamma]
    way = to - from_
    distance = np.linalg.norm(way, axis=1)
    way /= distance[:, None]
    if material is not None and length_mm:
        lower, upper = (mu * material.density_g_cm3 / 10.0 for mu in material.attenuation_cm2_g)
        share = np.where(line == 0, 1.0 - SCATTERED, 0.0)
        ends = []
        for point, out, towards in (
            (from_, out_from, np.abs(np.sum(way * out_from, axis=1))),
            (to, out_to, np.abs(np.sum(way * out_to, axis=1))),
        ):
            slope = np.maximum(towards, 0.1)
            depth = share * mean_depth_mm(lower / slope, length_mm)
            depth += (1.0 - share) * mean_depth_mm(upper / slope, length_mm)
            ends.append(point + out * (depth - 0.5 * length_mm)[:, None])
        way = ends[1] - ends[0]
        distance = np.linalg.norm(way, axis=1)
        way /= distance[:, None]
    return _Paths(distance, np.sum(way * out_to, axis=1) - np.sum(way * out_from, axis=1))


@dataclass(frozen=True, slots=True)
class _Problem:
    """Pairs of the connected modules.

    columns: (_COMMON, n) of what all share; y: dt minus expected flight; beta, gamma: modules; line: 0 or 1.
    """

    columns: NDArray[np.float64]
    y: NDArray[np.float64]
    beta: NDArray[np.int64]
    gamma: NDArray[np.int64]
    line: NDArray[np.int64]
    n_modules: int

    def solve(
        self, prior: NDArray[np.float64], flat: float
    ) -> tuple[
        NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float
    ]:
        """Unknowns (_COMMON + n_modules), sigma and share by line, weights, covariance, counting noise of scale."""
        x = np.zeros(_COMMON + self.n_modules)
        x[_COMMON:] = self._start()
        sigma, share = np.full(2, _WIDE_PS[0]), np.full(2, 0.8)
        inverse: NDArray[np.float64] = np.eye(x.size)
        noise = 0.0
        weight = np.ones(self.y.size)
        for round_ in range(_ROUNDS):
            residual = self.residual(x)
            wide = _WIDE_PS[round_] if round_ < len(_WIDE_PS) else 0.0
            width = np.maximum(sigma, wide)[self.line]
            peak = share[self.line] * np.exp(-0.5 * (residual / width) ** 2) / (width * math.sqrt(2.0 * math.pi))
            weight = peak / (peak + (1.0 - share[self.line]) * flat)
            total = np.maximum(np.bincount(self.line, weights=weight, minlength=2), 1e-9)
            count = np.maximum(np.bincount(self.line, minlength=2), 1)
            squares = np.bincount(self.line, weights=weight * residual**2, minlength=2)
            sigma = np.maximum(np.sqrt(squares / total), 1.0)
            share = np.clip(total / count, 0.01, 0.9999)
            normal, right = self._normal(weight / sigma[self.line] ** 2, residual)
            data = normal.copy()
            normal[range(_COMMON), range(_COMMON)] += prior
            right[:_COMMON] -= prior * x[:_COMMON]
            # Only differences of offsets are seen: the constant, and modules without pairs, are pinned to zero.
            pin = np.zeros(x.size)
            pin[_COMMON:] = 1.0 / math.sqrt(self.n_modules)
            strength = float(np.trace(normal[_COMMON:, _COMMON:])) / self.n_modules + 1e-12
            silent = np.diag(normal) <= 0.0
            normal += strength * np.outer(pin, pin)
            normal[silent, silent] += strength
            inverse = np.asarray(np.linalg.inv(normal), np.float64)
            step = inverse @ right
            x = x + step
            if round_ >= len(_WIDE_PS) and float(np.abs(step[_COMMON:]).max()) < _SETTLED_PS and abs(step[0]) < 1e-6:
                # What a known walk and depth would leave: the noise of the counts alone.
                noise = 1.0 / math.sqrt(max(data[0, 0], 1e-12))
                break
        else:
            raise FitFailedError("the fit of flight times does not converge")
        return x, sigma, share, weight, inverse, noise

    def residual(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Dt without all that is fitted."""
        return np.asarray(self.y - x[:_COMMON] @ self.columns - x[_COMMON + self.gamma] + x[_COMMON + self.beta])

    def by_module(
        self,
        x: NDArray[np.float64],
        residual: NDArray[np.float64],
        weight: NDArray[np.float64],
        sigma: NDArray[np.float64],
        common: float,
    ) -> tuple[ModuleScale, ...]:
        """Scale of the pairs of each module, its offset being its own."""
        found = []
        w, r = weight / sigma[self.line] ** 2, self.columns[0]
        for module in range(self.n_modules):
            mine = (self.beta == module) | (self.gamma == module)
            information = float(np.sum(w[mine] * r[mine] ** 2))
            if information <= 0.0:
                found.append(ModuleScale(math.nan, math.nan, 0.0))
                continue
            more = float(np.sum(w[mine] * r[mine] * residual[mine])) / information
            found.append(
                ModuleScale(1.0 + float(x[0]) + more, math.sqrt(1.0 / information + common), float(weight[mine].sum()))
            )
        return tuple(found)

    def _normal(
        self, w: NDArray[np.float64], residual: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        n = self.n_modules
        normal, right = np.zeros((_COMMON + n, _COMMON + n)), np.zeros(_COMMON + n)
        for i in range(_COMMON):
            wi = w * self.columns[i]
            right[i] = wi @ residual
            for j in range(i + 1):
                normal[i, j] = normal[j, i] = float(wi @ self.columns[j])
            border = np.bincount(self.gamma, wi, n) - np.bincount(self.beta, wi, n)
            normal[i, _COMMON:] = normal[_COMMON:, i] = border
        joint = np.bincount(self.beta * n + self.gamma, w, n * n).reshape(n, n)
        joint += joint.T
        normal[_COMMON:, _COMMON:] = np.diag(joint.sum(axis=1)) - joint
        wr = w * residual
        right[_COMMON:] = np.bincount(self.gamma, wr, n) - np.bincount(self.beta, wr, n)
        return normal, right

    def _start(self) -> NDArray[np.float64]:
        """Offsets of modules from the medians of the two directions of every pair of modules."""
        n = self.n_modules
        key = self.beta * n + self.gamma
        order = np.argsort(key, kind="stable")
        names, first = np.unique(key[order], return_index=True)
        median = np.full((n, n), np.nan)
        for name, part in zip(names, np.split(self.y[order], first[1:]), strict=True):
            median[name // n, name % n] = float(np.median(part))
        half = 0.5 * (median - median.T)  # of beta i, gamma j: o_j - o_i
        i, j = np.nonzero(np.triu(np.isfinite(half), 1))
        rows = np.zeros((i.size + 1, n))
        rows[np.arange(i.size), j], rows[np.arange(i.size), i] = 1.0, -1.0
        rows[-1] = 1.0
        found, *_ = np.linalg.lstsq(rows, np.append(half[i, j], 0.0), rcond=None)
        return np.asarray(found)


def _goodness(
    residual: NDArray[np.float64], sigma: NDArray[np.float64], share: NDArray[np.float64], window_ps: float
) -> float:
    """Goodness of the residuals' shape in half standard deviations, out to three."""
    from scipy.special import ndtr

    edges = np.linspace(-3.0, 3.0, 13)
    counts = np.histogram(residual / sigma, edges)[0].astype(np.float64)
    peak = np.diff(ndtr(edges)) * float(share.sum())
    flat = np.diff(edges) * float(np.sum((1.0 - share) * sigma)) / window_ps
    return pearson_p_value(counts, peak + flat, 4, SHAPE_TOLERANCE)[1]


def spread_ps(values: NDArray[np.float64]) -> float:
    """RMS of the bulk of offsets."""
    return robust_spread(values[np.isfinite(values)])
