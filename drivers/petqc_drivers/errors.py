"""Every error a driver raises. `code` is stable and is what logs, metrics and interfaces show."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


def each_once(failures: Sequence[str]) -> str:
    """Failures in one line, none of them twice."""
    return "; ".join(one if n == 1 else f"{one}, {n} times" for one, n in Counter(failures).items())


class DriverError(Exception):
    """Root of all driver errors.

    Args:
        what: What happened, in one clause.
        device: Name or address of the device (and of the part of it) this is about.
        last_good: When the device last answered, already in words ("3.1 s ago", "never").
        do: The next step for the person who reads this.
    """

    code: ClassVar[str] = "driver-error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, what: str, *, device: str | None = None, last_good: str | None = None, do: str | None = None
    ) -> None:
        self.what = what
        self.device = device
        self.last_good = last_good
        self.do = do
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.device}: {self.what}" if self.device else self.what
        if self.last_good:
            text += f"; last good answer {self.last_good}"
        if self.do:
            text += f" ({self.do})"
        return text


class ConnectError(DriverError, ConnectionError):
    """The device could not be reached at all."""

    code = "connect-failed"
    retryable = True


class ReplyTimeoutError(DriverError, TimeoutError):
    """The device was asked, as often as allowed, and did not answer in time."""

    code = "reply-timeout"
    retryable = True


class LinkLostError(DriverError, ConnectionError):
    """Something that was flowing stopped: no data, a closed socket, a device that started afresh."""

    code = "link-lost"
    retryable = True


class SinkFailedError(DriverError):
    """The consumer of the frames raised; the frames after that were counted and dropped."""

    code = "sink-failed"


class LocalProtocolError(DriverError, ValueError):
    """We tried to send something that must not be sent: our bug or a wrong setting, never retried."""

    code = "local-protocol"


class RemoteProtocolError(DriverError):
    """The device answered something that the protocol does not allow."""

    code = "remote-protocol"


class WrongIdentityError(DriverError):
    """The device is not the one, or not of the version, that was configured."""

    code = "wrong-identity"


class VerifyError(DriverError):
    """What was read back differs from what was written."""

    code = "verify-failed"


class DeviceFaultError(DriverError):
    """The device works as a device but reports a fault (clock, power, links)."""

    code = "device-fault"


class StateError(DriverError):
    """The request makes no sense in the present state."""

    code = "wrong-state"


class OvertakenError(StateError):
    """The request was dropped because switching off went first."""

    code = "overtaken-by-off"


class HeldError(StateError):
    """A ramp was ended on request: the output stays on at the last step, which was seen to arrive."""

    code = "ramp-held"


class LimitError(DriverError, ValueError):
    """A requested output is refused: no hard limit, outside it, or not encoded as asked."""

    code = "limit-refused"


class OffUnconfirmedError(DriverError):
    """Switching off could not be confirmed: treat the output as live.

    Args:
        what: As of every error.
        device: As of every error.
        last_good: As of every error.
        do: As of every error.
        causes: What stood in the way, which may be the same thing more than once; told with `what`, each once.
    """

    code = "off-unconfirmed"

    def __init__(
        self,
        what: str,
        *,
        device: str | None = None,
        last_good: str | None = None,
        do: str | None = None,
        causes: Sequence[str] = (),
    ) -> None:
        told = f"{what}: {each_once(causes)}" if causes else what
        super().__init__(told, device=device, last_good=last_good, do=do)
        self.causes = tuple(causes)
