"""What people may do with bias sources: energise, set, confirm, acknowledge, reset, limits, bypass. Off asks nobody.

Acknowledge, reset and energise are three commands, and none implies the next. Whoever calls has recorded the intent.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError, VerifyError
from petqc_drivers.limits import Volts
from petqcd import clock
from petqcd.errors import DaemonError, NotFoundError, PermitError, RefusedError, UnreachableError
from petqcd.instruments.command_queue import Command, Priority
from petqcd.instruments.told import submit
from petqcd.interlocks import bias_curve
from petqcd.interlocks.operating_limits import OperatingLimits
from petqcd.off.safe_state import SafeState
from petqcd.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.keithley_smu.meter import IvPoint
    from petqcd.config import BiasSourceConfig
    from petqcd.instruments.collection import Instruments
    from petqcd.instruments.supervisor import InstrumentSupervisor
    from petqcd.interlocks.bias_curve import CurvePlan
    from petqcd.interlocks.bias_watch import BiasWatch
    from petqcd.interlocks.operating_limits import KeptLimits
    from petqcd.interlocks.readout_watch import ReadoutWatch
    from petqcd.off.kept_outputs import KeptOutputs
    from petqcd.off.safe_state import SafeOutcome

SETTLE_DEADLINE_S = 30.0
"""For everything of energising but the ramp itself."""
LOOK_S = 0.25
STOP_DEADLINE_S = 12.0
"""For ramping down when the daemon stops; what is not down by then is switched off where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a supply is to keep by itself; nothing is changed where nothing is asked for.

    volts, at_degc, mv_per_k, mv_per_k2: its voltage, and what compensation adds to it away from a temperature.
    stays_off: over-current leaves it off.
    """

    volts: float | None = None
    at_degc: float = 25.0
    mv_per_k: float = 0.0
    mv_per_k2: float = 0.0
    stays_off: bool = False


class BiasControl:
    """Commands for bias sources; everything is called from the event loop."""

    def __init__(self, instruments: Instruments, watch: BiasWatch, kept: KeptOutputs, limits: KeptLimits) -> None:
        self._instruments, self._watch, self._kept, self._limits = instruments, watch, kept, limits
        self.readout: ReadoutWatch | None = None
        """Of the readout's own bias, which has a trip too."""
        self.follows: Callable[[str], dict[str, Any] | None] = lambda _: None
        """How a bias source follows the temperature, by name; None: it does not."""
        self.set_by_people: dict[str, float] = {}
        """Volts that somebody asked for and that were reached, by name; what follows the temperature starts there."""

    # -- what is ------------------------------------------------------------------------------------------------------

    def documents(self) -> list[dict[str, Any]]:
        """Every bias source with its permits, limits, trip and bypasses, as plain types."""
        return [self._document(one) for one in self._instruments.bias_sources]

    async def documents_in_turns(self) -> list[dict[str, Any]]:
        """The same, with turns for others in between."""
        found, turns = [], Turns()
        for one in self._instruments.bias_sources:
            if self._instruments.has(one):  # its simulator may have ended meanwhile
                found.append(self._document(one))
            await turns.next()
        return found

    def _document(self, supervisor: InstrumentSupervisor) -> dict[str, Any]:
        name, now_s = supervisor.name, clock.monotonic_s()
        unit = self._watch.unit(name)
        bypassed = self._watch.bypasses.of(name, now_s)
        try:
            operating, limits_unknown = self._limits.of(self._config(supervisor)), []
        except RefusedError as error:
            operating, limits_unknown = None, [str(error)]
        hard = self._config(supervisor).bias
        return {
            **supervisor.document(),
            "hard_limit": None if hard is None else hard.model_dump(),
            "operating_limits": None if operating is None else {"v_min": operating.v_min, "v_max": operating.v_max},
            "following": self.follows(name),
            "permits": [
                {
                    "name": rule.name,
                    "given": not why_not,
                    "why_not": why_not,
                    "to_energise": rule.to_energise,
                    "to_stay": rule.to_stay,
                    "bypassed": rule.name in bypassed,
                }
                for rule in unit.permits.rules.values()
                for why_not in [unit.permits.objection(rule.name, now_s)]
            ],
            "against": [*limits_unknown, *self._watch.against(name)],
            "bypasses": [one.document(now_s) for one in self._watch.bypasses.holding(now_s) if one.device == name],
        }

    # -- voltage ------------------------------------------------------------------------------------------------------

    async def on(self, name: str, volts: float) -> dict[str, Any]:
        """Switch on at the lowest output and ramp, if every permit is given; any failure switches off.

        Raises:
            RefusedError: outside the operating limits, a permit is missing, or it is on already.
            DaemonError: what the device said; it was switched off.
        """
        supervisor, config = self._source(name)
        target = self._target(supervisor, volts)
        self._require(name)
        await self._kept.may_be_on(name)

        async def work(driver: BiasSource) -> None:
            self._require(name)  # what was given when it was asked for need not be when its turn comes
            if driver.output is OutputState.OFF:  # what is on already is refused, and stays as it was asked for
                self.set_by_people.pop(name, None)
            await driver.on(target)
            await _settled(driver, target, config.settle_s)

        await submit(supervisor, Command("switching on", work, self._deadline_s(config, target.value)))
        self.set_by_people[name] = volts
        return self._document(supervisor)

    async def set(self, name: str, volts: float) -> dict[str, Any]:
        """Ramp what is on to another voltage; stops at the last confirmed step if anything is not as it should be.

        Raises:
            RefusedError: outside the operating limits, or higher and a permit is missing.
            DaemonError: what the device said.
        """
        self.set_by_people.pop(name, None)
        told = await self.follow(name, volts)
        self.set_by_people[name] = volts
        return told

    async def follow(self, name: str, volts: float) -> dict[str, Any]:
        """The same, for what follows the temperature.

        Raises:
            RefusedError: outside the operating limits, or higher and a permit is missing.
            DaemonError: what the device said.
        """
        supervisor, config = self._source(name)
        target = self._target(supervisor, volts)

        async def work(driver: BiasSource) -> None:
            if is_raised(driver.commanded, target):
                self._require(name)
            await driver.ramp(target)

        await submit(supervisor, Command("setting", work, self._deadline_s(config, target.value)))
        return self._document(supervisor)

    async def curve(self, name: str, plan: CurvePlan) -> dict[str, Any]:
        """Measure a current-voltage curve with a source meter, if every permit is given; off whatever comes of it.

        Raises:
            RefusedError: it is no source meter, it is on, a permit is missing, or a point is outside the limits.
            DaemonError: what the device said; it was switched off.
        """
        from petqcd.config import KeithleySmuConfig

        supervisor, config = self._source(name)
        if not isinstance(config, KeithleySmuConfig):
            raise RefusedError(f"{name} is a {config.kind}: a curve needs a source meter")
        for end_v in (plan.from_v, plan.to_v):
            self._target(supervisor, end_v)
        assert config.bias is not None  # noqa: S101 - there is no target without it; for the type checker
        plan.require_short(name, config.bias.slew_v_per_s)
        points = [self._target(supervisor, volts) for volts in plan.volts()]
        self._require(name)
        await self._kept.may_be_on(name)

        async def work(driver: Any) -> list[IvPoint]:
            self._require(name)  # what was given when it was asked for need not be when its turn comes
            if driver.output is OutputState.OFF:
                self.set_by_people.pop(name, None)
            measured: list[IvPoint] = await driver.iv_curve(points, settle_s=plan.settle_s)
            return measured

        measured = await submit(supervisor, Command("measuring a curve", work, bias_curve.LONGEST_S))
        return {
            "device": name,
            "simulated": config.simulated,
            "at": clock.utc_text(),
            **await asyncio.to_thread(bias_curve.shown, measured),
        }

    async def off(self, name: str) -> SafeOutcome:
        """Off, now; needs no permit and overtakes everything.

        Raises:
            NotFoundError: there is no such bias source.
        """
        self._watch.unit(name)
        return await self._instruments[name].off()

    async def hold(self, name: str) -> dict[str, Any]:
        """End a ramp where it is: the step on its way arrives, and what is measured then is told. Needs no permit.

        Raises:
            RefusedError: nothing is ramping.
            UnreachableError: it does not answer any more; what becomes of it is told by its state.
        """
        supervisor, _ = self._source(name)
        driver = self._driver(supervisor)
        if driver.output is not OutputState.RAMPING:
            raise RefusedError(f"{name}: nothing to hold: its output is {driver.output.value}")
        supervisor.stop()
        try:
            async with asyncio.timeout(SETTLE_DEADLINE_S):  # its turn comes when the ramp has ended
                await submit(supervisor, Command("reading", lambda one: one.poll()), Priority.PERMIT)
        except TimeoutError as error:
            raise UnreachableError(f"{name}: its step has not arrived yet: look again, or switch it off") from error
        return self._document(supervisor)

    async def confirm(self, name: str) -> dict[str, Any]:
        """Take over an output that was found on: it stays as it is, and petqc says that it is on.

        Raises:
            RefusedError: there is none, it is not inside its limits, or somebody works there.
        """
        supervisor, config = self._source(name)
        if self._driver(supervisor).output is not OutputState.ADOPTED:
            raise RefusedError(f"{name}: nothing to confirm: its output is {self._driver(supervisor).output.value}")
        work = self._watch.maintenance.of(name)
        if work is not None:
            raise RefusedError(work.told)
        limits = self._limits.of(config)

        async def take_over(driver: BiasSource) -> None:
            await driver.poll()
            volts = next((one.value for one in driver.readings() if one.name == "bias_voltage"), None)
            if limits is None or volts is None:
                raise RefusedError(f"{name}: it has no hard limit, or its voltage is not known: it is not taken over")
            slack_v = driver.tolerance_v
            OperatingLimits(limits.v_min - slack_v, limits.v_max + slack_v).require(f"{name}, as it was found", volts)
            await driver.confirm_adopted()

        await submit(supervisor, Command("confirming", take_over))
        return self._document(supervisor)

    # -- trips --------------------------------------------------------------------------------------------------------

    def acknowledge(self, name: str) -> dict[str, Any]:
        """Somebody saw the trip; nothing else changes.

        Raises:
            RefusedError: there is none.
        """
        if self.readout is not None and name == self.readout.name:
            return self.readout.acknowledge()
        self._watch.unit(name)
        supervisor = self._instruments[name]
        try:
            self._driver(supervisor).trip.acknowledge()
        except DriverError as error:
            raise RefusedError(str(error)) from error
        return self._document(supervisor)

    async def reset(self, name: str) -> dict[str, Any]:
        """Clear an acknowledged trip whose cause is gone, also in the device; energises nothing.

        Raises:
            RefusedError: nobody acknowledged it, or its cause is still there.
        """
        if self.readout is not None and name == self.readout.name:
            return self.readout.reset()
        self._watch.unit(name)
        supervisor = self._instruments[name]
        try:
            self._driver(supervisor).trip.check_resettable()
        except DriverError as error:
            raise RefusedError(str(error)) from error
        lost = self._watch.still_lost(name)
        if lost:
            raise RefusedError(f"{name} stays tripped, the cause is still there: {'; '.join(lost)}")
        await self._watch.story_kept(name)
        await submit(supervisor, Command("resetting the trip", lambda driver: driver.reset_trip()))
        return self._document(supervisor)

    # -- limits and bypass --------------------------------------------------------------------------------------------

    async def limit(self, name: str, v_min: float, v_max: float) -> dict[str, Any]:
        """Give other operating limits, inside the hard limit, also for later starts; what is on stays where it is.

        Raises:
            RefusedError: they are none, reach outside the hard limit, or cannot be written.
        """
        supervisor, config = self._source(name)
        hard = config.bias
        if hard is None:
            raise RefusedError(f"{name} has no hard limit, so it is never switched on")
        if not hard.v_min <= v_min < v_max <= hard.v_max:
            raise RefusedError(
                f"{name}: {v_min:g} to {v_max:g} V refused: operating limits rise, inside the hard limit "
                f"{hard.v_min:g} to {hard.v_max:g} V"
            )
        await self._limits.give(config, OperatingLimits(v_min, v_max))
        return self._document(supervisor)

    async def stored(self, name: str, wanted: Stored) -> dict[str, Any]:
        """What a C11204 keeps by itself; stored anew first, with its output off, as far as something is wanted.

        Raises:
            RefusedError: it is another device, its output is not off, or the set could give more than its hard limit.
            DaemonError: what the device said.
        """
        from petqcd.config import HamamatsuC11204Config

        supervisor, config = self._source(name)
        if not isinstance(config, HamamatsuC11204Config):
            raise RefusedError(f"{name} is a {config.kind}: it keeps nothing that petqc sets")

        async def work(driver: Any) -> dict[str, Any]:
            if wanted.volts is not None:
                await driver.store(
                    Volts(wanted.volts),
                    at_degc=wanted.at_degc,
                    mv_per_k=wanted.mv_per_k,
                    mv_per_k2=wanted.mv_per_k2,
                )
            if wanted.stays_off:
                await driver.shut_down_on_over_current()
            found: dict[str, Any] = await driver.stored()
            return found

        return {"device": name, **await submit(supervisor, Command("what it keeps", work))}

    def bypass(self, name: str, permit: str, *, seconds: float, reason: str, by: str) -> dict[str, Any]:
        """Let one permit count as given for a time.

        Raises:
            RefusedError: it has no bypass, or the time is too long, or nobody says why.
        """
        unit, now_s = self._watch.unit(name), clock.monotonic_s()
        rules = unit.permits.rules
        granted = self._watch.bypasses.grant(name, rules, permit, seconds=seconds, reason=reason, by=by, now_s=now_s)
        return granted.document(now_s)

    def end_bypass(self, name: str, permit: str) -> dict[str, Any]:
        """End a bypass before its time.

        Raises:
            RefusedError: there is none.
        """
        return self._watch.bypasses.end(name, permit).document(clock.monotonic_s())

    # -- at the end of the daemon -------------------------------------------------------------------------------------

    async def stop(self) -> list[str]:
        """Do with each output what `on_stop` says, all at once; what must be said of those that stay on."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._stop(one)) for one in self._instruments.bias_sources]
        return [told for told in (task.result() for task in tasks) if told]

    async def _stop(self, supervisor: InstrumentSupervisor) -> str:
        driver = self._driver(supervisor)
        if driver.output is OutputState.OFF:
            return ""
        if self._config(supervisor).on_stop == "hold":
            at = "" if driver.commanded is None else f" at {driver.commanded}"
            return f"{supervisor.name}: {driver.output.value}{at}, left as it is (on_stop = hold)"
        try:
            await submit(supervisor, Command("ramping down", lambda one: one.ramp_off(), STOP_DEADLINE_S))
        except DaemonError:
            outcome = await supervisor.off()
            if outcome.state is not SafeState.IN_SAFE_STATE:
                return f"{supervisor.name}: {outcome.state}: {outcome.told}"
        return ""

    # -- inside -------------------------------------------------------------------------------------------------------

    def _source(self, name: str) -> tuple[InstrumentSupervisor, BiasSourceConfig]:
        self._watch.unit(name)
        supervisor = self._instruments[name]
        return supervisor, self._config(supervisor)

    @staticmethod
    def _config(supervisor: InstrumentSupervisor) -> BiasSourceConfig:
        from petqcd.config import BiasSourceConfig

        config = supervisor.config
        if not isinstance(config, BiasSourceConfig):
            raise NotFoundError(f"{supervisor.name} is a {config.kind}, and has no output")
        return config

    @staticmethod
    def _driver(supervisor: InstrumentSupervisor) -> BiasSource:
        driver = supervisor.driver
        if not isinstance(driver, BiasSource):
            raise NotFoundError(f"{supervisor.name} has no output")
        return driver

    def _target(self, supervisor: InstrumentSupervisor, volts: float) -> Volts:
        limits = self._limits.of(self._config(supervisor))
        if limits is None:
            raise RefusedError(f"{supervisor.name} has no hard limit ([device.bias]), so it is never switched on")
        limits.require(supervisor.name, volts)
        return Volts(volts)

    def _require(self, name: str) -> None:
        reasons = self._watch.against(name)
        if reasons:
            raise PermitError(f"{name} stays as it is: " + "; ".join(reasons))

    @staticmethod
    def _deadline_s(config: BiasSourceConfig, volts: float) -> float:
        slew = 1.0 if config.bias is None else config.bias.slew_v_per_s
        return SETTLE_DEADLINE_S + config.settle_s + 2 * abs(volts) / slew


def is_raised(now: Volts | None, target: Volts) -> bool:
    """Whether a voltage is more than another one, of either sign; only towards 0 V, and not past it, is less."""
    return now is None or not min(now.value, 0.0) <= target.value <= max(now.value, 0.0)


async def _settled(driver: BiasSource, target: Volts, settle_s: float) -> None:
    """Hold for a time; whatever is not as it should be then switches off.

    Raises:
        DriverError: it tripped, or did not stay.
    """
    until_s = clock.monotonic_s() + settle_s
    try:
        while clock.monotonic_s() < until_s:
            await asyncio.sleep(LOOK_S)
            await driver.poll()
            driver.trip.check_armed()
        _check_on(driver, target)
    except BaseException:
        await driver.off()
        raise


def _check_on(driver: BiasSource, target: Volts) -> None:
    if driver.output is not OutputState.ON:
        raise VerifyError(f"after settling at {target} its output is {driver.output.value}", device=driver.name)
