"""The yardstick for loops over blocks: everything a hit needs in one loop, its histogram too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel
from petqc.processing.hit_kernels import (
    CLOCKS_PER_FRAME,
    R_A0,
    R_A1,
    R_A2,
    R_HIGH,
    R_KEV,
    R_LOW,
    R_SATURATION,
    R_SCALE,
    R_SHIFT,
    R_STATE,
    R_TOP,
    R_V_LOW,
    ROW_DROP,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def decode_and_count(
    words: NDArray[np.uint64],
    position: NDArray[np.int64],
    frame_id: NDArray[np.int64],
    n_frames: int,
    period_ps: float,
    chip_row: NDArray[np.int32],
    rows: NDArray[np.float32],
    shift_ps: NDArray[np.float64],
    cubics: NDArray[np.float32],
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    counts: NDArray[np.uint32],
    bin_width: float,
) -> np.int64:
    """Charges only; what `hit_kernels.decode_hits` and a loop of counting do."""
    frame_ps = np.int64(period_ps * CLOCKS_PER_FRAME)
    width = np.float32(bin_width)
    out = np.uint64(0)
    for f in range(n_frames):
        at = position[f]
        n = np.int64(words[at + 1] & np.uint64(0x7FFF))
        for k in range(at + 2, at + 2 + n):
            w = words[np.uint64(k)]
            chip = chip_row[w >> np.uint64(48)]
            if chip < 0:
                continue
            row = np.uint64(chip) + ((w >> np.uint64(40)) & np.uint64(255))
            if rows[row, R_STATE] >= np.float32(ROW_DROP):
                continue
            t_fine = np.float32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023))
            e_fine = np.float32((w + np.uint64(27)) & np.uint64(1023))
            t_coarse = np.int64((w >> np.uint64(30)) & np.uint64(1023))
            e_coarse = np.int64((w >> np.uint64(20)) & np.uint64(1023))
            if e_coarse - t_coarse < -256:
                e_coarse += 1024
            a0 = rows[row, R_A0]
            a1 = rows[row, R_A1]
            under = a1 * a1 - np.float32(4) * (a0 - t_fine) * rows[row, R_A2]
            if not under >= np.float32(0):
                continue
            q = np.float32(2) * (t_fine - a0) / (a1 + np.sqrt(under))
            relative = (np.float64(t_coarse) - np.float64(q)) * period_ps - shift_ps[row, R_SHIFT // 2]
            inside = min(max(e_fine, rows[row, R_LOW]), rows[row, R_HIGH])
            x = (np.sqrt(rows[row, R_TOP] - inside) - rows[row, R_V_LOW]) * rows[row, R_SCALE]
            cubic = np.uint64(min(max(x, np.float32(0)), np.float32(15)))
            u = x - np.float32(cubic)
            t_eq = ((cubics[row, cubic, 3] * u + cubics[row, cubic, 2]) * u + cubics[row, cubic, 1]) * u
            t_eq += cubics[row, cubic, 0]
            e = np.float32(np.float64(t_eq) - (np.float64(e_coarse) - relative / period_ps))
            saturation = np.float64(rows[row, R_SATURATION])
            if e >= saturation:
                continue
            e = np.float32(-np.float64(rows[row, R_KEV]) * saturation * np.log1p(-np.float64(e) / saturation))
            if not np.isfinite(e):
                continue
            time_ps[out] = frame_id[f] * frame_ps + np.int64(np.floor(relative + 0.5))
            energy[out] = e
            channel[out] = np.int32(row >> np.uint64(2))
            j = np.int64(e / width)
            if 0 <= j < counts.shape[1]:
                counts[row >> np.uint64(2), j] += np.uint32(1)
            out += np.uint64(1)
    return np.int64(out)
