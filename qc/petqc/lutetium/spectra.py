"""Singles of the Lu-176 background: the electron's continuum, lifted by whichever gammas stay in the crystal.

The 88 keV transition always stays; with it, the spectrum of the electron begins at 88, at 290 (202 absorbed too), at
395 (307) or at 597 keV (both). These edges give the energy scale, the areas the number of decays seen. What scatters
and leaves part of its energy, and gammas that come from another crystal alone, are further parts.

A module or an ASIC is fitted with all parts free; a channel with the parts of its module in three groups (both gammas
absorbed, one of them, none), since how much escapes depends on where in the module it is.

Source: daily-qc.md §2g (template: beta spectrum times absorption probabilities, scale and resolution).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import MIN_P_VALUE
from petqc.lutetium.crystals import LINES_KEV, LOW_GAMMA_KEV, beta_density
from petqc.statistics import FWHM_OF_SIGMA, pearson_p_value, sparse_chi2_p_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGE_KEV = (240.0, 1100.0)
MIN_COUNTS = 500
SHAPE_TOLERANCE = 0.03
"""The shape of a first-forbidden beta spectrum is trusted to this."""
MODEL_ERROR = 0.002
"""Of the scale: how much light below the hit threshold of a neighbour is missing from what scatters is known to half of
it, and the thresholds are not those of every detector."""
DECAYS_ERROR = 0.01
"""Of the decays, beyond counting: whether both gammas left or one scattered once is hard to tell above 240 keV, and
they are extrapolated differently. Simulated: −0.3 % on a bench, +1.0 % in a small ring, the same in every run."""
BETA_PARTS = slice(0, 6)
"""The parts in which the electron is seen; the other two are gammas from other crystals."""
_GROUPS = ((3,), (1, 2, 5), (0, 4, 6, 7))
_STEP_KEV = 2.0
_GRID_KEV = np.arange(0.0, 1400.0, _STEP_KEV)
_ENDS_KEV = _GRID_KEV + 0.5 * _STEP_KEV
_RESOLUTIONS = np.arange(6.0, 31.0)
"""FWHM at 511 keV in per cent, of the shapes that are prepared."""
_COMPTON_KEV = 168.0
"""Most that a 307 keV gamma leaves when it scatters once."""
_MISSING_KEV = 30.0
_MISSING_SHARE = {1: 0.03, 2: 0.04, 3: 0.07, 5: 0.03}
"""Decays, by part, whose gammas left up to _MISSING_KEV in a crystal where that stays below the hit threshold: of
307 keV gammas that are absorbed 38 % scatter first, of 202 keV ones 27 %; a quarter of these scatters leaves less than
30 keV, and half of them happens in another crystal than the electron's and goes on into a third. Half of it more or
less moves the scale by 0.06 %."""
_STEPS = 25


@dataclass(frozen=True, slots=True)
class Continuum:
    """A fitted spectrum of singles.

    scale: energy measured over true; scale_error: one standard deviation with that of the model. resolution: FWHM at
    511 keV in per cent. parts: (8,) counts. decays: those whose electron was seen, extrapolated to all energies;
    decays_error. n: counts in the range. p_value, p_value_shape: goodness, plain and allowing for SHAPE_TOLERANCE.
    """

    scale: float
    scale_error: float
    resolution: float
    parts: NDArray[np.float64]
    decays: float
    decays_error: float
    n: float
    p_value: float
    p_value_shape: float


@dataclass(frozen=True, slots=True)
class ChannelScales:
    """Of every channel; NaN with the reason where there is no number. decays: as Continuum has them."""

    scale: NDArray[np.float64]
    scale_error: NDArray[np.float64]
    decays: NDArray[np.float64]
    decays_error: NDArray[np.float64]
    n: NDArray[np.int64]
    reason: NDArray[np.object_]

    @classmethod
    def unknown(cls, n: int) -> ChannelScales:
        """No number of any of n channels."""
        a, b, c, d = (np.full(n, np.nan) for _ in range(4))
        return cls(a, b, c, d, np.zeros(n, np.int64), np.full(n, "", dtype=object))


@cache
def _cumulative() -> NDArray[np.float64]:
    """Integrals of the parts' shapes up to each of _ENDS_KEV, (resolutions, 8, grid)."""
    box = np.ones(round(_COMPTON_KEV / _STEP_KEV))
    box /= box.size
    low, high = LINES_KEV
    starts = (0.0, low, high, low + high)
    shapes = [beta_density(_GRID_KEV - LOW_GAMMA_KEV - start) for start in starts]
    shapes += [np.convolve(shape, box)[: _GRID_KEV.size] for shape in shapes[:2]]
    missing = np.ones(round(_MISSING_KEV / _STEP_KEV))
    missing /= missing.size
    for part, share in _MISSING_SHARE.items():
        lower = np.convolve(shapes[part], missing)[missing.size - 1 :][: _GRID_KEV.size]
        shapes[part] = (1.0 - share) * shapes[part] + share * lower
    shapes += [np.maximum(1.0 - np.abs(_GRID_KEV - line) / _STEP_KEV, 0.0) / _STEP_KEV for line in LINES_KEV]
    sharp = np.array(shapes)
    found = np.empty((_RESOLUTIONS.size, len(shapes), _GRID_KEV.size))
    for number, percent in enumerate(_RESOLUTIONS):
        sigma = percent / 100.0 / FWHM_OF_SIGMA * np.sqrt(511.0 * np.maximum(_GRID_KEV, 20.0))
        spread = np.exp(-0.5 * ((_GRID_KEV[:, None] - _GRID_KEV) / sigma) ** 2) / (sigma * np.sqrt(2.0 * np.pi))
        found[number] = np.cumsum(sharp @ spread.T, axis=1) * _STEP_KEV**2
    return found


def _at(resolution: float) -> NDArray[np.float64]:
    """The integrals at a resolution, (8, grid)."""
    place = float(np.clip(resolution - _RESOLUTIONS[0], 0.0, _RESOLUTIONS.size - 1.001))
    first = int(place)
    every = _cumulative()
    return np.asarray(every[first] * (first + 1 - place) + every[first + 1] * (place - first))


def in_bins(resolution: float, edges: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Shares of the parts in bins of measured energy, (bins, 8).

    Args:
        resolution: FWHM at 511 keV in per cent.
        edges: (bins + 1,) keV as measured.
        scale: measured over true energy.
    """
    return np.stack([np.diff(np.interp(edges / scale, _ENDS_KEV, part)) for part in _at(resolution)], axis=1)


def _range(edges: NDArray[np.float64]) -> slice:
    return slice(int(np.searchsorted(edges, RANGE_KEV[0] - 1e-6)), int(np.searchsorted(edges, RANGE_KEV[1] + 1e-6)) - 1)


def fit_continuum(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> Continuum:
    """Fit the spectrum of a module or an ASIC.

    Args:
        edges: (bins + 1,) keV.
        counts: (bins,).

    Raises:
        TooFewCountsError: fewer than ten times MIN_COUNTS in the range.
        FitFailedError: no convergence, a scale that is far off, or the model does not describe the counts.
    """
    from scipy.optimize import least_squares

    inside = _range(edges)
    y = counts[inside].astype(np.float64)
    x = edges[inside.start : inside.stop + 1]
    n = float(y.sum())
    if n < 10 * MIN_COUNTS:
        raise TooFewCountsError(f"{n:.0f} singles from 240 to 1100 keV, at least {10 * MIN_COUNTS} wanted")
    weight = 1.0 / np.sqrt(np.maximum(y, 1.0))

    def residual(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((in_bins(p[1], x, p[0]) @ (p[2:] * n) - y) * weight)

    start: NDArray[np.float64] = np.concatenate([[1.0, 12.0], [0.05, 0.2, 0.06, 0.65, 0.04, 0.03, 0.01, 0.02]])
    low = np.concatenate([[0.8, _RESOLUTIONS[0]], np.zeros(8)])
    high = np.concatenate([[1.2, _RESOLUTIONS[-1] - 0.01], np.full(8, 5.0)])
    model, jacobian = y, np.zeros((y.size, 10))
    for _ in range(2):  # the second time with the variances that the model has, as Poisson likelihood has them
        found = least_squares(residual, start, bounds=(low, high), x_scale=np.maximum(start, 0.01), max_nfev=300)
        if not found.success:
            raise FitFailedError("the fit of the continuum does not converge")
        start = np.clip(np.asarray(found.x, np.float64), low + 1e-9, high - 1e-9)
        jacobian = np.asarray(found.jac, np.float64)
        model = in_bins(float(start[1]), x, float(start[0])) @ (start[2:] * n)
        weight = 1.0 / np.sqrt(np.maximum(model, 0.5))
    if abs(start[0] - 1.0) > 0.15:
        raise FitFailedError(f"the edges of the continuum stand at {100.0 * start[0]:.0f} % of their energies")
    free = np.concatenate([[True, True], start[2:] > 1e-4])  # a part at its bound is not free
    covariance = np.zeros((10, 10))
    covariance[np.ix_(free, free)] = np.linalg.pinv(jacobian[:, free].T @ jacobian[:, free])
    _, p_value = pearson_p_value(y, model, int(free.sum()))
    _, p_shape = pearson_p_value(y, model, int(free.sum()), SHAPE_TOLERANCE)
    if p_shape < MIN_P_VALUE:
        raise FitFailedError(f"the continuum of lutetium does not describe the spectrum: p = {p_shape:.1e}")
    sum_of = np.zeros(10)
    sum_of[2:][BETA_PARTS] = 1.0
    return Continuum(
        scale=float(start[0]),
        scale_error=float(np.hypot(np.sqrt(covariance[0, 0]), MODEL_ERROR)),
        resolution=float(start[1]),
        parts=start[2:] * n,
        decays=float(start[2:][BETA_PARTS].sum() * n),
        decays_error=float(n * np.sqrt(max(float(sum_of @ covariance @ sum_of), 0.0))),
        n=n,
        p_value=p_value,
        p_value_shape=p_shape,
    )


def fit_channels(edges: NDArray[np.float64], counts: NDArray[np.uint32], module: Continuum) -> ChannelScales:
    """Fit the channels of one module at its resolution: a scale and three areas each, by Poisson likelihood.

    Args:
        edges: (bins + 1,) keV.
        counts: (channels, bins).
        module: the fit of their sum.
    """
    inside = _range(edges)
    y = counts[:, inside].astype(np.float64)
    x = edges[inside.start : inside.stop + 1]
    n = y.sum(axis=1)
    m, size = y.shape
    # Where a part is not seen in the module the shape of its group falls back to equal shares.
    grouped, seen = [], []
    for group in _GROUPS:
        share = module.parts[list(group)]
        share = share / share.sum() if share.sum() > 0 else np.full(len(group), 1.0 / len(group))
        grouped.append(share @ _at(module.resolution)[list(group)])
        seen.append(share[[part in range(*BETA_PARTS.indices(8)) for part in group]].sum())
    shape = np.array(grouped)
    density = np.gradient(shape, _STEP_KEV, axis=1)
    areas = np.array([module.parts[list(group)].sum() for group in _GROUPS])
    p = np.concatenate([np.full((m, 1), module.scale), np.outer(n / max(module.n, 1.0), areas)], axis=1)
    covariance, step = np.zeros((m, 4, 4)), np.zeros((m, 4))
    model = np.ones_like(y)
    for _ in range(_STEPS):
        true = x[None, :] / p[:, :1]
        integral = np.stack([np.interp(true.ravel(), _ENDS_KEV, part).reshape(true.shape) for part in shape], axis=2)
        slope = np.stack([np.interp(true.ravel(), _ENDS_KEV, part).reshape(true.shape) for part in density], axis=2)
        by_area = np.diff(integral, axis=1)
        by_scale = -np.diff(slope * (true / p[:, :1])[:, :, None], axis=1)
        model = np.maximum(np.einsum("cbk,ck->cb", by_area, p[:, 1:]), 1e-3)
        jac = np.concatenate([np.einsum("cbk,ck->cb", by_scale, p[:, 1:])[:, :, None], by_area], axis=2)
        weighted = jac / model[:, :, None]
        fisher = np.einsum("cbi,cbj->cij", weighted, jac) + np.eye(4) * 1e-9
        gradient = np.einsum("cbi,cb->ci", weighted, y - model)
        covariance = np.linalg.inv(fisher)
        step = np.einsum("cij,cj->ci", covariance, gradient)
        step[:, 0] = np.clip(step[:, 0], -0.03, 0.03)
        p = p + step
        p[:, 0] = np.clip(p[:, 0], 0.7, 1.3)
        p[:, 1:] = np.maximum(p[:, 1:], 1e-3 * n[:, None] + 1e-6)
        if float(np.max(np.abs(step[:, 0]), initial=0.0)) < 1e-6:
            break
    chi2 = np.sum((y - model) ** 2 / (model + (SHAPE_TOLERANCE * model) ** 2), axis=1)
    p_value = sparse_chi2_p_value(chi2, np.full(m, size), np.sum(1.0 / model, axis=1), 4)
    error = np.sqrt(np.maximum(covariance[:, 0, 0], 0.0))
    of_beta = np.array([0.0, *seen])
    reason = np.full(m, "", dtype=object)
    reason[p_value < MIN_P_VALUE] = "the continuum of lutetium does not describe the spectrum"
    reason[(np.abs(p[:, 0] - 1.0) > 0.25) | (np.abs(step[:, 0]) > 0.1 * error)] = "the fit does not converge"
    reason[n < MIN_COUNTS] = f"fewer than {MIN_COUNTS} singles from 240 to 1100 keV"
    known = reason == ""
    return ChannelScales(
        scale=np.where(known, p[:, 0], np.nan),
        scale_error=np.where(known, error, np.nan),
        decays=np.where(known, p @ of_beta, np.nan),
        decays_error=np.where(known, np.sqrt(np.einsum("i,cij,j->c", of_beta, covariance, of_beta)), np.nan),
        n=n.astype(np.int64),
        reason=reason,
    )
