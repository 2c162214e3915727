"""What SiPMs draw from their bias supply: the charge of every avalanche."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.physics.sipm import SipmState

ELECTRON_C: Final = 1.602176634e-19
NOMINAL_GAIN: Final = 1.7e6
"""Of one avalanche at the nominal overvoltage: a typical SiPM with cells of 50 um at 3 V."""


def dark_current_ma(state: SipmState, group_of: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """Current of each group of channels by their dark counts, crosstalk included.

    Args:
        state: of every channel.
        group_of: (channels,) supply that feeds it.
        groups: how many supplies there are.
    """
    avalanches_hz = np.where(state.overvoltage_v > 0.0, state.dark_hz * (1.0 + state.crosstalk), 0.0)
    current_a = avalanches_hz * NOMINAL_GAIN * ELECTRON_C * state.gain
    return np.asarray(1e3 * np.bincount(group_of, current_a, groups))
