"""Fits of peaks: a number with its covariance, or a refusal that says why.

Source: daily-qc.md §2a and §2c for the models, §2k for the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits.kernels import (
    A1,
    A2,
    CONVERGED,
    EDGE,
    EDGE_RATIO,
    HIGH,
    LOW,
    MU1,
    MU2,
    N_CONSTANTS,
    N_PARAMETERS,
    S1,
    S2,
    STANDS_OUT,
    STEP,
    TAIL,
    expected,
    poisson_fit,
    width_of_two,
)
from petqc.statistics import FWHM_OF_SIGMA, pearson_p_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

FWTM_OF_SIGMA = 2.0 * math.sqrt(2.0 * math.log(10.0))

MIN_NET_COUNTS = 200
"""Fewest counts of the peak itself for a number. Source: daily-qc.md §2a."""
AGAIN = 2.0
"""Standard deviations by which another run may come out lower than this one: an advice to measure longer allows for
them, or every other run that follows it would be too short again."""
MIN_P_VALUE = 1e-4
"""Lowest goodness of fit for a number. Source: daily-qc.md §2a."""
SHAPE_TOLERANCE = 0.02
"""No model is exact: the shape is trusted to 2 % of the counts in a bin when the goodness of fit is judged, so that a
peak of a million counts is not refused for a tail that moves its position by far less than any limit."""

SCALE_BELOW = 0.05
"""Below this goodness of fit errors are scaled by sqrt(chi2 / degrees of freedom): the misfit is then real."""


@dataclass(slots=True)
class PeakFit:
    """A fitted peak. Nobody changes one; to have Python see to that makes each cost as much as half of its fit.

    parameters: (11,) in the order of petqc.fits.kernels. covariance: (11, 11). edges: (n + 1,) of the fitted bins;
    counts, model, background: (n,). area, mu, fwhm: of the peak (with its second Gaussian, if it has one) with one
    standard deviation each; fwtm: full width at a tenth of the maximum. chi2, n_free_bins (bins minus parameters),
    p_value: Pearson, exact counts; p_value_shape: the same allowing for SHAPE_TOLERANCE. scale: square root of
    chi2 / n_free_bins if above 1: errors of mu, fwhm and area are already multiplied by it. has_given_shape: its two
    Gaussians are in the proportions of another peak. kurtosis, kurtosis_error: excess kurtosis where that is what was
    fitted of the shape (petqc.fits.time_shapes), else NaN.
    """

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    model: NDArray[np.float64]
    background: NDArray[np.float64]
    area: float
    area_error: float
    mu: float
    mu_error: float
    fwhm: float
    fwhm_error: float
    fwtm: float
    fwtm_error: float
    chi2: float
    n_free_bins: int
    p_value: float
    p_value_shape: float
    scale: float
    log_likelihood: float
    has_given_shape: bool = False
    kurtosis: float = math.nan
    kurtosis_error: float = math.nan

    @property
    def sigma(self) -> float:
        """Standard deviation of the first Gaussian."""
        return float(self.parameters.item(S1))

    @property
    def area_over_error(self) -> float:
        """How many times its own error the area is; 0 for none."""
        return self.area / self.area_error if self.area_error > 0.0 else 0.0

    @property
    def is_double(self) -> bool:
        """Whether the peak has a second Gaussian."""
        return bool(self.parameters[S2] > 0)

    def on(self, edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fit and background on a finer or wider axis with the same bins; NaN outside the fitted range.

        Args:
            edges: (m + 1,) bin edges that contain the fitted ones.
        """
        fit = np.full(edges.size - 1, np.nan)
        background = np.full(edges.size - 1, np.nan)
        first = int(np.searchsorted(edges, self.edges[0] - 1e-9 * abs(self.edges[0])))
        fit[first : first + self.model.size] = self.model
        background[first : first + self.model.size] = self.background
        return fit, background


def error_scales(
    chi2: NDArray[np.float64], n_free_bins: NDArray[np.int64], p_value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What errors are multiplied by where fits describe their counts worse than chance does; arrays of one shape."""
    scale = np.sqrt(np.maximum(chi2 / np.maximum(n_free_bins, 1), 1.0))
    return np.where((n_free_bins > 0) & (p_value < SCALE_BELOW), scale, 1.0)


def error_scale(chi2: float, n_free_bins: int, p_value: float) -> float:
    """The same for one fit."""
    return float(error_scales(np.array(chi2), np.array(n_free_bins), np.array(p_value)))


class Goodness(NamedTuple):
    """As the fields of PeakFit."""

    chi2: float
    n_free_bins: int
    p_value: float
    p_value_shape: float
    scale: float

    @classmethod
    def found(cls, counts: NDArray[np.float64], model: NDArray[np.float64], n_parameters: int) -> Goodness:
        """That of a model with so many free parameters."""
        found = pearson_p_values(counts, model, n_parameters, (0.0, SHAPE_TOLERANCE))
        (chi2, _), (p_value, p_value_shape) = (each.tolist() for each in found)
        n_free_bins = counts.size - n_parameters
        return cls(chi2, n_free_bins, p_value, p_value_shape, error_scale(chi2, n_free_bins, p_value))


def fit_two_peaks(
    edges: NDArray[np.float64], counts: NDArray[np.float64], mu: tuple[float, float], sigma: tuple[float, float]
) -> PeakFit:
    """Fit two free Gaussians on a straight background; not yet accepted or refused.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        mu: positions to start from.
        sigma: standard deviations to start from.

    Raises:
        FitFailedError: no convergence.
    """
    start = np.zeros(N_PARAMETERS)
    level = _edge_levels(edges, counts)
    start[LOW], start[HIGH] = level
    net = max(counts.sum() - 0.5 * sum(level) * (edges[-1] - edges[0]), 10.0)
    start[A1], start[A2] = 0.5 * net, 0.5 * net
    start[MU1], start[MU2] = mu
    start[S1], start[S2] = sigma
    return fit_from(edges, counts, start, _SLOTS_TWO_PEAKS)


def fit_one_peak(
    edges: NDArray[np.float64], counts: NDArray[np.float64], mu: float, sigma: float, edge_ratio: float = 0.0
) -> PeakFit:
    """Fit one free Gaussian on a straight background; not yet accepted or refused.

    Args:
        edges: (n + 1,) bin edges.
        counts: (n,) counts.
        mu: position to start from.
        sigma: standard deviation to start from.
        edge_ratio: with a step of scatter below the peak, and another continuum that begins at this multiple of its
            position; 0: without both.

    Raises:
        FitFailedError: no convergence.
    """
    start = np.zeros(N_PARAMETERS)
    level = _edge_levels(edges, counts)
    start[LOW], start[HIGH] = level
    start[A1] = max(counts.sum() - 0.5 * sum(level) * (edges[-1] - edges[0]), 10.0)
    start[MU1], start[S1] = mu, sigma
    if not edge_ratio:
        return fit_from(edges, counts, start, _SLOTS_ONE_PEAK)
    constants = np.zeros(N_CONSTANTS)
    constants[EDGE_RATIO] = edge_ratio
    start[EDGE] = start[STEP] = 0.5 * level[1]
    return fit_from(edges, counts, start, _SLOTS_ON_CONTINUUM, constants)


def times_to_reach(wanted: float, found: float, error: float) -> float:
    """How many times as long as this run another one must be to have at least so many counts, with AGAIN to spare.

    Counts grow with the time t, their error with its square root: wanted = found t - AGAIN error sqrt(t).
    """
    found = max(found, 1.0)
    spare = 0.5 * AGAIN * error / found
    return (spare + math.sqrt(spare**2 + wanted / found)) ** 2


def accept(
    fit: PeakFit,
    min_p_value: float = MIN_P_VALUE,
    min_net_counts: float = MIN_NET_COUNTS,
    stands_out: float | None = None,
) -> PeakFit:
    """The fit, if it can be trusted.

    stands_out: standard deviations by which the peak stands above nothing; default: its area over its error.

    Raises:
        TooFewCountsError: fewer counts in the peak than wanted.
        FitFailedError: the peak stands at the edge of the range or the model does not describe the counts.
    """
    low, high, sigma = fit.edges.item(0), fit.edges.item(-1), fit.sigma
    if fit.area < min_net_counts:
        raise TooFewCountsError(
            f"{fit.area:.0f} counts in the peak, at least {min_net_counts:.0f} wanted",
            times_as_long=times_to_reach(min_net_counts, fit.area, fit.area_error),
        )
    stands_out = fit.area_over_error if stands_out is None else stands_out
    if stands_out < STANDS_OUT:
        # A peak that is half sure may yet be one: with more counts it would stand out, or be gone.
        told = f"no peak stands out of the background: {fit.area:.0f} ± {fit.area_error:.0f} counts"
        if stands_out > 0.5 * STANDS_OUT:
            raise TooFewCountsError(told, times_as_long=((STANDS_OUT + AGAIN) / stands_out) ** 2)
        raise FitFailedError(told)
    if not low + sigma < fit.mu < high - sigma:
        raise FitFailedError(f"the peak at {fit.mu:.5g} stands at the edge of the fit range {low:.5g} to {high:.5g}")
    if fit.fwhm > 0.75 * (high - low):
        raise FitFailedError(f"the peak's FWHM {fit.fwhm:.4g} fills the fit range {low:.5g} to {high:.5g}")
    if fit.p_value_shape < min_p_value:
        raise FitFailedError(
            f"the model does not describe the spectrum: p = {fit.p_value_shape:.1e}, at least {min_p_value:.0e} wanted"
        )
    return fit


def slots_of(*groups: tuple[int, ...]) -> NDArray[np.int64]:
    """Which parameters are free, for the kernels: one group for each free quantity, tied parameters in one group."""
    slots = np.full(N_PARAMETERS, -1, np.int64)
    for number, group in enumerate(groups):
        slots[list(group)] = number
    return slots


_SHAPELESS = np.zeros(N_CONSTANTS)
_SLOTS_ONE_PEAK = slots_of((A1,), (MU1,), (S1,), (LOW,), (HIGH,))
_SLOTS_ON_CONTINUUM = slots_of((A1,), (MU1,), (S1,), (STEP,), (EDGE,), (LOW,), (HIGH,))
_SLOTS_TWO_PEAKS = slots_of((A1,), (MU1,), (S1,), (A2,), (MU2,), (S2,), (LOW,), (HIGH,))


def lower_bounds(slots: NDArray[np.int64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower bounds of the parameters."""
    lower = np.zeros(N_PARAMETERS)
    lower[[MU1, MU2]] = -np.inf
    lower[[S1, S2]] = 0.2 * float(edges[1] - edges[0])  # narrower than its bins a peak has no measurable width
    if slots[S2] < 0:
        lower[S2] = 0.0
    return lower


def fit_from(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    start: NDArray[np.float64],
    slots: NDArray[np.int64],
    constants: NDArray[np.float64] = _SHAPELESS,
) -> PeakFit:
    """Fit from start values, which is neither accepted nor refused; arguments as for petqc.fits.kernels.poisson_fit.

    Raises:
        FitFailedError: no convergence.
    """
    edges = np.ascontiguousarray(edges, np.float64)
    counts = np.ascontiguousarray(counts, np.float64)
    lower = lower_bounds(slots, edges)
    p = start.copy()
    if slots[S2] < 0:
        p[[A2, MU2, S2]] = 0.0
    model = np.empty(counts.size)
    covariance = np.empty((N_PARAMETERS, N_PARAMETERS))
    status, steps, nll = poisson_fit(counts, edges, p, constants, slots, lower, model, covariance)
    if status != CONVERGED:
        raise FitFailedError(f"the fit does not converge ({steps} steps)")
    return peak_fit(edges, counts, model, p, covariance, nll, slots, constants)


def peak_fit(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    model: NDArray[np.float64],
    p: NDArray[np.float64],
    covariance: NDArray[np.float64],
    nll: float,
    slots: NDArray[np.int64],
    constants: NDArray[np.float64],
) -> PeakFit:
    """What a converged fit says; arguments as for petqc.fits.kernels.poisson_fit."""
    if slots[S2] >= 0 and p[S2] < p[S1] and slots[MU1] == slots[MU2]:
        order = [A2, MU2, S2, A1, MU1, S1, STEP, LOW, HIGH, TAIL, EDGE]  # first the narrow one
        p, covariance = p[order], covariance[np.ix_(order, order)]
    without = p.copy()
    without[[A1, A2]] = 0.0
    background, jac = np.empty(counts.size), np.empty((N_PARAMETERS, counts.size))
    expected(without, constants, edges, background, jac)
    goodness = Goodness.found(counts, model, int(slots.max()) + 1)
    tied = bool(slots[MU1] == slots[MU2] and slots[S2] >= 0)
    values, errors = _of_both(p, covariance) if tied else (each.tolist() for each in of_one(p, covariance))
    return told(edges, counts, model, background, p, covariance, nll, goodness, values, errors)


def told(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    model: NDArray[np.float64],
    background: NDArray[np.float64],
    p: NDArray[np.float64],
    covariance: NDArray[np.float64],
    nll: float,
    goodness: Goodness,
    values: list[float],
    errors: list[float],
) -> PeakFit:
    """The fit with its errors as large as its goodness asks for; values and errors as `of_one` gives them."""
    scale = goodness.scale
    return PeakFit(
        p, covariance, edges, counts, model, background,
        values[0], errors[0] * scale, values[1], errors[1] * scale, values[2], errors[2] * scale,
        values[3], errors[3] * scale, *goodness, -nll,
    )  # fmt: skip


_TOLD_OF = [A1, MU1, S1, S1]
_TOLD_AS = np.array([1.0, 1.0, FWHM_OF_SIGMA, FWTM_OF_SIGMA])


def of_one(p: NDArray[np.float64], covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area, mean, FWHM, FWTM of the first Gaussian and their errors, (..., 4) each."""
    variance = np.maximum(covariance[..., _TOLD_OF, _TOLD_OF], 0.0)
    return p[..., _TOLD_OF] * _TOLD_AS, np.sqrt(variance) * _TOLD_AS


def _of_both(p: NDArray[np.float64], covariance: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """The same of both Gaussians together, which share their mean."""
    base = np.array([p[A1], p[S1], p[A2], p[S2]])
    part = covariance[np.ix_([A1, S1, A2, S2], [A1, S1, A2, S2])]
    widths, errors = [], []
    for fraction in (0.5, 0.1):
        width, variance = width_of_two(base, part, fraction)
        widths.append(width)
        errors.append(math.sqrt(max(variance, 0.0)))
    area_error = math.sqrt(max(part[0, 0] + part[2, 2] + 2 * part[0, 2], 0.0))
    mean_error = math.sqrt(max(covariance[MU1, MU1], 0.0))
    return [float(p[A1] + p[A2]), float(p[MU1]), *widths], [area_error, mean_error, *errors]


def _edge_levels(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Counts per unit of x at the two ends."""
    width = float(edges[1] - edges[0])
    few = max(2, counts.size // 16)
    return max(float(counts[:few].mean()), 0.05) / width, max(float(counts[-few:].mean()), 0.05) / width
