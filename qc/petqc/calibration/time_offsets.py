"""Time offsets of channels: picoseconds subtracted from every time of a channel.

Source: PETsys `time_offset_calibration_table`, `port slave chip channel t0_ps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def apply_offset(time_ps: NDArray[np.float64], offset_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corrected times: T - t0."""
    return time_ps - offset_ps


def remove_offset(time_ps: NDArray[np.float64], offset_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse: times as they were measured."""
    return time_ps + offset_ps


def centred(offset_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets with mean zero over the channels that have one (NaN: none): only differences are observable."""
    has = np.isfinite(offset_ps)
    if not has.any():
        return offset_ps
    mean: np.float64 = offset_ps[has].mean()
    return offset_ps - mean
