"""Frames that the readout sent and nobody received, or that lost some of their events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import CheckInput
    from petqc.checks import Level

_LIMITS = Limits(warn_high=1.0, fail_high=5.0)


@check(
    "lost_frames",
    title="Lost frames",
    unit="%",
    levels=("scanner",),
    order=110,
    data=("source", "lutetium", "mr-delta"),
    limits={"scanner": _LIMITS},
    source="fault F19: daily-qc.md §3; formula: counters as truth, daily-qc.md §2f; limits: daily-qc.md §5.2, row dead "
    "time / loss counters",
)
def lost_frames(q: CheckInput) -> CheckOutput:
    """Frames lost whole, and frames that lost some events, in per cent of all; counted, so without uncertainty."""
    account = q.context.account
    frames = int(account.get("frames", 0))
    where: tuple[Level, str] = ("scanner", SCANNER)
    if "frames" not in account:
        return CheckOutput()
    if frames == 0:
        return CheckOutput([q.missing("lost_frames", where, "%", 0, "no frames at all")])
    lost, partly = int(account.get("frames_lost", 0)), int(account.get("frames_partly_lost", 0))
    results = [q.judge("lost_frames", where, 100.0 * lost / frames, "%", 0.0, frames)]
    results.append(
        q.judge(
            "lost_frames", where, 100.0 * partly / frames, "%", 0.0, frames,
            limits=_LIMITS, part="incomplete", method="frames that carry a loss flag: some of their events are missing",
        )
    )  # fmt: skip
    return CheckOutput(results)
