"""What holds bias sources to their permits: looks twice a second, trips, keeps what was known, calls people.

It never switches anything on. What it does to an output is off, through the device's supervisor, which overtakes every
queue; what it latches stays until somebody acknowledges and resets.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import DriverError
from petqcd import clock, small_file
from petqcd.errors import DaemonError, NotFoundError
from petqcd.instruments.command_queue import Command, Priority
from petqcd.instruments.state import InstrumentState
from petqcd.interlocks import permit_sources, permits
from petqcd.interlocks.alarm_keeper import FILE_DAMAGED, OF_EVERY_DEVICE, OF_OUTPUTS, RETIRED, AlarmKeeper
from petqcd.interlocks.alarms import Severity
from petqcd.interlocks.bypass import Bypasses
from petqcd.interlocks.conditions import Conditions
from petqcd.interlocks.first_fault import Capture
from petqcd.interlocks.maintenance import InMaintenance
from petqcd.interlocks.permit_sources import HostHealth
from petqcd.interlocks.permits import Permits, Ruling
from petqcd.readout.supervisor import BiasState
from petqcd.security.access import daemon_itself
from petqcd.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from petqcd.config import PetqcConfig
    from petqcd.instruments.collection import Instruments
    from petqcd.instruments.supervisor import InstrumentSupervisor
    from petqcd.metrics import Gauge, Metrics
    from petqcd.off.kept_outputs import KeptOutputs
    from petqcd.security.audit import Audit

log = logging.getLogger(__name__)

TICK_S = 0.5
START_GRACE_S = 20.0
"""Until every device had the time to connect, what was never known does not count against what was found on."""
AGAIN_S = 10.0
"""Between two tries to switch off what does not confirm that it is off."""
LIMITS_EVERY_S = 60.0
HOST_EVERY_S = 5.0
DOUBTFUL = frozenset({Quality.UNCERTAIN, Quality.BAD})
ON = frozenset({OutputState.ON, OutputState.RAMPING, OutputState.ADOPTED})
FAULTS = "trips"
BEFORE = "before petqc was started: "
MOST_FAULT_FILES = 200
_ITSELF = daemon_itself("interlocks")


@dataclass(slots=True)
class Unit:
    """One bias source as it is watched. ruling: of the last look; gauges: of each permit, given and bypassed."""

    permits: Permits
    capture: Capture
    since_s: float
    ruling: Ruling = field(default_factory=Ruling)
    was_on: bool = False
    causes_told: int = 0
    off_tried_s: float = -1e9
    limits_asked_s: float = -1e9
    is_busy: bool = False
    gauges: dict[str, tuple[Gauge, Gauge]] = field(default_factory=dict)


class BiasWatch:
    """Everything is called from the event loop.

    Args:
        config: the daemon's.
        instruments: all supervisors.
        alarms: where people are called.
        kept: what is written of outputs.
        audit: where trips are recorded.
        metrics: where permits are published.
        state_dir: where the stories of faults are kept.
        newest_unix_s: when the newest record was made that is stored.
    """

    def __init__(
        self,
        config: PetqcConfig,
        instruments: Instruments,
        alarms: AlarmKeeper,
        kept: KeptOutputs,
        audit: Audit,
        metrics: Metrics,
        state_dir: Path,
        newest_unix_s: float,
    ) -> None:
        self.bypasses = Bypasses()
        self.maintenance = InMaintenance(state_dir)
        self.conditions = Conditions(config, instruments)
        self._instruments, self._alarms, self._kept = instruments, alarms, kept
        self._audit, self._metrics, self._state_dir = audit, metrics, state_dir
        self._units: dict[str, Unit] = {}
        self.health = HostHealth(None, newest_unix_s, can_write=True)
        self._health_due_s = 0.0
        self._work: set[asyncio.Task[Any]] = set()
        self._is_keeping = False

    def unit(self, name: str) -> Unit:
        """How a bias source is watched.

        Raises:
            NotFoundError: there is none of that name.
        """
        supervisor = self._instruments[name]
        if not isinstance(supervisor.driver, BiasSource):
            raise NotFoundError(f"{name} is a {supervisor.config.kind}, and has no output")
        found = self._units.get(name)
        if found is None:
            rules = [*permits.STANDARD, *(one.rule() for one in self.conditions.of(name))]
            found = Unit(Permits(rules), Capture(name), clock.monotonic_s())
            self._units[name] = found
            before = self._kept.tripped(name)
            if before:  # a new start of petqc resets nothing
                supervisor.driver.trip.latch(f"{BEFORE}{before.removeprefix(BEFORE)}")
        return found

    def against(self, name: str) -> tuple[str, ...]:
        """What stands in the way of energising now, with every permit as fresh as its source."""
        unit, now_s = self.unit(name), clock.monotonic_s()
        self._give(unit, self._instruments[name], now_s)
        return unit.permits.against(now_s, self.bypasses.of(name, now_s))

    def still_lost(self, name: str) -> tuple[str, ...]:
        """Permits that would trip it again as soon as it were on."""
        unit, now_s = self.unit(name), clock.monotonic_s()
        self._give(unit, self._instruments[name], now_s)
        return unit.permits.still_lost(now_s, self.bypasses.of(name, now_s))

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._look()
                if not self._is_keeping:  # a disk that takes its time does not hold up the next look
                    self._is_keeping = True
                    self._do(self._keep(), "keep what is known")
                await asyncio.sleep(TICK_S)
        finally:
            await self._end()

    async def _keep(self) -> None:
        try:
            await self._look_at_host()
            await self._kept.commit()
            await self._alarms.flush()
        finally:
            self._is_keeping = False

    async def _end(self) -> None:
        """What is going on towards off is waited for; the story of a fault is kept as far as it goes."""
        if self._work:
            await asyncio.wait(self._work)
        for unit in self._units.values():
            story = unit.capture.cut_short()
            if story is not None:
                await asyncio.to_thread(self._keep_story, story)
        await self._kept.commit()
        await self._alarms.flush()

    # -- one look -----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Once at everything: permits, trips, alarms, what is written; with turns for others in between."""
        turns = Turns()
        for supervisor in list(self._instruments):
            self._look_at_one(supervisor)
            await turns.next()
        now_s = clock.monotonic_s()
        for bypass in self.bypasses.ended(now_s):
            self._do(self._audit.note(_ITSELF, "bypass", bypass.device, ended=bypass.permit), "note a bypass")
        problem = self._kept.warning or ("" if self._kept.can_write else "it cannot be written")
        self._alarms.scanner_condition(FILE_DAMAGED, is_wrong=bool(problem), detail=problem)
        retired = ", ".join(one.name for one in self._kept.retired())
        self._alarms.scanner_condition(RETIRED, is_wrong=bool(retired), detail=retired)

    def _look_at_one(self, supervisor: InstrumentSupervisor) -> None:
        if not self._instruments.has(supervisor):
            return  # its simulator has just ended
        now_s = clock.monotonic_s()
        self._alarms.watch(
            supervisor.name, OF_OUTPUTS if isinstance(supervisor.driver, BiasSource) else OF_EVERY_DEVICE
        )
        work = self.maintenance.of(supervisor.name)
        supervisor.someone_works("" if work is None else work.told)
        self._alarms.maintenance(supervisor.name, work)
        self._metrics.set("petqc_maintenance", float(work is not None), device=supervisor.name)
        self._link(supervisor)
        if isinstance(supervisor.driver, BiasSource):
            self._look_at(supervisor, supervisor.driver, now_s)
            self._publish(supervisor.name, now_s)
        self._alarms.alarms.calm(supervisor.name, now_s, clock.unix_s())

    def _look_at(self, supervisor: InstrumentSupervisor, driver: BiasSource, now_s: float) -> None:
        name, unit = supervisor.name, self.unit(supervisor.name)
        unit.capture.add(supervisor.readings(), now_s)
        self._give(unit, supervisor, now_s)
        is_seen_on = driver.output in ON
        unit.was_on = is_seen_on or (unit.was_on and supervisor.bias is not BiasState.OFF_CONFIRMED)
        bypassed = self.bypasses.of(name, now_s)
        if unit.was_on:
            is_starting = now_s - unit.since_s < START_GRACE_S
            unit.ruling = unit.permits.rule(now_s, bypassed, is_starting=is_starting)
            for reason in unit.ruling.trips:
                driver.trip.latch(f"permit lost: {reason}", supervisor.readings())
        else:
            unit.permits.it_is_off()
            unit.ruling = Ruling(unit.permits.against(now_s, bypassed))
        self._trips(unit, supervisor, driver, now_s)
        if is_seen_on and supervisor.answers and _limits_are_due(driver, unit, now_s) and not unit.is_busy:
            unit.limits_asked_s = now_s
            self._do(self._ask_limits(supervisor), f"limits of {name}")
        self._note(supervisor, driver)
        story = unit.capture.finished(now_s)
        if story is not None:
            self._do(asyncio.to_thread(self._keep_story, story), f"story of {name}")
        self._conditions(unit, supervisor, driver, bypassed)

    def _give(self, unit: Unit, supervisor: InstrumentSupervisor, now_s: float) -> None:
        driver = supervisor.driver
        assert isinstance(driver, BiasSource)  # noqa: S101 - whoever calls has asked; for the type checker
        config = supervisor.config
        given = permit_sources.of_device(driver, can_energise=config.can_energise, poll_s=config.poll_s, now_s=now_s)
        given.append(permit_sources.of_maintenance(self.maintenance.of(supervisor.name), now_s))
        given += permit_sources.of_host(self.health, now_s=now_s, unix_s=clock.machine_s())
        conditions = self.conditions.of(supervisor.name)
        given += self.conditions.given(conditions)
        unit.permits.need([*permits.STANDARD, *(one.rule() for one in conditions)])
        for permit in given:
            unit.permits.give(permit)

    def _trips(self, unit: Unit, supervisor: InstrumentSupervisor, driver: BiasSource, now_s: float) -> None:
        """Off, if it is tripped and may be on; and the first fault begins its story."""
        causes = driver.trip.causes
        unit.causes_told = min(unit.causes_told, len(causes))
        for one in causes[unit.causes_told :]:
            unit.capture.fault(one.cause, now_s, clock.unix_s())
            self._do(self._audit.note(_ITSELF, "trip", supervisor.name, cause=one.cause), "note a trip")
        unit.causes_told = len(causes)
        may_be_on = driver.output in ON or (unit.was_on and supervisor.bias is not BiasState.OFF_CONFIRMED)
        if not causes or not may_be_on or unit.is_busy:
            return
        if driver.output in ON or now_s - unit.off_tried_s >= AGAIN_S:
            unit.is_busy = True
            self._do(self._off(unit, supervisor), f"trip of {supervisor.name}")

    async def _off(self, unit: Unit, supervisor: InstrumentSupervisor) -> None:
        try:
            await supervisor.off()
        finally:
            unit.off_tried_s = clock.monotonic_s()
            unit.is_busy = False

    async def _ask_limits(self, supervisor: InstrumentSupervisor) -> None:
        """The device's own limits; what cannot be asked grows old, and is doubt then."""
        command = Command("reading its own limits", lambda driver: driver.check_own_limits())
        try:
            await supervisor.submit(command, Priority.DIAGNOSTICS)
        except (DriverError, DaemonError, TimeoutError) as error:
            log.debug("%s: its own limits: %s", supervisor.name, error)

    # -- what is told -------------------------------------------------------------------------------------------------

    def _note(self, supervisor: InstrumentSupervisor, driver: BiasSource) -> None:
        if supervisor.known_state is InstrumentState.CONNECTING:
            return  # what the process before knew is all that is known
        commanded = None if driver.commanded is None else driver.commanded.value
        state = "unknown" if supervisor.bias is BiasState.UNKNOWN else driver.output.value
        causes = driver.trip.causes
        self._kept.note(supervisor.name, state, commanded, causes[0].cause if causes else "")

    def _link(self, supervisor: InstrumentSupervisor) -> None:
        may_be_on = supervisor.bias not in (None, BiasState.OFF_CONFIRMED)
        severity = Severity.MAJOR if may_be_on else Severity.MINOR
        self._alarms.condition(
            "link", supervisor.name, is_wrong=supervisor.is_lost, detail=supervisor.detail, severity=severity
        )
        doubts = [one for one in supervisor.readings() if one.quality in DOUBTFUL] if supervisor.answers else []
        reasons = dict.fromkeys(one.reason or f"{one.name} is {one.quality}" for one in doubts)
        self._alarms.condition("reading", supervisor.name, is_wrong=bool(doubts), detail="; ".join(reasons))

    def _conditions(self, unit: Unit, supervisor: InstrumentSupervisor, driver: BiasSource, bypassed: set[str]) -> None:
        name, causes = supervisor.name, driver.trip.causes
        for kind, is_wrong, detail in (
            ("trip", bool(causes), causes[0].cause if causes else ""),
            ("unsafe", supervisor.state is InstrumentState.UNKNOWN, supervisor.detail),
            ("adopted", driver.output is OutputState.ADOPTED, "its output was found on"),
            ("permit", bool(unit.ruling.doubts), "; ".join(unit.ruling.doubts)),
            ("bypass", bool(bypassed), ", ".join(sorted(bypassed))),
        ):
            self._alarms.condition(kind, name, is_wrong=is_wrong, detail=detail)

    def _publish(self, name: str, now_s: float) -> None:
        bypassed = self.bypasses.of(name, now_s)
        unit = self.unit(name)
        for permit in unit.permits.rules:
            if permit not in unit.gauges:
                unit.gauges[permit] = (
                    self._metrics.gauge("petqc_permit_given", device=name, permit=permit),
                    self._metrics.gauge("petqc_permit_bypassed", device=name, permit=permit),
                )
            is_given, is_bypassed = unit.gauges[permit]
            is_given.set(float(not unit.permits.objection(permit, now_s)))
            is_bypassed.set(float(permit in bypassed))

    def _keep_story(self, story: dict[str, Any]) -> None:
        folder = self._state_dir / FAULTS
        folder.mkdir(exist_ok=True)
        old = sorted(path for path in folder.glob("*.json"))
        for path in old[: max(len(old) - MOST_FAULT_FILES + 1, 0)]:
            path.unlink()
        small_file.write(folder / f"{clock.compact_utc(story['at_unix_s'])}-{story['device']}.json", story)

    async def outputs_kept(self) -> None:
        """Write what is known of every output now."""
        for supervisor in self._instruments.bias_sources:
            if isinstance(supervisor.driver, BiasSource):
                self._note(supervisor, supervisor.driver)
        await self._kept.commit()

    async def story_kept(self, name: str) -> None:
        """Keep the story of the last fault as far as it goes, before it is forgotten."""
        story = self.unit(name).capture.cut_short()
        if story is not None:
            await asyncio.to_thread(self._keep_story, story)

    async def _look_at_host(self) -> None:
        now_s = clock.monotonic_s()
        if now_s >= self._health_due_s:
            self._health_due_s = now_s + HOST_EVERY_S
            free = await asyncio.to_thread(permit_sources.free_bytes, self._state_dir)
            newest = max(self.health.newest_unix_s, self._audit.store.last_commit_unix_s, clock.unix_s())
            self.health = HostHealth(
                free, newest, can_write=self._kept.can_write, is_synchronised=clock.is_synchronised()
            )

    def _do(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Something that takes its time; the next look does not wait for it."""
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())


def _limits_are_due(driver: BiasSource, unit: Unit, now_s: float) -> bool:
    checked_s = -1e9 if driver.limits_checked_s is None else driver.limits_checked_s
    return now_s - max(checked_s, unit.limits_asked_s) >= LIMITS_EVERY_S
