"""The few SVG pieces the figures are made of: elements with escaped attributes, scales, ticks, paths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def short(number: float) -> str:
    """A coordinate with one decimal at most; no sign on zero."""
    shown = f"{number:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


def tag(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """One element. Attribute names: `class_` is class, other underscores are hyphens; None leaves one out.

    Children and attribute values that are not Markup are escaped.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else short(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(c) for c in children)
    # every piece above went through escape()
    return Markup(f"<{name}{said}>{inside}</{name}>" if inside else f"<{name}{said}/>")  # noqa: S704


def join(pieces: Iterable[Markup]) -> Markup:
    """Pieces one after another."""
    return Markup("").join(pieces)


def picture(width: float, height: float, label: str, *children: Markup, class_: str = "figure") -> Markup:
    """A figure: scales with the page, and says in words what it shows to those who cannot see it."""
    return tag(
        "svg",
        *children,
        class_=class_,
        viewBox=f"0 0 {short(width)} {short(height)}",
        role="img",
        aria_label=label,
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers to coordinates, linearly or by their logarithm; `of` clips to the ends."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def of(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Coordinates of values, inside start..end."""
        value = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.is_log:
            value = np.log(np.maximum(value, low))
            low, high = math.log(low), math.log(high)
        share = np.clip((value - low) / (high - low), 0.0, 1.0)
        return self.start + share * (self.end - self.start)

    def at(self, value: float) -> float:
        """Coordinate of one value."""
        return float(self.of(value))

    def ticks(self, about: int) -> list[float]:
        """Round numbers inside the scale, about so many."""
        return log_ticks(self.low, self.high) if self.is_log else linear_ticks(self.low, self.high, about)


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between low and high."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if raw <= m * power * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high, thinned to at most seven."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / 7))
    return [10.0**k for k in range(first, last + 1, every)]


def steps(x: NDArray[np.float64], y: NDArray[np.float64], floor: float | None = None) -> str:
    """Path of a histogram: x (n + 1,) edges, y (n,) heights, in coordinates; closed on `floor` if given."""
    xs, ys = np.round(x, 1), np.round(y, 1)
    start = ys[0] if floor is None else floor
    parts = [f"M{short(xs[0])} {short(start)}"]
    at = float(start)
    for right, height in zip(xs[1:], ys, strict=True):
        if height != at:
            parts.append(f"V{short(height)}")
            at = float(height)
            parts.append(f"H{short(right)}")
        elif parts[-1][0] == "H":
            parts[-1] = f"H{short(right)}"
        else:
            parts.append(f"H{short(right)}")
    if floor is not None:
        parts.append(f"V{short(floor)}Z")
    return "".join(parts)


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Path through points, broken where y is not finite."""
    parts: list[str] = []
    pen = "M"
    for a, b in zip(x, y, strict=True):
        if math.isfinite(b):
            parts.append(f"{pen}{short(a)} {short(b)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)
