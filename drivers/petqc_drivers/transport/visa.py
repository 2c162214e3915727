"""VISA sessions through pyvisa-py: `TCPIP::HOST::PORT::SOCKET`, `GPIB0::16::INSTR`, `USB0::...::INSTR`, `ASRL/dev/...`.

A late reply waits in the session for the next question, and a peer that closed shows only as time-outs. So a session
that missed a reply is not used again: `clear` of a session that has anything to clear, or a new one, and the identity
is asked before anything else.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from petqc_drivers.errors import ConnectError, LinkLostError, LocalProtocolError, ReplyTimeoutError
from petqc_drivers.transport.threaded import SLICE_S, ThreadedLink

if TYPE_CHECKING:
    from petqc_drivers.transport.threaded import BlockingPort

_CHUNK: Final = 4096
_UNCUT_S: Final = 3600.0
"""Waiting is not cut up but on a plain socket: elsewhere a read that ends early leaves the instrument in the middle of
its reply."""
_INTERFACES: Final = ("TCPIP", "GPIB", "USB", "ASRL")
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

    def open_port(timeout_s: float) -> BlockingPort:
        return _Session(resource, end, timeout_s)

    return ThreadedLink(name, open_port)


@functools.cache
def _manager() -> Any:
    import pyvisa

    return pyvisa.ResourceManager("@py")


class _Session:
    def __init__(self, resource: str, end: bytes, timeout_s: float) -> None:
        import pyvisa

        self.longest_wait_s = SLICE_S if resource.upper().endswith("::SOCKET") else _UNCUT_S
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
        self._time_out = pyvisa.constants.StatusCode.error_timeout

    def write(self, data: bytes, timeout_s: float) -> None:
        self._session.timeout = max(1000 * timeout_s, 1.0)
        try:
            self._session.write_raw(data)
        except self._errors as error:
            if getattr(error, "error_code", None) == self._time_out:
                raise ReplyTimeoutError("it does not take what is sent", do="check the device") from error
            raise LinkLostError(f"cannot send: {error}", do="check device and cable") from error

    def read(self, timeout_s: float) -> bytes:
        self._session.timeout = max(1000 * timeout_s, 1.0)
        started = time.monotonic()
        try:
            came, _status = self._session.visalib.read(self._session.session, _CHUNK)
        except self._errors as error:
            if getattr(error, "error_code", None) != self._time_out:
                raise LinkLostError(f"cannot receive: {error}", do="check device and cable") from error
            # A refused or closed socket may report a time-out at once.
            if time.monotonic() - started < timeout_s / 2:
                time.sleep(min(0.05, timeout_s / 2))
            return b""
        return bytes(came)

    def clear(self) -> int:
        return 0

    def close(self) -> None:
        with contextlib.suppress(*self._errors):
            self._session.close()
