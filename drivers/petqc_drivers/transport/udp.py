"""Datagrams of one peer: a socket with a large receive buffer, drained all the time by a thread of its own.

The thread receives many datagrams at once and gives them to a handler on the spot, so frames never pass through the
event loop. Datagrams of other senders are counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import ConnectError, DriverError, LinkLostError
from petqc_drivers.transport.datagrams import Datagrams, address_word
from petqc_drivers.transport.recording import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

RECEIVE_BUFFER_BYTES: Final = 8 << 20
"""Asked of the kernel, which gives at most net.core.rmem_max; 8 MiB are 64 ms of a full gigabit link."""
_BURST: Final = 512
"""Datagrams taken before the thread looks at anything else."""
_BURSTS_BEFORE_CALLS: Final = 32
"""Bursts after which a call is answered although more arrives: more than the receive buffer holds, so that a board that
never pauses cannot keep anybody waiting."""
_CLOSE_S: Final = 2.0
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8
"""A socket option of Linux without a name in Python (include/uapi/asm-generic/socket.h), and a place in its value."""


class DatagramHandler(Protocol):
    """What is done with the datagrams; every method is called from the receive thread."""

    def take(self, batch: Datagrams, begin: int, peer: int) -> int:
        """Take datagrams of a batch from `begin` on, as long as each is of this peer and asks for nothing special.

        Returns:
            How many; the next one is looked at alone, and what is left of it comes to `datagram`.
        """

    def datagram(self, first: int, body: memoryview) -> None:
        """A datagram: its first byte, and what follows it, good until this returns."""

    def pause(self) -> float | None:
        """Nothing more is waiting. Returns in how many seconds to call again even if nothing comes, None for never."""

    def failed(self, error: DriverError) -> None:
        """The thread ends because of this."""


class UdpReceiver:
    """The socket and its thread. `open` and `aclose` belong to one event loop; counters may be read anywhere.

    Attributes:
        peer: IPv4 address in digits, and port.
        tap: Told what is sent, and of the socket; what came is told by the handler, which knows what it is.
        counters: Datagrams of the peer, and those dropped: `foreign`, `empty`, `truncated`.
        foreign_sender: Address of the last foreign datagram; helps when a board answers from another port.
        receive_buffer_bytes: What the kernel gave.
    """

    def __init__(
        self, peer: tuple[str, int], handler: DatagramHandler, *, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES
    ) -> None:
        self.peer = peer
        self.tap = Tap("readout", "udp", f"{peer[0]}:{peer[1]}", omits="datagrams of frames, which are in the .rawf")
        self.counters: Counter[str] = Counter()
        self.foreign_sender: tuple[str, int] | None = None
        self.receive_buffer_bytes = 0
        self._asked_bytes = receive_buffer_bytes
        self._handler = handler
        self._batch = Datagrams()
        self._peer_word = address_word(peer)
        self._calls: deque[Callable[[], None]] = deque()
        self._socket: socket.socket | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._is_closing = False
        self._drops_told = 0

    @property
    def is_open(self) -> bool:
        """Whether the socket exists and its thread runs."""
        return self._thread is not None and self._thread.is_alive() and not self._is_closing

    def open(self) -> None:
        """Bind to the interface that leads to the peer and start the thread.

        Raises:
            ConnectError: If there is no way to the peer or no socket to be had.
        """
        name = f"{self.peer[0]}:{self.peer[1]}"
        if self._thread is not None:
            raise ConnectError(
                "the receive thread of the connection before is still there",
                device=name,
                do="the consumer of its frames blocks; restart",
            )
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._asked_bytes)
            self.receive_buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(self.peer)  # sends nothing; tells which of our addresses leads there
                sock.bind((probe.getsockname()[0], 0))
        except OSError as error:
            sock.close()
            raise ConnectError(f"no way to the board: {error}", device=name, do="check address and cable") from error
        # Not a connected socket: a board that answers from another port would then be silent instead of noticed.
        self._socket, self._wake = sock, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closing, self._drops_told = False, 0
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"petqc-udp-{name}", daemon=True)
        self._thread.start()
        self.tap.opened()

    def send(self, datagram: bytes) -> None:
        """Send one datagram; a full send buffer loses it, as the network might.

        Raises:
            ConnectError: If there is no socket or the system refuses.
        """
        if self._socket is None:
            raise ConnectError("the socket is closed", device=f"{self.peer[0]}:{self.peer[1]}", do="connect again")
        self.tap.sent(datagram)
        try:
            self._socket.sendto(datagram, self.peer)
        except BlockingIOError:
            self.counters["send_buffer_full"] += 1
        except OSError as error:
            raise ConnectError(
                f"cannot send: {error}", device=f"{self.peer[0]}:{self.peer[1]}", do="check address and cable"
            ) from error

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped since `open` because the receive buffer was full."""
        if self._socket is None:
            return self._drops_told
        # The count that can travel with datagrams (SO_RXQ_OVFL) misses drops behind the last one; this one does not.
        info = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        if len(info) == 4 * (_MEMINFO_DROPS + 1):
            self._drops_told = max(self._drops_told, struct.unpack_from("=I", info, 4 * _MEMINFO_DROPS)[0])
        return self._drops_told

    async def call(self, function: Callable[[], _T], *, timeout_s: float) -> _T:
        """Run a function in the receive thread, between two datagrams.

        Raises:
            LinkLostError: If the thread does not get to it in time (the consumer of the data blocks it).
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - goes to the caller
                self._post(settle, None, error)
            else:
                self._post(settle, result, None)

        device = f"{self.peer[0]}:{self.peer[1]}"
        if not self.is_open:
            raise LinkLostError("the receive thread is not running", device=device, do="connect again")
        self._calls.append(run)
        self._poke()
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise LinkLostError(
                f"the receive thread did not answer in {timeout_s} s", device=device, do="the consumer of frames blocks"
            ) from None

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in the event loop; for handlers."""
        self._post(function, *arguments)

    async def aclose(self) -> None:
        """End the thread and close the socket; safe to call at any time and more than once."""
        thread, ended = self._thread, self._ended
        if thread is None or ended is None:
            return
        self._is_closing = True
        self._poke()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(ended)
        except TimeoutError:
            _LOG.error("receive thread %s is stuck in its consumer; it is left behind", thread.name)

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                _LOG.debug("event loop gone, dropped %r", function)

    def _poke(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            self._receive()
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it; the handler passes it on
            _LOG.exception("receive thread failed")
            self._handler.failed(
                LinkLostError(f"the receive thread failed: {error!r}", device=f"{self.peer[0]}:{self.peer[1]}")
            )
        finally:
            self._post(self._end)

    def _end(self) -> None:
        # In the loop and not in aclose, so that everything is released also when aclose is cancelled.
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        if self._socket is not None:
            self.kernel_drops()
            self._socket.close()
            os.close(self._wake)
            self.tap.closed()
        self._socket, self._wake, self._thread = None, -1, None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _receive(self) -> None:
        sock, wake = self._socket, self._wake
        if sock is None:
            return
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN)
        poller.register(wake, select.POLLIN)
        due: float | None = None
        while not self._is_closing:
            wait_ms = None if due is None else max(0.0, 1000 * (due - monotonic_s()))
            if any(fd == wake for fd, _ in poller.poll(wait_ms)):
                os.eventfd_read(wake)
            # What had arrived before somebody asked must be received before the answer, or the end of an acquisition
            # would lose its last datagrams.
            asked = len(self._calls)
            for _ in range(_BURSTS_BEFORE_CALLS if asked else 1):
                if self._burst(sock):
                    break
            for _ in range(asked):
                self._calls.popleft()()
            again_s = self._handler.pause()
            due = None if again_s is None else monotonic_s() + again_s

    def _burst(self, sock: socket.socket) -> bool:
        """Receive what waits, but not for ever; True if nothing waits any more."""
        batch, n = self._batch, 0
        while n < _BURST:
            try:
                batch.receive(sock)
            except BlockingIOError:
                return True
            except OSError as error:
                # A report about an earlier datagram of ours (port or host unreachable); time-outs decide what it means.
                self.counters["socket_errors"] += 1
                _LOG.debug("receive from %s: %s", self.peer, error)
                return False
            self._give(batch)
            n += batch.n
        return False

    def _give(self, batch: Datagrams) -> None:
        at = 0
        while at < batch.n:
            taken = self._handler.take(batch, at, self._peer_word)
            self.counters["datagrams"] += taken
            at += taken
            if at < batch.n:
                self._give_one(batch, at)
                at += 1

    def _give_one(self, batch: Datagrams, i: int) -> None:
        if batch.senders[i] != self._peer_word:
            self.counters["foreign"] += 1
            self.foreign_sender = batch.sender(i)
        elif batch.sizes[i] == 0:
            self.counters["empty"] += 1
        elif batch.flags[i] & socket.MSG_TRUNC:
            self.counters["truncated"] += 1
        else:
            self.counters["datagrams"] += 1
            self._handler.datagram(int(batch.marks[i]), batch.body(i))
