"""The readout as a whole against a small scripted board on loopback that can be told to misbehave."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc_drivers.device import DeviceState, OutputState, Quality
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    LimitError,
    LinkLostError,
    LocalProtocolError,
    OffUnconfirmedError,
    OvertakenError,
    ReplyTimeoutError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys import frames
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings, ExpectedBoard, PetsysUdpSettings
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqc_drivers.registry import KINDS, device_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GLOBAL_2C = "c797f5adcb78d133bb665f3beef8ffe5efe7f613f0d016"
CHANNEL = "a482006c00f4efe3d0383bd52af80000"
MAGIC = bytes.fromhex("2743d49c284147e2bba2ff81d06012d3")


def bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


class ScriptedBoard(asyncio.DatagramProtocol):
    """A FEB/D of a few lines, written from the interface reference without our codec.

    Chips 0..n-1 on modules of four; a BIAS_32P; ADCs on two modules. `silent` decides which commands are not answered.
    """

    def __init__(self, n_chips: int = 2) -> None:
        self.memory = bytearray(0x10000)
        self.put(0x0000, 2, 2)
        self.put(0x0008, 0x0001_0111_0000_0000, 8)
        self.put(0x0030, 0xFFFD, 2)
        self.put(0x0102, 2, 2)
        self.put(0x0101, 1, 1)
        self.put(0x0200, 1, 1)
        self.put(0xFFF0, 0x20240101, 8)
        self.put(0xFFF8, 0x104, 8)
        self.n_chips = n_chips
        self.reset_asics()
        self.dacs = [[0] * 16, [0] * 16]
        self.shift = [0, 0]
        self.adc_last = [0xFFFF] * 8
        self.synchronised_s = time.monotonic()
        self.log: list[tuple[str, int, int]] = []
        """("power", value, 0) and ("dac", channel, code), as they came."""
        self.n_commands = 0
        self.silent: Callable[[bytes], bool] = lambda _: False
        self.damage: Callable[[bytes, bytes], bytes] = lambda _, reply: reply
        self.adc_code = 0x900
        self.legacy_module: int | None = None
        """A module whose ADC answers in legacy mode only."""
        self.streams = True
        self.next_frame = 0
        self.host: tuple[str, int] | None = None

    def put(self, address: int, value: int, n: int) -> None:
        self.memory[address : address + n] = value.to_bytes(n, "little")

    def reset_asics(self) -> None:
        self.asics = {
            chip: {None: bits(bytes.fromhex(GLOBAL_2C))} | {c: bits(bytes.fromhex(CHANNEL))[:125] for c in range(64)}
            for chip in range(self.n_chips)
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.host = addr
        if data == b"\xff" * 22:
            if not self.silent(data):
                self.transport.sendto(data, addr)
            return
        self.n_commands += 1
        if self.silent(data):
            return
        payload = [self.registers, self.asic, self.spi][data[16]](data[17:])
        self.transport.sendto(self.damage(data, b"\x5a" + data[:17] + payload), addr)

    def registers(self, p: bytes) -> bytes:
        n, address = int.from_bytes(p[1:3], "little") + 1, int.from_bytes(p[3:5], "little")
        if p[0] == 0:
            mask = ((1 << self.n_chips) - 1) & int.from_bytes(self.memory[0x318:0x320], "little")
            self.put(0x302, mask, 8)
            self.put(0x310, mask, 8)
            self.put(0x203, int((time.monotonic() - self.synchronised_s) * 200e6), 6)
            self.put(0x21C, 0x0C if self.memory[0x213] & 1 else 0, 1)
            return b"\x00" + bytes(self.memory[address : address + n]) + b"\x00"
        self.memory[address : address + n] = p[5:]
        if address == 0x201 and p[5] & 1:
            self.synchronised_s, self.next_frame = time.monotonic(), 0
        if address == 0x300 and p[5] & 1:
            self.reset_asics()
        if address == 0x213:
            self.log.append(("power", p[5], 0))
        return b"\x00"

    def asic(self, p: bytes) -> bytes:
        chip, n_write = p[0] * 4 + p[1], p[2]
        if chip not in self.asics:
            return b"\xe3"
        command = bits(p[4:])[:n_write]
        channel = None if command[0] == "1" else int(command[4:11], 2)
        if command[3] == "1":
            held = self.asics[chip][channel]
            n = (len(held) + 7) // 8
            return b"\x00" + int(held.ljust(8 * n, "0"), 2).to_bytes(n, "big")
        self.asics[chip][channel] = command[4:] if channel is None else command[11:]
        return b"\x00"

    def spi(self, p: bytes) -> bytes:
        spi_id, mosi = p[1] << 8 | p[2], p[21:]
        if spi_id == 0x8000:
            address = mosi[3] << 8 | mosi[4]
            return b"\x00" + MAGIC.ljust(0x8000, b"\xff")[address : address + 2] + b"\x00"
        if spi_id in {0x8010, 0x8011}:
            dac = spi_id & 1
            out = self.shift[dac] >> 8
            self.shift[dac] = (self.shift[dac] << 24 | int.from_bytes(mosi[2:5], "big")) & 0xFFFFFFFF
            if mosi[2] >> 4 == 3:
                channel, code = 16 * dac + (mosi[2] & 15), mosi[3] << 8 | mosi[4]
                self.dacs[dac][mosi[2] & 15] = code
                self.log.append(("dac", channel, code))
            return b"\x00" + out.to_bytes(3, "big") + b"\x00"
        module = spi_id >> 8
        is_there = module * 4 < self.n_chips or (module == self.legacy_module and self.memory[0x2B8] >> module & 1)
        if spi_id & 0xFF == 4 and is_there:
            word, last = mosi[2] << 8 | mosi[3], self.adc_last[module]
            self.adc_last[module] = word
            if 0x0826 <= last <= 0x0826 + (15 << 7) and not (last - 0x0826) & 0x7F and word == 0:
                last = (last - 0x0826) >> 7 << 12 | self.adc_code
            return b"\x00" + last.to_bytes(2, "big") + b"\x00"
        n_bits = int.from_bytes(p[19:21], "little") - int.from_bytes(p[17:19], "little")
        return b"\x00" + b"\xff" * ((n_bits + 7) // 8) + b"\x00"

    @property
    def volts(self) -> list[float]:
        """What is at the outputs: nothing without the supply."""
        on = bool(self.memory[0x213] & 2)
        return [code * 60 / 65536 if on else 0.0 for dac in self.dacs for code in dac]

    async def stream(self) -> None:
        """Frames in real time, a millisecond at a time."""
        while True:
            await asyncio.sleep(0.001)
            due = int((time.monotonic() - self.synchronised_s) * 195312.5)
            n = min(500, due - self.next_frame)
            if not self.streams or self.host is None or n <= 0:
                self.next_frame = max(self.next_frame, due)
                continue
            ids = np.arange(self.next_frame, self.next_frame + n)
            words = frames.pack_frames(ids, np.zeros(n, dtype=np.int64), np.zeros(0, dtype=np.uint64))
            self.transport.sendto(frames.data_datagram(words), self.host)
            self.next_frame += n


def outputs(n: int = 32) -> list[BiasChannel]:
    return [BiasChannel(0, 0, 0, i) for i in range(n)]


CURVE = BiasCurve(((0, 0.0), (0x8000, 30.0), (0xFFFF, 0xFFFF * 60 / 65536)))


def bias_settings(max_step_v: float = 10.0, slew_v_per_s: float = 2000.0) -> dict[BiasChannel, BiasSettings]:
    return {
        channel: BiasSettings(
            HardLimit(
                channel=str(channel),
                v_min=Volts(0),
                v_max=Volts(40),
                max_step_v=max_step_v,
                slew_v_per_s=slew_v_per_s,
            ),
            CURVE,
        )
        for channel in outputs()
    }


@asynccontextmanager
async def bench(
    n_chips: int = 2, *, streaming: bool = False, **settings: Any
) -> AsyncIterator[tuple[ScriptedBoard, PetsysUdpReadout]]:
    loop = asyncio.get_running_loop()
    transport, board = await loop.create_datagram_endpoint(lambda: ScriptedBoard(n_chips), local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    given = {"reply_timeout_s": 0.05, "tries": 2, "settle_s": 0.0, "bias": bias_settings()} | settings
    readout = PetsysUdpReadout(PetsysUdpSettings(host=host, udp_port=port, **given))
    stream = asyncio.create_task(board.stream()) if streaming else None
    try:
        yield board, readout
    finally:
        board.silent, board.damage = lambda _: False, lambda _, reply: reply
        try:
            await readout.aclose()
        finally:
            if stream is not None:
                stream.cancel()
                await asyncio.wait({stream})
            transport.close()
            await asyncio.sleep(0)


def run(main: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def test_connecting_identifies_and_changes_nothing():
    async def main():
        async with bench() as (board, readout):
            before = bytes(board.memory)
            identity = await readout.connect()
            assert identity.board.mezzanines == ("BIAS_32P",)
            assert (identity.board.kind.asics_per_module, identity.board.protocol) == (4, 0x104)
            assert readout.state is DeviceState.IDENTIFIED
            assert readout.bias_state is OutputState.OFF
            assert await readout.connect() is identity
            for place in (0x203, 0x302, 0x310, 0x21C):
                board.memory[place : place + 8] = before[place : place + 8]
            assert bytes(board.memory) == before
            assert not board.log

    run(main)


@pytest.mark.parametrize(
    ("address", "value", "n", "words"),
    [
        (0xFFF8, 0x105, 8, "protocol 0x105"),
        (0x0008, 0x0000_0111_0000_0000, 8, "not a FEB/D with internal trigger"),
        (0x0008, 0x0001_0999_0000_0000, 8, "module 0x0999 is not known"),
        (0x0000, 0x0042, 2, "base board 0x0042"),
        (0x0400, 1, 1, "further board"),
        (0x0030, 0xFFFE, 2, "BIAS_16P"),
        (0xFFF0, 1, 8, "firmware revision 0x1 is not within"),
    ],
)
def test_another_board_is_refused(address, value, n, words):
    async def main():
        expected = ExpectedBoard(firmware_revisions=(0x20240000, 0x20249999))
        async with bench(expected=expected) as (board, readout):
            board.put(address, value, n)
            with pytest.raises(WrongIdentityError, match=words):
                await readout.connect()
            assert readout.state is DeviceState.DISCONNECTED

    run(main)


def test_configuring_writes_every_field_and_reads_it_back():
    settings = AsicSettings(
        mode="qdc",
        global_fields={"disc_lsb_t1": 40},
        channel_fields={"att": 3},
        per_channel={(1, 5): {"vth_t1": 20, "vth_e": 9}, (1, 6): {"trigger_mode_1": 3}},
        mode_of={(0, 7): "tot"},
        expected_chips=frozenset({0, 1}),
    )

    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            done = await readout.configure(settings)
            assert readout.state is DeviceState.STAGED
            assert done.chips == [(0, 0, 0), (0, 0, 1)]
            assert done.tries == 1
            assert abs(done.synchronised_unix_s - time.time()) < 10
            for chip in (0, 1):
                assert int(board.asics[chip][None], 2) == done.board.globals[chip].value
                assert done.board.globals[chip]["disc_lsb_t1"] == 40
                assert done.board.globals[chip]["tx_mode"] == 2
                assert done.board.globals[chip]["tx_nlinks"] == 0
                for channel in range(64):
                    held = done.board.channels[chip, channel]
                    assert int(board.asics[chip][channel], 2) == held.value
                    assert held["att"] == 3
                    assert held["qdc_mode"] == (0 if (chip, channel) == (0, 7) else 1)
                    assert held["trigger_mode_1"] == (3 if (chip, channel) == (1, 6) else 0)
            assert done.board.channels[1, 5]["vth_t1"] == 20
            assert done.board.channels[0, 7]["intg_en"] == 0
            assert int.from_bytes(board.memory[0x318:0x320], "little") == 3

    run(main)


def test_eight_chips_are_configured_and_verified_without_a_retry():
    async def main():
        async with bench(n_chips=8, reply_timeout_s=1.0) as (board, readout):
            await readout.connect()
            done = await readout.configure(AsicSettings())
            assert len(done.board.channels) == 8 * 64
            assert board.n_commands > 2 * 2 * 8 * 65
            assert readout.link_account.commands == readout.link_account.tries
            assert done.duration_s < 10  # about 1 s on an idle core; this only catches what is badly wrong

    run(main)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channel_fields": {"vth_t1": 64}}, r"ASIC 0 channel 0: ASIC field vth_t1: 64 does not fit 0\.\.63"),
        ({"global_fields": {"gain": 1}}, "no global field 'gain'"),
        ({"per_channel": {(1, 2): {"vth": 1}}}, "ASIC 1 channel 2: ASIC 2C has no channel field 'vth'"),
        ({"per_channel": {(9, 0): {"vth_t1": 1}}}, r"settings for ASICs \[9\], which are not there"),
        ({"expected_chips": frozenset({0, 1, 4})}, r"ASICs missing: \[4\]; not expected: none"),
        ({"expected_chips": frozenset({0})}, r"missing: none; not expected: \[1\]"),
    ],
)
def test_settings_that_do_not_fit_the_board_are_refused(settings, words):
    async def main():
        async with bench() as (_, readout):
            await readout.connect()
            with pytest.raises(DriverError, match=words):
                await readout.configure(AsicSettings(**settings))
            assert readout.state is DeviceState.FAULTED
            with pytest.raises(StateError):
                await readout.start(lambda _: None)

    run(main)


@pytest.mark.parametrize(
    "settings",
    [
        {"global_fields": {"tx_mode": 1}},
        {"channel_fields": {"qdc_mode": 1}},
        {"per_channel": {(64, 0): {}}},
        {"mode_of": {(0, 64): "qdc"}},
    ],
)
def test_settings_that_are_not_the_users_are_refused(settings):
    with pytest.raises(LocalProtocolError):
        AsicSettings(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "localhost"},
        {"udp_port": 0},
        {"expected_febds": frozenset({(0, 32)})},
        {"reply_timeout_s": 0},
        {"no_data_timeout_s": float("inf")},
        {"settle_s": float("nan")},
        {"tries": 0},
        {"bias": {outputs()[0]: bias_settings()[outputs()[1]]}},
        {"expected_febds": frozenset({(0, 1)}), "bias": bias_settings()},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(LocalProtocolError):
        PetsysUdpSettings(**settings)


def test_a_field_that_reads_back_differently_is_named():
    def stuck(command: bytes, reply: bytes) -> bytes:
        # chip 1, read of channel 3: bit 63 (vth_t1, least significant) stuck at the opposite
        if command[16] == 1 and command[17:19] == b"\x00\x01" and command[19:21] == b"\x0b\x7d":
            channel = int(bits(command[21:23])[4:11], 2)
            if channel == 3:
                wrong = int.from_bytes(reply[19:], "big") ^ 1 << 63 + 3
                return reply[:19] + wrong.to_bytes(16, "big")
        return reply

    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.damage = stuck
            with pytest.raises(VerifyError, match="read back ASIC 1 channel 3: vth_t1 57 instead of 56"):
                await readout.configure(AsicSettings())

    run(main)


def test_an_asic_that_gives_crc_errors_now_and_then_is_asked_again():
    async def main():
        count = itertools.count()

        def crc(command: bytes, reply: bytes) -> bytes:
            return reply[:18] + b"\xe4" if command[16] == 1 and next(count) % 7 == 0 else reply

        async with bench() as (board, readout):
            await readout.connect()
            board.damage = crc
            done = await readout.configure(AsicSettings())
            assert len(done.board.channels) == 128
            assert int(board.asics[1][63], 2) == done.board.channels[1, 63].value
            board.damage = lambda c, r: r[:18] + b"\xe4" if c[16] == 1 else r
            with pytest.raises(DeviceFaultError, match=r"read ASIC 0 global configuration failed 5 times.*crc"):
                await readout.configure(AsicSettings())

    run(main)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0x200, 0, "clock is not locked"),
        (0x102, 1, "ASIC type 1"),
        (0x213, 3, "bias supply is on"),
        (0x100, 2, "3 links per ASIC"),
    ],
)
def test_what_does_not_come_up_is_named(place, value, words):
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.put(place, value, 1)
            with pytest.raises(DriverError, match=words):
                await readout.configure(AsicSettings())

    run(main)


def test_a_chip_whose_link_does_not_come_up_is_tried_again_and_then_named():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.damage = lambda c, r: r[:19] + b"\x01" + r[20:] if c[17:22] == b"\x00\x07\x00\x10\x03" else r
            with pytest.raises(DeviceFaultError, match=r"ASICs \[1\]: data links .* in 3 bring-ups"):
                await readout.configure(AsicSettings())

    run(main)


def test_a_board_whose_time_runs_too_fast_was_not_synchronised_by_us():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            far = (10**12).to_bytes(6, "little")
            board.damage = lambda c, r: r[:19] + far + r[-1:] if c[20:22] == b"\x03\x02" else r
            with pytest.raises(DeviceFaultError, match="synchronisation failed"):
                await readout.configure(AsicSettings())

    run(main)


@asynccontextmanager
async def staged(**settings: Any) -> AsyncIterator[tuple[ScriptedBoard, PetsysUdpReadout]]:
    async with bench(n_chips=1, **settings) as (board, readout):
        await readout.connect()
        await readout.configure(AsicSettings())
        board.log.clear()
        yield board, readout


def steps(board: ScriptedBoard, channel: int) -> list[float]:
    codes = [code for kind, number, code in board.log if kind == "dac" and number == channel]
    return [volts for volts, _ in itertools.groupby(code * 60 / 65536 for code in codes)]


def test_the_bias_comes_up_in_steps_behind_all_outputs_at_their_lowest():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(33.3) for channel in outputs(31)})
            first_power = next(i for i, entry in enumerate(board.log) if entry[0] == "power")
            assert {entry[1] for entry in board.log[:first_power]} == set(range(32))
            assert {entry[2] for entry in board.log[:first_power]} == {0x0445}
            assert board.log[first_power] == ("power", 3, 0)
            ramp = steps(board, 5)
            assert ramp == sorted(ramp)
            assert max(np.diff(ramp)) <= 10.0
            assert 33.3 - 60 / 65536 <= ramp[-1] <= 33.3
            assert board.volts[31] == pytest.approx(1.0006, abs=1e-3)
            assert readout.bias_state is OutputState.ON
            readings = {r.node: r for r in readout.bias_readings()}
            assert readings["bias:0.0.0.5"].value == pytest.approx(ramp[-1])
            assert not any(r.measured for r in readings.values())
            assert readings["bias:0.0.0.31"].value is None
            board.log.clear()
            await readout.bias_on({outputs()[5]: Volts(12.0)})
            down = steps(board, 5)
            assert down == sorted(down, reverse=True)
            assert min(np.diff([ramp[-1], *down])) >= -10.0
            assert board.volts[4] == pytest.approx(33.3, abs=1e-3)

    run(main)


def test_the_ramp_keeps_the_slew():
    async def main():
        async with staged(bias=bias_settings(max_step_v=5.0, slew_v_per_s=100.0)) as (_, readout):
            began_s = time.monotonic()
            await readout.bias_on({outputs()[0]: Volts(21.0)})
            assert time.monotonic() - began_s >= 0.2

    run(main)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({outputs()[0]: Volts(30), outputs()[1]: Volts(40.1)}, "40.1000 V refused: outside the hard limit"),
        ({BiasChannel(0, 0, 1, 0): Volts(30)}, "no such output"),
        ({BiasChannel(0, 0, 0, 32): Volts(30)}, "not configured"),
        ({outputs()[0]: Volts(0.5)}, "switch off instead"),
        ({outputs()[0]: 30.0}, "not in Volts|has no attribute"),
    ],
)
def test_a_request_with_one_refused_target_sends_nothing(targets, words):
    async def main():
        async with staged() as (board, readout):
            before = board.n_commands
            with pytest.raises((LimitError, AttributeError), match=words):
                await readout.bias_on(targets)
            assert board.n_commands == before
            assert readout.bias_state is OutputState.OFF

    run(main)


def test_a_step_too_small_for_the_dac_is_refused_and_not_tried_for_ever():
    async def main():
        async with staged(bias=bias_settings(max_step_v=1e-4)) as (board, readout):
            before = board.n_commands
            with pytest.raises(LimitError, match="does not move"):
                await readout.bias_on({outputs()[0]: Volts(30)})
            assert board.n_commands == before

    run(main)


def test_outputs_found_on_are_adopted_and_not_touched():
    async def main():
        async with bench() as (board, readout):
            board.put(0x213, 3, 1)
            await readout.connect()
            assert readout.bias_state is OutputState.ADOPTED
            with pytest.raises(StateError):
                await readout.bias_on({outputs()[0]: Volts(30)})
            with pytest.raises(StateError, match="switch the bias off first"):
                await readout.configure(AsicSettings())
            await readout.aclose()
            assert board.memory[0x213] == 3
            assert not board.log

    run(main)


def is_off(board: ScriptedBoard) -> bool:
    return max(board.volts) == 0.0


def test_off_removes_the_voltage_with_its_first_message():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.log.clear()
            report = await readout.bias_off()
            assert board.log[0] == ("power", 1, 0)
            assert report.state is OutputState.OFF
            assert report.set_points_lowered == 32
            assert not report.failures
            assert is_off(board)
            assert {entry[2] for entry in board.log[1:]} == {0x0445}
            again = await readout.bias_off()
            assert again.state is OutputState.OFF

    run(main)


@pytest.mark.parametrize("is_connected", [False, True])
def test_off_works_before_anything_else(is_connected):
    async def main():
        async with bench() as (board, readout):
            board.put(0x213, 3, 1)
            if is_connected:
                await readout.connect()
            report = await readout.bias_off()
            assert report.state is OutputState.OFF
            assert board.log[0][0] == "power"
            assert is_off(board)

    run(main)


def test_off_with_a_board_that_ignores_everything_but_the_removal():
    """Half-broken: neither reads nor DACs answer."""

    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.silent = lambda c: not (c[16] == 0 and c[17] == 1)
            began_s = time.monotonic()
            report = await readout.bias_off()
            assert report.state is OutputState.OFF_COMMANDED
            assert readout.bias_state is OutputState.OFF_COMMANDED
            assert time.monotonic() - began_s < 2.5
            assert report.set_points_lowered == 0
            assert any("no reply to set bias:0.0.0.0" in failure for failure in report.failures)
            assert is_off(board)

    run(main)


def test_off_goes_on_to_the_set_points_when_the_removal_is_not_answered():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.silent = lambda c: c[16] == 0
            with pytest.raises(OffUnconfirmedError, match="treat the outputs as live"):
                await readout.bias_off()
            assert readout.bias_state is OutputState.UNKNOWN
            assert max(board.volts) < 1.01

    run(main)


def test_off_with_a_dead_board_is_unknown_within_the_time_promised():
    async def main():
        async with staged(reply_timeout_s=0.25) as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            board.silent = lambda _: True
            began_s = time.monotonic()
            with pytest.raises(OffUnconfirmedError) as caught:
                await readout.bias_off()
            assert time.monotonic() - began_s < 2.5
            assert readout.bias_state is OutputState.UNKNOWN
            assert "power" in str(caught.value)
            board.silent = lambda _: False
            assert (await readout.bias_off()).state is OutputState.OFF

    run(main)


def test_off_that_the_board_denies_is_not_called_off():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            board.damage = lambda c, r: r[:19] + b"\x03" + r[20:] if c[17:22] == b"\x00\x00\x00\x13\x02" else r
            with pytest.raises(OffUnconfirmedError, match="still on"):
                await readout.bias_off()

    run(main)


def test_off_gets_through_after_lost_messages():
    async def main():
        async with staged(tries=5) as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            lost = itertools.count()
            board.silent = lambda c: c[16] == 0 and c[17] == 1 and next(lost) < 3
            report = await readout.bias_off()
            assert report.state is OutputState.OFF
            assert report.attempts == 2
            assert is_off(board)

    run(main)


def test_a_ramp_that_fails_ends_off():
    async def main():
        async with staged() as (board, readout):
            dacs = itertools.count()
            board.silent = lambda c: c[16] == 2 and next(dacs) > 200 and not is_off(board)
            with pytest.raises(ReplyTimeoutError):
                await readout.bias_on({channel: Volts(30) for channel in outputs()})
            assert readout.bias_state is OutputState.OFF
            assert is_off(board)

    run(main)


def test_a_dac_that_shows_another_code_ends_off():
    async def main():
        async with staged() as (board, readout):
            board.damage = lambda c, r: r[:19] + b"\x00\x00\x00\x00" if c[16] == 2 and board.memory[0x213] & 2 else r
            with pytest.raises(VerifyError, match="the DAC shows 0x000000"):
                await readout.bias_on({outputs()[3]: Volts(30)})
            assert is_off(board)
            assert readout.bias_state is OutputState.OFF

    run(main)


@pytest.mark.parametrize("after", [1, 40, 63, 66, 100, 150, 220])
def test_a_ramp_that_is_cancelled_ends_off(after):
    async def main():
        async with staged() as (board, readout):
            ramp: asyncio.Task[None] | None = None
            count = itertools.count()

            def silent(_: bytes) -> bool:
                if next(count) == after and ramp is not None:
                    ramp.cancel()
                return False

            board.silent = silent
            ramp = asyncio.create_task(readout.bias_on({channel: Volts(30) for channel in outputs()}))
            with pytest.raises(asyncio.CancelledError):
                await ramp
            assert is_off(board)
            assert readout.bias_state is OutputState.OFF
            assert await readout.read_time_tag() > 0

    run(main)


def test_off_overtakes_a_ramp_and_nothing_follows():
    async def main():
        async with staged(bias=bias_settings(max_step_v=1.0, slew_v_per_s=20.0)) as (board, readout):
            half_way = asyncio.Event()

            def silent(_: bytes) -> bool:
                if max(board.volts) > 4.0:
                    half_way.set()
                return False

            board.silent = silent
            ramp = asyncio.create_task(readout.bias_on({channel: Volts(30) for channel in outputs()}))
            await half_way.wait()
            report = await readout.bias_off()
            with pytest.raises(OvertakenError):
                await ramp
            assert report.state is OutputState.OFF
            assert is_off(board)
            highest = max(code for kind, _, code in board.log if kind == "dac")
            assert highest * 60 / 65536 < 8.0
            assert board.dacs == [[0x0445] * 16] * 2

    run(main)


def test_closing_switches_off_what_this_driver_switched_on():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            await readout.aclose()
            assert is_off(board)
            assert readout.state is DeviceState.DISCONNECTED
            await readout.aclose()
        async with staged(on_close="hold") as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            await readout.aclose()
            assert board.volts[0] == pytest.approx(30, abs=1e-3)

    run(main)


def test_temperatures_and_counters():
    async def main():
        async with staged() as (board, readout):
            readings = await readout.read_temperatures()
            assert {(r.name, r.node) for r in readings} == {
                (f"temperature_{place}", f"asic:0.0.{i}") for place in ("asic", "sipm") for i in range(4)
            }
            asic = next(r for r in readings if r.name == "temperature_asic")
            # 0x900 is 1406.25 mV, 371 mV less than at 30 degC, at 10.9 mV per kelvin there and a little more above
            assert asic.value == pytest.approx(63.5, abs=1.0)
            assert asic.measured
            assert asic.quality is Quality.GOOD
            for code, words in ((0, "open or shorted"), (0xFFF, "open or shorted"), (0x020, "outside")):
                board.adc_code = code
                bad = await readout.read_temperatures()
                assert all(r.value is None and r.quality is Quality.BAD and words in r.reason for r in bad)
            board.put(0x338, 17, 4)
            board.put(0x328, 4, 4)
            counters = {(r.name, r.node): r.value for r in await readout.read_counters()}
            assert counters["asic_word_errors", "asic:0.0.0"] == 17
            assert counters["asic_code_errors", "lane:0.0.0.0"] == 4
            assert [(r.node, r.value) for r in await readout.read_supplies()] == [
                ("supply:0.0.lower", 1.0),
                ("supply:0.0.upper", 1.0),
            ]

    run(main)


def test_modules_of_the_older_kind_are_found_and_the_others_left_as_they_are():
    async def main():
        async with bench(n_chips=2) as (board, readout):
            board.put(0x0008, 0x0001_0011_0000_0000, 8)
            board.put(0x02B8, 0b0100_0000, 1)
            board.legacy_module = 3
            await readout.connect()
            assert (await readout.configure(AsicSettings())).chips == [(0, 0, 0), (0, 0, 1)]
            assert board.memory[0x2B8] == 0b0100_1000

    run(main)


def test_temperatures_of_a_module_that_does_not_answer_have_no_value():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.n_chips = 0
            readings = await readout.read_temperatures()
            assert len(readings) == 8 * 8
            assert all(r.value is None and r.reason == "the module's ADC does not answer" for r in readings)

    run(main)


def test_an_acquisition_from_start_to_stop():
    async def main():
        async with staged(streaming=True) as (board, readout):
            blocks: list[np.ndarray] = []
            await readout.start(blocks.append)
            assert readout.state is DeviceState.RUNNING
            with pytest.raises(StateError, match="running"):
                await readout.start(blocks.append)
            while board.next_frame < 150_000 or len(blocks) < 5:
                assert await readout.read_time_tag() > 0
                await asyncio.sleep(0.01)
            account = await readout.stop()
            assert readout.state is DeviceState.STAGED
            assert await readout.stop() is account
            assert await readout.account() is account
            assert account.failure is None
            words = np.concatenate(blocks)
            scan = frames.scan_frames(words)
            ids = frames.frame_ids(words, scan.starts)
            assert (
                len(ids) == account.frames_delivered == account.frames_received - sum(account.frames_rejected.values())
            )
            assert ids[0] == account.first_frame
            assert ids[-1] == account.last_frame
            assert account.last_frame - account.first_frame + 1 == account.frames_delivered + account.frames_missing
            assert await readout.wait_failed(0.01) is None
            blocks.clear()
            await readout.start(blocks.append)
            assert (await readout.stop()).first_frame > account.last_frame

    run(main)


def test_a_board_that_falls_silent_ends_the_acquisition_in_the_time_given():
    async def main():
        async with staged(streaming=True, no_data_timeout_s=0.3) as (board, readout):
            await readout.start(lambda _: None)
            board.streams = False
            began_s = time.monotonic()
            with pytest.raises(LinkLostError, match=r"no frame for 0\.\d s; last good answer .* last frame"):
                await readout.wait_failed(10)
            assert time.monotonic() - began_s < 2
            assert readout.state is DeviceState.FAULTED
            account = await readout.stop()
            assert isinstance(account.failure, LinkLostError)
            assert account.frames_delivered > 0
            assert (await readout.bias_off()).state is OutputState.OFF
            board.streams = True
            await readout.connect()
            await readout.configure(AsicSettings())
            await readout.start(lambda _: None)
            assert (await readout.stop()).failure is None

    run(main)


def test_a_board_that_never_streams_does_not_start():
    async def main():
        async with staged(no_data_timeout_s=0.2) as (_, readout):
            with pytest.raises(LinkLostError, match="no frame for"):
                await readout.start(lambda _: None)
            assert readout.state is DeviceState.FAULTED

    run(main)


def test_a_start_that_is_cancelled_leaves_nothing_running():
    async def main():
        async with staged(streaming=True) as (board, readout):
            board.streams = False
            task = asyncio.create_task(readout.start(lambda _: None))
            while readout.state is not DeviceState.RUNNING:  # noqa: ASYNC110 - the driver tells nobody at this point
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            board.streams = True
            await readout.start(lambda _: None)
            assert (await readout.stop()).failure is None

    run(main)


def test_a_consumer_that_fails_ends_the_acquisition_with_the_reason():
    async def main():
        async with staged(streaming=True) as (_, readout):

            def sink(_: np.ndarray) -> None:
                raise OSError("disk full")

            await readout.start(sink)
            with pytest.raises(DriverError, match="disk full"):
                await readout.wait_failed(10)
            account = await readout.stop()
            assert "disk full" in str(account.failure)
            assert account.frames_rejected["sink-failed"] > 0

    run(main)


@pytest.mark.parametrize("after", range(0, 700, 99))
def test_configuring_that_is_cancelled_leaves_the_link_in_order(after):
    async def main():
        async with bench(n_chips=1) as (board, readout):
            await readout.connect()
            count = itertools.count()
            task: asyncio.Task[Any] | None = None

            def silent(_: bytes) -> bool:
                if next(count) == after and task is not None:
                    task.cancel()
                return False

            board.silent = silent
            task = asyncio.create_task(readout.configure(AsicSettings()))
            result = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result[0], asyncio.CancelledError):
                assert readout.configured is None
            board.silent = lambda _: False
            assert (await readout.configure(AsicSettings())).chips
            assert readout.link_account.replies_late <= 1

    run(main)


def test_states_are_kept():
    async def main():
        async with bench() as (_, readout):
            for call in (
                lambda: readout.configure(AsicSettings()),
                lambda: readout.start(lambda _: None),
                lambda: readout.bias_on({}),
                readout.read_temperatures,
                readout.read_counters,
                readout.read_time_tag,
                readout.stop,
                readout.account,
            ):
                with pytest.raises(StateError):
                    await call()

    run(main)


def test_the_registry_finds_the_driver_and_says_what_it_can():
    kind = device_kind("petsys-udp")
    assert kind.load() == (PetsysUdpSettings, PetsysUdpReadout)
    assert kind.readback == "commanded"
    assert all(k.load() for k in KINDS.values())
    with pytest.raises(LocalProtocolError, match="petsys-udp"):
        device_kind("toaster")
