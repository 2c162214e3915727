"""The thread that empties the shared ring, with a connection to the daemon of its own.

The daemon tells nobody that there are frames, so it is asked every few milliseconds; at the nominal frame rate the ring
holds 84 ms. Frames never pass through the event loop.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.2, 2.3, 2.6, 3.6.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import threading
from collections import Counter, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import DriverError, LinkLostError, ReplyTimeoutError
from petqc_drivers.petsys.daqd_client import CONNECT_S, check_peer, connect_error
from petqc_drivers.petsys.daqd_wire import (
    POINTER_MODULO,
    RING_BYTES,
    RING_SLOTS,
    Message,
    Pointers,
    Request,
    parse_set_read_pointer,
    reply_head_bytes,
    set_read_pointer_request,
)
from petqc_drivers.petsys.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from petqc_drivers.petsys.daqd_ring import SharedRing
    from petqc_drivers.petsys.receive import FrameIntake, ReceiveAccount

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

POLL_S: Final = 0.005
REPLY_S: Final = 10.0
"""The daemon may be held up this long by a command to a silent board (3.6); the no-data time is usually over first."""
ENDING_S: Final = 0.5
"""How long a reply is waited for once the thread is to end."""
IMPLAUSIBLE_POLLS: Final = 200
"""So many impossible pointers in a row (1 s) end the acquisition."""
ROOM_BYTES: Final = 1 << 20
_CLOSE_S: Final = 2.0


class RingPump:
    """Takes frames from the ring and gives them to an intake. Made, called and closed in one event loop.

    Args:
        path: Of the daemon's socket.
        ring: The ring; closed with the pump.
        intake: Where frames go.
        read: Read pointer to begin with.
        uid: User the daemon must belong to; None for any.

    Raises:
        DriverError: If there is no connection.
    """

    def __init__(
        self,
        path: Path,
        ring: SharedRing,
        intake: FrameIntake,
        *,
        read: int,
        uid: int | None = None,
    ) -> None:
        self.name = f"daemon {path}"
        self.rejected: Counter[str] = Counter()
        self._ring = ring
        self._intake = intake
        self._read = read
        self._implausible_run = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._is_closing = False
        self._is_ending = False
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(CONNECT_S)
            self._socket.connect(os.fspath(path))
            check_peer(self._socket, path, uid)
        except OSError as error:
            self._socket.close()
            raise connect_error(error, path, "") from error
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = select.poll()
        self._poller.register(self._wake, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name=f"petqc-ring-{path}", daemon=True)
        self._thread.start()

    async def account(self, failure: DriverError | None, *, is_last: bool, timeout_s: float) -> ReceiveAccount:
        """The account up to now; the last one after everything that is in the ring has been taken and given on.

        Raises:
            LinkLostError: If the consumer of the frames blocks the thread.
        """

        def account() -> ReceiveAccount:
            if is_last:
                self._finish()
            return self._intake.account(
                datagrams_rejected=dict(self.rejected), kernel_drops=0, receive_buffer_bytes=RING_BYTES, failure=failure
            )

        self._is_ending |= is_last
        return await self._call(account, timeout_s)

    async def aclose(self) -> None:
        """End the thread, disconnect, let go of the ring; safe more than once."""
        self._is_ending = self._is_closing = True
        self._poke()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(self._ended)
        except TimeoutError:
            _LOG.error("thread %s is stuck in its consumer; it is left behind", self._thread.name)

    async def _call(self, function: Callable[[], _T], timeout_s: float) -> _T:
        promised: Future[_T] = Future()

        def run() -> None:
            if promised.set_running_or_notify_cancel():
                try:
                    promised.set_result(function())
                except Exception as error:  # noqa: BLE001 - goes to the caller
                    promised.set_exception(error)

        self._calls.append(run)
        self._poke()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(promised)
        except TimeoutError:
            raise LinkLostError(
                f"the thread that empties the ring did not answer in {timeout_s} s",
                device=self.name,
                do="the consumer of frames blocks",
            ) from None

    def _poke(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _end(self) -> None:
        # In the loop and not in aclose, so that everything is released also when aclose is cancelled.
        self._thread.join(_CLOSE_S)
        self._socket.close()
        self._ring.close()
        os.close(self._wake)
        self._wake = -1
        if not self._ended.done():
            self._ended.set_result(None)

    # From here on in the thread.

    def _run(self) -> None:
        wait_s: float | None = 0.0
        try:
            while not self._is_closing:
                if self._poller.poll(None if wait_s is None else 1000 * wait_s):
                    os.eventfd_read(self._wake)
                wait_s = None if self._is_over else POLL_S * (not self._attempt(self._step))
                while self._calls:
                    self._calls.popleft()()
        finally:
            try:
                self._loop.call_soon_threadsafe(self._end)
            except RuntimeError:  # the loop is closed: nobody is left who could be told
                _LOG.debug("event loop gone")

    def _attempt(self, step: Callable[[], bool]) -> bool:
        """Whether there is more to do at once."""
        try:
            return step()
        except DriverError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it; this passes it on
            _LOG.exception("emptying the ring failed")
            self._fail(LinkLostError(f"emptying the ring failed: {error!r}", device=self.name))
        return False

    def _fail(self, error: DriverError) -> None:
        self._is_over = True
        self._intake.flush()
        self._intake.abort(error)

    def _finish(self) -> None:
        deadline_s = monotonic_s() + ENDING_S
        while not self._is_over and monotonic_s() < deadline_s:
            if not self._attempt(lambda: self._step(is_last=True)):
                break
        self._is_over = True  # what comes now is in no account and must stay in the ring
        self._intake.flush()

    def _step(self, *, is_last: bool = False) -> bool:
        """Take what waits, half the ring at most; whether more is waiting than is good to leave."""
        pointers = self._pointers()
        waiting = pointers.waiting if pointers is not None else 0
        if waiting is None or pointers is None:
            return False
        if waiting:
            intake = self._intake
            taken = self._ring.take(self._read, waiting, intake.room())
            self._release(taken.slots)
            self.rejected.update(taken.rejected)
            intake.accept(taken.n_bytes, taken.scan)
            waiting -= taken.slots
        due_s = self._intake.due_in_s()
        if due_s is not None and due_s <= 0:
            self._intake.flush()
        return waiting > (0 if is_last else RING_SLOTS // 8)

    def _pointers(self) -> Pointers | None:
        """Pointers that can be believed; None if not this time."""
        pointers = Pointers.from_bytes(self._ask(Request(Message.POINTERS), "pointers"))
        if not pointers.is_acquiring:
            raise LinkLostError(
                "the acquisition was switched off by another client of the daemon",
                device=self.name,
                do="end the other program, then start again",
            )
        if not self._ring.is_current:
            raise LinkLostError(
                "the shared memory was removed or replaced", device=self.name, do="restart the daemon, connect again"
            )
        if pointers.waiting is None:
            self.rejected["pointer-implausible"] += 1
            self._implausible_run += 1
            if self._implausible_run >= IMPLAUSIBLE_POLLS:
                raise LinkLostError(
                    f"the daemon's ring pointers make no sense (write {pointers.write}, read {pointers.read})",
                    device=self.name,
                    do="restart the daemon",
                )
            return None
        self._implausible_run = 0
        if pointers.read != self._read:
            raise LinkLostError(
                f"the ring's read pointer is {pointers.read} instead of {self._read}: another client of the daemon "
                "started anew or takes frames too",
                device=self.name,
                do="end the other program, then start again",
            )
        return pointers

    def _release(self, slots: int) -> None:
        pointer = (self._read + slots) % POINTER_MODULO
        echo = parse_set_read_pointer(self._ask(set_read_pointer_request(pointer), "set read pointer"))
        if echo != pointer:
            raise LinkLostError(f"read pointer {pointer} was echoed as {echo}", device=self.name, do="connect again")
        self._read = pointer

    def _ask(self, request: Request, what: str) -> bytes:
        deadline_s = monotonic_s() + REPLY_S
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        data, wanted = b"", reply_head_bytes(request.type)
        try:
            self._socket.sendall(request.to_bytes())
            while len(data) < wanted:
                if self._is_ending:
                    deadline_s = min(deadline_s, monotonic_s() + ENDING_S)
                left_s = deadline_s - monotonic_s()
                if left_s <= 0:
                    raise ReplyTimeoutError(f"no reply to {what}", device=self.name, do="the daemon hangs; restart it")
                if not poller.poll(1000 * min(left_s, ENDING_S)):
                    continue
                part = self._socket.recv(wanted - len(data))
                if not part:
                    raise LinkLostError("the daemon closed the connection", device=self.name, do="is it gone?")
                data += part
        except OSError as error:
            if isinstance(error, DriverError):
                raise
            raise LinkLostError(f"the connection broke: {error}", device=self.name, do="is the daemon gone?") from error
        except WireError as error:
            raise LinkLostError(f"out of step: {error}", device=self.name) from error
        return data
