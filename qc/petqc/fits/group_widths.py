"""Width of the time peak of many groups of pairs at once: a Gaussian on flat randoms for each.

By expectation and maximisation, for hundreds of groups that have too few pairs for a fit of their own. Tails count: the
width of a peak with tails is larger here than that of a fit that gives them a Gaussian of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.fits.group_begins import group_begins
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 400
_SETTLED = 1e-6


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
    groups: tuple[NDArray[np.int32], ...],
    n_groups: int,
    *,
    window_ps: float,
    start_ps: float,
    min_pairs: float,
) -> GroupWidths:
    """Width of each group's peak around zero.

    Args:
        residual_ps: (m,) time differences that should be zero.
        groups: (m,) group of each, 0 .. n_groups - 1; two of them where each counts in two groups.
        n_groups: how many groups.
        window_ps: full width over which randoms are flat.
        start_ps: width to start from.
        min_pairs: fewest pairs in the peak for a number.

    Source: daily-qc.md §2c (Gauss + flat); the error is the bound of the width on a known background, §2k with the
    share of randoms in three widths around the peak.
    """
    total, sigma, share, pairs = _peaks(
        np.ascontiguousarray(residual_ps, np.float32), tuple(np.ascontiguousarray(g, np.int32) for g in groups),
        n_groups, float(window_ps), float(start_ps),
    )  # fmt: skip
    good = pairs >= min_pairs
    # Randoms under the peak cost information: they are in the weights' variance.
    under = (1.0 - share) * total * 6.0 * sigma / window_ps
    error = sigma * np.sqrt((0.5 + under / np.maximum(pairs, 1.0)) / np.maximum(pairs, 1.0))
    return GroupWidths(np.where(good, sigma, np.nan), np.where(good, error, np.nan), pairs)


@kernel
def _peaks(
    residual: NDArray[np.float32], groups: tuple[NDArray[np.int32], ...], n_groups: int, window: float, start: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs in all, width, share of the peak and pairs in it of each group, (n_groups,) each.

    Squares are laid out group by group first, so that each group settles by itself and stays in the cache.
    """
    begin = np.zeros(n_groups + 1, np.int64)
    for group in groups:
        begin += group_begins(group, n_groups)
    square = np.empty(begin[-1], np.float32)
    at = begin[:-1].copy()
    for group in groups:
        for k in range(group.size):
            g = group[k]
            square[at[g]] = residual[k] * residual[k]
            at[g] += 1
    total, sigma = np.empty(n_groups), np.empty(n_groups)
    share, pairs = np.empty(n_groups), np.empty(n_groups)
    for g in range(n_groups):
        n = float(begin[g + 1] - begin[g])
        s, part, inside = start, 0.8, n
        for _ in range(_ROUNDS):
            height = part / (s * np.sqrt(2.0 * np.pi))
            flat = (1.0 - part) / window
            curve = -0.5 / (s * s)
            inside, squares = 0.0, 0.0
            for k in range(begin[g], begin[g + 1]):
                r2 = float(square[k])
                signal = height * np.exp(curve * r2)
                weight = signal / (signal + flat)
                inside += weight
                squares += weight * r2
            new = start
            if inside > 1.0:
                new = min(max(np.sqrt(squares / inside), 1.0), window / 4.0)
            moved = abs(new / s - 1.0)
            s = new
            part = min(max(inside / max(n, 1.0), 0.01), 0.999)
            if moved < _SETTLED:
                break
        total[g], sigma[g], share[g], pairs[g] = n, s, part, inside
    return total, sigma, share, pairs
