"""How many runs until control charts warn of a fault that creeps, and what the diagnosis then says.

    python benchmarks/drifts.py [--five-years] [--histories 20] [--seconds 15] [--json OUT.json]

The answer of every charted number to a fault is measured: the simulated bench at four sizes of the fault, the same
decays each time, from physics to results as in `benchmarks/diagnosis.py`. Between them it is interpolated; histories
are drawn from it: MOST_RUNS healthy runs that are accepted as baseline, then the fault from nothing to its full size;
each day with its room, its scatter and its memory of the day before as in `benchmarks/charts.py`, and its own
statistical error. Then the service's charts judge day after day. Heating by gradients (F24) is not here: mr-delta
compares with its own idle, in one run.

With `--five-years` instead: all bias outputs fall together so that the photopeak slides from 511 to 468 keV in five
years of daily runs, as a Biograph 16 did unseen (daily-qc.md §0.1). Told are the days on which charts, the comparison
with the acceptance and absolute limits warn; also where somebody accepts the last runs as a new reference every
quarter, or every month, so that charts see a part of the slide only.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from charts import MEMORY, QUANTITIES, remembered, room
from diagnosis import baselines_of, measure

from petqc.baseline import DAY_S, AcceptedBaseline, of_runs
from petqc.charts.acceptance import since_acceptance
from petqc.charts.baseline import MOST_RUNS
from petqc.charts.judge import CHARTED, TEMPERATURE, PastRun, judge, warn
from petqc.limits import Status
from petqc_simulators.fault_plan import FaultPlan
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.results import CheckResult, Run

SEED = 8501
"""Of the detector; used for nothing else. Histories have numbers of their own."""
STEPS = (0.0, 0.25, 0.5, 1.0)
LONGEST = 400
MOST_LOOKED_AT = 1000
"""Runs of the history that the daemon hands to charts."""


@dataclass(frozen=True)
class Creeping:
    """A fault, its full size in the unit of its kind, and the days until it is reached."""

    fault: str
    told: str
    size: float
    days: int


FAULTS = (
    Creeping("F07", "room 3 K warmer in a quarter, bias not following", 3.0, 90),
    Creeping("F08", "dark counts + 50 % a year", 50.0, 365),
    Creeping("F08", "dark counts + 100 % a quarter", 100.0, 90),
    Creeping("F17", "baseline shift, 4 % of the signal a kHz, in a quarter", 4.0, 90),
)


@dataclass(frozen=True)
class Answer:
    """What the results are at each size of a fault.

    sizes: (s,). results: of the healthy detector, by check and node, with limits. values: (s,) of each.
    """

    sizes: np.ndarray
    results: Mapping[tuple[str, str], CheckResult]
    values: Mapping[tuple[str, str], np.ndarray]
    run: Run


@dataclass(frozen=True)
class Slide:
    """All bias outputs fall together, in mV at most, so that the photopeak is end_kev after so many days."""

    largest_mv: float = 400.0
    end_kev: float = 468.0
    days: int = 1826
    quarter: int = 91
    month: int = 30
    """So often a new reference is accepted, where one is."""


def at_size(fault: str | None, seconds: float, baselines: Mapping[str, Any]) -> Run:
    """One run of the detector, always with the same decays."""
    return measure(load_profile("bench"), SEED, fault, seconds, events="drift", baselines=baselines).run


def answer(creeping: Creeping, seconds: float, healthy: Run, baselines: Mapping[str, Any]) -> Answer:
    """Measure it."""
    faults = [f"{creeping.fault}={share * creeping.size}" for share in STEPS[1:]]
    return answer_to(faults, creeping.size, seconds, healthy, baselines)


def answer_to(faults: list[str], size: float, seconds: float, healthy: Run, baselines: Mapping[str, Any]) -> Answer:
    """Measure what the results are at a size and its shares; faults: at each of STEPS but the first."""
    runs = [healthy, *(at_size(fault, seconds, baselines) for fault in faults)]
    kept = {(c.id, c.node): c for c in runs[0].checks if _is_charted(c)}
    values = {}
    for key in kept:
        found = [run.find(*key) for run in runs]
        values[key] = np.array([np.nan if c is None or c.value is None else c.value for c in found])
    values = {key: v for key, v in values.items() if np.isfinite(v).all()}
    return Answer(size * np.array(STEPS), {key: kept[key] for key in values}, values, runs[0])


def _is_charted(c: CheckResult) -> bool:
    level = c.node.partition(":")[0]
    return c.value is not None and (level in CHARTED.get(c.id, ()) or (c.id == TEMPERATURE and level == "module"))


def history(one: Answer, sizes: np.ndarray, seed: int) -> list[dict[tuple[str, str], float]]:
    """The values of each day."""
    rng = np.random.default_rng([SEED, seed])
    days = sizes.size
    off_k = room(days, rng) - 22.0
    scatter = {(q.check, q.level): q for q in QUANTITIES}
    columns = {}
    for key, c in one.results.items():
        expected = np.interp(sizes, one.sizes, one.values[key])
        if c.id == TEMPERATURE:
            columns[key] = expected + off_k + rng.normal(0.0, 0.02, days)
            continue
        q = scatter.get((c.id, key[1].partition(":")[0]))
        usual = 0.0 if q is None else q.per_k * off_k + q.scatter * remembered(days, 1, MEMORY, rng)[:, 0]
        unit = 1.0 if c.unit == "ps" and c.id == "module_time_offset" else np.abs(one.values[key][0]) / 100.0
        columns[key] = expected + unit * usual + rng.normal(0.0, c.uncertainty or 0.0, days)
    return [{key: float(v[day]) for key, v in columns.items()} for day in range(days)]


def until_warned(creeping: Creeping, one: Answer, seed: int) -> dict[str, Any]:
    """Runs from the fault's beginning to the first warning by a chart of a number that the fault moves."""
    since = np.clip(np.arange(MOST_RUNS + LONGEST) - MOST_RUNS, 0, creeping.days)
    sizes = creeping.size * since / creeping.days
    days = history(one, sizes, seed)
    moved = _moved(one, days)
    past: list[PastRun] = []
    for day, values in enumerate(days):
        results = [replace(c, value=values[key], status=Status.PASS) for key, c in one.results.items()]
        run = replace(one.run, run_id=f"day-{day}", checks=results, verdict=Status.PASS, diagnosis=[], notes=[])
        pairs = {key: (values[key], c.uncertainty or 0.0) for key, c in one.results.items()}
        now = PastRun.of_values(run.run_id, float(day), {}, pairs)
        if day > MOST_RUNS:
            judged = judge(run, now, past, accepted=[p.run_id for p in past[:MOST_RUNS]])
            outside = [c for c in judged.results if c.status is Status.WARN]
            if any((c.id.rpartition(".")[0], c.node) in moved for c in outside):
                warn(run, judged)
                causes = [h.cause[:3] for h in run.diagnosis]
                return {
                    "runs": day - MOST_RUNS,
                    "size": float(sizes[day]),
                    "by": outside[0].id,
                    "first": causes[:1] == [creeping.fault],
                    "among_three": creeping.fault in causes[:3],
                }
        past.append(now)
    return {"runs": LONGEST, "size": float(sizes[-1]), "by": "", "first": False, "among_three": False}


def _moved(one: Answer, days: list[dict[tuple[str, str], float]]) -> set[tuple[str, str]]:
    """The numbers that the full size moves beyond their scatter of healthy days."""
    found = set()
    for key, v in one.values.items():
        usual = float(np.std([day[key] for day in days[:MOST_RUNS]]))
        if key[0] != TEMPERATURE and abs(v[-1] - v[0]) > 2.0 * usual:
            found.add(key)
    return found


def by_limits(creeping: Creeping, one: Answer) -> tuple[int | None, int | None]:
    """Runs until a value without noise crosses a warn and a fail limit; None: not at its full size."""
    found: dict[Status, int] = {}
    for day in range(1, creeping.days + 1):
        size = creeping.size * day / creeping.days
        for key, c in one.results.items():
            status = c.limits.judge(float(np.interp(size, one.sizes, one.values[key])))
            if status in (Status.WARN, Status.FAIL):
                found.setdefault(status, day)
                found.setdefault(Status.WARN, day)
    return found.get(Status.WARN), found.get(Status.FAIL)


def five_years(slide: Slide, seconds: float, healthy: Run, baselines: Mapping[str, Any]) -> dict[str, Any]:
    """The day of the first warning of each kind, counted from the beginning of the slide, and the photopeak then."""
    outputs = FaultPlan([], load_profile("bench"), SEED).names("bias")
    faults = [" ".join(f"F03={share * slide.largest_mv}:{node}" for node in outputs) for share in STEPS[1:]]
    one = answer_to(faults, slide.largest_mv, seconds, healthy, baselines)
    peak = one.values["photopeak", "scanner"]
    if peak[-1] > slide.end_kev or (np.diff(peak) >= 0).any():
        raise SystemExit(f"{slide.largest_mv:g} mV put the photopeak at {peak[-1]:.1f} keV: not as far as wanted")
    since = np.clip(np.arange(MOST_RUNS + slide.days + 1) - MOST_RUNS, 0, slide.days)
    wanted_kev = peak[0] + (slide.end_kev - peak[0]) * since / slide.days
    sizes = np.interp(-wanted_kev, -peak, one.sizes)
    days = history(one, sizes, 0)
    stories = {
        "nobody accepts anything": None,
        "a new reference every quarter": slide.quarter,
        "a new reference every month": slide.month,
    }
    return {
        "photopeak_kev": peak.tolist(),
        "mv": one.sizes.tolist(),
        "stories": {told: _warned(one, days, every, wanted_kev) for told, every in stories.items()},
    }


def _warned(
    one: Answer, days: list[dict[tuple[str, str], float]], every: int | None, peak_kev: np.ndarray
) -> dict[str, dict[str, float]]:
    """By what warns or fails: first day, counted from the beginning of the slide, photopeak on it, and how many days.

    every: days after which the last runs are accepted as a new reference; None: never after the first.
    """
    begin = datetime(2026, 1, 1, 6, tzinfo=UTC)
    found: dict[str, dict[str, float]] = {}
    runs: list[Run] = []
    past: list[PastRun] = []
    reference: tuple[str, ...] = ()
    acceptance: AcceptedBaseline | None = None
    units = {c.id: c.unit for c in one.results.values()}
    for day, values in enumerate(days):
        results = [replace(c, value=values[k], status=c.limits.judge(values[k])) for k, c in one.results.items()]
        at = begin + timedelta(days=day)
        run = replace(
            one.run, run_id=f"day-{day}", started_at=at.isoformat(), checks=results, verdict=Status.PASS,
            diagnosis=[], notes=[],
        )  # fmt: skip
        pairs = {key: (values[key], c.uncertainty or 0.0) for key, c in one.results.items()}
        now = PastRun.of_values(run.run_id, at.timestamp() / DAY_S, {}, pairs)
        if acceptance is not None:
            judged = since_acceptance([*past[-MOST_LOOKED_AT:], now], acceptance, units)
            if every is not None or "photopeak.ewma" not in found:  # what it says later is no news
                judged += judge(run, now, past[-MOST_LOOKED_AT:], accepted=reference).results
            outside = [c for c in (*judged, *results) if c.status in (Status.WARN, Status.FAIL) and c.id != TEMPERATURE]
            for name in {c.id if c.is_chart else f"{c.id}: absolute limit, {c.status}" for c in outside}:
                first = found.setdefault(name, {"day": day - MOST_RUNS, "kev": float(peak_kev[day]), "days": 0})
                first["days"] += 1
        runs, past = [*runs, run][-MOST_RUNS:], [*past, now]
        if day + 1 == MOST_RUNS:
            ids, kept = of_runs(runs)
            mine = one.run.kind, one.run.scanner, one.run.simulated
            names = reference = tuple(r.run_id for r in runs)
            acceptance = AcceptedBaseline(1, *mine, run.started_at, "", "", names, ids, kept, is_acceptance=True)
        elif every is not None and day >= MOST_RUNS and (day - MOST_RUNS) % every == every - 1:
            reference = tuple(r.run_id for r in runs)
    return dict(sorted(found.items(), key=lambda item: item[1]["day"]))


def tell_five_years(found: dict[str, Any]) -> None:
    """The tables."""
    for told, warned in found["stories"].items():
        print(f"\n{told}:\n\n| what warns | first on day | photopeak then | on so many of the days |")
        print("| --- | --- | --- | --- |")
        for name, first in warned.items():
            print(f"| `{name}` | {first['day']} | {first['kev']:.1f} keV | {first['days']} |")


def main() -> int:
    """Measure the answers, draw the histories, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=20, help="of each fault")
    parser.add_argument("--seconds", type=float, default=15.0, help="simulated, of each run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--five-years", action="store_true", help="the slide from 511 to 468 keV instead")
    given = parser.parse_args()
    rows = []
    baselines = baselines_of(at_size(None, given.seconds, {}))
    healthy = at_size(None, given.seconds, baselines)
    if given.five_years:
        found_ = five_years(Slide(), given.seconds, healthy, baselines)
        tell_five_years(found_)
        if given.json:
            given.json.write_text(json.dumps(found_, indent=1) + "\n")
        return 0
    print("| fault | runs to the warning, median | 95 % | size then | limits warn; fail | named first | among three |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for creeping in FAULTS:
        one = answer(creeping, given.seconds, healthy, baselines)
        found = []
        for seed in range(given.histories):
            found.append(until_warned(creeping, one, seed))
            print(f"{creeping.told}: history {seed + 1} of {given.histories}: {found[-1]}", file=sys.stderr)
        runs = [f["runs"] for f in found]
        limits = "; ".join("never" if day is None else f"{day}" for day in by_limits(creeping, one))
        n = len(found)
        print(
            f"| {creeping.fault} {creeping.told} | {np.median(runs):.0f} | {np.quantile(runs, 0.95):.0f} "
            f"| {np.median([f['size'] for f in found]):.3g} | {limits} | {sum(f['first'] for f in found)} of {n} "
            f"| {sum(f['among_three'] for f in found)} of {n} |",
            flush=True,
        )
        rows.append({"fault": creeping.fault, "told": creeping.told, "limits": limits, "found": found})
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
