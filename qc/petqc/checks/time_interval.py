"""Time between the fast outputs of two modules, as a timing board beside the readout measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check

if TYPE_CHECKING:
    from petqc.check_input import CheckInput

TIME_INTERVAL = "time_interval"
"""Name of the readings; their nodes are pairs of modules, and the value is the first one's time minus the second's."""
_WARN_PS = 20.0


@check(
    "time_interval",
    title="Time interval of two modules on the timing board",
    unit="ps",
    levels=("pair",),
    order=56,
    data=("source", "lutetium", "housekeeping"),
    source="formula: mean of the peak of t_a - t_b of the modules' fast outputs, by a clock of its own; limits: daily-"
    "qc.md §5.2, row offset of module (warn), around the baseline; without a baseline none, as cables differ",
)
def time_interval(q: CheckInput) -> CheckOutput:
    """Mean of each pair of modules against its baseline; the readout and its clock have no part in it."""
    modules = set(q.topology.module_nodes)
    results = []
    for node, r in q.read(TIME_INTERVAL).items():
        if not set(node.split(" - ")) <= modules:
            continue
        if r.value is None or r.quality != "good":
            why = r.reason or f"the reading is {r.quality}"
            results.append(q.missing("time_interval", ("pair", node), "ps", 0, why, needed=False))
            continue
        error, pairs = (q.read(f"{TIME_INTERVAL}_{name}").get(node) for name in ("uncertainty", "pairs"))
        results.append(
            q.judge(
                "time_interval",
                ("pair", node),
                r.value,
                "ps",
                0.0 if error is None or error.value is None else error.value,
                0 if pairs is None or pairs.value is None else pairs.value,
                limits=q.around_baseline("time_interval", ("pair", node), _WARN_PS),
                method="peak of the timing board's intervals",
            )
        )
    return CheckOutput(results)
