"""Time resolution of single modules from the widths of their pairs: v_ij = s_i² + s_j².

Weighted non-negative least squares. A width that came out small by chance has a small error, too, and would get the
larger weight; so the weights are those of the width that the solution says, in turn.

A module whose own part is small against the noise of its pairs comes out at zero as often as not. That is no width,
but it says how wide the module is at most. Only a part below zero by far more than noise says that widths of pairs do
not add up, and then nothing is known.

Source: daily-qc.md §2c, module-pair CTR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 4
_ONE_SIDED = 1.645
"""Standard deviations of a one-sided limit of 95 %."""
_BY_CHANCE = 5.0
"""Standard deviations below zero that noise does not explain. Source: as for channels, daily-qc.md §5.2."""


@dataclass(frozen=True, slots=True)
class SingleWidths:
    """(n_modules,) each, in the unit of the pairs' widths (FWHM).

    fwhm, error: NaN where the pairs leave no width for a module. most: what its width is below, at 95 %; NaN where its
    part is further below zero than noise explains.
    """

    fwhm: NDArray[np.float64]
    error: NDArray[np.float64]
    most: NDArray[np.float64]


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
    squares, weighted, weight = np.zeros(n_modules), design, np.ones(fwhm.size)
    for _ in range(_ROUNDS):
        weight = 1.0 / (2.0 * expected * relative)
        weighted = design * weight[:, None]
        squares, _ = nnls(weighted, variance * weight)
        expected = np.maximum(design @ squares, 0.25 * variance)
    covariance = np.linalg.inv(weighted.T @ weighted)
    noise = np.sqrt(np.diag(covariance))
    free = covariance @ (weighted.T @ (variance * weight))  # the same without the bound at zero
    most = np.sqrt(np.where(free > -_BY_CHANCE * noise, np.maximum(free, 0.0) + _ONE_SIDED * noise, np.nan))
    value = np.sqrt(np.where(squares > 0.0, squares, np.nan))
    return SingleWidths(value, noise / (2.0 * value), most)
