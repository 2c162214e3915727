"""EWMA, CUSUM and Shewhart charts of a family of quantities against its baseline.

Limits hold for what is really known: the spread comes from a few runs (Student's t in place of the normal
distribution), the centre has an error that stays as long as the baseline does, and a run remembers the one before (the
long-run spread of an EWMA of an AR(1) series). The run length asked for is that of the chart without a shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import ndtr, stdtrit

from petqc.charts.run_length import cusum_limit, ewma_limit, shewhart_limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.charts.baseline import Baseline

EWMA_WEIGHT: Final = 0.1
CUSUM_REFERENCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Charted:
    """One chart over r runs of m quantities.

    statistic: (r, m) in its own standard deviations. limit: (m,) an absolute value above it is an alarm.
    """

    statistic: NDArray[np.float64]
    limit: NDArray[np.float64]

    @property
    def is_alarm(self) -> NDArray[np.bool_]:
        """(r, m)."""
        return np.asarray(np.abs(np.nan_to_num(self.statistic)) > self.limit)


def shewhart(values: NDArray[np.float64], degc: NDArray[np.float64], base: Baseline, run_length: float) -> Charted:
    """Each run by itself: for steps.

    Args:
        values: (r, m) values after the baseline, in order; NaN: none.
        degc: (r, m) temperatures; NaN: not known.
        base: of the family.
        run_length: runs until a false alarm of one quantity.
    """
    expected, unknown = base.expected(degc)
    spread = np.sqrt(base.sigma**2 + unknown**2)
    return Charted(_over(values - expected, spread), _student(shewhart_limit(run_length), base.degrees_of_freedom))


def ewma(
    values: NDArray[np.float64],
    degc: NDArray[np.float64],
    base: Baseline,
    run_length: float,
    *,
    weight: float = EWMA_WEIGHT,
) -> Charted:
    """Weighted mean of the runs, newest most: for drifts and small lasting shifts. Gaps are passed over."""
    expected, unknown = base.expected(degc)
    away = values - expected
    memory = base.phi * (1.0 - weight)
    own = base.sigma * math.sqrt(weight / (2.0 - weight) * (1.0 + memory) / (1.0 - memory))
    z = np.zeros(values.shape[1])
    statistic = np.empty(values.shape)
    for k, one in enumerate(away):
        z = np.where(np.isfinite(one), weight * np.nan_to_num(one) + (1.0 - weight) * z, z)
        statistic[k] = _over(z, np.hypot(own, unknown[k]))
    return Charted(statistic, _student(ewma_limit(weight, run_length), base.degrees_of_freedom))


def cusum(values: NDArray[np.float64], degc: NDArray[np.float64], base: Baseline, run_length: float) -> Charted:
    """Sums of what exceeds half a standard deviation, on either side; of the innovations, where runs remember."""
    expected, unknown = base.expected(degc)
    away = values - expected
    innovation = np.sqrt(max(1.0 - base.phi**2, 1e-6))
    up = down = before = np.zeros(values.shape[1])
    statistic = np.empty(values.shape)
    for k, one in enumerate(away):
        is_there = np.isfinite(one)
        fresh = _over(np.nan_to_num(one) - base.phi * before, np.hypot(innovation * base.sigma, unknown[k]))
        up = np.where(is_there, np.maximum(0.0, up + fresh - CUSUM_REFERENCE), up)
        down = np.where(is_there, np.maximum(0.0, down - fresh - CUSUM_REFERENCE), down)
        before = np.where(is_there, np.nan_to_num(one), before)
        statistic[k] = np.where(up >= down, up, -down)
    return Charted(statistic, _student(cusum_limit(CUSUM_REFERENCE, run_length), base.degrees_of_freedom))


def _over(value: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0.0, value / spread, np.where(value == 0.0, 0.0, np.copysign(np.inf, value)))


def _student(limit: float, free: NDArray[np.float64]) -> NDArray[np.float64]:
    """The limit that a spread known from so many degrees of freedom needs for the same chance."""
    return np.asarray(-stdtrit(free, ndtr(-limit)))
