"""An instrument on a TCP port or a pseudo-terminal: one thread that passes bytes and lets its time follow the clock."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TICK_S = 0.01
LONGEST_STEP_S = 0.5
"""Most simulated time that passes in one go; on a busy machine the rest is lost to the instrument, not made up for."""
NOBODY_LOOKS_S = 0.02
STATE_EVERY_S = 0.5
_CHUNK = 4096


class WireSide(Protocol):
    """What is served: an instrument as bytes see it."""

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; its replies."""

    def let_pass(self, seconds: float) -> bytes | None:
        """Let simulated time pass; what it says by itself meanwhile, if anything."""

    def forget(self) -> None:
        """A new session begins, where there are sessions."""

    def state(self) -> dict[str, Any]:
        """For a state file."""


class InstrumentServer:
    """Serves one instrument until `stop` is called; only `stop` may be called from elsewhere.

    Args:
        instrument: as bytes see it.
        listen: tcp://HOST:PORT or pty:/PATH.
        speed: simulated seconds per second.
        has_one_place: a second client of the port is sent away as long as there is a first one.

    Attributes:
        address: as a driver writes it: socket://HOST:PORT, or the path of the pseudo-terminal.
    """

    def __init__(self, instrument: WireSide, listen: str, *, speed: float = 1.0, has_one_place: bool = False) -> None:
        self.instrument = instrument
        self.speed = speed
        self._wake_read, self._wake_write = os.pipe()
        try:
            self._place: _Tcp | _Pty = (
                _Pty(Path(listen[4:]))
                if listen.startswith("pty:")
                else _Tcp(listen, instrument.forget, 1 if has_one_place else None)
            )
        except BaseException:
            os.close(self._wake_read)
            os.close(self._wake_write)
            raise
        self.address = self._place.address

    def stop(self) -> None:
        """Make `run` return; safe from a signal handler or another thread, and more than once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Release the port and the files."""
        self._place.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self, *, watch: int | None = None, each_state: Callable[[], None] | None = None) -> None:
        """Serve until `stop`, or until the file descriptor `watch` reaches its end."""
        ticked = state_due = time.monotonic()
        others = [self._wake_read, *([] if watch is None else [watch])]
        while True:
            readable, _, _ = select.select([*others, *self._place.sources()], [], [], TICK_S)
            if self._wake_read in readable:
                return
            if watch is not None and watch in readable and not os.read(watch, _CHUNK):
                return
            now = time.monotonic()
            said = self.instrument.let_pass(min(self.speed * (now - ticked), LONGEST_STEP_S * max(self.speed, 1.0)))
            ticked = now
            if said:
                self._place.say(said)
            for source in readable:
                if source not in others:
                    self._place.pass_on(source, self.instrument.receive)
            if each_state is not None and now >= state_due:
                state_due = now + STATE_EVERY_S
                each_state()


class _Tcp:
    """A listening socket; what the instrument says by itself goes to everybody."""

    def __init__(self, listen: str, begin: Callable[[], None], places: int | None) -> None:
        self._begin, self._places = begin, places
        parts = urlsplit(listen)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "tcp" or not parts.hostname or port is None:
            raise ProfileError(f"--listen {listen!r}: write tcp://HOST:PORT, port 0 for any free one, or pty:/PATH")
        try:
            self._listening = socket.create_server((parts.hostname, port))
        except OSError as error:
            raise ProfileError(f"{listen} cannot be used: {error.strerror}") from error
        self._clients: dict[int, socket.socket] = {}
        host, found = self._listening.getsockname()[:2]
        self.address = f"socket://{host}:{found}"

    def sources(self) -> list[int]:
        return [self._listening.fileno(), *self._clients]

    def pass_on(self, source: int, receive: Callable[[bytes], bytes]) -> None:
        if source == self._listening.fileno():
            client, _ = self._listening.accept()
            if self._places is not None and len(self._clients) >= self._places:
                client.close()
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setblocking(False)
            self._clients[client.fileno()] = client
            self._begin()
            return
        client = self._clients[source]
        try:
            came = client.recv(_CHUNK)
        except OSError:
            came = b""
        if not came:
            self._clients.pop(source).close()
            return
        self._send(client, receive(came))

    def say(self, data: bytes) -> None:
        for client in self._clients.values():
            self._send(client, data)

    @staticmethod
    def _send(client: socket.socket, data: bytes) -> None:
        # A client that does not read loses bytes, as on a serial line.
        with contextlib.suppress(OSError):
            client.send(data)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._listening.close()


class _Pty:
    """A pseudo-terminal with a name of its own.

    Nobody keeps its other end open, so that an exclusive opener is really the last one when it closes.
    """

    def __init__(self, path: Path) -> None:
        self._ours, theirs = os.openpty()
        name = os.ttyname(theirs)
        tty.setraw(theirs)
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self._path = path.absolute()
        self._look_again = 0.0
        try:
            if self._path.is_symlink():
                self._path.unlink()  # what a simulator left that was killed
            self._path.symlink_to(name)
        except OSError as error:
            os.close(self._ours)
            raise ProfileError(f"pty:{path} cannot be used: {error.strerror}") from error
        self.address = str(self._path)

    def sources(self) -> list[int]:
        # While nobody has it open it is readable all the time and gives an error.
        return [self._ours] if time.monotonic() >= self._look_again else []

    def pass_on(self, source: int, receive: Callable[[bytes], bytes]) -> None:
        try:
            came = os.read(source, _CHUNK)
        except OSError as error:
            if error.errno == errno.EIO:
                self._look_again = time.monotonic() + NOBODY_LOOKS_S
            return
        self.say(receive(came))

    def say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._ours, data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._ours)
