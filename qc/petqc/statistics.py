"""Statistics that the checks share: goodness of fit, bounds, limits for many channels at once."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FWHM_OF_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Of a Gaussian."""
SIGMA_OF_MAD = 1.4826
"""Standard deviation of a Gaussian over the median of its absolute deviations."""
FAMILY_FALSE_ALARM = 0.01
"""Chance per day that any of all channels is flagged by noise alone. Source: daily-qc.md §0.5 (1 % per day)."""
CHANNEL_SIGMAS = 5.0
"""Channels are never flagged below this. Source: daily-qc.md §5.2 (crystal rows: 5.0 sigma)."""


def pearson_p_value(
    counts: NDArray[np.float64], model: NDArray[np.float64], n_parameters: int, shape_tolerance: float = 0.0
) -> tuple[float, float]:
    """Pearson's chi-square of Poisson counts and its p-value, also right for sparse bins.

    The variance of one bin's term is 2 + 1/mu, not 2: with few counts the plain chi-square distribution is too
    narrow. The sum is therefore compared with a scaled chi-square of the same mean and variance.

    Args:
        counts: (n,) counts.
        model: (n,) expected counts.
        n_parameters: fitted parameters.
        shape_tolerance: relative trust in the model's shape, added to the Poisson variance of each bin.

    Returns:
        chi-square, p-value (1 if there is nothing to judge).
    """
    chi2, p_value = pearson_p_values(counts, model, n_parameters, (shape_tolerance,))
    return float(chi2[0]), float(p_value[0])


def pearson_p_values(
    counts: NDArray[np.float64], model: NDArray[np.float64], n_parameters: int, shape_tolerances: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same at several tolerances: chi-squares and p-values, one of each for a tolerance."""
    mu = np.maximum(model, 1e-3)
    squared = (counts - mu) ** 2
    chi2 = np.array([np.sum(squared / (mu + (tolerance * mu) ** 2)) for tolerance in shape_tolerances])
    m = chi2.size
    sums = np.full(m, np.sum(1.0 / mu))
    return chi2, sparse_chi2_p_value(chi2, np.full(m, counts.size), sums, n_parameters)


def sparse_chi2_p_value(
    chi2: NDArray[np.float64], n_bins: NDArray[np.int64], sum_inverse: NDArray[np.float64], n_parameters: int
) -> NDArray[np.float64]:
    """p-values of Pearson's chi-squares; all (m,).

    Args:
        chi2: Pearson's sums.
        n_bins: bins of each.
        sum_inverse: sum of 1 / expected counts of each.
        n_parameters: fitted parameters.
    """
    from scipy.special import chdtrc  # the whole of scipy.stats takes longer to load than a run to judge

    n_free = np.maximum(n_bins - n_parameters, 1).astype(np.float64)
    spread = 2.0 * n_free + sum_inverse * n_free / np.maximum(n_bins, 1)
    scale = spread / (2.0 * n_free)
    p_value = chdtrc(2.0 * n_free**2 / spread, chi2 / scale)
    return np.where(n_bins > n_parameters, p_value, 1.0)


@functools.cache
def family_sigmas(n: int, false_alarm: float = FAMILY_FALSE_ALARM) -> float:
    """How many standard deviations n independent normal values must allow so that a false flag is this rare.

    Two-sided. 20 160 channels and 1 %: 5.03. Source: daily-qc.md §0.5 and §2j.
    """
    from scipy.special import ndtri

    return float(-ndtri(false_alarm / (2.0 * max(n, 1))))


def channel_sigmas(n: int) -> float:
    """Standard deviations a channel must be off before it may be flagged: 5, more for very many channels."""
    return max(CHANNEL_SIGMAS, family_sigmas(n))


def mean_bound(sigma: float, n_signal: float, background_share: float, half_range_sigmas: float) -> float:
    """Smallest possible standard deviation of the mean of a Gaussian on a flat unknown background.

    Cramér-Rao, from the Fisher information of the binned model in the limit of fine bins.

    Args:
        sigma: standard deviation of the Gaussian.
        n_signal: its counts.
        background_share: share of background in all counts of the range.
        half_range_sigmas: half of the range in sigma.

    Source: daily-qc.md §2k.
    """
    return sigma * math.sqrt(_gauss_flat_bound(background_share, half_range_sigmas)[0] / n_signal)


def sigma_bound(sigma: float, n_signal: float, background_share: float, half_range_sigmas: float) -> float:
    """The same for the width sigma. Source: daily-qc.md §2k."""
    return sigma * math.sqrt(_gauss_flat_bound(background_share, half_range_sigmas)[1] / n_signal)


def _gauss_flat_bound(background_share: float, half_range: float) -> tuple[float, float]:
    """K of the mean and K of sigma, per signal count: table of daily-qc.md §2k."""
    x = np.linspace(-half_range, half_range, 4001)
    dx = x[1] - x[0]
    gauss = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    inside = float(gauss.sum() * dx)
    flat = background_share / (1.0 - background_share) * inside / (2 * half_range)
    total = np.maximum(gauss + flat, 1e-300)  # far from a peak without background there is nothing to learn
    rows = np.stack([gauss, gauss * x, gauss * (x**2 - 1.0)])
    if flat > 0:
        rows = np.vstack([rows, np.ones_like(x)])
    fisher = (rows / total) @ rows.T * dx
    inverse = np.linalg.inv(fisher)
    return float(inverse[1, 1]), float(inverse[2, 2])


def robust_spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of the bulk of a sample, from its median absolute deviation."""
    if not values.size:
        return 0.0
    return SIGMA_OF_MAD * float(np.median(np.abs(values - np.median(values))))
