"""Temperatures of a board's modules.

A reading tells apart three things that all have no value: nothing is fitted there (ABSENT), the sensor failed (BAD),
and the module's ADC does not answer, so that nothing is known of its sensors (BAD, see `ADC_SILENT`).

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 4.6 and 4.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.petsys.module_eeprom import ModuleEeprom, Sensor, SensorKind, has_eeprom, read_eeprom
from petqc_drivers.petsys.spi import (
    ABSENT_WORD,
    MAX111XX_CONFIGURATION,
    MAX111XX_CONTROL,
    max111xx_channel_word,
    max111xx_code,
    max111xx_transfer,
    module_adc,
)
from petqc_drivers.petsys.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.registers import BoardKind

PLAUSIBLE_DEGC: Final = (-40.0, 125.0)
ADC_SILENT: Final = "the module's ADC does not answer"
NOT_FITTED: Final = "no sensor is fitted there"
_FULL_CODE: Final = 0xFFF
_CHECKS: Final = 2
"""The ADC's echo check is always run twice; the first run sets it up."""


_FEM_128: Final = (
    Sensor(3, "asic", 0, "LMT86"),
    Sensor(2, "sipm", 0, "LMT70"),
    Sensor(0, "asic", 1, "LMT86"),
    Sensor(1, "sipm", 1, "LMT70"),
)
_FEM_128_MUX: Final = (
    Sensor(13, "asic", 0, "LMT86"),
    Sensor(12, "asic", 1, "LMT86"),
    Sensor(7, "sipm", 0, "LMT86"),
    Sensor(0, "sipm", 1, "LMT86"),
)
_FEM_256: Final = tuple(Sensor(i + 4, "asic", i, "LMT86") for i in range(4)) + tuple(
    Sensor(i, "sipm", i, "LMT70") for i in range(4)
)
_SENSORS: Final[dict[int, tuple[Sensor, ...]]] = {
    0x0001: _FEM_128,
    0x0011: _FEM_128,
    0x0012: _FEM_128_MUX,
    0x0111: _FEM_256,
}


def sensors_of(module: int) -> tuple[Sensor, ...]:
    """The sensors of a kind of module (bits 32..47 of the firmware variant); none if it has none."""
    return _SENSORS.get(module, ())


def millivolt(code: int) -> float:
    """Voltage of a 12-bit ADC code."""
    return code * 2.5 / 4.096


def degc(kind: SensorKind, voltage_mv: float) -> float:
    """Temperature of a sensor from its voltage; NaN if no temperature gives that voltage."""
    v = voltage_mv
    try:
        if kind == "LMT86":
            return 30 - (10.888 - math.sqrt(118.548544 + 0.01388 * (1777.3 - v))) / 0.00694
        if kind == "LMT87":
            return 30 - (13.582 - math.sqrt(184.470724 + 0.01732 * (2230.8 - v))) / 0.00866
        if kind == "LMT85":
            return 30 + (8.194 - math.sqrt(67.141636 + 0.01048 * (1324 - v))) / -0.00524
    except ValueError:
        return math.nan
    return 205.5894 - 0.1814103 * v - 3.325395e-6 * v**2 - 1.809628e-9 * v**3


async def adc_word(board: Board, spi_id: int, word: int, what: str) -> int:
    """Exchange one word with an ADC."""
    return await board.spi(max111xx_transfer(spi_id, word), what)


async def set_up_adc(board: Board, spi_id: int, what: str) -> bool:
    """Set up an ADC; whether it is there and echoes what it is sent."""
    first, second, third = MAX111XX_CONFIGURATION
    is_there = False
    for _ in range(_CHECKS):
        await adc_word(board, spi_id, first, what)
        await adc_word(board, spi_id, second, what)
        echo_second = await adc_word(board, spi_id, third, what)
        echo_third = await adc_word(board, spi_id, MAX111XX_CONTROL, what)
        is_there = (echo_second, echo_third) == (second, third) and ABSENT_WORD not in {echo_second, echo_third}
    return is_there


async def adc_code(board: Board, spi_id: int, channel: int, what: str) -> int:
    """Convert one channel of an ADC that is set up.

    Raises:
        WireError: If it answers for another channel.
    """
    await adc_word(board, spi_id, max111xx_channel_word(channel), what)
    return max111xx_code(await adc_word(board, spi_id, 0, what), channel)


async def find_adc(board: Board, module: int) -> bool:
    """Set up the ADC of a module; whether it is there."""
    return await set_up_adc(board, module_adc(module), f"ADC of module {module}")


@dataclass(frozen=True, slots=True)
class ModuleSensors:
    """What is known of a module's sensors.

    Attributes:
        sensors: Its places for sensors; none if it has none, or if they are not known.
        eeprom: Where that comes from; None if it is from the kind of module.
        trouble: Why the sensors are not known.
    """

    sensors: tuple[Sensor, ...]
    eeprom: ModuleEeprom | None = None
    trouble: str | None = None


async def find_sensors(board: Board, kind: BoardKind, module: int) -> ModuleSensors:
    """Which sensors a module has: from its EEPROM if it has one, and otherwise from its kind."""
    if not await has_eeprom(board, module):
        return ModuleSensors(sensors_of(kind.module))
    try:
        found = await read_eeprom(board, module)
    except WireError as error:
        return ModuleSensors((), trouble=str(error))
    outside = [s for s in found.sensors if s.number >= kind.asics_per_module]
    if outside:
        return ModuleSensors(
            (),
            found,
            f"the module's EEPROM has a sensor at {outside[0].place} {outside[0].number} of {kind.asics_per_module}",
        )
    return ModuleSensors(found.sensors, found)


async def read_temperatures(
    board: Board,
    kind: BoardKind,
    address: str,
    modules: Iterable[int],
    known: dict[int, ModuleSensors] | None = None,
) -> list[Reading]:
    """Every sensor of these modules; a sensor that cannot be believed has no value and says why.

    Args:
        board: Where to read.
        kind: What kind of board and of modules it is.
        address: Port and slave as they appear in the names of nodes, "0.0".
        modules: The modules to read.
        known: Sensors of modules that were looked up before; what is looked up now is added.
    """
    readings: list[Reading] = []
    known = {} if known is None else known

    def add(name: str, node: str, value: float | None, quality: Quality, reason: str | None) -> None:
        now_s = monotonic_s()
        readings.append(Reading(name, node, value, "degC", value is not None, quality, now_s, reason))

    for module in modules:
        table = known.get(module) or await find_sensors(board, kind, module)
        if table.trouble is not None:
            add("temperature", f"module:{address}.{module}", None, Quality.BAD, table.trouble)
            continue
        known[module] = table
        if not table.sensors:
            add("temperature", f"module:{address}.{module}", None, Quality.ABSENT, "this kind of module has no sensors")
            continue
        is_answering = await find_adc(board, module)
        for sensor in table.sensors:
            place = f"asic:{address}.{module * kind.asics_per_module + sensor.number}"
            value: float | None = None
            reason: str | None = ADC_SILENT
            if sensor.kind is None:
                reason = NOT_FITTED
            elif is_answering:
                value, reason = await _read_sensor(board, module, sensor.channel, sensor.kind)
            quality = Quality.ABSENT if sensor.kind is None else Quality.BAD if reason else Quality.GOOD
            add(f"temperature_{sensor.place}", place, value, quality, reason)
    return readings


async def _read_sensor(board: Board, module: int, channel: int, kind: SensorKind) -> tuple[float | None, str | None]:
    try:
        code = await adc_code(board, module_adc(module), channel, f"ADC of module {module}")
    except WireError as error:
        return None, f"the module's ADC is out of step: {error}"
    if code in {0, _FULL_CODE}:
        return None, f"ADC code {code:#05x}: the sensor is open or shorted"
    value = degc(kind, millivolt(code))
    if not PLAUSIBLE_DEGC[0] <= value <= PLAUSIBLE_DEGC[1]:
        return None, f"{value:.1f} degC is outside what the sensor can measure"
    return value, None
