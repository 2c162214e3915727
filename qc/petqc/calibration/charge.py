"""Charge integrator (QDC): the ADC code of a hit against the time the bare baseline would have needed to give it.

ADC(t) = Σ p_k t^k is the code after integrating the baseline for t clocks. A hit integrated for t_i clocks has the
charge E = t_eq - t_i with ADC(t_eq) = code, in clocks. Source: PETsys `qdc_calibration_table`, p0..p9 per channel, TAC.

Two inversions: Newton steps in single precision as the vendor takes them, and a table of cubics for speed, built once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.calibration.charge_kernels import N_COEFFICIENTS, halve, rising_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_CUBICS = 16

_TOP_MARGIN_CODES, _TOP_FAR_CODES = 4.0, 2048.0

TOP, SCALE, V_LOW, CODE_LOW, CODE_HIGH, END_LOW, END_HIGH = range(7)
"""Columns of `ChargeTable.ends`."""


def code_of_time(t_clocks: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forward model, float64: code after t clocks of baseline. p: (..., 10); t broadcasts against p's leading axes."""
    value = np.zeros(np.broadcast_shapes(np.shape(t_clocks), p.shape[:-1]))
    for k in range(p.shape[-1] - 1, -1, -1):
        value *= t_clocks
        value += p[..., k]
    return value


def slope_at_time(t_clocks: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """D code / d t, in codes a clock; shapes as in `code_of_time`."""
    value = np.zeros(np.broadcast_shapes(np.shape(t_clocks), p.shape[:-1]))
    for k in range(p.shape[-1] - 1, 0, -1):
        value *= t_clocks
        value += k * p[..., k]
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
    """Inverse of ADC(t) as cubics in v = √(top - code), one row a channel and TAC.

    A curve that bends towards its highest code has an inverse like a square root there; in v it is smooth, so that
    few cubics reach single precision. t_eq = ((c3 u + c2) u + c1) u + c0 with x = (v - v_low) scale, u = x - trunc(x).
    cubics: (n_rows, 16, 4) float32, c0 first. ends: (n_rows, 8) float32: top, scale, v_low, the lowest and highest code
    of the rise and the slopes d t / d code there: outside, where a code hardly tells a time, the inverse goes on
    straight. usable: (n_rows,) bool.
    """

    cubics: NDArray[np.float32]
    ends: NDArray[np.float32]
    usable: NDArray[np.bool_]


def charge_table(p: NDArray[np.float32]) -> ChargeTable:
    """Build the table for rows of coefficients, p: (n_rows, 10).

    Rows whose p1, the slope at t = 0, is not positive are not calibrated.
    """
    n_rows = p.shape[0]
    usable = p[:, 1] > 0
    cubics = np.zeros((n_rows, N_CUBICS, 4), np.float32)
    ends = np.zeros((n_rows, 8), np.float32)
    for part in np.array_split(np.flatnonzero(usable), n_rows // 256 + 1):  # fits the processor's cache
        if part.size:
            cubics[part], ends[part] = _table_of(np.asfortranarray(p[part], np.float64))
    return ChargeTable(cubics, ends, usable)


def time_of_code(code: NDArray[np.float32], row: NDArray[np.int64], table: ChargeTable) -> NDArray[np.float32]:
    """The fast inversion, float32, as the kernels do it; code and row: (n,)."""
    ends = table.ends[row]
    c = np.asarray(code, np.float32)
    inside = np.clip(c, ends[:, CODE_LOW], ends[:, CODE_HIGH])
    x = (np.sqrt(ends[:, TOP] - inside) - ends[:, V_LOW]) * ends[:, SCALE]
    k = np.clip(x.astype(np.int64), 0, N_CUBICS - 1)
    u = x - k.astype(np.float32)
    a = table.cubics[row, k]
    t: NDArray[np.float32] = ((a[:, 3] * u + a[:, 2]) * u + a[:, 1]) * u + a[:, 0]
    beyond: NDArray[np.float32] = np.where(c > inside, ends[:, END_HIGH], ends[:, END_LOW]) * (c - inside)
    return t + beyond


def _table_of(p: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    by_power = np.ascontiguousarray(p.T)
    t_low, t_high = np.empty(p.shape[0]), np.empty(p.shape[0])
    rising_range(by_power, t_low, t_high)
    code_low, code_high = code_of_time(t_low, p), code_of_time(t_high, p)
    slope_low, slope_high = slope_at_time(t_low, p), slope_at_time(t_high, p)
    bend = slope_at_time(t_high + 0.5, p) - slope_at_time(t_high - 0.5, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise_left = np.where(bend < 0, -(slope_high**2) / (2 * bend), _TOP_FAR_CODES)
    top = code_high + np.clip(rise_left, _TOP_MARGIN_CODES, _TOP_FAR_CODES)
    v_low, v_high = np.sqrt(top - code_high), np.sqrt(top - code_low)
    v = v_low + (v_high - v_low) * np.arange(N_CUBICS + 1)[:, None] / N_CUBICS
    t = np.empty_like(v)
    halve(by_power, t_low, t_high, top - v**2, t)
    step = (v_high - v_low) / N_CUBICS
    slope = -2 * v / slope_at_time(t, p) * step  # d t / d x, x in cubics
    t0, t1, d0, d1 = t[:-1], t[1:], slope[:-1], slope[1:]
    cubics = np.stack([t0, d0, 3 * (t1 - t0) - 2 * d0 - d1, d0 + d1 - 2 * (t1 - t0)], axis=-1)
    ends = np.stack(
        [top, 1 / step, v_low, code_low, code_high, 1 / slope_low, 1 / slope_high, np.zeros_like(top)], axis=-1
    )
    return np.ascontiguousarray(cubics.transpose(1, 0, 2)).astype(np.float32), ends.astype(np.float32)
