"""An instrument that answers from a recording of its wire, and says nothing that it did not say then.

A request is answered as the same request was answered: in the order of the recording, and once that is used up as
nearest in time. A request that was never recorded, such as another set-point, gets no answer: nothing is pretended.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from petqc.formats.wire_log import WireEvent, WireLogReader
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from pathlib import Path

TRANSPORTS: Final = frozenset({"serial", "tcp", "visa"})
"""Wires of instruments; those of a readout are answered by its boards."""
_ONE_REQUEST_NS = 10_000_000
"""Writes so close to each other without an answer between them are one request."""
_MOST_DISTINCT = 1000
"""Unknown requests that are told one by one."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and all that came until the next one. at_s: since the first; after_s: until the reply began."""

    request: bytes
    reply: bytes
    at_s: float
    after_s: float


@dataclass(slots=True)
class _Same:
    """Every time that one request was made."""

    exchanges: list[Exchange] = field(default_factory=list)
    used: int = 0

    def next(self, now_s: float) -> Exchange:
        if self.used < len(self.exchanges):
            self.used += 1
            return self.exchanges[self.used - 1]
        return min(self.exchanges, key=lambda one: abs(one.at_s - now_s))


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
            found.append(Exchange(request, reply, (asked - began) * 1e-9, after_s))

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

    Attributes:
        answered, unknown: how many requests were in the recording, and were not.

    Raises:
        ProfileError: nothing was recorded.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._same: dict[bytes, _Same] = {}
        for exchange in exchanges_of(path):
            self._same.setdefault(exchange.request, _Same()).exchanges.append(exchange)
        if not self._same:
            raise ProfileError(f"{path}: nothing was asked on this wire")
        self._now_s = 0.0
        self._began_s: float | None = None
        self._held = b""
        self._due: list[tuple[float, bytes]] = []
        self.answered = self.unknown = 0
        self._told: Counter[bytes] = Counter()

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
        known = [request for request in self._same if self._held.startswith(request)]
        if known:
            return max(known, key=len)
        if not any(request.startswith(self._held) for request in self._same):
            self._not_recorded(self._held)
            self._held = b""
        return None

    def _ask(self, request: bytes) -> None:
        if self._began_s is None:
            self._began_s = self._now_s
        exchange = self._same[request].next(self._now_s - self._began_s)
        self.answered += 1
        if exchange.reply:
            self._due.append((self._now_s + exchange.after_s, exchange.reply))

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
        return {"answered": self.answered, "unknown": self.unknown, "requests": len(self._same)}
