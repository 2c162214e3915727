"""What the monitors of a C11204 say: readings, and whether it must trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from petqc_drivers.bias_source import LIVE, LIVE_V
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.hamamatsu_c11204.wire import Status

if TYPE_CHECKING:
    from petqc_drivers.device import OutputState
    from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
    from petqc_drivers.hamamatsu_c11204.wire import Poll
    from petqc_drivers.limits import Volts

_SENSOR_ABSENT_DEGC: Final = 150.0
"""What an input without sensor reads lies above. Source: conversions, code 1 is 188 °C."""
_FAR_CURRENT: Final = 1.1
"""So many times the allowed current need no second look."""


class Monitor:
    """Reads polls of one supply; keeps how many doubtful ones came in a row."""

    def __init__(self, settings: HamamatsuC11204Settings) -> None:
        self._settings = settings
        self._ua_per_code = wire.MODELS[settings.model].ua_per_code
        self._doubtful = 0

    def readings(self, poll: Poll, output: OutputState, commanded: Volts | None) -> list[Reading]:
        """What a poll says."""
        volts_v, quality, reason = wire.volts(poll.voltage), Quality.GOOD, None
        if volts_v > wire.HIGHEST_V + self._settings.tolerance_v:
            quality, reason = Quality.UNCERTAIN, "above what the supply can give"
        elif volts_v > LIVE_V and Status.HV_ON not in poll.status:
            quality, reason = Quality.UNCERTAIN, LIVE
        is_known = commanded is not None
        return [
            self._reading("bias_voltage", volts_v, "V", quality, reason),
            self._reading("bias_current", self.current_ma(poll), "mA"),
            self._temperature(poll),
            self._reading(
                "bias_commanded",
                commanded.value if commanded is not None else None,
                "V",
                Quality.GOOD if is_known else Quality.ABSENT,
                None if is_known else f"output {output.value}",
                measured=False,
            ),
            self._reading("bias_on", float(Status.HV_ON in poll.status), ""),
            self._reading("bias_compensating", float(self.is_compensating(poll.status)), ""),
        ]

    def _temperature(self, poll: Poll) -> Reading:
        t_degc = wire.degc(poll.temperature)
        if Status.SENSOR_CONNECTED not in poll.status or t_degc > _SENSOR_ABSENT_DEGC:
            absent = "no sensor connected"
            return self._reading("temperature_sipm", None, "degC", Quality.ABSENT, absent, measured=False)
        if Status.TEMPERATURE_OUT_OF_RANGE in poll.status:
            return self._reading("temperature_sipm", t_degc, "degC", Quality.UNCERTAIN, "outside -20 to 60 °C")
        return self._reading("temperature_sipm", t_degc, "degC")

    def _reading(
        self,
        name: str,
        value: float | None,
        unit: str,
        quality: Quality = Quality.GOOD,
        reason: str | None = None,
        *,
        measured: bool = True,
    ) -> Reading:
        return Reading(name, self._settings.name, value, unit, measured, quality, monotonic_s(), reason)

    def current_ma(self, poll: Poll) -> float:
        """Of the output; the models scale it differently."""
        return 1e-3 * self._ua_per_code * poll.current

    def is_compensating(self, status: Status) -> bool:
        """Whether the module follows its temperature sensor."""
        return (Status.COMPENSATION_ACTIVE in status) == self._settings.compensation_bit_when

    def over_limit(self, poll: Poll) -> str | None:
        """Why it must trip: one reading far outside, or the second one in a row that is outside at all."""
        if Status.OVER_CURRENT_PROTECTION in poll.status:
            return "over-current protection of the supply"
        if Status.AUTO_RESTORE in poll.status:
            return "the supply restores its output by itself"
        if Status.HV_ON not in poll.status:
            self._doubtful = 0
            return None
        limit, settings = self._settings.limit, self._settings
        volts_v, current_ma = wire.volts(poll.voltage), self.current_ma(poll)
        over_v = 0.0 if limit is None else volts_v - limit.v_max.value
        if over_v <= wire.V_PER_CODE and current_ma <= settings.most_current_ma:
            self._doubtful = 0
            return None
        self._doubtful += 1
        is_far = over_v > settings.tolerance_v or current_ma > _FAR_CURRENT * settings.most_current_ma
        if self._doubtful == 1 and not is_far:
            return None
        if limit is not None and over_v > wire.V_PER_CODE:
            return f"measured {volts_v:.3f} V, the hard limit ends at {limit.v_max}"
        return f"measured {current_ma:.3f} mA, allowed are {settings.most_current_ma:g} mA"
