"""Whether the runs before tell a bias output that has drifted from one at a wrong step."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.charts.judge import PastRun
from petqc.charts.onset import CHECK, tell_onset
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Hypothesis, Run
from petqcd import charts
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path

NODE = "bias:0.0.38"
PEAK = Limits(fail_low=495.7, warn_low=505.9, warn_high=516.1, fail_high=526.3)
DRIFT, STEP = "F03 bias of one output has drifted", "F04 bias output at a wrong step"


def a_run(kev: float, *, number: int = 99, first: str = STEP, calibration: str = "a") -> Run:
    """A run whose output is off, with both causes in the order that its own size gives."""
    causes = (STEP, DRIFT) if first == STEP else (DRIFT, STEP)
    found = [
        Hypothesis(cause, NODE, score, ("photopeak −5 %",), "swap")
        for cause, score in zip(causes, (0.9, 0.8), strict=True)
    ]
    day = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
    return usual_run(
        run_id=f"run-{number}", kind="source", started_at=f"{day}T06:00:00+00:00", finished_at=f"{day}T06:05:00+00:00",
        calibration_ids={"tdc": calibration}, scanner="bench", verdict=Status.FAIL,
        sentence=f"Do not scan. Most likely: {causes[0]}, at bias output 0.0.38.",
        checks=[CheckResult.measured("bias_peak", NODE, kev, "keV", 0.8, 1000, PEAK)],
        diagnosis=found if not PEAK.warn_low <= kev <= PEAK.warn_high else [],
    )  # fmt: skip


def past(values: np.ndarray, calibration: str = "a") -> list[PastRun]:
    return [
        PastRun(f"run-{k}", float(k), {"tdc": calibration}, {(CHECK, NODE): (float(v), 0.8)})
        for k, v in enumerate(values)
    ]


def noisy(values: np.ndarray) -> np.ndarray:
    return values + 0.15 * np.random.default_rng(4).standard_normal(len(values))


@pytest.mark.parametrize("first", [DRIFT, STEP])
def test_a_move_between_two_runs_is_a_step_whatever_its_size(first: str) -> None:
    run = a_run(488.0, first=first)
    tell_onset(run, 12.0, past(noisy(np.full(12, 511.0))))
    assert run.diagnosis[0].cause == STEP
    assert (
        "one step of -4.5 %, between the run before (run-11) and this one, within 24 hours"
        in run.diagnosis[0].evidence[-1]
    )
    assert STEP in run.sentence
    assert run.diagnosis[1].score < 0.7, "what speaks against a cause lowers it"


@pytest.mark.parametrize("first", [DRIFT, STEP])
def test_a_move_over_many_runs_is_a_drift(first: str) -> None:
    run = a_run(488.0, first=first)
    tell_onset(run, 12.0, past(noisy(511.0 - 23.0 / 12.0 * np.arange(12))))
    assert run.diagnosis[0].cause == DRIFT
    assert "crept by -4.1 % over 13 runs in 12 days" in run.diagnosis[0].evidence[-1]
    assert DRIFT in run.sentence


def test_a_step_some_runs_ago_is_still_one() -> None:
    run = a_run(488.0, first=DRIFT)
    tell_onset(run, 12.0, past(noisy(np.r_[np.full(8, 511.0), np.full(4, 488.0)])))
    assert run.diagnosis[0].cause == STEP
    assert "4 runs ago" in run.diagnosis[0].evidence[-1]


@pytest.mark.parametrize(
    "before",
    [
        past(np.full(3, 511.0)),
        past(np.full(12, 511.0), "b"),
        past(noisy(np.full(12, 488.1))),
        past(np.r_[np.full(6, 511.0), np.full(6, 503.0)]),
    ],
    ids=["few", "other calibration", "has not moved", "neither"],
)
def test_runs_that_do_not_tell_change_nothing(before: list[PastRun]) -> None:
    run = a_run(488.0)
    was = list(run.diagnosis)
    tell_onset(run, 12.0, before)
    assert run.diagnosis == was


def test_the_history_of_the_daemon_tells(tmp_path: Path) -> None:
    async def work() -> Run:
        with closing(Store(tmp_path)) as store:
            for number in range(8):
                run = a_run(511.0 + 0.1 * (number % 2), number=number)
                run.verdict = Status.PASS
                about = {"scanner": run.scanner, "simulated": True, "started_at": run.started_at, "config_hash": ""}
                await store.begin_run(run.run_id, kind=run.kind, **about)
                await store.finish_run(run)
            moved = a_run(491.0, number=8, first=DRIFT)
            charts.chart(moved, store, nuclide="na22")
            return moved

    moved = asyncio.run(work())
    assert moved.diagnosis[0].cause == STEP
    assert "(run-7)" in moved.diagnosis[0].evidence[-1]
