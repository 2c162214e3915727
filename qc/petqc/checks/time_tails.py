"""Tails of time peaks: FWTM over FWHM, a second component, and side peaks of single channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.errors import QcError
from petqc.fits.energy_fits import Refusal
from petqc.fits.kernels import A2, S2
from petqc.fits.time_peaks import fit_time_peak
from petqc.jit import kernel
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn
from petqc.statistics import FWHM_OF_SIGMA, channel_sigmas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.checks import Level
    from petqc.fits import PeakFit
    from petqc.qc_input import Node, QcInput
    from petqc.results import CheckResult

GAUSSIAN_RATIO = 1.823
"""FWTM over FWHM of a Gaussian. Source: daily-qc.md §2c."""
MIN_SHARE = 0.1
"""Side peaks below this share of a channel's pairs are not named: one bad time buffer of four makes 0.25, and what it
does to the crystals that face it stays below."""
MIN_PAIRS = 200
BIN_PS = 25.0
_FAR_SIGMAS = 3.0
_LIMITS = Limits(warn_high=1.95, fail_high=2.2)
_METHOD = "likelihood fit of one or two Gaussians on flat randoms to the pairs' times, offsets taken out"


@check(
    "time_tails",
    title="Tails of the time peak, FWTM over FWHM",
    unit="",
    levels=("scanner", "asic", "channel"),
    order=52,
    limits={"scanner": _LIMITS, "asic": _LIMITS},
    source="formula: daily-qc.md §2c (second Gaussian, FWTM/FWHM 1.823 for a pure one, satellites) and §3, F13; "
    "limits: daily-qc.md §5.2, row FWTM/FWHM; side peaks: 5 sigma of the channel rows",
)
def time_tails(q: QcInput) -> CheckOutput:
    """FWTM over FWHM without the skew of channels; how many channels have a side peak, and where.

    The map shows the share of a channel's pairs in its largest side peak, in per cent.
    """
    if (
        q.without_tof
        or not q.context.has_pair_search
        or q.histograms.n_pairs == 0
        or q.context.source not in {"point", "line"}
    ):
        return CheckOutput()
    found = q.time_offsets()
    if isinstance(found, Refusal):
        return CheckOutput()  # the offsets say why
    half = 0.5 * float(q.histograms.settings.coincidence_window_ps)
    edges = np.arange(-math.floor(half / BIN_PS), math.floor(half / BIN_PS) + 1, dtype=np.float64) * BIN_PS
    # One row a channel; a positive time is this channel's being late.
    counts = np.zeros((len(q.histograms.topology), edges.size - 1), np.uint32)
    of_all = np.zeros(edges.size - 1)
    _count(found.a, found.b, found.residual_ps, edges, counts, of_all)
    scanner: tuple[Level, str] = ("scanner", SCANNER)
    results = _of_node(q, scanner, edges, of_all, remarks=True)
    for node in q.nodes("asic"):
        results += _of_node(q, node, edges, counts[node.members].sum(axis=0, dtype=np.float64), remarks=False)
    column, side = _side_peaks(q, edges, counts, found.solved.sigma_ps)
    return CheckOutput([*results, side], column)


@kernel
def _count(
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    residual: NDArray[np.float32],
    edges: NDArray[np.float64],
    counts: NDArray[np.uint32],
    of_all: NDArray[np.float64],
) -> None:
    """Histograms of times, those that are no number left out.

    Args:
        a: (m,) channels of the pairs.
        b: (m,).
        residual: (m,) how much later a is than b.
        edges: (bins + 1,) in steps of BIN_PS.
        counts: (n, bins) how late each channel is, counted on.
        of_all: (bins,) how much later a is, counted on; the last bin has its upper edge.
    """
    bins = edges.size - 1
    for k in range(a.size):
        late = float(residual[k])
        if math.isnan(late):
            continue
        for channel, side in ((a[k], late), (b[k], -late)):
            at = math.floor((side - edges[0]) / BIN_PS)
            if 0 <= at < bins:
                counts[channel, int(at)] += np.uint32(1)
        if edges[0] <= late <= edges[bins]:
            m = min(int((late - edges[0]) / BIN_PS), bins - 1)
            # Rounding may have crossed an edge.
            if late < edges[m]:
                m -= 1
            elif m + 1 < bins and late >= edges[m + 1]:
                m += 1
            of_all[m] += 1.0


def _of_node(
    q: QcInput,
    node: Node | tuple[Level, str],
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    remarks: bool,
) -> list[CheckResult]:
    try:
        fit: PeakFit = fit_time_peak(edges, counts)
    except QcError as problem:
        return [q.missing("time_tails", node, "", counts.sum(), str(problem), method=_METHOD, needed=False)]
    ratio = fit.fwtm / fit.fwhm
    error = ratio * math.hypot(fit.fwtm_error / fit.fwtm, fit.fwhm_error / fit.fwhm) if fit.is_double else 0.0
    results = [
        q.judge("time_tails", node, ratio, "", error, fit.area, centre=GAUSSIAN_RATIO, method=_METHOD),
    ]
    if remarks and fit.is_double:
        share = 100.0 * float(fit.parameters[A2]) / fit.area
        deviations = np.sqrt(np.maximum(np.diag(fit.covariance), 0.0)) * fit.scale
        results += [
            q.judge(
                "time_tails", node, share, "%", 100.0 * float(deviations[A2]) / fit.area, fit.area,
                limits=Limits(), part="second_share", method="pairs in the second, wider Gaussian",
            ),
            q.judge(
                "time_tails", node, FWHM_OF_SIGMA * float(fit.parameters[S2]), "ps",
                FWHM_OF_SIGMA * float(deviations[S2]), fit.area,
                limits=Limits(), part="second_width", method="FWHM of the second Gaussian",
            ),
        ]  # fmt: skip
    return results


def _side_peaks(
    q: QcInput, edges: NDArray[np.float64], counts: NDArray[np.uint32], sigma: float
) -> tuple[ChannelColumn, CheckResult]:
    """Channels whose times have a second place: counts two widths wide that all channels together do not have there."""
    topology = q.histograms.topology
    total = counts.sum(axis=1, dtype=np.float64)
    everyone = counts.sum(axis=0, dtype=np.float64)
    usual = everyone / max(float(everyone.sum()), 1.0)
    width = max(round(2.0 * sigma / BIN_PS), 1)
    window = np.ones(width)
    usual_there = np.convolve(usual, window, "valid")
    middle = np.convolve(0.5 * (edges[:-1] + edges[1:]), window / width, "valid")
    far = np.abs(middle) > _FAR_SIGMAS * sigma + 0.5 * width * BIN_PS / 2.0
    at, excess = np.zeros(total.size, np.int64), np.full(total.size, -np.inf)
    _find_excess(counts, total, usual_there, far, at, excess)
    expected = total * usual_there[at]
    # A channel that is a little wider than the others has more at the foot of its peak: a tenth more is no side peak.
    noise = np.sqrt(np.maximum(expected, 1.0)) + 0.1 * expected
    share = np.where(total >= MIN_PAIRS, excess / np.maximum(total, 1.0), np.nan)
    error = noise / np.maximum(total, 1.0)
    sigmas = channel_sigmas(total.size * max(int(far.sum()) // width, 1))
    status = np.where(np.isfinite(share), str(Status.PASS), str(Status.INVALID)).astype(object)
    reason = np.where(np.isfinite(share), "", f"fewer than {MIN_PAIRS} coincidences").astype(object)
    flagged = np.flatnonzero((share > MIN_SHARE) & (share > sigmas * error))
    status[flagged] = str(Status.WARN)
    for i in flagged:
        reason[i] = f"side peak of {100 * share[i]:.0f} % of the pairs, {middle[at[i]]:+.0f} ps from the main one"
    column = ChannelColumn(
        "time_tails", "%", 100.0 * share, np.where(np.isfinite(share), 100.0 * error, np.nan), total.astype(np.int64),
        status, reason,
    )  # fmt: skip
    told = "; ".join(f"{_name(topology.channels[i])}: {reason[i]}" for i in flagged[:3])
    return column, q.channels_outside("time_tails", status, told or None)


@kernel
def _find_excess(
    counts: NDArray[np.uint32],
    total: NDArray[np.float64],
    usual: NDArray[np.float64],
    far: NDArray[np.bool_],
    at: NDArray[np.int64],
    excess: NDArray[np.float64],
) -> None:
    """Where each channel has most above what is usual.

    Args:
        counts: (n, bins) how late each channel is.
        total: (n,) their sums.
        usual: (places,) share of counts in the window that begins at each bin.
        far: (places,) where to look.
        at: (n,) result: the place, 0 where there is none.
        excess: (n,) result: counts there above the usual ones, as it is where there is none.
    """
    width = counts.shape[1] - usual.size + 1
    for channel in range(counts.shape[0]):
        inside = 0
        for k in range(width - 1):
            inside += counts[channel, k]
        for place in range(usual.size):
            inside += counts[channel, place + width - 1]
            if far[place]:
                more = inside - total[channel] * usual[place]
                if more > excess[channel]:
                    excess[channel], at[channel] = more, place
            inside -= counts[channel, place]


def _name(absolute: int) -> str:
    from petqc.qc_input import channel_name

    return channel_name(int(absolute))
