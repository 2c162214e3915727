"""Time offsets left after calibration: modules against each other, ASICs in their module, channels in their module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.fits.offsets import MIN_PAIRS, Offsets
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from petqc.checks import Level
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_METHOD = "offset of dt = t_a - t_b, robust least squares on the graph of coincidences"
_DEPTH_PS = 2.5
"""What the classes of parallax leave to a single channel (the mean depth differs inside a class): stated as part of a
channel's uncertainty wherever parallax was fitted along. Means over ASICs and modules do not have it."""
_LEAST_SHARE = 0.5
"""Of the channels with coincidences that must hang together, or nothing is compared."""
_BLOCK = Limits(-75.0, -20.0, 20.0, 75.0)


@check(
    "module_time_offset",
    title="Time offset",
    unit="ps",
    levels=("scanner", "module", "asic", "channel"),
    order=55,
    limits={"module": _BLOCK, "asic": _BLOCK, "channel": Limits(-150.0, -40.0, 40.0, 150.0)},
    source="formula: daily-qc.md §2d (graph Laplacian, robust weights, module / ASIC / crystal each with mean zero), "
    "expected dt of a point source §2c; limits: daily-qc.md §5.2, rows offset of module and of crystal after block",
)
def module_time_offset(q: QcInput) -> CheckOutput:
    """How late a node's times are: positive is late.

    A module: mean of its channels minus the mean of all modules. An ASIC and a channel: minus their module's mean.
    """
    h = q.histograms
    if q.without_tof:
        return q.not_applicable("module_time_offset", "ps", q.without_tof)
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    where: tuple[Level, str] = ("scanner", SCANNER)
    found = q.time_offsets()
    if isinstance(found, Refusal):
        return CheckOutput([q.missing("module_time_offset", where, "ps", found.n, found.reason, method=_METHOD)])
    solved = found.solved.with_errors()
    if why := _too_few(q, solved):
        return CheckOutput([q.missing("module_time_offset", where, "ps", h.pairs_seen, why, method=_METHOD)])
    notes = []
    if solved.n_components > 1:
        cut = int((solved.component > 0).sum())
        notes.append(
            f"Time offsets: coincidences connect the channels in {solved.n_components} separate groups; the {cut} "
            "channels outside the largest one cannot be compared with it."
        )
    if found.is_moved:
        notes.append("Time offsets: flight times are those from where the source was found, not from the middle.")
    if h.pairs_stride > 1:
        notes.append(f"Time offsets use every {h.pairs_stride}th of {h.pairs_seen} pairs.")
    results, module_mean = _modules(q, solved)
    results += _asics(q, solved, module_mean)
    column, outside = _channels(q, solved, module_mean)
    return CheckOutput([*results, outside], column, notes=notes)


def _too_few(q: QcInput, solved: Offsets) -> str:
    """Why next to nothing can be compared, where that is for want of counts; empty otherwise."""
    live = solved.pairs > 0.0
    if not live.any() or (solved.component == 0).sum() >= _LEAST_SHARE * live.sum():
        return ""
    few = float(np.quantile(solved.pairs[live], 0.05))
    if few >= MIN_PAIRS:
        return ""  # enough of them, but they do not connect: the separate groups are told
    q.want(MIN_PAIRS / max(few, 1.0))
    return (
        f"too few coincidences to compare channels: a twentieth of them has {few:.0f} or fewer, at least {MIN_PAIRS} "
        "wanted"
    )


def _modules(q: QcInput, solved: Offsets) -> tuple[list[CheckResult], NDArray[np.float64]]:
    """Results of modules, and the mean that each channel's deviation is taken from, (n channels,)."""
    topology = q.histograms.topology
    main = solved.component == 0
    mean = np.full(len(topology), np.nan)
    members = {node.name: node.members[main[node.members]] for node in q.nodes("module")}
    means = {name: float(solved.offset_ps[m].mean()) for name, m in members.items() if m.size}
    everything = np.concatenate([m for m in members.values() if m.size]) if means else np.empty(0, np.int64)
    centre = float(np.mean(list(means.values()))) if means else 0.0
    errors = {name: solved.mean_error(inside, everything) for name, inside in members.items() if inside.size}
    noise = _usual(errors.values())
    results = []
    for node in q.nodes("module"):
        inside = members[node.name]
        if q.context.coincident_modules and node.name not in q.context.coincident_modules:
            continue
        if not inside.size:
            reason = f"no channel of this module has {MIN_PAIRS} coincidences with the rest of the scanner"
            results.append(q.missing("module_time_offset", node, "ps", 0, reason, method=_METHOD))
            continue
        mean[node.members] = means[node.name]
        results.append(
            q.judge(
                "module_time_offset", node, means[node.name] - centre, "ps", errors[node.name],
                solved.pairs[inside].sum(), method=_METHOD, noise=noise,
            )
        )  # fmt: skip
    return [*results, *_rms(q, results)], mean


def _rms(q: QcInput, modules: list[CheckResult]) -> list[CheckResult]:
    """Root mean square of the modules' offsets: one number for how well they are in step."""
    known = [(c.value, c.uncertainty or 0.0, c.n) for c in modules if c.value is not None]
    if len(known) < 2:
        return []
    value, error, n = (np.array(part, np.float64) for part in zip(*known, strict=True))
    rms = float(np.sqrt(np.mean(value**2)))
    spread = float(np.sqrt(np.sum((value * error) ** 2)) / (value.size * rms)) if rms else float(error.mean())
    where: tuple[Level, str] = ("scanner", SCANNER)
    return [
        q.judge("module_time_offset", where, rms, "ps", spread, n.sum(), limits=Limits(), part="rms", method=_METHOD)
    ]


def _asics(q: QcInput, solved: Offsets, mean: NDArray[np.float64]) -> list[CheckResult]:
    topology = q.histograms.topology
    main = solved.component == 0
    found = []
    for node in q.nodes("asic"):
        inside = node.members[main[node.members]]
        siblings = np.flatnonzero((topology.module == topology.module[node.members[0]]) & main)
        if not inside.size or siblings.size == inside.size:
            continue  # a silent ASIC is the dead channels' business; one ASIC alone is its module
        value = float(solved.offset_ps[inside].mean() - mean[inside[0]])
        found.append((node, value, solved.mean_error(inside, siblings), solved.pairs[inside].sum()))
    noise = _usual(error for _, _, error, _ in found)
    return [
        q.judge("module_time_offset", node, value, "ps", error, n, method=_METHOD, noise=noise)
        for node, value, error, n in found
    ]


def _usual(errors: Iterable[float]) -> float:
    """Median error of the nodes of a level.

    With a point source neighbours are linked by some dozens of pairs, so that an error is known to 10 or 20 % itself.
    One that came out low by chance does not make its node's limits tighter than those of all others.
    """
    known = list(errors)
    return float(np.median(known)) if known else 0.0


def _channels(q: QcInput, solved: Offsets, mean: NDArray[np.float64]) -> tuple[ChannelColumn, CheckResult]:
    main = solved.component == 0
    value = np.where(main, solved.offset_ps - mean, np.nan)
    error = np.where(main, np.hypot(solved.error_ps, _DEPTH_PS if q.context.source == "point" else 0.0), np.nan)
    status = q.channel_status("module_time_offset", value, error, 0.0)
    reason = np.full(value.size, "", dtype=object)
    reason[~main] = "not connected with the other channels by coincidences"
    reason[solved.pairs < MIN_PAIRS] = f"fewer than {MIN_PAIRS} coincidences"
    status[~main] = str(Status.INVALID)
    column = ChannelColumn(
        "module_time_offset", "ps", value, error, np.rint(solved.pairs).astype(np.int64), status, reason
    )
    return column, q.channels_outside("module_time_offset", status)
