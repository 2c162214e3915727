"""The simulated readout against the same written-down bytes as the driver's codec: each request gets its reply."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc_drivers.petsys.asic import AsicVersion
from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.spi import MAX111XX_CONFIGURATION, SpiRequest, spi_reply
from petqc_drivers.petsys.wire import HANDSHAKE, AsicStatus, Command, Function, Reply
from petqc_simulators.boards.asics import CHANNELS
from petqc_simulators.boards.bias_mezzanine import converter_v
from petqc_simulators.boards.bias_prom import prom_content
from petqc_simulators.boards.channel_counters import WINDOW_S
from petqc_simulators.boards.i2c_bus import BusSwitch, Ds44xx, I2cBus
from petqc_simulators.boards.module_eeprom import MODULE_TYPES, eeprom_content
from petqc_simulators.boards.petsys_clktgr import ClockTrigger
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.petsys_febd import PetsysFebd, data_datagrams
from petqc_simulators.boards.spi_devices import Ad5535, Eeprom, Ltc2668, Max111xx, Max5136, SpiDevice, WordOut, transfer
from petqc_simulators.boards.temperature_sensors import SENSORS, adc_code
from petqc_simulators.boards.tmp104_chain import Tmp104Chain
from petqc_simulators.physics.blocks import Block
from petqc_simulators.physics.controls import PulseTrain
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import MEZZANINES, MODULE_CHIPS, MODULE_PLACES, Profile, load_profile

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN: dict[str, Any] = tomllib.loads((Path(__file__).parent / "petsys.toml").read_text())
BENCH = load_profile("bench", source="none")
DETECTOR = Detector(BENCH, 1)
"""Behind all boards that send no frames: to draw one for each would take most of the time."""


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def vectors(name: str) -> Any:
    return pytest.mark.parametrize("v", GOLDEN[name], ids=lambda v: v["section"][:50])


def profile(tmp_path: Path, *lines: str) -> Profile:
    """The bench, but for some lines of [hardware]."""
    (tmp_path / "odd.toml").write_text("\n".join(('base = "bench"', "[hardware]", *lines)))
    return load_profile(str(tmp_path / "odd.toml"), source="none")


def board(of: Profile = BENCH) -> PetsysFebd:
    """A board whose ASICs have power."""
    found = PetsysFebd(of, 1, detector=DETECTOR)
    assert ask(found, Function.REGISTERS, REGISTERS["power"].write(1).to_bytes()) == b"\x00"
    return found


def ask(unit: PetsysFebd | ClockTrigger, function: int, payload: bytes, serial: int = 77) -> bytes:
    """The payload of a unit's reply."""
    answer = unit.handle(Command(serial, function, payload).to_bytes())
    assert answer is not None, f"no answer to {function:#x} {payload.hex()}"
    reply = Reply.from_bytes(answer)
    assert (reply.serial, reply.function) == (serial, function)
    return reply.payload


def test_handshake() -> None:
    assert raw(GOLDEN["handshake"]["hex"]) == HANDSHAKE
    assert board().handle(HANDSHAKE) is not None


@vectors("command")
def test_every_command_is_answered_under_its_serial(v: dict[str, Any], tmp_path: Path) -> None:
    answer = board(profile(tmp_path, "tmp104_sensors = 2")).handle(raw(v["hex"]))
    assert answer is not None
    assert answer[:18] == b"\x5a" + raw(v["hex"])[:17]
    assert len(answer) > 18


def test_replies_have_their_bytes() -> None:
    version, written = GOLDEN["reply"]
    assert board().handle(raw(GOLDEN["command"][0]["hex"])) == raw(version["hex"])
    write = next(v for v in GOLDEN["memory_write"] if v["register"] == "sync")
    assert board().handle(Command(written["serial"], 0, raw(write["hex"])).to_bytes()) == raw(written["hex"])


@vectors("memory_read")
def test_reads_give_as_much_as_was_asked(v: dict[str, Any]) -> None:
    function, n_bytes = (Function.REGISTERS, 8) if v["count"] == 8 else (Function.CHANNEL_COUNTERS, 4 * 64)
    assert len(ask(board(), function, raw(v["hex"]))) == n_bytes + 2


@pytest.mark.parametrize("kind", [board, lambda: ClockTrigger([])], ids=["FEB/D", "CLK&TGR"])
def test_every_register_is_written(kind: Callable[[], PetsysFebd | ClockTrigger]) -> None:
    for v in GOLDEN["memory_write"]:
        seen: list[int] = []
        unit = kind()
        unit.registers.listen(v["register"], seen.append)
        assert ask(unit, Function.REGISTERS, raw(v["hex"])) == b"\x00", v
        assert seen == [unit.registers.value(v["register"])] == [v["value"]], v


@pytest.mark.parametrize("kind", [board, lambda: ClockTrigger([])], ids=["FEB/D", "CLK&TGR"])
def test_every_register_is_read(kind: Callable[[], PetsysFebd | ClockTrigger]) -> None:
    unit = kind()
    for v in GOLDEN["register_read"]:
        unit.registers.live(v["register"], lambda v=v: v["value"])
        answer, expected = ask(unit, Function.REGISTERS, raw(v["request"])), raw(v["answer"])
        # Bytes that belong to no bit of the register are zero here, and anything on hardware.
        found = REGISTERS[v["register"]]
        assert found.decode(answer[1:-1]) == found.decode(expected[1:-1]) == v["value"], v
        assert (len(answer), answer[0], answer[-1]) == (len(expected), 0, 0), v


@vectors("asic")
def test_asic_commands_are_carried_out(v: dict[str, Any]) -> None:
    unit = board()
    is_there = v["chip"] < unit.asics.n_chips
    assert (ask(unit, Function.ASIC, raw(v["hex"]))[0] == 0) is is_there
    here = bytes(2) + raw(v["hex"])[2:]
    answer = ask(unit, Function.ASIC, here)
    assert answer[0] == 0
    if "value" in v:
        assert answer == b"\x00"
        value = int(v["value"], 16)
        assert (unit.asics.globals[0] if "channel" not in v else unit.asics.channels[0][v["channel"]]) == value
    else:
        assert len(answer) == 1 + (16 if "channel" in v else 23)


@vectors("asic_reply")
def test_asic_replies_have_their_bytes(v: dict[str, Any], tmp_path: Path) -> None:
    read_global, read_channel = (raw(GOLDEN["asic"][i]["hex"]) for i in (0, 1))
    unit = board(profile(tmp_path, 'asic_version = "2B"'))
    if v["status"] == AsicStatus.BAD_ACKNOWLEDGE_0:
        unit.asics.absent = {0, 6}
    elif v["status"]:
        unit.asics.failing = dict.fromkeys((0, 6), v["status"])
    assert ask(unit, Function.ASIC, read_channel if v["bits"] == 125 else read_global) == raw(v["hex"])


@pytest.mark.parametrize("version", list(AsicVersion))
def test_chips_begin_with_the_power_on_strings(version: AsicVersion, tmp_path: Path) -> None:
    golden = GOLDEN["power_on"]
    asics = board(profile(tmp_path, f'asic_version = "{version.value}"')).asics
    assert set(asics.globals) == {int(golden[f"global_{version.value}"], 16)}
    assert {value for channels in asics.channels for value in channels} == {int(golden["channel"], 16) >> 3}
    fields = golden["reset_global"] | golden[f"reset_global_{version.value}"]
    assert {name: asics.global_field(3, name) for name in fields} == fields


@vectors("field_bits")
def test_fields_that_the_detector_listens_to(v: dict[str, Any], tmp_path: Path) -> None:
    asics = board(profile(tmp_path, f'asic_version = "{v["version"]}"')).asics
    if v["block"] == "global":
        asics.globals[0] = 1 << v["bit_weight"]
        assert asics.global_field(0, v["field"]) == v["value"]
        return
    payload = raw(GOLDEN["asic"][3]["hex"])
    bits = (1 << v["bit_weight"]) << (8 * 17 - 136)
    command = bytes(2) + payload[2:4] + (1 << 125 | bits).to_bytes(17, "big")
    unit = board(profile(tmp_path, f'asic_version = "{v["version"]}"'))
    ask(unit, Function.ASIC, command)
    heard = {"vth_t1": unit.asics.vth[1, 0], "baseline_e": unit.asics.baseline[1, 1]}
    assert heard.get(v["field"], v["value"]) == v["value"]


@vectors("spi")
def test_spi_devices_answer(v: dict[str, Any]) -> None:
    device: SpiDevice
    before: list[bytes] = []
    if v["device"] == "max111xx":
        # It answers one transfer late: the word before is a configuration, or asks for the same conversion.
        device = Max111xx(lambda _: v["value"] & 0xFFF)
        before = [
            raw(v["hex"])[:21] + raw(f"ffff{v['value']:04x}ffff")
            if v["value"] in MAX111XX_CONFIGURATION
            else raw(v["hex"])
        ]
    elif v["device"] == "m95256":
        device = Eeprom(1 << 15, bytes(v["address"]) + v["value"].to_bytes(2, "big"))
    else:
        address = int(v["command"][2:] or "0", 16)
        device = Eeprom(1024, bytes(address) + v["value"].to_bytes(v["back"], "big"))
        device.is_write_enabled = v["command"] in {"04", "05"}
    for payload in before:
        transfer(SpiRequest.from_bytes(payload), device)
    request = SpiRequest.from_bytes(raw(v["hex"]))
    assert spi_reply(transfer(request, device), request.n_sampled) == raw(v["answer"])


@vectors("bias")
def test_a_dac_takes_its_code_and_shows_it(v: dict[str, Any]) -> None:
    unit = board()
    seen = unit.mezzanines[v["slot"]].dacs[v["channel"] // 16]
    for _attempt in range(2):
        ask(unit, Function.SPI, raw(v["hex"]))
        echo = ask(unit, Function.SPI, raw(v["echo"]))
    assert seen.codes[v["channel"] % 16] == v["code"]
    # In the order that the host compares: the bytes 2, 3, 1 of the second transfer.
    assert bytes((echo[2], echo[3], echo[1])) == raw(v["hex"])[23:26]


@vectors("bias_echo")
def test_the_echo_is_one_byte_late(v: dict[str, Any]) -> None:
    dac = Ltc2668(lambda _output, _code: None)
    payload, tail = raw(GOLDEN["bias"][0]["hex"])[:21], bytes(2)

    def send(command: int, code: int) -> int:
        data = bytes(2) + bytes((command,)) + code.to_bytes(2, "big") + tail
        return transfer(SpiRequest.from_bytes(payload + data), dac)

    send(v["command"] | 0xF0, v["previous_low_byte"])
    send(v["command"], v["code"])
    assert send(v["command"] | 0xF0, v["code"]) == v["echo"]


@vectors("bias_of_kind")
def test_dacs_of_every_kind(v: dict[str, Any]) -> None:
    kind = MEZZANINES[v["kind"]]
    dac: Ad5535 | Ltc2668 = (Ad5535 if kind.dac == "ad5535" else Ltc2668)(lambda _output, _code: None)
    for payload in (v[name] for name in ("hex", "echo") if name in v):
        transfer(SpiRequest.from_bytes(raw(payload)), dac)
    assert dac.codes[v["channel"] % kind.channels_per_dac] == v["code"]


@vectors("bias_converter")
def test_the_dac_of_a_converter(v: dict[str, Any]) -> None:
    dac = Max5136(lambda _output, _code: None)
    for payload in v["hex"]:
        transfer(SpiRequest.from_bytes(raw(payload)), dac)
    assert dac.codes == [v["code"]] * 2
    assert converter_v(v["code"]) == pytest.approx(v["volts"], abs=2e-6)


@vectors("prom")
def test_proms_begin_with_their_magic(v: dict[str, Any]) -> None:
    content = prom_content(np.array([1, 2]), np.ones((2, 2)), MEZZANINES[v["kind"]])
    assert content[:16] == raw(v["magic"])


@vectors("bias_prom")
def test_a_prom_holds_its_calibration(v: dict[str, Any]) -> None:
    content = prom_content(np.array(v["codes"]), np.array(v["volts"]))
    assert content[v["calibration_at"] :] == raw(v["calibration"])


@vectors("old_bias_prom")
def test_a_prom_of_the_older_layout(v: dict[str, Any]) -> None:
    content = prom_content(np.array([874, 32768]), np.array([[25.0, 50.0]] * 16), MEZZANINES["BIAS_16P"])
    expected = raw(v["begin"]) + raw(v["counts"]) + raw(v["codes"]) + 16 * raw(v["volts"])
    assert content[: len(expected)] == expected


@vectors("frame")
def test_frames_leave_in_their_datagram(v: dict[str, Any]) -> None:
    words = np.frombuffer(raw(v["hex"])[1:], "<u8")
    starts = np.concatenate(([0], np.cumsum(np.array(v["counts"]) + 2)))
    assert data_datagrams(Block(v["ids"][0], words, starts)) == [raw(v["hex"])]
    if v["counts"] == [0] and not v["lost"][0]:
        unit = PetsysFebd(BENCH, 1)
        unit.handle(Command(1, 0, REGISTERS["sync"].write(1).to_bytes()).to_bytes())
        sent = b"".join(datagram[1:] for datagram in unit.advance(0.02))
        assert sent[16 * v["ids"][0] :][:16] == raw(v["hex"])[1:], "frames without a hit"


@vectors("event")
def test_channel_numbers_are_where_the_event_has_them(v: dict[str, Any]) -> None:
    channels = BENCH.absolute_channels()
    assert (int(v["word"], 16) >> 42) == v["channel"]
    assert channels[4 * CHANNELS + 1] == 0x101


@vectors("board")
def test_boards_have_as_many_places(v: dict[str, Any]) -> None:
    if v["febd"]:
        assert MODULE_PLACES[v["base_pcb"]] == (v["modules"], v["bias_slots"])
        assert MODULE_CHIPS[v["firmware_variant"] >> 32 & 0xFFFF] == v["asics_per_module"]


@vectors("temperature")
def test_sensors_give_their_voltage(v: dict[str, Any]) -> None:
    assert adc_code(v["sensor"], v["degc"]) == round(v["millivolt"] * 4.096 / 2.5)


@vectors("sensors")
def test_modules_have_their_sensors(v: dict[str, Any]) -> None:
    for module in v["modules"]:
        found = [f"{s.channel} {s.place} {s.number} {s.type}" for s in SENSORS[module]]
        assert sorted(found) == sorted(v["found"])


@vectors("test_pulse")
def test_the_pulse_generator_does_as_its_word_says(v: dict[str, Any]) -> None:
    unit = board()
    ask(unit, Function.REGISTERS, raw(v["hex"]))
    unit.hand_over()
    train = PulseTrain(v["length_clk"], v["interval_clk"], v["phase_clk"])
    assert [pulse for _, pulse in unit.detector._pulses.values()] == [train]


@vectors("channel_counters")
def test_counters_carry_the_tag(v: dict[str, Any]) -> None:
    unit = board()
    ask(unit, Function.REGISTERS, raw(v["tag_write"]))
    unit.let_pass(2 * WINDOW_S)
    words = np.frombuffer(ask(unit, Function.CHANNEL_COUNTERS, raw(v["request"]))[1:-1], "<u4")
    assert words.size == 64
    assert set(words >> 24) == {v["tag"]} == {raw(v["first"])[3]} == {raw(v["last"])[3]}


@vectors("supply_good")
def test_the_register_of_good_supplies(v: dict[str, Any]) -> None:
    word = sum(good << (4 * rail + bus) for bus, rails in enumerate(v["good"]) for rail, good in enumerate(rails))
    request = SpiRequest.from_bytes(raw(v["hex"]))
    assert spi_reply(transfer(request, WordOut(lambda: word)), request.n_sampled) == raw(v["answer"])


@vectors("i2c")
def test_i2c_step_by_step(v: dict[str, Any]) -> None:
    trims = [Ds44xx(address, lambda _register, _code: None) for address in (0x90, 0x96)]
    has_switch = v.get("acknowledged") and "bytes" in v
    bus = I2cBus(trims, (BusSwitch(), {}) if has_switch else None)
    if "read" in v:
        trims[0].values[v["read"][1]] = v["value"]
    seen = bus.run(raw(v["hex"])[2:])
    if "answer" in v:
        assert seen == raw(v["answer"])
    else:
        assert trims[1].values[v["bytes"][1]] == v["bytes"][2]


@vectors("i2c_error")
def test_a_line_that_is_held_is_an_error(v: dict[str, Any]) -> None:
    bus = I2cBus()
    bus.is_stuck = True
    seen = bus.run(raw(GOLDEN["i2c"][0]["hex"])[2:])
    first = next(i for i, step in enumerate(raw(v["answer"])) if step & 0xE0)
    assert seen[first] & 0xE0


@vectors("tmp104")
def test_the_chain_of_sensors(v: dict[str, Any]) -> None:
    chain = Tmp104Chain(2, lambda i: (25.0, -10.0)[i])
    chain.answer(raw("0455f3"))
    answer = chain.answer(raw(v["request"]))
    assert answer is not None
    if "reply" in v:
        assert answer == raw(v["reply"])


@vectors("module_eeprom")
def test_a_module_knows_itself(v: dict[str, Any]) -> None:
    content = eeprom_content(MODULE_TYPES[0x0111], int(v["serial"], 16))
    places = {"header": 0x000, "type": 0x020, "serial": 0x100}
    for name, at in places.items():
        assert content[at : at + len(raw(v[name]))] == raw(v[name])
    listed = (0x000, 16), (0x020, 16), (0x040, 19), (0x080, 96), (0x100, 4)
    assert int.from_bytes(content[0x3F0:0x3F4], "big") == sum(sum(content[at : at + n]) for at, n in listed)
    unused = raw(v["sensors"]).ljust(96, b"\xff")
    golden = raw(v["header"]) + raw(v["type"]) + raw(v["date"]) + unused + raw(v["serial"])
    assert sum(golden) == int(v["checksum"], 16)


@vectors("trigger_memory")
def test_memories_of_the_trigger_hold_what_they_are_given(v: dict[str, Any]) -> None:
    units = [board(), ClockTrigger([])] if v["function"] == Function.TRIGGER_REGIONS else [board()]
    for unit in units:
        assert ask(unit, v["function"], raw(v["write"])) == b"\x00"
        assert ask(unit, v["function"], raw(v["read"])) == raw(v["answer"])


@vectors("trigger_settings")
def test_settings_of_the_trigger_are_taken(v: dict[str, Any]) -> None:
    for unit, writes in ((board(), [*v["febd"], v["on_febd"]]), (ClockTrigger([]), [*v["trigger"], v["on_trigger"]])):
        for write in writes:
            assert ask(unit, Function.REGISTERS, raw(write)) == b"\x00"
            address, data = int.from_bytes(raw(write)[3:5], "little"), raw(write)[5:]
            kept = unit.registers.read(address, len(data))
            # 0x0602 has nine bits, whatever is sent.
            assert kept == data or address == REGISTERS["hardware_trigger"].address


@pytest.fixture(scope="module")
def units() -> dict[tuple[int, int], PetsysFebd]:
    return {(0, 0): board(), (3, 9): board()}


@pytest.mark.parametrize("v", GOLDEN["daqd"], ids=lambda v: f"{v['message']}: {v['section'][:40]}")
def test_the_daemon_replies_with_these_bytes(
    v: dict[str, Any], units: dict[tuple[int, int], PetsysFebd], tmp_path: Path
) -> None:
    daemon = DaqdServer(units, tmp_path / "d.sock", "/daqd_shm", folder=tmp_path, frames=list)
    if v["message"] == "pointers":
        daemon.ring.write, daemon.ring.read, daemon.is_acquiring = v["write"], v["read"], v["acquiring"]
    thread = Thread(target=daemon.run)
    thread.start()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(daemon.address.removeprefix("unix:"))
            client.settimeout(10)
            client.sendall(raw(v["request"]))
            expected, got = raw(v["reply"]), b""
            while len(got) < len(expected):
                part = client.recv(len(expected) - len(got))
                assert part, got.hex()
                got += part
    finally:
        daemon.stop()
        thread.join()
        daemon.close()
    # A network has no cards: their counters and temperatures are zero, in the same frame of bytes.
    is_of_a_card = v["message"] in {"port_counters", "card_temperature"}
    assert got == (expected[:8] + bytes(len(expected) - 8) if is_of_a_card else expected)
    if v["message"] == "minimum_frame":
        assert daemon.ring.minimum_frame == v["value"]
