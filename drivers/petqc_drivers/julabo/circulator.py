"""A Julabo circulator: what its bath and sensors measure, set point, start and stop, all read back.

Source: the same as of `wire`. Replies do not repeat the question, so a link that fell out of step is in step again only
after the circulator told its version, the one line that looks like no other. It executes commands in remote mode only,
and after a loss of power it does not start by itself; nothing here does it instead.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers import ascii_line
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, Quality, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    LimitError,
    LocalProtocolError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.instrument import Identity, LinkedInstrument
from petqc_drivers.julabo import wire
from petqc_drivers.transport.serial import SerialLine, check_address, serial_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.transport.threaded import ThreadedLink

_READ_BACK: Final = 0.011
"""How far a number may come back from how it was written: a hundredth, rounded."""
_SET_POINTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JulaboSettings:
    """One circulator.

    Attributes:
        name: Of the device.
        address: /dev/serial/by-id/... or socket://HOST:PORT.
        model: What must stand in the version that it tells, for example `FL601`.
        lowest_degc, highest_degc: No other set point is ever sent.
        baud: 4800 from the factory.
        rts_cts: Whether the line has a hardware handshake.
        rs485_address: On a bus of several.
        tells_unit: It knows in_sp_06 (HighTech); one that is set to Fahrenheit is refused.
        reply_timeout_s: For one exchange.
    """

    name: str
    address: str
    model: str
    lowest_degc: float = 5.0
    highest_degc: float = 35.0
    baud: int = 4800
    rts_cts: bool = True
    rs485_address: int | None = None
    tells_unit: bool = False
    reply_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        check_address(self.address)
        if not -100.0 < self.lowest_degc < self.highest_degc < 300.0:
            raise LimitError(f"{self.lowest_degc} to {self.highest_degc} °C is no range", device=self.name)
        if self.rs485_address is not None and not 0 <= self.rs485_address <= 127:
            raise LocalProtocolError(f"{self.rs485_address} is no address on RS-485", device=self.name)


class JulaboCirculator(LinkedInstrument):
    """One circulator on its serial line.

    Attributes:
        status: Number and text of the last status.
    """

    kind: ClassVar[str] = "julabo"

    def __init__(self, settings: JulaboSettings, link: ThreadedLink | None = None) -> None:
        line = SerialLine(baud=settings.baud, data_bits=7, parity="even", rts_cts=settings.rts_cts)
        super().__init__(
            settings.name,
            link or serial_link(settings.name, settings.address, line),
            reply_timeout_s=settings.reply_timeout_s,
        )
        self.settings = settings
        self.status: tuple[int, str] = (0, "")
        self._free_at_s = 0.0

    # -- life cycle -------------------------------------------------------------------------------------------------

    async def _identify(self) -> Identity:
        raw = await self._paced("version", wire.end_of_version)
        version = wire.text(self._last_line(wire.plain(raw)))
        if self.settings.model.upper() not in version.upper():
            raise WrongIdentityError(
                f"{version!r} is no {self.settings.model}", device=self.name, do="check which cable is in which port"
            )
        _, _, firmware = version.upper().partition("VERSION")
        return Identity(version, firmware=firmware.strip() or None)

    async def _observe(self) -> None:
        self.status = wire.status(await self._paced("status", wire.end_of_line))
        if self.settings.tells_unit and wire.number(await self._paced("in_sp_06", wire.end_of_line)) != 0.0:
            raise DeviceFaultError("it counts in Fahrenheit", device=self.name, do="set it to Celsius")

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        self.status = await self._status()
        fault = self._fault()
        return [
            await self._reading("temperature_coolant", "in_pv_00", "degC", fault=fault),
            await self._reading("temperature_coolant_external", "in_pv_02", "degC"),
            await self._reading("temperature_coolant_safety", "in_pv_03", "degC"),
            await self._reading("coolant_heating", "in_pv_01", "%"),
            await self._reading("temperature_coolant_set", f"in_sp_0{await self._active()}", "degC", measured=False),
            await self._reading("coolant_running", "in_mode_05", ""),
            self._made("coolant_status", float(self.status[0]), "", Quality.BAD if fault else Quality.GOOD, fault),
        ]

    async def _reading(
        self, name: str, question: str, unit: str, *, measured: bool = True, fault: str | None = None
    ) -> Reading:
        value = await self.query(question)
        if value is None:
            return self._made(name, None, unit, Quality.ABSENT, "nothing connected", measured=False)
        quality = Quality.UNCERTAIN if fault else Quality.GOOD
        return self._made(name, value, unit, quality, fault, measured=measured)

    def _made(
        self, name: str, value: float | None, unit: str, quality: Quality, reason: str | None, *, measured: bool = True
    ) -> Reading:
        return Reading(name, self.name, value, unit, measured, quality, monotonic_s(), reason)

    def _fault(self) -> str | None:
        number, text = self.status
        return f"{number:03d} {text}".strip() if number < 0 else None

    async def _active(self) -> int:
        """Which set point is used.

        Raises:
            DeviceFaultError: One that it does not have.
        """
        active = await self.query("in_mode_01")
        if active not in {float(n) for n in range(_SET_POINTS)}:
            raise DeviceFaultError(f"it says that it uses set point {active}", device=self.name)
        return int(active or 0.0)

    async def query(self, question: str) -> float | None:
        """The number that answers a question of `wire.NUMBERS`; None if nothing is connected there.

        Raises:
            DriverError: It does not answer as it should.
        """
        if question not in wire.NUMBERS:
            raise LocalProtocolError(f"{question!r} is no question", device=self.name)
        return wire.number(await self._ask(self._line(question), _whole(wire.number)))

    async def _status(self) -> tuple[int, str]:
        return wire.status(await self._ask(self._line("status"), _whole(wire.status)))

    # -- setting ----------------------------------------------------------------------------------------------------

    async def set_temperature(self, temperature_degc: float) -> None:
        """Set the active set point and read it back.

        Raises:
            LimitError: It is outside the configured range.
            StateError: It is not in remote mode, or refuses.
            VerifyError: Another number came back.
        """
        lowest, highest = self.settings.lowest_degc, self.settings.highest_degc
        if not lowest <= temperature_degc <= highest:
            raise LimitError(
                f"{temperature_degc!r} °C refused: outside the configured {lowest} to {highest} °C", device=self.name
            )
        await self._set(f"out_sp_0{await self._active()}", temperature_degc)

    async def set_warnings(self, low_degc: float, high_degc: float) -> None:
        """Set where it warns, and read that back.

        Raises:
            LimitError: They are not in order.
            StateError: It is not in remote mode, or refuses.
            VerifyError: Another number came back.
        """
        if not low_degc < high_degc:
            raise LimitError(f"warnings at {low_degc!r} and {high_degc!r} °C are refused", device=self.name)
        await self._set("out_sp_04", low_degc)
        await self._set("out_sp_03", high_degc)

    async def set_control(self, *, xp: float, tn_s: float, tv_s: float) -> None:
        """Set the parameters of its control loop, and read them back.

        Raises:
            StateError: It is not in remote mode, or refuses.
            VerifyError: Another number came back.
        """
        for command, value in (("out_par_06", xp), ("out_par_07", tn_s), ("out_par_08", tv_s)):
            await self._set(command, value)

    async def use_set_point(self, number: int) -> None:
        """Use set point 1, 2 or 3.

        Raises:
            LocalProtocolError: There is none of that number.
            StateError: It is not in remote mode, or refuses.
            VerifyError: Another number came back.
        """
        if not 1 <= number <= _SET_POINTS:
            raise LocalProtocolError(f"there is no set point {number}", device=self.name)
        await self._set("out_mode_01", number - 1)

    async def start(self) -> None:
        """Start pump and control.

        Raises:
            LimitError: Its set point is outside the configured range.
            StateError: It is not in remote mode, or refuses.
            VerifyError: It does not run.
        """
        at = await self.query(f"in_sp_0{await self._active()}")
        if at is None or not self.settings.lowest_degc <= at <= self.settings.highest_degc:
            raise LimitError(f"starting at {at} °C refused: outside the configured range", device=self.name)
        await self._set("out_mode_05", 1)

    async def stop(self) -> None:
        """Stop pump and control: what it cools gets warm.

        Raises:
            StateError: It is not in remote mode, or refuses.
            VerifyError: It goes on running.
        """
        await self._set("out_mode_05", 0)

    async def _set(self, command: str, value: float) -> None:
        if self.state is not DeviceState.IDENTIFIED:
            raise StateError(f"setting while {self.state.value}", device=self.name, do="connect first")
        number, text = self.status = await self._status()
        if number in {0, 1}:
            raise StateError(f"it is not in remote mode: {number:02d} {text}", device=self.name, do="set it to remote")
        line = self._line(wire.setting(command, value))
        async with self._turn:
            await self._pace()
            self._free_at_s = monotonic_s() + wire.AFTER_OUT_S
            await self._link.send(line, self._reply_timeout_s)
            self._link.is_in_step = False  # a command that is not answered: the version must be the next line
        number, text = self.status = await self._status()
        if number in wire.REFUSALS:
            raise StateError(f"{line.decode().strip()} refused: {number:03d} {text}", device=self.name)
        pattern, question = wire.SETTINGS[command]
        found = await self.query(question)
        if found is None or abs(found - float(pattern.format(value))) > _READ_BACK:
            raise VerifyError(f"{line.decode().strip()}: {found} came back", device=self.name)

    # -- the line ---------------------------------------------------------------------------------------------------

    def _line(self, command: str) -> bytes:
        return wire.line(command, rs485_address=self.settings.rs485_address)

    async def _paced(self, command: str, whole: Callable[[bytes], int | None]) -> bytes:
        return await self._exchange(self._line(command), whole)

    async def _exchange(self, request: bytes, whole: Callable[[bytes], int | None]) -> bytes:
        await self._pace()
        reply = await super()._exchange(request, whole)
        self._free_at_s = max(self._free_at_s, monotonic_s() + wire.AFTER_IN_S)
        return reply

    async def _pace(self) -> None:
        """Wait until it is ready for the next command."""
        await asyncio.sleep(max(self._free_at_s - monotonic_s(), 0.0))


def _whole(parse: Callable[[bytes], object]) -> Callable[[bytes], int | None]:
    return ascii_line.understood(wire.end_of_line, parse)
