"""How wide time peaks are, by ASIC and by channel: which part makes the coincidence time resolution worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits import MIN_NET_COUNTS
from petqc.fits.energy_fits import Refusal
from petqc.fits.group_widths import group_widths
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn
from petqc.siblings import Siblings
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.fits.offset_fits import TimeOffsets
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

MIN_PAIRS = 100
"""Fewest pairs of a channel, or of two ASICs, for a width: 7 % of it."""
_ALONE = "FWHM of this ASIC alone, non-negative least squares of the variances of pairs of ASICs, offsets taken out"
_PAIRS = "FWHM of all pairs with this ASIC on one side, offsets taken out"


@check(
    "timing_width",
    title="Timing width",
    unit="ps",
    levels=("asic", "channel"),
    order=45,
    limits={"channel": Limits(warn_high=20.0, fail_high=60.0)},
    relative={"asic": Limits(warn_high=5.0, fail_high=15.0)},
    source="formula: daily-qc.md §2c (module-pair CTR, v_ij = s_i² + s_j², here between ASICs); limits: daily-qc.md "
    "§5.2, row module sigma, relative to the baseline or else to the median ASIC; of a channel in % above its module's "
    "median, from the sizes of faults F12 to F16 in §3",
)
def timing_width(q: QcInput) -> CheckOutput:
    """FWHM of single ASICs where pairs tell them apart, of an ASIC's pairs where they do not; a map over channels.

    Two facing modules alone do not tell which of the two is wide: there every width holds the mean partner's.
    """
    if q.without_tof or not q.context.has_pair_search or q.histograms.n_pairs == 0:
        return CheckOutput()
    if q.context.source not in {"point", "line"}:
        return CheckOutput()
    found = q.time_offsets()
    if isinstance(found, Refusal):
        return CheckOutput()  # the offsets say why
    known = np.isfinite(found.residual_ps)
    a, b = found.a[known], found.b[known]
    residual = found.residual_ps[known]
    results, notes = _asics(q, found, a, b, residual)
    return CheckOutput(results, _channels(q, found, a, b, residual), notes=notes)


def _asics(
    q: QcInput, found: TimeOffsets, a: NDArray[np.int32], b: NDArray[np.int32], residual: NDArray[np.float32]
) -> tuple[list[CheckResult], list[str]]:
    topology = q.histograms.topology
    n = len(topology.asic_nodes)
    if n < 2:
        return [], []
    window_ps, sigma = float(q.histograms.settings.coincidence_window_ps), found.solved.sigma_ps
    asic_a, asic_b = topology.asic[a], topology.asic[b]
    number, group = _numbered(np.maximum(asic_a, asic_b) * np.int32(n) + np.minimum(asic_a, asic_b), n * n)
    of_pair = group_widths(residual, (group,), number.size, window_ps=window_ps, start_ps=sigma, min_pairs=MIN_PAIRS)
    good = np.isfinite(of_pair.sigma_ps)
    first, second = np.divmod(number[good], n)
    alone = _single_variances(n, first, second, of_pair.sigma_ps[good] ** 2, of_pair.error_ps[good])
    notes = []
    if alone is None:
        both = group_widths(
            residual, (asic_a, asic_b), n, window_ps=window_ps, start_ps=sigma, min_pairs=MIN_NET_COUNTS
        )
        width, error, method = both.sigma_ps, both.error_ps, _PAIRS
        notes.append(
            "Pairs do not tell the timing of single ASICs apart (two facing groups of modules): each width is that of "
            "an ASIC's pairs, with the mean of its partners in it."
        )
    else:
        (width, error), method = alone, _ALONE
    pairs = np.bincount(asic_a, minlength=n) + np.bincount(asic_b, minlength=n)
    seen = np.isfinite(width)
    siblings = Siblings.of_any(FWHM_OF_SIGMA * width)
    results = []
    for i, node in enumerate(q.nodes("asic")):
        if not seen[i]:
            continue  # silent, or without partners: the business of dead channels and of offsets
        results.append(
            q.judge(
                "timing_width", node, FWHM_OF_SIGMA * width[i], "ps", FWHM_OF_SIGMA * error[i], pairs[i],
                method=method, siblings=siblings,
            )
        )  # fmt: skip
    return results, notes


def _numbered(key: NDArray[np.int32], n_keys: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The keys that there are, sorted, and for each of the given ones which it is."""
    seen = np.zeros(n_keys, np.bool_)
    seen[key] = True
    there = np.flatnonzero(seen)
    place = np.empty(n_keys, np.int32)
    place[there] = np.arange(there.size, dtype=np.int32)
    return there, place[key]


def _single_variances(
    n: int,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    variance: NDArray[np.float64],
    error_ps: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Standard deviations of single ASICs and their errors from those of pairs; None where pairs do not suffice."""
    from scipy.optimize import nnls

    used = np.unique(np.concatenate([first, second]))
    if used.size < 3:
        return None
    place = np.full(n, -1)
    place[used] = np.arange(used.size)
    weight = 1.0 / (2.0 * np.sqrt(variance) * error_ps)
    design = np.zeros((variance.size, used.size))
    row = np.arange(variance.size)
    design[row, place[first]] += weight
    design[row, place[second]] += weight
    normal = design.T @ design
    eigenvalues = np.linalg.eigvalsh(normal)
    if eigenvalues[0] < 1e-6 * eigenvalues[-1]:
        return None
    squares, _ = nnls(design, variance * weight)
    spread = np.sqrt(np.diag(np.linalg.inv(normal)))
    width, error = np.full(n, np.nan), np.full(n, np.nan)
    positive = squares > spread
    width[used[positive]] = np.sqrt(squares[positive])
    error[used[positive]] = spread[positive] / (2.0 * np.sqrt(squares[positive]))
    return width, error


def _channels(
    q: QcInput, found: TimeOffsets, a: NDArray[np.int32], b: NDArray[np.int32], residual: NDArray[np.float32]
) -> ChannelColumn:
    topology = q.histograms.topology
    n = len(topology)
    of_channel = group_widths(
        residual, (a, b), n,
        window_ps=float(q.histograms.settings.coincidence_window_ps), start_ps=found.solved.sigma_ps,
        min_pairs=MIN_PAIRS,
    )  # fmt: skip
    width, error = FWHM_OF_SIGMA * of_channel.sigma_ps, FWHM_OF_SIGMA * of_channel.error_ps
    median = np.full(n, np.nan)
    for node in q.nodes("module"):
        seen = width[node.members][np.isfinite(width[node.members])]
        if seen.size:
            median[node.members] = np.median(seen)
    with np.errstate(invalid="ignore"):
        above, spread = 100.0 * (width / median - 1.0), 100.0 * error / median
    status = q.channel_status("timing_width", above, spread, 0.0)
    reason = np.full(n, "", dtype=object)
    missing = ~np.isfinite(width)
    reason[missing] = f"fewer than {MIN_PAIRS} coincidences"
    status[missing] = str(Status.INVALID)
    return ChannelColumn("timing_width", "ps", width, error, np.rint(of_channel.pairs).astype(np.int64), status, reason)
