"""Question and answer over a blocking library: one thread for each link makes its calls, one after the other.

A library that blocks (serial port, VISA) never blocks the event loop and never shares a thread with another device. A
thread that does not come back in time is abandoned with its port and counted; there are never more than two of them.

A link that missed a reply, was interrupted or got bytes that nobody asked for is *out of step*: a late reply could
answer the next question. `is_in_step` says so, and whoever talks the device's language resynchronises first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import Counter
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from petqc_drivers.clock import Awake, monotonic_s
from petqc_drivers.errors import ConnectError, DriverError, LinkLostError, RemoteProtocolError, ReplyTimeoutError
from petqc_drivers.transport.recording import RecordedPort, Tap

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

MOST_REPLY_BYTES: Final = 65_536
"""A device that sends more without ending its reply babbles."""
MOST_ABANDONED: Final = 2
SLICE_S: Final = 0.05
"""Longest single wait of a port that can be interrupted."""
_GRACE_S: Final = 0.5
"""How much later than its own deadline a thread may come back."""
_QUIET_BEFORE_S: Final = 0.05


class BlockingPort(Protocol):
    """A session of a blocking library; errors are those of `petqc_drivers.errors`, used from one thread only."""

    longest_wait_s: float
    """Most that `read` is asked to wait in one go: short where waiting can be cut up without losing anything."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for the first byte at most so long; empty if nothing came."""

    def clear(self) -> bytes:
        """Throw away what has come and nobody read, without waiting; what it was."""

    def device_clear(self) -> bool:
        """Make the device forget what it was about to say, where the bus can; False where it cannot."""

    def close(self) -> None:
        """End the session; never raises."""


class Stop:
    """Tells a call in the thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Nobody waits."""
        self._event.set()

    def check(self) -> None:
        """Return at once if nobody waits any more.

        Raises:
            LinkLostError: Then.
        """
        if self._event.is_set():
            raise LinkLostError("interrupted")


class _Worker:
    """The thread and the port that only it touches."""

    def __init__(self, name: str) -> None:
        self.port: BlockingPort | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_over = False
        self.ended: Future[None] = Future()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def submit(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run it after those before; not at all, if what is given back was cancelled by then."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - goes to the caller
                done = partial(_failed, future, error)
            else:
                done = partial(_finished, future, result)
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
                loop.call_soon_threadsafe(done)

        self._jobs.put(job)
        return future

    def end(self) -> None:
        """Close the port and end the thread, as soon as it comes back from what it does."""
        self._is_over = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._is_over:
            job()
        if self.port is not None:
            self.port.close()
            self.port = None
        with contextlib.suppress(InvalidStateError):  # whoever waited for it may have been cancelled
            self.ended.set_result(None)


def _finished(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _failed(future: asyncio.Future[_T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


async def _came_back(future: asyncio.Future[Any], within_s: float) -> bool:
    """Whether it is done; however late the loop looks, as it may be the loop that was held up. Else it is cancelled."""
    try:
        done, _ = await asyncio.wait((future,), timeout=within_s)
    finally:
        future.cancel()
    return bool(done)


class ThreadedLink:
    """A link to one device. All methods belong to one event loop; one call is in flight at a time.

    Args:
        name: Of the device, for messages and for the thread.
        open_port: Opens a session; runs in the thread.
        transport: How it is reached, for recordings.
        address: Where it is, for recordings.

    Attributes:
        is_in_step: The next bytes that come answer the next question.
        counters: Exchanges, and what went wrong: `timeouts`, `unasked_bytes`, `babble`, `lost`, `abandoned`.
    """

    def __init__(
        self, name: str, open_port: Callable[[float], BlockingPort], *, transport: str = "serial", address: str = ""
    ) -> None:
        self.name = name
        self._tap = Tap(name, transport, address)
        self.is_in_step = False
        self.counters: Counter[str] = Counter()
        self._open_port = open_port
        self._worker: _Worker | None = None
        self._abandoned: list[_Worker] = []
        self._stop: Stop | None = None
        self._is_open = False
        self._left_nothing = True

    @property
    def is_open(self) -> bool:
        """There is a session; whether somebody answers at its other end is another question."""
        return self._is_open

    async def open(self, timeout_s: float) -> None:
        """Begin a session, after ending the one before; it is not in step until somebody made sure.

        Raises:
            ConnectError: If there is none to be had.
        """
        await self.aclose()
        self._abandoned = [worker for worker in self._abandoned if worker.thread.is_alive()]
        if len(self._abandoned) >= MOST_ABANDONED:
            raise ConnectError(
                f"{MOST_ABANDONED} calls into its library never came back", device=self.name, do="restart petqc"
            )
        worker = self._worker = _Worker(f"petqc-link-{self.name}")

        def job(_stop: Stop) -> None:
            try:
                port = self._open_port(timeout_s)
            except DriverError as error:
                self._tap.failed(str(error))
                raise
            worker.port = RecordedPort(port, self._tap)

        self.is_in_step = False
        try:
            await self._call(job, timeout_s)
        except ReplyTimeoutError as error:
            raise ConnectError(
                f"no session in {timeout_s:g} s", device=self.name, do="check address and cable"
            ) from error
        except BaseException:
            self._worker = None
            worker.end()
            raise
        self._is_open = True

    async def exchange(self, request: bytes, whole: Callable[[bytes], int | None], timeout_s: float) -> bytes:
        """Send a request and wait for its reply.

        Args:
            request: What is sent.
            whole: From the bytes that came so far: how many of them end with the reply, None if more must come. May
                raise RemoteProtocolError.
            timeout_s: For all of it.

        Returns:
            The bytes up to the end that `whole` gave.

        Raises:
            ReplyTimeoutError: Nothing whole came, or the host was suspended meanwhile; the link is out of step.
            RemoteProtocolError: It babbles, or `whole` said so; the link is out of step.
            LinkLostError: The session ended.
        """
        until = monotonic_s() + timeout_s
        awake = Awake()

        def job(stop: Stop) -> bytes:
            port = self._port()
            self._clear(port, until, stop)
            port.write(request, max(until - monotonic_s(), SLICE_S))
            return self._read(port, whole, until, stop)

        reply = await self._call(job, timeout_s)
        if awake.no_more:  # what it says may be of long ago
            self.is_in_step = False
            raise ReplyTimeoutError("the host was suspended before the reply was looked at", device=self.name)
        self.counters["exchanges"] += 1
        return reply

    async def send(self, message: bytes, timeout_s: float) -> None:
        """Send something that is not answered.

        Raises:
            ReplyTimeoutError: It could not be handed over in time.
            LinkLostError: The session ended.
        """
        await self._call(lambda _stop: self._port().write(message, timeout_s), timeout_s)

    async def drain(self, quiet_s: float, timeout_s: float) -> None:
        """Throw away what comes until nothing came for a while, or clear the device where its bus can.

        Raises:
            RemoteProtocolError: It does not become quiet.
            LinkLostError: The session ended.
        """
        until = monotonic_s() + timeout_s

        def job(stop: Stop) -> None:
            port = self._port()
            if not port.device_clear():
                self._quiet(port, quiet_s, until, stop)

        await self._call(job, timeout_s)

    def interrupt(self) -> None:
        """Make the call in flight end now; for what cannot wait."""
        if self._stop is not None:
            self._stop.set()

    async def aclose(self) -> None:
        """End the session; safe at any time and more than once."""
        worker, self._worker, self._is_open, self.is_in_step = self._worker, None, False, False
        if worker is None:
            return
        self.interrupt()
        worker.end()
        if not await _came_back(asyncio.wrap_future(worker.ended), _GRACE_S):
            self._abandon(worker)

    # -- in the event loop ------------------------------------------------------------------------------------------

    def _abandon(self, worker: _Worker) -> None:
        self.counters["abandoned"] += 1
        self._abandoned.append(worker)
        worker.end()
        _LOG.error("%s: a call into its library does not come back; its thread is left behind", self.name)

    async def _call(self, job: Callable[[Stop], _T], timeout_s: float) -> _T:
        worker = self._worker
        if worker is None:
            raise LinkLostError("there is no session", device=self.name, do="connect again")
        was_in_step, self.is_in_step = self.is_in_step, False  # whatever ends this early leaves it so
        stop = self._stop = Stop()
        future = worker.submit(lambda: job(stop))
        try:
            came_back = await _came_back(future, timeout_s + _GRACE_S)
        except asyncio.CancelledError:
            stop.set()
            raise
        if not came_back:
            stop.set()
            if worker is self._worker:
                self._worker, self._is_open = None, False
                self._abandon(worker)
            raise ReplyTimeoutError(
                f"its library did not come back in {timeout_s:g} s", device=self.name, do="check cable and device"
            )
        try:
            result = future.result()
        except DriverError as error:
            if isinstance(error, ReplyTimeoutError):
                self.counters["timeouts"] += 1
            if isinstance(error, LinkLostError) and worker is self._worker and error.what != "interrupted":
                self.counters["lost"] += 1
                self._worker, self._is_open = None, False
                worker.end()
            raise self._named(error) from error.__cause__
        self.is_in_step = was_in_step and self._left_nothing
        return result

    def _named(self, error: DriverError) -> DriverError:
        return error if error.device else type(error)(error.what, device=self.name, do=error.do)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _port(self) -> BlockingPort:
        port = None if self._worker is None else self._worker.port
        if port is None:
            raise LinkLostError("there is no session")
        return port

    def _clear(self, port: BlockingPort, until: float, stop: Stop) -> None:
        self._left_nothing = True
        dropped = len(port.clear())
        if dropped:
            self.counters["unasked_bytes"] += dropped
            self._quiet(port, _QUIET_BEFORE_S, until, stop)

    def _quiet(self, port: BlockingPort, quiet_s: float, until: float, stop: Stop) -> None:
        self._left_nothing = True
        quiet_from = monotonic_s()
        while (now := monotonic_s()) - quiet_from < quiet_s:
            stop.check()
            if now >= until:
                self.counters["babble"] += 1
                raise RemoteProtocolError("it does not stop sending what nobody asked for")
            dropped = len(port.read(min(quiet_s, port.longest_wait_s)))
            if dropped:
                self.counters["unasked_bytes"] += dropped
                quiet_from = monotonic_s()

    def _read(self, port: BlockingPort, whole: Callable[[bytes], int | None], until: float, stop: Stop) -> bytes:
        came = b""
        while True:
            stop.check()
            left_s = until - monotonic_s()
            if left_s <= 0:
                what = f"only {came[:40]!r} came" if came else "no reply"
                self._tap.timeout(what)
                raise ReplyTimeoutError(what, do="check cable and device")
            came += port.read(min(left_s, port.longest_wait_s))
            try:
                end = whole(came)
            except RemoteProtocolError:
                self.counters["unasked_bytes"] += len(came)  # no reply to this question
                raise
            if end is not None:
                if len(came) > end:
                    self.counters["unasked_bytes"] += len(came) - end
                    self._left_nothing = False
                return came[:end]
            if len(came) > MOST_REPLY_BYTES:
                self.counters["babble"] += 1
                raise RemoteProtocolError(f"{len(came)} bytes came and no reply ended in them")
