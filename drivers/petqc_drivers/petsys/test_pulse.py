"""The board's test pulse generator: one pulse every interval, at a phase that moves in steps of a 336th of a clock.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from petqc_drivers.petsys.wire import WireError

PHASES_PER_CLOCK: Final = 6 * 56
OFF: Final = 0
"""Word of a generator that is off."""

_LENGTH_BITS, _GAP_BITS, _PHASE_BITS = 10, 21, 24
_GAP_AT, _PHASE_AT, _INVERT_AT, _ENABLE_AT = 10, 31, 61, 63


@dataclass(frozen=True, slots=True)
class TestPulse:
    """A train of pulses, in clocks of 5 ns.

    Attributes:
        length_clk: How long a pulse is.
        interval_clk: From one pulse to the next; 1024 puts one at the same place of every frame.
        phase_clk: By how much the train is later, rounded to the generator's steps.
        is_inverted: The output rests high.

    Raises:
        WireError: If a number does not fit its field.
    """

    __test__ = False  # not a test, whatever its name says to a test runner

    length_clk: int
    interval_clk: int
    phase_clk: float = 0.0
    is_inverted: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.length_clk < 1 << _LENGTH_BITS:
            raise WireError(f"test pulse of {self.length_clk} clocks, 1..{(1 << _LENGTH_BITS) - 1} are possible")
        gap = self.interval_clk - (self.length_clk + 1)
        if not 0 <= gap < 1 << _GAP_BITS:
            low, high = self.length_clk + 1, self.length_clk + (1 << _GAP_BITS)
            raise WireError(f"test pulse every {self.interval_clk} clocks, {low}..{high} are possible")
        if not (math.isfinite(self.phase_clk) and 0 <= self._phase_steps < 1 << _PHASE_BITS):
            highest = ((1 << _PHASE_BITS) - 1) / PHASES_PER_CLOCK
            raise WireError(f"test pulse phase of {self.phase_clk} clocks, 0..{highest:.0f} are possible")

    @property
    def _phase_steps(self) -> int:
        return round(self.phase_clk * PHASES_PER_CLOCK)

    @property
    def true_phase_clk(self) -> float:
        """The phase that the generator makes of the one asked for."""
        return self._phase_steps / PHASES_PER_CLOCK

    def meets_refresh(self, tac_refresh_period: int, tac_max_age: int) -> bool:
        """Whether pulses always fall on the same place of the ASICs' buffer refresh, which spoils a calibration.

        Args:
            tac_refresh_period: Global ASIC field.
            tac_max_age: Channel ASIC field.
        """
        return self.interval_clk % (64 * (tac_refresh_period + 1) * (tac_max_age + 1)) == 0

    def to_word(self) -> int:
        """Value of the register `test_pulse`."""
        return (
            self.length_clk
            | (self.interval_clk - (self.length_clk + 1)) << _GAP_AT
            | self._phase_steps << _PHASE_AT
            | self.is_inverted << _INVERT_AT
            | 1 << _ENABLE_AT
        )

    @classmethod
    def from_word(cls, word: int) -> TestPulse | None:
        """The train that a register value means; None if the generator is off.

        Raises:
            WireError: If it is on with a pulse of no length.
        """
        if not word >> _ENABLE_AT & 1:
            return None
        length = word & (1 << _LENGTH_BITS) - 1
        return cls(
            length,
            (word >> _GAP_AT & (1 << _GAP_BITS) - 1) + length + 1,
            (word >> _PHASE_AT & (1 << _PHASE_BITS) - 1) / PHASES_PER_CLOCK,
            bool(word >> _INVERT_AT & 1),
        )
