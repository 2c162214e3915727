"""Width of the time peak of many groups of pairs at once: a Gaussian on flat randoms for each.

By expectation and maximisation, for hundreds of groups that have too few pairs for a fit of their own. Tails count: the
width of a peak with tails is larger here than that of a fit that gives them a Gaussian of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 40
_SETTLED = 1e-4


@dataclass(frozen=True, slots=True)
class GroupWidths:
    """(n_groups,) each, NaN where a group has too few pairs.

    sigma_ps: standard deviation of the peak; error_ps: of it; pairs: without randoms.
    """

    sigma_ps: NDArray[np.float64]
    error_ps: NDArray[np.float64]
    pairs: NDArray[np.float64]


def group_widths(
    residual_ps: NDArray[np.float32],
    group: NDArray[np.int64],
    n_groups: int,
    *,
    window_ps: float,
    start_ps: float,
    min_pairs: float,
) -> GroupWidths:
    """Width of each group's peak around zero.

    Args:
        residual_ps: (m,) time differences that should be zero.
        group: (m,) group of each, 0 .. n_groups - 1.
        n_groups: how many groups.
        window_ps: full width over which randoms are flat.
        start_ps: width to start from.
        min_pairs: fewest pairs in the peak for a number.

    Source: daily-qc.md §2c (Gauss + flat); the error is the bound of the width on a known background, §2k with the
    share of randoms in three widths around the peak.
    """
    total = np.bincount(group, minlength=n_groups).astype(np.float64)
    square = residual_ps**2
    sigma, share = np.full(n_groups, start_ps), np.full(n_groups, 0.8)
    pairs = total.copy()
    for _ in range(_ROUNDS):
        height = share / (sigma * np.sqrt(2.0 * np.pi))
        signal = height[group] * np.exp(-0.5 * square / sigma[group] ** 2)
        weight = signal / (signal + (1.0 - share[group]) / window_ps)
        pairs = np.bincount(group, weights=weight, minlength=n_groups).astype(np.float64)
        squares = np.bincount(group, weights=weight * square, minlength=n_groups)
        new = np.sqrt(squares / np.maximum(pairs, 1e-9))
        new = np.where(pairs > 1.0, np.clip(new, 1.0, window_ps / 4.0), start_ps)
        moved = float(np.max(np.abs(new / sigma - 1.0), initial=0.0))
        sigma, share = new, np.clip(pairs / np.maximum(total, 1.0), 0.01, 0.999)
        if moved < _SETTLED:
            break
    good = pairs >= min_pairs
    # Randoms under the peak cost information: they are in the weights' variance.
    under = (1.0 - share) * total * 6.0 * sigma / window_ps
    error = sigma * np.sqrt((0.5 + under / np.maximum(pairs, 1.0)) / np.maximum(pairs, 1.0))
    return GroupWidths(np.where(good, sigma, np.nan), np.where(good, error, np.nan), pairs)
