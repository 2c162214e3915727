"""A ring unrolled: the axis upwards, the angle to the right, one cell a crystal; today, and minus the baseline.

Source: daily-qc.md §5 (unrolled ring maps of peak, resolution, offset, efficiency, temperature).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.limits import Status
from petqc.report.channels import map_columns
from petqc.report.maps import LEVELS, ColourRange, colour_range, draw_scale
from petqc.report.png import data_uri
from petqc.report.svg import Scale, picture, tag
from petqc.report.text import plain, title_of
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from markupsafe import Markup
    from numpy.typing import NDArray

    from petqc.report.channels import Channels
    from petqc.results import Run

WANTED: Final = ("photopeak", "energy_resolution", "module_time_offset", "lu_energy_scale", "lu_time_offset")
"""Channel columns that are drawn."""
OF_NODES: Final = ("block_efficiency", "lu_efficiency", "temperature")
"""Checks whose ASICs or modules are painted whole."""
MOST_MARKS: Final = 400
"""Flagged crystals that get a mark; of more, the colours tell."""
_LEAST_ANGLE, _MOST_SPREAD = 300.0, 0.15
_WIDTH, _LEFT, _TOP, _BOTTOM = 960, 66, 6, 34
_FLAGGED = (str(Status.WARN), str(Status.FAIL))
_NONE = LEVELS
"""Colour number of a crystal without a value, and of none at all."""


@dataclass(frozen=True, slots=True)
class RingFigure:
    """One quantity: pictures of today and, where it is known, minus the baseline, each with its scale."""

    title: str
    unit: str
    today: Markup
    scale: Markup
    since: Markup | None = None
    since_scale: Markup | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """Where each crystal stands: (n,) cell across (angle) and up (axis), the size of both, and the axial ends in mm."""

    across: NDArray[np.int64]
    up: NDArray[np.int64]
    shape: tuple[int, int]
    ends_mm: tuple[float, float]


def ring_of(run: Run) -> Ring | None:
    """The ring; None where positions are not known or the modules stand otherwise, in panels for example."""
    at = [np.asarray(run.channels.get(name, ()), np.float64) for name in ("x_mm", "y_mm", "z_mm")]
    if any(not p.size or not np.isfinite(p).all() for p in at):
        return None
    x, y, z = at
    radius = np.hypot(x, z)
    angle = np.degrees(np.arctan2(z, x)) % 360.0
    sorted_angle = np.sort(angle)
    gap = float(np.max(np.diff(np.append(sorted_angle, sorted_angle[0] + 360.0))))
    if radius.std() > _MOST_SPREAD * radius.mean() or 360.0 - gap < _LEAST_ANGLE:
        return None
    across, columns = _cells(angle, 0.05)
    up, rows = _cells(y, 0.3)
    return Ring(across, up, (rows, columns), (float(y.min()), float(y.max())))


def ring_maps(run: Run, found: Channels) -> list[RingFigure]:
    """All figures; none where the detector is no ring."""
    ring = ring_of(run)
    if ring is None:
        return []
    figures = []
    columns = {c.id: c for c in map_columns(run) if c.id in WANTED and c.value.size == len(found)}
    for column in columns.values():
        since = run.channels.get(f"{column.id}.baseline")
        figure = _figure(ring, found, column, None if since is None else column.value - np.asarray(since, np.float64))
        if figure is not None:
            figures.append(figure)
    for check_id in OF_NODES:
        values, baseline, unit = _of_nodes(run, found, check_id)
        if np.isfinite(values).any():
            column = _column(check_id, unit, values)
            figure = _figure(ring, found, column, values - baseline if np.isfinite(baseline).any() else None)
            if figure is not None:
                figures.append(figure)
    return figures


def _cells(position: NDArray[np.float64], step: float) -> tuple[NDArray[np.int64], int]:
    """Number of each position among the different ones; nearer than `step` is the same."""
    order = np.argsort(position, kind="stable")
    new = np.concatenate([[0], np.cumsum(np.diff(position[order]) > step)])
    cell = np.empty(position.size, np.int64)
    cell[order] = new
    return cell, int(new[-1]) + 1


def _of_nodes(run: Run, found: Channels, check_id: str) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Value and baseline of each crystal's ASIC, or of its module."""
    results = {c.node: c for c in run.checks if c.id == check_id and c.value is not None}
    modules = np.empty(len(found), dtype=object)
    for module in found.modules:
        modules[module.index] = module.node
    values, baseline = np.full(len(found), np.nan), np.full(len(found), np.nan)
    unit = ""
    for k, (asic, module) in enumerate(zip(found.asics, modules, strict=True)):
        c = results.get(asic) or results.get(module)
        if c is not None and c.value is not None:
            values[k], unit = c.value, c.unit
            baseline[k] = math.nan if c.baseline is None else c.baseline
    return values, baseline, unit


def _column(id_: str, unit: str, values: NDArray[np.float64]) -> ChannelColumn:
    n = values.size
    texts = np.full(n, "", object)
    return ChannelColumn(id_, unit, values, np.full(n, np.nan), np.zeros(n, np.int64), texts, texts)


def _figure(ring: Ring, found: Channels, column: ChannelColumn, since: NDArray[np.float64] | None) -> RingFigure | None:
    colours = colour_range(column.value)
    if colours is None:
        return None
    title = title_of(column.id)
    scale = draw_scale(column, colours, _WIDTH)
    figure = RingFigure(title, column.unit, _draw(ring, found, column, colours, title), scale)
    if since is None or not np.isfinite(since).any():
        return figure
    low, high = (float(v) for v in np.nanpercentile(since, (1.0, 99.0)))
    most = max(abs(low), abs(high), 1e-9)
    around = ColourRange(-most, most)
    change = _column(column.id, column.unit, since)
    drawn = _draw(ring, found, change, around, f"{title} minus baseline")
    return RingFigure(title, column.unit, figure.today, scale, drawn, draw_scale(change, around, _WIDTH))


def _draw(ring: Ring, found: Channels, column: ChannelColumn, colours: ColourRange, title: str) -> Markup:
    rows, columns = ring.shape
    cells = np.full((rows, columns), _NONE, np.uint8)
    there = np.isfinite(column.value)
    levels = colours.level(column.value)
    cells[ring.up[there], ring.across[there]] = levels[there]
    wide = _WIDTH - _LEFT - 8
    high = max(min(wide * rows / columns, 320.0), 90.0)
    image = tag(
        "image",
        href=data_uri(cells[::-1], palette()),
        x=_LEFT,
        y=_TOP,
        width=wide,
        height=high,
        preserveAspectRatio="none",
        class_="cells",
    )
    x, y = Scale(0.0, columns, _LEFT, _LEFT + wide), Scale(0.0, rows, _TOP + high, _TOP)
    pieces = [image, tag("rect", class_="frame", x=_LEFT, y=_TOP, width=wide, height=high)]
    pieces += _axes(ring, x, y, high)
    pieces += _marks(ring, found, column, x, y)
    label = f"{title}, ring unrolled: axis upwards, angle to the right, {rows} by {columns} crystals. " + _said(column)
    return picture(_WIDTH, _TOP + high + _BOTTOM, label, *pieces, class_="map")


def _axes(ring: Ring, x: Scale, y: Scale, high: float) -> list[Markup]:
    pieces = []
    for degrees in range(0, 361, 60):
        at = x.at(ring.shape[1] * degrees / 360.0)
        anchor = {0: "start", 360: "end"}.get(degrees, "middle")
        pieces.append(tag("line", class_="axis", x1=at, x2=at, y1=_TOP + high, y2=_TOP + high + 4))
        pieces.append(tag("text", f"{degrees}°", x=at, y=_TOP + high + 16, text_anchor=anchor))
    for value, cell in zip(ring.ends_mm, (0.5, ring.shape[0] - 0.5), strict=True):
        pieces.append(tag("text", f"{value:+.0f} mm", x=_LEFT - 4, y=y.at(cell) + 4, text_anchor="end"))
    middle = 0.5 * (x.start + x.end)
    pieces.append(tag("text", "angle around the axis", x=middle, y=_TOP + high + 30, text_anchor="middle"))
    return pieces


def _marks(ring: Ring, found: Channels, column: ChannelColumn, x: Scale, y: Scale) -> list[Markup]:
    """Dead crystals a cross, hot ones a ring, others that are flagged a square; few enough to be seen."""
    flagged = np.isin(column.status.astype(str), _FLAGGED)
    marked = {"dead": found.marks["dead"], "hot": found.marks["hot"], "fail": flagged}
    if sum(int(m.sum()) for m in marked.values()) > MOST_MARKS:
        return []
    shapes = {
        "dead": "M{0:.1f} {1:.1f}m-4-4l8 8m0-8l-8 8",
        "hot": "M{0:.1f} {1:.1f}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
        "fail": "M{0:.1f} {1:.1f}m-4-4h8v8h-8Z",
    }
    pieces = []
    for name, chosen in marked.items():
        where = np.flatnonzero(chosen)
        if where.size:
            path = "".join(shapes[name].format(x.at(ring.across[k] + 0.5), y.at(ring.up[k] + 0.5)) for k in where)
            pieces += [tag("path", class_="under", d=path), tag("path", class_=f"sign {name}", d=path)]
    return pieces


def _said(column: ChannelColumn) -> str:
    finite = column.value[np.isfinite(column.value)]
    low, middle, high = (float(v) for v in np.percentile(finite, (0, 50, 100)))
    digits = max(0, 2 - math.floor(math.log10(float(np.ptp(finite)) or abs(middle) or 1.0)))
    numbers = [plain(round(v, digits)) for v in (middle, low, high)]
    without = int(column.value.size - finite.size)
    more = f"; {without} without a number" if without else ""
    return f"Median {numbers[0]} {column.unit}, from {numbers[1]} to {numbers[2]}{more}."


@cache
def palette() -> tuple[str, ...]:
    """The colours of the channel maps, and last the one of no value: lighter than they, also in grey."""
    from petqc.report.page import style

    sheet = style().partition("@media print")[0]
    found: Mapping[int, str] = {int(k): v for k, v in re.findall(r"\.q(\d+)\{fill:(#[0-9a-f]{6})\}", sheet)}
    return (*(found[k] for k in range(LEVELS)), "#ffffff")
