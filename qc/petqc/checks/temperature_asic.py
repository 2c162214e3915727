"""Temperatures at the ASICs: their dissipation warms the SiPMs, and a lost flow of air shows here first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.check_input import ASIC_TEMPERATURE
from petqc.checks import CheckOutput, check
from petqc.checks.temperature import of_sensors

if TYPE_CHECKING:
    from petqc.check_input import CheckInput


@check(
    "temperature_asic",
    title="Temperature at the ASICs",
    unit="degC",
    levels=("module", "asic"),
    order=132,
    data=("housekeeping",),
    source="formula: median of a module's sensors; limits: daily-qc.md §5.2, row temperature (±2 K, ±5 K), around the "
    "baseline or else the median module; a single sensor: the same around its module's median (fault F06, §3)",
)
def temperature_asic(q: CheckInput) -> CheckOutput:
    """Median temperature of each module's ASIC sensors, and each sensor beside its neighbours. Measured ones only."""
    return of_sensors(q, "temperature_asic", ASIC_TEMPERATURE, "ASIC")
