"""How long a run has measured, by the wall clock or by that of a simulator that is slower."""

from __future__ import annotations

import asyncio

import pytest

from petqcd import clock
from petqcd.run_clock import SLOWEST, TAG_MODULO, RunClock


class Readout:
    """A simulated readout that runs at a quarter of real time."""

    def __init__(self, walls: list[float]) -> None:
        self.walls = walls
        self.is_silent = False

    async def time_tag(self) -> int:
        if self.is_silent:
            raise OSError("gone")
        return (TAG_MODULO - 100 + int(self.walls[0] / 4.0 * 200e6)) % TAG_MODULO


@pytest.fixture
def walls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now[0])
    return now


def test_a_slow_simulator_gets_the_time_it_needs_and_the_record_says_so(walls):
    async def run() -> None:
        readout = Readout(walls)
        one = RunClock(readout.time_tag)
        await one.start()
        walls[0] = 8.0
        await one.read()
        assert one.elapsed_s == pytest.approx(2.0)
        assert one.left_s(3.0) == pytest.approx(1.0)
        assert "2.0 s of the simulated readout took 8.0 s" in one.told()
        readout.is_silent = True
        walls[0] = 10.0
        await one.read()
        assert one.elapsed_s == pytest.approx(2.0), "what was told last"
        walls[0] = SLOWEST * 3.0 + 0.1
        assert one.left_s(3.0) == 0.0, "nobody waits for ever"

    asyncio.run(run())


def test_a_real_readout_has_the_time_of_the_wall(walls):
    async def run() -> None:
        one = RunClock(None)
        walls[0] = 5.0
        await one.start()
        walls[0] = 7.0
        await one.read()
        assert (one.elapsed_s, one.left_s(3.0), one.left_s(1.0), one.told()) == (2.0, 1.0, 0.0, "")

    asyncio.run(run())
