"""Supplies of the modules: what the hardware itself calls good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.housekeeping import HousekeepingInput


@check(
    "supply",
    title="Supplies that are not good",
    unit="supplies",
    levels=("scanner", "unit"),
    order=141,
    data=("housekeeping",),
    limits={"scanner": Limits(fail_high=0.0), "unit": Limits(fail_high=0.0)},
    source="daily-qc.md §5.1, P0 (V, I); formula: the power-good bits of the board, TOFPET2 interface reference, "
    "section 4.2; limits: any supply that is not good, petqc's own rule",
)
def supply(q: HousekeepingInput) -> CheckOutput:
    """How many supplies of each unit do not call themselves good."""
    bad: dict[str, list[str]] = {}
    looked: dict[str, int] = {}
    for (name, node), r in q.last.items():
        unit = q.unit_of(node)
        if name != "supply_good" or unit is None:
            continue
        looked[unit] = looked.get(unit, 0) + 1
        if not r.value:
            bad.setdefault(unit, []).append(node.partition(":")[2])
    if not looked:
        return CheckOutput([q.missing("supply", ("scanner", SCANNER), "supplies", 0, "no supply was read")])
    n_bad = sum(map(len, bad.values()))
    results = [q.judge("supply", ("scanner", SCANNER), n_bad, "supplies", 0.0, sum(looked.values()))]
    for unit in sorted(looked):
        found = bad.get(unit, [])
        results.append(
            q.judge("supply", ("unit", unit), len(found), "supplies", 0.0, looked[unit], reason=q.named(found))
        )
    return CheckOutput(results)
