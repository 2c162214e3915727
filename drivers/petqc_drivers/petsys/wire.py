"""Datagrams between host and board, memory access and ASIC commands: bytes in, values out.

Integers are little-endian unless said otherwise. Nothing here decides whether something may be sent.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.4, 3, 4.1, 4.4;
golden bytes in tests/golden/petsys.toml.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HANDSHAKE: Final = b"\xff" * 22
"""First datagram of a host; any datagram in return counts as an answer (3.2)."""
REPLY_MARK: Final = 0x5A
DATA_MARK: Final = 0xA5
SERIAL_BYTES: Final = 16
SERIAL_MODULO: Final = 1 << 15
"""Serial numbers count modulo this; only the low two bytes are compared (2.4)."""
PROTOCOL_VERSION: Final = 0x0104
MAX_COMMAND_BYTES: Final = 2048
"""Largest command and reply that front ends and the vendor's programs have buffers for (2.2)."""
MAX_DATAGRAM_BYTES: Final = 65_507


class WireError(ValueError):
    """Bytes that do not follow the protocol, or values that it cannot carry."""


class Function(IntEnum):
    """Front-end function, byte 16 of a command (4)."""

    REGISTERS = 0x00
    ASIC = 0x01
    SPI = 0x02
    I2C = 0x03
    TMP104 = 0x04
    CHANNEL_COUNTERS = 0x05
    TRIGGER_REGIONS = 0x06
    TRIGGER_CALIBRATION = 0x07


def _u16(value: int, name: str) -> bytes:
    if not 0 <= value <= 0xFFFF:
        raise WireError(f"{name} {value} does not fit 16 bits")
    return value.to_bytes(2, "little")


@dataclass(frozen=True, slots=True)
class Command:
    """One command, host to board (3.3)."""

    serial: int
    function: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """The datagram.

        Raises:
            WireError: If a field does not fit or the command is longer than a board's buffer.
        """
        if not 0 <= self.serial < 1 << 128 or not 0 <= self.function <= 0xFF:
            raise WireError(f"serial {self.serial} or function {self.function} out of range")
        if SERIAL_BYTES + 1 + len(self.payload) > MAX_COMMAND_BYTES:
            raise WireError(f"command of {len(self.payload)} payload bytes is longer than a board's buffer")
        return self.serial.to_bytes(SERIAL_BYTES, "little") + bytes((self.function,)) + self.payload

    @classmethod
    def from_bytes(cls, datagram: bytes) -> Command:
        """Read a datagram as the board does.

        Raises:
            WireError: If it is too short or too long for a command.
        """
        if not SERIAL_BYTES + 1 <= len(datagram) <= MAX_COMMAND_BYTES:
            raise WireError(f"command datagram of {len(datagram)} bytes, need 17 to {MAX_COMMAND_BYTES}")
        return cls(int.from_bytes(datagram[:SERIAL_BYTES], "little"), datagram[SERIAL_BYTES], datagram[17:])


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, board to host (3.4). What hardware puts into `function` is not known."""

    serial: int
    function: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """The datagram, mark included.

        Raises:
            WireError: If a field does not fit or the payload is empty.
        """
        if not 0 <= self.serial < 1 << 128 or not 0 <= self.function <= 0xFF or not self.payload:
            raise WireError("reply needs a serial of 128 bits, a function of 8 bits and at least one payload byte")
        head = bytes((REPLY_MARK,)) + self.serial.to_bytes(SERIAL_BYTES, "little")
        return head + bytes((self.function,)) + self.payload

    @classmethod
    def from_bytes(cls, datagram: bytes) -> Reply:
        """Read a datagram that begins with 0x5A.

        Raises:
            WireError: If it is not a reply or is too short for one.
        """
        if len(datagram) < 19 or datagram[0] != REPLY_MARK:
            raise WireError(f"not a reply: {len(datagram)} bytes beginning {datagram[:1].hex() or 'with nothing'}")
        return cls(int.from_bytes(datagram[1:17], "little"), datagram[17], datagram[18:])

    @property
    def short_serial(self) -> int:
        """The two bytes by which a reply is matched to its command."""
        return self.serial & 0xFFFF


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """Read `count` words from `address` (4.1)."""

    address: int
    count: int

    def to_bytes(self) -> bytes:
        """The function payload.

        Raises:
            WireError: If address or count do not fit.
        """
        return b"\x00" + _u16(self.count - 1, "count - 1") + _u16(self.address, "address")


@dataclass(frozen=True, slots=True)
class MemoryWrite:
    """Write `count` words, given as their bytes, to `address` (4.1)."""

    address: int
    count: int
    data: bytes

    def to_bytes(self) -> bytes:
        """The function payload.

        Raises:
            WireError: If address or count do not fit.
        """
        return b"\x01" + _u16(self.count - 1, "count - 1") + _u16(self.address, "address") + self.data


MEMORY_WRITE_OK: Final = b"\x00"


def parse_memory_access(payload: bytes, *, word_bytes: int = 1) -> MemoryRead | MemoryWrite:
    """Read the payload of functions 0x00, 0x05, 0x06 and 0x07 as the board does.

    Args:
        payload: What follows the function byte.
        word_bytes: Bytes of one word of the addressed memory (1, 4 for counters, 5 for trigger calibration).

    Raises:
        WireError: If the length does not fit the operation.
    """
    if len(payload) < 5 or payload[0] > 1:
        raise WireError(f"not a memory access: {payload[:5].hex() or 'empty'}")
    count, address = 1 + int.from_bytes(payload[1:3], "little"), int.from_bytes(payload[3:5], "little")
    data = payload[5:]
    if payload[0] == 0:
        if data:
            raise WireError(f"{len(data)} bytes behind a memory read")
        return MemoryRead(address, count)
    if len(data) != count * word_bytes:
        raise WireError(f"memory write of {count} words of {word_bytes} bytes brings {len(data)} bytes")
    return MemoryWrite(address, count, data)


def memory_read_reply(data: bytes, *, status: int = 0, tail: int = 0) -> bytes:
    """Reply payload of a memory read: status, data, one trailing byte."""
    return bytes((status,)) + data + bytes((tail,))


def parse_memory_read_reply(payload: bytes, n_bytes: int) -> bytes:
    """The data of a memory read; both outer bytes are ignored because their meaning on hardware is unknown.

    Raises:
        WireError: If the length is not exactly two more than the data asked for.
    """
    if len(payload) != n_bytes + 2:
        raise WireError(f"memory read of {n_bytes} bytes answered with {len(payload)} instead of {n_bytes + 2}")
    return payload[1:-1]


def check_memory_write_reply(payload: bytes) -> None:
    """Accept exactly one byte 00.

    Raises:
        WireError: If the board answered anything else.
    """
    if payload != MEMORY_WRITE_OK:
        raise WireError(f"memory write answered with {payload[:8].hex()} instead of 00")


class AsicStatus(IntEnum):
    """First byte of an ASIC reply (4.4); values not listed are a generic error."""

    OK = 0x00
    BAD_ACKNOWLEDGE_0 = 0xE3
    CRC = 0xE4
    BAD_ACKNOWLEDGE_1 = 0xE5


class AsicOpcode(IntEnum):
    """First four bits of an ASIC command (4.4)."""

    WRITE_CHANNEL = 0b0000
    READ_CHANNEL = 0b0001
    WRITE_GLOBAL = 0b1000
    READ_GLOBAL = 0b1001


GLOBAL_BITS: Final = 184
CHANNEL_BITS: Final = 125
_CHANNEL_NUMBER_BITS: Final = 7
# The vendor pads writes with bytes that carry nothing; boards are only known to accept that form.
_PADDED_BYTES: Final = {AsicOpcode.WRITE_CHANNEL: 19, AsicOpcode.WRITE_GLOBAL: 25}


def asic_address(chip: int, asics_per_module: int) -> int:
    """The 16-bit address of a chip: module in the high byte, place in the module in the low byte (4.4).

    Raises:
        WireError: If the chip is not 0..63 or the number per module is not positive.
    """
    if not 0 <= chip < 64 or asics_per_module < 1:
        raise WireError(f"chip {chip} with {asics_per_module} ASICs per module: chips are 0..63")
    return chip // asics_per_module * 256 + chip % asics_per_module


@dataclass(frozen=True, slots=True)
class AsicCommand:
    """Read or write one configuration of one ASIC (4.4).

    `channel` is None for the global configuration; `value` (the configuration as an integer whose most significant
    bit is transmitted first) is None for a read.
    """

    address: int
    channel: int | None
    value: int | None

    @property
    def opcode(self) -> AsicOpcode:
        """The operation."""
        if self.channel is None:
            return AsicOpcode.READ_GLOBAL if self.value is None else AsicOpcode.WRITE_GLOBAL
        return AsicOpcode.READ_CHANNEL if self.value is None else AsicOpcode.WRITE_CHANNEL

    @property
    def n_configuration_bits(self) -> int:
        """Length of the configuration that is read or written."""
        return GLOBAL_BITS if self.channel is None else CHANNEL_BITS

    def to_bytes(self) -> bytes:
        """The function payload.

        Raises:
            WireError: If a field does not fit.
        """
        if not 0 <= self.address <= 0xFFFF or not (self.channel is None or 0 <= self.channel < 64):
            raise WireError(f"ASIC address {self.address} or channel {self.channel} out of range")
        opcode, bits, n_bits = self.opcode, int(self.opcode), 4
        if self.channel is not None:
            bits, n_bits = bits << _CHANNEL_NUMBER_BITS | self.channel, n_bits + _CHANNEL_NUMBER_BITS
        n_read = 0
        if self.value is None:
            n_read = self.n_configuration_bits
        else:
            if not 0 <= self.value < 1 << self.n_configuration_bits:
                raise WireError(f"configuration does not fit {self.n_configuration_bits} bits")
            bits, n_bits = bits << self.n_configuration_bits | self.value, n_bits + self.n_configuration_bits
        n_bytes = (n_bits + 7) // 8
        packed = (bits << (8 * n_bytes - n_bits)).to_bytes(n_bytes, "big")
        head = self.address.to_bytes(2, "big") + bytes((n_bits, n_read))
        return head + packed.ljust(_PADDED_BYTES.get(opcode, 0), b"\x00")

    @classmethod
    def from_bytes(cls, payload: bytes) -> AsicCommand:
        """Read the payload as the board does; trailing padding of writes is optional.

        Raises:
            WireError: If operation, lengths or bits disagree.
        """
        if len(payload) < 5:
            raise WireError(f"ASIC command of {len(payload)} bytes")
        address, n_write, n_read = int.from_bytes(payload[:2], "big"), payload[2], payload[3]
        if len(payload) - 4 < (n_write + 7) // 8 or n_write < 4:
            raise WireError(f"ASIC command announces {n_write} bits and brings {len(payload) - 4} bytes")
        bits = int.from_bytes(payload[4:], "big") >> (8 * (len(payload) - 4) - n_write)
        left = n_write - 4
        try:
            opcode = AsicOpcode(bits >> left)
        except ValueError as error:
            raise WireError(f"unknown ASIC operation {bits >> left:04b}") from error
        channel: int | None = None
        if opcode in {AsicOpcode.READ_CHANNEL, AsicOpcode.WRITE_CHANNEL}:
            left -= _CHANNEL_NUMBER_BITS
            channel = (bits >> max(left, 0)) & 0x7F
            if channel >= 64:
                raise WireError(f"ASIC channel {channel}, channels are 0..63")
        n_bits = GLOBAL_BITS if channel is None else CHANNEL_BITS
        is_read = opcode in {AsicOpcode.READ_CHANNEL, AsicOpcode.READ_GLOBAL}
        if (left, n_read) != ((0, n_bits) if is_read else (n_bits, 0)):
            raise WireError(f"ASIC {opcode.name}: lengths {n_write} and {n_read} do not belong to it")
        return cls(address, channel, None if is_read else bits & ((1 << n_bits) - 1))


def asic_reply(status: int, *, value: int | None = None, n_bits: int = 0) -> bytes:
    """Reply payload of an ASIC command; `value` of `n_bits` for a read that went well."""
    if value is None:
        return bytes((status,))
    n_bytes = (n_bits + 7) // 8
    return bytes((status,)) + (value << (8 * n_bytes - n_bits)).to_bytes(n_bytes, "big")


def parse_asic_reply(payload: bytes, n_bits: int) -> tuple[int, int | None]:
    """Status and, if status is OK and `n_bits` > 0, the configuration read.

    Raises:
        WireError: If there is no status, or a good read has the wrong length.
    """
    if not payload:
        raise WireError("ASIC reply without a status")
    if payload[0] != AsicStatus.OK or n_bits == 0:
        return payload[0], None
    n_bytes = (n_bits + 7) // 8
    if len(payload) != 1 + n_bytes:
        raise WireError(f"ASIC read of {n_bits} bits answered with {len(payload) - 1} bytes instead of {n_bytes}")
    return payload[0], int.from_bytes(payload[1:], "big") >> (8 * n_bytes - n_bits)
