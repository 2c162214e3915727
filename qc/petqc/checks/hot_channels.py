"""Channels that count far more than their module: light leaks, noisy SiPMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.checks.dead_channels import error_of_median
from petqc.limits import Limits, Status
from petqc.qc_input import channel_name
from petqc.results import ChannelColumn
from petqc.statistics import channel_sigmas

if TYPE_CHECKING:
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

FACTOR = 5.0
"""A channel above this many times its module's median is hot: a tenth of the channel's share of light, or its place
in front of the source, makes at most a factor of four; a fault makes ten and more (daily-qc.md §3, F02)."""
MIN_MEDIAN = 25


@check(
    "hot_channels",
    title="Hot channels",
    unit="channels",
    levels=("scanner", "module", "channel"),
    order=70,
    data=("source", "lutetium"),
    limits={"module": Limits(warn_high=0.0, fail_high=3.0)},
    source="fault F02: daily-qc.md §3; limits: daily-qc.md §1.2, block noise (0 to 3 crystals); 5 sigma: §5.2",
)
def hot_channels(q: QcInput) -> CheckOutput:
    """Number of channels over 5 times their module's median count, and over 5 standard deviations above that."""
    if not q.context.has_singles or not len(q.histograms.topology):
        return CheckOutput()
    h = q.histograms
    n = len(h.topology)
    ratio, error = np.full(n, np.nan), np.full(n, np.nan)
    status, reason = np.full(n, str(Status.INVALID), dtype=object), np.full(n, "", dtype=object)
    results: list[CheckResult] = []
    sigmas = channel_sigmas(n)
    for node in q.nodes("module"):
        counts = h.channel_counts[node.members]
        if node.members.size < 4:
            reason[node.members] = "too few channels in the module to compare with"
            continue
        median = float(np.median(counts))
        if median < MIN_MEDIAN:
            longer = q.counts_wanted(MIN_MEDIAN, median, error_of_median(counts))
            why = f"the median channel has {median:.0f} counts, at least {MIN_MEDIAN} wanted{longer}"
            reason[node.members] = why
            results.append(q.missing("hot_channels", node, "channels", counts.sum(), why))
            continue
        ratio[node.members] = counts / median
        error[node.members] = np.sqrt(np.maximum(counts, 1)) / median
        hot = counts > FACTOR * median + sigmas * np.sqrt(FACTOR * median)
        status[node.members] = np.where(hot, str(Status.FAIL), str(Status.PASS))
        reason[node.members[hot]] = [f"{c / median:.1f} times the module's median" for c in counts[hot]]
        told = [
            f"{channel_name(int(h.topology.channels[i]))} at {ratio[i]:.1f} times the median"
            for i in node.members[hot][np.argsort(-counts[hot])][:5]
        ]
        results.append(
            q.judge(
                "hot_channels", node, float(hot.sum()), "channels", 0.0, counts.sum(), reason=", ".join(told) or None
            )
        )
    column = ChannelColumn("hot_channels", "of median", ratio, error, h.channel_counts.astype(np.int64), status, reason)
    return CheckOutput(results, column)
