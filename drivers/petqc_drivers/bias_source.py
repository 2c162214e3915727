"""Instruments that can put a voltage on a detector: off whatever happened before, on and ramps behind the guard."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import (
    DriverError,
    HeldError,
    LimitError,
    LocalProtocolError,
    OffUnconfirmedError,
    OvertakenError,
    StateError,
    VerifyError,
)
from petqc_drivers.instrument import Identity, LinkedInstrument
from petqc_drivers.limits import Volts
from petqc_drivers.trip import Trip
from petqc_drivers.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from petqc_drivers.limits import HardLimit, SetOutput
    from petqc_drivers.transport.threaded import ThreadedLink

_OFF_TRIES: Final = 3
_OFF_TURN_S: Final = 0.5
_OFF_OPEN_S: Final = 1.0
OFF_WITHIN_S: Final = 9.0
"""Whatever the link does, off has ended by then, confirmed or not: whoever waits is promised ten seconds."""
LIVE_V: Final = 5.0
"""More than this on an output that says that it is off is a contradiction; less may be what a monitor is off by."""
LIVE: Final = "the supply says that its output is off: treat it as live"
LOOK_EVERY_S: Final = 0.05
"""How often a step on its way is looked at."""


class BiasSource(LinkedInstrument):
    """One output with its guard, its ramp and its trip.

    Args:
        name: From the configuration.
        link: To it.
        reply_timeout_s: For one exchange.
        limit: Hard limit; without one the output is never switched on.
        tolerance_v: How far the measured voltage may be from the commanded one.
        settle_timeout_s: In which a step must have arrived.
        lowest_v: The lowest output, at which it is switched on.

    Attributes:
        output: What is known about it.
        trip: Whether it is tripped, why, and what may be done about it.
        commanded: Voltage of the last confirmed step; None if it is not known.
        limits_wrong: What of the device's own limits let more through than ours when they were last read.
        limits_checked_s: When that was, on the monotonic clock; None if they were not on this connection.
    """

    def __init__(
        self,
        name: str,
        link: ThreadedLink,
        *,
        reply_timeout_s: float,
        limit: HardLimit | None,
        tolerance_v: float,
        settle_timeout_s: float,
        lowest_v: float,
    ) -> None:
        super().__init__(name, link, reply_timeout_s=reply_timeout_s)
        self.output = OutputState.UNKNOWN
        self.trip = Trip(name)
        self.commanded: Volts | None = None
        self.limits_wrong: str | None = None
        self.limits_checked_s: float | None = None
        self._limit, self._tolerance_v, self._settle_timeout_s = limit, tolerance_v, settle_timeout_s
        self._lowest_v = lowest_v
        self._off_count = 0
        self._hold_count = 0

    @property
    def tolerance_v(self) -> float:
        """How far the measured voltage may be from the commanded one."""
        return self._tolerance_v

    # -- what a driver does -----------------------------------------------------------------------------------------

    @abstractmethod
    async def _off_once(self) -> bool:
        """Off, and whether it says so when asked afterwards; on a link in whatever step, through the link itself."""

    @abstractmethod
    async def _lowest_after_off(self) -> None:
        """Bring the set-point to its lowest; off is off, whatever comes of this."""

    @abstractmethod
    async def _check_before_on(self) -> None:
        """Refuse to switch on over settings of the device that could exceed a limit.

        Raises:
            DriverError: It must not be switched on.
        """

    @abstractmethod
    async def _limits_wrong(self) -> str | None:
        """Ask for the limits that the device itself has; what of them lets more through than ours, None: nothing."""

    @abstractmethod
    async def _enable(self, since: int) -> None:
        """Switch on at the lowest output, `RAMPING` from then on, and see it arrive."""

    @abstractmethod
    def _guarded(self, request: Volts) -> SetOutput:
        """Sealed messages for a voltage.

        Raises:
            LimitError: Refused.
        """

    @abstractmethod
    async def _set(self, sealed: SetOutput, since: int) -> None:
        """Send what the guard sealed and see it acknowledged, unless somebody switched off meanwhile."""

    @abstractmethod
    async def _at(self) -> tuple[float, bool]:
        """Look: the measured voltage as the set-point that would give it, and whether the output is on as it should.

        Latches a trip if there is a reason, and keeps `output` and the readings up to date: a ramp takes long.
        """

    # -- life cycle -------------------------------------------------------------------------------------------------

    async def connect(self) -> Identity:
        """As for every instrument; an output that is found above its limit trips."""
        self.output, self.commanded, self.limits_checked_s = OutputState.UNKNOWN, None, None
        identity = await super().connect()
        await self.poll()
        return identity

    async def check_own_limits(self) -> None:
        """Read the limits that the device itself has, and note what of them lets more through than ours.

        Raises:
            DriverError: They could not be read; what is noted grows old.
        """
        self.limits_wrong = await self._limits_wrong()
        self.limits_checked_s = monotonic_s()

    # -- off --------------------------------------------------------------------------------------------------------

    async def off(self) -> OutputState:
        """Output off at once, without a ramp, then the set-point to its lowest; whatever else goes on is overtaken.

        Raises:
            OffUnconfirmedError: It could not be confirmed.
        """
        self._off_count += 1
        return await uninterrupted(self._off(), name=f"off {self.name}")

    async def _off(self) -> OutputState:
        self._is_switching_off = True
        self.commanded = None
        failures: list[str] = []
        is_off = False
        try:
            self._link.interrupt()
            async with asyncio.timeout(OFF_WITHIN_S):
                try:
                    async with asyncio.timeout(_OFF_TURN_S):
                        await self._turn.acquire()
                except TimeoutError:
                    await self._link.aclose()  # whoever has the turn is in the middle of opening it
                    await self._turn.acquire()
                try:
                    is_off = await self._off_in_turn(failures)
                    if is_off:
                        with contextlib.suppress(DriverError):
                            await self._lowest_after_off()
                finally:
                    self._turn.release()
        except TimeoutError:
            failures.append(f"{OFF_WITHIN_S:g} s were over")
        finally:
            self._is_switching_off = False
        self.output = OutputState.OFF if is_off else OutputState.UNKNOWN
        if not is_off:
            raise OffUnconfirmedError(
                f"off was tried {len(failures)} times",
                device=self.name,
                last_good=self._last_good(),
                do="treat the output as live: use the switch of the supply or pull its plug",
                causes=list(dict.fromkeys(failures)),
            )
        return self.output

    async def _off_in_turn(self, failures: list[str]) -> bool:
        """Whether it says that it is off; else why not, in failures."""
        for attempt in range(_OFF_TRIES):
            try:
                if attempt or not self._link.is_open:
                    await self._link.open(_OFF_OPEN_S)
                if await self._off_once():
                    return True
                failures.append("it says that its output is on")
            except DriverError as error:
                failures.append(error.what)
        return False

    async def ramp_off(self) -> OutputState:
        """Off by a ramp down, where everything is as it should be; off at once as soon as anything is not.

        Raises:
            OffUnconfirmedError: It could not be confirmed.
        """
        try:
            await self._ramp_down()
        except DriverError:
            pass  # at once, then
        except BaseException:
            await self.off()
            raise
        return await self.off()

    async def _ramp_down(self) -> None:
        """To the set-point of the hard limit that is next to the lowest output; never away from it."""
        if self.output is OutputState.ADOPTED:
            await self.confirm_adopted()
        if self.output is not OutputState.ON or self._limit is None:
            return
        at_v, _ = await self._at()
        rest = Volts(self._limit.nearest_v(self._lowest_v))
        if abs(at_v - self._lowest_v) > abs(rest.value - self._lowest_v):
            await self.ramp(rest)

    def _not_overtaken(self, since: int) -> None:
        """Make sure that nobody switched off meanwhile.

        Raises:
            OvertakenError: Somebody did.
        """
        if self._off_count != since:
            raise OvertakenError("switching off went first", device=self.name)

    # -- on ---------------------------------------------------------------------------------------------------------

    async def on(self, target: Volts) -> None:
        """Switch on at the lowest output and ramp; any failure, and a cancellation, switches off.

        Raises:
            HeldError: Held on the way; it is on.
            DriverError: Refused, or failed and switched off.
        """
        since, held = self._off_count, self._hold_count
        self.trip.check_armed()
        if self.state is not DeviceState.IDENTIFIED:
            raise StateError(f"switching on while {self.state.value}", device=self.name, do="connect first")
        self._guarded(target)
        if self._limit is not None:
            nearest_v = self._limit.nearest_v(self._lowest_v)
            if abs(nearest_v - self._lowest_v) > self._limit.max_step_v:
                raise LimitError(
                    f"switching on refused: from the lowest output, {self._lowest_v:g} V, to the nearest of the hard "
                    f"limit, {nearest_v:g} V, is more than a step of {self._limit.max_step_v:g} V",
                    device=self.name,
                )
        if self.output is not OutputState.OFF:
            raise StateError(f"switching on while the output is {self.output.value}", device=self.name)
        await self._check_before_on()
        self._not_overtaken(since)
        self.limits_wrong, self.limits_checked_s = None, monotonic_s()
        try:
            await self._enable(since)
            await self._ramp_to(target, since, held)
        except HeldError:
            self.output = OutputState.ON
            raise
        except BaseException:
            if self._off_count == since:
                with contextlib.suppress(OffUnconfirmedError):
                    await self.off()
            raise
        self.output = OutputState.ON

    async def ramp(self, target: Volts) -> None:
        """Ramp from the measured voltage; stops at the last confirmed step if anything is not as it should be.

        Raises:
            HeldError: Held on the way.
            DriverError: Refused, or stopped.
        """
        since = self._off_count
        self.trip.check_armed()
        if self.output is not OutputState.ON:
            raise StateError(f"a ramp while the output is {self.output.value}", device=self.name)
        self._guarded(target)
        self.output = OutputState.RAMPING
        try:
            await self._ramp_to(target, since, self._hold_count)
        finally:
            if self._off_count == since and self.output is OutputState.RAMPING:
                self.output = OutputState.ON

    def hold(self) -> None:
        """End a ramp that goes on, once the step that was told last has arrived; the ramp then raises `HeldError`."""
        self._hold_count += 1

    async def confirm_adopted(self) -> None:
        """Take over an output that was found on; nothing is sent.

        Raises:
            StateError: There is none, or it is not inside the hard limit.
        """
        if self.output is not OutputState.ADOPTED or self._limit is None:
            raise StateError(f"nothing to adopt: the output is {self.output.value}", device=self.name)
        self.trip.check_armed()
        at_v, is_on = await self._at()
        self.trip.check_armed()
        if not is_on or not self._limit.beyond_v(at_v) <= 0.0:
            raise StateError(f"{at_v:.3f} V are not to be adopted", device=self.name)
        self.output = OutputState.ON

    async def _ramp_to(self, target: Volts, since: int, held: int) -> None:
        limit = self._limit
        if limit is None:
            raise LimitError(f"{target} refused: no hard limit is configured", device=self.name)
        at_v, is_on = await self._at()
        if self.trip.causes:
            await self.off()
        self.trip.check_armed()
        if not is_on:  # a device that was restarted, above all
            raise StateError("a ramp while the output is not on as it should be", device=self.name)
        if self.commanded is not None:
            if abs(at_v - self.commanded.value) > self._tolerance_v:
                raise VerifyError(f"commanded {self.commanded}, measured {at_v:.3f} V", device=self.name)
            at_v = self.commanded.value
        confirmed = self.commanded
        is_last = False
        while not is_last:
            if self._hold_count != held:
                raise HeldError(f"held at {at_v:.3f} V on the way to {target}", device=self.name)
            distance_v = target.value - at_v
            is_last = abs(distance_v) <= limit.max_step_v
            step_v = distance_v if is_last else limit.max_step_v * (1 if distance_v > 0 else -1)
            # The first step may begin between 0 V and the hard limit; `on` made sure that it is no longer than others.
            next_v = at_v + step_v
            if at_v < limit.v_min.value:
                next_v = max(next_v, limit.v_min.value)
            elif at_v > limit.v_max.value:
                next_v = min(next_v, limit.v_max.value)
            if abs(next_v - at_v) > limit.max_step_v:
                raise LimitError(f"a step from {at_v:.3f} V to {next_v:.3f} V refused", device=self.name)
            started = monotonic_s()
            confirmed = await self._step(self._guarded(target if is_last else Volts(next_v)), confirmed, since)
            moved_v, at_v = abs(confirmed.value - at_v), confirmed.value
            await asyncio.sleep(max(started + moved_v / limit.slew_v_per_s - monotonic_s(), 0.0))

    async def _step(self, sealed: SetOutput, confirmed: Volts | None, since: int) -> Volts:
        """One step of a ramp: sent, acknowledged and arrived, `commanded` then; a failure says what was confirmed."""
        if sealed.commanded is None:
            raise LocalProtocolError("a step without a voltage", device=self.name)
        self.commanded = None
        try:
            await self._set(sealed, since)
            await self._arrived(sealed.commanded.value, since)
        except DriverError as error:
            error.what += f"; the last confirmed step is {confirmed}" if confirmed else "; no step was confirmed"
            raise
        self.commanded = sealed.commanded
        return sealed.commanded

    async def _arrived(self, wanted_v: float, since: int) -> None:
        """Wait until the measured voltage is what was commanded.

        Raises:
            StateError: It tripped on the way, and is off.
            VerifyError: It does not become so.
        """
        until = monotonic_s() + self._settle_timeout_s
        while True:
            self._not_overtaken(since)
            at_v, is_on = await self._at()
            if self.trip.causes:
                await self.off()
            self.trip.check_armed()
            if is_on and abs(at_v - wanted_v) <= self._tolerance_v:
                return
            if monotonic_s() >= until:
                raise VerifyError(
                    f"commanded {wanted_v:.3f} V, measured {at_v:.3f} V{'' if is_on else ', not on as it should'} "
                    f"after {self._settle_timeout_s:g} s",
                    device=self.name,
                )
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_news(self, *, is_on: bool) -> bool:
        """Whether something follows from what the device says of its output: it is not as it was known."""
        return is_on == (self.output is OutputState.OFF)

    def _took_note(self, *, is_on: bool) -> None:
        """What the device says of its output, against what was known of it."""
        if not is_on and self.output in {OutputState.ON, OutputState.RAMPING, OutputState.ADOPTED}:
            self.trip.latch("the output went off by itself", self.readings())
            self.output, self.commanded = OutputState.OFF, None
        elif is_on and self.output is OutputState.OFF:
            self.output, self.commanded = OutputState.ADOPTED, None
        elif not is_on and self.output is OutputState.UNKNOWN:
            self.output = OutputState.OFF

    # -- trip -------------------------------------------------------------------------------------------------------

    async def reset_trip(self) -> None:
        """Clear an acknowledged trip whose cause is gone; energises nothing.

        Raises:
            StateError: Nobody acknowledged it, or the cause is still there.
        """
        self.trip.check_resettable()
        await self._off_confirmed()
        cause = await self._clear_trip()
        if cause is not None:
            await self.off()
            raise StateError(f"the cause is still there: {cause}", device=self.name)
        self.trip.rearm()

    @abstractmethod
    async def _clear_trip(self) -> str | None:
        """Clear what latched in the device itself; the cause if it is still there."""

    async def _off_confirmed(self) -> int:
        """Make sure that the output is off now.

        Raises:
            StateError: It is not.
        """
        since = self._off_count
        _, is_on = await self._at()
        if is_on or self.output is not OutputState.OFF:
            raise StateError(f"only with the output off; it is {self.output.value}", device=self.name, do="off first")
        return since
