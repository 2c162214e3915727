"""Ten years of the real scheduler, five in Europe and five in the US: summer time, clocks that are set, restarts.

Every day ends in exactly one run or one record that it was missed. Where a clock was set back over a day that had been
missed, the record stays and the day is measured as well.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from petqc.analysis import RunContext
from petqcd import clock, records
from petqcd.config import JobConfig, ScheduleConfig
from petqcd.errors import BusyError, StoreError
from petqcd.metrics import Metrics
from petqcd.schedule import jobs
from petqcd.scheduler import WAIT_S, Scheduler
from petqcd.store import Occasion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from petqc.results import Run

YEARS = timedelta(days=5 * 365.25)
HOUR_S, DAY_S = 3600.0, 86_400.0
STEPS_S = (HOUR_S, -HOUR_S, DAY_S, -DAY_S)
LATE = timedelta(hours=8)


@dataclass
class History:
    """What the store keeps of a schedule, under the store's own rule: job, day and attempt are there once."""

    since: dict[str, str] = field(default_factory=dict)
    claims: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)
    newest_s: float = 0.0

    def claim(self, occasion: tuple[str, str, int], verdict: str, sentence: str, at_s: float) -> None:
        if occasion in self.claims:
            raise StoreError(f"{occasion} is claimed")
        self.claims[occasion] = (verdict, sentence)
        self.newest_s = max(self.newest_s, at_s)

    async def schedule_since(self, job: str, now: str) -> str:
        return self.since.setdefault(job, now)

    def occasions(self, job: str) -> list[Occasion]:
        last: dict[str, int] = {}
        for name, day, attempt in self.claims:
            if name == job:
                last[day] = max(attempt, last.get(day, 0))
        return [Occasion(date.fromisoformat(d), n, "r", *self.claims[job, d, n]) for d, n in last.items()]

    def newest_time(self) -> str | None:
        return clock.utc_text(self.newest_s) if self.newest_s else None


class Days:
    """A daemon in simulated time: clocks that are set, restarts, runs that are in the way or die."""

    def __init__(self, zone: str, at: time, begin: datetime, seed: int) -> None:
        self.chance = random.Random(seed)
        self.begin = begin
        self.unix_s, self.monotonic_s = begin.timestamp(), 0.0
        self.history = History()
        job = JobConfig(kind="daily", at=at, late_minutes=int(LATE.total_seconds() / 60))
        self.config = ScheduleConfig(timezone=zone, job=(job,))
        self.metrics = Metrics("ten years", "none", simulated=True)
        self.went_back_s: list[tuple[float, float]] = []
        self.skipped_s: list[tuple[float, float]] = []
        self.steps = self.restarts = self.dead = 0

    # What the scheduler needs of the daemon: its runs, and the services of these.
    @property
    def services(self) -> Any:
        return SimpleNamespace(store=self.history, metrics=self.metrics, context=self.context, miss=self.miss)

    def context(self, run_id: str, kind: str, started_at: str) -> RunContext:
        return RunContext(run_id, kind, "ten years", started_at, clock.utc_text(self.unix_s), simulated=True)

    async def miss(self, run: Run, occasion: tuple[str, str, int]) -> None:
        self.history.claim(occasion, str(run.verdict), run.sentence, self.unix_s)

    async def start(
        self, _kind: str, *, source: str, parameters: Mapping[str, Any], remark: str, occasion: tuple[str, str, int]
    ) -> str:
        assert not parameters  # a daily run that begins by itself needs none
        if self.chance.random() < 0.1:
            raise BusyError("another run is going on")
        dies = self.chance.random() < 0.02
        self.history.claim(occasion, "invalid" if dies else "pass", records.DIED if dies else "", self.unix_s)
        self.dead += dies
        return f"{source} {remark}"

    async def began(self) -> Scheduler:
        made = Scheduler(self.config, self, unix_s=lambda: self.unix_s, monotonic_s=lambda: self.monotonic_s)  # type: ignore[arg-type]
        await made.begin()
        return made

    def passes(self, seconds: float) -> None:
        self.unix_s += seconds
        self.monotonic_s += seconds

    def set_clock(self, by_s: float) -> None:
        if by_s < 0:
            self.went_back_s.append((self.unix_s + by_s, self.unix_s))
        self.unix_s += by_s
        self.steps += 1

    async def live(self) -> None:
        """Five years; a look every few hours, and more often around what is due and after a step."""
        scheduler = await self.began()
        undo_s: float | None = None
        while self.unix_s < (self.begin + YEARS).timestamp():
            self.passes(self.chance.uniform(2.0, 7.0) * HOUR_S)
            happens = self.chance.random()
            if undo_s is not None and happens < 0.1:
                self.set_clock(undo_s)
                undo_s = None
            elif undo_s is None and happens < 0.03:
                by_s = self.chance.choice(STEPS_S)
                self.set_clock(by_s)
                undo_s = -by_s
            elif happens > 0.985:
                self.passes(self.chance.choice((30.0, 4 * HOUR_S, 3 * DAY_S)))
                scheduler = await self.began()
                self.restarts += 1
            await scheduler.tick()
            if self.chance.random() < 0.15:
                self.passes(WAIT_S + 1)
                await scheduler.tick()
        self.passes(WAIT_S + 1)
        await scheduler.tick()


@pytest.mark.parametrize(
    ("zone", "at", "begin", "seed"),
    [
        ("Europe/Amsterdam", time(2, 30), datetime(2026, 1, 10, tzinfo=UTC), 1),
        ("America/New_York", time(1, 30), datetime(2031, 1, 10, tzinfo=UTC), 2),
    ],
)
def test_in_ten_years_every_day_is_one_run_or_one_record_that_it_was_missed(
    zone: str, at: time, begin: datetime, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
        async def done() -> Any:
            return work(*arguments)

        return done()

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # a thread for each of thousands of days takes longer than they
    days = Days(zone, at, begin, seed)
    asyncio.run(days.live())
    (job,) = jobs(days.config)
    now = datetime.fromtimestamp(days.unix_s, UTC)
    ends: dict[date, list[str]] = {}
    for _, day, attempt in sorted(days.history.claims):
        verdict, sentence = days.history.claims["daily", day, attempt]
        ends.setdefault(date.fromisoformat(day), []).append("died" if sentence == records.DIED else verdict)
    day, missed, doubly = job.today(begin), 0, 0
    while job.due(day) + LATE < now:
        if job.due(day) >= begin:
            found = ends.get(day, [])
            assert found, f"{day} has no end"
            assert found.count("pass") <= 1, f"{day} ran twice: {found}"
            assert found.count("missed") <= 1, f"{day} was missed twice: {found}"
            if "missed" in found and len(found) > 1:
                doubly += 1
                due_s = job.due(day).timestamp()
                went_over = [a < due_s + LATE.total_seconds() and due_s < b for a, b in days.went_back_s]
                assert any(went_over), f"{day}: {found}, and no clock was set back over it"
            missed += found == ["missed"]
        day += timedelta(days=1)
    assert len(ends) > 1700
    assert days.steps > 100
    assert days.restarts > 50
    assert 20 < missed < 700, missed
    assert days.dead > 10
    assert doubly < days.steps
