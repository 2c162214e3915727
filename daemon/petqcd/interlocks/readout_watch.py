"""What holds the readout's own bias to its permits: before a run switches it on, and for as long as it is on.

A permit that is lost stops the run, whose bias goes off first and whose record is invalid with the reason. The trip
latches: no run energises before somebody acknowledged and reset it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import DriverError
from petqc_drivers.trip import Trip
from petqcd import clock
from petqcd.config.interlocks import PermitConfig
from petqcd.errors import DaemonError, RefusedError
from petqcd.instruments.state import trip_document
from petqcd.interlocks import permit_sources, permits
from petqcd.interlocks.bias_watch import AGAIN_S, BEFORE, TICK_S
from petqcd.interlocks.permits import Permits, Rule, Ruling
from petqcd.readout.board import OFF_DEADLINE_S
from petqcd.security.access import daemon_itself

if TYPE_CHECKING:
    from petqcd.config import PetqcConfig
    from petqcd.interlocks.alarm_keeper import AlarmKeeper
    from petqcd.interlocks.bias_watch import BiasWatch
    from petqcd.metrics import Metrics
    from petqcd.readout.supervisor import DeviceSupervisor
    from petqcd.runs import RunManager
    from petqcd.security.audit import Audit

log = logging.getLogger(__name__)

ALARMS = ("trip", "permit", "maintenance")
_OF_HOST = frozenset({permits.MAINTENANCE, permits.NO_TRIP, permits.AUDIT_DISK, permits.CLOCK})
"""Of the standard permits those that a run does not judge itself, on its connection."""
_ITSELF = daemon_itself("interlocks")


class ReadoutWatch:
    """Everything is called from the event loop.

    Args:
        config: the daemon's.
        device: the readout's supervisor.
        runs: which are stopped.
        watch: that of the bias sources, for what both need.
        alarms: where people are called.
        audit: where trips are recorded.
        metrics: where permits are published.
    """

    def __init__(
        self,
        config: PetqcConfig,
        device: DeviceSupervisor,
        runs: RunManager,
        watch: BiasWatch,
        alarms: AlarmKeeper,
        audit: Audit,
        metrics: Metrics,
    ) -> None:
        self.name = config.board.name
        self.trip = Trip(self.name)
        self._device, self._runs, self._watch = device, runs, watch
        self._alarms, self._audit, self._metrics = alarms, audit, metrics
        limits = config.board.temperature
        self._temperature = (
            None
            if limits is None
            else PermitConfig(
                name="temperature of modules",
                device=self.name,
                reading="any",
                low=limits.low_degc,
                high=limits.high_degc,
                no_bypass=True,
            )
        )
        self._permits = Permits(())
        self._ruling = Ruling()
        self._switching: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[Any] | None = None
        self._is_running = False
        self._off_due_s: float | None = None
        alarms.watch(self.name, ALARMS)
        before = "" if device.kept is None else device.kept.tripped(self.name)
        if before:  # a new start of petqc resets nothing
            self._latch(f"{BEFORE}{before.removeprefix(BEFORE)}")

    async def run(self) -> None:
        """Watch until cancelled."""
        self._is_running = True
        try:
            while True:
                self.look()
                await asyncio.sleep(TICK_S)
        finally:
            self._is_running = False
            if last := {task for task in (self._switching, self._telling) if task is not None}:
                await asyncio.wait(last)

    def against(self) -> tuple[str, ...]:
        """What stands in the way of energising now, with every permit as fresh as its source."""
        now_s = clock.monotonic_s()
        self._give(now_s)
        return self._permits.against(now_s)

    def _read_by_runs(self) -> set[str]:
        """What nobody reads while bias is off, and a run does before it switches on."""
        is_asked = self._temperature is None or self._device.may_be_energised
        return set() if is_asked or self._temperature is None else {self._temperature.name}

    def document(self) -> dict[str, Any]:
        """What is known, as plain types."""
        now_s = clock.monotonic_s()
        self._give(now_s)
        return {
            "name": self.name,
            "bias": str(self._device.state.bias),
            "trip": trip_document(self.trip),
            "against": list(self._permits.against(now_s, self._read_by_runs())),
            "permits": [
                {"name": name, "given": not why_not, "why_not": why_not}
                for name in self._permits.rules
                for why_not in [self._permits.objection(name, now_s)]
            ],
        }

    def look(self) -> None:
        """Once: permits, trip, alarms."""
        now_s = clock.monotonic_s()
        self._give(now_s)
        if self._device.may_be_energised:
            self._ruling = self._permits.rule(now_s)
            for reason in self._ruling.trips:
                self._latch(f"permit lost: {reason}")
        else:
            self._permits.it_is_off()
            self._ruling = Ruling(self._permits.against(now_s))
        if self.trip.causes and self._device.may_be_energised:
            self._switch_off(now_s)
        else:
            self._off_due_s = None
        self._tell(now_s)

    # -- what people do -----------------------------------------------------------------------------------------------

    def acknowledge(self) -> dict[str, Any]:
        """Somebody saw the trip; nothing else changes.

        Raises:
            RefusedError: there is none.
        """
        try:
            self.trip.acknowledge()
        except DriverError as error:
            raise RefusedError(str(error)) from error
        return self.document()

    def reset(self) -> dict[str, Any]:
        """Clear an acknowledged trip whose cause is gone; energises nothing.

        Raises:
            RefusedError: nobody acknowledged it, its cause is still there, or bias is not known to be off.
        """
        if self._device.may_be_energised:
            raise RefusedError(f"{self.name}: its bias is {self._device.state.bias}: switch it off first")
        now_s = clock.monotonic_s()
        self._give(now_s)
        lost = self._permits.still_lost(now_s, self._read_by_runs())
        try:
            self.trip.check_resettable()
            if lost:
                raise RefusedError(f"{self.name} stays tripped, the cause is still there: {'; '.join(lost)}")
            self.trip.rearm()
        except DriverError as error:
            raise RefusedError(str(error)) from error
        self._note()
        return self.document()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _give(self, now_s: float) -> None:
        conditions = self._watch.conditions.of(self.name)
        rules = [rule for rule in permits.STANDARD if rule.name in _OF_HOST]
        rules += [one.rule() for one in conditions]
        given = [
            permit_sources.of_maintenance(self._watch.maintenance.of(self.name), now_s),
            permit_sources.of_trip(self.trip, now_s),
            *permit_sources.of_host(self._watch.health, now_s=now_s, unix_s=clock.machine_s()),
            *self._watch.conditions.given(conditions),
        ]
        if self._temperature is not None:
            # To energise, the run reads them on its own connection first; what is old then is not within.
            rules.append(Rule(name=self._temperature.name, can_be_bypassed=True))
            found = permit_sources.of_temperatures(self._temperature, self._device.last_temperatures)
            given += [] if found is None else [found]
        self._permits.need(rules)
        for permit in given:
            self._permits.give(permit)

    def _latch(self, cause: str) -> None:
        known = len(self.trip.causes)
        self.trip.latch(cause)
        if len(self.trip.causes) > known:
            log.error("%s: %s", self.name, cause)
            self._note()
            if self._is_running:
                self._telling = asyncio.create_task(self._told(cause))

    async def _told(self, cause: str) -> None:
        """On the disk at once: a trip must outlive whatever comes next."""
        if self._device.kept is not None:
            await self._device.kept.commit()
        await self._audit.note(_ITSELF, "trip", self.name, cause=cause)

    def _note(self) -> None:
        """Keep it over a restart."""
        causes = self.trip.causes
        self._device.trip_is(causes[0].cause if causes else "")

    def _switch_off(self, now_s: float) -> None:
        """Stop the run, which switches off first of all; what is on although none goes on, or still is, directly."""
        if self._off_due_s is None:
            self._off_due_s = now_s
            with contextlib.suppress(RefusedError):
                self._runs.abort(f"{self.trip.causes[0].cause}; bias was switched off")
                self._off_due_s = now_s + OFF_DEADLINE_S
        if now_s >= self._off_due_s and (self._switching is None or self._switching.done()):
            self._off_due_s = now_s + AGAIN_S
            self._switching = asyncio.create_task(self._off(), name=f"{self.name} off")

    async def _off(self) -> None:
        try:
            await self._runs.off()
        except DaemonError as error:
            log.error("%s is tripped and not known to be off: %s", self.name, error)  # noqa: TRY400 - it says it all

    def _tell(self, now_s: float) -> None:
        causes = self.trip.causes
        doubts = "; ".join(self._ruling.doubts)
        self._alarms.condition("trip", self.name, is_wrong=bool(causes), detail=causes[0].cause if causes else "")
        self._alarms.condition("permit", self.name, is_wrong=bool(doubts), detail=doubts)
        work = self._watch.maintenance.of(self.name)
        self._alarms.maintenance(self.name, work)
        self._metrics.set("petqc_maintenance", float(work is not None), device=self.name)
        for name in self._permits.rules:
            is_given = not self._permits.objection(name, now_s)
            self._metrics.set("petqc_permit_given", float(is_given), device=self.name, permit=name)
