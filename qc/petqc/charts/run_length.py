"""Average run lengths of control charts: how many runs until an alarm, without a shift and with one.

The statistic of a chart is a Markov chain over a fine grid (Brook and Evans 1972); the run length from its start is
the solution of a linear system. Values are independent and Gaussian, shifts in their standard deviations.
Source: daily-qc.md §2j, whose table the tests pin.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_STATES: Final = 101
_LOWEST_LIMIT = 0.5
_HIGHEST_OF_EWMA, _HIGHEST_OF_CUSUM = 6.5, 15.0


def shewhart_run_length(limit: float, shift: float = 0.0) -> float:
    """A value further than `limit` from the centre is an alarm."""
    return float(1.0 / (ndtr(-limit - shift) + ndtr(-limit + shift)))


@cache
def ewma_run_length(weight: float, limit: float, shift: float = 0.0) -> float:
    """Z = weight · value + (1 - weight) · z; |z| over `limit` of its own long-run standard deviations is an alarm."""
    edge = limit * math.sqrt(weight / (2.0 - weight))
    width = 2.0 * edge / _STATES
    middle = -edge + width * (np.arange(_STATES) + 0.5)
    carried = (1.0 - weight) * middle[:, None]
    high = (middle[None, :] + 0.5 * width - carried) / weight - shift
    low = (middle[None, :] - 0.5 * width - carried) / weight - shift
    return _from(ndtr(high) - ndtr(low), _STATES // 2)


@cache
def cusum_run_length(reference: float, limit: float, shift: float = 0.0) -> float:
    """Two one-sided sums, S = max(0, S ± value - reference); either over `limit` is an alarm."""
    up, down = (_one_sided(reference, limit, sign * shift) for sign in (1.0, -1.0))
    return 1.0 / (1.0 / up + 1.0 / down)


def _one_sided(reference: float, limit: float, shift: float) -> float:
    width = 2.0 * limit / (2 * _STATES - 1)
    middle = width * np.arange(_STATES)  # the first state is half as wide: all sums up to zero
    high = middle[None, :] + 0.5 * width - middle[:, None] + reference - shift
    passed = ndtr(high)
    step = np.diff(passed, axis=1, prepend=0.0)
    return _from(step, 0)


def _from(transition: NDArray[np.float64], start: int) -> float:
    lengths = np.linalg.solve(np.eye(len(transition)) - transition, np.ones(len(transition)))
    return float(lengths[start])


@cache
def shewhart_limit(run_length: float) -> float:
    """Limit whose run length without a shift is this."""
    return float(-ndtri(0.5 / run_length))


@cache
def ewma_limit(weight: float, run_length: float) -> float:
    """Limit of an EWMA whose run length without a shift is this."""
    return _solved(lambda limit: ewma_run_length(weight, limit), run_length, _HIGHEST_OF_EWMA)


@cache
def cusum_limit(reference: float, run_length: float) -> float:
    """Limit of a CUSUM whose run length without a shift is this."""
    return _solved(lambda limit: cusum_run_length(reference, limit), run_length, _HIGHEST_OF_CUSUM)


def _solved(length: Callable[[float], float], wanted: float, highest: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(lambda limit: math.log(length(limit) / wanted), _LOWEST_LIMIT, highest, xtol=1e-4))
