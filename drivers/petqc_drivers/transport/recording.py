"""What crosses the wires of this process, told to whoever records it.

Every link has a `Tap` and tells it what it sends and receives, where the bytes are handed over; while nobody records,
that is one look at an empty tuple. A recorder is told from whichever thread the bytes are in, and must not block: the
wire goes on whatever becomes of the recording.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Final, Literal, Protocol

from petqc_drivers.errors import DriverError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqc_drivers.transport.threaded import BlockingPort

WireEvent = Literal["opened", "closed", "sent", "received", "timeout", "failed"]
"""`sent` and `received` come with bytes of the wire, the others with text."""
WAS_OPEN: Final = "open already when the recording began"


class WireRecorder(Protocol):
    """Somebody who records."""

    def tell(self, tap: Tap, event: WireEvent, payload: bytes) -> None:
        """Something happened on a wire; called from any thread, must neither block nor raise."""


class Tap:
    """One wire of this process.

    Args:
        name: of the device, or of the part of it that the wire leads to.
        transport: serial, tcp, visa, udp or daqd.
        address: where the wire leads.
        omits: what is never told, because it is recorded elsewhere.
    """

    def __init__(self, name: str, transport: str, address: str, *, omits: str = "") -> None:
        self.name = name
        self.transport = transport
        self.address = address
        self.omits = omits
        self.is_open = False

    def opened(self) -> None:
        """A session begins."""
        with _LOCK:
            self.is_open = True
            _OPEN.add(self)
            recorders = _recorders
        for recorder in recorders:
            recorder.tell(self, "opened", self.address.encode())

    def closed(self, why: str = "") -> None:
        """The session ends; nothing happens if there is none."""
        with _LOCK:
            if not self.is_open:
                return
            self.is_open = False
            _OPEN.discard(self)
        self._tell("closed", why.encode())

    def sent(self, data: bytes) -> None:
        """These bytes go out now."""
        self._tell("sent", data)

    def received(self, data: bytes) -> None:
        """These bytes came."""
        self._tell("received", data)

    def timeout(self, what: str) -> None:
        """What was waited for did not come in time."""
        self._tell("timeout", what.encode())

    def failed(self, why: str) -> None:
        """The wire, or opening it, failed."""
        self._tell("failed", why.encode())

    def _tell(self, event: WireEvent, payload: bytes) -> None:
        for recorder in _recorders:
            recorder.tell(self, event, payload)


_LOCK: Final = threading.Lock()
_OPEN: Final[weakref.WeakSet[Tap]] = weakref.WeakSet()
_recorders: tuple[WireRecorder, ...] = ()


@contextlib.contextmanager
def recorded(recorder: WireRecorder) -> Iterator[None]:
    """Tell a recorder everything that crosses any wire of this process until the block ends.

    It is told first which wires are open already.
    """
    global _recorders  # noqa: PLW0603 - the wires of a process are those of all its devices
    with _LOCK:
        already = list(_OPEN)
        _recorders = (*_recorders, recorder)
    for tap in already:
        recorder.tell(tap, "opened", WAS_OPEN.encode())
    try:
        yield
    finally:
        with _LOCK:
            _recorders = tuple(other for other in _recorders if other is not recorder)


class RecordedPort:
    """A port with a tap: the same calls, each told."""

    def __init__(self, port: BlockingPort, tap: Tap) -> None:
        self.longest_wait_s = port.longest_wait_s
        self._port = port
        self._tap = tap
        tap.opened()

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        self._tap.sent(data)
        with _told(self._tap):
            self._port.write(data, timeout_s)

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for the first byte at most so long."""
        with _told(self._tap):
            came = self._port.read(timeout_s)
        if came:
            self._tap.received(came)
        return came

    def clear(self) -> bytes:
        """Throw away what has come and nobody read; what it was."""
        with _told(self._tap):
            came = self._port.clear()
        if came:
            self._tap.received(came)
        return came

    def device_clear(self) -> bool:
        """Make the device forget what it was about to say, where the bus can."""
        with _told(self._tap):
            return self._port.device_clear()

    def close(self) -> None:
        """End the session."""
        self._port.close()
        self._tap.closed()


@contextlib.contextmanager
def _told(tap: Tap) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        tap.failed(str(error))
        raise
