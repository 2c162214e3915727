"""The EEPROM of a front-end module: what module it is, and which temperature sensors it has.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.petsys.spi import (
    M95080_READ,
    M95080_STATUS,
    M95080_WRITE_DISABLE,
    M95080_WRITE_ENABLE,
    m95080_transfer,
    module_eeprom,
)
from petqc_drivers.petsys.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.petsys.board import Board

SensorKind = Literal["LMT70", "LMT85", "LMT86", "LMT87"]
Place = Literal["asic", "sipm"]

HEADER: Final = bytes.fromhex("821e4725e7475807e928f0657593ffd7")
"""How a programmed EEPROM begins."""
MODULE_TYPES: Final[Mapping[bytes, str]] = {
    bytes.fromhex("8cd4be846b1d4d60a5654d48fca33fca"): "FEM-256 (11ND)",
    bytes.fromhex("5fe0fbf035d011eebe560242ac120002"): "FEM-256 (11XF)",
    bytes.fromhex("bfcb67934d3064fca3df4ae1b7fb365d"): "FEM-128 (11LR)",
    bytes.fromhex("0fcb4df6b7c14f2a9aa7acc3a72b4f6d"): "FEM-128 with multiplexer (13AG)",
}
"""Type id in an EEPROM: the module. Source: public vendor software, same revision."""
_FIELDS: Final = {
    "header": (0x000, 16),
    "type": (0x020, 16),
    "date": (0x040, 19),
    "sensors": (0x080, 96),
    "serial": (0x100, 4),
    "checksum": (0x3F0, 4),
}
"""Address and bytes of each field; the checksum is the sum of the bytes of the others."""
_PLACES: Final[Mapping[int, Place]] = {0xAA: "asic", 0xBB: "sipm"}
_SENSORS: Final[Mapping[int, SensorKind | None]] = {0xAA: "LMT86", 0xAB: "LMT87", 0xBB: "LMT70", 0x12: None}
_UNUSED: Final = b"\xff\xff\xff"
_ADC_CHANNELS: Final = 16


@dataclass(frozen=True, slots=True)
class Sensor:
    """One place for a sensor on a module.

    Attributes:
        channel: ADC channel.
        place: What it sits at.
        number: Which of these.
        kind: Its type; None if nothing is fitted there.
    """

    channel: int
    place: Place
    number: int
    kind: SensorKind | None


@dataclass(frozen=True, slots=True)
class ModuleEeprom:
    """What a module's EEPROM says.

    Attributes:
        type_id: 16 bytes that stand for the type of module.
        serial: Serial number.
        programmed_on: Date and time, as it was written.
        sensors: Its places for temperature sensors.
    """

    type_id: bytes
    serial: int
    programmed_on: str
    sensors: tuple[Sensor, ...]

    @property
    def type_name(self) -> str:
        """The type in words."""
        return MODULE_TYPES.get(self.type_id, f"unknown module type {self.type_id.hex()}")


def parse_eeprom(fields: Mapping[str, bytes]) -> ModuleEeprom:
    """Read the fields of an EEPROM.

    Args:
        fields: Bytes of header, type, date, sensors, serial and checksum.

    Raises:
        WireError: If it was never programmed, is damaged, or names a sensor that is not known.
    """
    if fields["header"] != HEADER:
        raise WireError("the module's EEPROM is not programmed, so its sensors are not known")
    total = sum(sum(data) for name, data in fields.items() if name != "checksum")
    written = int.from_bytes(fields["checksum"], "big")
    if total != written:
        raise WireError(f"the module's EEPROM is damaged: its bytes sum up to {total}, its checksum is {written}")
    table = fields["sensors"]
    return ModuleEeprom(
        type_id=fields["type"],
        serial=int.from_bytes(fields["serial"], "big"),
        programmed_on=fields["date"].decode("ascii", "replace"),
        sensors=tuple(
            _sensor(channel, table[3 * channel : 3 * channel + 3])
            for channel in range(len(table) // 3)
            if table[3 * channel : 3 * channel + 3] != _UNUSED
        ),
    )


def _sensor(channel: int, entry: bytes) -> Sensor:
    number, place, kind = entry
    if channel >= _ADC_CHANNELS or place not in _PLACES or kind not in _SENSORS:
        raise WireError(f"the module's EEPROM names a sensor that is not known: {entry.hex()} at ADC channel {channel}")
    return Sensor(channel, _PLACES[place], number, _SENSORS[kind])


async def has_eeprom(board: Board, module: int) -> bool:
    """Whether a module has an EEPROM: its write enable can be set and cleared."""
    spi_id, what = module_eeprom(module), f"EEPROM of module {module}"

    async def status() -> int:
        return await board.spi(m95080_transfer(spi_id, bytes((M95080_STATUS,)), 1), what)

    await board.spi(m95080_transfer(spi_id, bytes((M95080_WRITE_ENABLE,)), 0), what)
    enabled = await status()
    await board.spi(m95080_transfer(spi_id, bytes((M95080_WRITE_DISABLE,)), 0), what)
    return (enabled, await status()) == (0x02, 0x00)


async def read_eeprom(board: Board, module: int) -> ModuleEeprom:
    """Read the EEPROM of a module, a byte at a time as the vendor does.

    Raises:
        WireError: If it was never programmed, is damaged, or names a sensor that is not known.
    """
    spi_id, what = module_eeprom(module), f"EEPROM of module {module}"
    fields: dict[str, bytes] = {}
    for name, (address, n_bytes) in _FIELDS.items():
        found = bytearray()
        for place in range(address, address + n_bytes):
            command = bytes((M95080_READ,)) + place.to_bytes(2, "big")
            found.append(await board.spi(m95080_transfer(spi_id, command, 1), what))
        fields[name] = bytes(found)
        if name == "header" and fields[name] != HEADER:
            break
    return parse_eeprom(fields)
