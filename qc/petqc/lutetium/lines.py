"""The lines at 202 and 307 keV of gammas whose electron was seen in another module: an energy scale without a source.

Both lines are fitted at once by Poisson likelihood: a Gaussian each, on a straight background, with a step of scattered
gammas below the upper one. A share of the 307 keV gammas scatters with so little energy that it stays below the hit
threshold of its crystal; that share follows from the Compton cross-section and is held fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import MIN_NET_COUNTS, MIN_P_VALUE, PeakFit, peak_fit, slots_of
from petqc.fits.kernels import (
    A1,
    A2,
    CONVERGED,
    HIGH,
    LOW,
    MU1,
    MU2,
    N_CONSTANTS,
    N_PARAMETERS,
    S1,
    S2,
    STEP,
    TAIL,
    TAIL_WIDTH,
    poisson_fit,
)
from petqc.lutetium import GAMMA_BIN_KEV, GAMMA_BINS
from petqc.lutetium.crystals import LINES_KEV
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGE_KEV = (168.0, 372.0)
_TAIL_SHARE = 0.07
"""Of absorbed 307 keV gammas: 38 % scatter first, a quarter of these leaves less than 30 keV, and 70 % of what scatters
goes on into a neighbour crystal."""
_TAIL_KEV = 30.0
_SLOTS = slots_of((A1,), (MU1,), (S1,), (A2,), (MU2,), (S2,), (STEP,), (LOW,), (HIGH,))
_SLOTS_FLAT = slots_of((A1,), (MU1,), (S1,), (A2,), (MU2,), (S2,), (LOW,), (HIGH,))
MODEL_ERROR = 0.002
"""Of the scale, from the share of missing light: a third of the shift that it makes."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The two lines of a node.

    scale: energy measured over true, weighted mean of both lines; scale_error: one standard deviation with that of the
    model. ratio: of the upper over the lower line's scale, 1 if energies are linear; ratio_error. resolution: FWHM of
    the upper line in per cent. n: counts in both lines. fit: of both; p_value: its goodness.
    """

    scale: float
    scale_error: float
    ratio: float
    ratio_error: float
    resolution: float
    resolution_error: float
    n: float
    p_value: float
    fit: PeakFit


def gamma_edges_kev() -> NDArray[np.float64]:
    """Edges of the spectra of LutetiumCounts."""
    return np.asarray(np.arange(GAMMA_BINS + 1) * GAMMA_BIN_KEV)


def fit_lines(counts: NDArray[np.float64]) -> Lines:
    """Fit both lines.

    Args:
        counts: (GAMMA_BINS,) prompt gammas of a node.

    Raises:
        TooFewCountsError: fewer than 200 counts in a line.
        FitFailedError: no convergence, or the model does not describe the counts.
    """
    edges = gamma_edges_kev()
    first, last = (round(e / GAMMA_BIN_KEV) for e in RANGE_KEV)
    x, y = edges[first : last + 1].copy(), np.ascontiguousarray(counts[first:last], np.float64)
    if y.sum() < 2 * MIN_NET_COUNTS:
        raise TooFewCountsError(f"{y.sum():.0f} beta-gamma pairs, at least {2 * MIN_NET_COUNTS} wanted")
    middle = 0.5 * (x[1:] + x[:-1])
    smooth = np.convolve(y, np.ones(5) / 5, "same")
    upper = middle[middle > 255.0][int(np.argmax(smooth[middle > 255.0]))]
    p = np.zeros(N_PARAMETERS)
    p[MU1], p[MU2] = upper, upper * LINES_KEV[0] / LINES_KEV[1]
    p[S1], p[S2] = 0.06 * upper, 0.07 * p[MU2]
    p[A1], p[A2] = max(float(y[middle > 255.0].sum()), 10.0), max(float(y[middle < 240.0].sum()), 10.0)
    p[LOW] = p[HIGH] = p[STEP] = max(float(y[-4:].mean()), 0.05) / GAMMA_BIN_KEV
    p[TAIL] = _TAIL_SHARE
    shape = np.zeros(N_CONSTANTS)
    shape[TAIL_WIDTH] = _TAIL_KEV
    lower = np.zeros(N_PARAMETERS)
    lower[[S1, S2]] = GAMMA_BIN_KEV
    model, covariance = np.empty(y.size), np.empty((N_PARAMETERS, N_PARAMETERS))
    steps = 0
    for slots in (_SLOTS, _SLOTS_FLAT):  # where little lies below the upper line, step and straight line are one
        tried = p.copy()
        tried[STEP] = p[STEP] if slots is _SLOTS else 0.0
        status, steps, nll = poisson_fit(y, x, tried, shape, slots, lower, model, covariance)
        if status == CONVERGED:
            return _judged(peak_fit(x, y, model, tried, covariance, nll, slots, shape))
    raise FitFailedError(f"the fit of the lines does not converge ({steps} steps)")


def _judged(fit: PeakFit) -> Lines:
    p = fit.parameters
    error = np.sqrt(np.maximum(np.diag(fit.covariance), 0.0)) * fit.scale
    for true, area, mu, width in ((LINES_KEV[0], A2, MU2, S2), (LINES_KEV[1], A1, MU1, S1)):
        if p[area] < MIN_NET_COUNTS:
            raise TooFewCountsError(f"{p[area]:.0f} counts in the line at {true:.0f} keV, {MIN_NET_COUNTS} wanted")
        if p[area] < 5.0 * error[area]:
            raise FitFailedError(f"no line stands out of the background at {true:.0f} keV")
        if not abs(p[mu] / true - 1.0) < 0.15 or p[width] > 0.15 * true:
            raise FitFailedError(f"no line stands near {true:.0f} keV: one at {p[mu]:.0f} keV was fitted")
    if fit.p_value_shape < MIN_P_VALUE:
        raise FitFailedError(f"the model does not describe the lines: p = {fit.p_value_shape:.1e}")
    scale = np.array([p[MU2] / LINES_KEV[0], p[MU1] / LINES_KEV[1]])
    sigma = np.array([error[MU2] / LINES_KEV[0], error[MU1] / LINES_KEV[1]])
    weight = sigma**-2 / np.sum(sigma**-2)
    mean = float(weight @ scale)
    spread = math.sqrt(1.0 / float(np.sum(sigma**-2)))
    ratio = float(scale[1] / scale[0])
    resolution = 100.0 * FWHM_OF_SIGMA * p[S1] / p[MU1]
    return Lines(
        scale=mean,
        scale_error=math.hypot(spread, MODEL_ERROR * mean),
        ratio=ratio,
        ratio_error=ratio * float(np.hypot(*(sigma / scale))),
        resolution=float(resolution),
        resolution_error=float(resolution * error[S1] / p[S1]),
        n=float(p[A1] + p[A2]),
        p_value=fit.p_value,
        fit=fit,
    )
