"""A tile's sparkline: 90 days of one number, with its limits, its baseline, and where the calibration changed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.past import TREND_DAYS
from petqc.report.svg import Scale, line, picture, short, tag
from petqc.report.text import measured, plain, title_of, unit_text

if TYPE_CHECKING:
    from markupsafe import Markup

    from petqc.limits import Limits
    from petqc.past import Trend

_WIDTH, _HEIGHT = 300, 68
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 286, 8, 46
GAP_DAYS: Final = 4.0
"""Over a longer time without a run no line is drawn: a weekend is bridged, a week is not."""
LEAST_SIGMAS: Final = 10.0
"""Standard errors that the height holds at least: what is noise looks like noise."""
_FLAGGED = ("warn", "fail")


def sparkline(trend: Trend, limits: Limits, baseline: float | None) -> Markup:
    """The drawing. Limits are drawn where they are near enough not to flatten the values."""
    last = datetime.fromisoformat(trend.points[-1].at)
    days = np.array([(datetime.fromisoformat(p.at) - last).total_seconds() / 86_400.0 for p in trend.points])
    values = np.array([p.value for p in trend.points])
    x = Scale(-TREND_DAYS, 0.0, _LEFT, _RIGHT)
    least = LEAST_SIGMAS * float(np.median([p.uncertainty for p in trend.points]))
    y = Scale(*_domain(values, limits, baseline, least), _BOTTOM, _TOP)
    pieces = [tag("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM + 4, y2=_BOTTOM + 4)]
    for value, name in (
        (limits.fail_low, "fail-line"),
        (limits.fail_high, "fail-line"),
        (limits.warn_low, "warn-line"),
        (limits.warn_high, "warn-line"),
        (baseline, "base-line"),
    ):
        if value is not None and y.low <= value <= y.high:
            pieces.append(tag("line", class_=name, x1=_LEFT, x2=_RIGHT, y1=y.at(value), y2=y.at(value)))
    numbers = [p.calibration for p in trend.points]
    for k in range(1, len(numbers)):
        if numbers[k] != numbers[k - 1]:
            at = x.at(float(days[k - 1] + days[k]) / 2.0)
            pieces.append(tag("line", class_="recalibrated", x1=at, x2=at, y1=_TOP - 6, y2=_BOTTOM + 4))
            pieces.append(tag("path", class_="was", d=f"M{short(at - 4)} {_TOP - 6}h8l-4 6Z"))
    pieces += _values(trend, x.of(days), y.of(values), days)
    pieces.append(tag("text", f"{plain(TREND_DAYS)} days ago", x=_LEFT, y=_HEIGHT - 6))
    pieces.append(tag("text", "this run", x=_RIGHT, y=_HEIGHT - 6, text_anchor="end"))
    return picture(_WIDTH, _HEIGHT, _told(trend, values, days, numbers), *pieces, class_="trend")


def _values(
    trend: Trend, xs: np.ndarray[tuple[int], np.dtype[np.float64]], ys: np.ndarray, days: np.ndarray
) -> list[Markup]:
    """The line, broken at gaps, and a mark for each run: flagged ones hollow and larger, this one a full square."""
    broken_x, broken_y = [float(xs[0])], [float(ys[0])]
    for k in range(1, len(xs)):
        if days[k] - days[k - 1] > GAP_DAYS:
            broken_x.append(float(xs[k]))
            broken_y.append(float("nan"))
        broken_x.append(float(xs[k]))
        broken_y.append(float(ys[k]))
    pieces = [tag("path", class_="past", d=line(np.array(broken_x), np.array(broken_y)))]
    for point, a, b in zip(trend.points[:-1], xs, ys, strict=False):
        if point.status in _FLAGGED:
            pieces.append(tag("circle", class_="was-flagged", cx=float(a), cy=float(b), r=4))
        else:
            pieces.append(tag("circle", class_="was", cx=float(a), cy=float(b), r=1.6))
    pieces.append(tag("rect", class_="now", x=float(xs[-1]) - 3, y=float(ys[-1]) - 3, width=6, height=6))
    return pieces


def _domain(values: np.ndarray, limits: Limits, baseline: float | None, least: float) -> tuple[float, float]:
    """All values, over `least` at least, and of the limits those that are within the values' own range of them."""
    low, high = float(values.min()), float(values.max())
    more = 0.5 * max(least - (high - low), 0.0)
    low, high = low - more, high + more
    room = (high - low) or abs(high) * 1e-3 or 1.0
    for value in (limits.warn_low, limits.warn_high, limits.fail_low, limits.fail_high, baseline):
        if value is not None and low - 2.0 * room <= value <= high + 2.0 * room:
            low, high = min(low, value), max(high, value)
    edge = 0.06 * ((high - low) or room)
    return low - edge, high + edge


def _told(trend: Trend, values: np.ndarray, days: np.ndarray, numbers: list[int]) -> str:
    last = trend.points[-1]
    first = f"{title_of(trend.check)}, {len(values)} runs in {plain(float(round(-days[0])))} days: "
    spread = f"from {plain(float(values.min()))} to {plain(float(values.max()))} {unit_text(trend.unit)}"
    now = f", now {measured(last.value, last.uncertainty, trend.unit)}"
    flagged = sum(p.status in _FLAGGED for p in trend.points)
    changed = len(set(numbers)) - 1
    more = [f"{flagged} outside their limits"] if flagged else []
    more += [f"calibrated anew {changed} time{'' if changed == 1 else 's'}"] if changed else []
    return first + spread + now + "".join(f"; {m}" for m in more) + "."
