"""Time interpolator (TDC): the fine code of a hit against the interval it measured.

A hit at time T is latched at coarse count c; the interpolator measures q = c - T, in clocks, and answers with
code = a0 + a1 q + a2 q². Source: PETsys TOFPET2 calibration tables, `t0 a0 a1 a2` per channel, TAC and branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE_OFFSET = 27
"""Added to the raw fine code, modulo 1024, before any calibration. Source: PETsys raw event word."""


def decoded_fine(raw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Fine codes (0..1023) as calibrations use them, from the 10 raw bits of an event word."""
    return ((raw.astype(np.int64) & 1023) + FINE_OFFSET) & 1023


def code_of_interval(
    q_clocks: NDArray[np.float64], a0: NDArray[np.float64], a1: NDArray[np.float64], a2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Forward model: expected code (not rounded) for an interval in clocks; arrays broadcast."""
    return a0 + a1 * q_clocks + a2 * q_clocks**2


def interval_of_code(
    fine: NDArray[np.float32], a0: NDArray[np.float32], a1: NDArray[np.float32], a2: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interval q in clocks, single precision, without cancellation: 2(f - a0) / (a1 + √(a1² - 4(a0 - f)a2)).

    It is right for a2 = 0 too. NaN where no interval gives this code. Arrays broadcast.
    """
    f, b0, b1, b2 = (np.asarray(x, np.float32) for x in (fine, a0, a1, a2))
    under = b1 * b1 - np.float32(4) * (b0 - f) * b2
    with np.errstate(invalid="ignore", divide="ignore"):
        q: NDArray[np.float32] = np.float32(2) * (f - b0) / (b1 + np.sqrt(under))
    return q


def interval_of_code_vendor(
    fine: NDArray[np.float32], a0: NDArray[np.float32], a1: NDArray[np.float32], a2: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The same interval in the vendor's form, single precision: (-a1 + √(a1² - 4(a0 - f)a2)) / (2 a2); needs a2 ≠ 0.

    Its rounding error grows as 1/a2 (up to 2.5 ps at a2 = -0.01), which is why it is used for compatibility only.
    """
    f, b0, b1, b2 = (np.asarray(x, np.float32) for x in (fine, a0, a1, a2))
    under = b1 * b1 - np.float32(4) * (b0 - f) * b2
    with np.errstate(invalid="ignore", divide="ignore"):
        q: NDArray[np.float32] = (-b1 + np.sqrt(under)) / (np.float32(2) * b2)
    return q


def interval_range(
    a0: NDArray[np.float32], a1: NDArray[np.float32], a2: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smallest and largest interval (clocks) that codes 0..1023 can mean, per row; a1 must not be 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        top = (-a1 / (np.float32(2) * a2)).astype(np.float32)  # the parabola turns here: codes beyond have no interval
    low = interval_of_code(np.zeros_like(a0), a0, a1, a2)
    high = interval_of_code(np.full_like(a0, 1023), a0, a1, a2)
    return np.where(np.isnan(low), top, low), np.where(np.isnan(high), top, high)
