"""By how much a spectrum has moved against another one of the same detector, without a model of their shape.

For where a photopeak cannot be fitted, such as one that moved while it was measured: the spectrum is the reference,
stretched by a little more and a little less around a mean, and of its own height. Both are smoothed alike before they
are compared, so that the reference's noise has no slope that could be taken for that of a peak; errors are those of
the counts behind both.

Source: weighted least squares on binned counts, the variance of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import MIN_P_VALUE, SHAPE_TOLERANCE, error_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_COUNTS: Final = 2000
"""In the range, of each of the two."""
MAX_STRETCH: Final = 0.08
"""Further off, a spectrum has left the range in which it is compared."""
WORST_ERROR: Final = 0.005
"""A stretch known worse says nothing: the warn limit is 0.5 %."""
_SMOOTH: Final = 0.016
"""Standard deviation of the smoothing, relative to the middle of the range: a third of that of a photopeak."""
_MAX_SPREAD: Final = 0.25**2
_PARAMETERS: Final = 3
_ROUNDS = 40
_CLOSE = 0.01
"""Of its error: a change that small ends the search."""
_H, _H_SPREAD = 1e-4, 4e-4
"""Steps of derivatives, of the stretch and of the square of its spread."""
_NODES, _WEIGHTS = (0.5 * one for one in np.polynomial.legendre.leggauss(8))
"""Of an even distribution from -0.5 to 0.5."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Energies of a spectrum over those of the reference, standard deviation, and the fewer counts of both.

    p_value: Pearson, allowing the shape SHAPE_TOLERANCE of the counts in a bin.
    """

    value: float
    error: float
    n: int
    p_value: float


def stretch(
    edges: NDArray[np.float64], reference: NDArray[np.float64], counts: NDArray[np.float64], low: float, high: float
) -> Stretch:
    """The stretch of a spectrum against a reference.

    Args:
        edges: (bins + 1,) energies, evenly spaced.
        reference: (bins,) counts.
        counts: (bins,) counts of the spectrum.
        low: where the range begins in which they are compared; it is around a photopeak.
        high: where it ends.

    Raises:
        TooFewCountsError: fewer than MIN_COUNTS in the range.
        FitFailedError: one is not the other stretched, or the stretch is known too badly or is too large.
    """
    first, last = (int(i) for i in np.searchsorted(edges, (low, high)))
    inside = slice(first, last - 1)
    n = int(min(reference[inside].sum(), counts[inside].sum()))
    if n < MIN_COUNTS:
        raise TooFewCountsError(f"{n} counts around the photopeak, at least {MIN_COUNTS} wanted")
    bin_width = float(edges[1] - edges[0])
    smooth = _smoothing(counts.size, _SMOOTH * 0.5 * (low + high) / bin_width)
    smoothed, seen = smooth @ reference, (smooth @ counts)[inside]
    at = edges[inside.start : inside.stop + 1]
    p = np.array([counts[inside].sum() / reference[inside].sum(), 1.0, 0.0])
    weight = 1.0 / np.maximum(seen, 1.0)
    for step in range(_ROUNDS):
        model, jacobian = _model(edges, smoothed, at, p)
        weighted = jacobian * weight[:, None]
        try:
            inverse = np.linalg.inv(jacobian.T @ weighted)
        except np.linalg.LinAlgError:
            raise FitFailedError("the spectra have nothing that could be compared") from None
        gain = inverse @ weighted.T
        change = gain @ (seen - model)
        p = p + (change if step < _ROUNDS // 2 else 0.5 * change)
        p[2] = min(max(p[2], -_MAX_SPREAD), _MAX_SPREAD)
        if not 1.0 - MAX_STRETCH < p[1] < 1.0 + MAX_STRETCH or p[0] <= 0.0:
            raise FitFailedError(f"the spectra differ by more than {100.0 * MAX_STRETCH:.0f} %")
        if abs(change[1]) < _CLOSE * math.sqrt(inverse[1, 1]):
            break
    else:
        raise FitFailedError("the comparison of the spectra did not converge")
    # Of every count behind the smoothed numbers, in the spectrum and in the reference.
    variance = counts + p[0] ** 2 * reference
    of_counts = gain @ smooth[inside]
    error = math.sqrt(float((of_counts[1] ** 2) @ variance))
    # How well it fits is asked of the counts as they are.
    share = p[0] * _spread_out(edges, np.eye(reference.size), at, p[1], p[2])
    plain = np.maximum(share @ reference, 1.0)
    return _judged(counts[inside], plain, plain + share**2 @ reference, float(p[1]), error, n)


def _smoothing(n: int, sigma: float) -> NDArray[np.float64]:
    at = np.arange(n)
    kernel = np.exp(-0.5 * ((at[:, None] - at[None, :]) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(axis=0))


def _model(
    edges: NDArray[np.float64], reference: NDArray[np.float64], at: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts between the edges `at` of the reference with height, stretch and spread, and their derivatives.

    spread: variance-like, the square of the full width over which the stretch is evenly distributed; below zero the
    change that it makes is taken off instead of added, for a spectrum that is narrower than the reference.
    """
    plain = _spread_out(edges, reference, at, p[1], p[2])
    up, down = (_spread_out(edges, reference, at, p[1] + h, p[2]) for h in (_H, -_H))
    wide, narrow = (_spread_out(edges, reference, at, p[1], p[2] + h) for h in (_H_SPREAD, -_H_SPREAD))
    moved, wider = (up - down) / (2.0 * _H), (wide - narrow) / (2.0 * _H_SPREAD)
    return p[0] * plain, np.stack([plain, p[0] * moved, p[0] * wider], axis=1)


def _spread_out(
    edges: NDArray[np.float64], reference: NDArray[np.float64], at: NDArray[np.float64], mean: float, spread: float
) -> NDArray[np.float64]:
    """Counts between the edges `at`; reference: (bins,), or (bins, k) for k references at once."""
    cumulated = np.concatenate([np.zeros((1, *reference.shape[1:])), np.cumsum(reference, axis=0)])
    width = math.sqrt(abs(spread))
    wide = np.zeros((at.size - 1, *reference.shape[1:]))
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        wide += weight * np.diff(_below(edges, cumulated, at / (mean * (1.0 + width * node))), axis=0)
    if spread >= 0.0:
        return wide
    return np.asarray(2.0 * np.diff(_below(edges, cumulated, at / mean), axis=0) - wide)


def _below(
    edges: NDArray[np.float64], cumulated: NDArray[np.float64], energy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Counts below an energy: cubic between the edges, so that a shift widens nothing."""
    at = np.clip(np.searchsorted(edges, energy) - 2, 0, edges.size - 4)
    result = np.zeros((energy.size, *cumulated.shape[1:]))
    for i in range(4):  # Lagrange, through four edges
        weight = np.ones(energy.size)
        for j in range(4):
            if j != i:
                weight *= (energy - edges[at + j]) / (edges[at + i] - edges[at + j])
        result += (cumulated[at + i].T * weight).T
    return result


def _judged(
    counts: NDArray[np.float64], model: NDArray[np.float64], variance: NDArray[np.float64], value: float, error: float,
    n: int,
) -> Stretch:  # fmt: skip
    from scipy.special import chdtrc

    free = counts.size - _PARAMETERS
    chi2 = float(((counts - model) ** 2 / variance).sum())
    p_value = float(chdtrc(free, ((counts - model) ** 2 / (variance + (SHAPE_TOLERANCE * model) ** 2)).sum()))
    if p_value < MIN_P_VALUE:
        raise FitFailedError(
            f"they differ by more than a stretch: p = {p_value:.1e}, at least {MIN_P_VALUE:.0e} wanted"
        )
    error *= error_scale(chi2, free, float(chdtrc(free, chi2)))
    if error > WORST_ERROR:
        raise FitFailedError(f"the stretch is known to {100.0 * error:.2g} % only")
    return Stretch(value, error, n, p_value)
