"""Current of a SiPM or an array of them against voltage and temperature, for instruments that measure it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

BREAKDOWN_V_PER_K: Final = 0.054
"""Source: Keithley reference, "IV physics for the simulator"."""
SURFACE_A: Final = 2.0e-9
"""Leakage that never multiplies, at 25 degC and a few volts below breakdown."""
GEIGER_A_PER_V2: Final = 4.0e-7
"""Dark current of the array above breakdown."""
SATURATION_A: Final = 2.0e-3
DOUBLING_K: Final = 9.0
_EDGE_V: Final = 0.05
"""Width of the breakdown of an array: its cells are not all alike."""


@dataclass(slots=True)
class SipmLoad:
    """An array at the end of a cable; changed from outside at any time.

    breakdown_v: at 25 degC. degc: its temperature. worse: factor on the dark current (radiation, moisture). is_open:
    whether the cable is off.
    """

    breakdown_v: float = 53.0
    degc: float = 25.0
    worse: float = 1.0
    is_open: bool = False

    def current_a(self, volts: float) -> float:
        """Reverse current at a voltage; negative voltage is forward, with the quenching resistors in series."""
        if self.is_open:
            return 0.0
        if volts < 0.0:
            return -max(-volts - 0.6, 0.0) / 50.0
        warm = math.exp2((self.degc - 25.0) / DOUBLING_K) * self.worse
        over = volts - self.breakdown_v - BREAKDOWN_V_PER_K * (self.degc - 25.0)
        # Softened by what the cells differ: 0 well below, `over` well above.
        soft = _EDGE_V * math.log1p(math.exp(min(over / _EDGE_V, 700.0))) if over < 10.0 else over
        geiger = GEIGER_A_PER_V2 * warm * soft * soft
        surface = SURFACE_A * warm * (0.2 + 0.8 * min(volts / 50.0, 2.0))
        return surface + geiger / (1.0 + geiger / SATURATION_A)
