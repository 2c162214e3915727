"""Skew of clocks, as a time-interval counter beside the readout measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import REFERENCE_CLOCK
from petqc.checks import CheckOutput, check

if TYPE_CHECKING:
    from petqc.check_input import CheckInput

CLOCK_SKEW = "clock_skew"
"""Name of the readings; their nodes are pairs, and the value is how much later the first one's clock is."""
_WARN_PS = 20.0


@check(
    CLOCK_SKEW,
    title="Skew of clocks",
    unit="ps",
    levels=("pair",),
    order=57,
    data=("source", "lutetium", "housekeeping"),
    source="fault F14: daily-qc.md §3; formula: mean of the counter's intervals between two clock outputs; limits: "
    "daily-qc.md §5.2, row offset of module (warn), around the baseline; without a baseline none, as cables differ",
)
def clock_skew(q: CheckInput) -> CheckOutput:
    """How much later one clock is than another, against its baseline: those of modules, or the reference."""
    return CheckOutput(
        q.intervals(
            CLOCK_SKEW,
            {REFERENCE_CLOCK, *q.topology.module_nodes},
            warn_ps=_WARN_PS,
            method="mean of the counter's intervals",
        )
    )
