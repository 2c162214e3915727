"""The past of a run: trends of its first numbers, what has moved since when, and how the report shows both."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.baseline import AcceptedBaseline, day_of
from petqc.limits import Limits, Status
from petqc.past import Change, Past, Trend, TrendPoint, since_baseline, since_run
from petqc.report import render_html
from petqc.report.moved import change_text
from petqc.report.sparkline import sparkline
from petqc.results import CheckResult, Run
from petqcd.past import tell_past
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path

PEAK = Limits(495.0, 505.0, 517.0, 527.0)


def a_run(day: int, peak: float, *, calibration: str = "a", verdict: Status = Status.PASS) -> Run:
    return usual_run(
        run_id=f"run-{day}",
        kind="source",
        started_at=f"2026-{1 + day // 28:02}-{1 + day % 28:02}T06:00:00+00:00",
        finished_at=f"2026-{1 + day // 28:02}-{1 + day % 28:02}T06:05:00+00:00",
        calibration_ids={"tdc": calibration},
        verdict=verdict,
        scanner="bench",
        checks=[
            CheckResult.measured("photopeak", "scanner", peak, "keV", 0.1, 1000, PEAK),
            CheckResult.measured("photopeak", "module:0.0.0", peak + 1.0, "keV", 0.1, 1000, PEAK),
            CheckResult.measured("ctr_fit", "scanner", 214.0, "ps", 1.0, 1000, Limits(warn_high=230.0)),
            CheckResult.measured("photopeak.ewma", "scanner", peak - 511.0, "σ", 0.0, 30, Limits(warn_high=3.0)),
        ],
    )


async def stored(store: Store, run: Run) -> None:
    await store.begin_run(
        run.run_id, kind=run.kind, scanner=run.scanner, simulated=True, started_at=run.started_at, config_hash=""
    )
    await store.finish_run(run)


def test_trends_go_back_ninety_days_and_the_changes_name_what_moved(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)

    async def work() -> None:
        with closing(Store(tmp_path)) as store:
            for day in (0, *range(100, 120), *range(130, 150)):
                calibration = "a" if day < 140 else "b"
                await stored(store, a_run(day, 511.0 + 0.1 * rng.standard_normal(), calibration=calibration))
            await stored(store, a_run(150, 300.0, calibration="b", verdict=Status.INVALID))
            run = a_run(151, 512.0, calibration="b")
            run.simulated = True
            tell_past(run, store, nuclide="", reference=None)
            assert run.past is not None
            peak = next(t for t in run.past.trends if t.check == "photopeak")
            assert (peak.node, peak.unit, len(peak.points)) == ("scanner", "keV", 41), "90 days, and this run"
            assert peak.points[-1] == TrendPoint(run.started_at, 512.0, 0.1, "pass", 1)
            assert [p.calibration for p in peak.points] == [0] * 30 + [1] * 11
            last, calibrated = run.past.changes
            assert (last.since, last.run_id) == ("the run before", "run-149")
            assert [(c.check, c.node) for c in last.found] == [("photopeak", "scanner"), ("photopeak", "module:0.0.0")]
            assert all(c.sigmas is not None and c.sigmas > 4.0 for c in last.found)
            assert (calibrated.since, calibrated.run_id) == ("the first run with this calibration", "run-140")
            again = Run.from_document(json.loads(run.to_json()))
            assert again.past == run.past, "part of the document"
            page = render_html(run)
            assert len(re.findall(r'class="trend"', page)) == 2
            assert "Since the run before" in page
            first = a_run(152, 511.0, calibration="c")
            first.scanner = "another"
            tell_past(first, store, nuclide="", reference=None)
            assert first.past is not None
            assert first.past.changes == ()
            assert len(first.past.trends[0].points) == 1

    asyncio.run(work())


def test_nothing_that_noise_explains_is_called_a_change() -> None:
    rng = np.random.default_rng(8)
    nodes = [f"asic:0.0.{k}" for k in range(600)]

    def many() -> Run:
        checks = [
            CheckResult.measured("photopeak", n, 511.0 + 0.1 * rng.standard_normal(), "keV", 0.1, 900, PEAK)
            for n in nodes
        ]
        return replace(a_run(1, 511.0), checks=checks)

    found = since_run(many(), many(), "the run before")
    assert found.compared == 600
    assert found.found == ()
    assert found.limit > 4.2
    worse = many()
    worse.checks[3] = replace(worse.checks[3], status=Status.WARN)
    assert [c.node for c in since_run(worse, many(), "x").found] == ["asic:0.0.3"], "another status is always news"


def test_since_a_baseline_with_the_errors_of_both() -> None:
    values = {"photopeak": {"scanner": (511.0, 0.05), "module:0.0.0": (512.0, 0.05)}}
    baseline = AcceptedBaseline(3, "source", "bench", True, "2026-01-01T00:00:00+00:00", "ana", "x", ("r",), {}, values)
    found = since_baseline(a_run(9, 511.6), baseline, 0.0, None)
    assert (found.since, found.run_id, found.compared) == ("reference baseline 3", None, 2)
    assert [round(c.sigmas or 0.0, 1) for c in found.found] == [5.4, 5.4]
    assert since_baseline(a_run(9, 511.1), baseline, 0.0, None).found == ()


def test_the_error_of_a_rate_of_the_baseline_decays_with_it() -> None:
    """A half-life later half of the rate is left, and half of its error: 40 above 500 is four of 10, not two of 20."""
    values = {"prompts": {"scanner": (1000.0, 20.0)}}
    at = "2026-01-01T00:00:00+00:00"
    baseline = AcceptedBaseline(3, "source", "b", True, at, "ana", "x", ("r",), {}, values, measured_at=at)
    rate = CheckResult.measured("prompts", "scanner", 540.0, "1/s", 1e-6, 900, Limits())
    run = replace(a_run(1, 511.0), checks=[rate])
    change = since_baseline(run, baseline, day_of(at) + 271.0, 271.0).found[0]
    assert change.before == pytest.approx(500.0)
    assert change.sigmas == pytest.approx(4.0)


def test_a_sparkline_says_what_it_shows_and_breaks_at_gaps_and_calibrations() -> None:
    days = [*range(1, 11), *range(20, 29)]
    points = tuple(
        TrendPoint(f"2026-03-{d:02}T06:00:00+00:00", 511.0 + 0.1 * (d % 3), 0.1, "warn" if d == 22 else "pass", d // 25)
        for d in days
    )
    drawn = str(sparkline(Trend("photopeak", "scanner", "keV", points), PEAK, 511.1))
    path = re.search(r'class="past" d="([^"]+)"', drawn)
    assert path is not None
    assert path[1].count("M") == 2, "one gap"
    assert drawn.count('class="was-flagged"') == 1
    assert drawn.count('class="recalibrated"') == 1
    assert drawn.count('class="base-line"') == 1
    assert 'class="warn-line"' not in drawn, "limits that would flatten the values are left out"
    assert "19 runs in 27 days: from 511 to 511.2 keV" in drawn
    assert "1 outside their limits; calibrated anew 1 time" in drawn


def test_a_past_that_cannot_be_read_is_a_remark(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        run = a_run(1, 511.0)

        def broken(*_: object, **__: object) -> None:
            raise OSError("disk gone")

        store.values = broken  # type: ignore[method-assign, assignment]
        tell_past(run, store, nuclide="", reference=None)
    assert run.past is None
    assert run.notes == ["The past could not be told: OSError: disk gone."]


def test_an_empty_past_is_one() -> None:
    assert Past.from_document({"trends": [], "changes": []}) == Past()


def test_noise_looks_like_noise_in_a_sparkline() -> None:
    def height(step: float) -> float:
        values = [511.0, 511.0 + step, 511.0]
        points = tuple(TrendPoint(f"2026-03-0{k + 1}T06:00:00+00:00", v, 0.1, "pass", 0) for k, v in enumerate(values))
        drawn = str(sparkline(Trend("photopeak", "scanner", "keV", points), Limits(), None))
        ys = [float(y) for y in re.findall(r'class="was" cx="[^"]+" cy="([^"]+)"', drawn)]
        return max(ys) - min(ys)

    assert height(0.1) < 5.0, "one standard error of 38 pixels"
    assert height(1.0) > 30.0


def test_no_number_has_no_unit() -> None:
    gone = Change("dead_channels", "scanner", "channels", 16.0, None, None, "fail", "not there")
    assert change_text(gone) == "16 channels → no number, fail → not there"
    assert change_text(replace(gone, before=None, now=3.0, status="fail")) == "no number → 3 channels"
