"""Singles per second: scanner, modules, ASICs, channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from petqc.qc_input import QcInput


@check(
    "singles_rate",
    title="Singles rate",
    unit="1/s",
    levels=("scanner", "module", "asic", "channel"),
    order=80,
    relative={
        "scanner": Limits(-5.0, -2.0, 2.0, 5.0),
        "module": Limits(-10.0, -2.0, 2.0, 10.0),
        "asic": Limits(-10.0, -2.0, 2.0, 10.0),
    },
    source="formula: counts over live time, daily-qc.md §2e; limits: daily-qc.md §5.2, rows system sensitivity and "
    "block efficiency, relative to the (decay-corrected) baseline",
)
def singles_rate(q: QcInput) -> CheckOutput:
    """Counts over live time, all energies; a rate has limits once there is a baseline."""
    if not q.context.has_singles:
        return CheckOutput()
    counts, live = q.histograms.singles, q.live_time_s
    results = []
    for node in q.nodes("scanner", "module", "asic"):
        n = int(counts[node.members].sum())
        if live is None:
            if node.level == "scanner":
                results.append(q.missing("singles_rate", node, "1/s", n, "the live time is not known", needed=False))
            continue
        if n == 0 and node.level != "asic":
            results.append(q.missing("singles_rate", node, "1/s", 0, "no singles at all: bias off, or no data"))
            continue
        # No count at all still leaves room for one.
        results.append(q.judge("singles_rate", node, n / live, "1/s", max(n, 1) ** 0.5 / live, n))
    value = counts / live if live is not None else np.full(counts.size, np.nan)
    error = np.sqrt(np.maximum(counts, 1)) / live if live is not None else np.full(counts.size, np.nan)
    known = live is not None
    column = ChannelColumn(
        "singles_rate",
        "1/s",
        value,
        error,
        counts.astype(np.int64),
        np.full(counts.size, str(Status.NO_LIMITS if known else Status.INVALID), dtype=object),
        np.full(counts.size, "" if known else "the live time is not known", dtype=object),
    )
    return CheckOutput(results, column)
