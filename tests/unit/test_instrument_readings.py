"""Readings of an instrument are the same object until one is renewed or grows old, and never older than they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers import instrument
from petqc_drivers.device import Quality, Reading
from petqc_drivers.instrument import STALE_AFTER_S, Identity, Instrument

if TYPE_CHECKING:
    import pytest


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(instrument, "monotonic_s", lambda: self.now_s)


class Kept(Instrument):
    """Knows what it is given."""

    async def connect(self) -> Identity:
        return Identity("what it is given")

    @property
    def is_open(self) -> bool:
        return True

    @property
    def link_counters(self) -> dict[str, int]:
        return {}

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _measure(self) -> list[Reading]:
        return []

    def know(self, name: str, at_s: float, quality: Quality = Quality.GOOD) -> None:
        value = None if quality is Quality.ABSENT else 1.0
        self._keep([Reading(name, "x", value, "V", True, quality, at_s)])


def qualities(one: Instrument) -> dict[str, Quality]:
    return {reading.name: reading.quality for reading in one.readings()}


def test_each_grows_old_at_its_own_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, one = Clock(monkeypatch), Kept("x")
    assert one.readings() == ()
    one.know("first", 1000.0)
    one.know("second", 1004.0)
    one.know("not there", 1000.0, Quality.ABSENT)
    clock.now_s = 1005.0
    told = one.readings()
    clock.now_s = 1000.0 + STALE_AFTER_S
    assert one.readings() is told
    clock.now_s += 0.001
    assert qualities(one) == {"first": Quality.BAD, "second": Quality.GOOD, "not there": Quality.ABSENT}
    assert one.readings()[0].value is None
    clock.now_s = 1004.0 + STALE_AFTER_S + 0.001
    assert qualities(one) == {"first": Quality.BAD, "second": Quality.BAD, "not there": Quality.ABSENT}


def test_a_renewed_one_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, one = Clock(monkeypatch), Kept("x")
    one.know("first", 1000.0)
    told = one.readings()
    one.know("first", 1000.5)
    assert one.readings() is not told
    assert one.readings()[0].at_monotonic_s == 1000.5
    clock.now_s = 1000.5 + STALE_AFTER_S + 0.5
    assert qualities(one) == {"first": Quality.BAD}
    one.know("first", clock.now_s)
    assert qualities(one) == {"first": Quality.GOOD}


def test_how_old_a_stale_one_is_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, one = Clock(monkeypatch), Kept("x")
    one.know("first", 1000.0)
    for age_s in (20.0, 22.0, 3600.0):
        clock.now_s = 1000.0 + age_s
        assert one.readings()[0].reason == f"stale: {age_s:.0f} s old"
