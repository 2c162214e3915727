"""A TCP connection as a port: serial device servers, raw SCPI sockets, simulators.

The libraries' own have traps: pyserial's `socket://` reads byte by byte and can leave its socket open; a VISA `SOCKET`
session takes a refused connection for one that is open and a closed one for silence, and does not come back from a
read while bytes trickle in.
"""

from __future__ import annotations

import select
import socket
from typing import Final

from petqc_drivers.errors import ConnectError, LinkLostError, ReplyTimeoutError
from petqc_drivers.transport.sending import send_all
from petqc_drivers.transport.threaded import SLICE_S

_CHUNK: Final = 4096


class SocketPort:
    """One connection."""

    longest_wait_s = SLICE_S

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise ConnectError(f"{host} port {port}: {error}", do="check address and cable") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._said_nothing = True

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        try:
            is_sent = send_all(self._socket.fileno(), self._socket.send, data, timeout_s)
        except OSError as error:
            raise LinkLostError(f"cannot send: {error}", do="check the cable") from error
        if not is_sent:
            raise ReplyTimeoutError("it does not take what is sent", do="check the device")

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for the first byte at most so long."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return b""
        try:
            came = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLostError(f"the connection is gone: {error}", do="check the cable") from error
        if not came and self._said_nothing:
            raise LinkLostError(
                "the other end closed the connection before it said anything",
                do="has somebody else its only place? many instruments take one client",
            )
        if not came:
            raise LinkLostError("the other end closed the connection", do="check the device")
        self._said_nothing = False
        return came

    def clear(self) -> bytes:
        """Throw away what has come, without waiting; what it was."""
        dropped = b""
        while len(dropped) <= _CHUNK and (came := self.read(0.0)):
            dropped += came
        return dropped

    def device_clear(self) -> bool:
        """A stream has no such thing."""
        return False

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
