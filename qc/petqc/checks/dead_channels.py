"""Channels that say nothing, or nearly nothing, while their module is lit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.limits import Limits, Status
from petqc.qc_input import channel_name
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

SHARE = 0.1
"""A channel below this share of its module's median is dead. Crystals at a module's rim see half of the median."""
MIN_MEDIAN = 25
"""Below this median a live channel is under SHARE of it too often by chance: Poisson(25) <= 2 once in 10^8."""


@check(
    "dead_channels",
    title="Dead channels",
    unit="channels",
    levels=("scanner", "module", "channel"),
    order=60,
    data=("source", "lutetium"),
    source="fault F01: daily-qc.md §3; limits: daily-qc.md §5.2, row dead crystals (scanner 0.2 % and 1 %, block 2 "
    "and a quarter)",
)
def dead_channels(q: QcInput) -> CheckOutput:
    """Number of channels under a tenth of their module's median count."""
    if not q.context.has_singles:
        return CheckOutput()
    h = q.histograms
    every, total = h.channel_counts, int(h.channel_counts.sum())
    n = len(h.topology)
    if not q.context.expected_channels:
        return CheckOutput(notes=["Which channels exist is not known here: a dead one cannot be told from none."])
    ratio, error = np.full(n, np.nan), np.full(n, np.nan)
    reason = np.full(n, "", dtype=object)
    status = np.full(n, str(Status.INVALID), dtype=object)
    results: list[CheckResult] = []
    whole = 0
    trusted = True
    for node in q.nodes("module"):
        counts = every[node.members]
        limits = Limits(warn_high=min(1.0, node.members.size / 4), fail_high=node.members.size / 4)
        median = float(np.median(counts))
        if counts.sum() == 0:
            # A module without a single count is not a module whose channels cannot be judged: all of them are dead.
            ratio[node.members], error[node.members] = 0.0, 0.0
            status[node.members], reason[node.members] = str(Status.FAIL), "no counts in the whole module"
            whole += node.members.size
            results.append(q.judge("dead_channels", node, float(counts.size), "channels", 0.0, 0, limits=limits))
            continue
        if median < MIN_MEDIAN and node.members.size > 1:
            silent = int((counts == 0).sum())
            longer = q.counts_wanted(MIN_MEDIAN, median, error_of_median(counts))
            why = (
                f"the median channel has {median:.0f} counts, at least {MIN_MEDIAN} wanted ({silent} have none){longer}"
            )
            reason[node.members] = why
            results.append(q.missing("dead_channels", node, "channels", counts.sum(), why))
            trusted = False
            continue
        ratio[node.members] = counts / median
        error[node.members] = np.sqrt(np.maximum(counts, 1)) / median
        dead = counts < SHARE * median
        status[node.members] = np.where(dead, str(Status.FAIL), str(Status.PASS))
        reason[node.members[dead]] = [f"{c} counts, the module's median is {median:.0f}" for c in counts[dead]]
        whole += int(dead.sum())
        results.append(
            q.judge(
                "dead_channels", node, float(dead.sum()), "channels",
                math.sqrt(node.members.size * _chance(median)), counts.sum(), limits=limits,
                reason=_names(q, node.members[dead]),
            )
        )  # fmt: skip
    if len(h.topology.module_nodes) > 1:
        limits = Limits(warn_high=0.002 * n, fail_high=0.01 * n)
        node = next(q.nodes("scanner"))
        if trusted:
            flagged = np.flatnonzero(status == str(Status.FAIL))
            results.insert(
                0,
                q.judge(
                    "dead_channels", node, float(whole), "channels", 0.0, total,
                    limits=limits, reason=_names(q, flagged),
                ),
            )  # fmt: skip
        else:
            results.insert(
                0,
                q.missing("dead_channels", node, "channels", total, "not every module has counts enough"),
            )
    column = ChannelColumn("dead_channels", "of median", ratio, error, every.astype(np.int64), status, reason)
    return CheckOutput(results, column)


def error_of_median(counts: NDArray[np.int64]) -> float:
    """Standard error of the median count of channels that count alike: 1.25 times that of their mean."""
    return 1.25 * math.sqrt(float(np.median(counts)) / counts.size)


def _chance(median: float) -> float:
    """Chance that noise takes a live channel below SHARE of the median (half of it at the rim)."""
    from scipy.special import pdtr

    return float(pdtr(math.ceil(SHARE * median) - 1, 0.5 * median))


def _names(q: QcInput, flagged: np.ndarray) -> str | None:
    if not flagged.size:
        return None
    names = ", ".join(channel_name(int(q.histograms.topology.channels[i])) for i in flagged[:5])
    return names + (f" and {flagged.size - 5} more" if flagged.size > 5 else "")
