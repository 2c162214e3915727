"""Events of a scan in groups: by channel and TAC, point of the scan and coarse time; mean and spread of the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from petqc.calibration.tdc import decoded_fine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from petqc.calibrate import EventPoint

Branch = Literal["T", "E"]

_NEAR_CODES = 24
"""Codes of a pulse that is there again and again lie within a few; an interpolator so noisy that this cuts into it is
refused for its residual."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of events that differ in the fine code only; all (n,).

    row: absolute channel * 4 + TAC. step1, step2: the point. t_coarse, e_coarse: 0..1023. n: events. mean, m2: mean of
    the branch's decoded fine code and sum of squares around it. other: mean of the other branch's fine code.
    """

    row: NDArray[np.int64]
    step1: NDArray[np.float64]
    step2: NDArray[np.float64]
    t_coarse: NDArray[np.int64]
    e_coarse: NDArray[np.int64]
    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    other: NDArray[np.float64]

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Groups:
        """Some of the groups."""
        return Groups(*(getattr(self, name)[which] for name in self.__slots__))


def group_events(points: Iterable[EventPoint], branch: Branch, *, both_coarse: bool) -> Groups:
    """Group the events of every point.

    Args:
        points: of a scan; several may have the same step1 and step2, then they hold other channels.
        branch: whose fine code is averaged.
        both_coarse: groups have one coarse time of the T and of the E branch each; otherwise only the branch's own.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    for point in points:
        if not point.words.size:
            continue
        words, counts = point.words, point.counts.astype(np.float64)
        row = (words >> np.uint64(40)).astype(np.int64)
        t_coarse = (words >> np.uint64(30)).astype(np.int64) & 1023
        e_coarse = (words >> np.uint64(20)).astype(np.int64) & 1023
        t_fine, e_fine = decoded_fine(words >> np.uint64(10)), decoded_fine(words)
        fine, other = (t_fine, e_fine) if branch == "T" else (e_fine, t_fine)
        if not both_coarse:
            t_coarse, e_coarse = (t_coarse, t_coarse * 0) if branch == "T" else (e_coarse * 0, e_coarse)
        key, at = np.unique((row << 20) | (t_coarse << 10) | e_coarse, return_inverse=True)
        near = _near_median(at, fine, counts)
        key, at = np.unique(key[at[near]], return_inverse=True)
        fine, other, counts = fine[near], other[near], counts[near]
        n = np.bincount(at, counts)
        mean = np.bincount(at, counts * fine) / n
        m2 = np.bincount(at, counts * (fine - mean[at]) ** 2)
        parts.append(
            (
                key >> 20,
                np.full(key.size, point.step1),
                np.full(key.size, point.step2),
                key >> 10 & 1023,
                key & 1023,
                n.astype(np.int64),
                mean,
                m2,
                np.bincount(at, counts * other) / n,
            )
        )
    if not parts:
        whole, real = np.empty(0, np.int64), np.empty(0, np.float64)
        return Groups(whole, real, real, whole, whole, whole, real, real, real)
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Groups(*columns)


def _near_median(group: NDArray[np.int64], fine: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which codes lie no further than _NEAR_CODES from the median of their group; others are not of a pulse."""
    order = np.lexsort((fine, group))
    ordered, below = group[order], np.cumsum(counts[order])
    last = np.append(ordered[1:] != ordered[:-1], True)
    end = below[last]  # groups are 0 .. n - 1, each there
    begin = np.append(0.0, end[:-1])
    middle = order[np.searchsorted(below, 0.5 * (begin + end))]
    return np.asarray(np.abs(fine - fine[middle][group]) <= _NEAR_CODES)
