"""Finding peaks without a model, widths by the NEMA rule, and spectra with two humps where one peak is expected."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import PeakFit, fit_one_peak, fit_two_peaks
from petqc.fits.kernels import MU1, MU2
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray


_CURVED = 2e-3
"""Gain in log-likelihood for each count that two peaks get for nothing where a continuum is expected: its model is
straight behind its edge, it is not. Two gains are worth some hundredths for each count."""


@dataclass(frozen=True, slots=True)
class FoundPeak:
    """A local excess: position and sigma in the unit of the axis, significance in standard deviations, net counts."""

    position: float
    sigma: float
    significance: float
    net: float
    height: float


@dataclass(frozen=True, slots=True)
class NemaWidth:
    """Width by parabola and linear interpolation, and its position, all in the unit of the axis."""

    width: float
    left: float
    right: float
    maximum: float
    position: float


@dataclass(frozen=True, slots=True)
class TwoHumps:
    """Two peaks where one was expected: where their maxima stand, their widths (FWHM), and the fit that shows them.

    gain: how much more likely (logarithm) two peaks are than one.
    """

    low: float
    high: float
    fwhm_low: float
    fwhm_high: float
    gain: float
    fit: PeakFit


def find_peaks(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    min_significance: float = 5.0,
    sigmas: tuple[float, ...] | None = None,
) -> list[FoundPeak]:
    """Peaks of a spectrum, the most significant first; one structure is given once, at the width it answers best at.

    A filter of that kind answers best somewhat above the peak's own width. Arguments as for `candidates`.
    """
    kept: list[FoundPeak] = []
    for peak in candidates(edges, counts, min_significance=min_significance, sigmas=sigmas):
        if all(abs(peak.position - other.position) > 1.5 * max(peak.sigma, other.sigma) for other in kept):
            kept.append(peak)
    return kept


def candidates(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    min_significance: float = 5.0,
    sigmas: tuple[float, ...] | None = None,
) -> list[FoundPeak]:
    """Every local excess at every width, the most significant first; one peak answers at several widths.

    A matched filter without area (the negative second derivative of a Gaussian, so that any straight background
    drops out) is run over several widths; its value over its own Poisson error is the significance. A Compton edge
    or a shoulder gives far less than a line of the same height.

    Args:
        edges: (n + 1,) edges of bins of one width.
        counts: (n,) counts.
        min_significance: weakest peak to give, in standard deviations.
        sigmas: widths to try, in the unit of edges; default: from 1.2 bins to a twelfth of the axis, in steps of 1.4.
    """
    n = counts.size
    width = float(edges[1] - edges[0])
    if sigmas is None:
        steps = max(1, math.ceil(math.log(max(n / 12.0 / 1.2, 1.5)) / math.log(1.4)))
        sigmas = tuple(1.2 * width * 1.4**k for k in range(steps))
    centres = 0.5 * (edges[:-1] + edges[1:])
    found: list[FoundPeak] = []
    filters = [_filter(sigma / width) for sigma in sigmas]
    for sigma, (kernel, square, norm) in zip(sigmas, filters, strict=True):
        if kernel.size > n:
            continue
        padded = _padded(counts, kernel.size // 2)
        signal = np.correlate(padded, kernel, "valid")
        noise = np.sqrt(np.correlate(padded, square, "valid") + 1e-9)
        value = signal / noise
        inner = (value[1:-1] >= value[:-2]) & (value[1:-1] > value[2:]) & (value[1:-1] >= min_significance)
        for k in np.flatnonzero(inner) + 1:
            net = float(signal[k]) / norm
            height = net * width / (math.sqrt(2 * math.pi) * sigma)
            found.append(FoundPeak(float(centres[k]), sigma, float(value[k]), net, height))
    found.sort(key=lambda p: -p.significance)
    return found


@functools.lru_cache(maxsize=256)
def _filter(s: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Matched filter for a peak of s bins, its square, and its answer to a Gaussian peak of that width and one count.

    By the last an answer is turned into counts.
    """
    reach = math.ceil(4 * s)
    x = np.arange(-reach, reach + 1) / s
    gauss = np.exp(-0.5 * x**2)
    kernel = (1.0 - x**2) * gauss
    kernel -= kernel.mean()
    return kernel, kernel**2, float((kernel * gauss).sum()) / (math.sqrt(2 * math.pi) * s)


@functools.lru_cache(maxsize=64)
def _smoother(s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian of s bins and unit area, and its square."""
    reach = math.ceil(3 * s)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / s) ** 2)
    kernel /= kernel.sum()
    return kernel, kernel**2


def _padded(counts: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Counts with their first and last repeated so many times beyond the ends."""
    return np.concatenate([np.full(reach, counts[0]), counts, np.full(reach, counts[-1])])


def onset(edges: NDArray[np.float64], counts: NDArray[np.float64], below: float) -> float | None:
    """Where a spectrum begins: half of the way up to its first maximum, interpolated; None if it starts full.

    Args:
        edges: (n + 1,) edges of bins of one width.
        counts: (n,) counts.
        below: look no further than this.
    """
    n = int(np.searchsorted(edges, below))
    part = counts[:n]
    if not part.sum():
        return None
    top = int(np.argmax(part))
    half = 0.5 * float(part[top])
    up = int(np.argmax(part >= half))
    if up == 0:
        return None
    # Counts rise from bin up - 1 to bin up: the edge itself cuts the bin in proportion to what is in it.
    width = float(edges[1] - edges[0])
    after = float(part[up + 1]) if up + 1 < n else float(part[up])
    filled = min(1.0, float(part[up]) / max(after, 1.0))
    return float(edges[up + 1]) - filled * width


def nema_width(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    background: NDArray[np.float64] | float = 0.0,
    fraction: float = 0.5,
) -> NemaWidth:
    """Full width of a peak: parabola through the highest bin and its neighbours, linear interpolation at a fraction.

    Args:
        edges: (n + 1,) edges of bins of one width.
        counts: (n,) counts.
        background: counts to subtract from each bin first, (n,) or one number.
        fraction: 0.5 for FWHM, 0.1 for FWTM.

    Raises:
        FitFailedError: the maximum is at the end of the axis, or a side never falls to the fraction.

    Source: daily-qc.md §2a and §2c (NEMA NU 2-2018 style).
    """
    net = np.asarray(counts, np.float64) - background
    top = int(np.argmax(net))
    if top == 0 or top == net.size - 1:
        raise FitFailedError("the highest bin is the first or the last one")
    a, b, c = net[top - 1], net[top], net[top + 1]
    curve = a - 2 * b + c
    shift = 0.5 * (a - c) / curve if curve < 0 else 0.0
    maximum = float(b - 0.25 * (a - c) * shift)
    if maximum <= 0:
        raise FitFailedError("no peak above the background")
    target = fraction * maximum
    centres = 0.5 * (edges[:-1] + edges[1:])
    width = float(edges[1] - edges[0])
    left = top
    while left > 0 and net[left - 1] > target:
        left -= 1
    right = top
    while right < net.size - 1 and net[right + 1] > target:
        right += 1
    if left == 0 or right == net.size - 1:
        raise FitFailedError(f"the peak does not fall to {fraction:g} of its maximum inside the axis")
    x_left = centres[left] - width * (net[left] - target) / (net[left] - net[left - 1])
    x_right = centres[right] + width * (net[right] - target) / (net[right] - net[right + 1])
    return NemaWidth(
        float(x_right - x_left), float(x_left), float(x_right), maximum, float(centres[top] + shift * width)
    )


def two_humps(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: float,
    high: float,
    *,
    min_share: float = 0.4,
    min_gain: float = 12.0,
    max_ratio: float = 3.0,
    edge_ratio: float = 0.0,
) -> TwoHumps | None:
    """Two peaks in a range where a photopeak is expected to be alone; None if one peak (or none) describes it.

    Asked for: two maxima of the smoothed spectrum with a valley between them that noise does not make (3 standard
    deviations below the lower one), of comparable height, and a likelihood that prefers two Gaussians on a straight
    background to one by min_gain.

    Args:
        edges: (n + 1,) edges of bins of one width.
        counts: (n,) counts.
        low: lower end of the range.
        high: upper end of the range.
        min_share: lowest height of the smaller hump as a share of the larger one.
        min_gain: least gain in log-likelihood (three parameters more).
        max_ratio: largest ratio of the two positions.
        edge_ratio: a continuum may begin at this multiple of a lone peak (Lu-176: LU_EDGE_RATIO), whose hump is then no
            second peak; 0: none is expected.

    Raises:
        TooFewCountsError: fewer than 200 counts in the range.
    """
    width = float(edges[1] - edges[0])
    first = max(0, round((low - float(edges[0])) / width))
    last = min(counts.size, round((high - float(edges[0])) / width))
    part_edges, part = edges[first : last + 1], counts[first:last]
    if part.sum() < 200:
        raise TooFewCountsError(f"{part.sum():.0f} counts between {low:g} and {high:g}, at least 200 wanted")
    pair = _humps(part_edges, part, min_share, max_ratio)
    if pair is None:
        return None
    a, b, sigma = pair
    try:
        two = fit_two_peaks(part_edges, part, (a, b), (sigma, sigma))
    except FitFailedError:
        return None
    gain = two.log_likelihood - _one_peak(part_edges, part, pair, edge_ratio)
    p = two.parameters
    (mu1, w1), (mu2, w2) = sorted((float(p[k]), FWHM_OF_SIGMA * float(p[k + 1])) for k in (MU1, MU2))
    separated = mu2 - mu1 > 0.4 * (w1 + w2)
    if edge_ratio:
        min_gain += _CURVED * float(part.sum())
    if gain < min_gain or not separated or not low <= mu1 < mu2 <= high:
        return None
    return TwoHumps(a, b, w1, w2, gain, two)


def _one_peak(
    edges: NDArray[np.float64], counts: NDArray[np.float64], humps: tuple[float, float, float], edge_ratio: float
) -> float:
    """Log-likelihood of the best that one peak does: over both humps, or at either with the continuum beyond it."""
    a, b, sigma = humps
    starts = [(0.5 * (a + b), abs(b - a), 0.0)]
    if edge_ratio:
        starts += [(at, min(sigma, 0.05 * at), edge_ratio) for at in (a, b)]
    # A flat line, where no Gaussian can be brought near it at all.
    found = [float(np.sum(counts * np.log(max(counts.mean(), 1e-9)) - counts))]
    for mu, width, ratio in starts:
        try:
            found.append(fit_one_peak(edges, counts, mu, width, ratio).log_likelihood)
        except FitFailedError:
            continue
    return max(found)


def _humps(
    edges: NDArray[np.float64], counts: NDArray[np.float64], min_share: float, max_ratio: float
) -> tuple[float, float, float] | None:
    """The two highest maxima with a real valley between them, and a width to start from."""
    n = counts.size
    centres = 0.5 * (edges[:-1] + edges[1:])
    width = float(edges[1] - edges[0])
    for s in (n / 40.0, n / 25.0, n / 16.0):
        kernel, square = _smoother(s)
        padded = _padded(counts, kernel.size // 2)
        smooth = np.correlate(padded, kernel, "valid")
        error = np.sqrt(np.correlate(padded, square, "valid"))
        tops = np.flatnonzero((smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:])) + 1
        tops = tops[np.argsort(-smooth[tops])]
        if tops.size < 2:
            continue
        best = tops[0]
        for other in tops[1:]:
            i, j = sorted((int(best), int(other)))
            if smooth[other] < min_share * smooth[best]:
                break
            valley = i + int(np.argmin(smooth[i : j + 1]))
            depth = smooth[other] - smooth[valley]
            if depth > 3.0 * math.hypot(error[valley], error[other]) and centres[j] < max_ratio * max(
                centres[i], width
            ):
                return float(centres[i]), float(centres[j]), 0.2 * float(centres[j] - centres[i])
    return None
