"""Locks of the clock: of each unit's PLL, and of the clock and trigger links between units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.housekeeping import HousekeepingInput

_SLACK = 0.5
"""A PLL whose time in lock grew by less than this share of the time between the readings was out of lock meanwhile."""
CLOCK_S = 5e-9
"""Length of a clock. Source: TOFPET2 interface reference, section 4.2."""


@check(
    "clock_lock",
    title="Clocks and links out of lock",
    unit="links",
    levels=("scanner", "unit"),
    order=140,
    data=("housekeeping",),
    limits={"scanner": Limits(fail_high=0.0), "unit": Limits(fail_high=0.0)},
    source="fault F14: daily-qc.md §3 (lost lock moves a module's time offset); formula: time in lock of the PLL must "
    "grow with time, a link must be locked and show what it carries at rest, TOFPET2 interface reference, section 4.2; "
    "limits: any lost lock, petqc's own rule",
)
def clock_lock(q: HousekeepingInput) -> CheckOutput:
    """PLLs and links of each unit that were not locked while the readings were taken."""
    bad: dict[str, list[str]] = {}
    looked: dict[str, int] = {}
    for (name, node), r in q.last.items():
        unit = q.unit_of(node)
        if unit is None:
            continue
        if name == "pll_lock_time":
            grown = q.grown(name, node)
            looked[unit] = looked.get(unit, 0) + 1
            if grown is None or grown * CLOCK_S < _SLACK * q.watched_s:
                bad.setdefault(unit, []).append("the PLL")
        elif name == "link_locked":
            value = q.last.get(("link_value", node))
            looked[unit] = looked.get(unit, 0) + 1
            if not r.value or value is None or value.quality != "good":
                told = value.reason if value is not None and value.reason else "not locked"
                bad.setdefault(unit, []).append(f"{node.rpartition('.')[2]}: {told}")
    if not looked:
        return CheckOutput([q.missing("clock_lock", ("scanner", SCANNER), "links", 0, "no unit tells its lock")])
    results = [
        q.judge(
            "clock_lock", ("scanner", SCANNER), sum(map(len, bad.values())), "links", 0.0, sum(looked.values()),
        )
    ]  # fmt: skip
    for unit in sorted(looked):
        found = bad.get(unit, [])
        results.append(
            q.judge("clock_lock", ("unit", unit), len(found), "links", 0.0, looked[unit], reason=q.named(found))
        )
    return CheckOutput(results)
