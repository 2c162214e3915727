"""How many gammas each module counts inside the energy window, against what it should; a map over channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits.depth import USUAL_CRYSTAL_MM
from petqc.fits.expected_counts import expected_counts, rings_of, seen_shares
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import QcInput

MIN_COUNTS = 1000


@check(
    "block_efficiency",
    title="Module efficiency",
    unit="%",
    levels=("module", "channel"),
    order=82,
    limits={"module": Limits(fail_low=80.0, fail_high=120.0)},
    relative={"module": Limits(-10.0, -2.0, 2.0, 10.0)},
    source="formula: daily-qc.md §1.2 (block efficiency, % of the mean), with a point source of what the module sees "
    "of it: solid angle, and absorption as in §2g; limits: daily-qc.md §5.2, row block efficiency, relative to the "
    "baseline; without one those of §1.2 (80 to 120 %)",
)
def block_efficiency(q: QcInput) -> CheckOutput:
    """Singles in the energy window per module in per cent of what is expected: source and decay drop out.

    Expected is the mean module, or, where modules see a point source differently, what the geometry gives each of them
    on top of the decays of its own crystals. Of a scanner of several rings with a line or an extended source, which may
    reach into some of them only, it is the mean module of the ring. A column gives every channel's share of its
    module's mean channel; it has no limits, as it holds the geometry.
    """
    if not q.context.has_singles:
        return CheckOutput()
    h = q.histograms
    counts = h.singles_in_window.astype(np.float64)
    nodes = list(q.nodes("module"))
    each = np.array([counts[node.members].sum() for node in nodes])
    results = []
    if len(nodes) > 1 and each.mean() > 0:
        rings = rings_of(q.topology) if q.context.source in {"line", "extended"} else None
        expected = expected_counts(each, np.array([node.members.size for node in nodes]), _seen(q), rings)
        for node, n, mean in zip(nodes, each, expected, strict=True):
            if n < MIN_COUNTS:
                why = f"{n:.0f} singles in the energy window, at least {MIN_COUNTS} wanted"
                results.append(q.missing("block_efficiency", node, "%", n, why, needed=False))
                continue
            error = 100.0 * math.sqrt(n) / mean
            results.append(
                q.judge(
                    "block_efficiency", node, float(100.0 * n / mean), "%", float(error), n,
                    method="singles in the window",
                )
            )  # fmt: skip
    share, error_of = np.full(counts.size, np.nan), np.full(counts.size, np.nan)
    for node in nodes:
        middle = float(counts[node.members].mean())
        if middle > 0:
            share[node.members] = 100.0 * counts[node.members] / middle
            error_of[node.members] = 100.0 * np.sqrt(np.maximum(counts[node.members], 1.0)) / middle
    known = np.isfinite(share)
    column = ChannelColumn(
        "block_efficiency", "%", share, error_of, counts.astype(np.int64),
        np.where(known, str(Status.NO_LIMITS), str(Status.INVALID)).astype(object),
        np.where(known, "", "no singles in the module's window").astype(object),
    )  # fmt: skip
    return CheckOutput(results, column)


def _seen(q: QcInput) -> NDArray[np.float64] | None:
    """What the modules see of a point source where it is meant to be; None of another source: all the same."""
    if q.context.source != "point":
        return None
    where = np.array(q.context.source_mm if q.context.source_mm is not None else (0.0, 0.0, 0.0))
    length = q.context.crystal_mm[2] if q.context.crystal_mm else USUAL_CRYSTAL_MM
    return seen_shares(q.topology, where, length)
