"""Charge integrator (QDC): the ADC code of a hit against the time the bare baseline would have needed to give it.

ADC(t) = Σ p_k t^k is the code after integrating the baseline for t clocks. A hit integrated for t_i clocks has the
charge E = t_eq - t_i with ADC(t_eq) = code, in clocks. Source: PETsys `qdc_calibration_table`, p0..p9 per channel, TAC.

Two inversions: Newton steps in single precision as the vendor takes them, and a table of cubics for speed, built once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_COEFFICIENTS = 10
CODES_PER_CUBIC = 64
N_CUBICS = 1024 // CODES_PER_CUBIC

_T_LOW_CLOCKS, _T_HIGH_CLOCKS = -64.0, 1024.0  # charge runs cover 0..430 clocks; the rest is for pedestal and tails
_FLAT = 0.05  # beyond the point where the slope falls below this share of its value at t = 0 a code tells nothing


def code_of_time(t_clocks: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forward model, float64: code after t clocks of baseline. p: (..., 10); t broadcasts against p's leading axes."""
    value = np.zeros(np.broadcast_shapes(np.shape(t_clocks), p.shape[:-1]))
    for k in range(p.shape[-1] - 1, -1, -1):
        value = value * t_clocks + p[..., k]
    return value


def slope_at_time(t_clocks: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """d code / d t, in codes a clock; shapes as in `code_of_time`."""
    value = np.zeros(np.broadcast_shapes(np.shape(t_clocks), p.shape[:-1]))
    for k in range(p.shape[-1] - 1, 0, -1):
        value = value * t_clocks + k * p[..., k]
    return value


def time_of_code_newton(
    code: NDArray[np.float32], start_clocks: NDArray[np.float32], p: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The vendor's inversion, single precision: from t = start, Newton steps of at most ±10 until |step| <= 0.05.

    The last step is applied; at most 100 steps. code, start: (n,) float32; p: (n, 10) float32.
    """
    t = np.array(start_clocks, np.float32)
    running = np.ones(t.shape, bool)
    coefficients = np.asarray(p, np.float32)
    for _ in range(100):
        value = np.zeros_like(t)
        slope = np.zeros_like(t)
        for k in range(N_COEFFICIENTS - 1, -1, -1):
            slope = slope * t + value
            value = value * t + coefficients[..., k]
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip((np.asarray(code, np.float32) - value) / slope, np.float32(-10), np.float32(10))
        t = np.where(running, t + step, t)
        running &= ~(np.abs(step) <= np.float32(0.05))
        if not running.any():
            break
    return t


@dataclass(frozen=True, slots=True)
class ChargeTable:
    """Inverse of ADC(t) as cubics: t_eq = ((c3 u + c2) u + c1) u + c0, u = code mod 64, one cubic per 64 codes.

    cubics: (n_rows, 16, 4) float32, c0 first. code_low, code_high: (n_rows,) int32, the range in which the curve rises
    and a code means a time; outside the table goes on straight, with the slope of its end.
    """

    cubics: NDArray[np.float32]
    code_low: NDArray[np.int32]
    code_high: NDArray[np.int32]


def charge_table(p: NDArray[np.float32]) -> ChargeTable:
    """Build the table for rows of coefficients, p: (n_rows, 10). Rows whose p1, the slope at t = 0, is not positive
    are not calibrated and give zeros."""
    n_rows = p.shape[0]
    cubics = np.zeros((n_rows, N_CUBICS, 4), np.float32)
    low = np.zeros(n_rows, np.int32)
    high = np.full(n_rows, -1, np.int32)
    for begin in range(0, n_rows, 4096):  # bounds the memory of the search grid
        rows = slice(begin, begin + 4096)
        good = p[rows, 1] > 0
        if good.any():
            cubics_part, low_part, high_part = _table_of(p[rows][good].astype(np.float64))
            cubics[rows][good], low[rows][good], high[rows][good] = cubics_part, low_part, high_part
    return ChargeTable(cubics, low, high)


def _table_of(p: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    t_low, t_high = _rising_range(p)
    code_low, code_high = code_of_time(t_low, p), code_of_time(t_high, p)
    knots = np.arange(0, 1025, CODES_PER_CUBIC, dtype=np.float64)[:, None]
    inside = np.clip(knots, code_low, code_high)
    left, right = np.broadcast_to(t_low, inside.shape).copy(), np.broadcast_to(t_high, inside.shape).copy()
    for _ in range(50):  # bisection cannot fail on a rising curve; 1100 clocks / 2^50 is far below single precision
        middle = 0.5 * (left + right)
        above = code_of_time(middle, p) >= inside
        right = np.where(above, middle, right)
        left = np.where(above, left, middle)
    slope = 1.0 / slope_at_time(right, p)
    time = right + (knots - inside) * slope
    h = float(CODES_PER_CUBIC)
    t0, t1, d0, d1 = time[:-1], time[1:], slope[:-1], slope[1:]
    chord = (t1 - t0) / h
    cubics = np.stack([t0, d0, (3 * chord - 2 * d0 - d1) / h, (d0 + d1 - 2 * chord) / h**2], axis=-1)
    return (
        np.ascontiguousarray(cubics.transpose(1, 0, 2)).astype(np.float32),
        np.ceil(code_low).astype(np.int32),
        np.floor(code_high).astype(np.int32),
    )


def _rising_range(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last time (clocks) of the rise around t = 0, on a grid of one clock; each (n_rows,)."""
    grid = np.arange(_T_LOW_CLOCKS, _T_HIGH_CLOCKS + 1.0)[:, None]
    origin = int(-_T_LOW_CLOCKS)
    slope = slope_at_time(grid, p)
    flat = slope < _FLAT * slope[origin]
    code = code_of_time(grid, p)
    stop_above = (flat | (code > 1024))[origin:]
    stop_below = (flat | (code < 0))[origin::-1]
    n_above = np.where(stop_above.any(0), np.maximum(stop_above.argmax(0) - 1, 0), stop_above.shape[0] - 1)
    n_below = np.where(stop_below.any(0), np.maximum(stop_below.argmax(0) - 1, 0), stop_below.shape[0] - 1)
    return -n_below.astype(np.float64), n_above.astype(np.float64)
