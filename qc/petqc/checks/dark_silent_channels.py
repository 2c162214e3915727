"""Channels without the dark counts of their module: no bias, an open bond, a dead SiPM. No source is needed to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.checks.dark_hot_channels import MIN_CHANNELS
from petqc.checks.dead_channels import SHARE
from petqc.limits import Limits
from petqc.qc_input import channel_name

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput
    from petqc.results import CheckResult


@check(
    "dark_silent_channels",
    title="Channels without dark counts",
    unit="channels",
    levels=("module",),
    order=204,
    data=("dark",),
    source="fault F01: daily-qc.md §3 (channel without rate, bond or connector open); limits: daily-qc.md §5.2, row "
    "dead crystals (2 in a block, a quarter)",
)
def dark_silent_channels(q: DarkInput) -> CheckOutput:
    """Channels under a tenth of their module's median dark count rate."""
    results: list[CheckResult] = []
    for node in q.nodes("module"):
        rate = q.dark.rate_hz[node.members]
        total = int(q.dark.counts[node.members].sum())
        known = np.isfinite(rate)
        if known.sum() < max(MIN_CHANNELS, node.members.size // 2):
            why = f"{int(known.sum())} of {node.members.size} channels have a dark count rate"
            results.append(q.missing("dark_silent_channels", node, "channels", total, why))
            continue
        silent = node.members[known & (rate < SHARE * float(np.nanmedian(rate)))]
        limits = Limits(warn_high=min(1.0, node.members.size / 4), fail_high=node.members.size / 4)
        names = ", ".join(channel_name(int(q.topology.channels[c])) for c in silent[:5])
        results.append(
            q.judge(
                "dark_silent_channels", node, float(silent.size), "channels", 0.0, total, limits=limits,
                reason=names + (f" and {silent.size - 5} more" if silent.size > 5 else "") or None,
            )
        )  # fmt: skip
    return CheckOutput(results)
