"""The schedule: each day once or missed with a reason, across restarts, summer time and clocks that leap."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_daemon_runs import DEADLINE_S, World, bench, world  # noqa: F401 - bench is a fixture

from petqcd import clock
from petqcd.config import HousekeepingConfig, JobConfig, ScheduleConfig
from petqcd.errors import StoreError
from petqcd.schedule import Attempt, Job, actions, unusual_days
from petqcd.scheduler import EVERY_S, WAIT_S, Scheduler
from petqcd.security.audit import Audit, entries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EVERY_DAY = frozenset(range(7))
ZONES = ("Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC")
LATE = timedelta(hours=2)


def job(zone: str = "Europe/Amsterdam", at: time = time(6), days: frozenset[int] = EVERY_DAY) -> Job:
    return Job("daily", "daily", at, days, LATE, ZoneInfo(zone))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_local_times_that_do_not_exist_or_come_twice() -> None:
    assert job().due(date(2026, 3, 28)) == utc("2026-03-28T05:00")
    assert job().due(date(2026, 3, 29)) == utc("2026-03-29T04:00")
    assert job(at=time(2, 30)).due(date(2026, 3, 29)) == utc("2026-03-29T01:00")  # the clock leaps from 2 to 3
    assert job(at=time(2, 30)).due(date(2026, 10, 25)) == utc("2026-10-25T00:30")  # the first of two
    assert job("Australia/Lord_Howe", time(2, 15)).due(date(2026, 10, 4)) == utc("2026-10-03T15:30")  # half an hour
    assert job(days=frozenset({0})).next_due(utc("2026-03-02T05:00")) == utc("2026-03-09T05:00")


def test_a_day_is_started_in_its_window_and_missed_after_it() -> None:
    since, day = utc("2026-03-01T12:00"), date(2026, 3, 2)

    def decided(now: str, known: Mapping[date, Attempt] | None = None) -> list[tuple[str, date, int]]:
        return [(a.what, a.day, a.attempt) for a in actions(job(), utc(now), since, known or {})]

    assert decided("2026-03-02T04:59") == []
    assert decided("2026-03-02T05:00") == [("start", day, 1)]
    assert decided("2026-03-02T07:00") == [("start", day, 1)]
    assert decided("2026-03-02T07:01") == [("miss", day, 1)]
    assert decided("2026-03-04T05:30") == [
        ("miss", day, 1),
        ("miss", date(2026, 3, 3), 1),
        ("start", date(2026, 3, 4), 1),
    ]
    assert decided("2026-03-02T05:30", {day: Attempt(1, "done")}) == []
    assert decided("2026-03-02T05:30", {day: Attempt(1, "interrupted")}) == [("start", day, 2)]
    assert decided("2026-03-02T05:30", {day: Attempt(2, "interrupted")}) == []
    assert decided("2026-03-02T09:30", {day: Attempt(1, "interrupted")}) == []


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 24 * 60 - 1),
    begin=st.integers(0, 2 * 365),
    steps=st.lists(st.integers(1, 40 * 60), min_size=5, max_size=40),
    back=st.lists(st.integers(0, 300), min_size=40, max_size=40),
    dies=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_every_day_has_exactly_one_end(
    zone: str, minute: int, begin: int, steps: list[int], back: list[int], dies: list[bool]
) -> None:
    """The daemon looks at odd times, its runs die, its clock is set back by minutes: no day twice, none lost."""
    one = job(zone, time(minute // 60, minute % 60))
    since = now = utc("2025-01-15T00:00") + timedelta(days=begin)
    known: dict[date, Attempt] = {}
    ends: dict[date, list[str]] = {}
    for k, step in enumerate(steps):
        now += timedelta(minutes=step)
        for action in actions(one, now, since, known):
            assert action.due <= now
            if action.what == "miss":
                known[action.day] = Attempt(action.attempt, "missed")
                assert now > action.due + LATE
            else:
                assert now <= action.due + LATE
                known[action.day] = Attempt(action.attempt, "interrupted" if dies[k] else "done")
            ends.setdefault(action.day, []).append(known[action.day].state)
        assert not [a for a in actions(one, now, since, known) if a.attempt == 1]
        assert not [a for a in actions(one, now - timedelta(minutes=back[k]), since, known) if a.attempt == 1]
    for day, states in ends.items():
        assert states.count("done") + states.count("missed") <= 1, day
        assert len(states) <= 2
    day = one.today(since)
    while one.due(day) + LATE < now:
        assert (day in ends) == (one.due(day) >= since), day
        day += timedelta(days=1)


class Clocks:
    """Wall and monotonic clock of a test."""

    def __init__(self, at: str) -> None:
        self.unix, self.monotonic = utc(at).timestamp(), 1000.0

    def passes(self, seconds: float) -> None:
        self.unix += seconds
        self.monotonic += seconds


SCHEDULE = ScheduleConfig(
    timezone="Europe/Amsterdam", job=(JobConfig(kind="housekeeping", at=time(6), late_minutes=120),)
)


async def scheduler(w: World, clocks: Clocks) -> Scheduler:
    audit = Audit(w.store, "1.0")
    made = Scheduler(SCHEDULE, w.runs, audit=audit, unix_s=lambda: clocks.unix, monotonic_s=lambda: clocks.monotonic)
    await made.begin()
    return made


async def look(s: Scheduler, w: World) -> None:
    await s.tick()
    async with asyncio.timeout(DEADLINE_S):
        await w.runs.wait()


QC = {"housekeeping": HousekeepingConfig(seconds=0.01)}


def test_a_due_run_runs_once_and_days_without_the_daemon_are_missed(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def first() -> None:
        clocks = Clocks("2031-03-02T03:00")
        async with world(tmp_path, bench, **QC) as w:
            s = await scheduler(w, clocks)
            await look(s, w)
            assert w.store.history(5) == []
            assert s.document()[0]["next_due"] == "2031-03-02T05:00:00+00:00"
            clocks.passes(2 * 3600 + 10)
            await look(s, w)
            (line,) = w.store.history(5)
            assert line.kind == "housekeeping"
            notes = w.store.document(line.run_id)["notes"]
            assert "Scheduled: housekeeping, due 2031-03-02 06:00 Europe/Amsterdam." in notes
            (started,) = entries(w.store)
            assert (started["action"], started["result"]) == ("start-run", line.run_id)
            assert started["by"]["name"] == "schedule housekeeping"
            clocks.passes(60)
            await look(s, w)
            assert len(w.store.history(5)) == 1

    async def second() -> None:
        clocks = Clocks("2031-03-04T08:00")  # two days later, after the window
        async with world(tmp_path, bench, **QC) as w:
            s = await scheduler(w, clocks)
            await look(s, w)
            missed = w.store.history(5)[:2]
            assert [line.verdict for line in missed] == ["missed", "missed"]
            assert missed[0].sentence == (
                "Missed: housekeeping was due 2031-03-04 06:00 Europe/Amsterdam, 120 min late at most: "
                "the daemon was not running."
            )
            assert missed[0].started_at.startswith("2031-03-04T05:00")
            text = w.metrics.text().decode()
            assert 'petqc_qc_run_verdict{kind="housekeeping",scanner="bench"} 4.0' in text
            assert w.number("petqc_runs_missed_total") == 2
            await look(s, w)
            clocks.unix -= 3 * 86_400.0  # days that are known stay known
            clocks.monotonic += WAIT_S
            await look(s, w)
            clocks.passes(WAIT_S + 1)
            await look(s, w)
            assert len(w.store.history(9)) == 3

    asyncio.run(first())
    asyncio.run(second())


def test_what_stands_in_the_way_is_told_and_is_the_reason_once_it_is_too_late(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        clocks = Clocks("2031-03-02T04:59:59")
        async with world(tmp_path, bench, **QC) as w:
            s = await scheduler(w, clocks)
            clocks.passes(2)
            run_id = await w.runs.start("source", source="test", parameters={"seconds": 60})
            await s.tick()
            assert f"run {run_id} is going on" in s.document()[0]["overdue"]
            assert 'petqc_schedule_overdue{kind="housekeeping",scanner="bench"} 1.0' in w.metrics.text().decode()
            clocks.passes(2 * 3600)
            await s.tick()
            w.runs.abort()
            await w.runs.wait()
            assert s.document()[0]["overdue"] == ""
            (line,) = w.store.history(5, "housekeeping")
            assert line.verdict == "missed"
            assert (line.sentence or "").endswith(f"run {run_id} is going on.")

    asyncio.run(work())


def test_a_run_that_died_is_tried_once_more_inside_its_window(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def die() -> None:
        clocks = Clocks("2031-03-02T04:00")
        async with world(tmp_path, bench, **QC) as w:
            await scheduler(w, clocks)
            told = {"scanner": "bench", "simulated": True, "started_at": clock.utc_text(), "config_hash": "c"}
            claim = ("housekeeping", "2031-03-02", 1)
            await w.store.begin_run("dead", kind="housekeeping", occasion=claim, **told)
            with pytest.raises(StoreError):  # a day is claimed once, whoever asks
                await w.store.begin_run("twice", kind="housekeeping", occasion=claim, **told)
            assert [line.run_id for line in w.store.history(5)] == ["dead"]

    async def again() -> None:
        clocks = Clocks("2031-03-02T05:30")
        async with world(tmp_path, bench, **QC) as w:
            await w.runs.recover()
            s = await scheduler(w, clocks)
            await look(s, w)
            (last,) = w.store.occasions("housekeeping")
            assert (last.attempt, last.run_id) != (1, "dead")
            await look(s, w)
            assert len(w.store.history(5)) == 2

    asyncio.run(die())
    asyncio.run(again())


def test_a_clock_that_leaps_is_not_believed_at_once(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        clocks = Clocks("2031-03-02T03:00")
        async with world(tmp_path, bench, **QC) as w:
            s = await scheduler(w, clocks)
            await look(s, w)
            clocks.unix += 30 * 86_400.0
            await look(s, w)
            clocks.unix -= 30 * 86_400.0  # set right before anything was decided
            clocks.passes(EVERY_S)
            await look(s, w)
            clocks.passes(WAIT_S + 1)
            await look(s, w)
            assert w.store.history(5) == []
            clocks.unix += 10 * 3600.0  # slept for long: after a while it counts
            await look(s, w)
            assert w.store.history(5) == []
            clocks.passes(WAIT_S + 1)
            await look(s, w)
            (line,) = w.store.history(5)
            assert line.verdict == "missed"
            assert "slept, or its clock was set" in (line.sentence or "")

    asyncio.run(work())


def test_hours_that_a_change_of_clocks_leaves_out_or_doubles_are_told() -> None:
    def job(at: time, days: frozenset[int] = frozenset(range(7))) -> Job:
        return Job("nightly", "daily", at, days, timedelta(hours=2), ZoneInfo("Europe/Amsterdam"))

    since = date(2026, 12, 1)
    assert unusual_days(job(time(6, 0)), since) == []
    (gap,) = unusual_days(job(time(2, 30)), since)[:1]
    assert "2027-03-28 02:30 in Europe/Amsterdam does not exist" in gap
    assert "03:00 CEST" in gap
    (_, twice) = unusual_days(job(time(2, 30)), since)
    assert "2027-10-31 02:30 in Europe/Amsterdam comes twice" in twice
    assert "02:30 CEST" in twice
    assert unusual_days(job(time(2, 30), frozenset({0})), since) == []  # never on a Monday


@pytest.mark.parametrize("is_new", [True, False])
def test_a_clock_that_begins_in_1970_waits_and_then_runs_once(tmp_path: Path, bench: Path, *, is_new: bool) -> None:  # noqa: F811
    async def before() -> None:
        async with world(tmp_path, bench, **QC) as w:
            await look(await scheduler(w, Clocks("2031-03-01T12:00")), w)

    async def work() -> None:
        clocks = Clocks("1970-01-01T00:00:30")
        async with world(tmp_path, bench, **QC) as w:
            s = await scheduler(w, clocks)
            await look(s, w)
            clocks.passes(90)
            await look(s, w)
            clocks.unix = utc("2031-03-02T04:55").timestamp()
            for _ in range(4):
                await look(s, w)
                clocks.passes(WAIT_S / 2 + 1)
            assert [(line.kind, line.verdict == "missed") for line in w.store.history(99)] == [("housekeeping", False)]

    if not is_new:
        asyncio.run(before())
    asyncio.run(work())


def test_another_time_zone_gives_no_day_a_second_run(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def in_zone(zone: str, *times: str) -> int:
        clocks = Clocks(times[0])
        config = SCHEDULE.model_copy(update={"timezone": zone})
        async with world(tmp_path, bench, **QC) as w:
            s = Scheduler(config, w.runs, unix_s=lambda: clocks.unix, monotonic_s=lambda: clocks.monotonic)
            await s.begin()
            for at in times:
                clocks.monotonic += utc(at).timestamp() - clocks.unix
                clocks.unix = utc(at).timestamp()
                await look(s, w)
            return len(w.store.history(9))

    assert asyncio.run(in_zone("Europe/Amsterdam", "2031-03-02T04:00", "2031-03-02T05:30")) == 1
    assert asyncio.run(in_zone("America/New_York", "2031-03-02T11:30")) == 1  # six there, and the day has its run
    assert asyncio.run(in_zone("America/New_York", "2031-03-03T11:30")) == 2
    assert asyncio.run(in_zone("Asia/Tokyo", "2031-03-03T21:30")) == 3  # the next day there
