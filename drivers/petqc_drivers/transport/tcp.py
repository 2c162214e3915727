"""A TCP connection as a port: serial device servers, raw SCPI sockets, simulators.

The libraries' own have traps: pyserial's `socket://` reads byte by byte and can leave its socket open; a VISA `SOCKET`
session takes a refused connection for one that is open and a closed one for silence, and does not come back from a
read while bytes trickle in.
"""

from __future__ import annotations

import socket
import struct
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
        self._socket.settimeout(None)  # the system waits, see `read`
        self._waits_s = 0.0
        self._said_nothing = True

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        try:
            is_sent = send_all(self._socket.fileno(), self._send, data, timeout_s)
        except OSError as error:
            raise LinkLostError(f"cannot send: {error}", do="check the cable") from error
        if not is_sent:
            raise ReplyTimeoutError("it does not take what is sent", do="check the device")

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for the first byte at most so long.

        One call that waits in the system, and none to ask whether it would: each call lets go of the interpreter, and
        to have it back costs more than the call where dozens of such threads stand around a busy event loop.
        """
        if timeout_s > 0 and timeout_s != self._waits_s:
            seconds, rest_s = divmod(max(timeout_s, 1e-6), 1.0)
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(1e6 * rest_s))
            )
            self._waits_s = timeout_s
        try:
            came = self._socket.recv(_CHUNK, 0 if timeout_s > 0 else socket.MSG_DONTWAIT)
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

    def _send(self, data: memoryview) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

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
