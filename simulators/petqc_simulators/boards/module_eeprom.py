"""What the EEPROM of a front-end module holds once it is programmed.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.8; type ids and
sensor places of each type from the public vendor software of the same revision.
"""

from __future__ import annotations

from dataclasses import dataclass

from petqc_simulators.boards.temperature_sensors import Sensor

EEPROM_BYTES = 1024
HEADER = bytes.fromhex("821e4725e7475807e928f0657593ffd7")
_TYPE_AT, _DATE_AT, _SENSORS_AT, _SERIAL_AT, _CHECKSUM_AT = 0x020, 0x040, 0x080, 0x100, 0x3F0
_SENSOR_ENTRIES, _ENTRY_BYTES = 32, 3
_DATE = b"02/03/2024 10:15:00"
_PLACE_BYTE = {"asic": 0xAA, "sipm": 0xBB}
_TYPE_BYTE = {"LMT86": 0xAA, "LMT87": 0xAB, "LMT70": 0xBB, "NA": 0x12}


@dataclass(frozen=True, slots=True)
class ModuleType:
    """A type of module that carries an EEPROM: its 16-byte id, and its sensors as that says."""

    type_id: bytes
    sensors: tuple[Sensor, ...]


def _at(*entries: tuple[int, int, str, str]) -> tuple[Sensor, ...]:
    return tuple(Sensor(channel, place, number, kind) for channel, number, place, kind in entries)  # type: ignore[arg-type]


_FEM_128 = _at((0, 1, "asic", "LMT86"), (1, 1, "sipm", "LMT70"), (2, 0, "sipm", "LMT70"), (3, 0, "asic", "LMT86"))
_FEM_256 = _at(
    *((channel, 3 - channel, "sipm", "LMT70") for channel in range(4)),
    *((4 + i, number, "asic", "LMT87") for i, number in enumerate((0, 2, 3, 1))),
)
_11LR = ModuleType(bytes.fromhex("bfcb67934d3064fca3df4ae1b7fb365d"), _FEM_128)
MODULE_TYPES: dict[int, ModuleType] = {
    0x0001: _11LR,
    0x0011: _11LR,
    0x0012: ModuleType(bytes.fromhex("0fcb4df6b7c14f2a9aa7acc3a72b4f6d"), _FEM_128),
    0x0111: ModuleType(bytes.fromhex("8cd4be846b1d4d60a5654d48fca33fca"), _FEM_256),
    # The vendor lists no type id for modules of eight ASICs: this one is nobody's.
    0x0211: ModuleType(
        b"eight ASICs\x00\x00\x00\x00\x00",
        _at(
            *((channel, channel, "asic", "LMT87") for channel in range(8)),
            *((8 + channel, channel, "sipm", "LMT70") for channel in range(8)),
        ),
    ),
}
"""By kind of module. Test boards and modules of five ASICs have no EEPROM."""


def eeprom_content(module: ModuleType, serial: int) -> bytes:
    """A programmed EEPROM: header, type, date, sensor table, serial number, and the sum of the bytes of all these."""
    table = bytearray(b"\xff" * (_SENSOR_ENTRIES * _ENTRY_BYTES))
    for sensor in module.sensors:
        begin = _ENTRY_BYTES * sensor.channel
        table[begin : begin + _ENTRY_BYTES] = bytes((sensor.number, _PLACE_BYTE[sensor.place], _TYPE_BYTE[sensor.type]))
    fields = {
        0x000: HEADER,
        _TYPE_AT: module.type_id,
        _DATE_AT: _DATE,
        _SENSORS_AT: bytes(table),
        _SERIAL_AT: serial.to_bytes(4, "big"),
    }
    fields[_CHECKSUM_AT] = sum(sum(data) for data in fields.values()).to_bytes(4, "big")
    content = bytearray(b"\xff" * EEPROM_BYTES)
    for address, data in fields.items():
        content[address : address + len(data)] = data
    return bytes(content)
