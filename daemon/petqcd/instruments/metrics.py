"""Readings and states of instruments as metrics: base units, and no value where none can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.device import Quality
from petqcd import clock
from petqcd.instruments.state import STATE_CODE
from petqcd.readout.supervisor import BIAS_CODE

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqcd.config import InstrumentConfig
    from petqcd.instruments.supervisor import InstrumentSupervisor
    from petqcd.metrics import Gauge, Metrics

READING_METRICS: Final = {
    "V": ("petqc_reading_volts", 1.0),
    "mA": ("petqc_reading_amperes", 1e-3),
    "degC": ("petqc_reading_celsius", 1.0),
    "ps": ("petqc_reading_seconds", 1e-12),
    "s": ("petqc_reading_seconds", 1.0),
    "%": ("petqc_reading_ratio", 1e-2),
    "1/s": ("petqc_reading_hertz", 1.0),
    "": ("petqc_reading_value", 1.0),
    "1": ("petqc_reading_value", 1.0),
}
"""By the unit of a reading: the metric that carries it, and the factor to its base unit."""
QUALITY_CODE: Final = {Quality.GOOD: 0, Quality.UNCERTAIN: 1, Quality.BAD: 2, Quality.ABSENT: 3}
_FAULTS: Final = ("timeouts", "unasked_bytes", "babble", "lost", "abandoned")
_MODULE: Final = "module:"


@dataclass(frozen=True, slots=True)
class _Gauges:
    """Of one reading. factor: to the base unit of its value."""

    quality: Gauge
    value: Gauge
    at: Gauge
    factor: float


class InstrumentMetrics:
    """The series of one instrument; all of them that have no reading exist from the start."""

    def __init__(self, metrics: Metrics, config: InstrumentConfig) -> None:
        self._metrics = metrics
        self._device, self._module = config.name, config.module
        self._faults = 0
        self._of_readings: dict[tuple[str, str, str], _Gauges | None] = {}
        self._published: tuple[Reading, ...] = ()
        self._up, self._success, self._waiting = (
            metrics.gauge(name, device=self._device)
            for name in (
                "petqc_device_up",
                "petqc_device_last_success_timestamp_seconds",
                "petqc_instrument_waiting",
            )
        )
        self._state = metrics.gauge("petqc_instrument_state", device=self._device)
        self._bias = metrics.gauge("petqc_bias_state", device=self._device)
        for gauge in (self._up, self._success, self._waiting):
            gauge.set(0)
        for name in ("polls", "polls_failed", "losses", "link_faults"):
            metrics.add(f"petqc_instrument_{name}_total", 0, device=self._device)

    def polled(self, *, failed: bool) -> None:
        """A poll is over."""
        self._metrics.add("petqc_instrument_polls_total", device=self._device)
        if failed:
            self._metrics.add("petqc_instrument_polls_failed_total", device=self._device)

    def lost(self) -> None:
        """It answered, and does not any more."""
        self._metrics.add("petqc_instrument_losses_total", device=self._device)

    def publish(self, supervisor: InstrumentSupervisor) -> None:
        """What is known now; of readings, what changed since the last time."""
        self._up.set(float(supervisor.answers))
        self._state.set(STATE_CODE[supervisor.state])
        self._waiting.set(supervisor.waiting)
        if supervisor.bias is not None:
            self._bias.set(BIAS_CODE[supervisor.bias])
        counters = supervisor.driver.link_counters
        faults = sum(counters.get(name, 0) for name in _FAULTS)
        if faults > self._faults:
            self._metrics.add("petqc_instrument_link_faults_total", faults - self._faults, device=self._device)
        self._faults = faults
        readings, last_s = supervisor.readings(), supervisor.driver.last_good_s
        offset_s = clock.unix_s() - clock.monotonic_s()
        if last_s is not None:
            self._success.set(_moment(last_s + offset_s))
        if readings is not self._published:
            self._published = readings
            for reading in readings:
                self._reading(reading, offset_s)

    def _reading(self, reading: Reading, offset_s: float) -> None:
        key = reading.name, reading.node, reading.unit
        if key not in self._of_readings:
            self._of_readings[key] = self._gauges(reading)
        gauges = self._of_readings[key]
        if gauges is None:
            return
        gauges.quality.set(QUALITY_CODE[reading.quality])
        if reading.value is None:
            gauges.value.clear()
            return
        gauges.value.set(gauges.factor * reading.value)
        gauges.at.set(_moment(reading.at_monotonic_s + offset_s))

    def _gauges(self, reading: Reading) -> _Gauges | None:
        """Of a reading that is published; None: it is not."""
        place, found = self._place(reading), READING_METRICS.get(reading.unit)
        if place is None or found is None:
            return None
        labels = {"device": self._device, **place}
        quality, value, at = (
            self._metrics.gauge(name, **labels)
            for name in ("petqc_reading_quality", found[0], "petqc_reading_last_success_timestamp_seconds")
        )
        return _Gauges(quality, value, at, found[1])

    def _place(self, reading: Reading) -> dict[str, str] | None:
        """The labels that say what and where; None for pairs of modules, of which there may be thousands."""
        node = reading.node
        if node == self._device:
            return {"module": self._module, "quantity": reading.name}
        if node.startswith(f"{self._device}:"):
            return {"module": self._module, "quantity": f"{reading.name}_{node.removeprefix(f'{self._device}:')}"}
        if node.startswith(_MODULE) and " " not in node:
            return {"module": node.removeprefix(_MODULE), "quantity": reading.name}
        return None


def _moment(unix_s: float) -> float:
    """To the millisecond: finer is not known, and would be another number at every look."""
    return round(unix_s, 3)
