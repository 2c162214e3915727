"""The chips on the board's SPI buses, bit by bit: each sees MOSI while it is selected and clocked, and drives MISO.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.petsys.spi import SpiRequest


class SpiDevice:
    """One chip behind a chip select. By itself it is an empty place: the line is pulled up."""

    def select(self) -> None:
        """The select line becomes active."""

    def clock(self, mosi: int) -> int:  # noqa: ARG002 - nobody listens
        """One clock while it is selected; the bit that the chip drives during it."""
        return 1

    def deselect(self) -> None:
        """The select line becomes inactive: a command takes effect."""

    def clock_unselected(self, mosi: int) -> None:
        """One clock while it is not selected."""


def always() -> bool:
    """For chips whose supply is that of the board."""
    return True


def transfer(request: SpiRequest, device: SpiDevice) -> int:
    """Run a transfer; the sampled bits, most significant first. Outside clock and select the line reads ones."""
    (clock_on, clock_off), (select_on, select_off) = request.timing.clock, request.timing.select
    miso_first, miso_last = request.timing.miso
    driven = request.sent_bits(clock_on, clock_off)
    sampled = (1 << (miso_last - miso_first)) - 1

    def mosi(bit_time: int) -> int:
        return driven >> (clock_off - 1 - bit_time) & 1

    if select_on == select_off:
        for bit_time in range(clock_on, clock_off):
            device.clock_unselected(mosi(bit_time))
        return sampled
    for bit_time in range(clock_on, min(select_on, clock_off)):
        device.clock_unselected(mosi(bit_time))
    device.select()
    for bit_time in range(max(clock_on, select_on), min(clock_off, select_off)):
        bit = device.clock(mosi(bit_time))
        if miso_first <= bit_time < miso_last and not bit:
            sampled &= ~(1 << (miso_last - 1 - bit_time))
    device.deselect()
    for bit_time in range(max(clock_on, select_off), clock_off):
        device.clock_unselected(mosi(bit_time))
    return sampled


class Eeprom(SpiDevice):
    """M95256 or M95080: 03 read, 02 write, 05 status, 06 write enable, 04 write disable; 16-bit addresses.

    Args:
        size: bytes; addresses wrap around.
        content: what it holds at first, the rest is erased.
        page_bytes: a write stays in its page of so many bytes.
        is_emulated: a flash stands in for it, as on some modules: 08 erases all of it, and writing only clears bits.
        now_s: the time, for the 5 ms that a write lasts; without it a write takes no time.
        is_powered: without power nobody is there.
    """

    _READ, _WRITE, _STATUS, _ENABLE, _DISABLE, _ERASE = 0x03, 0x02, 0x05, 0x06, 0x04, 0x08
    _WRITE_S = 0.005

    def __init__(
        self,
        size: int,
        content: bytes = b"",
        *,
        page_bytes: int = 64,
        is_emulated: bool = False,
        now_s: Callable[[], float] | None = None,
        is_powered: Callable[[], bool] = always,
    ) -> None:
        self.memory = bytearray(b"\xff" * size)
        self.memory[: len(content)] = content
        self.is_write_enabled = False
        self._page_bytes = page_bytes
        self._is_emulated = is_emulated
        self._now_s = now_s
        self._is_powered = is_powered
        self._busy_until_s = -1.0
        self._head = 0
        self._data: list[int] = []
        self._n = 0

    @property
    def is_busy(self) -> bool:
        """A write goes on; nothing but the status is answered."""
        return self._now_s is not None and self._now_s() < self._busy_until_s

    def select(self) -> None:
        """A command begins."""
        self._head = self._n = 0
        self._data = []

    def clock(self, mosi: int) -> int:
        """Command, address and data in; data or status out."""
        if not self._is_powered():
            return 1
        n, out = self._n, 1
        command = self._head >> (min(n, 24) - 8) if n >= 8 else -1
        if command == self._STATUS:
            out = (2 * self.is_write_enabled | self.is_busy) >> (7 - n % 8) & 1
        elif command == self._READ and n >= 24 and not self.is_busy:
            place = ((self._head & 0xFFFF) + (n - 24) // 8) % len(self.memory)
            out = self.memory[place] >> (7 - n % 8) & 1
        if n < 24:
            self._head = self._head << 1 | mosi
        elif command == self._WRITE and n < 24 + 8 * self._page_bytes:
            self._data.append(mosi)
        self._n += 1
        return out

    def deselect(self) -> None:
        """A whole command takes effect."""
        if self._n < 8 or self.is_busy:
            return
        command = self._head >> (min(self._n, 24) - 8)
        # The vendor clocks a byte more into both of these than they have, and reads it.
        if command in {self._ENABLE, self._DISABLE}:
            self.is_write_enabled = command == self._ENABLE
        elif not self.is_write_enabled:
            return
        elif command == self._WRITE and self._data and len(self._data) % 8 == 0:
            self._write()
        elif command == self._ERASE and self._is_emulated:
            self.memory[:] = b"\xff" * len(self.memory)
            self._begin_write()

    def _write(self) -> None:
        address = self._head & 0xFFFF
        page = address - address % self._page_bytes
        for i in range(len(self._data) // 8):
            byte = int("".join(map(str, self._data[8 * i : 8 * i + 8])), 2)
            place = (page + (address + i) % self._page_bytes) % len(self.memory)
            self.memory[place] = self.memory[place] & byte if self._is_emulated else byte
        self._begin_write()

    def _begin_write(self) -> None:
        self.is_write_enabled = False
        if self._now_s is not None:
            self._busy_until_s = self._now_s() + self._WRITE_S


class Ltc2668(SpiDevice):
    """A DAC of 16 outputs behind a 32-bit shift register: with 24 clocks, a transfer shows one transfer late."""

    _WRITE, _UPDATE, _WRITE_UPDATE_ALL, _WRITE_UPDATE = 0x0, 0x1, 0x2, 0x3

    def __init__(self, on_update: Callable[[int, int], None], is_powered: Callable[[], bool] = always) -> None:
        """on_update(output, code) is called whenever an output is given a code; without power nobody is there."""
        self.codes = [0] * 16
        self._input = [0] * 16
        self._register = 0
        self._n = 0
        self._on_update = on_update
        self._is_powered = is_powered

    def lose_power(self) -> None:
        """What it was told is gone: when its supply comes back, all outputs are at zero."""
        self.codes = [0] * 16
        self._input = [0] * 16
        self._register = 0

    def select(self) -> None:
        """A transfer begins."""
        self._n = 0

    def clock(self, mosi: int) -> int:
        """Shift one bit through."""
        if not self._is_powered():
            return 1
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


class Ad5535(SpiDevice):
    """A DAC of 32 outputs, 14 bits: a pulse of the select line begins a word of 19 bits, channel and code.

    Clocks count whether it is still selected or not; those after the nineteenth are not heard. It drives nothing.
    """

    _WORD_BITS, _CODE_BITS = 19, 14

    def __init__(self, on_update: Callable[[int, int], None]) -> None:
        """on_update(output, code) is called whenever an output is given a code."""
        self.codes = [0] * 32
        self._word = 0
        self._n = self._WORD_BITS
        self._on_update = on_update

    def select(self) -> None:
        """A word begins."""
        self._word = self._n = 0

    def clock(self, mosi: int) -> int:
        """One bit of the word."""
        self.clock_unselected(mosi)
        return 1

    def clock_unselected(self, mosi: int) -> None:
        """One bit of the word; the last one makes it take effect."""
        if self._n == self._WORD_BITS:
            return
        self._word = self._word << 1 | mosi
        self._n += 1
        if self._n == self._WORD_BITS:
            output, code = self._word >> self._CODE_BITS, self._word & (1 << self._CODE_BITS) - 1
            self.codes[output] = code
            self._on_update(output, code)


class Max5136(SpiDevice):
    """A DAC of two outputs, 16 bits: words of 24 bits, control and code; one bit of the control for each output."""

    _LOAD, _CLEAR, _WRITE, _WRITE_THROUGH = 0x01, 0x02, 0x1, 0x3

    def __init__(self, on_update: Callable[[int, int], None]) -> None:
        """on_update(output, code) is called whenever an output is given a code."""
        self.codes = [0, 0]
        self._input = [0, 0]
        self._word = 0
        self._n = 0
        self._on_update = on_update

    def select(self) -> None:
        """A word begins."""
        self._word = self._n = 0

    def clock(self, mosi: int) -> int:
        """One bit of the word."""
        self._word = (self._word << 1 | mosi) & 0xFFFFFF
        self._n += 1
        return 1

    def deselect(self) -> None:
        """A word of 24 bits takes effect."""
        if self._n != 24:
            return
        control, code = self._word >> 16, self._word & 0xFFFF
        if control == self._CLEAR:
            self._input = [0, 0]
            self._update(0b11)
        elif control == self._LOAD:
            self._update(code >> 8)
        elif control >> 4 in {self._WRITE, self._WRITE_THROUGH}:
            self._input = [code if control >> i & 1 else old for i, old in enumerate(self._input)]
            if control >> 4 == self._WRITE_THROUGH:
                self._update(control)

    def _update(self, which: int) -> None:
        for i in range(2):
            if which >> i & 1:
                self.codes[i] = self._input[i]
                self._on_update(i, self.codes[i])


class Max111xx(SpiDevice):
    """A 12-bit ADC: the answer to a word comes with the next transfer, an echo or `channel << 12 | code`."""

    _MODE_CONTROL = 0x0800
    _MODE_MASK = 0xF800

    def __init__(self, read_code: Callable[[int], int], is_powered: Callable[[], bool] = always) -> None:
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


class WordOut(SpiDevice):
    """A register of 16 bits that can only be read, most significant bit first."""

    def __init__(self, read: Callable[[], int]) -> None:
        """read() gives the word at the beginning of a transfer."""
        self._read = read
        self._shift_out = 0xFFFF

    def select(self) -> None:
        """The word is taken."""
        self._shift_out = self._read() & 0xFFFF

    def clock(self, mosi: int) -> int:  # noqa: ARG002 - it has no input
        """The next bit."""
        out = self._shift_out >> 15 & 1
        self._shift_out = (self._shift_out << 1 | 1) & 0xFFFF
        return out
