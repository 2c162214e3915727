"""What a healthy quantity is like: centre, slope against temperature, spread, and how one day remembers another.

All nodes of one check are looked at together, because the memory between days is theirs in common and one node's
history is too short to tell it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.statistics import SIGMA_OF_MAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_RUNS: Final = 20
"""Fewest runs that a chart can judge from: sigma is then known to 16 %. Source: daily-qc.md §2j, point 3."""
MOST_RUNS: Final = 60
"""More tell the centre, whose error stays, little better; 60 find a slide of a third of sigma a month before 30 do."""
_MOST_PHI = 0.8
_ROOM_MEMORY = 0.8
"""Correlation of a day's room temperature with the next one's, for what a slope's error is."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A family of m quantities over n runs of the baseline; all arrays (m,).

    centre: at the mean temperature of the baseline. slope: change a kelvin, 0 where temperatures are not known or did
    not change; slope_error: of it. mean_degc: mean of the temperatures. sigma: spread of one run around what
    is expected. phi: correlation of one run with the next, of the whole family. n: runs behind it.
    """

    centre: NDArray[np.float64]
    slope: NDArray[np.float64]
    slope_error: NDArray[np.float64]
    mean_degc: NDArray[np.float64]
    sigma: NDArray[np.float64]
    phi: float
    n: NDArray[np.int64]

    @property
    def independent_runs(self) -> NDArray[np.float64]:
        """Runs that would tell the centre as well if no run remembered another."""
        return np.asarray(self.n * (1.0 - self.phi) / (1.0 + self.phi))

    @property
    def degrees_of_freedom(self) -> NDArray[np.float64]:
        """Of sigma: correlated runs tell it less well."""
        used = self.n - 1.0 - (self.slope != 0.0)
        return np.asarray(np.maximum(used * (1.0 - self.phi**2) / (1.0 + self.phi**2), 3.0))

    def expected(self, degc: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What runs at temperatures (runs, m) should give, and the standard error of that."""
        away = np.where(np.isfinite(degc), degc - self.mean_degc, 0.0)
        unknown = self.sigma**2 / np.maximum(self.independent_runs, 1.0) + (self.slope_error * away) ** 2
        return self.centre + self.slope * away, np.sqrt(unknown)


def estimate(
    values: NDArray[np.float64], uncertainty: NDArray[np.float64], degc: NDArray[np.float64] | None = None
) -> Baseline:
    """The baseline of a family from its runs.

    Args:
        values: (n, m) values, in order of the runs; NaN: this run has none for the node.
        uncertainty: (n, m) standard errors of the values; no spread is smaller than they are.
        degc: (n, m) temperature of each node at each run; None or NaN: not known, values are taken as they are.

    Sigma is the larger of the spread of the residuals and of their day-to-day differences (robust, over √2).
    """
    n_runs, m = values.shape
    is_there = np.isfinite(values)
    count = is_there.sum(axis=0)
    safe = np.maximum(count, 1)
    at = np.full((n_runs, m), np.nan) if degc is None else np.where(is_there, degc, np.nan)
    knows = np.isfinite(at).sum(axis=0) == count
    mean_degc = np.where(knows, np.nansum(at, axis=0) / safe, 0.0)
    away = np.where(np.isfinite(at) & knows, at - mean_degc, 0.0)
    mean = np.nansum(values, axis=0) / safe
    residual = np.where(is_there, values - mean, 0.0)
    slope, error = _slopes(away, residual, is_there, count)
    residual = np.where(is_there, residual - slope * away, np.nan)
    phi = _memory(residual)
    # Temperature remembers too, and what both remember says the same thing twice.
    both = phi * _ROOM_MEMORY
    error *= np.sqrt((1.0 + both) / (1.0 - both))
    free = np.maximum(count - 1 - (slope != 0.0), 1)
    long_run = np.sqrt(np.nansum(residual**2, axis=0) / free)
    statistical = np.sqrt(np.nansum(np.where(is_there, uncertainty, np.nan) ** 2, axis=0) / safe)
    sigma = np.maximum(np.maximum(long_run, _day_to_day(residual)), statistical)
    return Baseline(mean, slope, error, mean_degc, sigma, phi, count)


def _slopes(
    away: NDArray[np.float64], residual: NDArray[np.float64], is_there: NDArray[np.bool_], count: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope of each node and its standard error: its own and that of all nodes, as each deserves.

    Nodes of one check follow temperature alike; what one shows of its own counts by how well it is known against how
    much the nodes differ (empirical Bayes).
    """
    square = (away**2).sum(axis=0)
    known = square > 0.0
    slope, error = np.zeros(square.size), np.zeros(square.size)
    if not known.any():
        return slope, error
    slope[known] = (away * residual).sum(axis=0)[known] / square[known]
    left = np.where(is_there, residual - slope * away, 0.0)
    error[known] = np.sqrt((left**2).sum(axis=0) / np.maximum(count - 2, 1))[known] / np.sqrt(square[known])
    usable = known & (error > 0.0)
    if usable.sum() > 1:
        weight = 1.0 / error[usable] ** 2
        common = float((weight * slope[usable]).sum() / weight.sum())
        differ = max(float(((slope[usable] - common) ** 2 - error[usable] ** 2).mean()), 0.0)
        own = differ / (differ + error[usable] ** 2)
        slope[usable] = own * slope[usable] + (1.0 - own) * common
        error[usable] = np.sqrt(own * error[usable] ** 2 + (1.0 - own) ** 2 / weight.sum())
    return slope, error


def _day_to_day(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust spread of the differences of neighbouring runs, over √2."""
    if len(residual) < 2:
        return np.zeros(residual.shape[1])
    steps = np.abs(np.diff(residual, axis=0))
    found = np.zeros(residual.shape[1])
    has = np.isfinite(steps).any(axis=0)
    found[has] = SIGMA_OF_MAD * np.nanmedian(steps[:, has], axis=0) / np.sqrt(2.0)
    return found


def _memory(residual: NDArray[np.float64]) -> float:
    """Correlation of a run with the next over all nodes, without the bias of short series."""
    now, after = residual[:-1], residual[1:]
    both = np.isfinite(now) & np.isfinite(after)
    if not both.any():
        return 0.0
    scale = np.sqrt(np.nansum(residual**2, axis=0) / np.maximum(np.isfinite(residual).sum(axis=0), 1))
    usable = scale > 0.0
    if not usable.any():
        return 0.0
    product = np.where(both, now * after, 0.0)[:, usable] / scale[usable] ** 2
    phi = float(product.sum() / max(both[:, usable].sum(), 1))
    n = len(residual)
    # A mean that is taken from the same n runs pulls the correlation down by about (1 + 4 phi) / n (Kendall 1954).
    return float(np.clip((n * phi + 1.0) / max(n - 4.0, 1.0), 0.0, _MOST_PHI))
