"""Current-voltage curves with a source meter: which points, how long they take, and what the curve shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_drivers.keithley_smu.meter import IvPoint

LONGEST_S: Final = 120.0
"""While a curve is measured nobody asks for the device's own limits, which count for 150 s."""
POINT_S: Final = 0.3
"""A point takes about so long besides its ramp and what it waits."""
LEAKAGE_BELOW_V: Final = 1.0
"""So far below breakdown nothing multiplies: what flows there is leakage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePlan:
    """From one voltage to another, in steps of one size; settle_s: waited at each before it is read."""

    from_v: float
    to_v: float
    step_v: float
    settle_s: float

    @property
    def points(self) -> int:
        """How many there are."""
        return int(abs(self.to_v - self.from_v) / self.step_v + 1e-6) + 1

    def volts(self) -> list[float]:
        """Of every point, in whole millivolts."""
        sign = -1 if self.to_v < self.from_v else 1
        return [round(self.from_v + sign * number * self.step_v, 3) for number in range(self.points)]

    def require_short(self, name: str, slew_v_per_s: float) -> None:
        """Refuse what would take too long.

        Raises:
            RefusedError: it would.
        """
        seconds = self.points * (POINT_S + self.settle_s)
        seconds += (abs(self.from_v) + abs(self.to_v - self.from_v)) / slew_v_per_s
        if seconds > LONGEST_S:
            raise RefusedError(
                f"{name}: a curve of {self.points} points would take about {seconds:.0f} s, at most {LONGEST_S:g} s "
                "are allowed: larger steps, or two curves"
            )


def shown(points: Sequence[IvPoint]) -> dict[str, Any]:
    """Points, breakdown and leakage as plain types; what cannot be said has a reason instead."""
    import numpy as np

    from petqc.calibrate.iv_curve import iv_breakdown
    from petqc.errors import QcError

    sign = -1.0 if sum(one.volts for one in points) < 0 else 1.0
    free = [one for one in points if not one.is_limiting]
    volts, amps = (sign * np.array([getattr(one, name) for one in free]) for name in ("volts", "amps"))
    breakdown: dict[str, Any] | None = None
    leakage: dict[str, Any] | None = None
    why_not = ""
    try:
        found = iv_breakdown(volts, amps)
        breakdown = {"volts": sign * found.volts, "error_v": found.error_v, "method": found.method}
        breakdown["other_v"] = None if found.other_v is None else sign * found.other_v
        below = np.flatnonzero(volts <= found.volts - LEAKAGE_BELOW_V)
        if below.size:
            at = below[np.argmax(volts[below])]
            leakage = {"amps": float(sign * amps[at]), "at_v": float(sign * volts[at])}
    except QcError as error:
        why_not = str(error)
    return {
        "points": [{"volts": one.volts, "amps": one.amps, "is_limiting": one.is_limiting} for one in points],
        "breakdown": breakdown,
        "why_no_breakdown": why_not,
        "leakage": leakage,
    }
