"""A row of the table of estimators: draws against truth and bound. See estimators.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from petqc.errors import QcError
from petqc.fits.kernels import A1, A2, EDGE, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, S2, STEP, expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Fit = TypeVar("Fit")
AIM_VARIANCE, AIM_BIAS = 1.05, 0.2


@dataclass(frozen=True)
class Row:
    """One estimator at one truth. chance: standard deviation of `variance` that the number of draws leaves."""

    name: str
    values: int
    bound: float
    unit: str
    variance: float
    chance: float
    bias: float
    pull_mean: float
    pull_spread: float
    refused: float

    def missed(self) -> bool:
        """Whether an aim is missed beyond chance."""
        return (
            self.variance - 2.0 * self.chance > AIM_VARIANCE or abs(self.bias) - 2.0 / np.sqrt(self.values) > AIM_BIAS
        )


def row(
    name: str,
    found: NDArray[np.float64],
    stated: NDArray[np.float64],
    truth: NDArray[np.float64] | float,
    bound: NDArray[np.float64] | float,
    unit: str,
) -> Row:
    """Figures of draws; found and stated NaN where there was no number."""
    found, stated = np.asarray(found, np.float64), np.asarray(stated, np.float64)
    truth, bound = (np.broadcast_to(np.asarray(x, np.float64), found.shape) for x in (truth, bound))
    known = np.isfinite(found)
    n = int(known.sum())
    off = (found - truth)[known] / bound[known]
    pulls = (found - truth)[known] / stated[known]
    variance = float(off.var(ddof=1))
    # The spread of the variance from the fourth moment: tails make it larger than a Gaussian's.
    fourth = float(np.mean((off - off.mean()) ** 4))
    chance = float(np.sqrt(max(fourth - variance**2, 0.0) / n))
    return Row(
        name, n, float(np.sqrt(np.mean(bound**2))), unit, variance, chance, float(off.mean()),
        float(pulls.mean()), float(pulls.std(ddof=1)), 1.0 - n / found.size,
    )  # fmt: skip


def covariance_at(
    p: NDArray[np.float64],
    slots: NDArray[np.int64],
    constants: NDArray[np.float64],
    edges: NDArray[np.float64],
    first: int,
    last: int,
) -> NDArray[np.float64]:
    """Inverse Fisher information of a binned model's free parameters, (11, 11)."""
    part = edges[first : last + 1].copy()
    mu, jac = np.empty(last - first), np.empty((N_PARAMETERS, last - first))
    expected(p, constants, part, mu, jac)
    n_free = int(slots.max()) + 1
    free = np.zeros((n_free, mu.size))
    for j in range(N_PARAMETERS):
        if slots[j] >= 0:
            free[slots[j]] += jac[j]
    inverse = np.linalg.inv((free / np.maximum(mu, 1e-12)) @ free.T)
    whole = np.zeros((N_PARAMETERS, N_PARAMETERS))
    seen = np.flatnonzero(slots >= 0)
    whole[np.ix_(seen, seen)] = inverse[np.ix_(slots[seen], slots[seen])]
    return whole


def model(
    edges: NDArray[np.float64], constants: NDArray[np.float64] | None = None, **values: float
) -> NDArray[np.float64]:
    """Expected counts of the peak model."""
    p = parameters(**values)
    mu, jac = np.empty(edges.size - 1), np.empty((N_PARAMETERS, edges.size - 1))
    expected(p, np.zeros(2) if constants is None else constants, edges, mu, jac)
    return mu


_NAMES = {
    "A1": A1,
    "MU1": MU1,
    "S1": S1,
    "A2": A2,
    "MU2": MU2,
    "S2": S2,
    "STEP": STEP,
    "LOW": LOW,
    "HIGH": HIGH,
    "EDGE": EDGE,
}


def parameters(**values: float) -> NDArray[np.float64]:
    p = np.zeros(N_PARAMETERS)
    for name, value in values.items():
        p[_NAMES[name]] = value
    return p


def attempt(fit: Callable[[], Fit]) -> Fit | None:
    """What the fit gives, or None where it refuses."""
    try:
        return fit()
    except QcError:
        return None
