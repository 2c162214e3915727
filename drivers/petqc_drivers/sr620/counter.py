"""An SR620 between two clocks: how much later B is than A, how sure that is, and whether its reference is there.

Source: the same as of `wire`. Replies do not repeat the question, so a link that fell out of step is in step again only
after the counter told who it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers import ascii_line
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyTimeoutError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.instrument import Identity, LinkedInstrument
from petqc_drivers.sr620 import wire
from petqc_drivers.transport.serial import SerialLine, check_address, serial_link
from petqc_drivers.transport.visa import check_resource, visa_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.transport.threaded import ThreadedLink

LINE: Final = SerialLine(baud=9600)
_PS: Final = 1e12
_RESOLUTION_PS: Final = 25.0
"""Of a single interval, where there is no jitter to go by. The uncertainty told is that of the mean: what the counter
itself is off by cancels where skews of two days are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sr620Settings:
    """One counter.

    Attributes:
        name: Of the device.
        address: GPIB0::16::INSTR, or /dev/serial/by-id/... or socket://HOST:PORT for its RS-232.
        serial: What *IDN? must say.
        clocks: Nodes whose clocks are at A and B, for example `reference` and `module:0.0.1`; with them the readings of
            the skew are about `module:0.0.1 - reference`, else about the counter.
        samples: Intervals of a measurement: 1, 2, 5, 10 … 1000000.
        external_reference: It must use a 10 MHz reference from outside; without one its times are its own crystal's.
        reply_timeout_s: For one exchange; a measurement takes its own time on top.
        seconds_per_sample: How long a sample takes at most.
    """

    name: str
    address: str
    serial: str
    clocks: tuple[str, ...] = ()
    samples: int = 1000
    external_reference: bool = True
    reply_timeout_s: float = 2.0
    seconds_per_sample: float = 2e-3

    def __post_init__(self) -> None:
        if "::" in self.address:
            check_resource(self.address)
        else:
            check_address(self.address)
        wire.set_up(size=self.samples, is_clock_external=self.external_reference)
        if self.clocks and (len(self.clocks) != 2 or len(set(self.clocks)) != 2):
            raise LocalProtocolError(f"clocks {self.clocks}: two of them, those at A and B", device=self.name)
        if not 0.0 < self.seconds_per_sample < 1.0:
            raise LocalProtocolError(f"seconds_per_sample {self.seconds_per_sample!r}", device=self.name)


class Sr620(LinkedInstrument):
    """One counter."""

    kind: ClassVar[str] = "sr620"

    def __init__(self, settings: Sr620Settings, link: ThreadedLink | None = None) -> None:
        if link is None:
            is_bus = "::" in settings.address
            link = (
                visa_link(settings.name, settings.address)
                if is_bus
                else serial_link(settings.name, settings.address, LINE)
            )
        super().__init__(settings.name, link, reply_timeout_s=settings.reply_timeout_s)
        self.settings = settings

    # -- life cycle -------------------------------------------------------------------------------------------------

    async def _identify(self) -> Identity:
        raw = await self._exchange(wire.line(wire.IDENTITY), wire.end_of_identity)
        model, serial, firmware = wire.identity(self._last_line(raw))
        if (model, serial) != ("SR620", self.settings.serial):
            raise WrongIdentityError(
                f"it is a {model} with serial number {serial}, configured is one with {self.settings.serial}",
                device=self.name,
                do="check address and cable",
            )
        return Identity(model, serial, firmware)

    async def _observe(self) -> None:
        wire.setup(await self._exchange(wire.line(wire.SETUP), wire.end_of_line))

    async def stage(self) -> None:
        """Set it up for time intervals from A to B and read that back.

        Raises:
            DeviceFaultError: It reports an error of a command.
            VerifyError: Another setup came back.
        """
        settings = self.settings
        message = wire.set_up(size=settings.samples, is_clock_external=settings.external_reference)
        raw = await self._tell(wire.line(f"*CLS;{message};{wire.SETUP}"), _whole(wire.setup))
        found = wire.setup(raw)
        is_external = wire.SetupByte.CLOCK_EXTERNAL in found[2]
        if found[:2] != (wire.Mode.TIME, settings.samples) or is_external != settings.external_reference:
            raise VerifyError(f"{message}: {wire.text(raw)} came back", device=self.name)
        (events,) = wire.numbers(await self._ask(wire.line(wire.STATUS), _whole(wire.numbers)))
        if int(events) & (wire.EXECUTION_ERROR | wire.COMMAND_ERROR):
            raise DeviceFaultError(f"it refused a command: event status {int(events):#04x}", device=self.name)

    # -- readings ---------------------------------------------------------------------------------------------------

    async def _measure(self) -> list[Reading]:
        """Skew of B against A with its uncertainty, jitter, and whether the reference is there.

        `stage` first: what the counter is set to otherwise is not a time interval.
        """
        mode, size, clock = wire.setup(await self._ask(wire.line(wire.SETUP), _whole(wire.setup)))
        if mode is not wire.Mode.TIME:
            raise VerifyError(f"it measures {mode.name.lower()}, no time interval", device=self.name, do="stage it")
        (errors,) = wire.numbers(await self._ask(wire.line(wire.ERRORS), _whole(wire.numbers)))
        reference = self._reference(wire.Errors(int(errors) & 0xFF), clock)
        measured = await self._interval(size)
        if measured is None:
            nothing = "no edges at A or B"
            return [
                self._reading("clock_skew", None, "ps", Quality.BAD, nothing),
                self._reading("clock_skew_uncertainty", None, "ps", Quality.BAD, nothing),
                self._reading("clock_jitter", None, "ps", Quality.BAD, nothing),
                reference,
            ]
        skew_ps, jitter_ps = measured
        quality, reason = Quality.GOOD, None
        if reference.quality is not Quality.GOOD:
            quality, reason = Quality.UNCERTAIN, reference.reason
        of_mean_ps = max(jitter_ps, _RESOLUTION_PS if size == 1 else 0.0) / math.sqrt(size)
        return [
            self._reading("clock_skew", skew_ps, "ps", quality, reason),
            self._reading("clock_skew_uncertainty", of_mean_ps, "ps", quality, reason),
            self._reading("clock_jitter", jitter_ps, "ps", quality, reason),
            reference,
        ]

    async def _interval(self, size: int) -> tuple[float, float] | None:
        """Mean and jitter in ps; None if there is nothing to measure, in which case it answers nothing."""
        timeout_s = self._reply_timeout_s + size * self.settings.seconds_per_sample
        async with self._turn:
            try:
                raw = await self._measurement(timeout_s)
            except RemoteProtocolError:
                raw = await self._measurement(timeout_s)
        if raw is None:
            return None
        self.last_good_s = monotonic_s()
        mean_s, jitter_s = wire.numbers(raw, 2)
        return _PS * mean_s, _PS * jitter_s

    async def _measurement(self, timeout_s: float) -> bytes | None:
        """The counter's reply; None if there is none, although it is there."""
        if not self._link.is_in_step:
            await self._resynchronise()
        self._check_turn()
        try:
            raw = await self._link.exchange(
                wire.line(wire.MEASURE), _whole(lambda came: wire.numbers(came, 2)), timeout_s
            )
        except ReplyTimeoutError:
            await self._resynchronise()  # the counter itself is there, or this raises
            return None
        if not self._link.is_in_step:
            raise RemoteProtocolError("more came than was asked for", device=self.name)
        return raw

    def _reference(self, errors: wire.Errors, clock: wire.SetupByte) -> Reading:
        if wire.Errors.NO_CLOCK in errors:
            return self._reading("clock_reference", 0.0, "", Quality.BAD, "no 10 MHz reference")
        is_external = wire.SetupByte.CLOCK_EXTERNAL in clock
        if self.settings.external_reference and not is_external:
            return self._reading("clock_reference", 0.0, "", Quality.BAD, "it uses its own crystal, not the reference")
        return self._reading("clock_reference", 1.0, "", Quality.GOOD, None)

    def _reading(self, name: str, value: float | None, unit: str, quality: Quality, reason: str | None) -> Reading:
        clocks = self.settings.clocks
        node = self.name if not clocks or name == "clock_reference" else " - ".join(reversed(clocks))
        return Reading(name, node, value, unit, value is not None, quality, monotonic_s(), reason)


def _whole(parse: Callable[[bytes], object]) -> Callable[[bytes], int | None]:
    return ascii_line.understood(wire.end_of_line, parse)
