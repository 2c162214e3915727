"""The chips on the board's SPI buses, bit by bit: each sees MOSI while it is selected and clocked, and drives MISO.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6, 4.8 and 4.9.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.petsys.spi import SpiRequest

_PAGE_BYTES = 64
BIAS_32P_MAGIC = bytes.fromhex("2743d49c284147e2bba2ff81d06012d3")


class SpiDevice(Protocol):
    """One chip behind a chip select."""

    def select(self) -> None:
        """The select line becomes active."""

    def clock(self, mosi: int) -> int:
        """One clock; the bit that the chip drives during it."""

    def deselect(self) -> None:
        """The select line becomes inactive: a command takes effect."""


class Absent:
    """An empty place: the line is pulled up."""

    def select(self) -> None:
        """Nobody is there."""

    def clock(self, mosi: int) -> int:  # noqa: ARG002 - nobody listens
        """One."""
        return 1

    def deselect(self) -> None:
        """Nobody is there."""


def transfer(request: SpiRequest, device: SpiDevice) -> int:
    """Run a transfer; the sampled bits, most significant first. Outside clock and select the line reads ones."""
    first, last = request.exchanged
    miso_first, miso_last = request.timing.miso
    driven = request.sent_bits(first, last)
    sampled = (1 << (miso_last - miso_first)) - 1
    device.select()
    for bit_time in range(first, last):
        bit = device.clock(driven >> (last - 1 - bit_time) & 1)
        if miso_first <= bit_time < miso_last and not bit:
            sampled &= ~(1 << (miso_last - 1 - bit_time))
    device.deselect()
    return sampled


class Eeprom:
    """M95256 or M95080: 03 read, 02 write, 05 status, 06 write enable, 04 write disable; 16-bit addresses."""

    _READ, _WRITE, _STATUS, _ENABLE, _DISABLE = 0x03, 0x02, 0x05, 0x06, 0x04

    def __init__(self, size: int, content: bytes = b"") -> None:
        self.memory = bytearray(b"\xff" * size)
        self.memory[: len(content)] = content
        self.is_write_enabled = False
        self._head = 0
        self._data: list[int] = []
        self._n = 0

    def select(self) -> None:
        """A command begins."""
        self._head = self._n = 0
        self._data = []

    def clock(self, mosi: int) -> int:
        """Command, address and data in; data or status out."""
        n, out = self._n, 1
        command = self._head >> (min(n, 24) - 8) if n >= 8 else -1
        if command == self._READ and n >= 24:
            place = ((self._head & 0xFFFF) + (n - 24) // 8) % len(self.memory)
            out = self.memory[place] >> (7 - n % 8) & 1
        elif command == self._STATUS:
            out = (2 * self.is_write_enabled) >> (7 - n % 8) & 1
        if n < 24:
            self._head = self._head << 1 | mosi
        elif command == self._WRITE and n < 24 + 8 * _PAGE_BYTES:
            self._data.append(mosi)
        self._n += 1
        return out

    def deselect(self) -> None:
        """A whole command takes effect."""
        if self._n < 8:
            return
        command = self._head >> (min(self._n, 24) - 8)
        # The vendor clocks a byte more into both of these than they have, and reads it.
        if command in {self._ENABLE, self._DISABLE}:
            self.is_write_enabled = command == self._ENABLE
        elif command == self._WRITE and self.is_write_enabled and self._data and len(self._data) % 8 == 0:
            for i in range(len(self._data) // 8):
                byte = int("".join(map(str, self._data[8 * i : 8 * i + 8])), 2)
                self.memory[((self._head & 0xFFFF) + i) % len(self.memory)] = byte
            self.is_write_enabled = False


class Ltc2668:
    """A DAC of 16 outputs behind a 32-bit shift register: with 24 clocks, a transfer shows one transfer late."""

    _WRITE, _UPDATE, _WRITE_UPDATE_ALL, _WRITE_UPDATE = 0x0, 0x1, 0x2, 0x3

    def __init__(self, on_update: Callable[[int, int], None]) -> None:
        """on_update(output, code) is called whenever an output is given a code."""
        self.codes = [0] * 16
        self._input = [0] * 16
        self._register = 0
        self._n = 0
        self._on_update = on_update

    def select(self) -> None:
        """A transfer begins."""
        self._n = 0

    def clock(self, mosi: int) -> int:
        """Shift one bit through."""
        out = self._register >> 31 & 1
        self._register = (self._register << 1 | mosi) & 0xFFFFFFFF
        self._n += 1
        return out

    def deselect(self) -> None:
        """The last 24 bits are a command, an output and a code; other lengths than 24 and 32 are not a command."""
        if self._n not in {24, 32}:
            return
        command, output, code = self._register >> 20 & 0xF, self._register >> 16 & 0xF, self._register & 0xFFFF
        if command in {self._WRITE, self._WRITE_UPDATE, self._WRITE_UPDATE_ALL}:
            self._input[output] = code
        if command in {self._UPDATE, self._WRITE_UPDATE}:
            self._update(output)
        elif command == self._WRITE_UPDATE_ALL:
            for i in range(16):
                self._update(i)

    def _update(self, output: int) -> None:
        self.codes[output] = self._input[output]
        self._on_update(output, self.codes[output])


class Max111xx:
    """A 12-bit ADC: the answer to a word comes with the next transfer, an echo or `channel << 12 | code`."""

    _MODE_CONTROL = 0x0800
    _MODE_MASK = 0xF800

    def __init__(self, read_code: Callable[[int], int], is_powered: Callable[[], bool]) -> None:
        """read_code(channel) gives 0..4095; without power the line is pulled up."""
        self._read_code = read_code
        self._is_powered = is_powered
        self._out = 0
        self._shift_out = 0xFFFF
        self._in = 0
        self._n = 0
        self._channel = 0

    def select(self) -> None:
        """A transfer begins."""
        self._shift_out = self._out if self._is_powered() else 0xFFFF
        self._in = self._n = 0

    def clock(self, mosi: int) -> int:
        """One bit each way."""
        out = self._shift_out >> 15 & 1
        self._shift_out = (self._shift_out << 1 | 1) & 0xFFFF
        self._in = (self._in << 1 | mosi) & 0xFFFF
        self._n += 1
        return out

    def deselect(self) -> None:
        """A word of 16 bits is a configuration (echoed), a conversion to make, or nothing new (0)."""
        if self._n != 16 or not self._is_powered():
            return
        if self._in & 0x8000:
            self._out = self._in
            return
        if self._in & self._MODE_MASK == self._MODE_CONTROL:
            self._channel = self._in >> 7 & 0xF
        self._out = self._channel << 12 | self._read_code(self._channel) & 0xFFF


def lmt86_code(degc: float) -> int:
    """12-bit code of an LMT86 on a 2.5 V ADC: 4.8's curve the other way round."""
    root = 10.888 - (30.0 - degc) * 0.00694
    return _code(1777.3 - (root * root - 118.548544) / 0.01388)


def lmt70_code(degc: float) -> int:
    """12-bit code of an LMT70: Newton's method on the falling cubic of 4.8."""
    v = (205.5894 - degc) / 0.1814103
    for _ in range(8):
        value = 205.5894 - 0.1814103 * v - 3.325395e-6 * v**2 - 1.809628e-9 * v**3 - degc
        slope = -0.1814103 - 2 * 3.325395e-6 * v - 3 * 1.809628e-9 * v**2
        v -= value / slope
    return _code(v)


def _code(millivolt: float) -> int:
    if not math.isfinite(millivolt):
        return 0xFFF
    return min(max(round(millivolt * 4.096 / 2.5), 0), 0xFFF)
