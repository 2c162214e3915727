"""Temperatures at the SiPMs during the run: modules against their baseline or each other, sensors in their module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.check_input import SIPM_TEMPERATURE
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import CheckInput
    from petqc.results import CheckResult

_WARN_K, _FAIL_K = 2.0, 5.0
MIN_SENSORS = 3


@check(
    "temperature",
    title="Temperature at the SiPMs",
    unit="degC",
    levels=("module", "asic"),
    order=130,
    data=("source", "lutetium", "dark", "housekeeping", "mr-delta"),
    source="formula: mean of a module's sensors; limits: daily-qc.md §5.2, row temperature (±2 K, ±5 K), around the "
    "baseline or else the median module; a single sensor: the same around its module's median, plus what it differed "
    "from that in the baseline (faults F05, F06, §3)",
)
def temperature(q: CheckInput) -> CheckOutput:
    """Median temperature of each module's SiPM sensors, and each sensor beside its neighbours. Measured ones only."""
    return of_sensors(q, "temperature", SIPM_TEMPERATURE, "SiPM")


def of_sensors(q: CheckInput, check_id: str, name: str, place: str) -> CheckOutput:
    """Modules, and sensors in their module, for the readings of a name.

    Args:
        q: what the check is handed.
        check_id: the check.
        name: of the readings.
        place: where the sensors sit, for people.
    """
    sensors = q.temperatures(name)
    if not sensors:
        return CheckOutput()
    medians = {module: float(np.median([v for _, v in found])) for module, found in sensors.items()}
    middle = float(np.median(list(medians.values())))
    results = []
    for module, found in sensors.items():
        _, baseline = q.limits(check_id, "module", module)
        around = middle if baseline is None else baseline
        # The median, so that one bad sensor of a module does not make its module warm.
        results.append(
            q.judge(
                check_id, ("module", module), medians[module], "degC", 0.0, len(found), limits=_near(around),
                method=f"median of the module's {place} sensors",
            )
        )  # fmt: skip
        if len(found) >= MIN_SENSORS:
            results += [_beside_others(q, check_id, node, value, medians[module], baseline) for node, value in found]
    return CheckOutput(results)


def _beside_others(
    q: CheckInput, check_id: str, node: str, value: float, median: float, of_module: float | None
) -> CheckResult:
    """One sensor. Places in a module differ by kelvins for good: where that is known, it is no deviation."""
    _, own = q.limits(check_id, "asic", node)
    around, method = median, "one sensor, limits around its module's median"
    if own is not None and of_module is not None:
        around += own - of_module
        method += " and what it differs from that in the baseline"
    return q.judge(check_id, ("asic", node), value, "degC", 0.0, 1, limits=_near(around), method=method)


def _near(centre: float) -> Limits:
    return Limits(centre - _FAIL_K, centre - _WARN_K, centre + _WARN_K, centre + _FAIL_K)
