"""How far recent runs are from the scanner as it was accepted, whatever was calibrated in between.

Charts begin anew with each calibration, so a slide of which every calibration hides a part would never be seen by
them. This one does not: the weighted mean of the last runs against the acceptance baseline, in the check's own terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.charts.chart import EWMA_WEIGHT
from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqc.verdict import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.baseline import AcceptedBaseline
    from petqc.charts.judge import PastRun

LEAST_RECENT: Final = 10
"""Fewest recent runs whose mean says something; the weight of older ones is below a third."""
MOST_RECENT: Final = 60
"""Older runs have no weight."""


@dataclass(frozen=True, slots=True)
class Slide:
    """Limits of a mean over runs. is_relative: in per cent of the acceptance value, else in the check's unit."""

    limits: Limits
    is_relative: bool = True


SLIDES: Final[Mapping[str, Slide]] = {
    "photopeak": Slide(Limits(warn_low=-0.5, warn_high=0.5)),
    "energy_resolution": Slide(Limits(warn_low=-2.5, warn_high=2.5)),
    "window_acceptance": Slide(Limits(warn_low=-0.25, warn_high=0.25)),
    "ctr_fit": Slide(Limits(warn_low=-1.5, warn_high=1.5)),
    "module_time_offset": Slide(Limits(warn_low=-10.0, warn_high=10.0), is_relative=False),
    "prompts": Slide(Limits(warn_low=-1.0, warn_high=1.0)),
}
"""Half of the absolute warning of each: a slide is told before it gets there, and a mean of runs is far better known
than that. Source: daily-qc.md §5.2 (limits), §0.1 (a slide that no single day shows)."""


def since_acceptance(
    recent: Sequence[PastRun], accepted: AcceptedBaseline, units: Mapping[str, str], *, half_life_d: float | None = None
) -> list[CheckResult]:
    """`CHECK.since_acceptance` of every charted quantity that the acceptance baseline knows.

    Args:
        recent: this run and the ones before it, oldest first, with any calibration.
        accepted: the acceptance baseline.
        units: of each check.
        half_life_d: of the source; None: it does not decay.
    """
    last = recent[-MOST_RECENT:]
    then = [accepted.references(run.calibration_ids, run.at_d, half_life_d) for run in last]
    found = []
    for check, node in last[-1].values:
        slide = SLIDES.get(check)
        centre = then[-1].get(check, {}).get(node)
        if slide is None or centre is None or (slide.is_relative and centre == 0.0):
            continue
        changes = np.array(
            [
                (run.values[check, node][0] - of_day[check][node])
                * (100.0 / abs(of_day[check][node]) if slide.is_relative else 1.0)
                for run, of_day in zip(last, then, strict=True)
                if (check, node) in run.values and check in of_day
            ]
        )
        unit = "%" if slide.is_relative else units[check]
        _, error = accepted.values[check][node]
        told = f"the weighted mean of the last runs, against {say(centre, error, units[check])} at acceptance"
        found.append(_result(check, node, changes, unit, slide.limits, told, accepted.number))
    return found


def _result(
    check: str, node: str, changes: NDArray[np.float64], unit: str, limits: Limits, told: str, number: int
) -> CheckResult:
    id_, method, n = f"{check}.since_acceptance", f"weighted mean/{EWMA_WEIGHT:g}, baseline {number}", len(changes)
    if n < LEAST_RECENT:
        why = f"learns: {n} of {LEAST_RECENT} runs"
        return CheckResult(id_, node, None, unit, None, n, limits, Status.NO_LIMITS, why, None, method)
    weight = (1.0 - EWMA_WEIGHT) ** np.arange(n)[::-1]
    weight /= weight.sum()
    mean = float((weight * changes).sum())
    spread = float(np.sqrt((weight * (changes - mean) ** 2).sum()))
    error = spread * float(np.sqrt((weight**2).sum()))
    return CheckResult(id_, node, mean, unit, error, n, limits, limits.judge(mean), told, None, method)
