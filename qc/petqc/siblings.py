"""The nodes of one level as the measure of each of them, where no baseline says what each had when it was good.

What is published of a scanner is of the sum of all its crystals. A single ASIC stands off it for reasons that are no
fault: crystals and sensors differ, a block at the rim sees other angles, and the sum is wider than its parts. So
without a baseline an ASIC is compared with the median of all, which a few bad ones do not move, and a change that all
of them share is seen in the sum, which is held against what is published.

How far healthy nodes stand from their median shows in the nodes themselves. That spread holds the noise of a
measurement and the differences between good nodes, and where the two disagree it is right and the stated uncertainty of
a single node is not: a fit of few counts whose step or background stands on its bound states half of its true error.
So a node's noise is taken as the larger of the two. A robust spread is not widened by a few bad nodes; a fault of half
of all nodes would do so, but that is one of the sum.

Source: daily-qc.md §3, root-cause logic (a node against its siblings), and §0.5 (many nodes at once).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.statistics import robust_spread

if TYPE_CHECKING:
    from collections.abc import Iterable

FEWEST = 16
"""Of fewer nodes a fault of one module may be half of all, and the spread is not known well: it is not used, and where
there is something published it stands in for their median."""


@dataclass(frozen=True, slots=True)
class Siblings:
    """Median of the nodes of a level, and their robust standard deviation: 0 where there are too few to tell."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Siblings | None:
        """Of the values of all nodes of a level; None of fewer than FEWEST finite ones."""
        found = cls.of_any(values)
        return found if found is not None and found.spread > 0.0 else None

    @classmethod
    def of_any(cls, values: Iterable[float]) -> Siblings | None:
        """The same, also of a few, without their spread; None if there is no value at all."""
        finite = np.array([v for v in values if np.isfinite(v)], np.float64)
        if not finite.size:
            return None
        return cls(float(np.median(finite)), robust_spread(finite) if finite.size >= FEWEST else 0.0)


def spread_of(values: Iterable[float]) -> float:
    """Robust standard deviation of the nodes of a level; 0 where there are too few to tell."""
    found = Siblings.of_any(values)
    return 0.0 if found is None else found.spread


def spread_beyond(values: Iterable[float], errors: Iterable[float]) -> float:
    """Robust standard deviation of the nodes of a level beyond their own errors; 0 where there are too few to tell."""
    found = spread_of(values)
    each = [error for error in errors if np.isfinite(error)]
    return math.sqrt(max(found**2 - float(np.median(each)) ** 2, 0.0)) if found else 0.0
