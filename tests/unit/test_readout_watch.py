"""The readout's own bias is held to its permits: what is lost stops the run, latches, and outlives the daemon."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from petqc_drivers.device import Quality as ReadingQuality
from petqc_drivers.device import Reading
from petqcd import clock
from petqcd.config import DeviceConfig, JulaboConfig, PetqcConfig, TemperatureRange, simulated_device
from petqcd.errors import RefusedError
from petqcd.interlocks import readout_watch
from petqcd.interlocks.alarm_keeper import AlarmKeeper
from petqcd.interlocks.conditions import brought_along, left_out
from petqcd.interlocks.maintenance import InMaintenance
from petqcd.interlocks.permit_sources import HostHealth
from petqcd.interlocks.permits import Permit, Permits, Quality, Rule, Ruling
from petqcd.interlocks.readout_watch import ReadoutWatch
from petqcd.metrics import Metrics
from petqcd.progress import Bus
from petqcd.readout.supervisor import BiasState, DeviceSupervisor

if TYPE_CHECKING:
    from pathlib import Path

COOLING = "cooling by chiller"


class Bench:
    """A readout that is watched; what is around it and the run that goes on are said by the test."""

    def __init__(self, folder: Path, board: DeviceConfig | None = None) -> None:
        board = board or simulated_device()
        self.is_cooled, self.aborted, self.off_count = True, [""], 0
        self.metrics, bus = Metrics("bench", board.name, simulated=True), Bus()
        self.device = DeviceSupervisor(board, folder, bus, self.metrics)
        self.maintenance = InMaintenance(folder)
        around = SimpleNamespace(
            maintenance=self.maintenance,
            health=HostHealth(1 << 40, 0.0, can_write=True),
            conditions=SimpleNamespace(
                of=lambda _: [SimpleNamespace(rule=lambda: Rule(name=COOLING))], given=self._given
            ),
        )
        runs: Any = SimpleNamespace(abort=self.aborted.append, off=self._off)
        self.alarms = AlarmKeeper(folder, bus, self.metrics)
        config, audit, watch = PetqcConfig(device=(board,)), SimpleNamespace(), around
        self.watch = ReadoutWatch(config, self.device, runs, watch, self.alarms, audit, self.metrics)  # type: ignore[arg-type]

    def _given(self, _conditions: object) -> list[Permit]:
        return [Permit(COOLING, self.is_cooled, Quality.GOOD, clock.monotonic_s() - 0.1, "chiller")]

    async def _off(self) -> None:
        self.off_count += 1
        self.device.bias_is(BiasState.OFF_CONFIRMED)

    async def energise(self) -> None:
        """As a run does."""
        assert self.watch.against() == ()
        await self.device.may_be_on()
        self.device.bias_is(BiasState.ON)
        self.watch.look()


async def mid_run(bench: Bench) -> list[str]:
    """A permit is lost while a run goes on; what is wrong with what comes of it."""
    await bench.energise()
    bench.is_cooled = False
    bench.watch.look()
    if "cooling" not in bench.aborted[-1]:
        return ["the run goes on without cooling"]
    bench.device.bias_is(BiasState.OFF_CONFIRMED)  # as the run does first of all
    bench.is_cooled = True
    bench.watch.look()
    return [] if bench.watch.against() else ["energised while tripped"]


def test_a_permit_that_is_lost_in_mid_run_stops_it_and_latches(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        assert await mid_run(bench) == []
        assert bench.aborted[1:] == ["permit lost: cooling by chiller is not given; bias was switched off"]
        assert "trip.board" in {one["id"] for one in bench.alarms.documents()}
        with pytest.raises(RefusedError, match="acknowledge it first"):
            bench.watch.reset()
        bench.watch.acknowledge()
        bench.is_cooled = False
        with pytest.raises(RefusedError, match="the cause is still there"):
            bench.watch.reset()
        bench.is_cooled = True
        assert bench.watch.reset()["trip"]["state"] == "armed"
        assert bench.watch.against() == ()

    asyncio.run(story())


def test_what_is_on_without_a_run_is_switched_off_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)

        def none_goes_on(_reason: str) -> None:
            raise RefusedError("no run is going on")

        monkeypatch.setattr(bench.watch._runs, "abort", none_goes_on)
        await bench.energise()
        bench.device.bias_is(BiasState.UNKNOWN)  # a run could not confirm its off
        bench.is_cooled = False
        bench.watch.look()
        await asyncio.sleep(0)
        assert (bench.off_count, bench.device.may_be_energised) == (1, False)

    asyncio.run(story())


def test_modules_must_be_within_their_temperatures_and_seen_to_be(tmp_path: Path) -> None:
    board = simulated_device().model_copy(update={"temperature": TemperatureRange(low_degc=10, high_degc=40)})

    async def story() -> None:
        bench = Bench(tmp_path, board)

        def read(*degc: float, age_s: float = 0.0) -> None:
            at_s = clock.monotonic_s() - age_s
            good = ReadingQuality.GOOD
            bench.device.temperatures(
                [Reading("temperature", f"module:0.0.{i}", t, "degC", True, good, at_s) for i, t in enumerate(degc)]
            )

        assert bench.watch.against() == ("temperature of modules is unknown",)
        assert bench.watch.document()["against"] == []  # runs read them before they energise
        read(25.0, 41.0)
        assert "temperature of module:0.0.1 is 41 degC, must be 10 or more and 40 or less" in bench.watch.against()[0]
        read(25.0, 26.0, age_s=16.0)
        assert "stale" in bench.watch.against()[0]
        read(25.0, 26.0)
        await bench.energise()
        read(25.0, 41.0)
        bench.watch.look()
        assert "41 degC" in bench.aborted[-1]
        bench.device.bias_is(BiasState.OFF_CONFIRMED)
        bench.watch.acknowledge()
        bench.watch.reset()  # nobody reads them while it is off
        assert "41 degC" in bench.watch.against()[0]

    asyncio.run(story())


def test_a_chiller_brings_its_permit_along_unless_its_table_says_no() -> None:
    table: dict[str, Any] = {"name": "chiller", "kind": "julabo", "address": "socket://h:1", "model": "FL"}
    (runs,) = brought_along(JulaboConfig(**table))
    assert (runs.name, runs.reading, runs.low, runs.is_within(0.0)) == (COOLING, "coolant_running", 1.0, False)
    both = brought_along(JulaboConfig(**table, coolant={"low_degc": 15, "high_degc": 20}))
    assert [(one.name, one.low, one.high) for one in both[1:]] == [("coolant of chiller", 15.0, 20.0)]
    without = JulaboConfig(**table, cooling_permit=False)
    assert brought_along(without) == []
    assert "nobody's bias needs" in left_out([without])[0]


def not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Permits, "rule", lambda *_, **__: Ruling())


def no_latch(monkeypatch: pytest.MonkeyPatch) -> None:
    def armed(_trip: Any, now_s: float) -> Permit:
        return Permit("no latched trip", True, Quality.GOOD, now_s, "")

    monkeypatch.setattr(readout_watch.permit_sources, "of_trip", armed)


def not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadoutWatch, "_switch_off", lambda _self, _now_s: None)


@pytest.mark.parametrize(
    ("remove", "said"),
    [(not_watched, "without cooling"), (no_latch, "while tripped"), (not_stopped, "without cooling")],
)
def test_a_story_notices_a_guard_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Any, said: str
) -> None:
    remove(monkeypatch)
    assert said in str(asyncio.run(mid_run(Bench(tmp_path))))
