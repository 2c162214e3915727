"""What one slow client may hold: not its place, not its answer in memory, and nobody else's time.

A client that sends its request byte by byte, or does not read what it asked for, is let go. Otherwise it would keep one
of the listener's few places, and its answer, for as long as it likes. Where all places are taken, whoever asks nothing
makes room for whoever comes, and where all have asked, whoever reads its answer the slowest.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from petqcd import clock

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

log = logging.getLogger(__name__)

REQUEST_S = 20.0
"""For a request to be whole, from the connection or from the end of the answer before it."""
LOOK_S = 5.0
LEAST_BYTES_PER_S = 1024.0
"""What must be read while something waits for the client; measured from look to look."""
TO_JUDGE_S = 1.0
"""So long an answer waits for its reader before it is said how fast that one reads."""


class _Counted:
    """A transport that knows how much was given to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.given_bytes = 0

    def write(self, data: bytes) -> None:
        self.given_bytes += len(data)
        self._transport.write(data)

    @property
    def waiting_bytes(self) -> int:
        """What the other end has not taken yet, here and in the system, which takes and gives in lumps of megabytes."""
        held = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ImpatientProtocol(H11Protocol):
    """HTTP that lets go of clients that are too slow."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        self._counted = _Counted(transport)
        self.asks_since_s = clock.monotonic_s()
        super().connection_made(self._counted)  # type: ignore[arg-type]  # it does all that a transport does
        self._waited, self._read_bytes, self._looked_s = False, 0, self.asks_since_s
        self._read_per_s: float | None = None  # until the last look, of what waits
        self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch no more."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """From here on the next request may be sent, and what was answered is to be read."""
        self.asks_since_s = self._looked_s = clock.monotonic_s()
        self._read_bytes, self._read_per_s = self._counted.given_bytes - self._counted.waiting_bytes, None
        super().on_response_complete()

    @property
    def is_answered(self) -> bool:
        """Whether its request is whole, and the answer is not, or not all of it has left."""
        cycle: RequestResponseCycle | None = self.cycle  # there is none before the first request
        is_made = cycle is not None and not cycle.response_complete and not cycle.more_body
        return is_made or self._counted.waiting_bytes > 0

    def reads_bytes_per_s(self, now_s: float) -> float | None:
        """How fast it reads what waits for it; None: nothing does, or not for long enough."""
        waiting_bytes, seconds = self._counted.waiting_bytes, now_s - self._looked_s
        if waiting_bytes == 0:
            return None
        if seconds < TO_JUDGE_S:
            return self._read_per_s
        return (self._counted.given_bytes - waiting_bytes - self._read_bytes) / seconds

    def make_room(self) -> None:
        """Where all places are taken, let go of whoever has asked nothing for the longest time, else reads slowest."""
        if len(self.connections) < (self.limit_concurrency or math.inf):
            return
        others = [one for one in self.connections if isinstance(one, ImpatientProtocol) and one is not self]
        idle = [one for one in others if not one.is_answered]
        now_s = clock.monotonic_s()
        rates = [(rate, one) for one in others if (rate := one.reads_bytes_per_s(now_s)) is not None]
        if idle:
            goes, why = min(idle, key=lambda one: one.asks_since_s), "it asks nothing"
        elif rates:
            (rate, goes) = min(rates, key=lambda found: found[0])
            why = f"it reads slowest, {rate:.0f} bytes a second"
        else:
            return  # all are being answered at this moment
        goes.let_go(f"all places are taken, and {why}")
        self.connections.discard(goes)  # at once: the request of this one may be here already

    def let_go(self, why: str) -> None:
        """End the connection at once."""
        log.info("%s is let go: %s", self.client, why)
        # Without lingering: the system forgets what it still holds for it, too.
        raw = self._counted.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._counted.abort()

    def _look(self) -> None:
        why = self._unread() or self._unasked()
        if why:
            self.let_go(why)
        else:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _unread(self) -> str:
        """Whether it reads too slowly what waits for it."""
        now_s, waiting_bytes = clock.monotonic_s(), self._counted.waiting_bytes
        self._read_per_s = self.reads_bytes_per_s(now_s)
        waits, read = waiting_bytes > 0, self._counted.given_bytes - waiting_bytes
        is_slow = waits and self._waited and read - self._read_bytes < LOOK_S * LEAST_BYTES_PER_S
        self._waited, self._read_bytes, self._looked_s = waits, read, now_s
        return f"{waiting_bytes} bytes wait and are not read" if is_slow else ""

    def _unasked(self) -> str:
        """Whether its request takes too long to be whole."""
        now_s = clock.monotonic_s()
        if self.is_answered:
            self.asks_since_s = now_s
        return "its request does not end" if now_s - self.asks_since_s > REQUEST_S else ""
