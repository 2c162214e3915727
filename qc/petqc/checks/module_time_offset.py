"""Time offsets left after calibration: modules against each other, ASICs in their module, channels in their module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.errors import TooFewCountsError
from petqc.fits import FWHM_OF_SIGMA, MIN_NET_COUNTS, rough_time_peak
from petqc.fits.energy_fits import Refusal
from petqc.fits.offsets import MIN_PAIRS, Offsets, Parallax, solve_offsets
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.checks import Level
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_C_MM_PER_PS = 0.299792458
_METHOD = "offset of dt = t_a - t_b, robust least squares on the graph of coincidences"
_DEPTH_PS = 2.5
"""What the classes of parallax leave to a single channel (the mean depth differs inside a class): stated as part of a
channel's uncertainty wherever parallax was fitted along. Means over ASICs and modules do not have it."""
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
    fit = q.time_fit(-1 if h.n_pairs > 1 else 0)
    a, b, dt = h.pairs()
    if isinstance(fit, Refusal) and fit.n < MIN_NET_COUNTS:
        return CheckOutput([q.missing("module_time_offset", where, "ps", dt.size, fit.reason, method=_METHOD)])
    # Offsets need a width to start from only; a peak of odd shape will do.
    sigma = rough_time_peak(*q.time_spectrum(-1))[1] / FWHM_OF_SIGMA if isinstance(fit, Refusal) else fit.sigma
    try:
        solved = solve_offsets(
            a, b, dt - _flight_ps(q, a, b), len(h.topology),
            window_ps=float(h.settings.coincidence_window_ps), start_ps=_module_start(q), sigma_ps=sigma,
            parallax=_parallax(q, a, b),
        )  # fmt: skip
    except TooFewCountsError as error:
        return CheckOutput([q.missing("module_time_offset", where, "ps", dt.size, str(error), method=_METHOD)])
    notes = []
    if solved.n_components > 1:
        cut = int((solved.component > 0).sum())
        notes.append(
            f"Time offsets: coincidences connect the channels in {solved.n_components} separate groups; the {cut} "
            "channels outside the largest one cannot be compared with it."
        )
    if h.pairs_stride > 1:
        notes.append(f"Time offsets use every {h.pairs_stride}th of {h.pairs_seen} pairs.")
    results, module_mean = _modules(q, solved)
    results += _asics(q, solved, module_mean)
    column, outside = _channels(q, solved, module_mean)
    return CheckOutput([*results, outside], column, notes=notes)


def _flight_ps(q: QcInput, a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.float64]:
    """Expected dt of a point source at the origin. Source: daily-qc.md §2d, g_k."""
    xyz = q.histograms.topology.xyz_mm.astype(np.float64)
    if q.context.source != "point" or not np.isfinite(xyz).all():
        return np.zeros(a.size)
    flight = np.sqrt((xyz**2).sum(axis=1)) / _C_MM_PER_PS
    return np.asarray(flight[a] - flight[b])


def _parallax(q: QcInput, a: NDArray[np.int32], b: NDArray[np.int32]) -> Parallax | None:
    """How far off its crystal's axis each line from a point source comes in.

    It is the distance of the crystal from the line through the source that is square to its module.
    """
    topology = q.histograms.topology
    xyz = topology.xyz_mm.astype(np.float64)
    if q.context.source != "point" or not np.isfinite(xyz).all():
        return None
    distance = np.zeros(len(topology))
    for node in q.nodes("module"):
        mine = xyz[node.members]
        middle = mine.mean(axis=0)
        if float(np.linalg.norm(middle)) < 1.0:
            return None
        # The crystals of a module lie in a plane; where they are too few for one, it faces the source.
        _, spread, axes = np.linalg.svd(mine - middle, full_matrices=False)
        is_plane = spread.size == 3 and spread[1] > 1.0 and spread[2] < 1e-2 * spread[1]
        square = axes[2] if is_plane else middle / np.linalg.norm(middle)
        distance[node.members] = np.linalg.norm(mine - np.outer(mine @ square, square), axis=1)
    return Parallax.of(a, b, distance)


def _module_start(q: QcInput) -> NDArray[np.float64]:
    """Module offsets from the fits of pairs, so that the robust solution starts near the peaks."""
    h = q.histograms
    n_modules = len(h.topology.module_nodes)
    rows, right = [np.ones(n_modules) / n_modules], [0.0]
    for pair in h.searched_pairs:
        fit = q.time_fit(pair)
        if not isinstance(fit, Refusal):
            row = np.zeros(n_modules)
            x, y = h.pair_modules(pair)
            row[x], row[y] = 1.0 / fit.mu_error, -1.0 / fit.mu_error
            rows.append(row)
            right.append(fit.mu / fit.mu_error)
    modules, *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    start: NDArray[np.float64] = modules[h.topology.module]
    return start


def _modules(q: QcInput, solved: Offsets) -> tuple[list[CheckResult], NDArray[np.float64]]:
    """Results of modules, and the mean that each channel's deviation is taken from, (n channels,)."""
    topology = q.histograms.topology
    main = solved.component == 0
    mean = np.full(len(topology), np.nan)
    members = {node.name: node.members[main[node.members]] for node in q.nodes("module")}
    means = {name: float(solved.offset_ps[m].mean()) for name, m in members.items() if m.size}
    everything = np.concatenate([m for m in members.values() if m.size]) if means else np.empty(0, np.int64)
    centre = float(np.mean(list(means.values()))) if means else 0.0
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
        error = solved.mean_error(inside, everything)
        results.append(
            q.judge(
                "module_time_offset", node, means[node.name] - centre, "ps", error, solved.pairs[inside].sum(),
                method=_METHOD,
            )
        )  # fmt: skip
    return results, mean


def _asics(q: QcInput, solved: Offsets, mean: NDArray[np.float64]) -> list[CheckResult]:
    topology = q.histograms.topology
    main = solved.component == 0
    results = []
    for node in q.nodes("asic"):
        inside = node.members[main[node.members]]
        siblings = np.flatnonzero((topology.module == topology.module[node.members[0]]) & main)
        if not inside.size or siblings.size == inside.size:
            continue  # a silent ASIC is the dead channels' business; one ASIC alone is its module
        value = float(solved.offset_ps[inside].mean() - mean[inside[0]])
        error = solved.mean_error(inside, siblings)
        results.append(
            q.judge("module_time_offset", node, value, "ps", error, solved.pairs[inside].sum(), method=_METHOD)
        )
    return results


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
