"""Wire logs: every chunk of bytes that crossed one wire, with its time, in a file that is readable after a crash.

A record is `mark, length, event, number, monotonic, unix, payload, CRC-32` (docs/reference/bundle.md): it says itself
where it ends and whether it is whole. Records are numbered, so that one that is missing is noticed. What could not be
kept (file full, recorder too slow, disk full) is told by a record of its own at the place where it is missing.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.formats.damage import DamageLog
from petqc.formats.reader import Reader
from petqc.output_files import sync_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA: Final = "petqc-wire/1"
SUFFIX: Final = ".wire"
MARK: Final = b"\xabWR\x1a"
HEAD: Final = struct.Struct("<4sIB3xIQQ")
"""mark, bytes of the payload, event, number of the record, monotonic ns, ns since 1970."""
_CRC: Final = struct.Struct("<I")
MOST_PAYLOAD: Final = 1 << 20
"""Longer chunks become several records of one event."""
LIMIT_BYTES: Final = 64 << 20
_ROOM_AT_END: Final = 4096
"""Kept free below the limit for the records that say what is missing."""
_BUFFER: Final = 1 << 16


class WireEvent(enum.IntEnum):
    """What a record says; the payload of `SENT` and `RECEIVED` is bytes of the wire, of all others UTF-8 text."""

    HEADER = 0
    """JSON: what wire this is; always the first record."""
    OPENED = 1
    """A session begins: where."""
    CLOSED = 2
    """A session ends."""
    SENT = 3
    RECEIVED = 4
    TIMEOUT = 5
    """What was waited for did not come in time."""
    FAILED = 6
    """The wire, or opening it, failed: why."""
    GAP = 7
    """JSON: records and bytes that are not here, and why."""
    END = 8
    """JSON: totals; always the last record of a log that was closed."""


@dataclass(frozen=True, slots=True)
class WireRecord:
    """Something that happened on a wire. monotonic_ns: on the clock of the recording machine; unix_ns: since 1970."""

    event: WireEvent
    payload: bytes
    number: int
    monotonic_ns: int
    unix_ns: int

    @property
    def text(self) -> str:
        """The payload of an event that is not bytes of the wire."""
        return self.payload.decode(errors="replace")

    @property
    def content(self) -> dict[str, Any]:
        """The payload of an event whose payload is JSON; empty if it is none."""
        try:
            found = json.loads(self.payload)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def to_bytes(self) -> bytes:
        """As it stands in a file."""
        head = HEAD.pack(MARK, len(self.payload), self.event, self.number, self.monotonic_ns, self.unix_ns)
        return head + self.payload + _CRC.pack(zlib.crc32(self.payload, zlib.crc32(head)))


@dataclass(slots=True)
class WireTotals:
    """What a log holds, by records and by bytes of the wire; dropped: what it says is missing."""

    records: int = 0
    sent: int = 0
    received: int = 0
    dropped_records: int = 0
    dropped_bytes: int = 0

    def count(self, record: WireRecord) -> None:
        """One record more."""
        self.records += 1
        if record.event is WireEvent.SENT:
            self.sent += len(record.payload)
        elif record.event is WireEvent.RECEIVED:
            self.received += len(record.payload)

    def drop(self, records: int, n_bytes: int) -> None:
        """So many are not in the log."""
        self.dropped_records += records
        self.dropped_bytes += n_bytes


class WireLogWriter:
    """A wire log being written. What was added is on the disk after the next `sync`.

    Attributes:
        path: the file. totals: what was added, and what was not.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], at: tuple[int, int], *, limit: int = LIMIT_BYTES) -> None:
        """Create it.

        Args:
            path: ends in `.wire`; nothing is ever overwritten.
            about: JSON values for the header: `wire` (its name), `transport`, `address`, …
            at: monotonic ns and ns since 1970.
            limit: bytes that the file may have; beyond it chunks are counted, and a record says from where on.

        Raises:
            OSError: it cannot be created.
        """
        self.path = Path(path)
        self.totals = WireTotals()
        self._limit = limit
        self._buffer = bytearray()
        self._size = 0
        self._is_full = False
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._put(WireEvent.HEADER, _json({"schema": SCHEMA, **about}), at)
        self.sync()
        sync_path(self.path.parent)

    def add(self, event: WireEvent, payload: bytes, at: tuple[int, int]) -> None:
        """Append what happened. at: monotonic ns and ns since 1970.

        Raises:
            OSError: the disk is full or fails.
        """
        for begin in range(0, max(len(payload), 1), MOST_PAYLOAD):
            part = payload[begin : begin + MOST_PAYLOAD]
            size = HEAD.size + len(part) + _CRC.size
            if self._is_full or self._size + size > self._limit - _ROOM_AT_END:
                if not self._is_full:
                    self._is_full = True
                    self._put(WireEvent.GAP, _json({"why": f"the log is full ({self._limit} bytes): the rest is only "
                                                    "counted"}), at)  # fmt: skip
                self.totals.drop(1, len(part))
            else:
                self._put(event, part, at)

    def missed(self, records: int, n_bytes: int, why: str, at: tuple[int, int]) -> None:
        """Say that something is missing here."""
        self.totals.drop(records, n_bytes)
        if not self._is_full:
            self._put(WireEvent.GAP, _json({"records": records, "bytes": n_bytes, "why": why}), at)

    def sync(self) -> None:
        """Let what was added survive a power failure.

        Raises:
            OSError: the disk is full or fails.
        """
        self._flush()
        os.fdatasync(self._file)

    def close(self, at: tuple[int, int], why: str = "") -> None:
        """Write the last record, sync and close; may be called again. why: it ends before the run does."""
        if self._file < 0:
            return
        totals = {name: getattr(self.totals, name) for name in WireTotals.__dataclass_fields__}
        try:
            self._put(WireEvent.END, _json({**totals, **({"why": why} if why else {})}), at)
            self.sync()
        finally:
            os.close(self._file)
            self._file = -1

    def _put(self, event: WireEvent, payload: bytes, at: tuple[int, int]) -> None:
        record = WireRecord(event, payload, self.totals.records, *at)
        data = record.to_bytes()
        self.totals.count(record)
        self._size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        while self._buffer:
            del self._buffer[: os.write(self._file, self._buffer)]


@dataclass(frozen=True, slots=True)
class WireEnd:
    """How a log ends. is_closed: its last record says so. totals: what is in it, as counted while reading."""

    is_closed: bool
    totals: WireTotals = field(default_factory=WireTotals)


class WireLogReader(Reader):
    """Reads a wire log, whole or damaged.

    Attributes:
        header: the first record's JSON: `wire`, `transport`, `address`, …
        damages: of the last reading: what is torn, flipped or missing.
        end: of the last complete reading.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it.

        Raises:
            BadInputError: it cannot be read, or is something else.
        """
        self.path = Path(path)
        self.damages = DamageLog()
        self.end = WireEnd(is_closed=False)
        try:
            with self.path.open("rb") as file:
                self._data: mmap.mmap | bytes = (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
                )
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=str(self.path)) from error
        first = _record_at(self._data, 0)
        content = first.content if isinstance(first, WireRecord) and first.event is WireEvent.HEADER else {}
        if content.get("schema") != SCHEMA:
            self.close()
            raise BadInputError(f"is no wire log of schema {SCHEMA}", where=str(self.path))
        self.header: dict[str, Any] = content

    def records(self) -> Iterator[WireRecord]:
        """Every whole record in order, the header too; what is between them is noted as damage."""
        self.damages = DamageLog()
        totals, due, place, size = WireTotals(), 0, 0, len(self._data)
        last: WireEvent | None = None
        while place < size:
            found = _record_at(self._data, place)
            if isinstance(found, str):
                after = self._next_whole(place + 1)
                self.damages.note(place, found, totals.records, after - place)
                place = after
                continue
            if found.number != due and not self.damages:
                what = f"record {found.number} follows where {due} is due"
                self.damages.note(place, what, totals.records, 0)
            due = found.number + 1
            if found.event is WireEvent.GAP:
                content = found.content
                totals.drop(_count(content.get("records")), _count(content.get("bytes")))
            totals.count(found)
            last = found.event
            place += HEAD.size + len(found.payload) + _CRC.size
            yield found
        self.end = WireEnd(last is WireEvent.END and not self.damages, totals)

    def close(self) -> None:
        """Close it; may be called again."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def _next_whole(self, place: int) -> int:
        """Where the next whole record begins; the end of the file if there is none."""
        while (place := self._data.find(MARK, place)) >= 0:
            if isinstance(_record_at(self._data, place), WireRecord):
                return place
            place += 1
        return len(self._data)


def _record_at(data: mmap.mmap | bytes, place: int) -> WireRecord | str:
    """The record that begins there, or what is wrong with it."""
    head = data[place : place + HEAD.size]
    if not head.startswith(MARK):
        return "no record begins here"
    if len(head) < HEAD.size:
        return "a record ends in its head"
    _, n_bytes, event, number, monotonic_ns, unix_ns = HEAD.unpack(head)
    if n_bytes > MOST_PAYLOAD:
        return f"a record of {n_bytes} bytes is too long"
    begin = place + HEAD.size
    tail = data[begin : begin + n_bytes + _CRC.size]
    if len(tail) < n_bytes + _CRC.size:
        return "a record ends before it should"
    payload = tail[:n_bytes]
    if zlib.crc32(payload, zlib.crc32(head)) != _CRC.unpack(tail[n_bytes:])[0]:
        return "a record's check sum is wrong"
    try:
        return WireRecord(WireEvent(event), payload, number, monotonic_ns, unix_ns)
    except ValueError:
        return f"a record of unknown kind {event}"


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
