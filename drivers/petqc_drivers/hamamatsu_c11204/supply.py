"""The C11204: one channel of SiPM bias, measured, with temperature compensation of its own.

Source: the same as of `wire`. The supply keeps its reference voltage in RAM and wakes up with the one
of its stored set, and it knows no voltage limit but its own 90 V: so the stored set is read back before the output is
switched on, and the output is switched on at its lowest only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import (
    DriverError,
    LimitError,
    LocalProtocolError,
    OffUnconfirmedError,
    RemoteProtocolError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.hamamatsu_c11204 import guard, wire
from petqc_drivers.hamamatsu_c11204.monitor import Monitor
from petqc_drivers.hamamatsu_c11204.settings import (
    HamamatsuC11204Settings,  # noqa: TC001 - the registry takes it from here
)
from petqc_drivers.instrument import BiasSource, Identity
from petqc_drivers.limits import Volts
from petqc_drivers.transport.serial import SerialLine, serial_link
from petqc_drivers.trip import Trip
from petqc_drivers.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqc_drivers.hamamatsu_c11204.wire import Compensation, Poll
    from petqc_drivers.limits import SetOutput
    from petqc_drivers.transport.threaded import ThreadedLink

_LOG = logging.getLogger(__name__)

LINE: Final = SerialLine(baud=38400, parity="even")
_OFF_TRIES: Final = 3
_OFF_TURN_S: Final = 0.5
_OFF_OPEN_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.05


class HamamatsuC11204(BiasSource):
    """One supply on its serial line.

    Attributes:
        commanded: Reference voltage of the last confirmed step; None if it is not known.
        status: The last status word.
        compensation: The stored set, as read back at the last connect or write.
    """

    kind: ClassVar[str] = "hamamatsu-c11204"

    def __init__(self, settings: HamamatsuC11204Settings, link: ThreadedLink | None = None) -> None:
        super().__init__(
            settings.name,
            link or serial_link(settings.name, settings.address, LINE),
            reply_timeout_s=settings.reply_timeout_s,
        )
        self.settings = settings
        self.model = wire.MODELS[settings.model]
        self.trip = Trip(settings.name)
        self.commanded: Volts | None = None
        self.status = wire.Status(0)
        self.compensation: Compensation | None = None
        self._monitor = Monitor(settings)

    # -- life cycle -------------------------------------------------------------------------------------------------

    async def connect(self) -> Identity:
        """As for every instrument; an output that is found above its limit trips."""
        self.output, self.commanded = OutputState.UNKNOWN, None
        identity = await super().connect()
        await self.poll()
        return identity

    async def _identify(self) -> Identity:
        """A -02 says who it is; a -01 does not even know the question, which tells the two apart."""
        try:
            text = await self._look("HFI")
        except wire.RefusedByDeviceError as error:
            if self.model.tells_identity:
                raise WrongIdentityError(
                    f"it does not tell its name ({error.what}): no {self.model.name}", device=self.name
                ) from error
            return Identity(self.model.name)
        name, version = text[: wire.TEXT_NAME].strip(), text[wire.TEXT_NAME :][: wire.TEXT_VERSION].strip()
        serial = (await self._look("HGN")).strip()
        wanted = self.settings
        for what, found, right in (
            ("model", name, self.model.name in name),
            ("serial number", serial, serial == wanted.serial),
            ("firmware", version, version.startswith(wanted.firmware or "")),
        ):
            if not right:
                raise WrongIdentityError(
                    f"{what} {found!r} is not that of the configured {wanted.model} {wanted.serial or ''}".rstrip(),
                    device=self.name,
                    do="check which cable is in which port",
                )
        return Identity(name, serial, version)

    async def _observe(self) -> None:
        self.compensation = wire.Compensation.from_data(await self._look("HRT"))
        poll = wire.Poll.from_data(await self._look("HPO"))
        self.status = poll.status
        self.output = OutputState.ADOPTED if wire.Status.HV_ON in poll.status else OutputState.OFF

    async def _look(self, mnemonic: str) -> str:
        """An exchange whatever the step."""
        request = wire.request(mnemonic)
        return wire.parse_reply(mnemonic, await self._exchange(request, wire.end_of_frame))

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        poll = await self._poll()
        readings = self._monitor.readings(poll, self.output, self.commanded)
        cause = self._monitor.over_limit(poll)
        if cause is not None:
            self.trip.latch(cause, readings)
            await self.off()
        return readings

    async def _poll(self) -> Poll:
        """Status and monitors, and what they say of the output."""
        poll = wire.Poll.from_data(await self._query("HPO"))
        self.status = poll.status
        is_on = wire.Status.HV_ON in poll.status
        if not is_on and self.output in {OutputState.ON, OutputState.RAMPING, OutputState.ADOPTED}:
            self.trip.latch("the output went off by itself", self._monitor.readings(poll, self.output, self.commanded))
            self.output, self.commanded = OutputState.OFF, None
        elif is_on and self.output is OutputState.OFF:
            self.output, self.commanded = OutputState.ADOPTED, None
        elif not is_on and self.output is OutputState.UNKNOWN:
            self.output = OutputState.OFF
        return poll

    # -- asking and telling -----------------------------------------------------------------------------------------

    async def _query(self, mnemonic: str) -> str:
        if mnemonic in wire.SETS_OUTPUT or wire.REQUEST_DIGITS[mnemonic]:
            raise LocalProtocolError(f"{mnemonic} is no question", device=self.name)

        def whole(came: bytes) -> int | None:
            end = wire.end_of_frame(came)
            if end is not None and not _is_error(came[:end]):
                wire.parse_reply(mnemonic, came[:end])
            return end

        return wire.parse_reply(mnemonic, await self._ask(wire.request(mnemonic), whole))

    async def _set(self, sealed: SetOutput, since: int) -> None:
        """Send what the guard sealed, unless somebody switched off meanwhile."""
        self._not_overtaken(since)
        (payload,) = sealed.payloads
        mnemonic, _ = wire.parse_frame(payload)
        wire.parse_reply(mnemonic, await self._tell(payload, wire.end_of_frame))
        self._not_overtaken(since)

    # -- off --------------------------------------------------------------------------------------------------------

    async def off(self) -> OutputState:
        """Output off at once, without a ramp; then the reference voltage to its lowest."""
        self._off_count += 1
        return await uninterrupted(self._off(), name=f"off {self.name}")

    async def _off(self) -> OutputState:
        self._is_switching_off = True
        self.commanded = None
        try:
            self._link.interrupt()
            try:
                async with asyncio.timeout(_OFF_TURN_S):
                    await self._turn.acquire()
            except TimeoutError:
                await self._link.aclose()  # whoever has the turn is in the middle of opening it
                await self._turn.acquire()
            try:
                return await self._off_in_turn()
            finally:
                self._turn.release()
        finally:
            self._is_switching_off = False

    async def _off_in_turn(self) -> OutputState:
        failures: list[str] = []
        for attempt in range(_OFF_TRIES):
            try:
                if attempt or not self._link.is_open:
                    await self._link.open(_OFF_OPEN_S)
                if not await self._off_once(failures):
                    failures.append("it says that its output is on")
                    continue
            except DriverError as error:
                failures.append(error.what)
                continue
            with contextlib.suppress(DriverError):  # off is off; the set-point is only the second thing
                (payload,) = guard.set_lowest(self.model, channel=self.name).payloads
                await self._off_exchange("HBV", payload)
            self.output = OutputState.OFF
            return self.output
        self.output = OutputState.UNKNOWN
        raise OffUnconfirmedError(
            f"off was tried {_OFF_TRIES} times: " + "; ".join(dict.fromkeys(failures)),
            device=self.name,
            last_good=self._last_good(),
            do="treat the output as live: use the switch of the supply or pull its plug",
        )

    async def _off_once(self, failures: list[str]) -> bool:
        """Off, and whether it says so when asked afterwards."""
        try:
            await self._off_exchange("HOF", wire.request("HOF"))
        except DriverError as error:
            failures.append(error.what)
        status = wire.Status(int(await self._off_exchange("HGS", wire.request("HGS")), 16))
        self.status = status
        return wire.Status.HV_ON not in status

    async def _off_exchange(self, mnemonic: str, request: bytes) -> str:
        """An exchange on a link in whatever step: replies to other questions are passed over."""
        begins = 0

        def whole(came: bytes) -> int | None:
            nonlocal begins
            begins = 0
            while (end := came.find(wire.CR, begins)) >= 0:
                with contextlib.suppress(RemoteProtocolError):
                    start = came.rfind(bytes((wire.STX,)), begins, end)
                    found, _ = wire.parse_frame(came[start : end + 1]) if start >= 0 else ("", "")
                    if found == mnemonic.lower():
                        begins = start
                        return end + 1
                begins = end + 1
            return None

        reply = await self._link.exchange(request, whole, self._reply_timeout_s)
        self.last_good_s = time.monotonic()
        return wire.parse_reply(mnemonic, reply[begins:])

    # -- on ---------------------------------------------------------------------------------------------------------

    async def on(self, target: Volts) -> None:
        """Switch on at the lowest output and ramp; any failure, and a cancellation, switches off."""
        since = self._off_count
        self.trip.check_armed()
        if self.state is not DeviceState.IDENTIFIED:
            raise StateError(f"switching on while {self.state.value}", device=self.name, do="connect first")
        self._guarded(target)
        if self.output is not OutputState.OFF:
            raise StateError(f"switching on while the output is {self.output.value}", device=self.name)
        await self._check_stored()
        self._not_overtaken(since)
        try:
            await self._enable(since)
            await self._ramp_to(target, since)
        except BaseException:
            if self._off_count == since:
                with contextlib.suppress(OffUnconfirmedError):
                    await self.off()
            raise
        self.output = OutputState.ON

    async def _check_stored(self) -> None:
        """The stored set, its voltage above all, is inside the limit: the supply wakes up with it."""
        self.compensation = wire.Compensation.from_data(await self._query("HRT"))
        limit = self.settings.limit
        stored = Volts(wire.volts(self.compensation.voltage))
        if limit is not None and stored > limit.v_max:
            raise LimitError(
                f"switching on refused: it wakes up with {stored}, the hard limit ends at {limit.v_max}",
                device=self.name,
                do="write a compensation set inside the limit",
            )
        functions = wire.Function(int(await self._query("HRC"), 16))
        if wire.Function.AUTO_RESTORE in functions:
            raise LimitError(
                "switching on refused: after over-current it would restore its output by itself",
                device=self.name,
                do="shut_down_on_over_current() first",
            )

    async def _enable(self, since: int) -> None:
        poll = await self._poll()
        if wire.Status.HV_ON in poll.status:
            raise StateError("it is on already", device=self.name)
        await self._set(guard.set_mode(is_compensating=self.settings.compensates, channel=self.name), since)
        lowest = guard.set_lowest(self.model, channel=self.name)
        await self._set(lowest, since)
        await self._set(guard.switch_on(lowest, channel=self.name), since)
        self.output = OutputState.RAMPING
        lowest_v = wire.volts(self.model.lowest_code)
        await self._arrived(lowest_v, since)
        self.commanded = Volts(lowest_v)

    def _guarded(self, request: Volts) -> SetOutput:
        added = self.compensation if self.settings.compensates else None
        return guard.set_voltage(request, self.settings.limit, channel=self.name, added=added)

    async def ramp(self, target: Volts) -> None:
        """Ramp from the measured voltage; stops at the last confirmed step if anything is not as it should be."""
        since = self._off_count
        self.trip.check_armed()
        if self.output is not OutputState.ON:
            raise StateError(f"a ramp while the output is {self.output.value}", device=self.name)
        self._guarded(target)
        self.output = OutputState.RAMPING
        try:
            await self._ramp_to(target, since)
        finally:
            if self._off_count == since and self.output is OutputState.RAMPING:
                self.output = OutputState.ON

    async def confirm_adopted(self) -> None:
        """Take over an output that was found on; nothing is sent.

        Raises:
            StateError: There is none, or it is not inside the hard limit.
        """
        limit = self.settings.limit
        if self.output is not OutputState.ADOPTED or limit is None:
            raise StateError(f"nothing to adopt: the output is {self.output.value}", device=self.name)
        self.trip.check_armed()
        poll = await self._poll()
        if wire.Status.HV_ON not in poll.status or not wire.volts(poll.voltage) <= limit.v_max.value:
            raise StateError(f"{wire.volts(poll.voltage):.3f} V are not to be adopted", device=self.name)
        self.output = OutputState.ON

    async def _ramp_to(self, target: Volts, since: int) -> None:
        limit = self.settings.limit
        if limit is None:
            raise LimitError(f"{target} refused: no hard limit is configured", device=self.name)
        poll = await self._poll()
        at_v = wire.volts(poll.voltage) - self._added_v(poll)
        if self.commanded is not None:
            if abs(at_v - self.commanded.value) > self.settings.tolerance_v:
                raise VerifyError(f"commanded {self.commanded}, measured {at_v:.3f} V", device=self.name)
            at_v = self.commanded.value
        is_last = False
        while not is_last:
            distance_v = target.value - at_v
            is_last = abs(distance_v) <= limit.max_step_v
            step_v = distance_v if is_last else limit.max_step_v * (1 if distance_v > 0 else -1)
            # A step on the way may begin below the hard limit's lowest; the lowest is then passed at once.
            sealed = self._guarded(target if is_last else Volts(max(at_v + step_v, limit.v_min.value)))
            started = time.monotonic()
            self.commanded = None
            await self._set(sealed, since)
            if sealed.commanded is None:
                raise LocalProtocolError("a step without a voltage", device=self.name)
            await self._arrived(sealed.commanded.value, since)
            self.commanded = sealed.commanded
            moved_v = abs(sealed.commanded.value - at_v)
            at_v = sealed.commanded.value
            await asyncio.sleep(max(started + moved_v / limit.slew_v_per_s - time.monotonic(), 0.0))

    def _added_v(self, poll: Poll) -> float:
        if not self.settings.compensates or self.compensation is None:
            return 0.0
        return self.compensation.added_v(wire.degc(poll.temperature))

    async def _arrived(self, reference_v: float, since: int) -> None:
        """Wait until the measured voltage is what was commanded.

        Raises:
            VerifyError: It does not become so.
        """
        until = time.monotonic() + self.settings.settle_timeout_s
        while True:
            self._not_overtaken(since)
            poll = await self._poll()
            cause = self._monitor.over_limit(poll)
            if cause is not None:
                self.trip.latch(cause, self._monitor.readings(poll, self.output, self.commanded))
                await self.off()
            self.trip.check_armed()
            measured_v = wire.volts(poll.voltage)
            wanted_v = reference_v + self._added_v(poll)
            is_there = wire.Status.HV_ON in poll.status and abs(measured_v - wanted_v) <= self.settings.tolerance_v
            if is_there and self._monitor.is_compensating(poll.status) == self.settings.compensates:
                return
            if time.monotonic() >= until:
                raise VerifyError(
                    f"commanded {wanted_v:.3f} V, measured {measured_v:.3f} V after "
                    f"{self.settings.settle_timeout_s:g} s, status {int(poll.status):#06x}",
                    device=self.name,
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    # -- what is changed with the output off only -------------------------------------------------------------------

    async def store_compensation(self, wanted: Compensation) -> None:
        """Write the set into the memory of the supply and read it back.

        Raises:
            LimitError: It could give more than the hard limit.
            StateError: The output is not off.
            VerifyError: Another set came back.
        """
        since = await self._off_confirmed()
        await self._set(guard.store_compensation(wanted, self.settings.limit, channel=self.name), since)
        self.compensation = wire.Compensation.from_data(await self._query("HRT"))
        if self.compensation != wanted:
            raise VerifyError(f"wrote {wanted}, read back {self.compensation}", device=self.name)

    async def shut_down_on_over_current(self) -> None:
        """Make the supply stay off after over-current, and read that back.

        Raises:
            StateError: The output is not off.
            VerifyError: Other functions came back.
        """
        since = await self._off_confirmed()
        wanted = wire.Function(int(await self._query("HRC"), 16)) & ~wire.Function.AUTO_RESTORE
        await self._set(guard.set_functions(wanted, channel=self.name), since)
        found = wire.Function(int(await self._query("HRC"), 16))
        if found != wanted:
            raise VerifyError(f"wrote functions {int(wanted):#06x}, read back {int(found):#06x}", device=self.name)

    async def reset_trip(self) -> None:
        """Clear what was acknowledged, in the supply as well (HRE); the output is and stays off.

        Raises:
            StateError: Nobody acknowledged it, or the cause is still there.
        """
        self.trip.check_resettable()
        await self._off_confirmed()
        wire.parse_reply("HRE", await self._tell(wire.request("HRE"), wire.end_of_frame))
        poll = await self._poll()
        if wire.Status.HV_ON in poll.status or self._monitor.over_limit(poll) is not None:
            await self.off()
            raise StateError(f"the cause is still there: status {int(poll.status):#06x}", device=self.name)
        self.trip.rearm()

    async def _off_confirmed(self) -> int:
        since = self._off_count
        if wire.Status.HV_ON in (await self._poll()).status or self.output is not OutputState.OFF:
            raise StateError(f"only with the output off; it is {self.output.value}", device=self.name, do="off first")
        return since


def _is_error(raw: bytes) -> bool:
    try:
        return wire.parse_frame(raw)[0] == wire.ERROR_MNEMONIC
    except RemoteProtocolError:
        return False
