"""Channel maps: one square a crystal, colour by value, marks that survive grey paper and colour blindness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.limits import Status
from petqc.report.channels import status_at
from petqc.report.svg import Scale, join, linear_ticks, picture, short, tag
from petqc.report.text import STATUS_WORD, measured, plain, title_of

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from petqc.report.channels import Channels, Module
    from petqc.results import ChannelColumn

LEVELS = 32
"""Colours of a map; lightness rises evenly, so the order survives a grey printer."""
MOST_TITLES = 4096
"""Cells of one report that carry their number for the pointer; larger scanners draw cells without."""
MOST_CHANNELS = 8192
"""Of a detector with more, only modules in which something is wrong are drawn one by one ..."""
MOST_MODULES = 6
"""... and at most so many."""
_CELL = 14
_LEFT, _TOP, _BOTTOM = 24, 4, 20


@dataclass(frozen=True, slots=True)
class ColourRange:
    """Values from low to high spread over the colours; what lies outside takes the end colours."""

    low: float
    high: float

    def level(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Colour number of each value (0 for values that are not finite: the caller leaves them out)."""
        share = (np.nan_to_num(values) - self.low) / (self.high - self.low)
        level: NDArray[np.int64] = np.clip(np.floor(share * LEVELS), 0, LEVELS - 1).astype(np.int64)
        return level


def colour_range(values: NDArray[np.float64]) -> ColourRange | None:
    """From the 1st to the 99th percentile, so that one broken channel does not flatten the map; None: no values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = (float(v) for v in np.percentile(finite, (1.0, 99.0)))
    least = max(abs(low), abs(high)) * 1e-6 + 1e-12
    if high - low < least:
        middle = (low + high) / 2
        return ColourRange(middle - max(abs(middle) * 0.01, 0.5), middle + max(abs(middle) * 0.01, 0.5))
    return ColourRange(low, high)


def draw_map(
    column: ChannelColumn, channels: Channels, module: Module, colours: ColourRange | None, *, has_titles: bool
) -> Markup:
    """One module's map of one quantity; row 0 is at the bottom."""
    wide, high = module.columns * _CELL, module.rows * _CELL
    x = _LEFT + module.column * _CELL
    y = _TOP + (module.rows - 1 - module.row) * _CELL
    values = column.value[module.index]
    has_number = np.isfinite(values)
    levels = colours.level(values) if colours is not None else np.zeros(values.size, np.int64)
    pieces: list[Markup] = []
    if has_titles:
        for k, index in enumerate(module.index):
            name = f"q{levels[k]}" if has_number[k] else "none"
            hint = tag("title", cell_words(column, channels, module, k, int(index)))
            pieces.append(tag("rect", hint, class_=name, x=x[k], y=y[k], width=_CELL, height=_CELL))
    else:
        pieces += _plain_cells(x, y, levels, has_number)
    pieces += _asic_borders(channels, module, x, y)
    pieces += _suspect_border(channels, module, x, y)
    pieces += _marks(column, channels, module, x, y)
    pieces += _frame(module, wide, high)
    return picture(wide + _LEFT + 6, high + _TOP + _BOTTOM, map_words(column, channels, module), *pieces, class_="map")


def _square(x: float, y: float) -> str:
    return f"M{short(x)} {short(y)}h{_CELL}v{_CELL}h-{_CELL}Z"


def _plain_cells(
    x: NDArray[np.int64], y: NDArray[np.int64], levels: NDArray[np.int64], has_number: NDArray[np.bool_]
) -> list[Markup]:
    """All squares of one colour as one path: ten thousand crystals stay a small file."""
    out = []
    for name, chosen in [("none", ~has_number), *((f"q{i}", has_number & (levels == i)) for i in range(LEVELS))]:
        at = np.flatnonzero(chosen)
        if at.size:
            out.append(tag("path", class_=name, d="".join(_square(x[k], y[k]) for k in at)))
    return out


def _asic_borders(channels: Channels, module: Module, x: NDArray[np.int64], y: NDArray[np.int64]) -> list[Markup]:
    """Lines between neighbours that belong to different ASICs."""
    place = {(int(a), int(b)): channels.asics[i] for a, b, i in zip(x, y, module.index, strict=True)}
    parts = []
    for (a, b), asic in sorted(place.items()):
        if place.get((a + _CELL, b), asic) != asic:
            parts.append(f"M{a + _CELL} {b}v{_CELL}")
        if place.get((a, b + _CELL), asic) != asic:
            parts.append(f"M{a} {b + _CELL}h{_CELL}")
    return [tag("path", class_="asic", d="".join(parts))] if parts else []


def _suspect_border(channels: Channels, module: Module, x: NDArray[np.int64], y: NDArray[np.int64]) -> list[Markup]:
    """A dashed line around what the diagnosis names."""
    suspect = {(int(a), int(b)) for a, b, i in zip(x, y, module.index, strict=True) if channels.marks["suspect"][i]}
    parts = []
    for a, b in sorted(suspect):
        c = _CELL
        for beside, path in (
            ((a - c, b), f"M{a} {b}v{c}"),
            ((a + c, b), f"M{a + c} {b}v{c}"),
            ((a, b - c), f"M{a} {b}h{c}"),
            ((a, b + c), f"M{a} {b + c}h{c}"),
        ):
            if beside not in suspect:
                parts.append(path)
    path = "".join(parts)
    return [tag("path", class_="suspect under", d=path), tag("path", class_="suspect", d=path)] if parts else []


def _marks(
    column: ChannelColumn, channels: Channels, module: Module, x: NDArray[np.int64], y: NDArray[np.int64]
) -> list[Markup]:
    """Cross: dead. Ring: hot. Square: outside the fail limits. Corner: outside the warn limits."""
    shapes: dict[str, list[str]] = {"dead": [], "hot": [], "fail": [], "warn": []}
    c = _CELL
    for k, index in enumerate(module.index):
        a, b = int(x[k]), int(y[k])
        status = status_at(column, int(index))
        if channels.marks["dead"][index]:
            shapes["dead"].append(f"M{a + 3} {b + 3}l{c - 6} {c - 6}m0-{c - 6}l-{c - 6} {c - 6}")
        elif channels.marks["hot"][index]:
            shapes["hot"].append(f"M{a + 3} {b + c / 2:g}a4 4 0 1 0 8 0a4 4 0 1 0-8 0")
        if status is Status.FAIL:
            shapes["fail"].append(f"M{a + 1.5} {b + 1.5}h{c - 3}v{c - 3}h-{c - 3}Z")
        elif status is Status.WARN:
            shapes["warn"].append(f"M{a + 1} {b + 1}h6l-6 6Z")
    out = []
    for name, parts in shapes.items():
        if parts:
            path = "".join(parts)
            under = "under thin" if name == "warn" else "under"
            out += [tag("path", class_=under, d=path), tag("path", class_=f"sign {name}", d=path)]
    return out


def _frame(module: Module, wide: int, high: int) -> list[Markup]:
    out = [tag("rect", class_="frame", x=_LEFT, y=_TOP, width=wide, height=high)]
    bottom = _TOP + high
    out += [
        tag("text", str(value), x=_LEFT + (value + 0.5) * _CELL, y=bottom + 14, text_anchor="middle")
        for value in range(0, module.columns, 4 if module.columns > 4 else 1)
    ]
    out += [
        tag("text", str(value), x=_LEFT - 5, y=bottom - (value + 0.5) * _CELL + 4, text_anchor="end")
        for value in range(0, module.rows, 4 if module.rows > 4 else 1)
    ]
    return out


def cell_words(column: ChannelColumn, channels: Channels, module: Module, k: int, index: int) -> str:
    """What a pointer over one cell is told."""
    place = f" column {module.column[k]} row {module.row[k]}" if module.is_mapped else ""
    value = float(column.value[index])
    if math.isfinite(value):
        said = f"{measured(value, float(column.uncertainty[index]), column.unit)}, n {plain(float(column.n[index]))}"
    else:
        said = f"no number: {column.reason[index] or 'not given'}"
    marks = [word for word, flags in channels.marks.items() if flags[index]]
    status = STATUS_WORD[status_at(column, index)]
    return f"{channels.nodes[index]}{place}: {said}, {', '.join([status, *marks])}"


def map_words(column: ChannelColumn, channels: Channels, module: Module) -> str:
    """What the map says to those who cannot see it."""
    values = column.value[module.index]
    finite = values[np.isfinite(values)]
    parts = [f"Map of {title_of(column.id).lower()} of {module.node}, {values.size} channels"]
    if finite.size:
        low, middle, high = (float(v) for v in np.percentile(finite, (0, 50, 100)))
        parts.append(
            f"median {plain(_rounded(middle, finite))} {column.unit}, "
            f"from {plain(_rounded(low, finite))} to {plain(_rounded(high, finite))}"
        )
    counted = [
        (f"{int(flags[module.index].sum())} {word}", flags[module.index].any())
        for word, flags in channels.marks.items()
    ]
    without = int(values.size - finite.size)
    bad = [status_at(column, int(i)) for i in module.index]
    outside = [f"{bad.count(s)} {STATUS_WORD[s]}" for s in (Status.FAIL, Status.WARN) if s in bad]
    parts += [text for text, is_any in counted if is_any] + outside
    if without:
        parts.append(f"{without} without a number")
    return "; ".join(parts) + "."


def _rounded(value: float, among: NDArray[np.float64]) -> float:
    spread = float(np.ptp(among)) or abs(value) or 1.0
    return round(value, max(0, 2 - math.floor(math.log10(spread))))


def draw_scale(column: ChannelColumn, colours: ColourRange, width: int = 520) -> Markup:
    """The colour bar with the distribution of all channels standing on it."""
    finite = column.value[np.isfinite(column.value)]
    x = Scale(colours.low, colours.high, 14, width - 14)
    inside = np.clip(finite, colours.low, colours.high)
    counts = np.bincount(colours.level(inside), minlength=LEVELS).astype(np.float64)
    tall, bar = 44.0, 12.0
    step = (x.end - x.start) / LEVELS
    pieces = []
    for i in range(LEVELS):
        left = x.start + i * step
        height = tall * float(counts[i]) / float(max(counts.max(), 1.0))
        pieces.append(tag("rect", class_=f"q{i} bar", x=left, y=tall + 4, width=step + 0.3, height=bar))
        if height:
            pieces.append(tag("rect", class_="heap", x=left, y=tall - height, width=step - 0.8, height=height))
    for value in linear_ticks(colours.low, colours.high, 6):
        at = x.at(value)
        pieces += [
            tag("line", class_="axis", x1=at, x2=at, y1=tall + 4 + bar, y2=tall + 9 + bar),
            tag("text", plain(round(value, 9)), x=at, y=tall + bar + 23, text_anchor="middle"),
        ]
    pieces.append(tag("rect", class_="frame", x=x.start, y=tall + 4, width=x.end - x.start, height=bar))
    low, high = int((finite < colours.low).sum()), int((finite > colours.high).sum())
    label = (
        f"Colours from {plain(_rounded(colours.low, finite))} to {plain(_rounded(colours.high, finite))} {column.unit}"
        f", dark to bright; {low} channels below, {high} above. Bars: number of channels at each colour."
    )
    return picture(width, tall + bar + 28, label, join(pieces), class_="scale")
