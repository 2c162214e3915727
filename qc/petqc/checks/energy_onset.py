"""The lowest energies a part sees: what its thresholds let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import QcInput

BELOW_KEV = 250.0
SHARE = 0.05
MIN_COUNTS = 200
"""Fewest counts below BELOW_KEV for a number: 1.5 % of them is one standard deviation of the share."""
_WARN_KEV, _FAIL_KEV = 15.0, 40.0


@check(
    "energy_onset",
    title="Lowest energies seen",
    unit="keV",
    levels=("asic", "channel"),
    order=35,
    limits={"channel": Limits(-60.0, -25.0, 25.0, 60.0)},
    source="fault F16: daily-qc.md §3 (low-energy rate changes, photopeak the same); formula: energy below which 5 % "
    "of the singles under 250 keV lie; limits: deviation from the median, engineering values: an ASIC 15 and 40 keV, a "
    "channel 25 and 60 keV",
)
def energy_onset(q: QcInput) -> CheckOutput:
    """Energy that the lowest twentieth of the singles under 250 keV stays below, against the median ASIC; a map."""
    if not q.context.has_singles or not q.context.has_energies or not q.is_kev:
        return CheckOutput()
    h = q.histograms
    width = float(h.energy_edges[1] - h.energy_edges[0])
    low = h.energy_counts[:, : int(BELOW_KEV / width)].astype(np.float64)
    nodes = list(q.nodes("asic"))
    if not nodes:
        return CheckOutput()
    value, error, n = _quantiles(low, width)
    of_asic, of_asic_error, n_asic = _quantiles(np.array([low[node.members].sum(axis=0) for node in nodes]), width)
    seen = np.isfinite(of_asic)
    if not seen.any():
        return CheckOutput()
    middle = float(np.median(of_asic[seen]))
    limits = Limits(middle - _FAIL_KEV, middle - _WARN_KEV, middle + _WARN_KEV, middle + _FAIL_KEV)
    results = [
        q.judge(
            "energy_onset", node, of_asic[i], "keV", of_asic_error[i], n_asic[i], limits=limits, centre=middle,
            method="5 % quantile of the singles under 250 keV, limits around the median ASIC",
        )
        for i, node in enumerate(nodes)
        if seen[i]
    ]  # fmt: skip
    status = q.channel_status("energy_onset", value, error, middle)
    known = np.isfinite(value)
    status[~known] = str(Status.INVALID)
    reason = np.where(known, "", f"fewer than {MIN_COUNTS} counts below {BELOW_KEV:.0f} keV").astype(object)
    return CheckOutput(results, ChannelColumn("energy_onset", "keV", value, error, n.astype(np.int64), status, reason))


def _quantiles(
    counts: NDArray[np.float64], width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Quantile of each row's spectrum, its standard deviation, and the counts; NaN where there are too few."""
    n = counts.sum(axis=1)
    value, error = np.full(n.size, np.nan), np.full(n.size, np.nan)
    edges = np.arange(counts.shape[1] + 1) * width
    for i in np.flatnonzero(n >= MIN_COUNTS):
        running = np.concatenate([[0.0], np.cumsum(counts[i])]) / n[i]
        spread = np.sqrt(SHARE * (1.0 - SHARE) / n[i])
        below, value[i], above = np.interp([SHARE - spread, SHARE, SHARE + spread], running, edges)
        error[i] = 0.5 * (above - below)
    return value, error, n
