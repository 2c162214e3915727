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
    "clock_skew",
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
    known = {REFERENCE_CLOCK, *q.topology.module_nodes}
    results = []
    for node, r in q.read(CLOCK_SKEW).items():
        if not set(node.split(" - ")) <= known:
            continue
        if r.value is None or r.quality != "good":
            why = r.reason or f"the reading is {r.quality}"
            results.append(q.missing("clock_skew", ("pair", node), "ps", 0, why, needed=False))
            continue
        error = q.read(f"{CLOCK_SKEW}_uncertainty").get(node)
        results.append(
            q.judge(
                "clock_skew",
                ("pair", node),
                r.value,
                "ps",
                0.0 if error is None or error.value is None else error.value,
                0,
                limits=q.around_baseline("clock_skew", ("pair", node), _WARN_PS),
                method="mean of the counter's intervals",
            )
        )
    return CheckOutput(results)
