"""Temperature-following bias: a slow, bounded correction, worked out from what can be believed. No clock, no device.

The correction is `mv_per_k` times what the median of good readings is above the reference. It never exceeds its bound,
never moves faster than its rate, and stands still as soon as anything about the temperature cannot be believed: then
whatever a sensor says, bias stays where it is. A sensor that lies slowly can move it to the bound, and no further.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

from petqc_drivers.device import Quality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_drivers.device import Reading

SENTINELS: Final = (-127.0, 85.0)
"""What broken 1-wire sensors say. Source: DS18B20 data sheet, power-on value 85 °C; common drivers give -127."""
PLAUSIBLE_DEGC: Final = (-40.0, 80.0)
LARGEST_JUMP_K: Final = 5.0
"""From one reading to the next, and between neighbours."""
SAMPLES, FEWEST = 7, 3
"""Of which the median is taken, and without which there is none."""
WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowingSettings:
    """How bias follows. most_v: bound of the correction; v_per_min: its rate; reference_degc: where there is none."""

    mv_per_k: float
    reference_degc: float
    most_v: float
    v_per_min: float


@dataclass(slots=True)
class Follower:
    """The correction of one bias source.

    Attributes:
        correction_v: that is asked for now.
        frozen: why it stands still; empty: it follows.
    """

    settings: FollowingSettings
    correction_v: float = 0.0
    frozen: str = "no temperature yet"
    _samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _at_s: float | None = None

    def restart(self) -> None:
        """A person set another voltage: the correction begins at nothing."""
        self.correction_v, self._at_s = 0.0, None

    def sample(self, readings: Sequence[Reading], now_s: float) -> None:
        """Take readings of the temperature, of one or several neighbours, taken at about the same time."""
        self.frozen = self._why_not(readings, now_s)
        if self.frozen:
            return
        at_s = max(one.at_monotonic_s for one in readings)
        if not self._samples or at_s > self._samples[-1][0]:
            self._samples.append((at_s, median(one.value for one in readings if one.value is not None)))
        while self._samples and now_s - self._samples[0][0] > WITHIN_S:
            self._samples.popleft()
        if len(self._samples) < FEWEST:
            self.frozen = f"{len(self._samples)} readings in the last {WITHIN_S:g} s, {FEWEST} are needed"

    def step(self, now_s: float) -> float:
        """The correction now, in volts; it moves by what its rate allows since the last step, or not at all."""
        elapsed_s = 0.0 if self._at_s is None else max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        if self.frozen:
            return self.correction_v
        wanted_v = 1e-3 * self.settings.mv_per_k * (median(t for _, t in self._samples) - self.settings.reference_degc)
        if not abs(wanted_v) <= self.settings.most_v:
            self.frozen = f"{wanted_v:+.3f} V would be needed, at most {self.settings.most_v:g} V are allowed"
            return self.correction_v
        most_v = self.settings.v_per_min * min(elapsed_s, WITHIN_S) / 60.0
        self.correction_v += max(-most_v, min(most_v, wanted_v - self.correction_v))
        return self.correction_v

    def _why_not(self, readings: Sequence[Reading], now_s: float) -> str:
        """What about these readings cannot be believed."""
        if not readings:
            return "there is no reading"
        values = []
        for one in readings:
            value = one.value
            if one.quality is not Quality.GOOD or value is None or not math.isfinite(value):
                return f"{one.node}: {one.reason or one.quality}"
            if value in SENTINELS or not PLAUSIBLE_DEGC[0] <= value <= PLAUSIBLE_DEGC[1]:
                return f"{one.node}: {value:g} °C is no temperature"
            if not 0 <= now_s - one.at_monotonic_s <= WITHIN_S / 2:
                return f"{one.node}: it is {now_s - one.at_monotonic_s:.0f} s old"
            values.append(value)
        if max(values) - min(values) > LARGEST_JUMP_K:
            return f"neighbours disagree: {min(values):g} to {max(values):g} °C"
        if self._samples and abs(median(values) - self._samples[-1][1]) > LARGEST_JUMP_K:
            return f"it jumped from {self._samples[-1][1]:g} to {median(values):g} °C"
        return ""
