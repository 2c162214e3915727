"""Channels that are noisy in the dark: more dark counts than their module, or pulses that dark counts do not make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.checks.hot_channels import FACTOR
from petqc.limits import Limits, Status
from petqc.qc_input import channel_name
from petqc.statistics import channel_sigmas

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput
    from petqc.results import CheckResult

MIN_CHANNELS = 4


@check(
    "dark_hot_channels",
    title="Hot channels in the dark",
    unit="channels",
    levels=("module", "channel"),
    order=202,
    data=("dark",),
    limits={"module": Limits(warn_high=0.0, fail_high=3.0)},
    source="fault F02: daily-qc.md §3 (dark rate x10 to x1000, dark scan); limits: daily-qc.md §1.2, block noise "
    "(0 to 3 crystals); 5 sigma: §5.2",
)
def dark_hot_channels(q: DarkInput) -> CheckOutput:
    """Channels over 5 times their module's median, in dark counts or in counts over the highest threshold.

    The highest threshold is above four photoelectrons, where few dark counts come: a light leak shows there first.
    """
    dark, n = q.dark, len(q.topology)
    ratio, error = np.full(n, np.nan), np.full(n, np.nan)
    status, reason = np.full(n, str(Status.INVALID), object), dark.reason.copy()
    sigmas = channel_sigmas(n)
    results: list[CheckResult] = []
    for node in q.nodes("module"):
        mine = node.members[np.isfinite(dark.rate_hz[node.members])]
        total = int(dark.counts[node.members].sum())
        if mine.size < max(MIN_CHANNELS, node.members.size // 2):
            why = f"{mine.size} of {node.members.size} channels have a dark count rate"
            results.append(q.missing("dark_hot_channels", node, "channels", total, why))
            continue
        rate, highest = dark.rate_hz[mine], dark.over_highest[mine]
        median, usual = float(np.median(rate)), float(np.median(highest))
        ratio[mine], error[mine] = rate / median, dark.rate_error_hz[mine] / median
        is_fast = rate > FACTOR * median + sigmas * dark.rate_error_hz[mine]
        is_high = highest > FACTOR * usual + sigmas * np.sqrt(np.maximum(FACTOR * usual, 1.0))
        hot = is_fast | is_high
        status[mine] = np.where(hot, str(Status.FAIL), str(Status.PASS))
        reason[mine] = ""
        told = []
        for c, r, h in zip(mine[hot], rate[hot], highest[hot], strict=True):
            at_highest = (
                f"{h / dark.highest_s:.0f} Hz over the highest threshold (median {usual / dark.highest_s:.0f} Hz)"
            )
            reason[c] = f"{r / median:.1f} times the module's median dark count rate, {at_highest}"
            told.append(f"{channel_name(int(q.topology.channels[c]))}: {reason[c]}")
        results.append(
            q.judge(
                "dark_hot_channels", node, float(hot.sum()), "channels", 0.0, total,
                reason="; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "") or None,
            )
        )  # fmt: skip
    return CheckOutput(results, q.column("dark_hot_channels", "of median", ratio, error, status, reason))
