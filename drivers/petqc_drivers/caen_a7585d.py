"""CAEN A7585D (NIPM-12): one channel of SiPM bias on a UART, in one file: codec, guard, device.

Source: the vendor's own Python package a7585d 1.0.3 and its README; register numbers corroborated by CAEN FERSlib.
Lines end with CR LF. `AT+SET,register,value` is answered by OK, `AT+GET,register` by `OK=value`.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers import ascii_line
from petqc_drivers.bias_source import LIVE, LIVE_V, BiasSource
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import OutputState, Quality, Reading
from petqc_drivers.errors import (
    DriverError,
    LimitError,
    LocalProtocolError,
    RemoteProtocolError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.instrument import QUIET_S, Identity
from petqc_drivers.limits import HardLimit, SetOutput, Volts, guard, guard_enable, guard_lowest
from petqc_drivers.transport.serial import SerialLine, check_address, serial_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.transport.threaded import ThreadedLink

LINE: Final = SerialLine(baud=115200)
LOWEST_V, HIGHEST_V = 20.0, 85.0
MOST_LINE_BYTES: Final = 80
MACHINE: Final = b"\r\n\r\nAT+MACHINE\r\n"
"""Two empty lines, then machine-readable replies; whatever comes back is thrown away."""
_TOLERANCE: Final = 1e-3
_OVER_LIMIT: Final = 1.1
"""So many times its current limit a supply that has that limit does not give; it trips."""


class Register(IntEnum):
    """Numbers of the registers that are used here."""

    ENABLE = 0
    MODE = 1
    VOLTAGE = 2
    RAMP_V_PER_S = 3
    MOST_V = 4
    MOST_MA = 5
    OUTPUT_V = 231
    OUTPUT_MA = 232
    SENSOR_DEGC = 234
    OVER_VOLTAGE = 249
    OVER_CURRENT = 250
    PRODUCT = 251
    FIRMWARE = 252
    SERIAL = 254


_OWN_LIMITS: Final = (
    (Register.OVER_VOLTAGE, "the supply's own voltage limit"),
    (Register.OVER_CURRENT, "the supply's own current limit"),
)

# -- bytes ------------------------------------------------------------------------------------------------------------


def get(register: Register) -> bytes:
    """Ask for a register."""
    return f"AT+GET,{register:d}\r\n".encode("ascii")


def put(register: Register, thousandths: int) -> bytes:
    """Set a register; numbers are written with three decimals whatever the locale says."""
    if type(thousandths) is not int or thousandths < 0:
        raise LimitError(f"{thousandths!r} thousandths cannot be written")
    return f"AT+SET,{register:d},{thousandths // 1000}.{thousandths % 1000:03d}\r\n".encode("ascii")


def parse_put(message: bytes, register: Register) -> int:
    """The thousandths that our own message means.

    Raises:
        LimitError: It is no such message.
    """
    found = re.fullmatch(rf"AT\+SET,{register:d},(\d+)\.(\d{{3}})\r\n", message.decode("ascii", "replace"))
    if found is None:
        raise LimitError(f"{message!r} does not set register {register:d}")
    return 1000 * int(found[1]) + int(found[2])


def end_of_line(came: bytes) -> int | None:
    """See `ascii_line.end_of_line`."""
    return ascii_line.end_of_line(came, MOST_LINE_BYTES)


def number(raw: bytes) -> float:
    """The number of a reply to `get`.

    Raises:
        RemoteProtocolError: It is none.
    """
    found = re.fullmatch(rb"OK=([-+]?\d{1,10}(?:\.\d{1,9})?)\r?\n", raw)
    if found is None:
        raise RemoteProtocolError(f"no number: {raw[:60]!r}")
    return float(found[1])


def done(raw: bytes) -> None:
    """The reply to `put`.

    Raises:
        RemoteProtocolError: It is not that it was done.
    """
    if raw.strip() != b"OK":
        raise RemoteProtocolError(f"a command was answered by {raw[:60]!r}")


_whole_number = ascii_line.understood(end_of_line, number)
_whole_done = ascii_line.understood(end_of_line, done)


# -- guard ------------------------------------------------------------------------------------------------------------


def _code(volts: float) -> int:
    """Millivolts, rounded down."""
    code = round(1000 * volts)
    return code if code / 1000 <= volts + 1e-12 else code - 1


def set_voltage(request: Volts, limit: HardLimit | None, *, channel: str) -> SetOutput:
    """Sealed message for a voltage.

    Raises:
        LimitError: Refused.
    """
    return guard(
        request,
        limit,
        channel=channel,
        encode=lambda volts: (put(Register.VOLTAGE, _code(volts.value)),),
        decode=lambda payloads: (Volts(1e-3 * parse_put(payloads[0], Register.VOLTAGE)), 1e-3),
    )


def set_lowest(*, channel: str) -> SetOutput:
    """Sealed message for the lowest output."""
    return guard_lowest(
        channel=channel,
        lowest_code=_code(LOWEST_V),
        encode=lambda code: (put(Register.VOLTAGE, code),),
        decode_code=lambda payloads: parse_put(payloads[0], Register.VOLTAGE),
    )


def switch_on(lowest: SetOutput, *, channel: str) -> SetOutput:
    """Sealed message that switches on, after the one that brought the output to its lowest."""
    return guard_enable([lowest], n_outputs=1, channel=channel, payload=put(Register.ENABLE, 1000))


# -- device -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CaenA7585dSettings:
    """One supply.

    Attributes:
        name: Of the device; the hard limit names it as its channel.
        address: /dev/serial/by-id/... or socket://HOST:PORT.
        serial: What register 254 must hold.
        limit: Hard limit, which the supply gets as its own; without one the output is never switched on.
        most_current_ma: The supply gets it as its own limit, too.
        tolerance_v: How far the measured voltage may be from the commanded one.
        settle_timeout_s: In which a step must have arrived.
        reply_timeout_s: For one exchange.
    """

    name: str
    address: str
    serial: int
    limit: HardLimit | None = None
    most_current_ma: float = 1.0
    tolerance_v: float = 0.1
    settle_timeout_s: float = 5.0
    reply_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        check_address(self.address)
        if not 0.0 < self.most_current_ma <= 10.0:
            raise LocalProtocolError(f"most_current_ma {self.most_current_ma!r}: up to 10 mA", device=self.name)
        if self.limit is not None and (
            self.limit.channel != self.name or not LOWEST_V <= self.limit.v_max.value <= HIGHEST_V
        ):
            raise LimitError(f"hard limit of {self.limit.channel}: 20 to 85 V of {self.name}", device=self.name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What it said of itself, and what of that is a reason to trip."""

    readings: list[Reading]
    is_on: bool
    causes: list[str]


class CaenA7585d(BiasSource):
    """One supply on its line."""

    kind: ClassVar[str] = "caen-a7585d"

    def __init__(self, settings: CaenA7585dSettings, link: ThreadedLink | None = None) -> None:
        super().__init__(
            settings.name,
            link or serial_link(settings.name, settings.address, LINE),
            reply_timeout_s=settings.reply_timeout_s,
            limit=settings.limit,
            tolerance_v=settings.tolerance_v,
            settle_timeout_s=settings.settle_timeout_s,
            lowest_v=LOWEST_V,
        )
        self.settings = settings

    async def _identify(self) -> Identity:
        """Replies do not repeat the question: the serial number must come twice before it is believed."""
        await self._link.send(MACHINE, self._reply_timeout_s)
        await self._link.drain(QUIET_S, 2.0)
        first, second = [number(await self._exchange(get(Register.SERIAL), _whole_number)) for _ in range(2)]
        if first != second:
            raise RemoteProtocolError(f"serial number {first:.0f}, then {second:.0f}", device=self.name)
        if first != self.settings.serial:
            raise WrongIdentityError(
                f"it has serial number {first:.0f}, configured is {self.settings.serial}",
                device=self.name,
                do="check address and cable",
            )
        firmware = number(await self._exchange(get(Register.FIRMWARE), _whole_number))
        return Identity("A7585D", f"{first:.0f}", f"{firmware:g}")

    async def _confirm(self) -> None:
        found = number(await self._exchange(get(Register.SERIAL), _whole_number))
        if found != self.settings.serial:
            raise RemoteProtocolError(f"{found:g} came for the serial number", device=self.name)

    async def _observe(self) -> None:
        is_on = number(await self._exchange(get(Register.ENABLE), _whole_number))
        self.output = OutputState.ADOPTED if is_on else OutputState.OFF

    async def _get(self, register: Register) -> float:
        return number(await self._ask(get(register), _whole_number))

    async def _put(self, message: bytes, register: Register) -> None:
        """Send, and read back."""
        await self._tell(message, _whole_done)
        wanted = 1e-3 * parse_put(message, register)
        found = await self._get(register)
        if abs(found - wanted) > _TOLERANCE:
            raise VerifyError(f"register {register:d}: wrote {wanted:.3f}, read back {found}", device=self.name)

    # -- what a bias source does ------------------------------------------------------------------------------------

    async def _set(self, sealed: SetOutput, since: int) -> None:
        self._not_overtaken(since)
        (payload,) = sealed.payloads
        await self._put(payload, Register.ENABLE if sealed.role == "enable" else Register.VOLTAGE)
        self._not_overtaken(since)

    def _guarded(self, request: Volts) -> SetOutput:
        return set_voltage(request, self.settings.limit, channel=self.name)

    async def _check_before_on(self) -> None:
        """Digital control, and the supply's own limits: written, read back, no higher than ours."""
        limit = self.settings.limit
        if limit is None:
            raise LimitError("switching on refused: no hard limit is configured", device=self.name)
        for register, value in (
            (Register.MODE, 0.0),
            (Register.MOST_V, limit.v_max.value),
            (Register.MOST_MA, self.settings.most_current_ma),
            (Register.RAMP_V_PER_S, limit.slew_v_per_s),
        ):
            await self._put(put(register, _code(value)), register)

    async def _limits_wrong(self) -> str | None:
        """Its own voltage and current limits, against ours."""
        limit = self.settings.limit
        for register, most, unit in (
            (Register.MOST_V, 0.0 if limit is None else limit.v_max.value, "V"),
            (Register.MOST_MA, self.settings.most_current_ma, "mA"),
        ):
            found = await self._get(register)
            if found > most + _TOLERANCE:
                return f"its own limit is {found:g} {unit}, ours {most:g} {unit}"
        return None

    async def _enable(self, since: int) -> None:
        lowest = set_lowest(channel=self.name)
        await self._set(lowest, since)
        await self._set(switch_on(lowest, channel=self.name), since)
        self.output = OutputState.RAMPING
        await self._arrived(LOWEST_V, since)
        self.commanded = Volts(LOWEST_V)

    async def _off_once(self) -> bool:
        with contextlib.suppress(DriverError):
            await self._link.exchange(put(Register.ENABLE, 0), _whole_done, self._reply_timeout_s)
        await self._link.drain(QUIET_S, 1.0)
        reply = await self._link.exchange(get(Register.ENABLE), _whole_number, self._reply_timeout_s)
        self.last_good_s = monotonic_s()
        return number(reply) == 0.0

    async def _lowest_after_off(self) -> None:
        (payload,) = set_lowest(channel=self.name).payloads
        await self._link.exchange(payload, _whole_done, self._reply_timeout_s)

    async def _at(self) -> tuple[float, bool]:
        """Sure each time: a ramp goes on from here, and a set-point that is read back looks like a voltage."""
        looked = await self._look(follows=lambda _: True)
        self._keep(looked)
        readings = {reading.name: reading for reading in looked}
        return readings["bias_voltage"].value or 0.0, bool(readings["bias_on"].value)

    async def _clear_trip(self) -> str | None:
        """The supply latches nothing that could be cleared apart from switching off."""
        _, is_on = await self._at()
        return "its output is on" if is_on else None

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        before = len(self.trip.causes)
        readings = await self._look(follows=lambda asked: bool(asked.causes) or self._is_news(is_on=asked.is_on))
        if len(self.trip.causes) > before:
            await self.off()
        return readings

    async def _look(self, *, follows: Callable[[_Asked], bool]) -> list[Reading]:
        """Ask, latch what is a reason to trip, and note what it says of its output.

        follows: whether anything does, so that replies must be known to be to these questions.
        """
        asked = await self._sure(self._asked, follows)
        for cause in asked.causes:
            self.trip.latch(cause, asked.readings)
        self._took_note(is_on=asked.is_on)
        return asked.readings

    async def _asked(self) -> _Asked:
        is_on = await self._get(Register.ENABLE)
        volts, amps_ma = await self._get(Register.OUTPUT_V), await self._get(Register.OUTPUT_MA)
        readings = [
            self._reading("bias_voltage", volts, "V", doubt=LIVE if volts > LIVE_V and not is_on else None),
            self._reading("bias_current", amps_ma, "mA"),
            self._reading("temperature_sipm", await self._get(Register.SENSOR_DEGC), "degC"),
            self._reading("bias_on", is_on, ""),
        ]
        causes = [cause for register, cause in _OWN_LIMITS if await self._get(register)]
        limit, most_ma = self.settings.limit, self.settings.most_current_ma
        if limit is not None and limit.beyond_v(volts) > self.settings.tolerance_v:
            causes.append(f"measured {volts:.3f} V, the hard limit ends at {limit.v_max}")
        if amps_ma > _OVER_LIMIT * most_ma:
            causes.append(f"measured {amps_ma:.3f} mA, allowed are {most_ma:g} mA")
        return _Asked(readings, bool(is_on), causes if is_on else [])

    def _reading(self, name: str, value: float, unit: str, *, doubt: str | None = None) -> Reading:
        quality = Quality.UNCERTAIN if doubt else Quality.GOOD
        return Reading(name, self.name, value, unit, True, quality, monotonic_s(), doubt)
