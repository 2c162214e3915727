"""Voltages of the modules' supplies, where the board measures them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.housekeeping import HousekeepingInput

NOMINAL_V = {"supply_vdd1": 1.35, "supply_vdd2": 2.75, "supply_vdd3": 3.25}
"""What the rails are brought to. Source: TOFPET2 interface reference, section 4.10 (FEB/D 8K)."""
_WARN, _FAIL = 0.05, 0.10


@check(
    "supply_voltage",
    title="Supply voltage",
    unit="V",
    levels=("module",),
    order=142,
    data=("housekeeping",),
    source="daily-qc.md §5.1, P0 (V, I), fault F12 (a TDC calibration that a supply made stale); formula: the board's "
    "own ADC at the module's port; limits: ±5 % and ±10 % around what the rail is brought to, petqc's own choice",
)
def supply_voltage(q: HousekeepingInput) -> CheckOutput:
    """Each rail at each module against what it is brought to; boards that do not measure their supplies have none."""
    results = []
    for (name, node), r in sorted(q.last.items()):
        nominal = NOMINAL_V.get(name)
        if nominal is None or r.quality == "absent":
            continue
        part = name.removeprefix("supply_")
        if r.value is None or r.quality != "good":
            results.append(q.missing("supply_voltage", ("module", node), "V", 0, r.reason or f"{part} was not read"))
            continue
        limits = Limits(*(nominal * (1.0 + share) for share in (-_FAIL, -_WARN, _WARN, _FAIL)))
        results.append(q.judge("supply_voltage", ("module", node), r.value, "V", 0.0, 1, limits=limits, part=part))
    return CheckOutput(results)
