"""A board on a UDP socket: one thread that answers commands and lets the board's time follow the wall clock."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from petqc_simulators.link_faults import COMMANDS, FRAMES, LinkFaults
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc_simulators.boards.petsys_febd import PetsysFebd

TICK_S = BLOCK_S / 2
LONGEST_STEP_S = 2 * BLOCK_S
"""Most simulated time that passes in one go. If the machine is busy the board's clock slips rather than send a burst
that nobody can take; time tag and frame ids slip together. At 2 Mhit/s two blocks are 0.2 MB, as much as a host's
socket holds if nobody asked for more."""
MOST_LAG = 2
"""Blocks that may be due before the clock stands still for them."""
LATE_TICK_S = 0.0005
"""How often to look for a block that is due."""
SPREAD_S = 0.8 * BLOCK_S
"""A link has a rate, a loopback has none: the datagrams of a block are sent over this time ..."""
PORTION = 3
"""... so many at a time."""
STATE_EVERY_S = 0.5
_COMMANDS_BEFORE_TICK = 64
_HOST_GONE_S = 5.0
"""A host that said nothing for so long is not counted; petqc asks for the time once a second."""
_MAX_DATAGRAM = 65_536


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of udp://HOST:PORT.

    Raises:
        ProfileError: it is something else.
    """
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "udp" or not parts.hostname or port is None:
        raise ProfileError(f"--listen {text!r}: write udp://HOST:PORT, port 0 for any free one, or unix:/PATH")
    return parts.hostname, port


class BoardServer:
    """Serves one board until `stop` is called; not for several threads, but for `stop`.

    Args:
        board: what answers.
        host: where it listens, ...
        port: ... 0 for any free one.
        speed: simulated seconds per second.
        before_tick: is called before the board's frames of a tick are made.
        links: faults of its link.

    Attributes:
        address: host and port it listens on.
        slipped_s: simulated time that passed later than the wall clock asked for.
    """

    def __init__(
        self,
        board: PetsysFebd,
        host: str,
        port: int,
        *,
        speed: float = 1.0,
        before_tick: Callable[[], None] = lambda: None,
        links: LinkFaults | None = None,
    ) -> None:
        self.board = board
        self._before_tick = before_tick
        self.speed = speed
        self.slipped_s = 0.0
        self.unsent = 0
        self._until = time.monotonic()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._links = links or LinkFaults(lambda: 0.0)
        self._late: list[tuple[float, bytes]] = []
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._host: Any = None
        self._heard = -_HOST_GONE_S
        self._wake_read, self._wake_write = os.pipe()
        self.address: tuple[str, int] = self._socket.getsockname()

    @property
    def n_clients(self) -> int:
        """Whether a host spoke to it in the last seconds."""
        return int(time.monotonic() - self._heard < _HOST_GONE_S)

    def stop(self) -> None:
        """Make `run` return; safe from a signal handler or another thread, and more than once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self, *, watch: int | None = None, each_state: Callable[[], None] | None = None) -> None:
        """Serve until `stop`, or until the file descriptor `watch` reaches its end."""
        self._until = ticked = state_due = time.monotonic()
        sources = [self._socket.fileno(), self._wake_read, *([] if watch is None else [watch])]
        while True:
            now = time.monotonic()
            tick_s = TICK_S if not self._lag() else LATE_TICK_S
            due = min(ticked + tick_s, self._waiting[0][0]) if self._waiting else ticked + tick_s
            readable, _, _ = select.select(sources, [], [], max(due - now, 0.0))
            if self._wake_read in readable:
                return
            if watch is not None and watch in readable and not os.read(watch, 4096):
                return
            if self._socket.fileno() in readable:
                self._answer()
            now = time.monotonic()
            self._send_data(now)
            if now - ticked >= tick_s:
                self._let_pass(now)
                ticked = now
                self._before_tick()
                self._plan(self.board.advance())
            if each_state is not None and now >= state_due:
                state_due = now + STATE_EVERY_S
                each_state()

    def _answer(self) -> None:
        for _ in range(_COMMANDS_BEFORE_TICK):
            try:
                datagram, sender = self._socket.recvfrom(_MAX_DATAGRAM)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self._host, self._heard = sender, time.monotonic()
            # A host holds the board's time tag against its own clock, and a tick is much longer than a command.
            self._let_pass(time.monotonic())
            if self._links.is_frozen(COMMANDS):
                continue
            answer = self.board.handle(datagram)
            if answer is not None:
                for piece in self._on_link(COMMANDS, answer):
                    self._send(piece)

    def _on_link(self, link: str, datagram: bytes) -> list[bytes]:
        """What comes of a datagram at once; the rest comes later."""
        pieces = self._links.pieces(link, datagram)
        now = time.monotonic()
        self._late += [(now + after_s, piece) for after_s, piece in pieces if after_s > 0.0]
        return [piece for after_s, piece in pieces if after_s <= 0.0]

    def _lag(self) -> int:
        return self.board.frames.lag(self.board.elapsed_s) if self.board.frames is not None else 0

    def _let_pass(self, now: float) -> None:
        seconds, self._until = (now - self._until) * self.speed, now
        longest = LONGEST_STEP_S * max(self.speed, 1.0) if self._lag() < MOST_LAG else 0.0
        if seconds > longest:
            self.slipped_s += seconds - longest
            seconds = longest
        self.board.let_pass(seconds)

    def _plan(self, datagrams: Sequence[bytes]) -> None:
        """Spread the datagrams of a block over the time until the next; what still waits of the last goes first."""
        if not datagrams:
            return
        datagrams = [piece for datagram in datagrams for piece in self._on_link(FRAMES, datagram)]
        now = time.monotonic()
        self._send_data(math.inf)
        if not datagrams:
            return
        step_s = SPREAD_S / self.speed * PORTION / len(datagrams)
        self._waiting.extend((now + k // PORTION * step_s, datagram) for k, datagram in enumerate(datagrams))

    def _send_data(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            self._send(self._waiting.popleft()[1])
        if self._late:
            real = time.monotonic()
            for _, datagram in sorted((one for one in self._late if one[0] <= real), key=lambda one: one[0]):
                self._send(datagram)
            self._late = [one for one in self._late if one[0] > real]

    def _send(self, datagram: bytes) -> None:
        if self._host is None:
            return
        # A full or refused loopback is a lost datagram, as on any network.
        try:
            self._socket.sendto(datagram, self._host)
        except OSError:
            self.unsent += 1
