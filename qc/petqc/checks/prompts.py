"""Prompt coincidences per second: scanner and pairs of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult


@check(
    "prompts",
    title="Prompt rate",
    unit="1/s",
    levels=("scanner", "pair"),
    order=90,
    relative={"scanner": Limits(-5.0, -2.0, 2.0, 5.0), "pair": Limits(-10.0, -2.0, 2.0, 10.0)},
    source="formula: prompts over live time, daily-qc.md §2e; limits: daily-qc.md §5.2, rows system sensitivity and "
    "block efficiency, relative to the (decay-corrected) baseline",
)
def prompts(q: QcInput) -> CheckOutput:
    """Coincidences in the prompt window over live time."""
    h, live = q.histograms, q.live_time_s
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    total = int(h.prompts.sum())
    if total == 0:
        return CheckOutput([q.missing("prompts", ("scanner", SCANNER), "1/s", 0, "no coincidences between modules")])
    if live is None:
        reason = "the live time is not known"
        return CheckOutput([q.missing("prompts", ("scanner", SCANNER), "1/s", total, reason, needed=False)])
    results: list[CheckResult] = [
        q.judge("prompts", ("scanner", SCANNER), total / live, "1/s", total**0.5 / live, total)
    ]
    if h.n_pairs > 1:
        for pair in h.searched_pairs:
            n = int(h.prompts[pair])
            results.append(q.judge("prompts", ("pair", h.pair_name(pair)), n / live, "1/s", max(n, 1) ** 0.5 / live, n))
    return CheckOutput(results)
