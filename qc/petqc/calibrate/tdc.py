"""Time calibration: test pulses at known phases of the clock, and the curve of every interpolator through their codes.

A pulse at phase p is latched at a coarse count c after the interval q = c - T - t0, between 0.5 and 1.5 clocks, and the
interpolator answers a0 + a1 q + a2 q². Which part of a shift is called t0 and which a0 is a convention: here as in the
readout maker's tables q lies in 0.5 .. 1.5, and the mean of t0 over a branch is zero.

Source: TOFPET2 interface reference (vendor software revision 194662e), sections 4.3, 5.4 and 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibrate import Calibration
from petqc.calibrate.event_groups import Groups, group_events
from petqc.calibrate.outcome import column, refusal_notes, refused, summary
from petqc.errors import BadInputError
from petqc.formats.petsys_tables import BRANCH_E, BRANCH_T, TABLES, set_address
from petqc.limits import Limits
from petqc.statistics import SIGMA_OF_MAD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import EventPoint
    from petqc.calibrate.event_groups import Branch

CLOCK_PS: Final = 5000.0
FRAME_CLK: Final = 1024

_ONE_COARSE = 0.995
"""A point at which more than the rest is latched one count later is at the edge, where the mean code is that of the
pulses which came early or late: it is left out (what remains biases the mean by less than 0.02 of the jitter)."""
_STRAY = 0.2
"""A point with fewer hits than this share of a row's median point is none of the pulse's."""
_MIN_POINTS = 10
_MIN_COVERED = 0.5
"""Half of the points must have hits, as the readout maker asks too."""
_SLOPE_CODES = (100.0, 256.0)
"""a1 outside this is no interpolator. Source: interface reference, section 7.1."""
_HIGHEST_A2 = -0.01
_RANGE_CLK = 1.05
"""The intervals of one interpolator span one clock; more means that its hits do not belong to one pulse."""
_ROUNDING_VARIANCE = 1.0 / 12.0
_OUTLIER_SIGMA = 6.0
_PASSES = 3

RESIDUAL = Limits(warn_high=12.0, fail_high=50.0)
STEP = Limits(15.0, 18.0, 40.0, 50.0)
INL = Limits(warn_high=25.0, fail_high=100.0)
CHI2 = Limits(warn_high=3.0)
COVERED = Limits(warn_low=80.0)
"""Warnings of single channels: the curve is not that of the points, or points are missing."""
METHOD = "weighted least squares of mean code against phase, per TAC and branch"


@dataclass(frozen=True, slots=True)
class TdcPlan:
    """Which pulses to take.

    phases: points over `span_clk` clocks, at half steps. hits_per_tac: wanted at each point. length_clk, interval_clk:
    of the pulse; an interval of one frame puts the pulse at the same place of each.
    """

    phases: int = 51
    span_clk: float = 2.0
    hits_per_tac: int = 64
    length_clk: int = 100
    interval_clk: int = FRAME_CLK

    def __post_init__(self) -> None:
        if self.phases < 2 * _MIN_POINTS or not 1.0 <= self.span_clk <= 8.0 or self.hits_per_tac < 1:
            raise BadInputError(
                f"plan of {self.phases} phases over {self.span_clk} clocks, {self.hits_per_tac} hits each",
                do=f"take {2 * _MIN_POINTS} phases or more over 1 to 8 clocks",
            )

    def points(self) -> list[float]:
        """Phases in clocks, rising."""
        return [(i + 0.5) * self.span_clk / self.phases for i in range(self.phases)]

    @property
    def frames_per_point(self) -> int:
        """Frames to take at a point; a channel uses its four TACs in turn."""
        return 4 * self.hits_per_tac * self.interval_clk // FRAME_CLK


VENDOR_PLAN: Final = TdcPlan(phases=165, span_clk=8.0, hits_per_tac=976)
"""What the readout maker's own acquisition takes."""


@dataclass(frozen=True, slots=True)
class _Curves:
    """Fitted curves of one branch; (rows,) each, NaN where there is none.

    c: (rows, 3) coefficients of the code in u = q - 1. t0: clocks, not centred. error_ps: standard error of a time,
    over the range. residual_ps: rms of the points around the curve; inl_ps: the largest deviation of a running mean of
    three of them, which is the interpolator's own and not that of one point. chi2: of the points, per degree of
    freedom. covered: share of the points that were used.
    """

    c: NDArray[np.float64]
    t0: NDArray[np.float64]
    error_ps: NDArray[np.float64]
    residual_ps: NDArray[np.float64]
    inl_ps: NDArray[np.float64]
    chi2: NDArray[np.float64]
    covered: NDArray[np.float64]
    hits: NDArray[np.int64]
    reasons: dict[int, str]


def fit(points: Sequence[EventPoint], channels: NDArray[np.int32]) -> Calibration:
    """Interpolator curves of all TACs of these channels.

    Args:
        points: step1 is the phase in clocks; taken in time-over-threshold mode, so that both branches are times.
        channels: (n,) absolute channels that should have a calibration.

    Raises:
        BadInputError: there is no event at all.
    """
    channels = np.unique(np.asarray(channels, np.int32))
    curves: dict[int, _Curves] = {}
    names: tuple[tuple[int, Branch], ...] = ((BRANCH_T, "T"), (BRANCH_E, "E"))
    for branch, name in names:
        groups = group_events(points, name, both_coarse=False)
        if not groups.row.size:
            raise BadInputError("there are no events", do="check that the test pulse reached the channels")
        coarse = groups.t_coarse if name == "T" else groups.e_coarse
        curves[branch] = _fit_branch(groups, coarse, channels)
    reasons = _reasons(curves)
    good = np.ones(channels.size, bool)
    good[list(reasons)] = False
    table = _table(curves, channels, good)
    residual = _rms([c.residual_ps for c in curves.values()])
    error = _rms([c.error_ps for c in curves.values()])
    inl = np.max([c.inl_ps.reshape(-1, 4).max(axis=1) for c in curves.values()], axis=0)
    chi2 = np.mean([c.chi2.reshape(-1, 4).mean(axis=1) for c in curves.values()], axis=0)
    covered = np.min([c.covered.reshape(-1, 4).min(axis=1) for c in curves.values()], axis=0)
    hits = np.minimum(*(c.hits.reshape(-1, 4).min(axis=1) for c in curves.values()))
    freedom = np.maximum(8.0 * (covered * len({p.step1 for p in points}) - 3.0), 1.0)
    of_rms = 1.0 / np.sqrt(2.0 * freedom)
    step = CLOCK_PS / curves[BRANCH_T].c[:, 1].reshape(-1, 4)
    columns = [
        column("tdc_residual", "ps", residual, residual * of_rms, hits, RESIDUAL, reasons),
        column("tdc_error", "ps", error, error * of_rms, hits, Limits(), reasons),
        column("tdc_step", "ps", step.mean(axis=1), step.std(axis=1) / 2.0, hits, STEP, reasons),
        column("tdc_inl", "ps", inl, residual / np.sqrt(3.0), hits, INL, reasons),
        column("tdc_chi2", "", chi2, np.sqrt(2.0 / freedom), hits, CHI2, reasons),
        column("tdc_covered", "%", 100.0 * covered, np.zeros(channels.size), hits, COVERED, reasons),
    ]
    results = [refused("tdc", channels, reasons)]
    results += summary(columns[0], channels, limits=RESIDUAL, asic_limits=RESIDUAL, method=METHOD)
    results += summary(columns[1], channels, limits=Limits(), asic_limits=Limits(), method=METHOD)
    results += summary(columns[2], channels, limits=STEP, asic_limits=STEP, method=METHOD)
    results += summary(columns[3], channels, limits=INL, asic_limits=INL, method=METHOD)
    results += summary(columns[4], channels, limits=CHI2, asic_limits=CHI2, method=METHOD)
    return Calibration("tdc", {"tdc": table}, channels, results, columns, notes=refusal_notes("tdc", reasons))


def _fit_branch(groups: Groups, coarse: NDArray[np.int64], channels: NDArray[np.int32]) -> _Curves:
    n_rows = 4 * channels.size
    place = np.searchsorted(channels, groups.row >> 2)
    known = (place < channels.size) & (channels[np.minimum(place, channels.size - 1)] == groups.row >> 2)
    groups, coarse, place = groups.take(known), coarse[known], place[known]
    row = 4 * place + (groups.row & 3)
    hits = np.bincount(row, groups.n, n_rows).astype(np.int64)
    phases, phase = np.unique(groups.step1, return_inverse=True)
    chosen = _one_of_each_cell(row * phases.size + phase, groups.n, coarse)
    chosen = chosen[_is_of_a_pulse(row[chosen], groups.n[chosen], n_rows)]
    row, x, n = row[chosen], coarse[chosen] - groups.step1[chosen], groups.n[chosen].astype(np.float64)
    mean, m2 = groups.mean[chosen], groups.m2[chosen]
    # A count near the end of a frame and one near its beginning are neighbours.
    x -= FRAME_CLK * np.round((x - np.median(x)) / FRAME_CLK) if x.size else 0.0
    points = np.bincount(row, minlength=n_rows)
    low, high = _range(row, x, n_rows)
    t0 = 0.5 * (low + high) - 1.0
    u = x - t0[row] - 1.0
    variance = np.maximum(
        np.bincount(row, m2, n_rows) / np.maximum(np.bincount(row, n - 1.0, n_rows), 1.0), _ROUNDING_VARIANCE
    )
    use, residual = np.ones(row.size, bool), np.zeros(row.size)
    c = np.full((n_rows, 3), np.nan)
    covariance = np.full((n_rows, 3, 3), np.nan)
    for _ in range(_PASSES):
        c, covariance = _quadratics(row[use], u[use], mean[use], n[use] / variance[row[use]], n_rows)
        residual = mean - _code(c[row], u)
        # A curve that is no parabola has residuals everywhere: those are told, not left out like a stray point's.
        spread = SIGMA_OF_MAD * _median_of_rows(row, np.abs(residual), n_rows)
        sigma = np.sqrt(variance[row] / n + _ROUNDING_VARIANCE + spread[row] ** 2)
        outside = ~(np.abs(residual) <= _OUTLIER_SIGMA * sigma)
        if (outside == ~use).all():
            break
        use = ~outside
    slope = c[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.bincount(row[use], (residual[use] / slope[row[use]]) ** 2, n_rows)
        used = np.bincount(row[use], minlength=n_rows)
        residual_ps = CLOCK_PS * np.sqrt(squares / np.maximum(used - 3, 1))
        chi2 = np.bincount(row[use], (n / variance[row] * residual**2)[use], n_rows) / np.maximum(used - 3, 1)
        inl_ps = CLOCK_PS * _largest_running_mean(row[use], u[use], residual[use], n_rows) / np.abs(slope)
        # Mean over u in -0.5 .. 0.5 of the variance of the curve.
        v = covariance
        of_code = v[:, 0, 0] + (2 * v[:, 0, 2] + v[:, 1, 1]) / 12.0 + v[:, 2, 2] / 80.0
        # Where the points lie further from the curve than their spread allows, so may the curve from the truth.
        error_ps = CLOCK_PS * np.sqrt(of_code * np.maximum(chi2, 1.0)) / np.abs(slope)
    reasons: dict[int, str] = {}
    for i in range(n_rows):
        why = _why_not(hits[i], points[i], phases.size, high[i] - low[i], c[i])
        if why:
            reasons[i] = why
    return _Curves(c, t0, error_ps, residual_ps, inl_ps, chi2, used / phases.size, hits, reasons)


def _why_not(hits: int, points: int, n_points: int, width: float, c: NDArray[np.float64]) -> str:
    if hits == 0:
        return "no hits"
    if points < max(_MIN_POINTS, _MIN_COVERED * n_points):
        return "hits at too few phases"
    if width > _RANGE_CLK:
        return "hits do not follow the pulse"
    if not np.isfinite(c).all() or not _SLOPE_CODES[0] <= c[1] <= _SLOPE_CODES[1]:
        return "the slope is not that of an interpolator"
    return ""


def _one_of_each_cell(cell: NDArray[np.int64], n: NDArray[np.int64], coarse: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of the largest group of each cell, for the cells in which it is nearly all of its neighbourhood.

    Hits further away than one count are no pulses, and say nothing about the edge.
    """
    order = np.lexsort((-n, cell))
    first = np.ones(order.size, bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    largest = order[first]
    of_largest = np.zeros(int(cell.max(initial=-1)) + 1, np.int64)
    of_largest[cell[largest]] = coarse[largest]
    far = np.abs(coarse - of_largest[cell])
    is_near = np.minimum(far, FRAME_CLK - far) <= 1
    total = np.bincount(cell, n * is_near, minlength=of_largest.size)
    return largest[n[largest] >= _ONE_COARSE * total[cell[largest]]]


def _median_of_rows(
    row: NDArray[np.int64], value: NDArray[np.int64] | NDArray[np.float64], n_rows: int
) -> NDArray[np.float64]:
    """Upper median of each row's values; 0 where there are none."""
    order = np.lexsort((value, row))
    begin = np.searchsorted(row[order], np.arange(n_rows + 1))
    found = np.zeros(n_rows)
    there = begin[1:] > begin[:-1]
    found[there] = value[order][(begin[:-1] + begin[1:])[there] // 2]
    return found


def _is_of_a_pulse(row: NDArray[np.int64], n: NDArray[np.int64], n_rows: int) -> NDArray[np.bool_]:
    """Which points have hits as a row's points have them; a point without a pulse has stray hits only."""
    usual = _median_of_rows(row, n, n_rows)
    return np.asarray(n >= _STRAY * usual[row])


def _largest_running_mean(
    row: NDArray[np.int64], u: NDArray[np.float64], residual: NDArray[np.float64], n_rows: int
) -> NDArray[np.float64]:
    """Of each row, the largest size of the mean of three neighbouring residuals; 0 where there are not three."""
    order = np.lexsort((u, row))
    row, residual = row[order], residual[order]
    largest = np.zeros(n_rows)
    if row.size >= 3:
        mean = np.abs(residual[:-2] + residual[1:-1] + residual[2:]) / 3.0
        same = row[:-2] == row[2:]
        np.maximum.at(largest, row[:-2][same], mean[same])
    return largest


def _range(row: NDArray[np.int64], x: NDArray[np.float64], n_rows: int) -> tuple[NDArray[np.float64], ...]:
    low, high = np.full(n_rows, np.inf), np.full(n_rows, -np.inf)
    np.minimum.at(low, row, x)
    np.maximum.at(high, row, x)
    empty = low > high
    low[empty], high[empty] = 0.0, 0.0
    return low, high


def _quadratics(
    row: NDArray[np.int64], u: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], n_rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted least squares y = c0 + c1 u + c2 u² of every row, c2 no more than the tables allow."""
    s = [np.bincount(row, w * u**k, n_rows) for k in range(5)]
    r = [np.bincount(row, w * y * u**k, n_rows) for k in range(3)]
    normal = np.stack([np.stack([s[i + j] for j in range(3)], axis=-1) for i in range(3)], axis=-2)
    right = np.stack(r, axis=-1)
    c, covariance = np.full((n_rows, 3), np.nan), np.full((n_rows, 3, 3), np.nan)
    enough = np.bincount(row, minlength=n_rows) >= _MIN_POINTS
    enough[enough] = np.linalg.cond(normal[enough]) < 1e12
    if enough.any():
        covariance[enough] = np.linalg.inv(normal[enough])
        c[enough] = np.einsum("rij,rj->ri", covariance[enough], right[enough])
    flat = enough & (c[:, 2] > _HIGHEST_A2)
    if flat.any():
        two = normal[flat][:, :2, :2]
        rest = right[flat][:, :2] - _HIGHEST_A2 * normal[flat][:, :2, 2]
        c[flat, :2] = np.linalg.solve(two, rest[..., None])[..., 0]
        c[flat, 2] = _HIGHEST_A2
    return c, covariance


def _code(c: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(c[:, 0] + c[:, 1] * u + c[:, 2] * u * u)


def _reasons(curves: Mapping[int, _Curves]) -> dict[int, str]:
    """Position of a channel to the first thing that is wrong with any of its TACs: such a channel is left out."""
    found: dict[int, str] = {}
    for branch, name in ((BRANCH_T, "T"), (BRANCH_E, "E")):
        for row, why in curves[branch].reasons.items():
            found.setdefault(row // 4, f"{name} branch: {why}")
    return dict(sorted(found.items()))


def _rms(of_rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of each channel's TACs in both branches."""
    return np.asarray(np.sqrt((np.stack(of_rows).reshape(len(of_rows), -1, 4) ** 2).mean(axis=(0, 2))))


def _table(curves: Mapping[int, _Curves], channels: NDArray[np.int32], good: NDArray[np.bool_]) -> NDArray[np.void]:
    parts = []
    rows = np.repeat(good, 4)
    for branch, found in curves.items():
        part = np.zeros(int(rows.sum()), TABLES["tdc"].dtype)
        set_address(part, np.repeat(channels, 4)[rows])
        part["tac"] = np.tile(np.arange(4), channels.size)[rows]
        part["branch"] = branch
        c0, c1, c2 = (found.c[rows, k] for k in range(3))
        part["a0"], part["a1"], part["a2"] = c0 - c1 + c2, c1 - 2.0 * c2, c2
        t0 = found.t0[rows]
        part["t0"] = t0 - t0.mean() if t0.size else t0
        parts.append(part)
    table = np.concatenate(parts)
    return table[np.lexsort([table[name] for name in ("branch", "tac", "channel", "chip", "slave", "port")])]
