"""A small scripted board on loopback that can be told to misbehave, and a readout for it."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.unit.patience import PATIENT_S

from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys import frames
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings, PetsysUdpSettings
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout

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


SHORT = {"reply_timeout_s": 0.1}
"""Settings where silence is what is tested."""


@asynccontextmanager
async def bench(
    n_chips: int = 2, *, streaming: bool = False, **settings: Any
) -> AsyncIterator[tuple[ScriptedBoard, PetsysUdpReadout]]:
    loop = asyncio.get_running_loop()
    transport, board = await loop.create_datagram_endpoint(lambda: ScriptedBoard(n_chips), local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    given = {"reply_timeout_s": PATIENT_S, "tries": 2, "settle_s": 0.0, "bias": bias_settings()} | settings
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


def is_off(board: ScriptedBoard) -> bool:
    return max(board.volts) == 0.0
