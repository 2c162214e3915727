"""An instrument that answers from a recording of its wire, and says nothing that it did not say then.

A command brings it to where the recording has that command; until the next command it answers questions as they were
answered between the two, in their order, and once that is used up as nearest in time. So a supply that was told to go
on says that it is on, however often it is asked before and after. What was never asked, such as another set-point, gets
no answer: nothing is pretended.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from petqc.formats.wire_log import WireEvent, WireLogReader
from petqc_drivers.hamamatsu_c11204.wire import SETS_OUTPUT
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TRANSPORTS: Final = frozenset({"serial", "tcp", "visa"})
"""Wires of instruments; those of a readout are answered by its boards."""
_ONE_REQUEST_NS = 10_000_000
"""Writes so close to each other without an answer between them are one request."""
_MOST_DISTINCT = 1000
"""Unknown requests that are told one by one."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and all that came until the next one.

    at_s: since the first. after_s: until the reply began. asked_s: on the monotonic clock of the recording machine.
    """

    request: bytes
    reply: bytes
    at_s: float
    after_s: float
    asked_s: float


def _asks(request: bytes) -> bool:
    """Whether the first part of a line of SCPI is a question."""
    return request.partition(b";")[0].partition(b" ")[0].rstrip().endswith(b"?")


def _never(_: bytes) -> bool:
    return False


_OF_C11204: Final = frozenset(name.encode() for name in (*SETS_OUTPUT, "HOF", "HRE"))
COMMANDS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "hamamatsu-c11204": lambda request: request[1:4] in _OF_C11204,
    "caen-a7585d": lambda request: b"AT+SET" in request,
    "julabo": lambda request: request.startswith(b"out_"),
    "keithley-smu": lambda request: not _asks(request),
    "sr620": lambda request: not _asks(request),
}
"""By kind of instrument: whether a request changes something, so that answers are others from there on."""


def exchanges_of(path: Path) -> list[Exchange]:
    """What was asked and answered on a wire.

    Raises:
        BadInputError: it is no wire log.
    """
    found: list[Exchange] = []
    request, reply, asked, answered, began = b"", b"", 0, 0, 0

    def whole() -> None:
        if request:
            after_s = max(answered - asked, 0) * 1e-9 if reply else 0.0
            found.append(Exchange(request, reply, (asked - began) * 1e-9, after_s, asked * 1e-9))

    with WireLogReader(path) as log:
        for record in log.records():
            match record.event:
                case WireEvent.SENT if request and not reply and record.monotonic_ns - asked < _ONE_REQUEST_NS:
                    request += record.payload  # one request in several writes
                case WireEvent.SENT:
                    whole()
                    request, reply, asked = record.payload, b"", record.monotonic_ns
                    began = began or asked
                case WireEvent.RECEIVED if request:
                    answered = record.monotonic_ns if not reply else answered
                    reply += record.payload
                case WireEvent.TIMEOUT | WireEvent.CLOSED | WireEvent.FAILED | WireEvent.OPENED | WireEvent.GAP:
                    whole()
                    request, reply = b"", b""
                case _:
                    pass
    whole()
    return found


class RecordedInstrument:
    """One instrument; a `WireSide`.

    Args:
        name: of the instrument, for messages.
        path: of its wire log.
        kind: of the instrument, as in COMMANDS; of another nothing is a command.
        frames_at_s: when the run's frames began, on the monotonic clock of the recording; None: nobody knows.

    Attributes:
        answered, unknown: how many requests were in the recording, and were not.

    Raises:
        ProfileError: nothing was recorded.
    """

    def __init__(self, name: str, path: Path, kind: str = "", frames_at_s: float | None = None) -> None:
        self._name = name
        self._exchanges = exchanges_of(path)
        if not self._exchanges:
            raise ProfileError(f"{path}: nothing was asked on this wire")
        self._is_command: Callable[[bytes], bool] = COMMANDS.get(kind, _never)
        self._at: dict[bytes, list[int]] = {}
        """Where in the recording each request is."""
        for index, exchange in enumerate(self._exchanges):
            self._at.setdefault(exchange.request, []).append(index)
        self._commands = [index for index, one in enumerate(self._exchanges) if self._is_command(one.request)]
        asked = [one.asked_s for one in self._exchanges]
        self._frames_at = None if frames_at_s is None else bisect_left(asked, frames_at_s)
        self._now_s = 0.0
        self._since_s: float | None = None
        self._begin, self._end = 0, self._next_command(0)
        self._next: dict[bytes, int] = {}
        self._held = b""
        self._due: list[tuple[float, bytes]] = []
        self.answered = self.unknown = 0
        self._told: Counter[bytes] = Counter()

    def _next_command(self, index: int) -> int:
        """The first command at or after a place of the recording; its end if there is none."""
        at = bisect_left(self._commands, index)
        return self._commands[at] if at < len(self._commands) else len(self._exchanges)

    @property
    def is_as_with_frames(self) -> bool:
        """Whether it was told what it had been told when the recorded frames began."""
        return self._frames_at is None or self._begin <= self._frames_at <= self._end

    def frames_begin(self) -> None:
        """The recorded frames begin: what is asked now is answered as it was then."""
        if self._frames_at is not None and self.is_as_with_frames:
            self._next = {request: bisect_left(at, self._frames_at) for request, at in self._at.items()}

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; replies come with their own delay."""
        self._held += data
        while self._held:
            request = self._first()
            if request is None:
                break
            self._held = self._held[len(request) :]
            self._ask(request)
        return b""

    def _first(self) -> bytes | None:
        """The longest recorded request that what came begins with; what can become none is let go."""
        known = [request for request in self._at if self._held.startswith(request)]
        if known:
            return max(known, key=len)
        if not any(request.startswith(self._held) for request in self._at):
            self._not_recorded(self._held)
            self._held = b""
        return None

    def _ask(self, request: bytes) -> None:
        if self._since_s is None:
            self._since_s = self._now_s
        at = self._at[request]
        exchange = self._exchanges[self._told_to(at) if self._is_command(request) else self._answer(request, at)]
        self.answered += 1
        if exchange.reply:
            self._due.append((self._now_s + exchange.after_s, exchange.reply))

    def _told_to(self, at: list[int]) -> int:
        """Go to where a command is next; after its last time the recording begins anew."""
        further = bisect_left(at, self._begin)
        index = at[further] if further < len(at) else at[0]
        self._begin, self._end, self._since_s = index + 1, self._next_command(index + 1), self._now_s
        self._next = {}
        return index

    def _answer(self, request: bytes, at: list[int]) -> int:
        """The next answer to a question since the last command; used up: nearest in time; none: the one before."""
        first, last = bisect_left(at, self._begin), bisect_left(at, self._end)
        if first == last:
            return at[max(first - 1, 0)]
        place = max(self._next.get(request, first), first)
        self._next[request] = place + 1
        if place < last:
            return at[place]
        assert self._since_s is not None  # noqa: S101 - set with the first request
        now_s = self._exchanges[self._begin].asked_s + self._now_s - self._since_s
        return min(at[first:last], key=lambda index: abs(self._exchanges[index].asked_s - now_s))

    def _not_recorded(self, request: bytes) -> None:
        self.unknown += 1
        if request not in self._told and len(self._told) < _MOST_DISTINCT:
            sys.stderr.write(f"{self._name}: {request!r} was not asked in the recording: no answer\n")
            sys.stderr.flush()
            self._told[request] += 1

    def let_pass(self, seconds: float) -> bytes:
        """Let time pass; the replies that are due."""
        self._now_s += seconds
        due = b"".join(reply for at_s, reply in self._due if at_s <= self._now_s)
        self._due = [one for one in self._due if one[0] > self._now_s]
        return due

    def forget(self) -> None:
        """A new session: half a request is no request."""
        self._held = b""

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {"answered": self.answered, "unknown": self.unknown, "requests": len(self._at)}
