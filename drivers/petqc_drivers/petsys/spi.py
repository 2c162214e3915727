"""SPI transfers through the board: the general request, and the exact transfers of each device on it.

Requests for the bias DACs are only taken apart here; `petqc_drivers.petsys.bias` is the one place that makes them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from petqc_drivers.petsys.wire import WireError

MAX111XX_CONFIGURATION: Final = (0x8064, 0x8800, 0x9000)
MAX111XX_CONTROL: Final = 0x0826
"""Words that set the ADC up; it echoes each during the next transfer."""
ABSENT_WORD: Final = 0xFFFF


FPGA_FLASH: Final = 0xFFEF
"""SPI id of the memory the FPGA starts from."""
CLOCK_FILTER: Final = 0xFFFE
"""SPI id of the filter that makes the system clock."""
SUPPLY_GOOD: Final = 0x901B
"""SPI id of the register that tells which supplies of a FEB/D 8K are good."""
SUPPLY_BUSES: Final = range(1, 5)
"""Buses of a FEB/D 8K, each with one module of supplies for four ports."""


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


def bias_converter_dac(slot: int) -> int:
    """SPI id of the DAC that sets the DC-DC converter of a BIAS_32P_AG."""
    return 0x8000 + 0x100 * slot + 0x14


def supply_adc(bus: int) -> int:
    """SPI id of the ADC that measures the supplies of a bus of a FEB/D 8K."""
    return 0x9000 + bus - 1


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
            head = struct.pack(">BH", t.flags, self.spi_id)
            return head + struct.pack("<9H", t.cycle, *t.clock, *t.select, *t.mosi, *t.miso) + self.data
        except struct.error as error:
            raise WireError(f"SPI request to {self.spi_id:#x}: {error}") from error

    @classmethod
    def from_bytes(cls, payload: bytes) -> SpiRequest:
        """Read the payload as the board does.

        Raises:
            WireError: If it is short or an interval is not inside the cycle.
        """
        if len(payload) < _HEADER_BYTES:
            raise WireError(f"SPI request of {len(payload)} bytes, the header alone has {_HEADER_BYTES}")
        cycle, c0, c1, s0, s1, o0, o1, i0, i1 = struct.unpack_from("<9H", payload, 3)
        timing = Timing(payload[0], cycle, (c0, c1), (s0, s1), (o0, o1), (i0, i1))
        if not (c0 <= c1 <= cycle and s0 <= s1 <= cycle and o0 <= o1 <= cycle and i0 <= i1 <= cycle):
            raise WireError(f"SPI request with intervals outside its cycle: {timing}")
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
        start, n_bits = self.timing.mosi[0], 8 * len(self.data)
        begin, end = max(first, start), min(last, self.timing.mosi[1], start + n_bits)
        ones = (1 << (last - first)) - 1
        if end <= begin:
            return ones
        mask, place = (1 << (end - begin)) - 1, last - end
        driven = int.from_bytes(self.data, "big") >> (n_bits - (end - start)) & mask
        return ones & ~(mask << place) | driven << place

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
"""Timing of a transfer to a bias DAC of 16 outputs: 24 bits."""
AD5535_WRITE: Final = Timing(0x00, 51, (16, 35), (15, 16), (0, 51), (16, 35))
"""Timing of a transfer to a bias DAC of 32 outputs: 19 bits, the select a pulse before them."""
MAX5136_WRITE: Final = Timing(0xC1, 40, (8, 32), (7, 33), (0, 40), (8, 32))
"""Timing of a transfer to the DAC of a DC-DC converter: 24 bits."""
_SUPPLY_GOOD_READ: Final = Timing(0x81, 48, (16, 32), (15, 33), (0, 48), (16, 32))


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


@dataclass(frozen=True, slots=True)
class Ad5535Word:
    """What a bias DAC of 32 outputs is told in one transfer of 19 bits."""

    channel: int
    code: int


def parse_ad5535(request: SpiRequest) -> Ad5535Word:
    """What a transfer tells a bias DAC of 32 outputs.

    Raises:
        WireError: If it is not the one transfer that this DAC is known to understand.
    """
    if request.timing != AD5535_WRITE:
        raise WireError("not a transfer of 19 bits behind a select pulse")
    bits = request.sent_bits(*request.timing.clock)
    return Ad5535Word(bits >> 14, bits & 0x3FFF)


@dataclass(frozen=True, slots=True)
class Max5136Word:
    """What the DAC of a DC-DC converter is told in one transfer of 24 bits: control byte, code."""

    control: int
    code: int


def parse_max5136(request: SpiRequest) -> Max5136Word:
    """What a transfer tells the DAC of a DC-DC converter.

    Raises:
        WireError: If it does not clock exactly 24 bits.
    """
    first, last = request.exchanged
    if last - first != 24:
        raise WireError(f"converter DAC transfer of {last - first} bits instead of 24")
    bits = request.sent_bits(first, last)
    return Max5136Word(bits >> 16, bits & 0xFFFF)


def supply_good_read() -> SpiRequest:
    """Read the register of good supplies of a FEB/D 8K."""
    return SpiRequest(SUPPLY_GOOD, _SUPPLY_GOOD_READ, b"\xff\xff\x00\x00\xff\xff")
