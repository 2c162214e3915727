"""Temperature sensors of every kind of module, and link counters, against a board of a few lines from the reference."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from petqc_drivers.device import Quality, Reading
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.link import CommandGate
from petqc_drivers.petsys.link_counters import FEBD_LINKS, read_clock_links, read_counters, trigger_links
from petqc_drivers.petsys.module_eeprom import read_eeprom
from petqc_drivers.petsys.registers import REGISTERS, board_kind
from petqc_drivers.petsys.sensors import ADC_SILENT, NOT_FITTED, ModuleSensors, read_temperatures
from petqc_drivers.petsys.wire import WireError

CODE_30 = {"LMT86": 2912, "LMT87": 3655, "LMT70": 1545}
"""ADC codes near 30 degC: 1777.3 mV, 2230.8 mV and 943 mV by 4.8."""

HEADER = bytes.fromhex("821e4725e7475807e928f0657593ffd7")


def eeprom(sensors: bytes, *, serial: int = 4711, header: bytes = HEADER, damage: int = 0) -> bytearray:
    """4.8: header, type, date, sensor table, serial number and checksum at their addresses."""
    memory = bytearray(b"\xff" * 1024)
    fields = {
        0x000: header,
        0x020: bytes.fromhex("8cd4be846b1d4d60a5654d48fca33fca"),
        0x040: b"24/11/2026 10:11:12",
        0x080: sensors.ljust(96, b"\xff"),
        0x100: serial.to_bytes(4, "big"),
    }
    for address, data in fields.items():
        memory[address : address + len(data)] = data
    memory[0x3F0:0x3F4] = (sum(sum(data) for data in fields.values()) + damage).to_bytes(4, "big")
    return memory


class Model(CommandGate):
    """Link and board: one ADC and perhaps an EEPROM on each module, and registers that count."""

    name = "board"
    last_good_s = None

    def __init__(self) -> None:
        self.codes: dict[tuple[int, int], int] = {}
        self.eeproms: dict[int, bytearray] = {}
        self.silent: set[int] = set()
        self.last: dict[int, int] = {}
        self.enabled: dict[int, bool] = {}
        self.registers: dict[int, int] = {}
        self.selected: list[tuple[int, int]] = []
        self.n_eeprom = 0
        self.shift_channel = 0
        self.by_selection: Any = None

    async def _exchange(self, function: int, payload: bytes, *_: Any) -> bytes:
        if function == 0:
            address = int.from_bytes(payload[3:5], "little")
            n = int.from_bytes(payload[1:3], "little") + 1
            if payload[0] == 1:
                self.registers[address] = int.from_bytes(payload[5:], "little")
                self.selected.append((address, self.registers[address]))
                return b"\0"
            value = self.registers.get(address, 0)
            if self.by_selection is not None:
                value = self.by_selection(address, self.registers)
            return b"\0" + value.to_bytes(n, "little") + b"\0"
        module, low, mosi = payload[1], payload[2], payload[21:]
        if low == 4:
            if module in self.silent:
                return b"\0\xff\xff\0"
            word, last = mosi[2] << 8 | mosi[3], self.last.get(module, 0xFFFF)
            self.last[module] = word
            if word == 0 and last & 0xF87F == 0x0826:
                channel = last >> 7 & 0xF
                last = channel + self.shift_channel << 12 | self.codes.get((module, channel), 0)
            return b"\0" + last.to_bytes(2, "big") + b"\0"
        assert low == 7
        memory = self.eeproms.get(module)
        n_back = (int.from_bytes(payload[19:21], "little") - int.from_bytes(payload[17:19], "little")) // 8
        if memory is None:
            return b"\0" + b"\xff" * n_back + b"\0"
        self.n_eeprom += 1
        command = mosi[1]
        if command in {6, 4}:
            self.enabled[module] = command == 6
        if command == 5:
            return bytes((0, 2 * self.enabled.get(module, False), 0))
        if command != 3:
            return b"\0\0"
        address = mosi[2] << 8 | mosi[3]
        return b"\0" + bytes(memory[address : address + n_back]) + b"\0"


MODULES = {
    "128": 0x0001,
    "128 new": 0x0011,
    "mux": 0x0012,
    "256": 0x0111,
    "512": 0x0211,
    "test": 0x0000,
    "5": 0x0002,
}
KIND = {name: board_kind(0x0002, 0x0001 << 48 | code << 32) for name, code in MODULES.items()}


def read(model: Model, kind: str, known: dict[int, ModuleSensors] | None = None) -> dict[tuple[str, str], Reading]:
    found = asyncio.run(
        read_temperatures(Board(model), KIND[kind], "3.1", [0, 2], known)  # type: ignore[arg-type]
    )
    assert len({(r.name, r.node) for r in found}) == len(found)
    return {(r.name, r.node): r for r in found}


@pytest.mark.parametrize(
    ("kind", "place", "node", "channel", "code"),
    [
        ("128", "asic", 4, 3, CODE_30["LMT86"]),
        ("128", "sipm", 4, 2, CODE_30["LMT70"]),
        ("128 new", "asic", 5, 0, CODE_30["LMT86"]),
        ("128 new", "sipm", 5, 1, CODE_30["LMT70"]),
        ("mux", "asic", 4, 13, CODE_30["LMT86"]),
        ("mux", "asic", 5, 12, CODE_30["LMT86"]),
        ("mux", "sipm", 4, 7, CODE_30["LMT86"]),
        ("mux", "sipm", 5, 0, CODE_30["LMT86"]),
        ("256", "asic", 11, 7, CODE_30["LMT86"]),
        ("256", "sipm", 9, 1, CODE_30["LMT70"]),
    ],
)
def test_each_set_reads_the_channel_and_the_curve_of_the_reference(kind, place, node, channel, code):
    model = Model()
    model.codes[2, channel] = code
    readings = read(model, kind)
    reading = readings[f"temperature_{place}", f"asic:3.1.{node}"]
    assert reading.value == pytest.approx(30.0, abs=0.5)
    assert (reading.quality, reading.measured) == (Quality.GOOD, True)
    others = [r for key, r in readings.items() if key != (reading.name, reading.node)]
    assert len(others) == (15 if kind == "256" else 7)
    assert all(r.quality is Quality.BAD and "open or shorted" in (r.reason or "") for r in others)


@pytest.mark.parametrize("kind", ["512", "test", "5"])
def test_modules_without_sensors_say_so_and_it_is_no_fault(kind):
    model = Model()
    model.silent = {0, 2}
    for reading in read(model, kind).values():
        assert (reading.name, reading.value, reading.quality) == ("temperature", None, Quality.ABSENT)
        assert reading.node in {"module:3.1.0", "module:3.1.2"}


def test_not_fitted_failed_and_silent_are_three_things():
    model = Model()
    # ADC channels 0..3: sipm 0 not fitted, asic 1 LMT87, asic 0 LMT86, sipm 1 LMT70
    table = bytes.fromhex("00bb12 01aaab 00aaaa 01bbbb")
    model.eeproms = {0: eeprom(table), 2: eeprom(table)}
    model.codes = {(0, 0): 5, (0, 1): CODE_30["LMT87"], (0, 2): 0xFFF, (0, 3): CODE_30["LMT70"]}
    model.silent = {2}
    readings = read(model, "128")
    assert len(readings) == 8
    found = {key: (r.quality, r.reason) for key, r in readings.items()}
    assert found["temperature_sipm", "asic:3.1.0"] == (Quality.ABSENT, NOT_FITTED)
    assert found["temperature_asic", "asic:3.1.0"] == (Quality.BAD, "ADC code 0xfff: the sensor is open or shorted")
    assert found["temperature_asic", "asic:3.1.1"] == (Quality.GOOD, None)
    assert readings["temperature_asic", "asic:3.1.1"].value == pytest.approx(30.0, abs=0.1)
    assert readings["temperature_sipm", "asic:3.1.1"].value == pytest.approx(30.0, abs=0.5)
    assert found["temperature_sipm", "asic:3.1.4"] == (Quality.ABSENT, NOT_FITTED)
    assert found["temperature_asic", "asic:3.1.4"] == (Quality.BAD, ADC_SILENT)


def test_an_adc_that_is_out_of_step_gives_no_value_and_does_not_stop_the_others():
    model = Model()
    model.codes = {(0, channel): 2000 for channel in range(4)}
    model.shift_channel = 1
    readings = read(model, "128")
    assert all(r.value is None and "answered for channel" in (r.reason or "") for r in readings.values())


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (eeprom(b"", header=b"\xff" * 16), "not programmed"),
        (eeprom(bytes.fromhex("00aaaa"), damage=1), "is damaged"),
        (eeprom(bytes.fromhex("00ccaa")), "not known: 00ccaa at ADC channel 0"),
        (eeprom(bytes.fromhex("00aa99")), "not known: 00aa99"),
        (eeprom(b"\xff" * 48 + bytes.fromhex("00aaaa")), "at ADC channel 16"),
        (eeprom(bytes.fromhex("02aaaa")), "sensor at asic 2 of 2"),
    ],
)
def test_an_eeprom_that_does_not_tell_the_sensors_says_why_and_only_for_its_module(memory, words):
    model = Model()
    model.eeproms[0] = memory
    model.codes = {(2, channel): 2000 for channel in range(4)}
    readings = read(model, "128")
    bad = readings["temperature", "module:3.1.0"]
    assert bad.quality is Quality.BAD
    assert words in (bad.reason or "")
    assert len(readings) == 1 + 4
    assert all(r.value is not None for key, r in readings.items() if key[0] != "temperature")


def test_an_eeprom_is_read_once_unless_it_was_not_understood():
    model = Model()
    model.eeproms = {0: eeprom(bytes.fromhex("00aaaa")), 2: eeprom(b"", header=b"\0" * 16)}
    known: dict[int, ModuleSensors] = {}
    read(model, "128", known)
    n_first, model.n_eeprom = model.n_eeprom, 0
    assert n_first == (4 + 16 + 16 + 19 + 96 + 4 + 4) + (4 + 16)
    read(model, "128", known)
    assert model.n_eeprom == 4 + 16
    found = known[0].eeprom
    assert found is not None
    assert (found.serial, found.programmed_on) == (4711, "24/11/2026 10:11:12")
    assert found.type_name == "FEM-256 (11ND)"


def test_a_module_type_that_is_not_known_is_shown_as_it_is():
    model = Model()
    memory = eeprom(bytes.fromhex("00aaaa"))
    memory[0x020:0x030], memory[0x3F0:0x3F4] = bytes(16), bytes(4)
    total = sum(memory[0:16]) + sum(memory[0x40:0x53]) + sum(memory[0x80:0xE0]) + sum(memory[0x100:0x104])
    memory[0x3F0:0x3F4] = total.to_bytes(4, "big")
    model.eeproms[0] = memory
    found = asyncio.run(read_eeprom(Board(model), 0))  # type: ignore[arg-type]
    assert found.type_name == "unknown module type " + "00" * 16
    memory[0x3F3] ^= 1
    with pytest.raises(WireError, match="sum up to"):
        asyncio.run(read_eeprom(Board(model), 0))  # type: ignore[arg-type]


def test_every_counter_of_the_board_and_every_lane_has_a_reading_with_its_unit():
    model = Model()
    addresses = {name: REGISTERS[name].address for name in REGISTERS}
    code, word = addresses["code_errors"], addresses["word_errors"]

    def value(address: int, registers: dict[int, int]) -> int:
        if address == code:
            return 100 + registers[addresses["code_error_select"]]
        if address == word:
            return 500 + registers[addresses["word_error_select"]]
        return 3 if address == addresses["asic_links"] else address

    model.by_selection = value
    readings = asyncio.run(read_counters(Board(model), "3.1", [2, 63]))  # type: ignore[arg-type]
    found = {(r.name, r.node): (r.value, r.unit) for r in readings}
    for address, name, unit in (
        (0x2D8, "uptime", "clocks"), (0x2E0, "pll_lock_time", "clocks"),
        (0x401, "upstream_tx", "words"), (0x409, "upstream_rx", "words"), (0x411, "upstream_rx_bad", "words"),
        (0x419, "downstream_tx", "words"), (0x421, "downstream_rx", "words"), (0x429, "downstream_rx_bad", "words"),
        (0x470, "upstream_uptime", "clocks"), (0x478, "downstream_uptime", "clocks"),
        (0x480, "upstream_errors", "errors"), (0x488, "downstream_errors", "errors"),
    ):  # fmt: skip
        assert found[name, "board:3.1"] == (address, unit)
    for chip in (2, 63):
        assert found["asic_word_errors", f"asic:3.1.{chip}"] == (500 + chip, "words")
        for lane in range(4):
            # The register takes 7 bits of lane number.
            expected = 100 + 4 * chip + lane if 4 * chip + lane < 128 else None
            assert found["asic_code_errors", f"lane:3.1.{chip}.{lane}"] == (expected, "codes")


def test_clock_and_trigger_links_tell_lock_value_and_errors():
    model = Model()
    shown = {0: (1, 0x8000, 0), 1: (1, 0x8002, 7), 2: (0, 0, 0), 4 * 3 + 1: (1, 16 * 3 + 1, 2)}

    def value(address: int, registers: dict[int, int]) -> int:
        locked, seen, errors = shown.get(registers[0x450], (0, 0, 0))
        return {0x458: locked, 0x460: seen, 0x468: errors}[address]

    model.by_selection = value
    readings = asyncio.run(read_clock_links(Board(model), "3.1", (*FEBD_LINKS, *trigger_links([3]))))  # type: ignore[arg-type]
    found = {(r.name, r.node): r for r in readings}
    assert found["link_value", "link:3.1.sync"].quality is Quality.GOOD
    assert found["link_value", "link:3.1.gate"].reason == "the link shows 0x8002 instead of 0x8001"
    assert found["link_errors", "link:3.1.gate"].value == 7
    assert found["link_value", "link:3.1.trigger_in"].reason == "the link is not locked"
    assert found["link_value", "link:3.1.trigger_out_3_1"].quality is Quality.GOOD
    assert found["link_errors", "link:3.1.trigger_out_3_1"].value == 2
    assert [value for address, value in model.selected] == [0, 1, 2, 12, 13, 14, 15]
