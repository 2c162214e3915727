"""Temperatures and link counters of a board.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 4.2, 4.6 and 4.8.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.device import Quality, Reading
from petqc_drivers.errors import RemoteProtocolError
from petqc_drivers.petsys.spi import (
    ABSENT_WORD,
    M95080_STATUS,
    M95080_WRITE_DISABLE,
    M95080_WRITE_ENABLE,
    MAX111XX_CONFIGURATION,
    MAX111XX_CONTROL,
    m95080_transfer,
    max111xx_channel_word,
    max111xx_code,
    max111xx_transfer,
    module_adc,
    module_eeprom,
)
from petqc_drivers.petsys.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.registers import BoardKind

SensorKind = Literal["LMT70", "LMT85", "LMT86", "LMT87"]
PLAUSIBLE_DEGC: Final = (-40.0, 125.0)
_FULL_CODE: Final = 0xFFF
_CHECKS: Final = 2
"""The ADC's echo check is always run twice; the first run sets it up."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor of a module: ADC channel, what it sits at, which of these, and its type."""

    channel: int
    place: Literal["asic", "sipm"]
    number: int
    kind: SensorKind


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


async def _adc(board: Board, module: int, word: int) -> int:
    return await board.spi(max111xx_transfer(module_adc(module), word), f"ADC of module {module}")


async def find_adc(board: Board, module: int) -> bool:
    """Set up the ADC of a module; whether it is there and echoes what it is sent."""
    first, second, third = MAX111XX_CONFIGURATION
    is_there = False
    for _ in range(_CHECKS):
        await _adc(board, module, first)
        await _adc(board, module, second)
        echo_second = await _adc(board, module, third)
        echo_third = await _adc(board, module, MAX111XX_CONTROL)
        is_there = (echo_second, echo_third) == (second, third) and ABSENT_WORD not in {echo_second, echo_third}
    return is_there


async def has_eeprom(board: Board, module: int) -> bool:
    """Whether a module has an EEPROM (and with it perhaps a sensor table of its own)."""
    spi_id, what = module_eeprom(module), f"EEPROM of module {module}"

    async def status() -> int:
        return await board.spi(m95080_transfer(spi_id, bytes((M95080_STATUS,)), 1), what)

    await board.spi(m95080_transfer(spi_id, bytes((M95080_WRITE_ENABLE,)), 0), what)
    enabled = await status()
    await board.spi(m95080_transfer(spi_id, bytes((M95080_WRITE_DISABLE,)), 0), what)
    return (enabled, await status()) == (0x02, 0x00)


async def read_temperatures(board: Board, kind: BoardKind, address: str, modules: Iterable[int]) -> list[Reading]:
    """Every sensor of these modules; a sensor that cannot be believed has no value and says why.

    Args:
        board: Where to read.
        kind: What kind of board and of modules it is.
        address: Port and slave as they appear in the names of nodes, "0.0".
        modules: The modules to read.
    """
    readings: list[Reading] = []
    for module in modules:
        trouble: str | None = None
        if not await find_adc(board, module):
            trouble = "the module's ADC does not answer"
        elif await has_eeprom(board, module):
            trouble = "the module has an EEPROM, so its sensors may be others than those of its kind"
        for sensor in sensors_of(kind.module):
            place = f"asic:{address}.{module * kind.asics_per_module + sensor.number}"
            value, reason = (None, trouble) if trouble else await _read_sensor(board, module, sensor)
            quality = Quality.GOOD if reason is None else Quality.BAD
            now_s = time.monotonic()
            readings.append(
                Reading(f"temperature_{sensor.place}", place, value, "degC", value is not None, quality, now_s, reason)
            )
    return readings


async def _read_sensor(board: Board, module: int, sensor: Sensor) -> tuple[float | None, str | None]:
    await _adc(board, module, max111xx_channel_word(sensor.channel))
    word = await _adc(board, module, 0)
    try:
        code = max111xx_code(word, sensor.channel)
    except WireError as error:
        raise RemoteProtocolError(f"ADC of module {module}: {error}", device=board.name) from error
    if code in {0, _FULL_CODE}:
        return None, f"ADC code {code:#05x}: the sensor is open or shorted"
    value = degc(sensor.kind, millivolt(code))
    if not PLAUSIBLE_DEGC[0] <= value <= PLAUSIBLE_DEGC[1]:
        return None, f"{value:.1f} degC is outside what the sensor can measure"
    return value, None


_BOARD_COUNTERS: Final = (
    ("uptime", "uptime", "clocks"),
    ("pll_lock_time", "pll_lock_time", "clocks"),
    ("upstream_rx_bad", "link_rx_bad", "words"),
    ("upstream_errors", "link_errors", "errors"),
)


async def read_counters(board: Board, address: str, chips: Iterable[int]) -> list[Reading]:
    """Error counters of the ASIC data links, and of the board's own.

    Args:
        board: Where to read.
        address: Port and slave as they appear in the names of nodes, "0.0".
        chips: The chips whose links to read.
    """
    readings: list[Reading] = []

    def add(name: str, place: str, value: int, unit: str) -> None:
        readings.append(Reading(name, place, float(value), unit, True, Quality.GOOD, time.monotonic()))

    for register_name, name, unit in _BOARD_COUNTERS:
        add(name, f"board:{address}", await board.read(register_name), unit)
    links = await board.read("asic_links") + 1
    for chip in chips:
        await board.write("word_error_select", chip)
        add("asic_word_errors", f"asic:{address}.{chip}", await board.read("word_errors"), "words")
        errors = 0
        for lane in range(links):
            await board.write("code_error_select", links * chip + lane)
            errors += await board.read("code_errors")
        add("asic_code_errors", f"asic:{address}.{chip}", errors, "codes")
    return readings
