"""Control charts: run lengths against published tables, what a baseline knows, and what a run is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.run_documents import usual_run

from petqc.baseline import AcceptedBaseline
from petqc.charts.acceptance import since_acceptance
from petqc.charts.baseline import LEAST_RUNS, MOST_RUNS, estimate
from petqc.charts.chart import cusum, ewma, shewhart
from petqc.charts.crystals import CrystalValues, crystals_outside
from petqc.charts.judge import CHARTED, Judged, PastRun, judge, learning, run_lengths, warn
from petqc.charts.run_length import (
    cusum_limit,
    cusum_run_length,
    ewma_limit,
    ewma_run_length,
    shewhart_limit,
    shewhart_run_length,
)
from petqc.checks import get_check
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqc.statistics import family_sigmas

TABLE = {  # shift -> Shewhart 3, EWMA 0.2 L 2.96, EWMA 0.1 L 3.3, CUSUM k 0.5 h 4.77; daily-qc.md section 2j
    0.0: (370, 497, 2109, 369),
    0.5: (155, 42, 51, 35),
    1.0: (44, 10.5, 13, 9.9),
    2.0: (6.3, 3.7, 5.2, 3.9),
    4.0: (1.2, 1.9, 2.5, 2.0),
}


@pytest.mark.parametrize("shift", TABLE)
def test_run_lengths_are_those_of_the_published_table(shift: float) -> None:
    found = (
        shewhart_run_length(3.0, shift),
        ewma_run_length(0.2, 2.96, shift),
        ewma_run_length(0.1, 3.3, shift),
        cusum_run_length(0.5, 4.77, shift),
    )
    assert found == pytest.approx(TABLE[shift], rel=0.03)


def test_limits_are_the_inverse_of_run_lengths() -> None:
    assert shewhart_run_length(shewhart_limit(5000.0)) == pytest.approx(5000.0)
    assert ewma_run_length(0.1, ewma_limit(0.1, 5000.0)) == pytest.approx(5000.0, rel=1e-2)
    assert cusum_run_length(0.5, cusum_limit(0.5, 5000.0)) == pytest.approx(5000.0, rel=1e-2)


def ar1(runs: int, nodes: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    found = rng.standard_normal((runs, nodes))
    for k in range(1, runs):
        found[k] = phi * found[k - 1] + np.sqrt(1.0 - phi**2) * found[k]
    return found


def test_a_baseline_finds_centre_spread_slope_and_memory() -> None:
    rng = np.random.default_rng(1)
    degc = 22.0 + rng.normal(0.0, 0.8, (300, 20))
    values = 511.0 - 0.5 * (degc - 22.0) + 0.3 * ar1(300, 20, 0.4, rng)
    base = estimate(values, np.full_like(values, 0.05), degc)
    assert base.phi == pytest.approx(0.4, abs=0.03)
    assert np.abs(base.slope + 0.5).max() < 0.05
    assert base.sigma.mean() == pytest.approx(0.3, rel=0.05)
    expected, _ = base.expected(np.full((1, 20), 24.0))
    assert expected[0] == pytest.approx(np.full(20, 510.0), abs=0.2)


def test_a_spread_is_never_smaller_than_the_statistics() -> None:
    values = np.full((25, 3), 511.0)
    base = estimate(values, np.full_like(values, 0.2))
    assert base.sigma == pytest.approx(np.full(3, 0.2))


@pytest.mark.parametrize("phi", [0.0, 0.4])
def test_false_alarms_come_as_seldom_as_was_asked_for(phi: float) -> None:
    """Of 3000 quantities with baselines of their own 30 runs: none of the charts has more alarms than wanted."""
    rng = np.random.default_rng(5)
    values = ar1(MOST_RUNS + 200, 3000, phi, rng)
    base = estimate(values[:MOST_RUNS], np.zeros((MOST_RUNS, 3000)))
    rest = values[MOST_RUNS:]
    unknown = np.full_like(rest, np.nan)
    for chart in (ewma, shewhart):
        alarm = chart(rest, unknown, base, 1000.0).is_alarm
        before = np.zeros_like(alarm)
        for back in range(1, 11):
            before[back:] |= alarm[:-back]
        begun = (alarm & ~before).mean()
        assert 0.2 / 1000.0 < begun < 1.6 / 1000.0, chart.__name__


def test_steps_are_seen_at_once_and_drifts_by_the_weighted_mean() -> None:
    rng = np.random.default_rng(2)
    values = 100.0 + 0.1 * rng.standard_normal((MOST_RUNS + 120, 2))
    values[MOST_RUNS + 20 :, 0] += 1.0
    values[MOST_RUNS:, 1] -= 0.005 * np.arange(120)
    base = estimate(values[:MOST_RUNS], np.zeros((MOST_RUNS, 2)))
    rest = values[MOST_RUNS:]
    unknown = np.full_like(rest, np.nan)
    step, drift, sums = (chart(rest, unknown, base, 5000.0).is_alarm for chart in (shewhart, ewma, cusum))
    assert np.argmax(step[:, 0]) == 20
    first = int(np.argmax(drift[:, 1]))
    assert 20 < first < 60
    assert abs(int(np.argmax(sums[:, 1])) - first) < 15
    assert not drift[:20, 0].any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=40, max_size=60))
def test_a_run_that_is_missing_changes_nothing(there: list[bool]) -> None:
    rng = np.random.default_rng(3)
    base = estimate(rng.standard_normal((MOST_RUNS, 1)), np.zeros((MOST_RUNS, 1)))
    values = rng.standard_normal((len(there), 1))
    values[~np.array(there)] = np.nan
    kept = values[np.array(there)]
    for chart in (ewma, cusum):
        whole = chart(values, np.full_like(values, np.nan), base, 500.0).statistic[np.array(there)]
        only = chart(kept, np.full_like(kept, np.nan), base, 500.0).statistic
        assert whole == pytest.approx(only)


def a_run(
    peak: float, degc: float = 22.0, *, modules: int = 2, prompts: float = 25_000.0, calibration: str = "a"
) -> Run:
    nodes = [f"module:0.0.{k}" for k in range(modules)]
    return usual_run(
        run_id="r",
        calibration_ids={"tdc": calibration},
        checks=[
            *(CheckResult.measured("temperature", n, degc, "degC", 0.0, 4, Limits()) for n in nodes),
            CheckResult.measured("photopeak", "scanner", peak, "keV", 0.1, 1000, Limits(warn_low=500.0)),
            CheckResult.measured("photopeak", nodes[0], 511.0, "keV", 0.1, 1000, Limits(warn_low=500.0)),
            CheckResult.measured("photopeak", nodes[1], 2 * peak - 511.0, "keV", 0.1, 1000, Limits(warn_low=500.0)),
            CheckResult.measured("prompts", "scanner", prompts, "1/s", 30.0, 1000, Limits()),
            CheckResult.measured("live_time", "scanner", 100.0, "%", 0.0, 1000, Limits()),
        ],
    )


def history(n: int, calibration: str = "a") -> list[PastRun]:
    rng = np.random.default_rng(9)
    found = []
    for day in range(n):
        peak, degc = 511.0 + 0.15 * rng.standard_normal(), 22.0 + 0.3 * rng.standard_normal()
        found.append(PastRun.of(a_run(peak, degc, calibration=calibration), float(day)))
    return found


def told(run: Run, past: list[PastRun], at_d: float, **more: float) -> dict[tuple[str, str], CheckResult]:
    judged = judge(run, PastRun.of(run, at_d), past, **more)
    warn(run, judged)
    return {(c.id, c.node): c for c in judged.results}


def test_until_there_are_runs_enough_a_chart_learns_and_the_verdict_stands() -> None:
    run = a_run(511.0)
    assert not told(run, history(LEAST_RUNS - 1), 30.0)
    assert run.notes == ["Control charts learn: 19 of 20 runs with this calibration."]
    assert run.verdict is Status.PASS


def test_a_step_inside_all_absolute_limits_is_a_warning_that_names_module_and_size() -> None:
    run = a_run(513.0)
    found = told(run, history(40), 40.0)
    assert run.verdict is Status.WARN
    assert "photopeak" in run.sentence
    assert run.sentence.startswith("Scan, but look at")
    assert "σ" in run.sentence
    assert found["photopeak.step", "module:0.0.1"].status is Status.WARN
    assert found["photopeak.step", "module:0.0.0"].status is Status.PASS
    assert found["photopeak.step", "scanner"].unit == "σ"
    assert not any(check.startswith("live_time") for check, _ in found)


def test_a_healthy_run_passes_and_its_charts_are_part_of_it() -> None:
    run = a_run(511.05)
    found = told(run, history(40), 40.0)
    assert run.verdict is Status.PASS
    assert found["photopeak.ewma", "scanner"].status is Status.PASS
    assert run.find("photopeak.ewma") is not None


def test_another_calibration_begins_another_baseline() -> None:
    run = a_run(513.0)
    assert not told(run, [*history(40, "before"), *history(5)], 40.0)
    assert run.notes == ["Control charts learn: 5 of 20 runs with this calibration."]
    assert run.verdict is Status.PASS


def test_a_module_without_a_history_of_its_own_is_named_and_the_others_are_charted() -> None:
    past = history(40)
    for one in past:
        one.values.pop(("photopeak", "module:0.0.1"))
    run = a_run(511.0)
    found = told(run, past, 40.0)
    assert ("photopeak.ewma", "module:0.0.1") not in found
    assert ("photopeak.ewma", "module:0.0.0") in found
    assert run.notes == ["No control chart yet of photopeak of module 0.0.1: fewer than 20 runs have a value."]


def test_the_runs_of_an_accepted_baseline_are_what_a_chart_compares_with() -> None:
    past = [replace(one, run_id=f"run-{k}") for k, one in enumerate(history(60))]
    run = a_run(511.0)
    now = PastRun.of(run, 60.0)
    chosen = judge(run, now, past, accepted=[f"run-{k}" for k in range(20, 45)]).results
    assert {c.n for c in chosen} == {25}
    few = judge(run, now, past, accepted=["run-3", "run-4"]).results
    assert {c.n for c in few} == {30}, "the first half of what there is"


def test_a_slide_is_not_learned_along() -> None:
    assert [learning(n) for n in (0, 19, 20, 39, 41, 60, 100, 120, 500)] == [0, 19, 20, 20, 20, 30, 50, 60, 60]


def test_the_decay_of_the_source_is_no_drift() -> None:
    half_life_d = 270.93
    past = []
    rng = np.random.default_rng(4)
    for day in range(60):
        rate = 25_000.0 * 2.0 ** (-day / half_life_d) * (1.0 + 0.002 * rng.standard_normal())
        past.append(PastRun.of(a_run(511.0 + 0.1 * rng.standard_normal(), prompts=rate), float(day)))
    now = a_run(511.0, prompts=25_000.0 * 2.0 ** (-60 / half_life_d))
    assert told(now, past, 60.0, half_life_d=half_life_d)["prompts.ewma", "scanner"].status is Status.PASS
    again = a_run(511.0, prompts=25_000.0 * 2.0 ** (-60 / half_life_d))
    assert told(again, past, 60.0)["prompts.ewma", "scanner"].status is Status.WARN


def test_what_is_charted_is_a_check_that_has_that_level() -> None:
    for check, levels in CHARTED.items():
        assert set(levels) <= set(get_check(check).levels), check


def test_run_lengths_share_what_the_scanner_is_allowed() -> None:
    lengths = run_lengths({"scanner": 5, "module": 56})
    a_day = sum(2 * n / lengths[level] for level, n in {"scanner": 5, "module": 56}.items())
    assert a_day == pytest.approx(1.0 / 60.0)


def accepted(values: dict[str, dict[str, tuple[float, float]]], **more: object) -> AcceptedBaseline:
    return replace(
        AcceptedBaseline(
            7, "daily", "bench", True, "2026-01-01T00:00:00+00:00", "ana", "acceptance", ("r",), {"tdc": "old"}, values,
            is_acceptance=True, measured_at="1970-01-01T00:00:00+00:00",
        ),
        **more,
    )  # fmt: skip


def test_a_slide_that_recalibrations_hide_shows_against_the_acceptance() -> None:
    peak = accepted({"photopeak": {"scanner": (511.0, 0.1)}, "ctr_fit": {"scanner": (390.0, 1.0)}})
    recent = [
        PastRun.of(a_run(511.0 - 0.09 * k, calibration=f"{k // 10}"), float(k)) for k in range(60)
    ]  # another calibration every ten runs: no chart ever has runs enough
    found = since_acceptance(recent, peak, {"photopeak": "keV"})
    assert [(c.id, c.node) for c in found] == [("photopeak.since_acceptance", "scanner")]
    assert found[0].unit == "%"
    assert found[0].value == pytest.approx(-0.09 * 50 / 511.0 * 100.0, rel=0.02), "nine runs behind the slide"
    assert found[0].status is Status.WARN
    assert since_acceptance(recent[:5], peak, {"photopeak": "keV"})[0].status is Status.NO_LIMITS
    run = a_run(511.0)
    warn(run, Judged(found))
    assert run.sentence.startswith(
        "Scan, but look at photopeak position, which has moved by -0.883 % (limit 0.5): the weighted mean of the last "
        "runs, against 511.00 ± 0.10 keV at acceptance"
    )


def test_of_an_acceptance_rates_decay_and_offsets_end_with_the_calibration() -> None:
    base = accepted(
        {
            "prompts": {"scanner": (1000.0, 1.0)},
            "module_time_offset": {"module:0.0.1": (30.0, 1.0)},
            "photopeak": {"scanner": (511.0, 0.1)},
        }
    )
    later = base.references({"tdc": "new"}, 270.93, 270.93)
    assert later == {"prompts": {"scanner": pytest.approx(500.0)}, "photopeak": {"scanner": 511.0}}
    assert "module_time_offset" in base.references({"tdc": "old"}, 0.0, None)


def crystals(rng: np.random.Generator, n: int = 2000, **moved: float) -> CrystalValues:
    """A run of n crystals in 10 modules; each module has a shift of its own. moved: keV by crystal, `c5=4.0`."""
    module = np.arange(n) // (n // 10)
    value = 511.0 + np.sin(np.arange(n)) + rng.normal(0.0, 3.0, 10)[module] + rng.normal(0.0, 0.5, n)
    for name, by in moved.items():
        value[int(name[1:])] += by
    return CrystalValues(np.arange(n), module, value, np.full(n, 0.4))


def test_a_crystal_is_named_when_it_moved_twice_and_no_other_is() -> None:
    rng = np.random.default_rng(11)
    learned = [crystals(rng) for _ in range(20)]
    quiet = crystals_outside("photopeak", learned, crystals(rng), crystals(rng))
    assert quiet is not None
    assert (quiet.value, quiet.status) == (0.0, Status.PASS)
    once = crystals_outside("photopeak", learned, crystals(rng), crystals(rng, c5=-6.0))
    assert once is not None
    assert (once.value, once.status) == (0.0, Status.PASS)
    assert once.reason == "1 beyond 4.6 σ in this run alone"
    opposite = crystals_outside("photopeak", learned, crystals(rng, c5=6.0), crystals(rng, c5=-6.0))
    assert opposite is not None
    assert opposite.value == 0.0
    twice = crystals_outside("photopeak", learned, crystals(rng, c5=-6.0), crystals(rng, c5=-6.0))
    assert twice is not None
    assert (twice.value, twice.unit, twice.status, twice.n) == (1.0, "channels", Status.WARN, 2000)
    assert twice.reason is not None
    assert twice.reason.startswith("moved against their module in two runs: channel 5 by -5.1 ± 0.4 keV (-10.0 σ)")
    first = crystals_outside("photopeak", learned, None, crystals(rng, c5=-6.0))
    assert first is not None
    assert first.status is Status.NO_LIMITS, "nothing can have been outside twice"
    assert crystals_outside("photopeak", learned[:9], None, crystals(rng)) is None
    assert family_sigmas(20_160) == pytest.approx(5.03, abs=0.01)
    assert family_sigmas(60_800) == pytest.approx(5.24, abs=0.01)
