"""When scheduled runs are due: a pure function of the schedule, the time and what is known of earlier days.

A job is due at a local time of a day, and may start late until its window is over; the day is then missed. A local time
that a change to summer time leaves out is the first instant after it; one that comes twice is the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqcd.config import ScheduleConfig

MOST_ATTEMPTS = 2
"""A run that died with its daemon is tried once more, inside its window."""
MOST_DAYS = 400
"""Further back nothing is missed any more: a computer that was off so long has no daily QC to account for."""

LONGEST_WINDOW = timedelta(days=3)
"""From the day after the present one back to the first whose window may be open: it is a day long at most."""

State = Literal["open", "interrupted", "missed", "done"]
"""What became of an attempt: going on, died with the daemon, never began, or ended with a verdict."""
ENDED = ("open", "done")
"""After which no other attempt is made."""


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the schedule. days: 0 is Monday. late: how long after `at` it may still start."""

    name: str
    kind: str
    at: time
    days: frozenset[int]
    late: timedelta
    zone: ZoneInfo

    def due(self, day: date) -> datetime:
        """The instant, UTC, at which it is due on a local day."""
        wanted = datetime.combine(day, self.at)
        found = wanted.replace(tzinfo=self.zone).astimezone(UTC)
        if found.astimezone(self.zone).replace(tzinfo=None) == wanted:
            return found
        return _end_of_gap(wanted, self.zone)

    def today(self, now: datetime) -> date:
        """The local day."""
        return now.astimezone(self.zone).date()

    def next_due(self, now: datetime) -> datetime:
        """The first instant after `now` at which it is due."""
        day = self.today(now) - timedelta(days=1)
        while day.weekday() not in self.days or self.due(day) <= now:
            day += timedelta(days=1)
        return self.due(day)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of a job's run of a day."""

    number: int
    state: State


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done about a job's run of a day: `start` it, or store that it was `miss`ed."""

    what: Literal["start", "miss"]
    job: Job
    day: date
    attempt: int
    due: datetime


def jobs(config: ScheduleConfig) -> list[Job]:
    """The jobs of a configuration."""
    zone = ZoneInfo(config.timezone)
    return [
        Job(
            one.name or one.kind,
            one.kind,
            one.at,
            frozenset(DAYS.index(day) for day in one.days),
            timedelta(minutes=one.late_minutes),
            zone,
        )
        for one in config.job
    ]


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def actions(job: Job, now: datetime, since: datetime, known: Mapping[date, Attempt]) -> Sequence[Action]:
    """What is to be done now about a job, the oldest day first.

    Args:
        job: of the schedule.
        now: UTC.
        since: when the job came into the schedule; what was due before is nobody's.
        known: the last attempt of each day that has one.
    """
    found = []
    # A day's window may end on the next one, and begins on the day before where the zone was changed.
    last = job.today(now) + timedelta(days=1)
    day = max(job.today(since) - timedelta(days=1), last - timedelta(days=MOST_DAYS))
    while day <= last:
        attempt = known.get(day)
        is_over = attempt is not None and (attempt.state in ENDED or day < last - LONGEST_WINDOW)
        action = None if is_over else _action(job, day, now, since, attempt)
        if action is not None:
            found.append(action)
        day += timedelta(days=1)
    return found


def _action(job: Job, day: date, now: datetime, since: datetime, attempt: Attempt | None) -> Action | None:
    if day.weekday() not in job.days:
        return None
    due = job.due(day)
    if due < since or due > now:
        return None
    is_open = now <= due + job.late
    if attempt is None:
        return Action("start" if is_open else "miss", job, day, 1, due)
    # What was missed, and is in its window again, was missed by a clock that was wrong.
    is_again = attempt.state == "missed" or (attempt.state == "interrupted" and attempt.number < MOST_ATTEMPTS)
    return Action("start", job, day, attempt.number + 1, due) if is_open and is_again else None


def unusual_days(job: Job, since: date) -> list[str]:
    """In words, on which of the 366 days from `since` its local time does not exist, or comes twice."""
    found = []
    for day in (since + timedelta(days=n) for n in range(366)):
        if day.weekday() not in job.days:
            continue
        wanted = datetime.combine(day, job.at)
        first, second = (wanted.replace(tzinfo=job.zone, fold=fold) for fold in (0, 1))
        due = job.due(day).astimezone(job.zone)
        told = f"{job.name}: {wanted:%Y-%m-%d %H:%M} in {job.zone.key}"
        if due.replace(tzinfo=None) != wanted:
            found.append(f"{told} does not exist (clocks are put on): it starts at {due:%H:%M %Z}")
        elif first.utcoffset() != second.utcoffset():
            found.append(f"{told} comes twice (clocks are put back): it starts at the first, {due:%H:%M %Z}")
    return found


def _end_of_gap(wanted: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which a zone leaps over a local time."""
    before = wanted.replace(tzinfo=zone, fold=0).utcoffset() or timedelta()
    after = wanted.replace(tzinfo=zone, fold=1).utcoffset() or timedelta()
    low, high = (wanted.replace(tzinfo=UTC) - offset for offset in (after, before))
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if middle.astimezone(zone).utcoffset() == after:
            high = middle
        else:
            low = middle
    return high
