"""Breakdown voltage from a current-voltage curve that a source meter measured at an output.

With light, the breakdown is where ln I rises most steeply; in the dark, where the current leaves its straight leakage
as a parabola. Source: daily-qc.md §2h.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from petqc.calibrate.bias_outputs import Output, parse_output
from petqc.errors import BadInputError, FitFailedError, TooFewCountsError
from petqc.statistics import robust_spread

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MIN_POINTS = 20
_STEEP_PER_V = 2.5
"""A curve with light rises by this and more; dark ones by 1 /V at most."""
_WINDOW = 5
_SIGNIFICANT = 6.0
_ABOVE_V = 0.3
_BELOW_V = 5.0
_LINE_ABOVE_V = 1.2
_RELATIVE_NOISE = 0.01
_PARABOLA_V = 0.05
"""What the choice of the range moves a dark breakdown by, on the recorded curves that the tests read."""
_WORST_ERROR_V = 0.1
_AGREE_V = 0.15


@dataclass(frozen=True, slots=True)
class IvBreakdown:
    """Breakdown voltage from a current-voltage curve.

    volts, error_v: with one standard deviation. method: `steepest` (largest d ln I / dV) or `parabola` (current above
    the leakage). other_v: what the other way of the same data gives (steepest: where the inverse of the slope points),
    None where it cannot be said. n: points used.
    """

    volts: float
    error_v: float
    method: Literal["steepest", "parabola"]
    other_v: float | None
    n: int


def iv_breakdown(volts: NDArray[np.float64], amperes: NDArray[np.float64]) -> IvBreakdown:
    """Breakdown voltage of one curve, reverse voltage and current positive.

    Args:
        volts: (n,) in any order.
        amperes: (n,) currents; those that are not above zero are left out.

    Raises:
        TooFewCountsError: too few points.
        FitFailedError: the curve shows no breakdown, or one that cannot be trusted.
    """
    v, i = np.asarray(volts, np.float64), np.asarray(amperes, np.float64)
    good = np.isfinite(v) & np.isfinite(i) & (i > 0.0) & (v > 0.0)
    v, i = v[good], i[good]
    v, first = np.unique(v, return_index=True)
    i = i[first]
    if v.size < _MIN_POINTS:
        raise TooFewCountsError(f"{v.size} points with a current, at least {_MIN_POINTS} wanted")
    steep = _steepest(v, np.log(i))
    if steep is not None and steep[2] >= _STEEP_PER_V:
        at, error, _ = steep
        other = _inverse_slope(v, np.log(i), at)
        if other is not None and abs(other - at) > _AGREE_V:
            raise FitFailedError(
                f"ln I is steepest at {at:.2f} V and its slope points to {other:.2f} V: they should agree"
            )
        if other is not None:
            # Leakage that does not multiply puts the steepest place above the breakdown; the slope points below that
            # place. The truth lies between the two: rms their distance over the root of three from either.
            error = math.hypot(error, (other - at) / math.sqrt(3.0))
        return IvBreakdown(at, error, "steepest", other, int(v.size))
    return _parabola(v, i, None if steep is None else steep[0])


def _slopes(v: NDArray[np.float64], log_i: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and slope of straight lines through _WINDOW neighbours."""
    windows_v = np.lib.stride_tricks.sliding_window_view(v, _WINDOW)
    windows_i = np.lib.stride_tricks.sliding_window_view(log_i, _WINDOW)
    middle = windows_v.mean(axis=1)
    away = windows_v - middle[:, None]
    return middle, (away * windows_i).sum(axis=1) / (away**2).sum(axis=1)


def _slope_error(v: NDArray[np.float64], log_i: NDArray[np.float64]) -> float:
    """Of such a slope, by how far points usually lie from the straight line of their neighbours."""
    windows_v = np.lib.stride_tricks.sliding_window_view(v, _WINDOW)
    windows_i = np.lib.stride_tricks.sliding_window_view(log_i, _WINDOW)
    away = windows_v - windows_v.mean(axis=1)[:, None]
    squares = (away**2).sum(axis=1)
    slope = (away * windows_i).sum(axis=1) / squares
    left = windows_i - windows_i.mean(axis=1)[:, None] - slope[:, None] * away
    return float(np.median(np.sqrt((left**2).sum(axis=1) / (_WINDOW - 2) / squares)))


def _steepest(v: NDArray[np.float64], log_i: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Where ln I rises most steeply, its error, and how steeply; in the upper half of the curve.

    The top of the slopes is that of a parabola through those within a fifth of the largest.
    """
    middle, slope = _slopes(v, log_i)
    upper = middle > 0.5 * v[-1]
    if upper.sum() < 7:
        return None
    middle, slope = middle[upper], slope[upper]
    top = int(np.argmax(slope))
    if not 2 <= top < slope.size - 2 or slope[top] < _SIGNIFICANT * _slope_error(v, log_i):
        return None
    left = right = top
    while left > 0 and slope[left - 1] > 0.8 * slope[top]:
        left -= 1
    while right < slope.size - 1 and slope[right + 1] > 0.8 * slope[top]:
        right += 1
    left, right = min(left, top - 2), max(right, top + 2)
    x = middle[left : right + 1] - middle[top]
    y = slope[left : right + 1]
    design = np.stack([np.ones(x.size), x, x * x], axis=1)
    c, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    if rank < 3 or c[2] >= 0.0:
        return None
    at = -c[1] / (2.0 * c[2])
    if not x[0] <= at <= x[-1]:
        return None
    # Neighbouring slopes share points: their scatter is that of every _WINDOW-th.
    residual = y - design @ c
    variance = float((residual**2).sum() / max(x.size - 3, 1)) * _WINDOW
    covariance = variance * np.linalg.inv(design.T @ design)
    gradient = np.array([0.0, -1.0 / (2.0 * c[2]), c[1] / (2.0 * c[2] ** 2)])
    error = math.sqrt(float(gradient @ covariance @ gradient))
    spacing = float(np.median(np.diff(middle[left : right + 1])))
    return float(middle[top] + at), math.hypot(error, spacing / math.sqrt(12.0)), float(slope[top])


def _inverse_slope(v: NDArray[np.float64], log_i: NDArray[np.float64], at: float) -> float | None:
    """Where 1 / (d ln I / dV) of the points above breakdown would be zero: I ~ (V - breakdown)^n there."""
    middle, slope = _slopes(v, log_i)
    above = (middle > at + 0.1) & (middle < at + _LINE_ABOVE_V) & (slope > 0.0)
    if above.sum() < 4:
        return None
    line = np.polyfit(middle[above], 1.0 / slope[above], 1)
    return float(-line[1] / line[0]) if line[0] > 0 else None


def _parabola(v: NDArray[np.float64], i: NDArray[np.float64], start: float | None) -> IvBreakdown:
    """Breakdown of a dark curve: straight leakage below it, and on top of that a parabola (with a cubic part) above."""
    if start is None:
        rising = np.flatnonzero(i > 2.0 * np.median(i))
        start = float(v[rising[0]]) if rising.size else float(v[-1])
    # The slope of ln I is largest somewhat above the breakdown, where the leakage no longer counts.
    used = (v > start - _BELOW_V) & (v < start + _ABOVE_V)
    step = np.diff(i[used])
    quiet = robust_spread(step) / math.sqrt(2.0)
    weight = 1.0 / np.hypot(max(quiet, 1e-15), _RELATIVE_NOISE * i[used])
    grid = np.linspace(start - 3.0, start + 0.5, 176)
    at = float(grid[np.argmin([_misfit(v[used], i[used], weight, b) for b in grid])])
    if (v[used] < at).sum() < 8 or (v[used] > at).sum() < 8:
        raise FitFailedError("the curve has too few points on both sides of a breakdown")
    fine = np.linspace(at - 0.3, at + 0.3, 121)
    values = np.array([_misfit(v[used], i[used], weight, b) for b in fine])
    at, chi2 = float(fine[np.argmin(values)]), float(values.min())
    free = int(used.sum()) - 5
    scale = max(1.0, chi2 / free)
    inside = np.flatnonzero(values < chi2 + scale)
    if inside[0] == 0 or inside[-1] == fine.size - 1:
        raise FitFailedError("the current does not show where the breakdown is")
    error = 0.5 * float(fine[inside[-1]] - fine[inside[0]])
    error = max(error, float(fine[1] - fine[0]))
    flat = _misfit(v[used], i[used], weight, math.inf)
    if flat < chi2 + 100.0 * scale:
        raise FitFailedError("the curve shows no breakdown")
    if error > _WORST_ERROR_V:
        raise FitFailedError(f"the breakdown near {at:.2f} V has an error of {error:.2f} V")
    return IvBreakdown(at, math.hypot(error, _PARABOLA_V), "parabola", None, int(used.sum()))


def _misfit(v: NDArray[np.float64], i: NDArray[np.float64], weight: NDArray[np.float64], breakdown: float) -> float:
    """Chi-square of the best leakage, parabola and cubic for a breakdown."""
    over = np.maximum(v - breakdown, 0.0)
    columns = [np.ones(v.size), v - v[0]] + ([over**2, over**3] if over.any() else [])
    design = np.stack(columns, axis=1) * weight[:, None]
    size = np.linalg.norm(design, axis=0)
    size[size == 0.0] = 1.0
    c, *_ = np.linalg.lstsq(design / size, i * weight, rcond=None)
    return float(((i * weight - design / size @ c) ** 2).sum())


def read_iv_file(
    path: Path, output: Output | None = None
) -> dict[Output, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Curves of a CSV file: output, volts, amperes in a line (a header line is allowed), or volts and amperes alone.

    Args:
        path: the file.
        output: whose curve it is, where the lines do not say.

    Raises:
        BadInputError: naming the line that cannot be read.
    """
    try:
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(path)) from error
    points: dict[Output, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, 1):
        fields = [f.strip() for f in line]
        if not any(fields) or fields[0].startswith("#"):
            continue
        try:
            numbers = [float(f) for f in fields[-2:]]
        except ValueError:
            if number == 1:
                continue  # a header
            raise BadInputError(f"line {number}: {','.join(line)!r} has no two numbers", where=str(path)) from None
        if len(fields) == 3:
            of = parse_output(fields[0])
        elif len(fields) == 2 and output is not None:
            of = output
        elif len(fields) == 2:
            raise BadInputError(
                "the lines do not say which output they are of",
                where=str(path),
                do="name it: --output PORT.SLAVE.SLOT.CHANNEL",
            )
        else:
            raise BadInputError(
                f"line {number} has {len(fields)} fields", where=str(path), do="write output,volts,amperes"
            )
        points.setdefault(of, []).append((numbers[0], numbers[1]))
    if not points:
        raise BadInputError("holds no points", where=str(path))
    return {of: (np.array([p[0] for p in found]), np.array([p[1] for p in found])) for of, found in points.items()}
