"""The control socket: requests that write and read memory, and their replies. Everything is little-endian.

Source: CAEN FERS-5200 direct Ethernet reference, section "Control socket".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError

CONTROL_PORT: Final = 9760
DATA_PORT: Final = 9000
WRITE, READ = b"ABBD", b"ABBE"
HEADER: Final = struct.Struct("<4sII")
WRITE_REPLY_BYTES: Final = 4
MOST_BYTES: Final = 4096
"""Most that is written or read at once; registers are 4 bytes."""
_WORD: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class MemoryWrite:
    """Write bytes at an address; the board answers with 4 bytes, 0 for done."""

    address: int
    data: bytes

    def to_bytes(self) -> bytes:
        """As it is sent."""
        _check(self.address, len(self.data))
        return HEADER.pack(WRITE, self.address, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """Read so many bytes at an address; the board answers with just these."""

    address: int
    n_bytes: int

    def to_bytes(self) -> bytes:
        """As it is sent."""
        _check(self.address, self.n_bytes)
        return HEADER.pack(READ, self.address, self.n_bytes)


def write_register(address: int, value: int) -> bytes:
    """The request that sets one register of 32 bits.

    Raises:
        LocalProtocolError: The value has more.
    """
    return MemoryWrite(address, word(value)).to_bytes()


def read_register(address: int) -> bytes:
    """The request that reads one register."""
    return MemoryRead(address, _WORD.size).to_bytes()


def word(value: int) -> bytes:
    """32 bits in transmission order.

    Raises:
        LocalProtocolError: The value has more.
    """
    if not 0 <= value <= 0xFFFF_FFFF:
        raise LocalProtocolError(f"register value {value:#x} does not fit 32 bits")
    return _WORD.pack(value)


def parse_word(data: bytes) -> int:
    """The value of a register that was read.

    Raises:
        RemoteProtocolError: Not 4 bytes.
    """
    if len(data) != _WORD.size:
        raise RemoteProtocolError(f"a register has 4 bytes, not {len(data)}")
    return int(_WORD.unpack(data)[0])


def check_write_reply(data: bytes) -> None:
    """See that a write was done.

    Raises:
        RemoteProtocolError: The board refused it.
    """
    code = parse_word(data)
    if code:
        raise RemoteProtocolError(f"the board refused a write with code {code:#x}")


def parse_request(data: bytes) -> tuple[MemoryWrite | MemoryRead | None, int]:
    """The first whole request of what a board received, and its length; (None, 0): more is needed.

    Raises:
        RemoteProtocolError: It is none of the requests.
    """
    if len(data) < HEADER.size:
        if data and not (WRITE.startswith(data[:4]) or READ.startswith(data[:4])):
            raise RemoteProtocolError(f"no request begins with {data[:4]!r}")
        return None, 0
    kind, address, n_bytes = HEADER.unpack_from(data)
    if kind not in {WRITE, READ}:
        raise RemoteProtocolError(f"no request begins with {kind!r}")
    if not 0 < n_bytes <= MOST_BYTES:
        raise RemoteProtocolError(f"a request for {n_bytes} bytes")
    if kind == READ:
        return MemoryRead(address, n_bytes), HEADER.size
    end = HEADER.size + n_bytes
    return (None, 0) if len(data) < end else (MemoryWrite(address, data[HEADER.size : end]), end)


def _check(address: int, n_bytes: int) -> None:
    if not 0 <= address <= 0xFFFF_FFFF:
        raise LocalProtocolError(f"address {address:#x} does not fit 32 bits")
    if not 0 < n_bytes <= MOST_BYTES:
        raise LocalProtocolError(f"{n_bytes} bytes at once: 1 to {MOST_BYTES}")
