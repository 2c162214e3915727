"""Temperatures under the MR's stress against those with it idle: whether a photopeak moved because it became warmer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.limits import Limits
from petqc.mr_delta import delta

if TYPE_CHECKING:
    from petqc.mr_delta import MrDeltaInput


@check(
    "mr_temperature",
    title="Temperature change under MR stress",
    unit="K",
    levels=("module",),
    order=232,
    data=("mr-delta",),
    source="fault F24: daily-qc.md §3; formula: median of the module's SiPM sensors at the end of each phase, stress "
    "against the mean of two idles, daily-qc.md §2i; no limits: what counts is what it does to photopeaks",
)
def mr_temperature(q: MrDeltaInput) -> CheckOutput:
    """Change of the temperature at the SiPMs of each module; without limits, to explain the others."""
    results = []
    for node in q.nodes("module"):
        read = [degc[node.name] for degc in q.degc if node.name in degc]
        if len(read) < len(q.degc):
            told = "the temperature was not read in every phase"
            results.append(q.missing("mr_temperature", node, "K", 0, told, needed=False))
            continue
        value = delta(read, (0.0, 0.0, 0.0)).value
        results.append(q.judge("mr_temperature", node, value, "K", 0.0, 3, limits=Limits()))
    return CheckOutput(results)
