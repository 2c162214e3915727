"""The board as a device: connect, see that it is the right one, configure, take events, tell how it is.

It has no output that could be energised; what it can do wrong is to give times that are not true, so lock, temperature
and service events are watched, and readings say when they are not to be believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from petqc_drivers.caen_a5203 import picotdc, wire
from petqc_drivers.caen_a5203.control import Control, open_stream
from petqc_drivers.caen_a5203.events import ListEvents, ServiceEvent, StreamParser
from petqc_drivers.caen_a5203.registers import (
    CHANNELS_128,
    FAULTS,
    FERS_CODE,
    LINK_OFF,
    NEW_DATA_QUALIFIER,
    ONE_WORD_TRAILER,
    SERVICE_EVENTS,
    STREAMING_PERIOD_CLK,
    SUPPRESS_EMPTY,
    AcquisitionMode,
    BoardCard,
    Command,
    Register,
    StatusBit,
    board_degc,
    faults_of,
    fpga_degc,
)
from petqc_drivers.device import DeviceState, Quality, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    LinkLostError,
    LocalProtocolError,
    StateError,
    WrongIdentityError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_READ_BYTES = 1 << 16
_SOFTWARE_RUN = 0x01
_OLDEST_FIRMWARE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaenA5203Settings:
    """What one board is and how it is used.

    Attributes:
        name: In messages and readings.
        host: Address of the board.
        control_port, data_port: Fixed by the board; others for a simulator or a tunnel.
        serial: Number (PID) that the board must have; None: any.
        inputs: Channels that are timed.
        reply_s: Longest wait for an answer.
        silence_s: Running without a service event for so long, the link counts as lost.
        external_clock: Take the reference clock from outside; False: the board's own.
    """

    name: str
    host: str
    control_port: int = wire.CONTROL_PORT
    data_port: int = wire.DATA_PORT
    serial: int | None = None
    inputs: tuple[int, ...] = ()
    reply_s: float = 1.0
    silence_s: float = 3.0
    external_clock: bool = False

    def __post_init__(self) -> None:
        if len(set(self.inputs)) != len(self.inputs) or any(not 0 <= c < 2 * picotdc.CHANNELS for c in self.inputs):
            raise LocalProtocolError(f"inputs {self.inputs}: each of 0 to 127 once", device=self.name)
        if not (self.reply_s > 0.0 and self.silence_s > 1.0):
            raise LocalProtocolError("reply_s must be above 0 and silence_s above 1 s", device=self.name)


@dataclass(slots=True)
class StreamAccount:
    """What came on the data socket since the last start.

    windows: events with hits. hits. service: service events. bytes_skipped, events_damaged: not understood.
    refused: windows that the consumer raised on.
    """

    windows: int = 0
    hits: int = 0
    service: int = 0
    bytes_skipped: int = 0
    events_damaged: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Stream:
    task: asyncio.Task[None]
    writer: asyncio.StreamWriter
    account: StreamAccount = field(default_factory=StreamAccount)
    sink: Callable[[ListEvents], None] | None = None
    service: ServiceEvent | None = None
    service_s: float | None = None
    lost: str | None = None


class CaenA5203:
    """One board. Not for several event loops.

    Attributes:
        settings: As given.
        state: Where it is in its life.
        card: Its identity, once connected.
        firmware: Revision of the FPGA as (major, minor).
    """

    def __init__(self, settings: CaenA5203Settings) -> None:
        self.settings = settings
        self.state = DeviceState.DISCONNECTED
        self.card: BoardCard | None = None
        self.firmware = (0, 0)
        self._control: Control | None = None
        self._stream: _Stream | None = None
        self._started_s = 0.0

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.settings.name

    @property
    def account(self) -> StreamAccount:
        """What came on the data socket since the last start."""
        return StreamAccount() if self._stream is None else self._stream.account

    @property
    def _tdcs(self) -> int:
        return 1 if self.card is None or self.card.channels <= picotdc.CHANNELS else 2

    # -- connecting -------------------------------------------------------------------------------------------------

    async def connect(self) -> BoardCard:
        """Reach the board on both sockets, end what runs there, and see that it is the right one.

        Raises:
            ConnectError: Nothing answers.
            WrongIdentityError: It is another board, or another kind of board.
        """
        await self.close()
        s = self.settings
        self.state = DeviceState.CONNECTING
        try:
            self._control = await Control.open(s.name, s.host, s.control_port, s.reply_s)
            reader, writer = await open_stream(s.host, s.data_port, s.name, s.reply_s)
            self._open_stream(reader, writer)
            for command in (Command.STOP, Command.CLEAR):
                await self._control.command(command)
            self.card = await self._identify(self._control)
        except BaseException:
            await self.close()
            raise
        self.state = DeviceState.IDENTIFIED
        return self.card

    async def _identify(self, control: Control) -> BoardCard:
        s, card = self.settings, await control.card()
        if card.code != FERS_CODE:
            raise WrongIdentityError(f"is a board of code {card.code}, not a {FERS_CODE}", device=s.name)
        if s.serial is not None and card.serial != s.serial:
            raise WrongIdentityError(
                f"has the serial number {card.serial}, not {s.serial}",
                device=s.name,
                do="check which board has this address, then the configuration",
            )
        missing = [c for c in s.inputs if c >= card.channels]
        if missing:
            raise WrongIdentityError(f"has {card.channels} channels, and inputs {missing} are asked for", device=s.name)
        revision = await control.read(Register.FIRMWARE_REVISION)
        self.firmware = (revision >> 8 & 0xFF, revision & 0xFF)
        if self.firmware[0] < _OLDEST_FIRMWARE:
            raise WrongIdentityError(
                f"has firmware {self.firmware[0]}.{self.firmware[1]}, older than {_OLDEST_FIRMWARE}.0",
                device=s.name,
                do="update it with the maker's tool",
            )
        return card

    # -- configuring ------------------------------------------------------------------------------------------------

    async def configure(self) -> None:
        """Reset the board and make it stream the leading edges of the inputs; every setting is read back.

        Raises:
            DeviceFaultError: Clock or TDC do not lock.
            VerifyError: A register does not hold what was written.
        """
        control = self._ready("configure", DeviceState.IDENTIFIED, DeviceState.STAGED)
        s = self.settings
        if not s.inputs:
            raise LocalProtocolError("no inputs are configured", device=s.name, do="name the channels that are wired")
        await control.command(Command.RESET)
        wide = CHANNELS_128 if self._tdcs > 1 else 0
        settings = {
            Register.IO_CONTROL: 0x4 if s.external_clock else 0x0,
            Register.ACQUISITION_CONTROL: AcquisitionMode.STREAMING
            | NEW_DATA_QUALIFIER
            | ONE_WORD_TRAILER
            | SUPPRESS_EMPTY
            | LINK_OFF
            | SERVICE_EVENTS
            | wide,
            Register.STREAMING_PERIOD: STREAMING_PERIOD_CLK,
            Register.TRIGGER_MASK: 0,
            Register.TREF_MASK: 0,
            Register.VETO_MASK: 0,
            Register.TRIGGER_HOLD_OFF: 0,
            Register.RUN_MASK: _SOFTWARE_RUN,
        }
        for register, value in settings.items():
            await control.write_verified(register, value)
        for tdc in range(self._tdcs):
            first = tdc * picotdc.CHANNELS
            mine = [c - first for c in s.inputs if first <= c < first + picotdc.CHANNELS]
            steps = picotdc.power_up(mine, period_clk=STREAMING_PERIOD_CLK)
            await control.tdc_steps(tdc, steps)
            await self._verify_tdc(control, tdc, steps)
        status = await control.read(Register.STATUS)
        wrong = faults_of(status, tdcs=self._tdcs)
        if wrong:
            raise DeviceFaultError(
                f"after configuring, {wrong[0]} (status {status:#x})",
                device=s.name,
                do="check the reference clock's cable and the board's cooling",
            )
        self.state = DeviceState.STAGED

    async def _verify_tdc(self, control: Control, tdc: int, steps: list[picotdc.Step]) -> None:
        last = {step.address: step.value for step in steps}
        for address, value in last.items():
            found = await control.tdc_read(tdc, address)
            if found != value:
                raise DeviceFaultError(
                    f"register {address:#06x} of TDC {tdc} holds {found:#x} after {value:#x} was written",
                    device=self.name,
                    do="configure again; if it stays, have the board looked at",
                )

    # -- events -----------------------------------------------------------------------------------------------------

    async def start(self, sink: Callable[[ListEvents], None]) -> None:
        """Begin: time is reset, and every window with hits goes to `sink`, in the event loop.

        Raises:
            StateError: Not configured.
        """
        control = self._ready("start", DeviceState.STAGED)
        stream = self._data()
        stream.account, stream.sink, stream.service_s, stream.service = StreamAccount(), sink, None, None
        for command in (Command.CLEAR, Command.TIME_RESET, Command.START):
            await control.command(command)
        self._started_s = time.monotonic()
        self.state = DeviceState.RUNNING

    async def stop(self) -> None:
        """End; what is still on its way is taken for a moment. Does nothing where nothing runs."""
        if self._control is None or not self._control.is_open:
            raise LinkLostError("cannot stop: not connected", device=self.name, do="connect again")
        await self._control.command(Command.STOP)
        if self.state is DeviceState.RUNNING:
            await asyncio.sleep(_DRAIN_S)
            self._data().sink = None
            self.state = DeviceState.STAGED

    def check_flow(self) -> None:
        """See that a running board still speaks.

        Raises:
            LinkLostError: The data socket was closed, or no service event has come for too long.
        """
        if self.state is not DeviceState.RUNNING:
            return
        stream = self._data()
        since = time.monotonic() - (self._started_s if stream.service_s is None else stream.service_s)
        reason = stream.lost
        if reason is None and since > self.settings.silence_s:
            reason = f"running, and no service event for {since:.1f} s"
        if reason is not None:
            self.state = DeviceState.FAULTED
            raise LinkLostError(reason, device=self.name, do="check the board's power and network, then connect again")

    def _open_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pump(reader), name=f"{self.name} data")
        self._stream = _Stream(task, writer)

    async def _pump(self, reader: asyncio.StreamReader) -> None:
        parser = StreamParser()
        while True:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError as error:
                self._data().lost = f"the data connection broke: {error}"
                return
            stream = self._data()
            if not data:
                stream.lost = "the board closed the data connection"
                return
            skipped, damaged = parser.bytes_skipped, parser.events_damaged
            batch = parser.feed(data)
            for service in batch.service:
                stream.service, stream.service_s = service, time.monotonic()
            stream.account.service += len(batch.service)
            self._take(stream, batch.lists)
            stream.account.bytes_skipped += parser.bytes_skipped - skipped
            stream.account.events_damaged += parser.events_damaged - damaged

    def _take(self, stream: _Stream, events: ListEvents) -> None:
        stream.account.windows += events.trigger_id.size
        stream.account.hits += events.channel.size
        if stream.sink is None or not events.trigger_id.size:
            return
        try:
            stream.sink(events)
        except Exception:  # noqa: BLE001 - whatever a consumer does wrong, the stream goes on and it is counted
            if not stream.account.refused:
                _LOG.exception("%s: the consumer of events failed; further ones are counted", self.name)
            stream.account.refused += events.trigger_id.size

    # -- readings ---------------------------------------------------------------------------------------------------

    async def readings(self) -> list[Reading]:
        """Lock, temperatures, counters and, while running, the age of the last service event.

        Raises:
            LinkLostError: Not connected.
            ReplyTimeoutError: No answer in time.
        """
        control = self._ready("read", DeviceState.IDENTIFIED, DeviceState.STAGED, DeviceState.RUNNING)
        self.check_flow()
        status = await control.read(Register.STATUS)
        fpga = fpga_degc(await control.read(Register.FPGA_TEMPERATURE))
        board = board_degc(await control.read(Register.BOARD_TEMPERATURE))
        places = (Register.TDC0_TEMPERATURE, Register.TDC1_TEMPERATURE)[: self._tdcs]
        tdcs = [board_degc(await control.read(place)) for place in places]
        now = time.monotonic()
        wrong = faults_of(status, tdcs=self._tdcs)
        quality, reason = (Quality.BAD, "; ".join(wrong)) if wrong else (Quality.GOOD, None)

        def reading(name: str, value: float, unit: str, node: str = "") -> Reading:
            return Reading(name, node or self.name, value, unit, True, Quality.GOOD, now)

        found = [
            Reading("clock_locked", self.name, float(not status & _LOCK_BITS), "1", True, quality, now, reason),
            Reading("status_faults", self.name, float(status & FAULTS), "1", True, quality, now, reason),
            reading("temperature_fpga", fpga, "degC"),
            reading("temperature_board", board, "degC"),
            *(reading("temperature_tdc", t, "degC", f"{self.name}:tdc{k}") for k, t in enumerate(tdcs)),
        ]
        service = None if self._stream is None else self._stream.service
        if service is not None and self._stream is not None and self._stream.service_s is not None:
            at = self._stream.service_s
            for name, value in (
                ("triggers", service.triggers),
                ("triggers_rejected", service.triggers_rejected),
                ("triggers_suppressed", service.triggers_suppressed),
            ):
                found.append(Reading(name, self.name, float(value), "1", True, Quality.GOOD, at))
        return found

    # -- the end ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop what runs, as far as the board can be reached, and let both connections go."""
        control, stream = self._control, self._stream
        if control is not None and control.is_open and self.state is DeviceState.RUNNING:
            with contextlib.suppress(DriverError):
                await control.command(Command.STOP)
        self._control = self._stream = None
        self.state, self.card = DeviceState.DISCONNECTED, None
        if stream is not None:
            stream.task.cancel()
            await asyncio.wait({stream.task})
            stream.writer.close()
            with contextlib.suppress(OSError):
                await stream.writer.wait_closed()
        if control is not None:
            await control.close()

    def _ready(self, to: str, *states: DeviceState) -> Control:
        if self._control is None or self.state not in states:
            do = (
                "connect" if self._control is None else "configure" if DeviceState.STAGED in states else "connect again"
            )
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do=f"{do} first")
        if not self._control.is_open:
            raise LinkLostError(f"cannot {to}: the connection is closed", device=self.name, do="connect again")
        return self._control

    def _data(self) -> _Stream:
        if self._stream is None:
            raise LinkLostError("not connected", device=self.name, do="connect first")
        return self._stream


_LOCK_BITS = StatusBit.CLOCK_UNLOCKED | StatusBit.TDC0_UNLOCKED
_DRAIN_S = 0.05
