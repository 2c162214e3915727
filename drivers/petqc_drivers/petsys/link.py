"""What a readout needs of the way to its board, whichever it is, and what no such way may send.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 3.3 to 3.6 and 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final, Protocol

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import LocalProtocolError
from petqc_drivers.petsys.registers import POWER_BIAS, REGISTERS
from petqc_drivers.petsys.spi import CLOCK_FILTER, FPGA_FLASH, is_bias_output
from petqc_drivers.petsys.wire import Function, MemoryWrite, WireError, parse_memory_access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from petqc_drivers.device import Reading
    from petqc_drivers.errors import DriverError
    from petqc_drivers.limits import SetOutput
    from petqc_drivers.petsys.receive import ReceiveAccount, Sink


Address = tuple[int, int]
"""Port and slave of a unit."""


@dataclass(frozen=True, slots=True)
class LinkAccount:
    """How the commands of a link went."""

    commands: int
    tries: int
    replies: int
    replies_late: int
    """Replies to no outstanding command: late, doubled or invented."""
    replies_malformed: int
    unknown_datagrams: int
    foreign_datagrams: int

    def __add__(self, other: LinkAccount) -> LinkAccount:
        """Of two links together."""
        return LinkAccount(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class ReadoutLink(Protocol):
    """What a readout needs of the way to its board, whichever it is."""

    @property
    def name(self) -> str:
        """Address of the board, for messages."""

    @property
    def epoch(self) -> int:
        """Rises with every `overtake`; what was begun in an earlier epoch is not sent any more."""

    @property
    def last_good_s(self) -> float | None:
        """When the board last answered a command, monotonic."""

    @property
    def last_frame_s(self) -> float | None:
        """When a frame of the running acquisition last came, monotonic."""

    async def open(self) -> None:
        """Reach the board."""

    async def open_without_greeting(self) -> None:
        """Be able to send, without waiting for anybody; for switching off."""

    async def aclose(self) -> None:
        """Let go of it; safe at any time."""

    async def exchange(
        self, function: int, payload: bytes, *, what: str, since: int | None = None, tries: int | None = None
    ) -> bytes:
        """Send a command and return the payload of its reply; `since` is the epoch in which the caller began."""

    async def set_output(
        self, output: SetOutput, *, since: int | None = None, tries: int | None = None
    ) -> tuple[bytes, ...]:
        """Send sealed messages and return their replies."""

    def overtake(self) -> None:
        """Drop everything that waits to be sent, because switching off goes first."""

    async def start_data(
        self,
        sink: Sink,
        *,
        min_frame: int,
        on_first: Callable[[], None],
        on_failure: Callable[[DriverError], None],
    ) -> None:
        """Begin to deliver frames."""

    async def account(self) -> ReceiveAccount:
        """The account of the running acquisition."""

    async def stop_data(self, failure: DriverError | None = None) -> ReceiveAccount:
        """Deliver what waits, then nothing more."""

    def link_account(self) -> LinkAccount:
        """How the commands went."""

    async def way_readings(self, ports: Iterable[int]) -> list[Reading]:
        """What is measured on the way to the units at these ports; nothing where nothing is."""


_POWER: Final = REGISTERS["power"].address


def refuse_unsealed(function: int, payload: bytes, *, device: str) -> None:
    """Refuse a command that could raise an output or damage a board; the former exist only as `SetOutput`.

    Raises:
        LocalProtocolError: If it goes to a bias DAC, switches the bias supply on, or reaches for the supplies of the
            modules (I2C), or for the configuration memory or the clock of the FPGA, which this driver has no business
            with.
    """
    if function == Function.I2C:
        raise LocalProtocolError(
            "a command to the supplies of the modules that did not pass the encoder guard", device=device
        )
    if function == Function.SPI:
        spi_id = int.from_bytes(payload[1:3], "big")
        if is_bias_output(spi_id):
            raise LocalProtocolError("a command to a bias DAC that did not pass the encoder guard", device=device)
        if spi_id == FPGA_FLASH:
            raise LocalProtocolError("a command to the configuration memory of the FPGA", device=device)
        if spi_id == CLOCK_FILTER:
            raise LocalProtocolError("a command to the filter of the system clock", device=device)
    if function == Function.REGISTERS:
        try:
            access = parse_memory_access(payload)
        except WireError as error:
            raise LocalProtocolError(f"not a register access: {error}", device=device) from error
        place = _POWER - access.address
        if isinstance(access, MemoryWrite) and 0 <= place < access.count and access.data[place] & POWER_BIAS:
            raise LocalProtocolError(
                "a command that switches the bias supply on and did not pass the encoder guard", device=device
            )


class CommandGate(ABC):
    """The one door for commands of a link: nothing that could raise an output passes unless it is sealed.

    What was begun before `overtake` was called is not sent any more.
    """

    _epoch: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """Address of the board, for messages."""

    @property
    def epoch(self) -> int:
        """Rises with every `overtake`; what was begun in an earlier epoch is not sent any more."""
        return self._epoch

    async def exchange(
        self, function: int, payload: bytes, *, what: str, since: int | None = None, tries: int | None = None
    ) -> bytes:
        """Send a command until it is answered and return the payload of the reply.

        Args:
            function: Front-end function.
            payload: Its payload.
            what: What this is, for messages ("read 0x0203 time_tag").
            since: Epoch in which the caller's task began; by default now.
            tries: How often to send it before the board counts as silent; by default as the link was made.

        Raises:
            ReplyTimeoutError: If no try is answered.
            LinkLostError: If the way to the board is gone.
            OvertakenError: If switching off went first.
            LocalProtocolError: If it could raise an output.
        """
        refuse_unsealed(function, payload, device=self.name)
        return await self._exchange(function, payload, what, self._epoch if since is None else since, tries)

    async def set_output(
        self, output: SetOutput, *, since: int | None = None, tries: int | None = None
    ) -> tuple[bytes, ...]:
        """Send sealed messages one after the other and return their replies.

        Raises:
            ReplyTimeoutError: If one is not answered.
            OvertakenError: If switching off went first.
        """
        epoch = self._epoch if since is None else since
        what = f"set {output.channel}"
        return tuple([await self._exchange(output.function, p, what, epoch, tries) for p in output.payloads])

    @abstractmethod
    async def _exchange(self, function: int, payload: bytes, what: str, epoch: int, tries: int | None) -> bytes:
        """Send a command that may be sent, until it is answered."""


def ago(moment_s: float | None) -> str:
    """A moment on the monotonic clock in words."""
    return "never" if moment_s is None else f"{monotonic_s() - moment_s:.1f} s ago"
