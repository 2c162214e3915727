"""Columns of events, from single channels to coincidences.

Times are int64 picoseconds since the run's time reference (synchronisation), energies float32 in the unit
that the container names, channels int32 absolute channel numbers
(`port << 17 | slave << 12 | chip << 6 | channel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EnergyUnit = Literal["clock", "ns", "kev", "arbitrary"]
"""clock: charge mode before calibration; ns: time over threshold; kev: calibrated."""


@dataclass(frozen=True, slots=True)
class Hits:
    """One channel's calibrated measurements; arrays of one length, in the order of the source."""

    time_ps: NDArray[np.int64]
    energy: NDArray[np.float32]
    channel: NDArray[np.int32]
    energy_unit: EnergyUnit = "arbitrary"

    def __len__(self) -> int:
        return int(self.time_ps.size)


@dataclass(frozen=True, slots=True)
class Singles:
    """One gamma a row: hits of one photon grouped. Time and channel are the strongest hit's, energy is the sum."""

    time_ps: NDArray[np.int64]
    energy: NDArray[np.float32]
    channel: NDArray[np.int32]
    n_hits: NDArray[np.uint8]
    energy_unit: EnergyUnit = "arbitrary"

    def __len__(self) -> int:
        return int(self.time_ps.size)

    @classmethod
    def empty(cls, energy_unit: EnergyUnit = "arbitrary") -> Singles:
        """No singles at all."""
        return cls(
            np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.uint8), energy_unit
        )


@dataclass(frozen=True, slots=True)
class Coincidences:
    """Pairs of singles. Side a is the single of the higher region, so that signs are stable; dt = t_a - t_b."""

    time_a_ps: NDArray[np.int64]
    time_b_ps: NDArray[np.int64]
    energy_a: NDArray[np.float32]
    energy_b: NDArray[np.float32]
    channel_a: NDArray[np.int32]
    channel_b: NDArray[np.int32]
    n_hits_a: NDArray[np.uint8]
    n_hits_b: NDArray[np.uint8]
    energy_unit: EnergyUnit = "arbitrary"

    def __len__(self) -> int:
        return int(self.time_a_ps.size)

    @classmethod
    def empty(cls, energy_unit: EnergyUnit = "arbitrary") -> Coincidences:
        """No pairs at all."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            np.empty(0, np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int32),
            np.empty(0, np.int32),
            np.empty(0, np.uint8),
            np.empty(0, np.uint8),
            energy_unit,
        )
