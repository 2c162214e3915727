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
    TIME_INTERVAL,
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
    return CheckOutput(
        q.intervals(
            TIME_INTERVAL, q.topology.module_nodes, warn_ps=_WARN_PS, method="peak of the timing board's intervals"
        )
    )
