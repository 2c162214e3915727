"""Serial ports: a device file, or the same bytes through a TCP socket.

`/dev/serial/by-id/...` is a port of this machine by its stable name, opened exclusively. `socket://HOST:PORT` is a
serial device server or a simulator; line settings are then its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import serial

from petqc_drivers.errors import ConnectError, LinkLostError, LocalProtocolError, ReplyTimeoutError
from petqc_drivers.transport.sending import send_all
from petqc_drivers.transport.tcp import SocketPort
from petqc_drivers.transport.threaded import SLICE_S, ThreadedLink

if TYPE_CHECKING:
    from petqc_drivers.transport.threaded import BlockingPort

_CHUNK: Final = 4096
_PSEUDO_TERMINALS: Final = "/dev/pts/"
"""They carry neither parity nor seven bits, and refuse whoever wants nothing else changed: all but the first opener."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialLine:
    """How a line is clocked: baud rate, data bits, parity, stop bits, hardware handshake."""

    baud: int
    data_bits: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    rts_cts: bool = False


def check_address(address: str) -> None:
    """Refuse what is neither a device file nor socket://HOST:PORT.

    Raises:
        LocalProtocolError: Then.
    """
    if not address.startswith("/"):
        _host_and_port(address)


def serial_link(name: str, address: str, line: SerialLine) -> ThreadedLink:
    """A link to the device at that address.

    Raises:
        LocalProtocolError: If the address is none.
    """
    check_address(address)

    def open_port(timeout_s: float) -> BlockingPort:
        return TtyPort(address, line) if address.startswith("/") else SocketPort(*_host_and_port(address), timeout_s)

    return ThreadedLink(name, open_port, transport="serial", address=address)


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    with contextlib.suppress(ValueError):
        if parts.scheme == "socket" and parts.hostname and parts.port and not parts.path:
            return parts.hostname, parts.port
    raise LocalProtocolError(f"{address!r} is no serial port", do="write /dev/serial/by-id/... or socket://HOST:PORT")


class TtyPort:
    """A device file."""

    longest_wait_s = SLICE_S

    def __init__(self, path: str, line: SerialLine) -> None:
        self._is_stuck = False
        if os.path.realpath(path).startswith(_PSEUDO_TERMINALS):
            line = replace(line, data_bits=8, parity="none")
        try:
            self._port = serial.Serial(
                path,
                baudrate=line.baud,
                bytesize=line.data_bits,
                parity={"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}[line.parity],
                stopbits=line.stop_bits,
                rtscts=line.rts_cts,
                timeout=SLICE_S,
                exclusive=True,
            )
        except (OSError, termios.error) as error:
            raise ConnectError(
                f"{path} cannot be opened: {error}", do="check address, cable and permissions"
            ) from error
        try:
            # The lock keeps out who asks for one, this everybody but root.
            fcntl.ioctl(self._port.fileno(), termios.TIOCEXCL)
        except OSError as error:
            self.close()
            raise ConnectError(f"{path} cannot be had alone: {error}") from error

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        # Not the library's: a change of its time-out sets the line anew.
        try:
            number = self._port.fileno()
            is_sent = send_all(number, lambda left: os.write(number, left), data, timeout_s)
        except (OSError, termios.error) as error:
            raise LinkLostError(f"cannot send: {error}", do="check the cable") from error
        if not is_sent:
            self._is_stuck = True
            raise ReplyTimeoutError("it does not take what is sent", do="check handshake and cable")

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for the first byte for one slice."""
        del timeout_s
        try:
            # A port that is readable and gives nothing is gone; the library raises for it.
            first: bytes = self._port.read(1)
            return first + self._port.read(min(self._port.in_waiting, _CHUNK)) if first else b""
        except (OSError, TypeError, termios.error) as error:
            raise LinkLostError(f"the port is gone: {error}", do="check the cable") from error

    def clear(self) -> bytes:
        """Throw away what has come, without waiting; what it was."""
        dropped = b""
        try:
            while waiting := self._port.in_waiting:
                dropped += self._port.read(min(waiting, _CHUNK))
                if len(dropped) > _CHUNK:
                    break
        except (OSError, TypeError, termios.error) as error:
            raise LinkLostError(f"the port is gone: {error}", do="check the cable") from error
        return dropped

    def device_clear(self) -> bool:
        """A line has no such thing."""
        return False

    def close(self) -> None:
        """Let go of the port."""
        with contextlib.suppress(OSError, termios.error):
            if self._is_stuck:  # closing waits half a minute for bytes that nobody takes
                self._port.reset_output_buffer()
        with contextlib.suppress(OSError, termios.error):
            self._port.close()
