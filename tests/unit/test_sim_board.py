"""The simulated FEB/D: bytes of the specification, devices bit by bit, physical effects, and a real socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc_drivers.petsys.asic import POWER_ON_CHANNEL, POWER_ON_GLOBAL, AsicConfiguration, AsicVersion
from petqc_drivers.petsys.frames import parse_data_datagram
from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.sensors import degc, millivolt
from petqc_drivers.petsys.spi import (
    LTC2668_WRITE,
    SpiRequest,
    bias_dac,
    bias_prom,
    m95080_transfer,
    m95256_read,
    max111xx_channel_word,
    max111xx_code,
    max111xx_transfer,
    module_adc,
    module_eeprom,
    parse_spi_reply,
)
from petqc_drivers.petsys.wire import (
    HANDSHAKE,
    AsicCommand,
    Command,
    Function,
    MemoryRead,
    Reply,
    asic_address,
    parse_asic_reply,
    parse_memory_read_reply,
)
from petqc_simulators.boards.bias_prom import BIAS_32P_MAGIC
from petqc_simulators.boards.petsys_febd import PetsysFebd, data_datagrams
from petqc_simulators.boards.spi_devices import Eeprom, transfer
from petqc_simulators.boards.temperature_sensors import adc_code
from petqc_simulators.boards.witness import BiasWitness, judge
from petqc_simulators.faults import Fault
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqc_simulators.server import BoardServer, parse_listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BENCH = load_profile("bench")


class Host:
    """The other end, without a socket."""

    def __init__(self, board: PetsysFebd) -> None:
        self.board = board
        self.serial = 77

    def exchange(self, function: int, payload: bytes) -> bytes:
        self.serial += 1
        answer = self.board.handle(Command(self.serial, function, payload).to_bytes())
        assert answer is not None, f"no answer to {function:#x} {payload.hex()}"
        reply = Reply.from_bytes(answer)
        assert reply.serial == self.serial
        assert reply.function == function
        return reply.payload

    def read(self, name: str) -> int:
        found = REGISTERS[name]
        reply = self.exchange(Function.REGISTERS, found.read().to_bytes())
        return found.decode(parse_memory_read_reply(reply, found.n_bytes))

    def write(self, name: str, value: int) -> None:
        assert self.exchange(Function.REGISTERS, REGISTERS[name].write(value).to_bytes()) == b"\x00"

    def spi(self, request: SpiRequest) -> int:
        return parse_spi_reply(self.exchange(Function.SPI, request.to_bytes()), request.n_sampled)

    def asic(self, chip: int, channel: int | None, value: int | None = None) -> tuple[int, int | None]:
        command = AsicCommand(asic_address(chip, 4), channel, value)
        reply = self.exchange(Function.ASIC, command.to_bytes())
        return parse_asic_reply(reply, command.n_configuration_bits if value is None else 0)

    def dac(self, dac: int, command: int, code: int) -> int:
        data = b"\x00\x00" + bytes((command,)) + code.to_bytes(2, "big") + b"\x00\x00"
        return self.spi(SpiRequest(bias_dac(0, dac), LTC2668_WRITE, data))

    def bring_up(self) -> None:
        """As any host does: power, configuration, links, synchronisation."""
        self.write("power", 1)
        for chip in range(8):
            wanted = AsicConfiguration.default("global", AsicVersion.V2C).replace({"tx_nlinks": 0, "tdc_clk_div": 0})
            assert self.asic(chip, None, wanted.value) == (0, None)
            draw = self.board.detector.draw
            for channel in range(64):
                index = 64 * chip + channel
                code = np.trunc(draw.zero[index] - np.array([20, 20, 15])).astype(int)
                fields = dict(zip(("vth_t1", "vth_t2", "vth_e"), map(int, code), strict=True))
                fields |= {"baseline_t": int(draw.baseline[index, 0]), "baseline_e": int(draw.baseline[index, 1])}
                value = AsicConfiguration.default("channel", AsicVersion.V2C).replace(fields).value
                assert self.asic(chip, channel, value) == (0, None)
        self.write("receiver_enable", 0xFF)
        self.write("sync", 1)

    def bias(self) -> None:
        for channel, code in enumerate(self.board.detector.draw.bias_code):
            self.dac(channel // 16, 0x30 + channel % 16, int(code))
        self.write("power", 3)


@pytest.fixture
def host() -> Host:
    return Host(PetsysFebd(BENCH, 1))


def events(datagrams: list[bytes]) -> np.ndarray:
    found = []
    for datagram in datagrams:
        words, scan = parse_data_datagram(datagram)
        assert scan.reason is None
        heads = np.zeros(words.size, bool)
        heads[scan.starts] = heads[scan.starts + 1] = True
        found.append(words[~heads])
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def test_bytes_of_the_specification() -> None:
    board = PetsysFebd(BENCH, 1)
    assert board.handle(HANDSHAKE)  # any datagram counts
    serial = bytes.fromhex("3412") + bytes(14)
    got = board.handle(serial + bytes.fromhex("00 00 07 00 f8 ff"))
    assert got == b"\x5a" + serial + bytes.fromhex("00 00 04 01 00 00 00 00 00 00 00")
    # A power-on global configuration of a chip that has power; an empty place does not acknowledge.
    board.handle(serial + bytes.fromhex("00 01 00 00 13 02 01"))
    read_global = bytes.fromhex("01 00 00 04 b8 90")
    got = board.handle(serial + read_global)
    assert got == b"\x5a" + serial + bytes.fromhex("01 00 c797f5adcb78d133bb665f3beef8ffe5efe7f613f0d016")
    assert board.handle(serial + bytes.fromhex("01 02 00 04 b8 90")) == b"\x5a" + serial + bytes.fromhex("01 e3")
    got = board.handle(serial + bytes.fromhex("01 00 00 0b 7d 10 00"))
    assert got == b"\x5a" + serial + bytes.fromhex("01 00 a482006c00f4efe3d0383bd52af80000")


def test_identity(host: Host) -> None:
    assert host.read("base_pcb") == 0x0002
    assert host.read("firmware_variant") == 0x0001_0111_0000_0000
    assert host.read("bias_interface") == 0xFFFD
    assert host.read("asic_type") == 2
    assert host.read("next_slave") == 0
    assert host.read("clock_locked") == 1
    magic = b"".join(host.spi(m95256_read(bias_prom(0), a)).to_bytes(2, "big") for a in range(0, 16, 2))
    assert magic == BIAS_32P_MAGIC


def test_read_only_registers_and_unknown_addresses(host: Host) -> None:
    host.exchange(Function.REGISTERS, bytes.fromhex("01 00 00 f8 ff 55"))
    assert host.read("protocol") == 0x104
    host.exchange(Function.REGISTERS, bytes.fromhex("01 00 00 00 70 55"))
    assert host.exchange(Function.REGISTERS, MemoryRead(0x7000, 1).to_bytes()) == b"\x00\x55\x00"
    # Across the end of the file, and several registers in one go.
    assert len(host.exchange(Function.REGISTERS, MemoryRead(0xFFFE, 8).to_bytes())) == 10
    both = host.exchange(Function.REGISTERS, MemoryRead(0x0100, 4).to_bytes())
    assert both == b"\x00" + bytes((0, 1, 2, 0)) + b"\x00"


def test_power_feedback_asics_and_reset(host: Host) -> None:
    assert host.asic(0, None) == (0xE3, None)
    assert host.read("power_good") == 0
    host.write("power", 1)
    assert host.read("power_good") == 0x0C
    assert host.asic(7, None) == (0, POWER_ON_GLOBAL[AsicVersion.V2C])
    assert host.asic(8, None) == (0xE3, None)
    assert host.asic(3, 63) == (0, POWER_ON_CHANNEL)
    host.asic(3, 63, 12345)
    assert host.asic(3, 63) == (0, 12345)
    assert host.asic(3, 62) == (0, POWER_ON_CHANNEL)
    host.write("asic_reset", 1)
    assert host.asic(3, 63) == (0xE3, None), "held in reset"
    host.write("asic_reset", 0)
    assert host.asic(3, 63) == (0, POWER_ON_CHANNEL)
    host.asic(3, 63, 1)
    host.write("power", 0)
    host.write("power", 1)
    assert host.asic(3, 63) == (0, POWER_ON_CHANNEL), "no supply, no memory"


def test_links_come_up_when_chips_send_as_the_board_expects(host: Host) -> None:
    host.write("power", 1)
    host.write("receiver_enable", (1 << 64) - 1)
    assert host.read("deserialiser_locked") == 0, "power-on chips send on four links"
    training = AsicConfiguration.default("global", AsicVersion.V2C).replace({"tx_nlinks": 0, "tx_mode": 1})
    host.asic(2, None, training.value)
    assert (host.read("deserialiser_locked"), host.read("decoder_good")) == (4, 0)
    host.asic(2, None, training.replace({"tx_mode": 2}).value)
    assert (host.read("deserialiser_locked"), host.read("decoder_good")) == (4, 4)
    host.write("receiver_enable", 3)
    assert host.read("deserialiser_locked") == 0


def test_time_tag_and_frames_run_on_one_clock(host: Host) -> None:
    assert host.board.advance(0.1) == [], "nothing is sent before the synchronisation"
    assert host.read("time_tag") == pytest.approx(0.1 * 200e6)
    host.write("sync", 1)
    assert host.read("time_tag") == 0
    first = host.board.advance(0.0305)
    tag = host.read("time_tag")
    ids = np.concatenate([p[0][p[1].starts] & np.uint64((1 << 36) - 1) for p in map(parse_data_datagram, first)])
    np.testing.assert_array_equal(ids, np.arange(ids.size))
    assert tag - ids.size * 1024 < BLOCK_FRAMES * 1024
    assert tag >= ids.size * 1024
    host.write("sync", 1)
    again = host.board.advance(BLOCK_S * 1.01)
    assert parse_data_datagram(again[0])[0][0] & np.uint64((1 << 36) - 1) == 0
    assert host.read("uptime") > tag


def test_bias_dac_is_a_shift_register_of_32_bits(host: Host) -> None:
    # Two transfers each; the second's bytes are compared in the order 2, 3, 1 with command, high and low byte.
    def attempt(channel: int, code: int) -> bool:
        host.dac(0, 0x30 + channel, code)
        shown = host.dac(0, 0xF0 + channel, code).to_bytes(3, "big")
        return bytes((shown[1], shown[2], shown[0])) == bytes((0x30 + channel,)) + code.to_bytes(2, "big")

    assert not attempt(3, 0x1234), "the low byte is still the one before"
    assert attempt(3, 0x1234)
    assert attempt(3, 0x5634), "the low byte did not change"
    assert host.board.mezzanines[0].dacs[0].codes[3] == 0x5634
    assert host.board.mezzanines[0].dacs[1].codes[3] == 0
    lines = [line for line in host.board.witness.lines if line["event"] == "set"]
    assert [line["code"] for line in lines] == [0x1234, 0x1234, 0x5634]
    volts = 60 * 0x5634 / 65536
    assert host.board.witness.highest_set_v[3] == pytest.approx(volts, rel=0.02)


def test_bias_reaches_the_outputs_only_with_the_supply_on(host: Host) -> None:
    board = host.board
    host.dac(1, 0x30, 32768)
    board.advance(0.1)
    assert board.detector.bias_v.max() == 0
    host.write("power", 3)
    board.advance(0.002)
    half_way = board.detector.bias_v[16]
    assert 5 < half_way < 29
    board.advance(0.1)
    assert board.detector.bias_v[16] == pytest.approx(30.0, rel=0.02)
    assert board.witness.highest_output_v[16] == pytest.approx(30.0, rel=0.02)
    assert board.witness.highest_output_v[15] < 0.1
    assert board.witness.steepest_v_per_s[16] > 0
    host.write("power", 1)
    board.advance(0.1)
    assert board.detector.bias_v.max() == 0
    supply = [line["on"] for line in board.witness.lines if line["event"] == "supply"]
    assert supply == [True, False]


def test_temperatures_follow_the_echo_rule_and_the_curves(host: Host) -> None:
    def word(value: int, module: int = 0) -> int:
        return host.spi(max111xx_transfer(module_adc(module), value))

    assert word(0x8064) == 0xFFFF, "no supply"
    host.write("power", 1)
    for module in (0, 1):
        word(0x8064, module)
        word(0x8800, module)
        assert word(0x9000, module) == 0x8800
        assert word(0x0826, module) == 0x9000
    assert word(0x8064, 2) == 0xFFFF, "an empty place"
    truth = 22.0 + host.board.detector.draw.warmer_k
    for module in (0, 1):
        found = []
        for channel in range(8):
            word(max111xx_channel_word(channel), module)
            code = max111xx_code(word(0x0000, module), channel)
            found.append(degc("LMT70" if channel < 4 else "LMT86", millivolt(code)))
        assert np.mean(found[:4]) == pytest.approx(truth[module], abs=0.15)
        assert np.mean(found[4:]) == pytest.approx(truth[module] + 2.0, abs=0.3)
    host.board.advance(300.0)
    word(max111xx_channel_word(4))
    warm = degc("LMT86", millivolt(max111xx_code(word(0), 4)))
    assert warm == pytest.approx(truth[0] + 2.0 + BENCH.environment.asic_rise_k, abs=0.4)


@pytest.mark.parametrize("degrees", [-30.0, 0.0, 21.7, 60.0, 110.0])
def test_sensor_codes_are_the_inverse_of_the_curves(degrees: float) -> None:
    assert degc("LMT70", millivolt(adc_code("LMT70", degrees))) == pytest.approx(degrees, abs=0.08)
    for kind in ("LMT85", "LMT86"):
        assert degc(kind, millivolt(adc_code(kind, degrees))) == pytest.approx(degrees, abs=0.05)
    # An LMT87 gives more than the ADC's 2.5 V below about 10 degC.
    assert degc("LMT87", millivolt(adc_code("LMT87", degrees))) == pytest.approx(max(degrees, 10.1), abs=0.05)


def test_an_absent_eeprom_reads_ones_and_a_present_one_obeys() -> None:
    host = Host(PetsysFebd(BENCH, 1))
    assert host.spi(m95080_transfer(module_eeprom(0), b"\x05", 1)) == 0xFF
    memory = Eeprom(1024, b"\x01\x02")

    def command(data: bytes, back: int = 0) -> int:
        request = m95080_transfer(7, data, back)
        t = request.timing
        # Exactly the bits of the command are clocked, as a real master does.
        last = 8 + 8 * (len(data) + back)
        exact = replace(request, timing=replace(t, clock=(8, last), select=(8, last), mosi=(0, last)))
        return transfer(exact, memory)

    assert command(b"\x05", 1) == 0x00
    command(b"\x06")
    assert command(b"\x05", 1) == 0x02
    command(b"\x02\x00\x10\xab\xcd")
    assert command(b"\x05", 1) == 0x00, "a write ends the permission"
    assert command(b"\x03\x00\x10", 2) == 0xABCD
    assert command(b"\x03\x00\x00", 3) == 0x0102FF
    command(b"\x02\x00\x10\x00")
    assert command(b"\x03\x00\x10", 1) == 0xAB, "not permitted"
    command(b"\x06")
    command(b"\x04")
    assert command(b"\x05", 1) == 0x00
    command(b"\x06", 1)
    assert command(b"\x05", 1) == 0x02, "the vendor's M95256 functions read a byte back from every command"
    command(b"\x04", 1)
    assert command(b"\x05", 1) == 0x00


def test_bias_prom_says_what_the_outputs_do() -> None:
    board = PetsysFebd(BENCH, 5)
    host = Host(board)

    def word(address: int, count: int) -> int:
        parts = [host.spi(m95256_read(bias_prom(0), address + 2 * i)).to_bytes(2, "big") for i in range(count)]
        return int.from_bytes(b"".join(parts), "little")

    channels, points = word(0x14, 4), word(0x1C, 4)
    assert channels == 32
    codes = np.array([word(0x24 + 2 * i, 1) for i in range(points)])
    for channel in (0, 31):
        begin = 0x24 + 2 * points + 4 * points * channel
        volts = np.array([word(begin + 4 * i, 2) for i in range(points)]) * 100.0 / 2**32
        for code, found in zip(codes, volts, strict=True):
            assert found == pytest.approx(board.detector.draw.output_v(np.full(32, code))[channel], abs=1e-6)


def test_what_the_host_sets_decides_what_is_seen() -> None:
    host = Host(PetsysFebd(BENCH, 3))
    host.bring_up()
    board = host.board

    def seen(seconds: float = 0.1) -> np.ndarray:
        board.advance(0.06)
        return events(board.advance(seconds))

    assert seen().size == 0, "configured, no bias"
    host.bias()
    lit = seen()
    assert lit.size / 0.1 == pytest.approx(260_000, rel=0.1)
    off = AsicConfiguration("channel", AsicVersion.V2C, board.asics.channels[1][5]).replace({"trigger_mode_1": 3})
    host.asic(1, 5, off.value)
    channels = np.bincount((seen() >> np.uint64(42)).astype(int), minlength=512)
    assert channels[64 + 5] == 0
    assert channels[64 + 6] > 0
    host.write("receiver_enable", 0x0F)
    channels = np.bincount((seen() >> np.uint64(42)).astype(int), minlength=512)
    assert channels[256:].sum() == 0
    assert channels[:256].sum() > 0
    host.write("receiver_enable", 0xFF)
    host.write("asic_reset", 1)
    host.write("asic_reset", 0)
    assert seen().size == 0, "power-on chips do not send on this board's links"
    host.bring_up()
    host.bias()
    assert seen().size > 0
    host.write("power", 0)
    assert seen().size == 0


def test_the_board_sends_what_the_detector_sees() -> None:
    """Set up by bytes alone, the frames are those of a detector with nominal settings."""
    host = Host(PetsysFebd(BENCH, 4))
    host.bring_up()
    host.bias()
    host.board.detector.emission.clock[0] = -1.0
    host.board.advance(0.0)
    host.board.detector.settle()
    direct = Detector(BENCH, 4)
    direct.settle()
    sent = host.board.advance(3.01 * BLOCK_S)
    expected = [d for _ in range(3) for d in data_datagrams(direct.advance())]
    assert sent == expected
    # With headers and the kernel's own 320 bytes no more than 8 KiB, or a socket holds half as many.
    assert max(len(d) for d in sent) <= 8192 - 28 - 64 - 320


def test_channel_counters_measure_thresholds() -> None:
    host = Host(PetsysFebd(BENCH, 5))
    host.write("power", 1)
    draw = host.board.detector.draw
    globals_ = AsicConfiguration.default("global", AsicVersion.V2C).replace({"counter_en": 1})
    host.asic(0, None, globals_.value)

    def duty(code: int) -> float:
        value = AsicConfiguration.default("channel", AsicVersion.V2C).replace(
            {
                "counter_mode": 15,
                "trigger_mode_2_b": 0,
                "vth_t1": code,
                "baseline_t": int(draw.baseline[0, 0]),
                "baseline_e": int(draw.baseline[0, 1]),
            }
        )
        host.asic(0, 0, value.value)
        host.write("counter_tag", code)
        early = host.exchange(Function.CHANNEL_COUNTERS, MemoryRead(0, 1).to_bytes())
        assert early[4] != code, "the window is not over"
        host.board.advance(0.03)
        word = host.exchange(Function.CHANNEL_COUNTERS, MemoryRead(0, 1).to_bytes())
        assert word[4] == code
        return int.from_bytes(word[1:4], "little") / (1 << 22)

    zero = draw.zero[0, 0]
    below, above = duty(int(zero) - 3), duty(min(int(zero) + 3, 63))
    assert below < 0.01
    assert above > 0.99
    near = duty(round(zero))
    assert near == pytest.approx(0.5, abs=0.35)


def test_lost_slices_count_as_word_errors() -> None:
    board = PetsysFebd(BENCH, 6, [Fault.parse("F19=50")])
    host = Host(board)
    host.write("sync", 1)
    board.advance(0.2)
    assert host.read("word_errors") == board.detector.slices_lost > 0


def test_other_functions_answer_in_their_own_form(host: Host) -> None:
    assert host.exchange(Function.I2C, bytes((0, 1, 3, 1, 3, 0))) == bytes((3, 1, 3, 0))
    assert host.exchange(Function.TRIGGER_REGIONS, bytes.fromhex("01 00 00 00 00 03")) == b"\x00"
    assert host.exchange(Function.TRIGGER_REGIONS, bytes.fromhex("00 00 00 00 00")) == b"\x00\x03\x00"
    write = bytes.fromhex("01 00 00 02 00 0102030405")
    assert host.exchange(Function.TRIGGER_CALIBRATION, write) == b"\x00"
    assert host.exchange(Function.TRIGGER_CALIBRATION, bytes.fromhex("00 00 00 02 00")) == bytes.fromhex(
        "00 0102030405 00"
    )


def test_noise_gets_no_answer_and_does_no_harm() -> None:
    board = PetsysFebd(BENCH, 1)
    host = Host(board)
    rng = np.random.default_rng(0)
    before = board.registers.read(0, 0x10000)
    for length in list(range(17)) + [17, 18, 25, 60, 2048, 2049, 9000] * 30:
        datagram = bytearray(rng.integers(0, 256, length, dtype=np.uint8).tobytes())
        if length > 16:
            datagram[16] = 1 + int(rng.integers(0, 2)) if length % 2 else 9  # ASIC, SPI or no function at all
        board.handle(bytes(datagram))
    assert board.malformed > 100
    assert host.read("protocol") == 0x104
    after = board.registers.read(0, 0x10000)
    changed = [i for i in range(0x10000) if before[i] != after[i]]
    names = ("time_tag", "uptime", "pll_lock_time", "upstream_tx", "upstream_rx")
    live = {a for name in names for a in range(REGISTERS[name].address, REGISTERS[name].address + 8)}
    assert not set(changed) - live


def test_witness_file_has_every_line(tmp_path: Path) -> None:
    path = tmp_path / "bias.jsonl"
    witness = BiasWitness(32, path)
    witness.set_point(1.0, 18, 1000, 0.9, place=(0, 1, 2), is_supplied=False)
    witness.outputs(2.0, np.zeros(32), np.full(32, 5.0), 0.01)
    witness.close()
    witness.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == witness.lines
    assert lines[0] == {
        "t_s": 1.0,
        "event": "set",
        "slot": 0,
        "dac": 1,
        "output": 2,
        "channel": 18,
        "code": 1000,
        "volts": 0.9,
        "supply": False,
        "converter_v": None,
    }
    assert witness.summary()["steepest_v_per_s"] == [500.0] * 32


def test_judge_sees_what_must_never_happen() -> None:
    def line(t_s: float, event: str, **values: object) -> dict[str, object]:
        return {"t_s": t_s, "event": event, **values}

    good = [
        line(0.0, "set", channel=3, code=1093, volts=1.0),
        line(1.0, "supply", on=True),
        line(1.1, "set", channel=3, code=20000, volts=18.0),
        line(1.2, "output", volts=[18.0, 0.0]),
        line(2.0, "supply", on=False),
        line(2.1, "set", channel=3, code=1093, volts=1.0),
    ]
    rules: dict[str, Any] = {"highest_v": 40.0, "lowest_code": 1093, "largest_step_v": 20.0}
    assert judge(good, **rules) == []
    bad = {
        "told 41.0 V, the limit": [*good[:2], line(3.0, "set", channel=1, code=45000, volts=41.0)],
        "had 40.5 V": [line(3.0, "output", volts=[0.0, 40.5])],
        "supply off": [*good, line(3.0, "set", channel=3, code=20000, volts=18.0)],
        "raised by 30.000 V": [*good[:2], line(3.0, "set", channel=3, code=33000, volts=31.0)],
    }
    for words, lines in bad.items():
        assert any(words in v for v in judge(lines, **rules)), words


@pytest.fixture
def served() -> Iterator[tuple[BoardServer, socket.socket]]:
    server = BoardServer(PetsysFebd(load_profile("bench", source="none"), 7), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, name="board")
    thread.start()
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    client.settimeout(10.0)
    client.connect(server.address)
    try:
        yield server, client
    finally:
        client.close()
        server.stop()
        thread.join(10.0)
        server.close()


def test_real_socket(served: tuple[BoardServer, socket.socket]) -> None:
    _, client = served
    client.send(HANDSHAKE)
    assert client.recv(65536)
    client.send(Command(5, 0, REGISTERS["protocol"].read().to_bytes()).to_bytes())
    assert Reply.from_bytes(client.recv(65536)).serial == 5
    begun = time.monotonic()
    client.send(Command(6, 0, REGISTERS["sync"].write(1).to_bytes()).to_bytes())
    ids: list[np.ndarray] = []
    replies = 0
    while sum(map(len, ids)) < 20 * BLOCK_FRAMES:
        datagram = client.recv(65536)
        if datagram[0] == 0x5A:
            replies += 1
            continue
        words, scan = parse_data_datagram(datagram)
        ids.append(words[scan.starts] & np.uint64((1 << 36) - 1))
    lasted = time.monotonic() - begun
    assert replies == 1
    got = np.concatenate(ids).astype(int)
    # A loaded machine may drop datagrams; nothing comes twice, out of order or before its time.
    assert (np.diff(got) > 0).all()
    assert got.size > 0.5 * got[-1]
    assert lasted >= (got[-1] - got[0]) * 5.12e-6 * 0.99, "not faster than real time"


def test_time_tag_is_never_ahead_of_the_host(served: tuple[BoardServer, socket.socket]) -> None:
    """A host refuses a board whose tag is larger than the time since it asked for the synchronisation (5.2 step 13)."""
    _, client = served

    def ask(serial: int, payload: bytes) -> bytes:
        client.send(Command(serial, 0, payload).to_bytes())
        while True:
            datagram = client.recv(65536)
            if datagram[0] == 0x5A and Reply.from_bytes(datagram).serial == serial:
                return Reply.from_bytes(datagram).payload

    tags = []
    for serial in range(1, 200, 2):
        before = time.monotonic()
        ask(serial, REGISTERS["sync"].write(1).to_bytes())
        tag = int.from_bytes(ask(serial + 1, REGISTERS["time_tag"].read().to_bytes())[1:-1], "little")
        assert tag * 5e-9 <= time.monotonic() - before
        tags.append(tag)
    assert len(set(tags)) > 50, "clocks, not ticks of the server"


def test_data_go_to_whoever_asked_last(served: tuple[BoardServer, socket.socket]) -> None:
    server, first = served
    first.send(Command(1, 0, REGISTERS["sync"].write(1).to_bytes()).to_bytes())
    while first.recv(65536)[0] != 0xA5:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        second.settimeout(10.0)
        second.connect(server.address)
        second.send(HANDSHAKE)
        while second.recv(65536)[0] != 0xA5:
            pass


@pytest.mark.parametrize("text", ["", "127.0.0.1:2000", "tcp://127.0.0.1:1", "udp://127.0.0.1", "udp://h:99999999"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="udp://"):
        parse_listen(text)
