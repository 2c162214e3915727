"""A Keithley 2450 or 2400: voltage behind the guard, current limit read back before it is switched on, IV curves.

Source: the same as of `wire`. Replies do not repeat the question, so a link that fell out of step is in step again only
after the instrument told who it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers import ascii_line
from petqc_drivers.bias_source import BiasSource
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import OutputState, Quality, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    LimitError,
    LocalProtocolError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.instrument import Identity
from petqc_drivers.keithley_smu import guard, wire
from petqc_drivers.limits import HardLimit, SetOutput, Volts
from petqc_drivers.transport.visa import check_resource, visa_link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc_drivers.transport.threaded import ThreadedLink

_NA: Final = 1e9
_OVER_LIMIT: Final = 1.1
"""So many times its current limit an instrument cannot give; it trips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeithleySmuSettings:
    """One source meter.

    Attributes:
        name: Of the device; the hard limit names it as its channel.
        address: TCPIP::HOST::5025::SOCKET, GPIB0::24::INSTR or another VISA resource.
        model: 2450 or 2400.
        serial: What *IDN? must say.
        limit: Hard limit; without one the output is never switched on.
        most_current_a: Current limit that the instrument itself is given before it is switched on.
        power_line_cycles: Length of one reading, 0.01 to 10.
        reads_interlock: Whether its interlock line is read; None: that of a 2450, and not that of a 2400, where it
            counts only if somebody switched it on, and which does not know the question in every firmware.
        tolerance_v: How far the measured voltage may be from the commanded one.
        settle_timeout_s: In which a step must have arrived.
        reply_timeout_s: For one exchange.
    """

    name: str
    address: str
    model: str
    serial: str
    limit: HardLimit | None = None
    most_current_a: float = 1e-5
    power_line_cycles: float = 1.0
    reads_interlock: bool | None = None
    tolerance_v: float = 0.05
    settle_timeout_s: float = 5.0
    reply_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        check_resource(self.address)
        if self.model not in wire.MODELS:
            raise LocalProtocolError(f"model {self.model!r} is none of {', '.join(wire.MODELS)}", device=self.name)
        if not 1e-9 <= self.most_current_a <= 1.0 or not 0.01 <= self.power_line_cycles <= 10.0:
            raise LocalProtocolError("most_current_a is 1 nA to 1 A, power_line_cycles 0.01 to 10", device=self.name)
        if self.limit is not None and (
            self.limit.channel != self.name or max(abs(self.limit.v_min.value), abs(self.limit.v_max.value)) > 210.0
        ):
            raise LimitError(f"hard limit of {self.limit.channel}: -210 to 210 V of {self.name}", device=self.name)


@dataclass(frozen=True, slots=True)
class IvPoint:
    """One point of a curve, both measured. is_limiting: the current limit holds the voltage back."""

    volts: float
    amps: float
    is_limiting: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """What it said of itself; nothing is measured while it is off."""

    volts: float | None
    amps: float | None
    is_on: bool
    is_limiting: bool
    interlock: Reading | None


class KeithleySmu(BiasSource):
    """One source meter.

    Attributes:
        is_limiting: Whether the current limit held the output back when it was last looked at.
    """

    kind: ClassVar[str] = "keithley-smu"

    def __init__(self, settings: KeithleySmuSettings, link: ThreadedLink | None = None) -> None:
        super().__init__(
            settings.name,
            link or visa_link(settings.name, settings.address),
            reply_timeout_s=settings.reply_timeout_s,
            limit=settings.limit,
            tolerance_v=settings.tolerance_v,
            settle_timeout_s=settings.settle_timeout_s,
            lowest_v=0.0,
        )
        self.settings = settings
        self.model = wire.MODELS[settings.model]
        self.is_limiting = False
        asked = settings.reads_interlock
        self._reads_interlock = not self.model.interlock_can_be_unused if asked is None else asked
        self._interlock: Reading | None = None

    # -- life cycle -------------------------------------------------------------------------------------------------

    async def _identify(self) -> Identity:
        raw = await self._exchange(wire.line(wire.IDENTITY), wire.end_of_identity)
        model, serial, firmware = wire.identity(self._last_line(raw))
        if (model, serial) != (self.settings.model, self.settings.serial):
            raise WrongIdentityError(
                f"it is a {model} with serial number {serial}, configured is a {self.settings.model} with "
                f"{self.settings.serial}",
                device=self.name,
                do="check address and cable",
            )
        return Identity(model, serial, firmware)

    async def _observe(self) -> None:
        if self.model.language is not None:
            language = wire.text(await self._exchange(wire.line(self.model.language), wire.end_of_line))
            if language != "SCPI":
                raise DeviceFaultError(
                    f"its command set is {language}", device=self.name, do="set it to SCPI at its panel and restart it"
                )
        (is_on,) = wire.numbers(await self._exchange(wire.line(wire.OUTPUT), wire.end_of_line))
        self.output = OutputState.ADOPTED if is_on else OutputState.OFF

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        asked = await self._look()
        readings = self._told(asked)
        if self._judge(asked, readings):
            await self.off()
        return readings

    def _told(self, asked: _Asked) -> list[Reading]:
        amps, is_on = asked.amps, asked.is_on
        reason = None if is_on else "output off"
        quality = Quality.GOOD if is_on else Quality.ABSENT
        commanded = None if self.commanded is None else self.commanded.value
        return [
            self._reading("bias_voltage", asked.volts, "V", quality, reason),
            self._reading("bias_current", None if amps is None else 1e3 * amps, "mA", quality, reason),
            self._reading(
                "bias_commanded",
                commanded,
                "V",
                Quality.ABSENT if commanded is None else Quality.GOOD,
                f"output {self.output.value}" if commanded is None else None,
                measured=False,
            ),
            self._reading("bias_on", float(is_on), "", Quality.GOOD, None),
            self._reading("bias_limiting", float(self.is_limiting), "", Quality.GOOD, None),
            *([] if self._interlock is None else [self._interlock]),
        ]

    def _reading(
        self, name: str, value: float | None, unit: str, quality: Quality, reason: str | None, *, measured: bool = True
    ) -> Reading:
        is_there = quality is not Quality.ABSENT
        return Reading(name, self.name, value, unit, measured and is_there, quality, monotonic_s(), reason)

    async def _look(self) -> _Asked:
        """Ask, and note what it says of its output; replies may be another question's."""
        asked = await self._sure(
            self._asked, lambda asked: self._cause(asked) is not None or self._is_news(is_on=asked.is_on)
        )
        self._interlock, self.is_limiting = asked.interlock, asked.is_limiting
        self._took_note(is_on=asked.is_on)
        return asked

    async def _asked(self) -> _Asked:
        interlock = await self._asked_interlock()
        (is_on,) = await self._numbers(wire.OUTPUT)
        if not is_on:
            return _Asked(None, None, False, False, interlock)
        volts, amps = await self._numbers(self.model.read, 2)
        (is_limiting,) = await self._numbers(self.model.tripped)
        return _Asked(volts, amps, True, bool(is_limiting), interlock)

    async def _asked_interlock(self) -> Reading | None:
        """Whether its interlock line is closed; one that it does not use says nothing."""
        if not self._reads_interlock:
            return None
        is_used: float | None = 1.0
        if self.model.interlock_can_be_unused:
            (is_used,) = await self._numbers(wire.INTERLOCK_USED)
        (is_closed,) = await self._numbers(wire.INTERLOCK)
        quality = Quality.GOOD if is_used else Quality.ABSENT
        reason = None if is_closed else "its interlock is open"
        if not is_used:
            is_closed, reason = None, "its interlock is switched off at the instrument (:OUTP:INT:STAT)"
        return self._reading("interlock_closed", is_closed, "", quality, reason)

    def _cause(self, asked: _Asked) -> str | None:
        """A reason to trip, if there is one."""
        volts, amps, limit = asked.volts, asked.amps, self.settings.limit
        if volts is not None and limit is not None and limit.beyond_v(volts) > self.settings.tolerance_v:
            return f"measured {volts:.3f} V, the hard limit is {limit.v_min} to {limit.v_max}"
        if amps is not None and abs(amps) > _OVER_LIMIT * self.settings.most_current_a:
            return f"measured {amps:.3e} A, allowed are {self.settings.most_current_a:.3e} A"
        return None

    def _judge(self, asked: _Asked, readings: Sequence[Reading]) -> bool:
        """Latch a trip if there is a reason."""
        cause = self._cause(asked)
        if cause is not None:
            self.trip.latch(cause, readings)
        return cause is not None

    # -- asking and telling -----------------------------------------------------------------------------------------

    async def _numbers(self, question: str, n: int = 1) -> tuple[float | None, ...]:
        return wire.numbers(await self._ask(wire.line(question), _whole(n)), n)

    async def _set(self, sealed: SetOutput, since: int) -> None:
        self._not_overtaken(since)
        (payload,) = sealed.payloads
        (came_back,) = wire.numbers(await self._tell(payload, _whole(1)))
        wanted = {
            "voltage": lambda: wire.V_STEP * wire.parse_level(payload),
            "lowest": lambda: 0.0,
            "enable": lambda: 1.0,
            "trim": lambda: wire.parse_current_limit(payload) / _NA,
        }[sealed.role]()
        if came_back is None or abs(came_back - wanted) > 1e-5 * abs(wanted) + 1e-12:
            raise VerifyError(f"{payload.decode().strip()}: {came_back} came back", device=self.name)
        self._not_overtaken(since)

    # -- off --------------------------------------------------------------------------------------------------------

    async def _off_once(self) -> bool:
        reply = await self._link.exchange(wire.line(wire.OFF), _end_of_off, self._reply_timeout_s)
        self.last_good_s = monotonic_s()
        return wire.text(reply).partition(";")[0].strip() == "0"

    async def _lowest_after_off(self) -> None:
        (payload,) = guard.set_zero(channel=self.name).payloads
        await self._link.exchange(payload, wire.end_of_line, self._reply_timeout_s)

    # -- on ---------------------------------------------------------------------------------------------------------

    async def _check_before_on(self) -> None:
        """Everything but the level, each read back: source function, current limit, what is read."""
        since = self._off_count
        cycles = f"{self.settings.power_line_cycles:.2f}"
        for message in (":SOUR:FUNC VOLT", ':SENS:FUNC "CURR"', *self.model.set_up):
            await self._tell(wire.line(f"{message};*OPC?"), _whole(1))
        for message in (":SOUR:VOLT:RANG:AUTO 1", ":SENS:CURR:RANG:AUTO 1", f":SENS:CURR:NPLC {cycles}"):
            header, _, wanted = message.partition(" ")
            (found,) = wire.numbers(await self._tell(wire.line(f"{message};{header}?"), _whole(1)))
            if found is None or abs(found - float(wanted)) > 1e-6:
                raise VerifyError(f"{message}: {found} came back", device=self.name)
        most = int(self.settings.most_current_a * _NA)
        await self._set(guard.set_current_limit(most, most=most, model=self.model, channel=self.name), since)
        await self._no_errors()

    async def _limits_wrong(self) -> str | None:
        """Its own current limit, against ours; it has no voltage limit that this driver uses."""
        (found,) = await self._numbers(f"{self.model.limit}?")
        most = self.settings.most_current_a
        if found is None or found > most * (1 + 1e-5):
            return f"its own current limit is {found} A, ours {most:g} A"
        return None

    async def _no_errors(self) -> None:
        for _ in range(20):
            number, text = wire.error(await self._ask(wire.line(wire.ERROR), wire.end_of_line))
            if number == 0:
                return
            raise DeviceFaultError(f"it reports error {number}, {text}", device=self.name)

    async def _enable(self, since: int) -> None:
        zero = guard.set_zero(channel=self.name)
        await self._set(zero, since)
        await self._set(guard.switch_on(zero, channel=self.name), since)
        self.output = OutputState.RAMPING
        await self._arrived(0.0, since)
        self.commanded = Volts(0.0)

    def _guarded(self, request: Volts) -> SetOutput:
        return guard.set_voltage(request, self.settings.limit, channel=self.name)

    async def _at(self) -> tuple[float, bool]:
        asked = await self._look()
        readings = self._told(asked)
        self._keep(readings)
        self._judge(asked, readings)
        return asked.volts or 0.0, asked.is_on and asked.volts is not None

    async def _clear_trip(self) -> str | None:
        """The instrument latches nothing; off is off."""
        _, is_on = await self._at()
        return "its output is on" if is_on else None

    # -- what it is for ---------------------------------------------------------------------------------------------

    async def iv_curve(self, points: Sequence[Volts], *, settle_s: float = 0.05) -> list[IvPoint]:
        """Measure a curve: on at 0 V, along the points by ramps, off at the end whatever happened.

        Ends early, with that point, where the current limit holds the voltage back.

        Raises:
            DriverError: Refused, or failed; the output is off.
        """
        if not points:
            raise LocalProtocolError("a curve without points", device=self.name)
        if self.output is not OutputState.OFF:
            raise StateError(f"a curve while the output is {self.output.value}", device=self.name)
        for point in points:
            self._guarded(point)
        since, measured = self._off_count, []
        try:
            for number, point in enumerate(points):
                try:
                    await (self.ramp(point) if number else self.on(point))
                except VerifyError:
                    if not self.is_limiting:
                        raise
                await asyncio.sleep(settle_s)
                self._not_overtaken(since)
                asked = await self._look()
                if not asked.is_on or asked.volts is None or asked.amps is None:
                    raise VerifyError("no reading while the output should be on", device=self.name)
                measured.append(IvPoint(asked.volts, asked.amps, asked.is_limiting))
                if self.is_limiting:
                    break
        finally:
            if self._off_count == since:
                await self.off()
        return measured


def _whole(n: int) -> Callable[[bytes], int | None]:
    """The end of the first line, if it has so many numbers."""
    return ascii_line.understood(wire.end_of_line, lambda raw: wire.numbers(raw, n))


def _end_of_off(came: bytes) -> int | None:
    """The end of the first line that has both parts; late replies before it are passed over."""

    def has_both(line: bytes) -> bool:
        both = (f"0;{wire.MAKER}", f"1;{wire.MAKER}")
        return line.isascii() and line.decode("ascii").upper().lstrip().startswith(both)

    return ascii_line.end_of_line_that(has_both, came)
