"""Which quantities of a run are charted, against which runs, and what becomes of it: results in sigma, warn limits.

A chart only ever warns: absolute limits are what fails. Until there are runs enough it says that it learns, which is
neither a pass nor a warning. A run with another calibration begins a new baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from petqc.charts.baseline import LEAST_RUNS, MOST_RUNS, Baseline, estimate
from petqc.charts.chart import EWMA_WEIGHT, ewma, shewhart
from petqc.diagnosis import diagnose_again
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqc.verdict import likely, place, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.charts.chart import Charted

RUNS_TO_FALSE_ALARM: Final = 60.0
"""All charts of a kind of run together warn of a healthy scanner so often: once in two months of daily runs. Half of
that is the scanner's own charts, half those of its modules. Source: daily-qc.md §5.2 (at most one a month)."""
CHARTED: Final[Mapping[str, tuple[Literal["scanner", "module"], ...]]] = {
    "photopeak": ("scanner", "module"),
    "energy_resolution": ("scanner", "module"),
    "window_acceptance": ("scanner", "module"),
    "ctr_fit": ("scanner",),
    "time_tails": ("scanner",),
    "module_time_offset": ("module",),
    "block_efficiency": ("module",),
    "prompts": ("scanner",),
    "randoms_delayed": ("scanner",),
    "lu_energy_scale": ("module",),
    "lu_efficiency": ("module",),
    "lu_time_offset": ("module",),
    "lu_tdc_scale": ("module",),
    "dark_count_rate": ("module",),
}
"""Checks and levels. Source: daily-qc.md §5.2, rows with EWMA; those of lutetium stand for the same quantities where no
source is there."""
TEMPERATURE: Final = "temperature"
"""The check whose modules' values are the temperatures that charts regress on."""
DECAYING: Final = frozenset({"prompts"})
"""Rates of the source: compared after its decay is taken out."""
HALF_LIFE_D: Final = {"na22": 950.57, "ge68": 270.93}
"""Source: Laboratoire National Henri Becquerel, table of radionuclides."""
_CHARTS = 2
_NAMED = 2
"""A sentence names this many; the table has the others."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """What charts need of an earlier run, or of this one.

    run_id: its name. at_d: days, from any beginning. values: value and standard error by check and node. degc:
    temperature by node (modules, and `scanner` for their mean). calibration_ids: what the values depend on; others,
    another baseline.
    """

    run_id: str
    at_d: float
    calibration_ids: Mapping[str, str]
    values: Mapping[tuple[str, str], tuple[float, float]]
    degc: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, at_d: float) -> PastRun:
        """From a run's own document."""
        values = {(c.id, c.node): (c.value, c.uncertainty or 0.0) for c in run.checks if c.value is not None}
        return cls.of_values(run.run_id, at_d, run.calibration_ids, values)

    @classmethod
    def of_values(
        cls,
        run_id: str,
        at_d: float,
        calibration_ids: Mapping[str, str],
        values: Mapping[tuple[str, str], tuple[float, float]],
    ) -> PastRun:
        """From results by check and node; what is not charted is left out."""
        degc = {n: value for (check, n), (value, _) in values.items() if check == TEMPERATURE and _level(n) == "module"}
        if degc:
            degc["scanner"] = float(np.mean(list(degc.values())))
        charted = {(check, n): pair for (check, n), pair in values.items() if _level(n) in CHARTED.get(check, ())}
        return cls(run_id, at_d, dict(calibration_ids), charted, degc)


@dataclass(frozen=True, slots=True)
class _Family:
    """A check at a level: its nodes, and how many runs a false alarm of one of its charts may take."""

    check: str
    nodes: tuple[str, ...]
    run_length: float


@dataclass(frozen=True, slots=True)
class Judged:
    """Results in sigma, and remarks on what cannot be charted yet."""

    results: list[CheckResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(
    run: Run,
    now: PastRun,
    past: Sequence[PastRun],
    *,
    half_life_d: float | None = None,
    accepted: Sequence[str] = (),
) -> Judged:
    """Chart results of a run: `CHECK.ewma` (drifts) and `CHECK.step` (this run alone), in sigma, with warn limits.

    Args:
        run: the run, with its checks.
        now: the same, as charts need it.
        past: earlier runs of the same kind, oldest first; a day without a run is simply not there.
        half_life_d: of the source; None: it does not decay.
        accepted: ids of the runs of the accepted baseline; too few of them: the first runs of this calibration.
    """
    families = _families(run)
    if not families:
        return Judged()
    learned, after = split(now, past, accepted)
    if len(learned) < LEAST_RUNS:
        return Judged(notes=[f"Control charts learn: {len(learned)} of {LEAST_RUNS} runs with this calibration."])
    found: list[CheckResult] = []
    young: dict[str, list[str]] = {}
    units = {c.id: c.unit for c in run.checks}
    for family in families:
        of_baseline = _matrix(family, learned, half_life_d)
        base = estimate(*of_baseline)
        values, _, degc = _matrix(family, after, half_life_d, first_d=learned[0].at_d)
        charts = {
            "ewma": ewma(values, degc, base, family.run_length),
            "step": shewhart(values, degc, base, family.run_length),
        }
        expected = base.expected(degc[-1:])[0][0]
        for k, node in enumerate(family.nodes):
            if base.n[k] < LEAST_RUNS:
                young.setdefault(family.check, []).append(place(node))
                continue
            for name, chart in charts.items():
                told = _told(name, expected[k], units[family.check])
                found.append(_result(family.check, node, name, chart, k, base, told))
    return Judged(found, [_too_young(check, places) for check, places in young.items()])


def split(now: PastRun, past: Sequence[PastRun], accepted: Sequence[str]) -> tuple[list[PastRun], list[PastRun]]:
    """The runs of the baseline, and the runs since with this one, oldest first.

    Without an accepted baseline of enough runs it is the first half of those with this calibration, at least
    `LEAST_RUNS` and at most `MOST_RUNS`: what slides shall not be learned.
    """
    same = list(takewhile(lambda p: p.calibration_ids == now.calibration_ids, reversed(past)))[::-1]
    chosen = [k for k, p in enumerate(same) if p.run_id in set(accepted)]
    if len(chosen) >= LEAST_RUNS:
        return [same[k] for k in chosen], [*same[chosen[-1] + 1 :], now]
    n = learning(len(same))
    return same[:n], [*same[n:], now]


def learning(n: int) -> int:
    """How many of the first runs of a calibration are the baseline, when n have been taken."""
    return min(n, max(LEAST_RUNS, n // 2), MOST_RUNS)


def _too_young(check: str, places: Sequence[str]) -> str:
    named = ", ".join(places[:_NAMED]) + (" and more" if len(places) > _NAMED else "")
    return f"No control chart yet of {check} of {named}: fewer than {LEAST_RUNS} runs have a value."


def warn(run: Run, judged: Judged) -> None:
    """Put what was found into the run: one that passes and has a chart outside its limits becomes a warning."""
    run.checks += judged.results
    run.notes += judged.notes
    outside = [c for c in judged.results if c.status is Status.WARN]
    if not outside:
        return
    diagnose_again(run)
    outside.sort(key=lambda c: -abs(c.value or 0.0) / (c.limits.warn_high or 1.0))
    told = _phrases(outside)
    if run.verdict is Status.PASS:
        run.verdict = Status.WARN
        run.sentence = f"Scan, but look at {told}.{likely(run)}"
    else:
        run.notes.append(f"Control charts: {told}.")


def _families(run: Run) -> list[_Family]:
    nodes: dict[tuple[str, str], list[str]] = {}
    for c in run.checks:
        level = _level(c.node)
        if c.value is not None and level in CHARTED.get(c.id, ()):
            nodes.setdefault((c.id, level), []).append(c.node)
    of_level: dict[str, int] = {}
    for (_, level), members in nodes.items():
        of_level[level] = of_level.get(level, 0) + len(members)
    lengths = run_lengths(of_level)
    return [_Family(check, tuple(members), lengths[level]) for (check, level), members in nodes.items()]


def run_lengths(quantities: Mapping[str, int]) -> dict[str, float]:
    """Runs until a false alarm of one chart, by level, from how many quantities each level has: equal parts a level."""
    return {level: RUNS_TO_FALSE_ALARM * len(quantities) * _CHARTS * n for level, n in quantities.items()}


def _level(node: str) -> str:
    return "pair" if " - " in node else node.partition(":")[0]


def _matrix(
    family: _Family, runs: Sequence[PastRun], half_life_d: float | None, first_d: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Values, standard errors and temperatures, (runs, nodes)."""
    values, errors, degc = (np.full((len(runs), len(family.nodes)), np.nan) for _ in range(3))
    begin_d = runs[0].at_d if first_d is None else first_d
    for k, run in enumerate(runs):
        grown = 1.0
        if family.check in DECAYING and half_life_d is not None:
            grown = 2.0 ** ((run.at_d - begin_d) / half_life_d)
        for i, node in enumerate(family.nodes):
            value, error = run.values.get((family.check, node), (np.nan, np.nan))
            values[k, i], errors[k, i] = value * grown, error * grown
            degc[k, i] = run.degc.get(node, np.nan)
    return values, errors, degc


def _told(name: str, expected: float, unit: str) -> str:
    what = "the weighted mean of the last runs" if name == "ewma" else "this run"
    return f"{what}, against {say(expected, abs(expected) * 1e-4, unit)}"


def _result(check: str, node: str, name: str, chart: Charted, k: int, base: Baseline, told: str) -> CheckResult:
    limit = float(chart.limit[k])
    limits = Limits(warn_low=-limit, warn_high=limit)
    value = float(np.clip(chart.statistic[-1, k], -1e6, 1e6))
    weight = f"/{EWMA_WEIGHT:g}" if name == "ewma" else ""
    method = f"{name}{weight}, sigma {base.sigma[k]:.3g}, memory {base.phi:.2f}"
    return CheckResult(
        f"{check}.{name}", node, value, "σ", None, int(base.n[k]), limits, limits.judge(value), told, None, method
    )


def _phrases(outside: Sequence[CheckResult]) -> str:
    """The worst quantities, each named once."""
    from petqc.report.text import title_of

    seen: dict[tuple[str, str], CheckResult] = {}
    for c in outside:
        seen.setdefault((c.id.partition(".")[0], c.node), c)
    told = []
    for (check, node), c in list(seen.items())[:_NAMED]:
        where = "" if node == "scanner" else f" of {place(node)}"
        title = title_of(check)
        title = title if title[1:2].isupper() else title[:1].lower() + title[1:]
        moved = f"which has moved by {c.value:+.3g} {c.unit} (limit {c.limits.warn_high:.2g}): "
        if c.unit == "channels":
            where, moved = "", f"of {c.value:.0f} crystals, which "
        told.append(f"{title}{where}, {moved}{c.reason}")
    more = len(seen) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
