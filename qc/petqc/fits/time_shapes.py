"""Fit of a coincidence peak whose shape the counts may not tell: nothing is chosen, the shape is fitted along.

Events of many energies and detectors make a peak that is no Gaussian: with an excess kurtosis of 0.14 the best Gaussian
is 2 % wider than the peak at half its height. To choose between one Gaussian and two is a matter of chance where counts
do not show which is right, and the error of neither knows of the choice. Here the peak is always two Gaussians of one
mean, of which one is the limit, and the other side of that limit is there too: a peak may be flatter than a Gaussian.
Two parameters of the shape have priors, which are stated; what counts and priors leave open is in the width's error.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from petqc.errors import FitFailedError
from petqc.fits import Goodness, PeakFit, told
from petqc.fits.kernels import A1, A2, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, S2
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

BEND_PRIOR: Final = (0.08, 0.3)
"""How far the peak is from a Gaussian, `bend`: near to one its excess kurtosis. Halfway between a Gaussian (0) and the
peaks of simulated benches and rings (0.2), and wide enough for both. Far away it is the prior of a Cauchy distribution,
so that tails which are there are not pulled in. It matters below some 5 000 pairs."""
SHARE_PRIOR: Final = (math.log(0.3 / 0.7), 1.0)
"""Of the wider Gaussian, as log(share / (1 - share)): 0.3, within 0.14 and 0.54. It leaves 0.3 % of a width open."""
_AREA, _MEAN, _WIDTH, _BEND, _SHARE, _FLAT = range(6)
_LOWEST, _HIGHEST = (1.0, -np.inf, -np.inf, -1.0, -4.0, 0.0), (np.inf, np.inf, np.inf, 20.0, 0.0, np.inf)
_STEP = 0.01
_MAX_STEPS = 500
_HALVINGS = 25
_SETTLED = 1e-6
_FLOOR = 1e-12

Parts = tuple[tuple[float, float], ...]


def _mixture(bend: float, logit: float) -> Parts:
    """Weights and variances of the Gaussians; a negative bend mirrors the positive one at the Gaussian as wide.

    With shares f and 1 - f of variances 1 + u and 1 the kurtosis is 3 f (1 - f) u^2 / (1 + f u)^2: the bend is its
    numerator.
    """
    share = 1.0 / (1.0 + math.exp(-logit))
    wider = math.sqrt(abs(bend) / (3.0 * share * (1.0 - share)))
    parts = ((1.0 - share, 1.0), (share, 1.0 + wider))
    if bend >= 0.0:
        return parts
    return ((2.0, 1.0 + share * wider), *((-w, v) for w, v in parts))


@lru_cache(maxsize=256)
def _parts(bend: float, logit: float) -> Parts:
    """Weights and standard deviations of the Gaussians that make a peak of unit FWHM."""
    parts = tuple((w, math.sqrt(v)) for w, v in _mixture(bend, logit))
    fwhm = _full_width(parts, 0.5)
    return tuple((w, s / fwhm) for w, s in parts)


def _full_width(parts: Parts, fraction: float) -> float:
    def above(x: float) -> float:
        return sum(w / s * (math.exp(-0.5 * (x / s) ** 2) - fraction) for w, s in parts)

    return 2.0 * float(brentq(above, 0.0, 5.0 * max(s for _, s in parts)))


def _kurtosis(bend: float, logit: float) -> float:
    parts = _mixture(bend, logit)
    second, fourth = (sum(w * v**k for w, v in parts) for k in (1, 2))
    return float(3.0 * fourth / second**2 - 3.0)


def _model(edges: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected counts for area, mean, logarithm of the FWHM, bend, logit of the share, and flat counts per unit."""
    area, mean, log_fwhm, bend, logit, flat = x.tolist()
    at = (edges - mean) / math.exp(log_fwhm)
    below = sum(w * ndtr(at / s) for w, s in _parts(bend, logit))
    return np.asarray(np.maximum(area * np.diff(below) + flat * np.diff(edges), _FLOOR))


def _prior(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """What the priors cost at x, their pull, and their information."""
    away = (x[_BEND] - BEND_PRIOR[0]) / (math.sqrt(2.0) * BEND_PRIOR[1])
    off = (x[_SHARE] - SHARE_PRIOR[0]) / SHARE_PRIOR[1]
    information = np.zeros(x.size)
    information[_BEND] = BEND_PRIOR[1] ** -2.0 / (1.0 + away**2)
    information[_SHARE] = SHARE_PRIOR[1] ** -2.0
    pull = np.zeros(x.size)
    pull[_BEND] = information[_BEND] * (BEND_PRIOR[0] - x[_BEND])
    pull[_SHARE] = information[_SHARE] * (SHARE_PRIOR[0] - x[_SHARE])
    return math.log1p(away**2) + 0.5 * off**2, pull, information


def _slopes(edges: NDArray[np.float64], x: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    slopes = np.empty((x.size, model.size))
    slopes[_AREA], slopes[_FLAT] = (model - x[_FLAT] * np.diff(edges)) / x[_AREA], np.diff(edges)
    for j, step in ((_MEAN, _STEP * math.exp(x[_WIDTH])), (_WIDTH, _STEP), (_BEND, _STEP), (_SHARE, 10.0 * _STEP)):
        up, down = x.copy(), x.copy()
        up[j], down[j] = x[j] + step, x[j] - step
        slopes[j] = (_model(edges, up) - _model(edges, down)) / (2.0 * step)
    return slopes


def fit_shape(edges: NDArray[np.float64], counts: NDArray[np.float64], one: PeakFit) -> PeakFit:
    """Fit a peak of unknown shape on a flat background; neither accepted nor refused.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        one: fit of one Gaussian to them.

    Raises:
        FitFailedError: no convergence.

    Source: daily-qc.md §2c (two Gaussians + flat, Poisson likelihood), with priors of the shape; Fisher scoring.
    """
    lowest, highest = np.array(_LOWEST), np.array(_HIGHEST)
    x = np.array([one.area, one.mu, math.log(one.fwhm), BEND_PRIOR[0], SHARE_PRIOR[0], float(one.parameters[LOW])])
    x = np.clip(x, lowest, highest)
    model = _model(edges, x)
    cost, pull, information = _prior(x)
    best = _nll(counts, model) + cost
    for _ in range(_MAX_STEPS):
        slopes = _slopes(edges, x, model)
        score = slopes @ (counts / model - 1.0) + pull
        free = ~((x <= lowest) & (score <= 0.0) | (x >= highest) & (score >= 0.0))
        covariance = np.zeros((x.size, x.size))
        try:
            covariance[np.ix_(free, free)] = np.linalg.inv(
                (slopes / model @ slopes.T + np.diag(information))[np.ix_(free, free)]
            )
        except np.linalg.LinAlgError as problem:
            raise FitFailedError("the fit of the shape has no solution") from problem
        step = covariance @ score
        for _ in range(_HALVINGS):
            if float(step @ score) < _SETTLED:
                return _told(edges, counts, x, covariance, model)
            trial = np.clip(x + step, lowest, highest)
            trial_model = _model(edges, trial)
            cost, pull, information = _prior(trial)
            value = _nll(counts, trial_model) + cost
            if value < best:
                x, model, best = trial, trial_model, value
                break
            step = 0.5 * step
        else:
            break
    raise FitFailedError("the fit of the shape does not converge")


def bound_of_width(
    edges: NDArray[np.float64], *, area: float, mean: float, fwhm: float, bend: float, logit: float, flat: float
) -> float:
    """Lowest standard deviation of the FWHM that counts and priors allow at a truth, for benchmarks."""
    x = np.array([area, mean, math.log(fwhm), bend, logit, flat])
    model = _model(edges, x)
    slopes = _slopes(edges, x, model)
    information = np.zeros(x.size)
    information[[_BEND, _SHARE]] = BEND_PRIOR[1] ** -2.0, SHARE_PRIOR[1] ** -2.0
    return fwhm * math.sqrt(float(np.linalg.inv(slopes / model @ slopes.T + np.diag(information))[_WIDTH, _WIDTH]))


def _nll(counts: NDArray[np.float64], model: NDArray[np.float64]) -> float:
    return float(np.sum(model - counts * np.log(model)))


def _told(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    x: NDArray[np.float64],
    inverse: NDArray[np.float64],
    model: NDArray[np.float64],
) -> PeakFit:
    """With the parameters of two Gaussians, or of one where the peak is flatter; widths are those of the shape."""
    area, mean, log_fwhm, bend, logit, flat = x.tolist()
    fwhm, parts = math.exp(log_fwhm), _parts(bend, logit)
    p, covariance = np.zeros(N_PARAMETERS), np.zeros((N_PARAMETERS, N_PARAMETERS))
    p[A1], p[MU1], p[S1] = area, mean, fwhm / FWHM_OF_SIGMA
    if bend > 0.0:
        (first, narrow), (second, wide) = parts
        p[[A1, A2]], p[MU2], p[[S1, S2]] = (first * area, second * area), mean, (narrow * fwhm, wide * fwhm)
    p[[LOW, HIGH]] = flat
    covariance[MU1, MU1] = inverse[_MEAN, _MEAN]
    errors = np.sqrt(np.maximum(np.diag(inverse), 0.0)).tolist()
    fwtm = fwhm * _full_width(parts, 0.1)
    more = [(bend + h, logit) for h in (_STEP, -_STEP)], [(bend, logit + h) for h in (_STEP, -_STEP)]
    of_tenth, of_kurtosis = (
        [(f(*up) - f(*down)) / (2.0 * _STEP) for up, down in more]
        for f in (lambda b, s: fwhm * _full_width(_parts(b, s), 0.1), _kurtosis)
    )
    about = slice(_WIDTH, _SHARE + 1)
    fwtm_error, kurtosis_error = (
        math.sqrt(max(float(slope @ inverse[about, about] @ slope), 0.0))
        for slope in (np.array([fwtm, *of_tenth]), np.array([0.0, *of_kurtosis]))
    )
    fit = told(
        edges, counts, model, flat * np.diff(edges), p, covariance, _nll(counts, model),
        Goodness.found(counts, model, x.size), [area, mean, fwhm, fwtm],
        [errors[_AREA], errors[_MEAN], fwhm * errors[_WIDTH], fwtm_error],
    )  # fmt: skip
    return replace(fit, kurtosis=_kurtosis(bend, logit), kurtosis_error=kurtosis_error)
