"""How much of the time channels are blind after a photon."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.errors import QcError, TooFewCountsError
from petqc.fits.dead_time import AsleepError, dead_time
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_LIMITS = Limits(warn_high=1.0, fail_high=5.0)
_METHOD = "what is missing of short gaps between singles of one channel, times the rate of its hits"


@check(
    "dead_time",
    title="Dead time",
    unit="%",
    levels=("scanner", "module"),
    order=115,
    data=("source", "lutetium"),
    limits={"scanner": _LIMITS, "module": _LIMITS},
    source="formula: daily-qc.md §2f (non-paralysable: blind for m·t_d of the time at a measured rate m); t_d from the "
    "gaps between singles of a channel, in place of test pulses; limits: daily-qc.md §5.2, row dead time",
)
def dead_time_check(q: QcInput) -> CheckOutput:
    """Share of photons that find their channel blind, averaged over photons; and the dead time itself as a remark.

    What the readout drops as a whole is counted by lost frames and live time, and is not in here.
    """
    live, h = q.live_time_s, q.histograms
    if not q.context.has_singles or live is None or not h.times.n:
        return CheckOutput()
    # Hits that joined a single of another channel made their channel blind, too.
    account = q.context.account
    kept, singles = float(account.get("hits_kept", 0)), float(account.get("singles", 0))
    hits_per_single = max(kept / singles, 1.0) if singles > 0 else 1.0
    results: list[CheckResult] = []
    few = 0
    for node in q.nodes("scanner", "module"):
        mine = np.unique(h.topology.module[node.members])
        if node.level == "scanner" and len(h.topology.module_nodes) == 1:
            continue
        gaps = h.times.gaps[mine].sum(axis=0)
        n = h.singles[node.members].astype(np.float64)
        # Of the time before which a photon comes: mean rate over photons, not over channels.
        mean_rate = float(np.sum(n * n) / max(n.sum(), 1.0)) / live
        try:
            found = dead_time(gaps, mean_rate)
        except QcError as problem:
            if isinstance(problem, TooFewCountsError) and node.level == "module" and len(h.topology.module_nodes) > 1:
                few += 1  # the scanner's number holds them
                continue
            asleep = isinstance(problem, AsleepError)
            results.append(
                q.missing("dead_time", node, "%", int(gaps.sum()), str(problem), method=_METHOD, needed=asleep)
            )
            continue
        share = 1e-9 * mean_rate * hits_per_single
        error = 100.0 * share * found.error_ns
        results.append(q.judge("dead_time", node, 100.0 * share * found.value_ns, "%", error, found.n, method=_METHOD))
        results.append(
            q.judge(
                "dead_time", node, found.value_ns, "ns", found.error_ns, found.n, limits=Limits(), part="after_hit",
                method=f"missing short gaps of a channel; the shortest that was seen: {math.floor(found.first_ns)} ns",
            )
        )  # fmt: skip
    told = (
        f"Dead time: {few} of {len(h.topology.module_nodes)} modules have too few short gaps for a number of their own."
    )
    return CheckOutput(results, notes=[told] if few else [])
