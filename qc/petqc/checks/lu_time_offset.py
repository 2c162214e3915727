"""Time offsets without a source: midpoints of the two peaks of beta-gamma pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.fits.offsets import MIN_PAIRS
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.fits.offsets import Offsets
    from petqc.lutetium.times import FlightFit
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_METHOD = "midpoint of the peaks at +d/c and -d/c of beta-gamma pairs, robust least squares, walk fitted along"
_BLOCK = Limits(-75.0, -20.0, 20.0, 75.0)
_CHANNEL_PS = 3.0
"""What a channel's own walk and the shape of its depths leave: stated as part of a channel's uncertainty."""


@check(
    "lu_time_offset",
    title="Time offset (Lu-176)",
    unit="ps",
    levels=("scanner", "module", "asic", "channel"),
    order=58,
    data=("lutetium",),
    limits={"module": _BLOCK, "asic": _BLOCK, "channel": Limits(-150.0, -40.0, 40.0, 150.0)},
    source="formula: daily-qc.md §2g (midpoint of the peaks), §2d (robust weights, levels with mean zero); limits: "
    "daily-qc.md §5.2, rows offset of module and of crystal after block",
)
def lu_time_offset(q: QcInput) -> CheckOutput:
    """How late a node's times are: positive is late; modules against their mean, ASICs and channels against theirs."""
    lu = q.lutetium
    if lu is None:
        return CheckOutput()
    if q.without_tof:
        return q.not_applicable("lu_time_offset", "ps", q.without_tof)
    where: tuple[Level, str] = ("scanner", SCANNER)
    if len(q.histograms.topology.module_nodes) < 2:
        return q.not_applicable("lu_time_offset", "ps", "one module has no pairs with another")
    flight, solved = lu.flight(q), lu.offsets(q)
    if isinstance(flight, Refusal):
        return CheckOutput([q.missing("lu_time_offset", where, "ps", flight.n, flight.reason, method=_METHOD)])
    results = _modules(q, flight)
    notes = []
    if (flight.component > 0).any():
        notes.append("Time offsets: beta-gamma pairs connect the modules in separate groups, not to be compared.")
    if lu.counts.stride > 1:
        notes.append(f"Times are those of every {lu.counts.stride}th beta-gamma pair.")
    if isinstance(solved, Refusal):
        results.append(q.missing("lu_time_offset", where, "ps", solved.n, f"channels: {solved.reason}", needed=False))
        return CheckOutput(results, notes=notes)
    column = _channels(q, solved)
    known = int(np.isfinite(column.value).sum())
    if known:
        results += _asics(q, solved)
        results.append(q.channels_outside("lu_time_offset", column.status))
    if known < len(q.histograms.topology):
        notes.append(
            f"Time offsets of {known} of {len(q.histograms.topology)} channels: the others have fewer than {MIN_PAIRS} "
            "beta-gamma pairs; a longer run has more."
        )
    return CheckOutput(results, column, notes=notes)


def _modules(q: QcInput, flight: FlightFit) -> list[CheckResult]:
    topology = q.histograms.topology
    results = []
    pairs = np.bincount(topology.module, weights=q.lutetium.counts.beta_pairs) if q.lutetium else np.zeros(0)
    for index, node in enumerate(q.nodes("module")):
        value, error = float(flight.module_ps[index]), float(flight.module_error[index])
        if math.isfinite(value):
            results.append(q.judge("lu_time_offset", node, value, "ps", error, pairs[index], method=_METHOD))
            continue
        dead = not q.histograms.singles[node.members].any()
        why = "no singles" if dead else "no module that it has pairs with in both directions is in the largest group"
        results.append(q.missing("lu_time_offset", node, "ps", pairs[index], why, method=_METHOD))
    return results


def _asics(q: QcInput, solved: Offsets) -> list[CheckResult]:
    topology = q.histograms.topology
    main = solved.component == 0
    results = []
    for node in q.nodes("asic"):
        inside = node.members[main[node.members]]
        siblings = np.flatnonzero((topology.module == topology.module[node.members[0]]) & main)
        if not inside.size or siblings.size == inside.size:
            continue
        value = float(solved.offset_ps[inside].mean() - solved.offset_ps[siblings].mean())
        error = solved.mean_error(inside, siblings)
        n = solved.pairs[inside].sum()
        results.append(q.judge("lu_time_offset", node, value, "ps", error, n, method=_METHOD))
    return results


def _channels(q: QcInput, solved: Offsets) -> ChannelColumn:
    topology = q.histograms.topology
    main = solved.component == 0
    mean = np.full(len(topology), np.nan)
    for node in q.nodes("module"):
        inside = node.members[main[node.members]]
        if inside.size:
            mean[node.members] = solved.offset_ps[inside].mean()
    value = np.where(main, solved.offset_ps - mean, np.nan)
    error = np.where(main, np.hypot(solved.error_ps, _CHANNEL_PS), np.nan)
    status = q.channel_status("lu_time_offset", value, error, 0.0)
    reason = np.full(value.size, "", dtype=object)
    reason[~main] = "not connected with the other channels by beta-gamma pairs"
    reason[solved.pairs < MIN_PAIRS] = f"fewer than {MIN_PAIRS} beta-gamma pairs"
    status[~main] = str(Status.INVALID)
    pairs = np.rint(solved.pairs).astype(np.int64)
    return ChannelColumn("lu_time_offset", "ps", value, error, pairs, status, reason)
