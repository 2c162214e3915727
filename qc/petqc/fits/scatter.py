"""Share of scattered photons among those of pairs in the energy window, from what lies below the photopeak.

In the window a spectrum is A·P + B·S + C·R: P the photopeak as the singles' fit has it, S the step below it that
scatter makes (half an erfc of the peak's width), R the randoms of the delayed window. All are linear; least squares
with the variances of counts. C is near 1, but not known: ambiguous pairs are left out of the prompts, not of the
delayed.

Source: daily-qc.md §2a (erfc step carries scatter), §1.2 (scatter ratio).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import MIN_P_VALUE, SHAPE_TOLERANCE
from petqc.fits.kernels import A1, LOW, MU1, N_CONSTANTS, N_PARAMETERS, S1, STEP, TAIL, TAIL_WIDTH, expected

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_COUNTS = 2000
"""Fewest singles of pairs in the window: the ratio is then known to one or two per cent."""
SIDEBAND_SIGMAS = 2.5
RANDOMS_PRIOR = 0.1
"""How far C is from 1: more than one in ten ambiguous pairs no scanner has on a daily source."""
MIN_BINS = 3
"""Fewest bins of the window below the peak: nearer, scatter and peak cannot be told apart."""


class WindowError(FitFailedError):
    """The window begins too near the peak to show what scatters."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Share of scatter in the window, 0 to 1, its standard deviation, singles of pairs without randoms, goodness."""

    share: float
    error: float
    n: float
    p_value: float


def scatter_share(
    edges: NDArray[np.float64],
    prompt: NDArray[np.float64],
    randoms: NDArray[np.float64],
    randoms_variance: NDArray[np.float64],
    window: tuple[float, float],
    peak: tuple[float, float],
    tail: tuple[float, float] = (0.0, 0.0),
) -> Scatter:
    """Fit peak and step to pairs without randoms.

    Args:
        edges: (n + 1,) bin edges of one width.
        prompt: (n,) counts of prompt pairs' singles.
        randoms: (n,) expected randoms among them.
        randoms_variance: (n,) of these.
        window: energy window.
        peak: position and standard deviation of the photopeak's Gaussian.
        tail: share of photons that lack light, and most that they lack.

    Raises:
        TooFewCountsError: too few pairs.
        WindowError: the window begins too near the peak.
        FitFailedError: the shapes do not describe the counts.
    """
    from scipy.special import chdtrc

    low, high = window
    first, last = int(np.searchsorted(edges, low - 1e-6)), int(np.searchsorted(edges, high + 1e-6)) - 1
    below = int(np.searchsorted(edges, peak[0] - SIDEBAND_SIGMAS * peak[1])) - 1 - first
    if below < MIN_BINS:
        raise WindowError(f"the energy window begins at {low:g} keV, too near the peak to show what scatters")
    part = edges[first : last + 1].copy()
    net = prompt[first:last] - randoms[first:last]
    total = float(net.sum())
    if total < MIN_COUNTS:
        raise TooFewCountsError(f"{total:.0f} singles of pairs in the window, at least {MIN_COUNTS} wanted")
    own = randoms[first:last]
    shapes = np.stack([*(_shape(part, peak, tail, of) for of in (A1, STEP)), own], axis=1)
    variance = np.maximum(prompt[first:last] + randoms_variance[first:last], 1.0)
    areas: NDArray[np.float64] = np.zeros(3)
    covariance: NDArray[np.float64] = np.eye(3)
    known = np.diag([0.0, 0.0, RANDOMS_PRIOR**-2.0])
    for _ in range(3):  # variances from the model, since counts that are low by chance would weigh more
        weighted = shapes / variance[:, None]
        covariance = np.asarray(np.linalg.inv(weighted.T @ shapes + known), np.float64)
        areas = covariance @ (weighted.T @ prompt[first:last] + known @ np.ones(3))
        model = shapes @ areas
        variance = np.maximum(model, 0.5) + areas[2] ** 2 * randoms_variance[first:last]
    model = shapes @ areas
    trusted = variance + (SHAPE_TOLERANCE * (model - areas[2] * own)) ** 2
    chi2 = float(np.sum((prompt[first:last] - model) ** 2 / trusted))
    p_value = float(chdtrc(own.size - 2, chi2))
    if p_value < MIN_P_VALUE:
        raise FitFailedError(f"peak and step do not describe the energies of pairs: p = {p_value:.1e}")
    # Of the whole window, whose ends need not be those of bins.
    ends = np.array([low, high])
    inside = np.array([float(_shape(ends, peak, tail, of)[0]) for of in (A1, STEP)])
    scattered, peaked = float(areas[1] * inside[1]), float(areas[0] * inside[0])
    share = scattered / (scattered + peaked)
    gradient = np.array([-share * inside[0], (1.0 - share) * inside[1]]) / (scattered + peaked)
    return Scatter(share, math.sqrt(float(gradient @ covariance[:2, :2] @ gradient)), total, p_value)


def _shape(
    edges: NDArray[np.float64], peak: tuple[float, float], tail: tuple[float, float], of: int
) -> NDArray[np.float64]:
    """Counts in bins of a peak, or of the step below it, of unit area or height."""
    p, constants = np.zeros(N_PARAMETERS), np.zeros(N_CONSTANTS)
    p[MU1], p[S1], p[of], p[LOW] = peak[0], peak[1], 1.0, 0.0
    if of == A1:
        p[TAIL], constants[TAIL_WIDTH] = tail
    counts, jac = np.empty(edges.size - 1), np.empty((N_PARAMETERS, edges.size - 1))
    expected(p, constants, edges, counts, jac)
    return counts
