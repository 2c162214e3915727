"""Whatever the codec knows has a vector that was written down by hand, and driver and simulator both hold to it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

from petqc_drivers.petsys import (
    daqd_wire,
    i2c,
    mezzanines,
    module_eeprom,
    registers,
    spi,
    tmp104,
    wire,
)
from petqc_drivers.petsys.asic import AsicVersion, fields

FOLDER = Path(__file__).parent
GOLDEN: dict[str, Any] = tomllib.loads((FOLDER / "petsys.toml").read_text())
DRIVER = ("test_petsys_bytes.py", "test_petsys_daqd_bytes.py")
SIMULATOR = ("test_petsys_simulator.py",)
OF_ONE_SIDE = {
    "uploaded": "what a host writes at start",
    "trims": "limits that a host keeps to",
    "refused_spi": "what a host does not send",
    "trigger_calibration": "a host's arithmetic; its bytes are those of trigger_memory",
    "trigger_rows": "likewise",
    "table": "text of the configuration, which tests/unit/test_sim_config.py and test_formats_config.py hold to",
}
"""Vectors that only one side has anything to do with."""


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def used_by(files: tuple[str, ...]) -> set[str]:
    text = "".join((FOLDER / file).read_text() for file in files)
    return set(re.findall(r'(?:vectors\(|GOLDEN\[|read_text\(\)\)\[)"(\w+)"', text))


def test_both_sides_hold_to_every_vector() -> None:
    assert set(OF_ONE_SIDE) <= set(GOLDEN)
    shared = set(GOLDEN) - set(OF_ONE_SIDE)
    assert shared - used_by(DRIVER) == set()
    assert shared - used_by(SIMULATOR) == set()


def test_every_vector_says_which_section_it_is_of() -> None:
    for name, group in GOLDEN.items():
        for v in group if isinstance(group, list) else [group]:
            assert re.match(r"\d+(\.\d+)?\b", v["section"]), (name, v)


def test_every_register_and_every_function() -> None:
    reads = {v["register"] for v in GOLDEN["register_read"]}
    writes = {v["register"] for v in GOLDEN["memory_write"]}
    for name, found in registers.REGISTERS.items():
        assert name in reads or "r" not in found.access, f"no vector reads {name}"
        assert name in writes or "w" not in found.access, f"no vector writes {name}"
    assert {v["function"] for v in GOLDEN["command"]} == set(wire.Function)
    assert {v["function"] for v in GOLDEN["trigger_memory"]} == {
        wire.Function.TRIGGER_REGIONS,
        wire.Function.TRIGGER_CALIBRATION,
    }


def test_every_request_to_the_daemon() -> None:
    assert {v["message"].upper() for v in GOLDEN["daqd"]} | {"QUIT"} == set(daqd_wire.Message.__members__)


def test_every_mark_of_a_datagram() -> None:
    assert {raw(v["hex"])[0] for v in GOLDEN["reply"]} == {0x5A}
    assert {raw(v["hex"])[0] for v in GOLDEN["frame"]} == {wire.DATA_MARK}


def test_everything_about_the_asics() -> None:
    opcodes = {wire.AsicCommand.from_bytes(raw(v["hex"])).opcode for v in GOLDEN["asic"]}
    assert opcodes == set(wire.AsicOpcode)
    assert {v["status"] for v in GOLDEN["asic_reply"]} == set(wire.AsicStatus)
    for version in AsicVersion:
        named = GOLDEN["power_on"]["reset_global"].keys() | GOLDEN["power_on"][f"reset_global_{version.value}"].keys()
        assert named == fields("global", version).keys()
        assert GOLDEN["power_on"]["reset_channel"].keys() == fields("channel", version).keys()


def test_every_device_on_the_spi_buses() -> None:
    payloads = [raw(v["hex"]) for name in ("spi", "bias", "bias_of_kind", "supply_good") for v in GOLDEN[name]]
    payloads += [raw(text) for v in GOLDEN["bias_converter"] for text in v["hex"]]
    asked = {spi.SpiRequest.from_bytes(payload).spi_id for payload in payloads}
    for device, ids in {
        "ADC of a module": {spi.module_adc(module) for module in range(16)},
        "EEPROM of a module": {spi.module_eeprom(module) for module in range(16)},
        "PROM of a mezzanine": {spi.bias_prom(slot) for slot in range(2)},
        "DAC of a mezzanine": {spi.bias_dac(slot, dac) for slot in range(2) for dac in range(2)},
        "DAC of a converter": {spi.bias_converter_dac(slot) for slot in range(2)},
        "monitor of a supply": {spi.supply_adc(bus) for bus in range(1, 5)},
        "good supplies": {spi.SUPPLY_GOOD},
    }.items():
        assert asked & ids, f"no vector speaks to the {device}"
        asked -= ids
    assert asked == set(), "the list above is not whole"
    assert {v["spi_id"] for v in GOLDEN["refused_spi"]} >= {spi.FPGA_FLASH, spi.CLOCK_FILTER}
    words = {v["word"] for v in GOLDEN["spi"] if v["device"] == "max111xx"}
    assert words >= {*spi.MAX111XX_CONFIGURATION, spi.MAX111XX_CONTROL}
    commands = {raw(v["command"])[0] for v in GOLDEN["spi"] if v["device"] == "m95080"}
    assert commands == {spi.M95080_READ, spi.M95080_STATUS, spi.M95080_WRITE_ENABLE, spi.M95080_WRITE_DISABLE}


def test_every_mezzanine() -> None:
    assert {v["kind"] for v in GOLDEN["bias_of_kind"]} | {"BIAS_32P"} == set(mezzanines.KINDS)
    assert {raw(v["magic"]): v["kind"] for v in GOLDEN["prom"]} == mezzanines.PROM_MAGIC


def test_every_way_to_speak_on_a_slow_bus() -> None:
    assert any("read" in v for v in GOLDEN["i2c"])
    assert any("bytes" in v for v in GOLDEN["i2c"])
    stop = next(v for v in GOLDEN["command"] if v["function"] == wire.Function.I2C)
    assert i2c.i2c_release(4).to_bytes() == raw(stop["payload"])
    made = {tmp104.ENUMERATE, tmp104.SET_UP, tmp104.convert_command(2), tmp104.read_command(2)}
    assert {raw(v["request"]) for v in GOLDEN["tmp104"]} == made


def test_every_kind_of_board_module_and_sensor() -> None:
    known = {registers.board_kind(v["base_pcb"], v["firmware_variant"]) for v in GOLDEN["board"]}
    for base in range(0x10000):
        kind = registers.board_kind(base, 0x0001_0111_0000_0000)
        assert not kind.modules or base in {found.base_pcb for found in known}, f"no vector has base PCB {base:#06x}"
    for module in range(0x10000):
        kind = registers.board_kind(2, 0x0001 << 48 | module << 32)
        assert not kind.asics_per_module or module in {found.module for found in known}, f"no vector has {module:#06x}"
    listed = {module for v in GOLDEN["sensors"] for module in v["modules"]}
    assert {found.module for found in known} == listed
    assert {v["sensor"] for v in GOLDEN["temperature"]} == set(get_args(module_eeprom.SensorKind))
    assert {raw(v["type"]) for v in GOLDEN["module_eeprom"]} <= set(module_eeprom.MODULE_TYPES)
