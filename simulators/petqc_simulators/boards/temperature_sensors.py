"""Temperature sensors: the code that a 12-bit ADC of 2.5 V reads from each type, and where modules have them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

SensorType = Literal["LMT70", "LMT85", "LMT86", "LMT87", "NA"]
Place = Literal["asic", "sipm"]

_LMT8X: dict[str, tuple[float, float, float]] = {
    "LMT85": (1324.0, 8.194, 0.00262),
    "LMT86": (1777.3, 10.888, 0.00347),
    "LMT87": (2230.8, 13.582, 0.00433),
}
"""Voltage at 30 degC in mV, slope in mV/K and curvature in mV/K²."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor of a module: its ADC channel, what it sits at and which of these, and its type."""

    channel: int
    place: Place
    number: int
    type: SensorType


def _sensors(place: Place, sensor_type: SensorType, *channels: int) -> tuple[Sensor, ...]:
    return tuple(Sensor(channel, place, number, sensor_type) for number, channel in enumerate(channels))


_FEM_128 = _sensors("asic", "LMT86", 3, 0) + _sensors("sipm", "LMT70", 2, 1)
SENSORS: dict[int, tuple[Sensor, ...]] = {
    0x0000: (),
    0x0001: _FEM_128,
    0x0011: _FEM_128,
    0x0002: (),
    0x0012: _sensors("asic", "LMT86", 13, 12) + _sensors("sipm", "LMT86", 7, 0),
    0x0111: _sensors("asic", "LMT86", 4, 5, 6, 7) + _sensors("sipm", "LMT70", 0, 1, 2, 3),
    0x0211: (),
}
"""By kind of module, for those that carry no programmed EEPROM."""


def adc_code(sensor: SensorType, degc: float) -> int:
    """12-bit code of a sensor at a temperature; where no sensor is fitted the input floats near zero."""
    if sensor == "NA":
        return 0
    millivolt = _lmt70_mv(degc) if sensor == "LMT70" else _lmt8x_mv(sensor, degc)
    return min(max(round(millivolt * 4.096 / 2.5), 0), 0xFFF)


def _lmt8x_mv(sensor: str, degc: float) -> float:
    """The curve of 4.8 the other way round."""
    at_30_mv, slope, curvature = _LMT8X[sensor]
    root = slope - (30.0 - degc) * 2.0 * curvature
    return at_30_mv - (root * root - slope * slope) / (4.0 * curvature)


def _lmt70_mv(degc: float) -> float:
    """Newton's method on the falling cubic of 4.8."""
    v = (205.5894 - degc) / 0.1814103
    for _ in range(8):
        value = 205.5894 - 0.1814103 * v - 3.325395e-6 * v**2 - 1.809628e-9 * v**3 - degc
        slope = -0.1814103 - 2 * 3.325395e-6 * v - 3 * 1.809628e-9 * v**2
        v -= value / slope
    return v if math.isfinite(v) else 0.0
