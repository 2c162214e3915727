"""Whether the instruments that time beside the readout have a clock that can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.check_input import CLOCK_LOCKS
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import CheckInput


@check(
    "clock_reference",
    title="Timing instruments without their reference clock",
    unit="instruments",
    levels=("scanner",),
    order=58,
    data=("source", "lutetium", "housekeeping"),
    limits={"scanner": Limits(warn_high=0.0)},
    source="fault F14: daily-qc.md §3; formula: instruments whose clock is not locked, or whose 10 MHz reference is "
    "missing; limits: any, petqc's own rule (without a clock of their own they tell nothing of modules and clocks)",
)
def clock_reference(q: CheckInput) -> CheckOutput:
    """How many of them have none, each by name."""
    read = [r for name in CLOCK_LOCKS for r in q.read(name).values()]
    if not read:
        return CheckOutput()
    without = [r for r in read if r.quality != "good" or r.value != 1.0]
    told = "; ".join(f"{r.node}: {r.reason or 'not locked'}" for r in without) or None
    found = q.judge("clock_reference", ("scanner", SCANNER), len(without), "instruments", 0.0, len(read), reason=told)
    return CheckOutput([found])
