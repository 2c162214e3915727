"""Messages between the daemon of a DAQ card (`daqd`) and its clients, and the arithmetic of the shared ring.

A request is a header (type, length of the whole) and a payload. Replies have no common framing: their lengths follow
from the request's type, and in two cases from their first two bytes. They are C structs whose padding is garbage.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.2 to 2.8;
golden bytes in tests/golden/petsys.toml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from petqc_drivers.petsys.wire import MAX_COMMAND_BYTES, REPLY_MARK, Command, Reply, WireError


class Message(IntEnum):
    """Type of a request (2.3)."""

    ACQUISITION = 0x01
    SHARED_MEMORY = 0x02
    POINTERS = 0x03
    SET_READ_POINTER = 0x04
    FRONT_END = 0x05
    PORTS = 0x06
    PORT_COUNTERS = 0x07
    QUIT = 0x08
    SORTER = 0x09
    COINCIDENCE_FILTER = 0x10
    IDLE_TIME = 0x11
    GATE = 0x12
    MINIMUM_FRAME = 0x13
    CARD_TEMPERATURE = 0x14


HEADER_BYTES: Final = 4
MAX_REQUEST_BYTES: Final = 16_384
COINCIDENCE_FILTER_BYTES: Final = 152
NO_CARD: Final = 0xFFFF
"""Length of a front-end reply with nothing behind it: the daemon has no card for this port (10)."""

RING_SLOTS: Final = 16_384
SLOT_WORDS: Final = 8196
SLOT_BYTES: Final = 8 * SLOT_WORDS
RING_BYTES: Final = RING_SLOTS * SLOT_BYTES
POINTER_MODULO: Final = 2 * RING_SLOTS

_FIXED_REPLY_BYTES: Final = {
    Message.ACQUISITION: 2,
    Message.POINTERS: 16,
    Message.SET_READ_POINTER: 4,
    Message.PORTS: 16,
    Message.PORT_COUNTERS: 32,
    Message.SORTER: 4,
    Message.COINCIDENCE_FILTER: 4,
    Message.IDLE_TIME: 4,
    Message.GATE: 4,
    Message.MINIMUM_FRAME: 4,
    Message.CARD_TEMPERATURE: 16,
}
_SHARED_MEMORY_HEAD_BYTES: Final = 32
_NAME: Final = re.compile(rb"/[A-Za-z0-9_.+:@-]{1,254}\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, client to daemon (2.2)."""

    type: int
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """Header and payload, to be handed to the kernel in one piece.

        Raises:
            WireError: If it is longer than a daemon takes.
        """
        length = HEADER_BYTES + len(self.payload)
        if not 0 <= self.type <= 0xFFFF or length > MAX_REQUEST_BYTES:
            raise WireError(f"request of type {self.type} and {length} bytes: 16 bits and {MAX_REQUEST_BYTES} bytes")
        if self.type == Message.FRONT_END and len(self.payload) > MAX_COMMAND_BYTES:
            raise WireError(f"front-end request of {len(self.payload)} bytes overflows the daemon's buffer")
        return self.type.to_bytes(2, "little") + length.to_bytes(2, "little") + self.payload


def parse_header(header: bytes) -> tuple[int, int]:
    """Type of a request, and the bytes behind its header.

    Raises:
        WireError: If the header is cut or its length is impossible.
    """
    if len(header) != HEADER_BYTES:
        raise WireError(f"request header of {len(header)} bytes")
    length = int.from_bytes(header[2:], "little")
    if not HEADER_BYTES <= length <= MAX_REQUEST_BYTES:
        raise WireError(f"request announces {length} bytes, possible are {HEADER_BYTES} to {MAX_REQUEST_BYTES}")
    return int.from_bytes(header[:2], "little"), length - HEADER_BYTES


def _number(payload: bytes, n_bytes: int, what: str) -> int:
    if len(payload) != n_bytes:
        raise WireError(f"{what} of {len(payload)} bytes instead of {n_bytes}")
    return int.from_bytes(payload, "little")


def acquisition_request(*, is_on: bool) -> Request:
    """Switch the acquisition on or off; on sets both ring pointers and the minimum frame to 0 (2.5)."""
    return Request(Message.ACQUISITION, int(is_on).to_bytes(2, "little"))


def parse_acquisition(payload: bytes) -> bool:
    """Whether to acquire: anything but 0 is on.

    Raises:
        WireError: If the payload has the wrong length.
    """
    return _number(payload, 2, "acquisition mode") != 0


def set_read_pointer_request(pointer: int) -> Request:
    """Release the slots before `pointer`.

    Raises:
        WireError: If it is no ring pointer.
    """
    if not 0 <= pointer < POINTER_MODULO:
        raise WireError(f"read pointer {pointer} is not 0..{POINTER_MODULO - 1}")
    return Request(Message.SET_READ_POINTER, pointer.to_bytes(4, "little"))


def parse_set_read_pointer(payload: bytes) -> int:
    """The pointer of a request, or the one echoed in its reply.

    Raises:
        WireError: If the payload has the wrong length.
    """
    return _number(payload, 4, "read pointer")


def minimum_frame_request(frame: int) -> Request:
    """Let the daemon drop the frames before this id (2.8).

    Raises:
        WireError: If it is no 64-bit number.
    """
    if not 0 <= frame < 1 << 64:
        raise WireError(f"minimum frame {frame} does not fit 64 bits")
    return Request(Message.MINIMUM_FRAME, frame.to_bytes(8, "little"))


def parse_minimum_frame(payload: bytes) -> int:
    """The frame id.

    Raises:
        WireError: If the payload has the wrong length.
    """
    return _number(payload, 8, "minimum frame")


def port_counters_request(port: int) -> Request:
    """Ask for the link counters of a port.

    Raises:
        WireError: If it does not fit 16 bits.
    """
    if not 0 <= port <= 0xFFFF:
        raise WireError(f"port {port} does not fit 16 bits")
    return Request(Message.PORT_COUNTERS, port.to_bytes(2, "little"))


@dataclass(frozen=True, slots=True)
class FrontEndCommand:
    """A command to one unit: the address the daemon needs, then what the unit gets."""

    port: int
    slave: int
    command: Command

    def to_request(self) -> Request:
        """The request.

        Raises:
            WireError: If the address is impossible or the command too long.
        """
        if not (0 <= self.port < 32 and 0 <= self.slave < 32):
            raise WireError(f"port {self.port} or slave {self.slave} is not 0..31")
        return Request(Message.FRONT_END, bytes((self.port, self.slave)) + self.command.to_bytes())

    @classmethod
    def from_payload(cls, payload: bytes) -> FrontEndCommand:
        """Read the payload as the daemon does.

        Raises:
            WireError: If it is too short for a command.
        """
        if len(payload) < 2:
            raise WireError(f"front-end request of {len(payload)} payload bytes")
        return cls(payload[0], payload[1], Command.from_bytes(payload[2:]))


def reply_head_bytes(request_type: int) -> int:
    """Bytes of the reply that always come; none for requests that get no reply.

    For the two replies of variable length these are the first two bytes, see `reply_rest_bytes`.
    """
    if request_type in {Message.SHARED_MEMORY, Message.FRONT_END}:
        return 2
    return _FIXED_REPLY_BYTES[Message(request_type)] if request_type in _FIXED_REPLY_BYTES else 0


def reply_rest_bytes(request_type: int, head: bytes) -> int:
    """Bytes still to come once the head of a reply is there.

    Raises:
        WireError: If the head announces a length that no such reply has.
    """
    length = int.from_bytes(head[:2], "little")
    if request_type == Message.FRONT_END:
        if length == NO_CARD:
            return 0
        if length > MAX_COMMAND_BYTES:
            raise WireError(f"front-end reply announces {length} bytes, {MAX_COMMAND_BYTES} are possible")
        return length
    if request_type == Message.SHARED_MEMORY:
        if not _SHARED_MEMORY_HEAD_BYTES < length <= _SHARED_MEMORY_HEAD_BYTES + 255:
            raise WireError(f"shared memory reply announces {length} bytes")
        return length - 2
    return 0


def front_end_reply(reply: Reply | None) -> bytes:
    """The daemon's reply: length without itself, serial, function, payload; only the length if no unit answered."""
    body = b"" if reply is None else reply.to_bytes()[1:]
    return len(body).to_bytes(2, "little") + body


def parse_front_end_reply(reply: bytes) -> Reply | None:
    """What the unit answered; None if it did not, or with too little to be an answer.

    Raises:
        WireError: If the daemon has no card for the port, or the length disagrees.
    """
    length, body = int.from_bytes(reply[:2], "little"), reply[2:]
    if length == NO_CARD and not body:
        raise WireError("the daemon has no DAQ card for this port")
    if len(reply) < 2 or length != len(body):
        raise WireError(f"front-end reply announces {length} bytes and brings {len(body)}")
    return None if len(body) < 18 else Reply.from_bytes(bytes((REPLY_MARK,)) + body)


def check_shared_memory_name(name: str) -> str:
    """The name, if it can be the name of a POSIX shared-memory object.

    Raises:
        WireError: If it is none: it must begin with a slash, have no other, and use plain characters.
    """
    if not _NAME.match(name.encode("utf-8", "surrogateescape")) or name in {"/.", "/.."}:
        raise WireError(f"{name!r} is no name of a shared-memory object")
    return name


@dataclass(frozen=True, slots=True)
class SharedMemoryInfo:
    """Where the ring is (reply 0x02)."""

    name: str
    slot_bytes: int = SLOT_BYTES

    def to_bytes(self) -> bytes:
        """The reply.

        Raises:
            WireError: If the name is none.
        """
        name = check_shared_memory_name(self.name).encode()
        head = (_SHARED_MEMORY_HEAD_BYTES + len(name)).to_bytes(2, "little").ljust(8, b"\x00")
        return head + self.slot_bytes.to_bytes(8, "little") + bytes(16) + name

    @classmethod
    def from_bytes(cls, reply: bytes) -> SharedMemoryInfo:
        """Read the reply.

        Raises:
            WireError: If lengths disagree or the name is none.
        """
        if len(reply) <= _SHARED_MEMORY_HEAD_BYTES or int.from_bytes(reply[:2], "little") != len(reply):
            raise WireError(f"shared memory reply of {len(reply)} bytes that begins {reply[:2].hex()}")
        name = reply[_SHARED_MEMORY_HEAD_BYTES:].decode("utf-8", "surrogateescape")
        return cls(check_shared_memory_name(name), int.from_bytes(reply[8:16], "little"))


def _check_length_field(reply: bytes, n_bytes: int, what: str) -> None:
    if len(reply) != n_bytes or int.from_bytes(reply[:2], "little") != n_bytes:
        raise WireError(f"{what} reply of {len(reply)} bytes that begins {reply[:2].hex()}, expected {n_bytes}")


@dataclass(frozen=True, slots=True)
class Pointers:
    """State of the ring (reply 0x03). Pointers count slots modulo twice their number."""

    write: int
    read: int
    is_acquiring: bool

    @property
    def waiting(self) -> int | None:
        """Slots from read to write; None if these cannot be the pointers of a ring (2.6)."""
        if not (0 <= self.write < POINTER_MODULO and 0 <= self.read < POINTER_MODULO):
            return None
        count = (self.write - self.read) % POINTER_MODULO
        return count if count <= RING_SLOTS else None

    def to_bytes(self) -> bytes:
        """The reply."""
        fields = (self.write, self.read, int(self.is_acquiring))
        return (16).to_bytes(4, "little") + b"".join(value.to_bytes(4, "little") for value in fields)

    @classmethod
    def from_bytes(cls, reply: bytes) -> Pointers:
        """Read the reply.

        Raises:
            WireError: If it has the wrong length.
        """
        _check_length_field(reply, 16, "pointer")
        write, read, acquiring = (int.from_bytes(reply[i : i + 4], "little") for i in (4, 8, 12))
        return cls(write, read, acquiring != 0)


def ports_reply(mask: int) -> bytes:
    """Reply 0x06: bit mask of the ports that are up."""
    return (16).to_bytes(8, "little") + mask.to_bytes(8, "little")


def parse_ports_reply(reply: bytes) -> tuple[int, ...]:
    """The ports that are up.

    Raises:
        WireError: If it has the wrong length.
    """
    _check_length_field(reply, 16, "port")
    mask = int.from_bytes(reply[8:], "little")
    return tuple(port for port in range(64) if mask >> port & 1)


@dataclass(frozen=True, slots=True)
class PortCounters:
    """Link counters of a port of the DAQ card (reply 0x07), in words."""

    tx: int
    rx: int
    rx_bad: int

    def to_bytes(self) -> bytes:
        """The reply."""
        return (32).to_bytes(8, "little") + b"".join(v.to_bytes(8, "little") for v in (self.tx, self.rx, self.rx_bad))

    @classmethod
    def from_bytes(cls, reply: bytes) -> PortCounters:
        """Read the reply.

        Raises:
            WireError: If it has the wrong length.
        """
        _check_length_field(reply, 32, "port counter")
        return cls(*(int.from_bytes(reply[i : i + 8], "little") for i in (8, 16, 24)))


def card_temperature_reply(degc: tuple[float, float, float, float]) -> bytes:
    """Reply 0x14: temperature of up to four cards."""
    return (16).to_bytes(8, "little") + b"".join(round(100 * t).to_bytes(2, "little") for t in degc)


def parse_card_temperature_reply(reply: bytes) -> tuple[float, ...]:
    """Temperature in degC of card 0 to 3; 0 where there is no card.

    Raises:
        WireError: If it has the wrong length.
    """
    _check_length_field(reply, 16, "card temperature")
    return tuple(int.from_bytes(reply[i : i + 2], "little") / 100 for i in range(8, 16, 2))


def status_reply(value: int) -> bytes:
    """Reply of the requests that answer with one signed number (0x09 to 0x13)."""
    return value.to_bytes(4, "little", signed=True)


def parse_status_reply(reply: bytes) -> int:
    """The number; 0 is well, -1 means that this kind of card cannot do it.

    Raises:
        WireError: If it has the wrong length.
    """
    if len(reply) != 4:
        raise WireError(f"status reply of {len(reply)} bytes instead of 4")
    return int.from_bytes(reply, "little", signed=True)
