"""Charge calibration: pulses of known length, and the code of every integrator against the time it integrated.

Without charge the integrator sees its baseline current alone; the code after t clocks is a polynomial of t, whose order
the data choose. Later the charge of a hit is the time that the baseline would have needed on top for the same code.

Source: TOFPET2 interface reference (vendor software revision 194662e), sections 4.5 and 7.2.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.polynomial import Polynomial, chebyshev

from petqc.calibrate import Calibration
from petqc.calibrate.event_groups import Groups, group_events
from petqc.calibrate.outcome import column, refusal_notes, refused, summary
from petqc.calibrate.tdc import FRAME_CLK
from petqc.calibration.charge_kernels import N_COEFFICIENTS
from petqc.calibration.tdc import interval_of_code
from petqc.errors import BadInputError
from petqc.formats.petsys_tables import BRANCH_T, TABLES, absolute_of, set_address
from petqc.limits import Limits
from petqc.statistics import SIGMA_OF_MAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import EventPoint

LONGEST_CLK: Final = 429
GLOBAL_FIELDS: Final = {"imirror_bias_top": 23}
CHANNEL_FIELDS: Final = {"min_intg_time": 0, "max_intg_time": 127}
"""ASIC fields during the scan. Source: interface reference, section 7.2."""

_WRAP_BELOW_CLK = -256
_HIGHEST_ORDER = 8
_LOWEST_ORDER = 2
_MIN_POINTS = 16
_MIN_RANGE_CLK = 100.0
"""A curve that is known over less than this does not reach the photopeak."""
_SATURATION_MARGIN_CODES = 12.0
_HIGHEST_CODE = 1023.0 - _SATURATION_MARGIN_CODES
_ROUNDING_VARIANCE = 1.0 / 12.0
_OUTLIER_SIGMA = 6.0
_PASSES = 3
_STRAY = 0.2
"""A group with fewer hits than this share of a usual one is none of the pulse's."""
_GRID = 257
"""Places of the range at which a curve is looked at."""

RESIDUAL = Limits(warn_high=0.3, fail_high=1.5)
CHI2 = Limits(warn_high=3.0)
METHOD = "weighted least squares of mean code against integrated time, order by the Bayesian information criterion"


@dataclass(frozen=True, slots=True)
class ChargePlan:
    """Which pulses to take: lengths from 0 to LONGEST_CLK by `length_step`, each at one of `phases` phases in turn."""

    length_step: int = 7
    phases: int = 3
    hits_per_tac: int = 32
    interval_clk: int = FRAME_CLK

    def __post_init__(self) -> None:
        if not 1 <= self.length_step <= LONGEST_CLK // _MIN_POINTS or self.phases < 1 or self.hits_per_tac < 1:
            raise BadInputError(
                f"plan of lengths in steps of {self.length_step}, {self.phases} phases, {self.hits_per_tac} hits each",
                do=f"take steps of 1 to {LONGEST_CLK // _MIN_POINTS} clocks",
            )

    def points(self) -> list[tuple[int, float]]:
        """Length and phase of each pulse, in clocks; a pulse has at least one clock."""
        lengths = range(0, LONGEST_CLK + 1, self.length_step)
        return [(max(length, 1), (i % self.phases) / self.phases) for i, length in enumerate(lengths)]

    @property
    def frames_per_point(self) -> int:
        """Frames to take at a point; a channel uses its four TACs in turn."""
        return 4 * self.hits_per_tac * self.interval_clk // FRAME_CLK


VENDOR_PLAN: Final = ChargePlan(length_step=1, phases=3, hits_per_tac=976)
"""As fine as the readout maker's own acquisition; one phase a length, where that one takes one or two of three."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """Curve of one TAC: coefficients p, range of times it holds for, rms of the points around it in clocks.

    error_clk: standard error of a time, rms over the range. chi2: of the points, per degree of freedom; points: how
    many there are.
    """

    p: NDArray[np.float64]
    high_clk: float
    residual_clk: float
    error_clk: float
    chi2: float
    points: int
    order: int


def fit(points: Sequence[EventPoint], channels: NDArray[np.int32], tdc: NDArray[Any]) -> Calibration:
    """Integrator curves of all TACs of these channels.

    Args:
        points: step1 is the length and step2 the phase of the pulse, in clocks; taken in charge mode.
        channels: (n,) absolute channels that should have a calibration.
        tdc: time calibration, table as in `petqc.formats.petsys_tables`; without it no time was integrated for.

    Raises:
        BadInputError: there is no event at all.
    """
    channels = np.unique(np.asarray(channels, np.int32))
    groups = group_events(points, "E", both_coarse=True)
    if not groups.row.size:
        raise BadInputError("there are no events", do="check that the test pulse reached the channels")
    time_clk, timed = integrated_clk(groups, tdc)
    known = np.isin(groups.row >> 2, channels)
    curves: dict[int, _Curve] = {}
    reasons: dict[int, str] = {}
    hits = np.zeros(channels.size, np.int64)
    order = np.argsort(groups.row[known], kind="stable")
    row, t, timed = groups.row[known][order], time_clk[known][order], timed[known][order]
    mean, n, m2 = groups.mean[known][order], groups.n[known][order].astype(np.float64), groups.m2[known][order]
    edges = np.searchsorted(row, (4 * channels.astype(np.int64)[:, None] + np.arange(5)).reshape(-1)).reshape(-1, 5)
    for place, limits in enumerate(edges):
        hits[place] = min(int(n[a:b].sum()) for a, b in itertools.pairwise(limits))
        for tac, (a, b) in enumerate(itertools.pairwise(limits)):
            found = _fit_row(t[a:b], mean[a:b], n[a:b], m2[a:b])
            if isinstance(found, str):
                missing = b > a and not timed[a:b].any()
                reasons.setdefault(place, "no time calibration" if missing else found)
            else:
                curves[4 * place + tac] = found
    good = np.setdiff1d(np.arange(channels.size), list(reasons))
    residual, error, high, of_order, chi2, freedom = (np.full(channels.size, np.nan) for _ in range(6))
    for place in good:
        mine = [curves[4 * int(place) + tac] for tac in range(4)]
        residual[place] = math.sqrt(sum(c.residual_clk**2 for c in mine) / 4)
        error[place] = math.sqrt(sum(c.error_clk**2 for c in mine) / 4)
        chi2[place] = sum(c.chi2 for c in mine) / 4
        freedom[place] = sum(c.points - c.order - 1 for c in mine)
        high[place] = min(c.high_clk for c in mine)
        of_order[place] = max(c.order for c in mine)
    none, of_rms = np.zeros(channels.size), 1.0 / np.sqrt(2.0 * freedom)
    columns = [
        column("charge_residual", "clk", residual, residual * of_rms, hits, RESIDUAL, reasons),
        column("charge_error", "clk", error, error * of_rms, hits, Limits(), reasons),
        column("charge_chi2", "", chi2, 2.0 * of_rms, hits, CHI2, reasons),
        column("charge_range", "clk", high, none, hits, Limits(warn_low=_MIN_RANGE_CLK * 1.5), reasons),
        column("charge_order", "", of_order, none, hits, Limits(), reasons),
    ]
    results = [refused("charge", channels, reasons)]
    results += summary(columns[0], channels, limits=RESIDUAL, asic_limits=RESIDUAL, method=METHOD)
    for one, allowed in zip(columns[1:4], (Limits(), CHI2, Limits()), strict=True):
        results += summary(one, channels, limits=allowed, asic_limits=allowed, method=METHOD)
    table = _table(curves, channels, good)
    return Calibration("charge", {"qdc": table}, channels, results, columns, notes=refusal_notes("charge", reasons))


def integrated_clk(groups: Groups, tdc: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Integrated time of each group in clocks, NaN without a time calibration; and whether it has one."""
    early = interval_clk(groups.row, groups.other, tdc)
    coarse = groups.e_coarse - groups.t_coarse
    return np.where(coarse < _WRAP_BELOW_CLK, coarse + FRAME_CLK, coarse) + early, np.isfinite(early)


def interval_clk(row: NDArray[np.int64], code: NDArray[np.float64], tdc: NDArray[Any]) -> NDArray[np.float64]:
    """How long before its coarse count of the T branch a hit was, in clocks; NaN without a time calibration.

    Args:
        row: (n,) absolute channel * 4 + TAC.
        code: (n,) decoded fine code of the T branch.
        tdc: time calibration, table as in `petqc.formats.petsys_tables`.
    """
    lines = tdc[(tdc["branch"] == BRANCH_T) & (tdc["a1"] != 0)]
    found, known = lines_of(row, lines)
    early = np.full(row.size, np.nan)
    if known.any():
        mine = found[known]
        q = interval_of_code(code[known].astype(np.float32), *(mine[k].astype(np.float32) for k in ("a0", "a1", "a2")))
        early[known] = q.astype(np.float64) + mine["t0"]
    return early


def lines_of(row: NDArray[np.int64], table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The line of a table for each channel and TAC, (n,), and whether there is one: those without have any line.

    Args:
        row: (n,) absolute channel * 4 + TAC.
        table: with one line for each channel and TAC.
    """
    if not table.size:
        return np.zeros(row.size, table.dtype), np.zeros(row.size, bool)
    rows = absolute_of(table).astype(np.int64) << 2 | table["tac"]
    sort = np.argsort(rows)
    place = sort[np.minimum(np.searchsorted(rows[sort], row), rows.size - 1)]
    return table[place], rows[place] == row


def _fit_row(
    t: NDArray[np.float64], mean: NDArray[np.float64], n: NDArray[np.float64], m2: NDArray[np.float64]
) -> _Curve | str:
    """The curve of one TAC, or why there is none."""
    use = np.isfinite(t) & (t >= 0.0) & (t <= LONGEST_CLK + 4.0)
    t, mean, n, m2 = t[use], mean[use], n[use], m2[use]
    if not t.size:
        return "no hits"
    # Pulses come again and again at the same two counts; what is far rarer than where the median hit lies is stray.
    order = np.argsort(n)
    usual = n[order][np.searchsorted(np.cumsum(n[order]), 0.5 * n.sum())]
    t, mean, n, m2 = (values[n >= _STRAY * usual] for values in (t, mean, n, m2))
    below = mean < min(_HIGHEST_CODE, float(mean.max()) - _SATURATION_MARGIN_CODES)
    # Codes of a pulse are all rounded alike, so a point is no better than a rounding however many hits it has.
    variance = (m2 / np.maximum(n - 1.0, 1.0) / n + _ROUNDING_VARIANCE)[below]
    t, mean = t[below], mean[below]
    found = _curve_through(t, mean, variance)
    use = np.ones(t.size, np.bool_)
    for _ in range(_PASSES):
        if isinstance(found, str):
            break
        residual = np.abs(mean - np.polynomial.polynomial.polyval(t, found.p))
        # A curve that no polynomial follows has residuals everywhere: those are told, not left out.
        spread = SIGMA_OF_MAD * float(np.median(residual))
        inside = residual <= _OUTLIER_SIGMA * np.sqrt(variance + spread**2)
        if (inside == use).all():
            break
        use = inside
        found = _curve_through(t[use], mean[use], variance[use])
    return found


def _curve_through(t: NDArray[np.float64], mean: NDArray[np.float64], variance: NDArray[np.float64]) -> _Curve | str:
    if t.size < _MIN_POINTS:
        return "too few lengths with hits"
    high = float(t.max())
    if high - float(t.min()) < _MIN_RANGE_CLK:
        return f"only {high - float(t.min()):.0f} clocks of integration below saturation"
    c, order = _best_order(2.0 * t / high - 1.0, mean, 1.0 / variance)
    chi2 = float(((mean - chebyshev.chebval(2.0 * t / high - 1.0, c)) ** 2 / variance).sum()) / max(
        t.size - order - 1, 1
    )
    p = Polynomial(chebyshev.cheb2poly(c), domain=[0.0, high], window=[-1.0, 1.0]).convert().coef.astype(np.float64)
    slope = np.polynomial.polynomial.polyval(np.linspace(0.0, high, _GRID), np.arange(1.0, p.size) * p[1:])
    if not (slope > 0).all():
        return "the curve does not rise"
    squares = float(((mean - np.polynomial.polynomial.polyval(t, p)) ** 2).sum())
    residual_clk = math.sqrt(squares / max(t.size - order - 1, 1)) / float(slope[_GRID // 2])
    code_error = _standard_error(2.0 * t / high - 1.0, 1.0 / variance, order) * math.sqrt(max(chi2, 1.0))
    error_clk = math.sqrt(float(((code_error / slope) ** 2).mean()))
    p = np.pad(p, (0, N_COEFFICIENTS - p.size))
    return _Curve(p, high, residual_clk, error_clk, chi2, t.size, order)


def _standard_error(s: NDArray[np.float64], w: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Of the curve's codes at _GRID even places of the range, (_GRID,)."""
    design = chebyshev.chebvander(s, order) * np.sqrt(w)[:, None]
    upper = np.linalg.qr(design)[1]
    at = chebyshev.chebvander(np.linspace(-1.0, 1.0, _GRID), order)
    half = np.linalg.solve(upper.T, at.T)
    return np.asarray(np.sqrt((half**2).sum(axis=0)))


def _best_order(
    s: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """Chebyshev coefficients of the order with the least chi² + k ln n."""
    root = np.sqrt(w)
    columns = chebyshev.chebvander(s, _HIGHEST_ORDER) * root[:, None]
    tried: list[tuple[float, int, NDArray[np.float64]]] = []
    for order in range(_LOWEST_ORDER, min(_HIGHEST_ORDER, s.size // 4) + 1):
        c = np.asarray(np.linalg.lstsq(columns[:, : order + 1], y * root)[0], np.float64)
        chi2 = float(((y * root - columns[:, : order + 1] @ c) ** 2).sum())
        tried.append((chi2 + (order + 1) * math.log(s.size), order, c))
    _, order, c = min(tried, key=lambda one: one[0])
    return c, order


def _table(curves: dict[int, _Curve], channels: NDArray[np.int32], good: NDArray[np.int64]) -> NDArray[np.void]:
    table = np.zeros(4 * good.size, TABLES["qdc"].dtype)
    set_address(table, np.repeat(channels[good], 4))
    table["tac"] = np.tile(np.arange(4), good.size)
    if good.size:
        p = np.stack([curves[4 * int(place) + tac].p for place in good for tac in range(4)])
        for k in range(N_COEFFICIENTS):
            table[f"p{k}"] = p[:, k]
    return table
