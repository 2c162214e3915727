"""How much of the run was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput


@check(
    "live_time",
    title="Live time",
    unit="%",
    levels=("scanner",),
    order=120,
    data=("source", "lutetium"),
    limits={"scanner": Limits(fail_low=95.0, warn_low=99.0)},
    source="formula: daily-qc.md §2f (the electronics' own counters); limits: daily-qc.md §5.2, row dead time / loss "
    "counters (1 %, 5 %)",
)
def live_time(q: QcInput) -> CheckOutput:
    """Live time over elapsed time in per cent; both are counted by the frame clock, so without uncertainty."""
    elapsed, live = q.context.elapsed_s, q.context.live_time_s
    where: tuple[Level, str] = ("scanner", SCANNER)
    if elapsed is None or live is None:
        return CheckOutput()
    if elapsed <= 0:
        return CheckOutput([q.missing("live_time", where, "%", 0, "the recording has no duration")])
    return CheckOutput(
        [
            q.judge(
                "live_time", where, 100.0 * live / elapsed, "%", 0.0, int(q.context.account.get("frames", 0)),
                method=f"{live:.6g} s live of {elapsed:.6g} s",
            )
        ]
    )  # fmt: skip
