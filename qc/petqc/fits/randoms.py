"""Randoms counted in the delayed window over randoms expected from singles: of pairs, of modules, of all.

Counts are Poisson around 2·E·ratio, where E = 2τ·n_a·n_b/T is expected in one delayed window and both windows (either
single delayed) are counted. Ratios are sums of counts over sums of expectations, or linear in the counts with weights
that come from expectations alone: few counts make them uncertain, not wrong.

Source: daily-qc.md §2e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOTH_WAYS = 2.0
"""The delayed window is searched with either of the two singles as the delayed one: twice the pairs, half the variance.
"""
_WORSE = 2.0
"""Where telling modules apart makes a module's error this many times larger, the ratio of all its pairs is given."""


@dataclass(frozen=True, slots=True)
class ModuleRatios:
    """Ratios of modules, (n_modules,) each; NaN where no delayed pairs are expected.

    value, error: delayed over expected and its standard deviation. alone: whether the value is that of the module
    itself, the parts of its partners being taken out; else it is that of all its pairs. n: delayed pairs (both ways).
    """

    value: NDArray[np.float64]
    error: NDArray[np.float64]
    alone: NDArray[np.bool_]
    n: NDArray[np.int64]


def ratio(n: float, expected: float) -> tuple[float, float]:
    """Delayed over expected, and its standard deviation.

    Args:
        n: pairs counted in both delayed windows.
        expected: randoms expected in one of them, above 0.
    """
    wanted = BOTH_WAYS * expected
    # A count that is low by chance must not make its own error small.
    return n / wanted, float(np.sqrt(max(n, wanted))) / wanted


def module_ratios(
    n: NDArray[np.int64], expected: NDArray[np.float64], a: NDArray[np.int64], b: NDArray[np.int64], n_modules: int
) -> ModuleRatios:
    """Solve ratio_ab = 1 + e_a + e_b for the modules, by least squares with the weights that expectations have.

    Some graphs cannot tell modules apart: with pairs between two sides only, what one side has may as well be the
    other side's. Those modules get the ratio of all their pairs.

    Args:
        n: (m,) delayed pairs, both ways, of each pair of modules.
        expected: (m,) expected in one way.
        a: (m,) first module.
        b: (m,) second module.
        n_modules: how many.
    """
    weight = BOTH_WAYS * expected
    total, counted = np.zeros(n_modules), np.zeros(n_modules)
    normal, right = np.zeros((n_modules, n_modules)), np.zeros(n_modules)
    excess = n - weight
    for side, other in ((a, b), (b, a)):
        np.add.at(total, side, weight)
        np.add.at(counted, side, n)
        np.add.at(right, side, excess)
        np.add.at(normal, (side, other), weight)
    normal[np.diag_indices(n_modules)] = total
    known = total > 0.0
    safe = np.where(known, total, 1.0)
    value = np.where(known, counted / safe, np.nan)
    error = np.where(known, np.sqrt(np.maximum(counted, total)) / safe, np.nan)
    alone = np.zeros(n_modules, np.bool_)
    part = normal[np.ix_(known, known)]
    if part.size and np.linalg.matrix_rank(part, hermitian=True) == part.shape[0]:
        inverse = np.linalg.inv(part)
        own = 1.0 + inverse @ right[known]
        own_error = np.sqrt(np.diag(inverse) * np.maximum(value[known], 1.0))
        better = own_error < _WORSE * error[known]
        at = np.flatnonzero(known)[better]
        value[at], error[at], alone[at] = own[better], own_error[better], True
    return ModuleRatios(value, error, alone, counted.astype(np.int64))
