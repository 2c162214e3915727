"""Charts in the daemon: the history that they are made from, and what they make of a run."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from tests.unit.run_documents import usual_run

from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqcd import charts
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PEAK = Limits(fail_low=495.0, warn_low=500.0, warn_high=520.0, fail_high=525.0)


def a_run(number: int, peak: float, *, kind: str = "source", calibration: str = "a", scanner: str = "bench") -> Run:
    return usual_run(
        run_id=f"run-{number}",
        kind=kind,
        started_at=f"2026-{1 + number // 28:02}-{1 + number % 28:02}T06:00:00+00:00",
        finished_at=f"2026-{1 + number // 28:02}-{1 + number % 28:02}T06:05:00+00:00",
        calibration_ids={"tdc": calibration},
        scanner=scanner,
        checks=[CheckResult.measured("photopeak", "scanner", peak, "keV", 0.05, 1000, PEAK)],
    )


async def stored(store: Store, run: Run) -> None:
    await store.begin_run(
        run.run_id, kind=run.kind, scanner=run.scanner, simulated=True, started_at=run.started_at, config_hash=""
    )
    await store.finish_run(run)


def test_a_move_inside_the_limits_is_a_warning_once_there_is_a_history_of_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    async def work() -> None:
        with closing(Store(tmp_path)) as store:
            for number in range(60):
                # Another scanner's and other kinds' runs are not its history, and neither is what could not measure.
                other = {3: {"scanner": "other"}, 4: {"kind": "lutetium"}}.get(number % 10, {})
                run = a_run(number, 511.0 + 0.2 * rng.standard_normal() + 8.0 * bool(other), **other)
                if number % 10 == 5:
                    run.verdict = Status.INVALID
                    run.checks[:] = [CheckResult.missing("photopeak", "scanner", "keV", 0, PEAK, "no counts")]
                await stored(store, run)
            good, moved = a_run(70, 511.1), a_run(71, 513.0)
            for run in (good, moved):
                charts.chart(run, store, nuclide="na22")
            assert good.verdict is Status.PASS
            found = good.find("photopeak.ewma")
            assert found is not None
            assert found.n == 21, "the first half, and not fewer than 20"
            assert moved.verdict is Status.WARN
            assert moved.sentence.startswith("Scan, but look at photopeak position, which has moved by +")
            begun = a_run(72, 513.0, calibration="b")
            charts.chart(begun, store, nuclide="")
            assert begun.verdict is Status.PASS
            assert begun.notes == ["Control charts learn: 0 of 20 runs with this calibration."]
            await stored(store, begun)
            back = a_run(73, 511.0)
            charts.chart(back, store, nuclide="")
            assert "learn: 0 of 20" in back.notes[0], "another calibration in between ends the baseline for good"

    asyncio.run(work())


def test_a_history_that_cannot_be_read_is_a_remark_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(tmp_path)) as store:
        run = a_run(1, 511.0)

        def broken(*_: object, **__: object) -> None:
            raise OSError("disk gone")

        monkeypatch.setattr(store, "values", broken)
        charts.chart(run, store, nuclide="")
    assert run.verdict is Status.PASS
    assert run.notes == ["Control charts could not be made: OSError: disk gone."]
