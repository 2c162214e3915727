"""SPI transfers through the board: the general request, and the exact transfers of each device on it.

Requests for the bias DACs are only taken apart here; `petqc_drivers.petsys.bias` is the one place that makes them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from petqc_drivers.petsys.wire import WireError

MAX111XX_CONFIGURATION: Final = (0x8064, 0x8800, 0x9000)
MAX111XX_CONTROL: Final = 0x0826
"""Words that set the ADC up; it echoes each during the next transfer."""
ABSENT_WORD: Final = 0xFFFF


FPGA_FLASH: Final = 0xFFEF
"""SPI id of the memory the FPGA starts from."""


def module_adc(module: int) -> int:
    """SPI id of the ADC of a front-end module."""
    return 256 * module + 4


def module_eeprom(module: int) -> int:
    """SPI id of the EEPROM of a front-end module."""
    return 256 * module + 7


def bias_prom(slot: int) -> int:
    """SPI id of the PROM of a bias mezzanine."""
    return 0x8000 + 0x100 * slot


def bias_dac(slot: int, dac: int) -> int:
    """SPI id of a DAC of a bias mezzanine."""
    return 0x8000 + 0x100 * slot + 0x10 + dac


def is_bias_output(spi_id: int) -> bool:
    """Whether a transfer to this id can change a bias voltage (DACs and the DC-DC converter's DAC)."""
    return 0x8000 <= spi_id <= 0x8FFF and 0x10 <= spi_id & 0xFF <= 0x1F


_HEADER_BYTES: Final = 21


@dataclass(frozen=True, slots=True)
class Timing:
    """When what is active, in bit times, half open (4.6)."""

    flags: int
    cycle: int
    clock: tuple[int, int]
    select: tuple[int, int]
    mosi: tuple[int, int]
    miso: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpiRequest:
    """One transfer: timing and the bits to send, most significant first from `timing.mosi[0]`."""

    spi_id: int
    timing: Timing
    data: bytes

    def to_bytes(self) -> bytes:
        """The function payload.

        Raises:
            WireError: If a number does not fit its field.
        """
        t = self.timing
        try:
            head = bytes((t.flags,)) + self.spi_id.to_bytes(2, "big") + t.cycle.to_bytes(2, "little")
            for interval in (t.clock, t.select, t.mosi, t.miso):
                head += interval[0].to_bytes(2, "little") + interval[1].to_bytes(2, "little")
        except (OverflowError, ValueError) as error:
            raise WireError(f"SPI request to {self.spi_id:#x}: {error}") from error
        return head + self.data

    @classmethod
    def from_bytes(cls, payload: bytes) -> SpiRequest:
        """Read the payload as the board does.

        Raises:
            WireError: If it is short or an interval is not inside the cycle.
        """
        if len(payload) < _HEADER_BYTES:
            raise WireError(f"SPI request of {len(payload)} bytes, the header alone has {_HEADER_BYTES}")
        numbers = [int.from_bytes(payload[i : i + 2], "little") for i in range(3, _HEADER_BYTES, 2)]
        cycle, pairs = numbers[0], [(numbers[i], numbers[i + 1]) for i in range(1, 9, 2)]
        if any(not 0 <= first <= last <= cycle for first, last in pairs):
            raise WireError(f"SPI request with intervals {pairs} outside its cycle of {cycle}")
        timing = Timing(payload[0], cycle, pairs[0], pairs[1], pairs[2], pairs[3])
        request = cls(int.from_bytes(payload[1:3], "big"), timing, payload[_HEADER_BYTES:])
        if 8 * len(request.data) < timing.mosi[1] - timing.mosi[0]:
            raise WireError(f"SPI request drives {timing.mosi[1] - timing.mosi[0]} bits with {len(request.data)} bytes")
        return request

    @property
    def n_sampled(self) -> int:
        """Bits that come back."""
        return self.timing.miso[1] - self.timing.miso[0]

    def sent_bits(self, first: int, last: int) -> int:
        """Bits [first, last) as driven, as an integer, most significant first; undriven bit times are ones."""
        start, end = self.timing.mosi
        stream, n_bits = int.from_bytes(self.data, "big"), 8 * len(self.data)
        value = 0
        for bit_time in range(first, last):
            driven = start <= bit_time < end and bit_time - start < n_bits
            value = value << 1 | (stream >> (n_bits - 1 - (bit_time - start)) & 1 if driven else 1)
        return value

    @property
    def exchanged(self) -> tuple[int, int]:
        """Interval in which clock and select are both active: the device sees the bits of these bit times."""
        first = max(self.timing.clock[0], self.timing.select[0])
        return first, max(first, min(self.timing.clock[1], self.timing.select[1]))


def spi_reply(sampled: int, n_bits: int, *, status: int = 0, tail: int = 0) -> bytes:
    """Reply payload: status, sampled bits most significant first and left aligned, one trailing byte."""
    n_bytes = (n_bits + 7) // 8
    return bytes((status,)) + (sampled << (8 * n_bytes - n_bits)).to_bytes(n_bytes, "big") + bytes((tail,))


def parse_spi_reply(payload: bytes, n_bits: int) -> int:
    """The sampled bits; both outer bytes are ignored because their meaning on hardware is unknown.

    Raises:
        WireError: If the length does not fit the number of bits asked for.
    """
    n_bytes = (n_bits + 7) // 8
    if len(payload) != n_bytes + 2:
        raise WireError(f"SPI transfer of {n_bits} bits answered with {len(payload)} bytes instead of {n_bytes + 2}")
    return int.from_bytes(payload[1:-1], "big") >> (8 * n_bytes - n_bits)


_M95256_READ_2: Final = Timing(0x80, 72, (16, 57), (16, 56), (0, 72), (40, 56))
_MAX111XX: Final = Timing(0x81, 48, (16, 32), (0, 48), (0, 48), (16, 32))
LTC2668_WRITE: Final = Timing(0x81, 56, (16, 40), (15, 41), (0, 56), (16, 40))
"""Timing of a bias DAC transfer: 24 bits."""


def m95256_read(spi_id: int, address: int) -> SpiRequest:
    """Read two bytes of a bias mezzanine's PROM.

    Raises:
        WireError: If the address does not fit 16 bits.
    """
    if not 0 <= address <= 0xFFFF:
        raise WireError(f"PROM address {address:#x} does not fit 16 bits")
    data = b"\xff\xff\x03" + address.to_bytes(2, "big") + b"\xff" * 4
    return SpiRequest(spi_id, _M95256_READ_2, data)


def max111xx_transfer(spi_id: int, word: int) -> SpiRequest:
    """Exchange one 16-bit word with an ADC.

    Raises:
        WireError: If the word does not fit.
    """
    if not 0 <= word <= 0xFFFF:
        raise WireError(f"ADC word {word:#x} does not fit 16 bits")
    return SpiRequest(spi_id, _MAX111XX, b"\xff\xff" + word.to_bytes(2, "big") + b"\xff\xff")


def max111xx_channel_word(channel: int) -> int:
    """Control word that converts one channel.

    Raises:
        WireError: If the channel is not 0..15.
    """
    if not 0 <= channel < 16:
        raise WireError(f"ADC channel {channel}, channels are 0..15")
    return MAX111XX_CONTROL + (channel << 7)


def max111xx_code(word: int, channel: int) -> int:
    """The 12-bit code in a conversion word.

    Raises:
        WireError: If the word belongs to another channel.
    """
    if word >> 12 != channel:
        raise WireError(f"ADC answered for channel {word >> 12} when asked for {channel}")
    return word & 0x0FFF


M95080_READ: Final = 0x03
M95080_STATUS: Final = 0x05
M95080_WRITE_ENABLE: Final = 0x06
M95080_WRITE_DISABLE: Final = 0x04


def m95080_transfer(spi_id: int, command: bytes, n_back: int) -> SpiRequest:
    """Send command bytes to a module's EEPROM and sample `n_back` bytes behind them."""
    n = 8 * len(command)
    last = 8 + n + 8 * n_back
    timing = Timing(0x81, last + 8, (8, last + 1), (7, last), (0, last), (8 + n, last))
    return SpiRequest(spi_id, timing, b"\xff" + command + b"\xff" * (n_back + 1))


@dataclass(frozen=True, slots=True)
class Ltc2668Word:
    """What a bias DAC is told in one 24-bit transfer: command (high nibble 3 = write and update, F = none), code."""

    command: int
    code: int

    @property
    def channel(self) -> int:
        """Output of the DAC the command addresses."""
        return self.command & 0x0F

    @property
    def is_update(self) -> bool:
        """Whether the transfer changes the output."""
        return self.command >> 4 == 0x3


def parse_ltc2668(request: SpiRequest) -> Ltc2668Word:
    """What a transfer tells a bias DAC.

    Raises:
        WireError: If it does not clock exactly 24 bits.
    """
    first, last = request.exchanged
    if last - first != 24:
        raise WireError(f"bias DAC transfer of {last - first} bits instead of 24")
    bits = request.sent_bits(first, last)
    return Ltc2668Word(bits >> 16, bits & 0xFFFF)
