"""VISA resources: `TCPIP::HOST::PORT::SOCKET`, `GPIB0::16::INSTR`, `USB0::...::INSTR`, `TCPIP::HOST::INSTR`.

A raw socket is opened as what it is (`tcp`), and so is a GPIB adapter of the Prologix kind (`prologix`, with
`GPIB0::16::INSTR via PRLGX-TCPIP::HOST::1234::INTFC`); other buses on which an instrument speaks only when it is
addressed go through pyvisa-py. There a reply that was missed waits in the instrument for the next question, so that out
of step means a device clear, and the identity is asked before anything else.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from typing import TYPE_CHECKING, Any, Final

from petqc_drivers.errors import ConnectError, LinkLostError, LocalProtocolError, ReplyTimeoutError
from petqc_drivers.transport import prologix
from petqc_drivers.transport.tcp import SocketPort
from petqc_drivers.transport.threaded import ThreadedLink

if TYPE_CHECKING:
    from petqc_drivers.transport.threaded import BlockingPort

_CHUNK: Final = 4096
_UNCUT_S: Final = 3600.0
"""Waiting is not cut up: a read that ends early leaves the instrument in the middle of its reply."""
_INTERFACES: Final = ("TCPIP", "GPIB", "USB")
_SOCKET: Final = re.compile(r"TCPIP\d*::(?P<host>[^:]+|\[[^]]+\])::(?P<port>\d+)::SOCKET", re.IGNORECASE)
_START: Final = threading.Lock()


def check_resource(resource: str) -> None:
    """Refuse what is no VISA resource.

    Raises:
        LocalProtocolError: Then.
    """
    if not resource.upper().startswith(_INTERFACES) or "::" not in resource:
        raise LocalProtocolError(
            f"{resource!r} is no VISA resource", do="write TCPIP::HOST::PORT::SOCKET, GPIB0::16::INSTR or the like"
        )
    if prologix.VIA in resource:
        prologix.place(resource)


def visa_link(name: str, resource: str, *, end: bytes = b"\n") -> ThreadedLink:
    """A link to the instrument of that resource name.

    Args:
        name: Of the device.
        resource: As VISA writes it.
        end: Last byte of a reply.

    Raises:
        LocalProtocolError: If it is no resource name.
    """
    check_resource(resource)

    found = _SOCKET.fullmatch(resource)

    def open_port(timeout_s: float) -> BlockingPort:
        if found is not None:
            return SocketPort(found["host"].strip("[]"), int(found["port"]), timeout_s)
        if prologix.VIA in resource:
            return prologix.PrologixPort(prologix.place(resource), timeout_s)
        return VisaSession(resource, end, timeout_s)

    return ThreadedLink(name, open_port, transport="visa", address=resource)


@functools.cache
def _manager() -> Any:
    import pyvisa

    return pyvisa.ResourceManager("@py")


class VisaSession:
    """A session of pyvisa-py."""

    longest_wait_s = _UNCUT_S

    def __init__(self, resource: str, end: bytes, timeout_s: float) -> None:
        import pyvisa

        self._errors = (pyvisa.errors.Error, OSError, ValueError)
        try:
            with _START:
                manager = _manager()
            self._session = manager.open_resource(resource, open_timeout=int(1000 * timeout_s))
            self._session.read_termination = self._session.write_termination = None
            self._session.timeout = 1000 * timeout_s
            constants = pyvisa.constants
            self._session.set_visa_attribute(constants.ResourceAttribute.termchar, end[-1])
            self._session.set_visa_attribute(constants.ResourceAttribute.termchar_enabled, constants.VI_TRUE)
        except self._errors as error:
            raise ConnectError(f"{resource}: {error}", do="check resource name and cable") from error
        self._time_out = constants.StatusCode.error_timeout
        self._more_may_come = constants.StatusCode.success_max_count_read

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        self._session.timeout = max(1000 * timeout_s, 1.0)
        try:
            self._session.write_raw(data)
        except self._errors as error:
            if getattr(error, "error_code", None) == self._time_out:
                raise ReplyTimeoutError("it does not take what is sent", do="check the device") from error
            raise LinkLostError(f"cannot send: {error}", do="check device and cable") from error

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting for it at most so long."""
        self._session.timeout = max(1000 * timeout_s, 1.0)
        try:
            with self._session.ignore_warning(self._more_may_come):
                came, _status = self._session.visalib.read(self._session.session, _CHUNK)
        except self._errors as error:
            if getattr(error, "error_code", None) != self._time_out:
                raise LinkLostError(f"cannot receive: {error}", do="check device and cable") from error
            return b""
        return bytes(came)

    def clear(self) -> bytes:
        """Nothing comes unasked."""
        return b""

    def device_clear(self) -> bool:
        """Make the instrument forget what it was about to say."""
        try:
            self._session.clear()
        except self._errors as error:
            raise LinkLostError(f"cannot be cleared: {error}", do="check device and cable") from error
        return True

    def close(self) -> None:
        """End the session."""
        with contextlib.suppress(*self._errors):
            self._session.close()
