"""How often control charts warn of a healthy scanner, and how soon of one that is not.

    python benchmarks/charts.py [--scanners 20] [--days 1000] [--json OUT.json]

Values of the checks are drawn, not events: 28 modules as on a SIGNA, with the scatter of real daily QC, one day
remembering the one before, and temperatures of a room with a year, a week and days of its own. Each scanner begins
without a history and learns as the service does, nobody accepts a baseline. Seeds are used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petqc.charts.baseline import LEAST_RUNS, MOST_RUNS, estimate
from petqc.charts.chart import cusum, ewma, shewhart
from petqc.charts.crystals import CrystalValues, crystals_outside
from petqc.charts.judge import RUNS_TO_FALSE_ALARM, learning, run_lengths

MODULES = 28
MEMORY = 0.3
"""Correlation of a day with the next, of what is not temperature."""
MONTH = 30.0


@dataclass(frozen=True)
class Quantity:
    """A charted check: its level, the scatter of one day, and its slope a kelvin; in percent, offsets in ps."""

    check: str
    level: str
    scatter: float
    per_k: float

    @property
    def nodes(self) -> int:
        return 1 if self.level == "scanner" else MODULES


QUANTITIES = (
    Quantity("photopeak", "scanner", 0.04, -0.1),
    Quantity("photopeak", "module", 0.10, -0.1),
    Quantity("energy_resolution", "scanner", 0.3, 0.1),
    Quantity("energy_resolution", "module", 0.8, 0.1),
    Quantity("window_acceptance", "scanner", 0.03, 0.01),
    Quantity("window_acceptance", "module", 0.08, 0.01),
    Quantity("ctr_fit", "scanner", 0.3, 0.3),
    Quantity("time_tails", "scanner", 0.3, 0.0),
    Quantity("module_time_offset", "module", 4.0, 0.5),
    Quantity("block_efficiency", "module", 0.15, -0.05),
    Quantity("prompts", "scanner", 0.2, -0.05),
    Quantity("randoms_delayed", "scanner", 0.5, 0.0),
)
"""Scatter: day-to-day of real reports where there are (block efficiency 0.15 %, width 0.4 %, time offset 4 ps:
daily-qc.md §0.2), slopes what compensation leaves of -1 %/K."""
LENGTHS = run_lengths({level: sum(q.nodes for q in QUANTITIES if q.level == level) for level in ("scanner", "module")})


def room(days: int, rng: np.random.Generator) -> np.ndarray:
    """Temperature of a day's run, in degrees."""
    day = np.arange(days)
    return np.asarray(
        22.0
        + 1.0 * np.sin(2 * np.pi * (day / 365.25 + rng.random()))
        + 0.3 * np.sin(2 * np.pi * (day / 7.0 + rng.random()))
        + remembered(days, 1, 0.6, rng)[:, 0] * 0.4
    )


def remembered(days: int, nodes: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    """(days, nodes) of unit spread; each day remembers the one before."""
    fresh = rng.standard_normal((days, nodes))
    found = np.empty((days, nodes))
    found[0] = fresh[0]
    for k in range(1, days):
        found[k] = phi * found[k - 1] + np.sqrt(1.0 - phi**2) * fresh[k]
    return found


def healthy(q: Quantity, days: int, room_degc: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values (days, nodes), percent of the true centre or ps, and the temperatures that are read."""
    module_degc = room_degc[:, None] + rng.normal(0.0, 0.5, q.nodes) + rng.normal(0.0, 0.02, (days, q.nodes))
    centre = 100.0 if q.check != "module_time_offset" else 0.0
    slope = q.per_k * (1.0 + 0.2 * rng.standard_normal(q.nodes))
    noise = q.scatter * remembered(days, q.nodes, MEMORY, rng)
    return centre + slope * (module_degc - 22.0) + noise, module_degc


def charted(values: np.ndarray, degc: np.ndarray, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Alarms (days, nodes) of both charts as the service finds them, day by day; none while they learn."""
    alarms = np.zeros((2, *values.shape), bool)
    done = LEAST_RUNS
    while done < len(values):
        n = learning(done)
        # The baseline grows with the history until it has all its runs; then the rest is charted in one go.
        until = len(values) if n == MOST_RUNS else done + 1
        base = estimate(values[:n], np.zeros_like(values[:n]), degc[:n])
        for k, chart in enumerate((ewma, shewhart)):
            found = chart(values[n:until], degc[n:until], base, LENGTHS[level]).is_alarm
            alarms[k, done:until] = found[done - n :]
        done = until
    return alarms[0], alarms[1]


def false_alarms(scanners: int, days: int) -> dict[str, float]:
    """Of healthy scanners: new warnings a month, and share of days with one."""
    begun, on, total = 0, 0, 0
    of_chart = {"ewma": 0, "step": 0}
    for seed in range(scanners):
        rng = np.random.default_rng([2026, seed])
        degc = room(days, rng)
        any_alarm = np.zeros(days, bool)
        new = np.zeros(days, bool)
        for q in QUANTITIES:
            values, read = healthy(q, days, degc, rng)
            drift, step = charted(values, read, q.level)
            for name, alarm in (("ewma", drift), ("step", step)):
                first = alarm & ~lately(alarm)
                of_chart[name] += int(first.sum())
                new |= first.any(axis=1)
                any_alarm |= alarm.any(axis=1)
        begun, on, total = begun + int(new.sum()), on + int(any_alarm.sum()), total + days
        print(f"healthy scanner {seed + 1} of {scanners} …", file=sys.stderr)
    return {
        "days": total,
        "days_with_a_new_warning_a_month": MONTH * begun / total,
        "share_of_days_with_a_warning_percent": 100.0 * on / total,
        **{f"new_{name}_a_month": MONTH * n / total for name, n in of_chart.items()},
        "wanted_a_month": MONTH / RUNS_TO_FALSE_ALARM,
    }


EPISODE = 10
"""Alarms of a chart less than so many runs apart are one warning: an EWMA at its limit comes and goes."""


def lately(alarm: np.ndarray) -> np.ndarray:
    """Whether the chart was outside in one of the runs before."""
    before = np.zeros_like(alarm)
    for back in range(1, EPISODE + 1):
        before[back:] |= alarm[:-back]
    return before


FAULTS = (
    # what, check, level, size in percent or ps, growth in days (0: a step)
    ("F03 bias of a group, module peak -1 %", "photopeak", "module", -1.0, 0.0),
    ("F06 cooling loss, CTR +3 %", "ctr_fit", "scanner", 3.0, 0.0),
    ("F09 coupling loss, module resolution +5 %", "energy_resolution", "module", 5.0, 0.0),
    ("F14 clock phase step, module +100 ps", "module_time_offset", "module", 100.0, 0.0),
    ("F14 clock phase step, module +20 ps", "module_time_offset", "module", 20.0, 0.0),
    ("F08 ageing, CTR +5 % a year", "ctr_fit", "scanner", 5.0, 365.25),
    ("F16 threshold, module offset +10 ps", "module_time_offset", "module", 10.0, 0.0),
    ("slow slide, system peak -1 % a year", "photopeak", "scanner", -1.0, 365.25),
)


def delays(runs: int) -> list[dict[str, object]]:
    """Runs from the fault to the first alarm of its quantity, and how much of the shift had come by then."""
    found: list[dict[str, object]] = []
    for number, (name, check, level, size, growth) in enumerate(FAULTS):
        q = next(q for q in QUANTITIES if (q.check, q.level) == (check, level))
        days, at = 400, MOST_RUNS + 60
        taken, reached, by = [], [], {"ewma": 0, "step": 0}
        for seed in range(runs):
            rng = np.random.default_rng([77, number, seed])
            values, degc = healthy(q, at + days, room(at + days, rng), rng)
            since = np.arange(at + days) - at
            shift = size * (np.clip(since / growth, 0.0, 1.0) if growth else (since >= 0))
            values[:, 0] += shift
            drift, step = charted(values, degc, level)
            first = [int(np.argmax(a[at:, 0])) if a[at:, 0].any() else days for a in (drift, step)]
            taken.append(min(first) + 1)
            reached.append(abs(float(shift[at + min(*first, days - 1)])))
            by["ewma" if first[0] < first[1] else "step"] += 1
        found.append(
            {
                "fault": name,
                "runs_median": float(np.median(taken)),
                "runs_95_percent": float(np.quantile(taken, 0.95)),
                "shift_at_alarm_median": float(np.median(reached)),
                "found_by_ewma": by["ewma"],
                "found_by_step": by["step"],
            }
        )
    return found


def biograph(runs: int) -> list[dict[str, float]]:
    """8.4 % in five years, linear, as a Biograph 16 slid unseen (daily-qc.md §0.1): one chart of one quantity.

    The slide begins after the runs of the baseline: the 30 fewest that guides ask for, or the 60 that petqc takes.
    """
    found = []
    for learned in (30, MOST_RUNS):
        for scatter in (0.1, 0.3, 0.5):
            taken = []
            for seed in range(runs):
                rng = np.random.default_rng([16, int(10 * scatter), seed])
                days = 365
                values = 100.0 + scatter * rng.standard_normal((days, 1))
                values[learned:, 0] -= 8.4 / (5 * 365.25) * np.arange(days - learned)
                none = np.full_like(values, np.nan)
                base = estimate(values[:learned], np.zeros((learned, 1)), none[:learned])
                length = LENGTHS["scanner"]
                alarms = [
                    chart(values[learned:], none[learned:], base, length).is_alarm[:, 0] for chart in (ewma, cusum)
                ]
                taken.append([int(np.argmax(a)) + 1 if a.any() else days for a in alarms])
            days_ewma, days_cusum = np.median(taken, axis=0)
            found.append(
                {
                    "baseline_runs": float(learned),
                    "scatter_percent": scatter,
                    "days_ewma": float(days_ewma),
                    "days_cusum": float(days_cusum),
                    "shift_percent": float(8.4 / (5 * 365.25) * days_ewma),
                }
            )
    return found


CRYSTALS = 20_160
CRYSTAL_SCATTER, CRYSTAL_ERROR = 0.5, 1.2
"""keV: what a crystal's photopeak scatters beyond its fit from day to day, and the fit's error at 1 000 counts."""


def single_crystals(days: int) -> list[dict[str, float]]:
    """A SIGNA of 20 160 crystals: false alarms a month, and of how many moved crystals all are found on day two."""
    rng = np.random.default_rng([20_160, 1])
    module = np.repeat(np.arange(MODULES), CRYSTALS // MODULES)
    centre = 511.0 + rng.normal(0.0, 3.0, CRYSTALS)
    # Crystals are not alike: the scatter of one in ten is twice that of the others.
    scatter = CRYSTAL_SCATTER * np.where(rng.random(CRYSTALS) < 0.1, 2.0, 1.0)

    def day(moved: np.ndarray | float = 0.0) -> CrystalValues:
        of_module = rng.normal(0.0, 1.0, MODULES)[module]
        value = centre + moved + of_module + rng.normal(0.0, np.hypot(CRYSTAL_ERROR, scatter))
        return CrystalValues(np.arange(CRYSTALS), module, value, np.full(CRYSTALS, CRYSTAL_ERROR))

    def outside(learned: list[CrystalValues], before: CrystalValues, now: CrystalValues) -> float:
        found = crystals_outside("photopeak", learned, before, now)
        return 0.0 if found is None or found.value is None else found.value

    learned = [day() for _ in range(MOST_RUNS)]
    before, false = day(), 0.0
    for _ in range(days):
        now = day()
        false += outside(learned, before, now)
        before = now
    rows = [{"moved_percent": 0.0, "moved": 0.0, "found": false, "days": float(days)}]
    some = np.arange(CRYSTALS) % 200 == 0
    for percent in (1.0, 2.0, 3.0, 5.0):
        moved = np.where(some, -percent * 5.11, 0.0)
        rows.append(
            {
                "moved_percent": percent,
                "moved": float(some.sum()),
                "found": outside(learned, day(moved), day(moved)),
                "days": 2.0,
            }
        )
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scanners", type=int, default=20, help="healthy scanners")
    options.add_argument("--days", type=int, default=1000, help="days of each after its baseline")
    options.add_argument("--faults", type=int, default=200, help="repetitions of each fault")
    options.add_argument("--crystal-days", type=int, default=200, help="healthy days of 20 160 single crystals")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    healthy_days = false_alarms(given.scanners, given.days)
    print("healthy scanners")
    for name, value in healthy_days.items():
        print(f"  {name:42}{value:10.4g}")
    of_faults = delays(given.faults)
    print(f"\n{'fault':46}{'runs':>6}{'95 %':>7}{'shift then':>12}{'ewma':>6}{'step':>6}")
    for f in of_faults:
        print(
            f"{f['fault']:46}{f['runs_median']:6.0f}{f['runs_95_percent']:7.0f}{f['shift_at_alarm_median']:12.2f}"
            f"{f['found_by_ewma']:6}{f['found_by_step']:6}"
        )
    slide = biograph(given.faults)
    print(f"\n{'five-year slide, daily scatter':34}{'EWMA days':>10}{'CUSUM days':>12}{'shift then':>12}")
    for s in slide:
        what = f"{s['scatter_percent']:6.1f} %, {s['baseline_runs']:.0f} runs of baseline"
        print(f"{what:34}{s['days_ewma']:10.0f}{s['days_cusum']:12.0f}{s['shift_percent']:10.2f} %")
    crystals = single_crystals(given.crystal_days)
    print(f"\nsingle crystals, {CRYSTALS}: {crystals[0]['found']:.0f} false alarms in {given.crystal_days} days")
    for c in crystals[1:]:
        print(f"  photopeak -{c['moved_percent']:.0f} %: {c['found']:.0f} of {c['moved']:.0f} named on the second day")
    if given.json:
        all_found = {"healthy": healthy_days, "faults": of_faults, "slide": slide, "crystals": crystals}
        given.json.write_text(json.dumps(all_found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
