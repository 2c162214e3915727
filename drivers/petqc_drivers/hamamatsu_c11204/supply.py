"""The C11204: one channel of SiPM bias, measured, with temperature compensation of its own.

Source: the same as of `wire`. The supply keeps its reference voltage in RAM and wakes up with the one
of its stored set, and it knows no voltage limit but its own 90 V: so the stored set is read back before the output is
switched on, and the output is switched on at its lowest only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import OutputState
from petqc_drivers.errors import (
    LimitError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.hamamatsu_c11204 import guard, wire
from petqc_drivers.hamamatsu_c11204.monitor import Monitor
from petqc_drivers.hamamatsu_c11204.settings import (
    HamamatsuC11204Settings,  # noqa: TC001 - the registry takes it from here
)
from petqc_drivers.instrument import Identity
from petqc_drivers.limits import Volts
from petqc_drivers.transport.serial import SerialLine, serial_link

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqc_drivers.hamamatsu_c11204.wire import Compensation, Poll
    from petqc_drivers.limits import SetOutput
    from petqc_drivers.transport.threaded import ThreadedLink

LINE: Final = SerialLine(baud=38400, parity="even")


class HamamatsuC11204(BiasSource):
    """One supply on its serial line.

    Attributes:
        status: The last status word.
        compensation: The stored set, as read back at the last connect or write.
    """

    kind: ClassVar[str] = "hamamatsu-c11204"

    def __init__(self, settings: HamamatsuC11204Settings, link: ThreadedLink | None = None) -> None:
        super().__init__(
            settings.name,
            link or serial_link(settings.name, settings.address, LINE),
            reply_timeout_s=settings.reply_timeout_s,
            limit=settings.limit,
            tolerance_v=settings.tolerance_v,
            settle_timeout_s=settings.settle_timeout_s,
            lowest_v=wire.volts(wire.MODELS[settings.model].lowest_code),
        )
        self.settings = settings
        self.model = wire.MODELS[settings.model]
        self.status = wire.Status(0)
        self.compensation: Compensation | None = None
        self._monitor = Monitor(settings)

    # -- life cycle -------------------------------------------------------------------------------------------------

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
        poll, cause = await self._poll()
        readings = self._monitor.readings(poll, self.output, self.commanded)
        if cause is not None:
            self.trip.latch(cause, readings)
            await self.off()
        return readings

    async def _poll(self) -> tuple[Poll, str | None]:
        """Status and monitors, what they say of the output, and a reason to trip.

        A reply that comes again is of before; so where something follows, it is made sure that this one is not.
        """
        poll, cause = await self._sure(
            self._asked, lambda asked: asked[1] is not None or self._is_news(is_on=wire.Status.HV_ON in asked[0].status)
        )
        self.status = poll.status
        self._took_note(is_on=wire.Status.HV_ON in poll.status)
        return poll, cause

    async def _asked(self) -> tuple[Poll, str | None]:
        poll = wire.Poll.from_data(await self._query("HPO"))
        return poll, self._monitor.over_limit(poll)

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

    # -- off -----------------------------------------------------------------------------------------------------------

    async def _off_once(self) -> bool:
        with contextlib.suppress(wire.RefusedByDeviceError, RemoteProtocolError, ReplyTimeoutError):
            await self._off_exchange("HOF", wire.request("HOF"))
        self.status = wire.Status(int(await self._off_exchange("HGS", wire.request("HGS")), 16))
        return wire.Status.HV_ON not in self.status

    async def _lowest_after_off(self) -> None:
        (payload,) = guard.set_lowest(self.model, channel=self.name).payloads
        await self._off_exchange("HBV", payload)

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
        self.last_good_s = monotonic_s()
        return wire.parse_reply(mnemonic, reply[begins:])

    # -- on ------------------------------------------------------------------------------------------------------------

    async def _check_before_on(self) -> None:
        """The stored set, its voltage above all, is inside the limit: the supply wakes up with it."""
        wrong = await self._limits_wrong()
        if wrong is not None:
            raise LimitError(
                f"switching on refused: {wrong}",
                device=self.name,
                do="petqc bias stored says what it keeps, and stores what is inside the limit and stays off",
            )
        poll, _ = await self._poll()
        if wire.Status.HV_ON in poll.status:
            raise StateError("it is on already", device=self.name)

    async def _limits_wrong(self) -> str | None:
        """It knows no limit but its own 90 V: what it wakes up with counts, and that over-current keeps it off."""
        self.compensation = wire.Compensation.from_data(await self._query("HRT"))
        limit = self.settings.limit
        stored = Volts(wire.volts(self.compensation.voltage))
        if limit is None or stored > limit.v_max:
            return f"it wakes up with {stored}, the hard limit ends at {None if limit is None else limit.v_max}"
        if wire.Function.AUTO_RESTORE in wire.Function(int(await self._query("HRC"), 16)):
            return "after over-current it would restore its output by itself"
        return None

    async def _enable(self, since: int) -> None:
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

    async def _at(self) -> tuple[float, bool]:
        poll, cause = await self._poll()
        readings = self._monitor.readings(poll, self.output, self.commanded)
        self._keep(readings)
        if cause is not None:
            self.trip.latch(cause, readings)
        added_v = 0.0
        if self.settings.compensates and self.compensation is not None:
            added_v = self.compensation.added_v(wire.degc(poll.temperature))
        is_on = wire.Status.HV_ON in poll.status
        is_as_it_should = not is_on or self._monitor.is_compensating(poll.status) == self.settings.compensates
        return wire.volts(poll.voltage) - added_v, is_on and is_as_it_should

    # -- what it keeps by itself, changed with the output off only -----------------------------------------------------

    async def stored(self) -> dict[str, float | bool]:
        """What it keeps by itself, asked now: its compensation set, and whether over-current leaves it off."""
        self.compensation = wire.Compensation.from_data(await self._query("HRT"))
        functions = wire.Function(int(await self._query("HRC"), 16))
        return {**self.compensation.document(), "stays_off": wire.Function.AUTO_RESTORE not in functions}

    async def store(self, voltage: Volts, *, at_degc: float, mv_per_k: float, mv_per_k2: float = 0.0) -> None:
        """The same curve above and below a temperature, see `store_compensation`."""
        await self.store_compensation(
            wire.Compensation.of(voltage=voltage, at_degc=at_degc, mv_per_k=mv_per_k, mv_per_k2=mv_per_k2)
        )

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

    async def _clear_trip(self) -> str | None:
        """HRE: what latched in the supply is cleared, and its output stays off."""
        wire.parse_reply("HRE", await self._tell(wire.request("HRE"), wire.end_of_frame))
        poll, cause = await self._poll()
        return f"status {int(poll.status):#06x}" if wire.Status.HV_ON in poll.status else cause


def _is_error(raw: bytes) -> bool:
    try:
        return wire.parse_frame(raw)[0] == wire.ERROR_MNEMONIC
    except RemoteProtocolError:
        return False
