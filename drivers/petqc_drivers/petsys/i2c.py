"""Transfers on the board's I2C buses, step by step: each step sets both lines and shows what is on them.

The devices on these buses trim the supplies of the modules of a FEB/D 8K; `petqc_drivers.petsys.power_8k` alone sends
to them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.7; the third step of
a bit and of a start from the public vendor software of the same revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from petqc_drivers.petsys.wire import WireError

SCL, SDA, CHECK_SCL, CHECK_SDA = 0x01, 0x02, 0x04, 0x08
"""Bits of a step: level to set (1 releases the line), and whether to see that the line gets there."""
BUS_ERROR: Final = 0xE0
"""Bits of a reply, any of them set: a line did not get there."""

_START: Final = (0b1111, 0b1101, 0b1100)
_STOP: Final = (0b0100, 0b0001, 0b0011)
_LISTEN: Final = (0b0110, 0b0111, 0b0110)
_NOT_ACKNOWLEDGE: Final = (0b1110, 0b1111, 0b1100)
_BARE_STOP: Final = (0b0000, 0b0001, 0b0011)
"""A stop that checks nothing: frees a bus after an error."""
_BUS_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class I2cTransfer:
    """One transfer on a bus.

    Attributes:
        bus: Number of the bus.
        steps: The steps, one byte each.
        acknowledges: Steps at which a device must hold the data line low.
        reads_from: Step at which the first bit of a byte to be read is on the line; None if none is read.
    """

    bus: int
    steps: bytes
    acknowledges: tuple[int, ...]
    reads_from: int | None = None

    def to_bytes(self) -> bytes:
        """The function payload.

        Raises:
            WireError: If the bus does not fit.
        """
        if not 0 <= self.bus <= 0xFFFF:
            raise WireError(f"I2C bus {self.bus} does not fit 16 bits")
        return self.bus.to_bytes(_BUS_BYTES, "big") + self.steps


def _byte(value: int, *, is_held: bool = False) -> tuple[int, ...]:
    """Eight bits, most significant first; `is_held` keeps each until the next, instead of letting go with the clock."""
    steps: tuple[int, ...] = ()
    for bit in range(7, -1, -1):
        sda = SDA * (value >> bit & 1)
        steps += (0b1100 | sda, 0b1101 | sda, 0b1100 | (sda if is_held else 0))
    return steps


def _sent(values: tuple[int, ...], *, hold_first: bool = False) -> tuple[tuple[int, ...], list[int]]:
    """Start and bytes, each with its acknowledge; and where these are."""
    steps: tuple[int, ...] = _START
    acknowledges: list[int] = []
    for i, value in enumerate(values):
        if not 0 <= value <= 0xFF:
            raise WireError(f"I2C byte {value} does not fit 8 bits")
        steps += _byte(value, is_held=hold_first and i == 0) + _LISTEN
        acknowledges.append(len(steps) - 2)
    return steps, acknowledges


def i2c_write(bus: int, *values: int, hold_first: bool = False) -> I2cTransfer:
    """Write bytes, the first of them the address of the device.

    Raises:
        WireError: If a byte does not fit.
    """
    steps, acknowledges = _sent(values, hold_first=hold_first)
    return I2cTransfer(bus, bytes(steps + _STOP), tuple(acknowledges))


def i2c_read_register(bus: int, address: int, register: int) -> I2cTransfer:
    """Read one byte from a register of a device.

    Raises:
        WireError: If address or register do not fit.
    """
    pointed, acknowledges = _sent((address, register))
    asked, more = _sent((address | 1,))
    acknowledges += [len(pointed) + place for place in more]
    steps = pointed + asked
    # The device shows a bit as soon as the clock has fallen: the first one with the last step of the acknowledge.
    reads_from = len(steps) - 1
    return I2cTransfer(bus, bytes(steps + 8 * _LISTEN + _NOT_ACKNOWLEDGE + _STOP), tuple(acknowledges), reads_from)


def i2c_release(bus: int) -> I2cTransfer:
    """Free a bus after an error."""
    return I2cTransfer(bus, bytes(_BARE_STOP), ())


@dataclass(frozen=True, slots=True)
class I2cResult:
    """What came of a transfer.

    Attributes:
        is_bus_error: A line was held by somebody.
        is_acknowledged: The device took every byte.
        value: The byte read; None if none was asked for.
    """

    is_bus_error: bool
    is_acknowledged: bool
    value: int | None


def parse_i2c_reply(transfer: I2cTransfer, reply: bytes) -> I2cResult:
    """What the lines showed.

    Raises:
        WireError: If there is not one byte for each step.
    """
    if len(reply) != len(transfer.steps):
        raise WireError(f"I2C transfer of {len(transfer.steps)} steps answered with {len(reply)} bytes")
    value: int | None = None
    if transfer.reads_from is not None:
        value = 0
        for place in range(transfer.reads_from, transfer.reads_from + 24, 3):
            value = value << 1 | bool(reply[place] & SDA)
    return I2cResult(
        is_bus_error=any(state & BUS_ERROR for state in reply),
        is_acknowledged=all(not reply[place] & SDA for place in transfer.acknowledges),
        value=value,
    )


def spoken(payload: bytes) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """What a payload says on its bus, read from the two lines as a device would: after each start, the bytes.

    A byte that the master listens to reads 0xFF.

    Returns:
        The bus, and the bytes after each start.

    Raises:
        WireError: If the lines do not make whole bytes between a start and a stop.
    """
    if len(payload) < _BUS_BYTES:
        raise WireError("I2C command without a bus")
    scl, sda = 1, 1
    said: list[list[int]] = []
    bits: list[int] = []
    is_open = False

    def end() -> None:
        if is_open and len(bits) % 9:
            raise WireError(f"I2C transfer ends within a byte, after {len(bits)} bits")
        if is_open:
            said.append([int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, len(bits), 9)])

    for step in payload[_BUS_BYTES:]:
        new_scl, new_sda = step & SCL, (step & SDA) >> 1
        if scl and new_scl and sda != new_sda:
            # The clock of this very stop or repeated start is not one of a bit.
            if is_open:
                bits = bits[:-1]
            end()
            bits, is_open = [], not new_sda
        elif new_scl and not scl and is_open:
            bits.append(new_sda)
        scl, sda = new_scl, new_sda
    if is_open:
        raise WireError("I2C transfer without a stop")
    return int.from_bytes(payload[:_BUS_BYTES], "big"), tuple(tuple(values) for values in said)
