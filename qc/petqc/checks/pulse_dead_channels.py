"""Channels that do not answer test pulses: the ASIC, its link or its configuration, never the SiPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.check_input import channel_name
from petqc.checks import CheckOutput, check
from petqc.limits import Limits, Status

if TYPE_CHECKING:
    from petqc.test_pulse import PulseInput

DEAD_SHARE = 0.1
"""A channel that answers fewer of its pulses is dead."""
_NAMED = 5


@check(
    "pulse_dead_channels",
    title="Channels dead to test pulses",
    unit="channels",
    levels=("scanner", "module", "channel"),
    order=208,
    data=("test-pulse",),
    source="fault F01: daily-qc.md §3; formula: fewer hits than a tenth of the pulses sent; limits: daily-qc.md §5.2, "
    "row dead crystals (scanner 0.2 % and 1 %, block 2 and a quarter)",
)
def pulse_dead_channels(q: PulseInput) -> CheckOutput:
    """Number of channels that answer less than a tenth of the pulses sent to them."""
    t = q.test
    pulsed = t.sent > 0.0
    share = np.divide(t.hits, t.sent, out=np.full(t.sent.size, np.nan), where=pulsed)
    dead = pulsed & (t.hits < DEAD_SHARE * t.sent)
    status = np.where(pulsed, np.where(dead, str(Status.FAIL), str(Status.PASS)), str(Status.INVALID)).astype(object)
    results = []
    for node in q.nodes("scanner", "module"):
        size = int(pulsed[node.members].sum())
        if size == 0:
            told = "none of its channels was pulsed"
            results.append(q.missing("pulse_dead_channels", node, "channels", 0, told, needed=False))
            continue
        mine = node.members[dead[node.members]]
        limits = (
            Limits(warn_high=0.002 * size, fail_high=0.01 * size)
            if node.level == "scanner"
            else Limits(warn_high=min(1.0, size / 4), fail_high=size / 4)
        )
        names = ", ".join(channel_name(int(q.topology.channels[c])) for c in mine[:_NAMED])
        names += f" and {mine.size - _NAMED} more" if mine.size > _NAMED else ""
        results.append(
            q.judge(
                "pulse_dead_channels", node, float(mine.size), "channels", 0.0, int(t.sent[node.members].sum()),
                limits=limits, reason=names or None,
            )
        )  # fmt: skip
    error = np.where(pulsed, np.sqrt(np.maximum(t.hits, 1)) / np.maximum(t.sent, 1.0), np.nan)
    return CheckOutput(results, q.column("pulse_dead_channels", "share of pulses seen", share, error, status))
