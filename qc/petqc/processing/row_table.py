"""What decoding needs of a channel and TAC, in one line of the cache.

A hit finds its row at random among tens of thousands; from tables of their own, each of its seven numbers would be
another wait for memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.calibration.charge import CODE_HIGH, CODE_LOW, END_HIGH, END_LOW, SCALE, TOP, V_LOW
from petqc.processing.hit_kernels import (
    R_A0,
    R_A1,
    R_A2,
    R_ABOVE,
    R_B0,
    R_BELOW,
    R_END,
    R_HIGH,
    R_KEV,
    R_SATURATION,
    R_SHIFT,
    R_STATE,
    ROW_TOT,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LINE_BYTES = 64
_COLUMNS = _LINE_BYTES // 4


@dataclass(frozen=True, slots=True)
class RowTable:
    """Calibration by row.

    rows: (n_rows, 16) float32, each row a line of the cache. shift_ps: the same memory as (n_rows, 8) float64; its
    column R_SHIFT // 2 is the shift. has_kev: energies are calibrated in keV.
    """

    rows: NDArray[np.float32]
    shift_ps: NDArray[np.float64]
    has_kev: bool


def row_table(
    state: NDArray[np.uint8],
    tdc: NDArray[np.float32],
    shift_ps: NDArray[np.float64],
    ends: NDArray[np.float32],
    kev: NDArray[np.float32],
) -> RowTable:
    """Put them together.

    Args:
        state: (n_rows,) how to treat each row, as `hit_kernels` says.
        tdc: (n_rows, 8) a0 a1 a2 and t0 of the T branch, then of the E branch.
        shift_ps: (n_rows,) t0 of the T branch and the channel's time offset, in ps.
        ends: (n_rows, 8) of the charge curves (`calibration.charge.ChargeTable`).
        kev: (n_rows / 4 or 0, 2) keV per unit and saturation.
    """
    n = state.size
    memory = np.empty(n * _LINE_BYTES + _LINE_BYTES, np.uint8)
    begin = -memory.ctypes.data % _LINE_BYTES
    rows = memory[begin : begin + n * _LINE_BYTES].view(np.float32).reshape(n, _COLUMNS)
    doubles = memory[begin : begin + n * _LINE_BYTES].view(np.float64).reshape(n, _COLUMNS // 2)
    rows[:] = 0.0
    rows[:, [R_A0, R_A1, R_A2]] = tdc[:, :3]
    rows[:, R_STATE] = state
    doubles[:, R_SHIFT // 2] = shift_ps
    is_tot = state == ROW_TOT
    charge = ends[:, [TOP, SCALE, V_LOW, CODE_LOW, CODE_HIGH]]
    rows[:, R_B0 : R_HIGH + 1] = charge
    rows[is_tot, R_B0 : R_END + 1] = tdc[is_tot, 4:8]
    rows[:, [R_BELOW, R_ABOVE]] = ends[:, [END_LOW, END_HIGH]]
    if kev.size:
        rows[:, [R_KEV, R_SATURATION]] = np.repeat(kev, 4, axis=0)
    return RowTable(rows, doubles, kev.size > 0)
