"""The board as an instrument: see that it is the right one, set it up, take events, tell how it is.

It has no output that could be energised; what it can do wrong is to give times that are not true, so lock, temperature
and service events are watched, and readings say when they are not to be believed.

A supervisor calls `connect`, `stage` and `poll`, as of every instrument. Whoever wants the list of events itself uses
`configure`, `start` and `stop`, or listens to what a staged board takes anyway (`listen`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from petqc_drivers.caen_a5203 import picotdc
from petqc_drivers.caen_a5203.control import Control
from petqc_drivers.caen_a5203.intervals import RecentIntervals
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
from petqc_drivers.caen_a5203.settings import CaenA5203Settings
from petqc_drivers.caen_a5203.stream import DataStream, StreamAccount
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, Quality, Reading
from petqc_drivers.errors import (
    ConnectError,
    DeviceFaultError,
    DriverError,
    LinkLostError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)
from petqc_drivers.instrument import Identity, Instrument

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.caen_a5203.events import ListEvents

__all__ = ["CaenA5203", "CaenA5203Settings", "StreamAccount"]

_SOFTWARE_RUN = 0x01
_OLDEST_FIRMWARE = 1
_TDC_LOCK = StatusBit.TDC0_UNLOCKED | StatusBit.TDC1_UNLOCKED
_LOCK_BITS = StatusBit.CLOCK_UNLOCKED | _TDC_LOCK
_DRAIN_S = 0.05


class CaenA5203(Instrument):
    """One board. Not for several event loops.

    Attributes:
        settings: As given.
        card: Its identity card, once connected.
        firmware: Revision of the FPGA as (major, minor).
    """

    kind: ClassVar[str] = "caen-a5203"

    def __init__(self, settings: CaenA5203Settings) -> None:
        super().__init__(settings.name)
        self.settings = settings
        self.card: BoardCard | None = None
        self.firmware = (0, 0)
        self._revision = 0
        self._control: Control | None = None
        self._stream: DataStream | None = None
        self._turn = asyncio.Lock()
        self._counters: Counter[str] = Counter()
        self._intervals: RecentIntervals | None = None
        self._started_s = 0.0

    @property
    def account(self) -> StreamAccount:
        """What came on the data socket since the last start."""
        return StreamAccount() if self._stream is None else self._stream.account

    @property
    def is_open(self) -> bool:
        """See `Instrument.is_open`."""
        return self._control is not None and self.state is not DeviceState.FAULTED

    @property
    def link_counters(self) -> dict[str, int]:
        """What went over both connections and what went wrong there."""
        account, exchanges = self.account, 0 if self._control is None else self._control.exchanges
        return {
            **self._counters,
            "exchanges": self._counters["exchanges"] + exchanges,
            "bytes_skipped": account.bytes_skipped,
            "events_damaged": account.events_damaged,
            "windows_refused": account.refused,
        }

    @property
    def _tdcs(self) -> int:
        return 1 if self.card is None or self.card.channels <= picotdc.CHANNELS else 2

    # -- connecting -------------------------------------------------------------------------------------------------

    async def connect(self) -> Identity:
        """Reach the board on both sockets and see that it is the right one; what it does is left as it is.

        Raises:
            ConnectError: Nothing answers.
            WrongIdentityError: It is another board, or another kind of board.
        """
        await self.aclose()
        s = self.settings
        self.state = DeviceState.CONNECTING
        try:
            async with self._turn:
                self._control = await Control.open(s.name, s.host, s.control_port, s.reply_s)
                self._stream = await DataStream.open(s.name, s.host, s.data_port, s.reply_s)
                self.identity = await self._identify(self._control)
        except BaseException:
            await self._let_go()
            self.state = DeviceState.FAULTED
            raise
        self.state = DeviceState.IDENTIFIED
        return self.identity

    async def _identify(self, control: Control) -> Identity:
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
        self._revision = revision = await control.read(Register.FIRMWARE_REVISION)
        self.firmware = (revision >> 8 & 0xFF, revision & 0xFF)
        if self.firmware[0] < _OLDEST_FIRMWARE:
            raise WrongIdentityError(
                f"has firmware {self.firmware[0]}.{self.firmware[1]}, older than {_OLDEST_FIRMWARE}.0",
                device=s.name,
                do="update it with the maker's tool",
            )
        self.card, self.last_good_s = card, monotonic_s()
        return Identity(card.name, str(card.serial), f"{self.firmware[0]}.{self.firmware[1]}")

    # -- configuring ------------------------------------------------------------------------------------------------

    async def stage(self) -> None:
        """Set up and start, if inputs are configured, so that readings have the time intervals of the modules.

        Raises:
            DriverError: It does not lock, or did not take the settings.
        """
        if self.settings.inputs:
            await self.configure()
            await self.start()

    async def configure(self) -> None:
        """End what runs, reset the board and make it stream the leading edges of the inputs; all is read back.

        Raises:
            DeviceFaultError: Clock or TDC do not lock.
            VerifyError: A register does not hold what was written.
        """
        s = self.settings
        if not s.inputs:
            raise LocalProtocolError("no inputs are configured", device=s.name, do="name the channels that are wired")
        async with self._turn:
            control = await self._ready("configure", DeviceState.IDENTIFIED, DeviceState.STAGED, DeviceState.RUNNING)
            self.state = DeviceState.IDENTIFIED
            for command in (Command.STOP, Command.CLEAR, Command.RESET):
                await control.command(command)
            await self._write_settings(control)
            status = await control.read(Register.STATUS)
        wrong = faults_of(status, tdcs=self._tdcs)
        if wrong:
            raise DeviceFaultError(
                f"after configuring, {wrong[0]} (status {status:#x})",
                device=s.name,
                do="check the reference clock's cable and the board's cooling",
            )
        self.state = DeviceState.STAGED

    async def _write_settings(self, control: Control) -> None:
        s = self.settings
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

    async def start(self, *sinks: Callable[[ListEvents], None]) -> None:
        """Begin: time is reset, and every window with hits goes to the sinks, in the event loop.

        Raises:
            StateError: Not configured.
        """
        async with self._turn:
            control = await self._ready("start", DeviceState.STAGED)
            s, stream = self.settings, self._data()
            self._intervals = RecentIntervals(s.pairs, s.window_ps, s.intervals_s) if s.pairs else None
            stream.begin(*sinks, *([] if self._intervals is None else [self._intervals]))
            for command in (Command.CLEAR, Command.TIME_RESET, Command.START):
                await control.command(command)
            self._started_s = monotonic_s()
            self.state = DeviceState.RUNNING

    def listen(self, sink: Callable[[ListEvents], None]) -> Callable[[], None]:
        """Give another consumer the windows of a running board too; what is returned ends that."""
        stream = self._data()
        stream.sinks = (*stream.sinks, sink)

        def end() -> None:
            stream.sinks = tuple(one for one in stream.sinks if one is not sink)

        return end

    async def stop(self) -> None:
        """End; what is still on its way is taken for a moment. Does nothing where nothing runs."""
        async with self._turn:
            if self._control is None or not self._control.is_open:
                raise LinkLostError("cannot stop: not connected", device=self.name, do="connect again")
            await self._control.command(Command.STOP)
            if self.state is DeviceState.RUNNING:
                await asyncio.sleep(_DRAIN_S)
                self._data().sinks = ()
                self.state = DeviceState.STAGED

    def check_flow(self) -> None:
        """See that a running board still speaks.

        Raises:
            LinkLostError: The data socket was closed, or no service event has come for too long.
        """
        stream = self._data()
        reason = stream.lost
        if self.state is DeviceState.RUNNING and reason is None:
            since = monotonic_s() - (self._started_s if stream.service_s is None else stream.service_s)
            if since > self.settings.silence_s:
                reason = f"running, and no service event for {since:.1f} s"
        if reason is not None:
            raise LinkLostError(reason, device=self.name, do="check the board's power and network, then connect again")

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        """Lock, temperatures, and while running trigger counters and time intervals."""
        async with self._turn:
            try:
                self.check_flow()
                try:
                    found = await self._registers()
                except (ReplyTimeoutError, RemoteProtocolError, LinkLostError):
                    found = await self._registers()  # over a new control connection
            except DriverError:
                await self._let_go()
                self.state = DeviceState.FAULTED
                raise
        self.last_good_s = monotonic_s()
        return [*found, *self._of_service(), *self._of_intervals(found)]

    async def _registers(self) -> list[Reading]:
        control = await self._ready("read", DeviceState.IDENTIFIED, DeviceState.STAGED, DeviceState.RUNNING)
        status = await control.read(Register.STATUS)
        fpga = fpga_degc(await control.read(Register.FPGA_TEMPERATURE))
        board = board_degc(await control.read(Register.BOARD_TEMPERATURE))
        places = (Register.TDC0_TEMPERATURE, Register.TDC1_TEMPERATURE)[: self._tdcs]
        tdcs = [board_degc(await control.read(place)) for place in places]
        await control.check_step(Register.FIRMWARE_REVISION, self._revision)
        if self.state is DeviceState.IDENTIFIED:
            status &= ~_TDC_LOCK  # nobody has set the TDCs up yet
        wrong = faults_of(status, tdcs=self._tdcs)
        return [
            self._reading("clock_locked", float(not status & _LOCK_BITS), "1", wrong=wrong),
            self._reading("clock_external", float(self.settings.external_clock), "1"),
            self._reading("status_faults", float(status & FAULTS), "1", wrong=wrong),
            self._reading("temperature_fpga", fpga, "degC"),
            self._reading("temperature_board", board, "degC"),
            *(self._reading("temperature_tdc", t, "degC", node=f"{self.name}:tdc{k}") for k, t in enumerate(tdcs)),
        ]

    def _of_service(self) -> list[Reading]:
        """Counters, as old as the last service event."""
        stream = self._data()
        service, at_s = stream.service, stream.service_s
        if service is None or at_s is None:
            return []
        counters = {
            "triggers": service.triggers,
            "triggers_rejected": service.triggers_rejected,
            "triggers_suppressed": service.triggers_suppressed,
        }
        return [self._reading(name, float(value), "1", at_s=at_s) for name, value in counters.items()]

    def _of_intervals(self, registers: list[Reading]) -> list[Reading]:
        """What the modules' fast outputs differ by in time, t of the first minus t of the second.

        registers: what the board said of itself just now; with a fault its times are not to be believed.
        """
        if self._intervals is None or self.state is not DeviceState.RUNNING:
            return []
        wrong = [one.reason for one in registers if one.name == "status_faults" and one.reason is not None]
        found = []
        for interval in self._intervals.found():
            node = self.settings.node((interval.a, interval.b))
            nothing = None if interval.mean_ps is not None else f"no peak in {interval.n} pairs"
            for name, value in (
                ("time_interval", interval.mean_ps),
                ("time_interval_uncertainty", interval.error_ps),
                ("time_interval_sigma", interval.sigma_ps),
            ):
                found.append(self._reading(name, value, "ps", node=node, wrong=wrong, absent=nothing))
            found.append(self._reading("time_interval_pairs", float(interval.n), "1", node=node, wrong=wrong))
        return found

    def _reading(
        self,
        name: str,
        value: float | None,
        unit: str,
        *,
        node: str = "",
        wrong: list[str] | tuple[str, ...] = (),
        absent: str | None = None,
        at_s: float | None = None,
    ) -> Reading:
        quality = Quality.ABSENT if absent else Quality.BAD if wrong else Quality.GOOD
        reason = absent or "; ".join(wrong) or None
        at_s = monotonic_s() if at_s is None else at_s
        return Reading(name, node or self.name, value, unit, value is not None, quality, at_s, reason)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Let both connections go; a board that runs goes on. Safe at any time and more than once."""
        await self._let_go()
        self.state = DeviceState.DISCONNECTED

    async def close(self) -> None:
        """Stop what runs, as far as the board can be reached, and let both connections go."""
        if self.state is DeviceState.RUNNING:
            with contextlib.suppress(DriverError):
                await self.stop()
        await self.aclose()

    async def _let_go(self) -> None:
        control, stream, self._control, self._stream = self._control, self._stream, None, None
        self.card = self._intervals = None
        if control is not None:
            self._counters["exchanges"] += control.exchanges
            await control.close()
        if stream is not None:
            await stream.close()

    async def _ready(self, to: str, *states: DeviceState) -> Control:
        """The control connection; a new one, with the same board at its end, after one that fell out of step.

        Raises:
            StateError: Not in one of these states.
            DriverError: The board cannot be reached any more, or is another one.
        """
        if self._control is None or self.state not in states:
            do = (
                "connect" if self._control is None else "configure" if DeviceState.STAGED in states else "connect again"
            )
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do=f"{do} first")
        if not self._control.is_open:
            s = self.settings
            try:
                control = await Control.open(s.name, s.host, s.control_port, s.reply_s)
            except ConnectError as error:
                raise LinkLostError(f"cannot {to}: {error.what}", device=self.name, do=error.do) from error
            before, self._control = self._control, control
            self._counters["exchanges"] += before.exchanges
            self._counters["resynchronised"] += 1
            await self._identify(self._control)
        return self._control

    def _data(self) -> DataStream:
        if self._stream is None:
            raise LinkLostError("not connected", device=self.name, do="connect first")
        return self._stream
