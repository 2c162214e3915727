"""A relay with faults between a client and whatever truly answers: by UDP datagrams, on a UNIX socket or by TCP.

It has the vocabulary of `fault_line`: a fault makes of one reply pieces with the seconds after which each comes. Of a
stream a reply is what comes at once; of datagrams it is a datagram for which `is_reply` holds, and others have a fault
of their own.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contract.fault_line import Fault

_TICK_S = 0.005
_CHUNK = 65_536
_ENOUGH_S = 10.0


class FaultRelay(ABC):
    """One relay, in a thread of its own from `running` on.

    Attributes:
        fault: what is done to replies; None: nothing.
        is_frozen: requests stay here until it ends.
        replies: how many came.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.is_frozen = False
        self.replies = 0
        self._due: list[tuple[float, Callable[[bytes], object], bytes]] = []
        self._held: list[tuple[Callable[[bytes], object], bytes]] = []
        self._last_s: dict[int, float] = {}
        self._wake_read, self._wake_write = os.pipe()

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultRelay]:
        """Pass on until the end of the block."""
        thread = threading.Thread(target=self._run, name="fault relay")
        thread.start()
        try:
            yield self
        finally:
            os.write(self._wake_write, b"x")
            thread.join(_ENOUGH_S)
            self.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    @abstractmethod
    def close(self) -> None:
        """Release the sockets."""

    @abstractmethod
    def _sources(self) -> list[int]:
        """Descriptors to read from."""

    @abstractmethod
    def _pass_on(self, source: int) -> None:
        """Read from one of them, and hand over what came with the fault done to it."""

    def _run(self) -> None:
        while True:
            readable, _, _ = select.select([self._wake_read, *self._sources()], [], [], _TICK_S)
            if self._wake_read in readable:
                return
            for source in readable:
                if source in self._sources():
                    self._pass_on(source)
            now = time.monotonic()
            due = sorted((one for one in self._due if one[0] <= now), key=lambda one: one[0])
            self._due = [one for one in self._due if one[0] > now]
            if not self.is_frozen:
                held, self._held = self._held, []
                due += [(now, send, data) for send, data in held]
            for _, send, data in due:
                with contextlib.suppress(OSError):
                    send(data)

    def _request(self, send: Callable[[bytes], object], data: bytes) -> None:
        if self.is_frozen:
            self._held.append((send, data))
        else:
            with contextlib.suppress(OSError):
                send(data)

    def _reply(self, send: Callable[[bytes], object], data: bytes, stream: int | None = None) -> None:
        self.replies += 1
        self._hand_over(send, data, self.fault, stream)

    def _hand_over(
        self, send: Callable[[bytes], object], data: bytes, fault: Fault | None, stream: int | None = None
    ) -> None:
        """Pass it on; nothing overtakes what is on its way in the same stream."""
        pieces = [(0.0, data)] if fault is None else fault(data)
        now = time.monotonic()
        for after_s, piece in pieces:
            at_s = now + after_s
            if stream is not None:
                at_s = self._last_s[stream] = max(at_s, self._last_s.get(stream, 0.0))
            self._due.append((at_s, send, piece))  # also what is due now: what was due before may still be here


class DatagramRelay(FaultRelay):
    """In front of a board on UDP; one client at a time, the last one.

    Attributes:
        address: where it listens.
        data_fault: what is done to datagrams that are no replies; None: nothing.
        data: how many of those came.
    """

    def __init__(self, peer: tuple[str, int], is_reply: Callable[[bytes], bool] = lambda _data: True) -> None:
        super().__init__()
        self._is_reply = is_reply
        self.data_fault: Fault | None = None
        self.data = 0
        self._ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ours.bind(("127.0.0.1", 0))
        self._theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._theirs.connect(peer)
        self._client: tuple[str, int] | None = None
        self.address: tuple[str, int] = self._ours.getsockname()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def _sources(self) -> list[int]:
        return [self._ours.fileno(), self._theirs.fileno()]

    def _send(self, data: bytes) -> None:
        if self._client is not None:
            self._ours.sendto(data, self._client)

    def _pass_on(self, source: int) -> None:
        with contextlib.suppress(OSError):
            if source == self._ours.fileno():
                data, self._client = self._ours.recvfrom(_CHUNK)
                self._request(self._theirs.send, data)
                return
            data = self._theirs.recv(_CHUNK)
            if self._is_reply(data):
                self._reply(self._send, data)
            else:
                self._hand_over(self._send, data, self.data_fault)
                self.data += 1


class StreamRelay(FaultRelay):
    """In front of a server on a UNIX socket, or on a TCP port.

    Args:
        server: its path, or host and port.
        path: where clients come; None: to any free port of this machine.

    Attributes:
        address: host and port where clients come, if it is a port.
    """

    def __init__(self, server: Path | tuple[str, int], path: Path | None = None) -> None:
        super().__init__()
        self._server = server
        self._listening = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(("127.0.0.1", 0) if path is None else str(path))
        self._listening.listen()
        self.address: tuple[str, int] = self._listening.getsockname() if path is None else ("", 0)
        self._peer: dict[int, socket.socket] = {}
        self._own: dict[int, socket.socket] = {}
        self._is_server: dict[int, bool] = {}

    def close(self) -> None:
        self._listening.close()
        for one in self._own.values():
            one.close()
        self._own.clear()

    def half_close(self) -> None:
        """Tell every client that nothing more comes, and go on taking what it sends."""
        for one in self._clients():
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End every client's connection as a machine does that was switched off and on: without a farewell."""
        for one in self._clients():
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)  # wakes the relay, which closes it

    def _clients(self) -> list[socket.socket]:
        return [one for number, one in list(self._own.items()) if not self._is_server[number]]

    def _sources(self) -> list[int]:
        return [self._listening.fileno(), *self._own]

    def _pass_on(self, source: int) -> None:
        if source == self._listening.fileno():
            client, _ = self._listening.accept()
            is_tcp = isinstance(self._server, tuple)
            server = socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(self._server if is_tcp else str(self._server))
            except OSError:
                client.close()
                server.close()
                return
            for one, other, is_server in ((client, server, False), (server, client, True)):
                self._own[one.fileno()], self._peer[one.fileno()] = one, other
                self._is_server[one.fileno()] = is_server
            return
        own, peer = self._own[source], self._peer[source]
        try:
            data = own.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            for one in (own, peer):
                self._own.pop(one.fileno(), None)
                self._last_s.pop(one.fileno(), None)
                one.close()
            return
        if self._is_server[source]:
            self._reply(peer.sendall, data, source)
        else:
            self._request(peer.sendall, data)
