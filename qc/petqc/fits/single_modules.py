"""Time resolution of single modules from the widths of their pairs: v_ij = s_i² + s_j².

Weighted non-negative least squares. A width that came out small by chance has a small error, too, and would get the
larger weight; so the weights are those of the width that the solution says, in turn.

Source: daily-qc.md §2c, module-pair CTR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class SingleWidths:
    """(n_modules,) each, in the unit of the pairs' widths (FWHM); NaN where the pairs leave no width for a module."""

    fwhm: NDArray[np.float64]
    error: NDArray[np.float64]


def single_widths(
    fwhm: NDArray[np.float64],
    error: NDArray[np.float64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    n_modules: int,
) -> SingleWidths | None:
    """Widths of modules alone; None if pairs do not tell them apart (two modules, two sides that only see each other).

    Args:
        fwhm: (m,) of the pairs.
        error: (m,) standard deviations.
        a: (m,) first module of each pair.
        b: (m,) second module.
        n_modules: how many.
    """
    from scipy.optimize import nnls

    design = np.zeros((fwhm.size, n_modules))
    rows = np.arange(fwhm.size)
    design[rows, a] = design[rows, b] = 1.0
    if not fwhm.size or np.linalg.matrix_rank(design) < n_modules:
        return None
    variance, relative = fwhm**2, error / fwhm
    expected = variance
    squares, weighted = np.zeros(n_modules), design
    for _ in range(_ROUNDS):
        weight = 1.0 / (2.0 * expected * relative)
        weighted = design * weight[:, None]
        squares, _ = nnls(weighted, variance * weight)
        expected = np.maximum(design @ squares, 0.25 * variance)
    covariance = np.linalg.inv(weighted.T @ weighted)
    value = np.sqrt(np.where(squares > 0.0, squares, np.nan))
    return SingleWidths(value, np.sqrt(np.diag(covariance)) / (2.0 * value))
