"""The schedule at work: due runs are started, what never happened becomes a record that says why.

Decisions are `petqcd.schedule`'s. A claim of a day is committed with the run itself, so that no restart and no clock
makes a day run twice. After a leap of the clock nothing is decided for a while: it may leap back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from petqcd import clock, records
from petqcd.errors import BusyError, DaemonError, StoreError
from petqcd.interlocks.permit_sources import EARLIEST_UNIX_S
from petqcd.kinds import find_kind
from petqcd.schedule import Attempt, actions, jobs
from petqcd.security.access import daemon_itself

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from petqcd.config import ScheduleConfig
    from petqcd.runs import RunManager
    from petqcd.schedule import Action
    from petqcd.security.audit import Audit
    from petqcd.store import Occasion

log = logging.getLogger(__name__)

EVERY_S = 5.0
LEAP_S = 3600.0
"""Wall time that moves by this much more or less than the monotonic clock, or stands so far before the newest record,
is not believed at once."""
WAIT_S = 900.0
"""How long; then it counts, for a missing QC is worse than one whose time is doubtful."""
NOT_RUNNING = "the daemon was not running"


class Scheduler:
    """Starts what is due; everything is called from the event loop.

    Args:
        config: [schedule].
        runs: starts runs.
        audit: where starts are recorded; None: nowhere.
        unix_s: wall clock.
        monotonic_s: monotonic clock.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        runs: RunManager,
        *,
        audit: Audit | None = None,
        unix_s: Callable[[], float] = clock.unix_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._jobs = jobs(config)
        self._runs = runs
        self._audit = audit
        self._services = runs.services
        self._unix_s, self._monotonic_s = unix_s, monotonic_s
        self._since: dict[str, datetime] = {}
        self._known: dict[str, dict[date, Attempt]] = {}
        self._why: dict[tuple[str, date], str] = {}
        self._begun_unix_s = 0.0
        self._offset_s = 0.0
        self._doubted_s: float | None = None
        self._overdue: dict[str, str] = {}

    async def begin(self) -> None:
        """Read what is known of earlier days; called once, after dead runs became records."""
        store = self._services.store
        now_s = self._begun_unix_s = self._unix_s()
        self._offset_s = now_s - self._monotonic_s()
        newest = await asyncio.to_thread(store.newest_time)
        await self._take_up(now_s)
        if newest is not None and now_s < datetime.fromisoformat(newest).timestamp() - LEAP_S:
            self._doubt("the clock stands before the newest record")

    async def _take_up(self, now_s: float) -> None:
        """Know of every job since when it is one; a clock that was never set cannot say, and is waited for."""
        if now_s < EARLIEST_UNIX_S:
            log.warning("schedule: the clock was never set (%s); nothing is due before it is", clock.utc_text(now_s))
            return
        for job in self._jobs:
            since = await self._services.store.schedule_since(job.name, clock.utc_text(now_s))
            await self._remember(job.name)
            self._since[job.name] = datetime.fromisoformat(since)

    async def _remember(self, name: str) -> None:
        occasions = await asyncio.to_thread(self._services.store.occasions, name)
        self._known[name] = {o.day: _attempt(o) for o in occasions}

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(EVERY_S)

    async def tick(self) -> None:
        """Do what is due now."""
        self._watch_clock()
        now = datetime.fromtimestamp(self._unix_s(), UTC)
        self._overdue.clear()
        if len(self._since) < len(self._jobs) and now.timestamp() >= EARLIEST_UNIX_S:
            await self._take_up(now.timestamp())
        if self._since and not self._is_doubted():
            for job in self._jobs:
                for action in actions(job, now, self._since[job.name], self._known[job.name]):
                    await self._do(action)
        self._publish(now)

    def document(self) -> list[dict[str, Any]]:
        """Every job with what it waits for, as plain types."""
        now = datetime.fromtimestamp(self._unix_s(), UTC)
        return [
            {
                "job": job.name,
                "kind": job.kind,
                "next_due": job.next_due(now).isoformat(timespec="seconds"),
                "overdue": self._overdue.get(job.name, ""),
            }
            for job in self._jobs
        ]

    async def _do(self, action: Action) -> None:
        job, key = action.job, (action.job.name, action.day)
        occasion = (job.name, action.day.isoformat(), action.attempt)
        try:
            if action.what == "miss":
                await self._miss(action, occasion)
                self._known[job.name][action.day] = Attempt(action.attempt, "missed")
                return
            told = f"Scheduled: {job.name}, due {_local(action)}."
            run_id = await self._runs.start(
                job.kind,
                source=f"[schedule] {job.name}",
                parameters=find_kind(job.kind).unattended,
                remark=told,
                occasion=occasion,
            )
        except StoreError as error:
            if self._why.get(key) != str(error):
                log.error("schedule %s of %s: %s", job.name, action.day, error)  # noqa: TRY400 - says it all
            self._why[key] = self._overdue[job.name] = str(error)
            # A claim whose answer was lost with the disk may stand: the day is then taken.
            with suppress(StoreError):
                await self._remember(job.name)
        except DaemonError as error:
            # Of another run that goes on: without what whoever asks now could do about it.
            why = str(error).partition(";")[0] if isinstance(error, BusyError) else str(error)
            if self._why.get(key) != why:
                log.warning("schedule %s of %s: %s", job.name, action.day, why)
            self._why[key] = self._overdue[job.name] = why
        else:
            self._known[job.name][action.day] = Attempt(action.attempt, "done")
            if self._audit is not None:  # the claim in the history was the record of the intent
                await self._audit.note(daemon_itself(f"schedule {job.name}"), "start-run", job.kind, result=run_id)

    async def _miss(self, action: Action, occasion: tuple[str, str, int]) -> None:
        from petqc.limits import Status

        services, job = self._services, action.job
        end = action.due + job.late
        why = self._why.pop((job.name, action.day), "")
        if not why and self._begun_unix_s > end.timestamp():
            why = NOT_RUNNING
        why = why or "the computer slept, or its clock was set"
        late = f"{job.late.total_seconds() / 60:.0f} min late at most"
        context = services.context(_run_id(action), job.kind, clock.utc_text(action.due.timestamp()))
        run = await asyncio.to_thread(records.invalid, context, "it never began")
        run.verdict = Status.MISSED
        run.sentence = f"Missed: {job.name} was due {_local(action)}, {late}: {why}."
        await services.miss(run, occasion)
        log.warning("%s", run.sentence)

    def _watch_clock(self) -> None:
        offset_s = self._unix_s() - self._monotonic_s()
        if abs(offset_s - self._offset_s) > LEAP_S:
            self._doubt(f"the clock leapt by {offset_s - self._offset_s:+.0f} s")
        self._offset_s = offset_s

    def _doubt(self, why: str) -> None:
        if self._jobs:
            log.warning("schedule: %s; nothing is decided for %g s", why, WAIT_S)
        self._doubted_s = self._monotonic_s()

    def _is_doubted(self) -> bool:
        if self._doubted_s is not None and self._monotonic_s() - self._doubted_s >= WAIT_S:
            self._doubted_s = None
        return self._doubted_s is not None

    def _publish(self, now: datetime) -> None:
        metrics = self._services.metrics
        for job in self._jobs:
            due_s = job.next_due(now).timestamp()
            metrics.set("petqc_schedule_next_due_timestamp_seconds", due_s, kind=job.kind)
            metrics.set("petqc_schedule_overdue", float(job.name in self._overdue), kind=job.kind)


def _attempt(occasion: Occasion) -> Attempt:
    if occasion.verdict == "missed":
        return Attempt(occasion.attempt, "missed")
    is_interrupted = records.DIED in (occasion.sentence or "")
    return Attempt(occasion.attempt, "interrupted" if is_interrupted else "done")


def _run_id(action: Action) -> str:
    return f"{clock.compact_utc(action.due.timestamp())}-{action.job.kind}-missed-{action.job.name}-{action.attempt}"


def _local(action: Action) -> str:
    at = action.due.astimezone(action.job.zone)
    return f"{at:%Y-%m-%d %H:%M} {action.job.zone.key}"
