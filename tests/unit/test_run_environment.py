"""What a run's record says of the instruments around the detector; what is missing is no pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contract.supervised import running, until
from tests.unit.test_calibration_runs import DEADLINE_S, bench, world  # noqa: F401 - bench is a fixture
from tests.unit.test_housekeeping import QuietBoard

from petqc.composed import _environment
from petqc.limits import Status
from petqc.results import EnvironmentReading, Run
from petqc_drivers import instrument
from petqc_drivers.julabo import wire as julabo_wire

if TYPE_CHECKING:
    from pathlib import Path

CHILLER = "device:julabo"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)
    monkeypatch.setattr(julabo_wire, "AFTER_IN_S", 0.0)


def of_chiller(run: Run, name: str) -> list[EnvironmentReading]:
    return [r for r in run.environment if (r.node, r.name) == (CHILLER, name)]


def test_readings_when_it_began_and_ended_and_a_silent_one_is_no_pass(
    tmp_path: Path,
    bench: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with (
            running("julabo", "hamamatsu-c11204") as rig,
            world(tmp_path, bench, QuietBoard(), QuietBoard(), instruments=rig.instruments.readings) as w,
        ):

            async def run() -> Run:
                run_id = await w.runs.start("housekeeping", source="test", parameters={"seconds": 0.6})
                async with asyncio.timeout(DEADLINE_S):
                    await w.runs.wait()
                return Run.load(w.store.folder_of(run_id))

            await until(lambda: all(one.answers for one in rig.instruments))
            good = await run()
            assert good.verdict is Status.PASS, good.sentence
            found = good.find("instruments")
            assert found is not None
            assert (found.value, found.n) == (0.0, 2)
            first, last = of_chiller(good, "temperature_coolant")
            assert (first.value, first.quality) == (pytest.approx(17.25, abs=0.02), "good")
            assert first.age_s > last.age_s + 0.1
            assert {r.name for r in good.environment if r.node == "device:hamamatsu-c11204"} >= {
                "instrument_answers", "bias_voltage", "bias_current", "temperature_sipm",
            }  # fmt: skip
            monkeypatch.setattr(instrument, "STALE_AFTER_S", 0.1)
            told = rig["julabo"].readings()
            await until(lambda: rig["julabo"].readings() is not told)
            rig.lines["julabo"].is_frozen = True
            await until(lambda: not rig["julabo"].answers)
            bad = await run()
            assert bad.verdict is Status.FAIL
            found = bad.find("instruments")
            assert found is not None
            assert found.reason is not None
            assert "julabo: julabo: no reply" in found.reason
            answers = of_chiller(bad, "instrument_answers")[-1]
            assert (answers.value, answers.quality) == (0.0, "bad")
            stale = of_chiller(bad, "temperature_coolant")[-1]
            assert stale.value is None
            assert str(stale.reason).startswith("stale: ")

    asyncio.run(work())


def test_a_composed_run_keeps_the_first_and_the_last_reading_of_an_instrument() -> None:
    def reading(node: str, value: float, age_s: float) -> EnvironmentReading:
        return EnvironmentReading("temperature", node, value, "degC", True, "good", age_s)

    def run(*environment: EnvironmentReading) -> Run:
        at = "2026-03-02T06:00:00+00:00"
        found = Run("r", "daily", at, at, True, Status.PASS, "", {}, "", {})
        found.environment = list(environment)
        return found

    def part(n: float) -> Run:
        return run(reading(CHILLER, n, 9.0), reading(CHILLER, n + 0.5, 1.0), reading("asic:0.0.1", n, 1.0))

    parts = [part(1), part(2)]
    values = [(e.node, e.value) for e in _environment(run(), parts)]
    assert values == [(CHILLER, 1), (CHILLER, 2.5), ("asic:0.0.1", 2)]
