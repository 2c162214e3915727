"""Every error the daemon raises, with the stable code that interfaces show and the exit code the command ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_OK = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INVALID = 4


class DaemonError(Exception):
    """Root of the daemon's errors. `code` is stable; `exit_code` is what `petqc` ends with."""

    code: ClassVar[str] = "daemon-error"
    exit_code: ClassVar[int] = EXIT_UNREACHABLE


class ConfigError(DaemonError):
    """A configuration that cannot be used; the message names the file, the line and the key."""

    code = "config-error"
    exit_code = EXIT_USAGE


class RefusedError(DaemonError):
    """A command that may not be done now; the message names what stands in its way."""

    code = "refused"
    exit_code = EXIT_USAGE


class PermitError(RefusedError):
    """A permit is missing: nothing was energised."""

    code = "permit-missing"


class BusyError(RefusedError):
    """A run is going on already; a second one is refused, not queued."""

    code = "busy"


class NobodyCameError(DaemonError):
    """A run that waits for somebody before it begins waited in vain: nothing was switched on, and it was missed."""

    code = "nobody-came"
    exit_code = EXIT_INVALID


class NotFoundError(DaemonError):
    """There is no such run."""

    code = "not-found"
    exit_code = EXIT_USAGE


class InvalidRequestError(DaemonError):
    """A request that is not what the interface says."""

    code = "invalid-request"
    exit_code = EXIT_USAGE


class UnknownActorError(DaemonError):
    """It is not known who asks: log in, or show a token."""

    code = "not-logged-in"
    exit_code = EXIT_USAGE


class PasswordAgainError(UnknownActorError):
    """It is known who is logged in, but for this the password has to be given again."""

    code = "password-again"


class NotAllowedError(DaemonError):
    """Whoever asks may not do this."""

    code = "not-allowed"
    exit_code = EXIT_USAGE


class TooManyError(DaemonError):
    """Too often: wrong passwords, or requests. wait_s: how long to wait."""

    code = "too-many"
    exit_code = EXIT_USAGE

    def __init__(self, message: str, wait_s: float = 1.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class UnreachableError(DaemonError):
    """The daemon or a device does not answer."""

    code = "unreachable"


class DeviceError(DaemonError):
    """A device did not do what it was told, or not as it should."""

    code = "device"


class SimulatorError(UnreachableError):
    """The simulator process did not start or ended by itself."""

    code = "simulator"


class SimulatorRefusedError(SimulatorError):
    """The simulator does not take its settings: starting it again would not help."""

    code = "simulator-refused"
    exit_code = EXIT_USAGE


class StoreError(DaemonError):
    """The store cannot promise durability: nothing was acknowledged."""

    code = "store"


class StoreAwayError(StoreError):
    """The store does not take a write now; the same write may work later: a full disk, a server that is away."""


def message_of(problem: Mapping[str, Any]) -> str:
    """What is wrong, of one of the errors that a model tells; without the words that it puts before ours."""
    return str(problem["msg"]).removeprefix("Value error, ")
