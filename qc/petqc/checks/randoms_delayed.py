"""Randoms counted in the delayed window against randoms expected from singles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

MAX_UNCERTAINTY = 0.2
"""A ratio less certain than this says nothing about limits of 3 and 10 per cent."""
BOTH_WAYS = 2.0
"""The delayed window is searched with either of the two singles as the delayed one: twice the pairs, half the variance.
"""
_METHOD = "delayed pairs (half of both ways) over 2τ·S_a·S_b·T, singles inside the energy window"
_LIMITS = Limits(0.90, 0.97, 1.03, 1.10)


@check(
    "randoms_delayed",
    title="Randoms, delayed over singles",
    unit="",
    levels=("scanner", "pair"),
    order=100,
    limits={"scanner": _LIMITS, "pair": _LIMITS},
    source="formula: daily-qc.md §2e (window of full width 2τ; R = 2τ·S_i·S_j); limits: daily-qc.md §5.2, row randoms",
)
def randoms_delayed(q: QcInput) -> CheckOutput:
    """Ratio of the two estimates, 1 for a healthy detector; and the rate of randoms as a remark."""
    h, live = q.histograms, q.live_time_s
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    where: tuple[Level, str] = ("scanner", SCANNER)
    if not q.context.has_singles or live is None:
        reason = "the live time is not known" if q.context.has_singles else "no singles were recorded"
        return CheckOutput([q.missing("randoms_delayed", where, "", h.delayed.sum(), reason, needed=False)])
    two_tau_s = h.settings.coincidence_window_ps * 1e-12
    in_window = np.bincount(h.topology.module, weights=h.singles_in_window, minlength=len(h.topology.module_nodes))
    expected = {p: two_tau_s * float(np.prod(in_window[list(h.pair_modules(p))])) / live for p in h.searched_pairs}
    results: list[CheckResult] = []
    measured = int(h.delayed.sum())
    results.append(
        q.judge(
            "randoms_delayed", where, measured / BOTH_WAYS / live, "1/s",
            math.sqrt(max(measured, 1)) / BOTH_WAYS / live, measured,
            limits=Limits(), part="rate", method="pairs in the delayed window (half of both ways) over live time",
        )
    )  # fmt: skip
    nodes: list[tuple[Level, str, int, float]] = [("scanner", SCANNER, measured, sum(expected.values()))]
    if h.n_pairs > 1:
        nodes += [("pair", h.pair_name(p), int(h.delayed[p]), expected[p]) for p in h.searched_pairs]
    for level, name, n, expectation in nodes:
        if expectation <= 0.0 or n == 0 or 1.0 / math.sqrt(n) > MAX_UNCERTAINTY:
            reason = f"{n} delayed pairs ({BOTH_WAYS * expectation:.1f} expected from singles) are too few to compare"
            results.append(q.missing("randoms_delayed", (level, name), "", n, reason, method=_METHOD, needed=False))
            continue
        ratio = n / BOTH_WAYS / expectation
        # A count that is low by chance must not make its own error small.
        error = math.sqrt(max(n, BOTH_WAYS * expectation)) / (BOTH_WAYS * expectation)
        results.append(q.judge("randoms_delayed", (level, name), ratio, "", error, n, method=_METHOD))
    return CheckOutput(results)
