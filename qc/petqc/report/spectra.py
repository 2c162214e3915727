"""Drawings of spectra: counts, window, fit and background, delayed events, and the pulls of the fit below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.report.svg import Scale, join, line, picture, short, steps, tag
from petqc.report.text import plain

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from petqc.results import Spectrum

_MOST_BINS = 400
"""More bins than this cannot be told apart on the page: neighbours are drawn together (and the axis says so)."""
_PULL_END = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """Outline of a drawing, in its own units; strip is the height of the pulls below, 0 for none."""

    width: float
    height: float
    strip: float = 0.0
    left: float = 62.0
    right: float = 12.0
    top: float = 22.0
    bottom: float = 46.0


LARGE = Size(600, 400, 74)
LARGE_LOG = Size(600, 400)
SMALL = Size(580, 350, 60)


@dataclass(frozen=True, slots=True)
class Peak:
    """Where the fitted peak stands and how wide it is at half of its height over the background."""

    position: float
    low: float
    high: float
    half: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the fit describes the counts: Pearson's chi-square over n bins and the largest pull."""

    chi2: float
    n: int
    largest: float


def _binned(values: NDArray[np.float64] | None, every: int, n: int) -> NDArray[np.float64] | None:
    if values is None:
        return None
    used = np.asarray(values, np.float64)[: n * every]
    summed: NDArray[np.float64] = used.reshape(n, every).sum(axis=1)
    return summed


def _finite(values: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_) if values is None else np.isfinite(values)


def extent(spectrum: Spectrum) -> tuple[float, float]:
    """The part of the axis where there is something: counts, fit or window."""
    edges = spectrum.edges
    seen = np.nan_to_num(spectrum.counts) > 0
    if spectrum.fit is not None:
        seen = seen | np.isfinite(spectrum.fit)
    if not seen.any():
        return float(edges[0]), float(edges[-1])
    at = np.flatnonzero(seen)
    low, high = float(edges[at[0]]), float(edges[at[-1] + 1])
    if spectrum.window is not None and has_window(spectrum):
        margin = 0.02 * (high - low)
        low = max(min(low, spectrum.window[0] - margin), float(edges[0]))
        high = min(max(high, spectrum.window[1] + margin), float(edges[-1]))
    return low, high


def peak_of(spectrum: Spectrum) -> Peak | None:
    """Position and half-height points of the drawn fit, for marking them; the numbers come from the checks."""
    if spectrum.fit is None or np.count_nonzero(_finite(spectrum.fit)) < 5:
        return None
    centre = (spectrum.edges[:-1] + spectrum.edges[1:]) / 2
    ok = np.isfinite(spectrum.fit)
    under = np.zeros(ok.size) if spectrum.background is None else np.nan_to_num(spectrum.background)
    over = np.where(ok, np.nan_to_num(spectrum.fit) - under, 0.0)
    top = int(np.argmax(over))
    half = over[top] / 2
    if half <= 0:
        return None
    left = np.flatnonzero(over[:top] < half)
    right = np.flatnonzero(over[top:] < half)
    if not left.size or not right.size:
        return None
    a, b = int(left[-1]), top + int(right[0])
    low = np.interp(half, [over[a], over[a + 1]], [centre[a], centre[a + 1]])
    high = np.interp(half, [over[b], over[b - 1]], [centre[b], centre[b - 1]])
    return Peak(float(centre[top]), float(low), float(high), float(under[top] + half))


def agreement(spectrum: Spectrum) -> Agreement | None:
    """Pearson's chi-square of the fit and its largest pull, in the bins of the run (not those drawn)."""
    if spectrum.fit is None:
        return None
    ok = np.isfinite(spectrum.fit) & (np.nan_to_num(spectrum.fit) > 0)
    if not ok.any():
        return None
    pulls = (spectrum.counts[ok] - spectrum.fit[ok]) / np.sqrt(spectrum.fit[ok])
    return Agreement(float(np.sum(pulls**2)), int(pulls.size), float(pulls[np.argmax(np.abs(pulls))]))


def close_up(spectrum: Spectrum) -> tuple[float, float]:
    """The fitted peak with three of its widths on each side, or everything where there is no narrow peak."""
    low, high = extent(spectrum)
    peak = peak_of(spectrum)
    if peak is None:
        return low, high
    reach = 3.0 * (peak.high - peak.low)
    return max(low, peak.position - reach), min(high, peak.position + reach)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The spectrum in the bins that are drawn, cut to the range that is drawn."""

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    fit: NDArray[np.float64] | None
    background: NDArray[np.float64] | None
    delayed: NDArray[np.float64] | None
    width: float | None

    @property
    def centre(self) -> NDArray[np.float64]:
        return (self.edges[:-1] + self.edges[1:]) / 2


def _drawn(spectrum: Spectrum, low: float, high: float) -> _Drawn:
    edges = np.asarray(spectrum.edges, np.float64)
    first = max(int(np.searchsorted(edges, low, "right")) - 1, 0)
    last = min(int(np.searchsorted(edges, high, "left")), edges.size - 1)
    every = max(1, math.ceil((last - first) / _MOST_BINS))
    n = max((last - first) // every, 1)
    part = slice(first, first + n * every)
    cut = edges[first : first + n * every + 1 : every]
    widths = np.diff(cut)
    even = bool(np.allclose(widths, widths[0], rtol=1e-3))
    return _Drawn(
        edges=cut,
        counts=np.nan_to_num(np.asarray(spectrum.counts, np.float64)[part].reshape(n, every).sum(axis=1)),
        fit=None if spectrum.fit is None else _binned(spectrum.fit[part], every, n),
        background=None if spectrum.background is None else _binned(spectrum.background[part], every, n),
        delayed=None if spectrum.delayed is None else _binned(spectrum.delayed[part], every, n),
        width=float(widths[0]) if even else None,
    )


def draw(
    spectrum: Spectrum,
    label: str,
    *,
    size: Size,
    between: tuple[float, float],
    is_log: bool = False,
    peak_label: str = "",
    width_label: str = "",
) -> Markup:
    """One panel, with the strip of pulls below it where the size has one and the spectrum has a fit."""
    data = _drawn(spectrum, *between)
    strip = size.strip if data.fit is not None and _finite(data.fit).any() else 0.0
    floor = size.height - size.bottom - (strip + 12 if strip else 0)
    top = float(max([data.counts.max(initial=0.0), *(_tops(data))]))
    if is_log:
        seen = data.counts[data.counts > 0]
        y = Scale(max(0.5, float(seen.min(initial=top)) / 3), max(top, 1.0) * 2.5, floor, size.top, is_log=True)
    else:
        y = Scale(0.0, max(top, 1.0) * 1.14, floor, size.top)
    x = Scale(float(data.edges[0]), float(data.edges[-1]), size.left, size.width - size.right)
    xs = x.of(data.edges)
    layers = [
        *_window(spectrum, x, y),
        tag("path", class_="counts", d=steps(xs, y.of(data.counts), floor)),
    ]
    if data.delayed is not None:
        layers.append(tag("path", class_="delayed", d=steps(*_smoothed(data.edges, data.delayed, x, y))))
    for values, name in ((data.background, "background"), (data.fit, "fit")):
        if values is not None:
            layers.append(tag("path", class_=name, d=line(x.of(data.centre), _where_finite(y, values))))
    layers += _marks(spectrum, data, x, y, peak_label, width_label, is_log=is_log)
    layers += _axes(spectrum, data, x, y, size, strip)
    if strip:
        layers += _pulls(data, x, size)
    return picture(size.width, size.height, label, *layers)


def _smoothed(
    edges: NDArray[np.float64], counts: NDArray[np.float64], x: Scale, y: Scale
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of about forty groups of bins: delayed events are few and flat, and a bin of them says nothing."""
    every = max(1, counts.size // 40)
    n = counts.size // every
    means = np.nan_to_num(counts)[: n * every].reshape(n, every).mean(axis=1)
    return x.of(edges[: n * every + 1 : every]), y.of(means)


def _tops(data: _Drawn) -> list[float]:
    return [float(np.nanmax(v)) for v in (data.fit, data.delayed) if v is not None and _finite(v).any()]


def _where_finite(y: Scale, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), y.of(np.nan_to_num(values)), np.nan)


def has_window(spectrum: Spectrum) -> bool:
    """Whether the window leaves anything outside: one as wide as the axis is not worth drawing."""
    if spectrum.window is None:
        return False
    low, high = float(spectrum.edges[0]), float(spectrum.edges[-1])
    inside = min(high, spectrum.window[1]) - max(low, spectrum.window[0])
    return inside < 0.99 * (high - low)


def _window(spectrum: Spectrum, x: Scale, y: Scale) -> list[Markup]:
    if spectrum.window is None or not has_window(spectrum):
        return []
    low, high = (x.at(v) for v in spectrum.window)
    sides = [
        tag("line", class_="window-edge", x1=at, x2=at, y1=y.end, y2=y.start)
        for at, value in ((low, spectrum.window[0]), (high, spectrum.window[1]))
        if x.low <= value <= x.high
    ]
    return [tag("rect", class_="window", x=low, y=y.end, width=high - low, height=y.start - y.end), *sides]


def _marks(
    spectrum: Spectrum, data: _Drawn, x: Scale, y: Scale, peak_label: str, width_label: str, *, is_log: bool
) -> list[Markup]:
    """The peak's position and full width at half maximum, named with the checks' own numbers."""
    peak = peak_of(spectrum)
    marks: list[Markup] = []
    if peak is None or is_log:
        return marks
    scale = (data.width or 1.0) / float(spectrum.edges[1] - spectrum.edges[0])
    if peak_label and x.low < peak.position < x.high:
        at = x.at(peak.position)
        right = at > (x.start + x.end) / 2
        marks += [
            tag("line", class_="peak", x1=at, x2=at, y1=y.end - 2, y2=y.start),
            tag("text", peak_label, class_="mark", x=at, y=y.end - 8, text_anchor="end" if right else "start"),
        ]
    if width_label:
        height = y.at(peak.half * scale)
        low, high = x.at(peak.low), x.at(peak.high)
        marks += [
            tag("path", class_="fwhm", d=f"M{short(low)} {short(height)}H{short(high)}"),
            *(
                tag("path", class_="fwhm", d=f"M{short(a)} {short(height - 4)}V{short(height + 4)}")
                for a in (low, high)
            ),
            tag("text", width_label, class_="mark", x=high + 8, y=height + 4),
        ]
    return marks


def _axes(spectrum: Spectrum, data: _Drawn, x: Scale, y: Scale, size: Size, strip: float) -> list[Markup]:
    bottom = size.height - size.bottom
    out = [tag("path", class_="axis", d=f"M{short(x.start)} {short(y.end)}V{short(y.start)}H{short(x.end)}")]
    for value in x.ticks(6 if size.width > 500 else 4):
        at = x.at(value)
        out += [
            tag("line", class_="axis", x1=at, x2=at, y1=bottom, y2=bottom + 5),
            tag("text", plain(value), x=at, y=bottom + 20, text_anchor="middle"),
        ]
    if strip:
        out.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom))
    for value in y.ticks(5 if size.height > 350 else 3):
        at = y.at(value)
        if value > 0:
            out.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        out.append(tag("text", _count(value), x=x.start - 7, y=at + 4.5, text_anchor="end"))
    per = f"counts per {plain(round(data.width, 6))} {spectrum.unit}" if data.width else "counts per bin"
    name = f"{spectrum.quantity or 'value'}, {spectrum.unit}" if spectrum.unit else spectrum.quantity or "value"
    return [
        *out,
        tag("text", name, class_="name", x=x.end, y=size.height - 6, text_anchor="end"),
        tag("text", per, class_="name", x=4, y=13),
    ]


def _count(value: float) -> str:
    if value >= 1e6:
        exponent = math.floor(math.log10(value))
        digits = plain(round(value / 10.0**exponent, 2))
        power = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(exponent))
        return f"10{power}" if digits == "1" else f"{digits}·10{power}"
    return plain(value)


def _pulls(data: _Drawn, x: Scale, size: Size) -> list[Markup]:
    """(counts - fit) / sqrt(fit) of each drawn bin; the band is ±2, triangles stand for pulls beyond ±5."""
    if data.fit is None:
        return []
    low = size.height - size.bottom
    y = Scale(-_PULL_END, _PULL_END, low, low - size.strip)
    usable = np.isfinite(data.fit) & (np.nan_to_num(data.fit) > 0)
    at = x.of(data.centre)
    bars, beyond = [], []
    zero = y.at(0.0)
    for k in np.flatnonzero(usable):
        pull = float((data.counts[k] - data.fit[k]) / math.sqrt(data.fit[k]))
        end = y.at(pull)
        bars.append(f"M{short(at[k])} {short(zero)}V{short(end)}")
        if abs(pull) > _PULL_END:
            back = 5 if pull > 0 else -5
            beyond.append(f"M{short(at[k] - 3)} {short(end + back)}h6L{short(at[k])} {short(end)}Z")
    shapes = [
        tag("rect", class_="band", x=x.start, width=x.end - x.start, y=y.at(2.0), height=y.at(-2.0) - y.at(2.0)),
        tag("line", class_="grid", x1=x.start, x2=x.end, y1=zero, y2=zero),
        tag("line", class_="axis", x1=x.start, x2=x.start, y1=y.end, y2=y.start),
        tag("path", class_="pull", d="".join(bars)),
    ]
    if beyond:
        shapes.append(tag("path", class_="beyond", d="".join(beyond)))
    labels = [
        tag("text", text, x=x.start - 7, y=y.at(v) + 4.5, text_anchor="end")
        for v, text in ((-4.0, "−4"), (0.0, "0"), (4.0, "4"))
    ]
    name = tag("text", "pull", class_="name", x=4, y=y.at(0.0) + 4.5)
    return [join([*shapes, *labels, name])]
