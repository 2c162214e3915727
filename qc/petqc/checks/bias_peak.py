"""Photopeak of the channels that one bias output feeds: one supply drifts, all of them move."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import ANNIHILATION_KEV, Refusal
from petqc.limits import Limits
from petqc.siblings import spread_beyond, spread_of

if TYPE_CHECKING:
    from petqc.qc_input import Node, QcInput

_WARN, _FAIL = 0.01 * ANNIHILATION_KEV, 0.03 * ANNIHILATION_KEV
MIN_CHANNELS = 2
_LEAST_SHARE = 0.5
"""Where fewer of an output's live channels have a number of their own, they are the lucky ones, and their mean scatters
more than it says: then their sum is fitted."""


@check(
    "bias_peak",
    title="Mean photopeak",
    unit="keV",
    levels=("bias",),
    order=12,
    limits={
        "bias": Limits(
            ANNIHILATION_KEV - _FAIL, ANNIHILATION_KEV - _WARN, ANNIHILATION_KEV + _WARN, ANNIHILATION_KEV + _FAIL
        )
    },
    relative={"bias": Limits(-3.0, -1.0, 1.0, 3.0)},
    source="fault F03: daily-qc.md §3 (group peak); formula: weighted mean of the channels' peaks, or peak of their "
    "sum, §2a; limits: daily-qc.md §5.2, row photopeak of a block",
)
def bias_peak(q: QcInput) -> CheckOutput:
    """Mean photopeak of the channels of a bias output; its uncertainty holds the spread between these channels.

    Where too few of them have a number: the photopeak of their sum.
    """
    if not q.context.has_singles or not q.context.has_energies or not q.is_kev:
        return CheckOutput()
    fits = q.channel_fits()
    found: list[tuple[Node, float, float, float, str]] = []
    summed: dict[str, tuple[float, float]] = {}
    for node in q.nodes("bias"):
        mine = node.members[np.isfinite(fits.mu[node.members])]
        live = int((q.histograms.singles[node.members] > 0).sum())
        if live < MIN_CHANNELS:
            continue  # silent: the dead channels' business
        if mine.size < max(MIN_CHANNELS, _LEAST_SHARE * live):
            fit = q.energy_fit(node)
            if not isinstance(fit, Refusal):  # if it is: the ASICs say so
                found.append((node, fit.mu, fit.mu_error, fit.area, f"photopeak of the sum of {live} channels"))
                summed[node.name] = (fit.mu, fit.mu_error)
            continue
        weight = 1.0 / fits.mu_error[mine] ** 2
        mean = float(np.average(fits.mu[mine], weights=weight))
        error = max(1.0 / math.sqrt(float(weight.sum())), float(fits.mu[mine].std(ddof=1)) / math.sqrt(mine.size))
        told = f"weighted mean of the photopeaks of {mine.size} channels"
        found.append((node, mean, error, float(np.nansum(fits.area[mine])), told))
    # Of few channels with few counts, the stated error is itself uncertain; how outputs differ says it better.
    noise = spread_of(mean for _, mean, _, _, _ in found)
    # The error of a mean holds how good channels differ, that of a sum does not.
    spread = spread_beyond((mean for mean, _ in summed.values()), (error for _, error in summed.values()))
    return CheckOutput(
        [
            q.judge(
                "bias_peak", node, mean, "keV", error, counts, noise=noise, method=told,
                spread=spread if node.name in summed else 0.0,
            )
            for node, mean, error, counts, told in found
        ]
    )  # fmt: skip
