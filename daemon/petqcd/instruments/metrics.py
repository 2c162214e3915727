"""Readings and states of instruments as metrics: base units, and no value where none can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from petqc_drivers.device import Quality
from petqcd import clock
from petqcd.instruments.state import STATE_CODE
from petqcd.readout.supervisor import BIAS_CODE

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqcd.config import InstrumentConfig
    from petqcd.instruments.supervisor import InstrumentSupervisor
    from petqcd.metrics import Metrics

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


class InstrumentMetrics:
    """The series of one instrument; all of them that have no reading exist from the start."""

    def __init__(self, metrics: Metrics, config: InstrumentConfig) -> None:
        self._metrics = metrics
        self._device, self._module = config.name, config.module
        self._faults = 0
        for name in ("petqc_device_up", "petqc_device_last_success_timestamp_seconds", "petqc_instrument_waiting"):
            metrics.set(name, 0, device=self._device)
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
        """What is known now."""
        self._set("petqc_device_up", float(supervisor.answers))
        self._set("petqc_instrument_state", STATE_CODE[supervisor.state])
        self._set("petqc_instrument_waiting", supervisor.waiting)
        if supervisor.bias is not None:
            self._set("petqc_bias_state", BIAS_CODE[supervisor.bias])
        last_s = supervisor.driver.last_good_s
        if last_s is not None:
            self._set("petqc_device_last_success_timestamp_seconds", _unix_s(last_s))
        counters = supervisor.driver.link_counters
        faults = sum(counters.get(name, 0) for name in _FAULTS)
        self._metrics.add("petqc_instrument_link_faults_total", max(faults - self._faults, 0), device=self._device)
        self._faults = faults
        for reading in supervisor.readings():
            self._reading(reading)

    def _set(self, name: str, value: float) -> None:
        self._metrics.set(name, value, device=self._device)

    def _reading(self, reading: Reading) -> None:
        place = self._place(reading)
        found = READING_METRICS.get(reading.unit)
        if place is None or found is None:
            return
        name, factor = found
        labels = {"device": self._device, **place}
        self._metrics.set("petqc_reading_quality", QUALITY_CODE[reading.quality], **labels)
        if reading.value is None:
            self._metrics.clear(name, **labels)
            return
        self._metrics.set(name, factor * reading.value, **labels)
        self._metrics.set("petqc_reading_last_success_timestamp_seconds", _unix_s(reading.at_monotonic_s), **labels)

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


def _unix_s(at_monotonic_s: float) -> float:
    return clock.unix_s() - (clock.monotonic_s() - at_monotonic_s)
