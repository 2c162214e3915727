"""Energy axes for spectra whose unit and resolution are not known beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.fits.peaks import candidates
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MOST_BINS = 8192
_FEWEST_BINS = 200


def energy_axis(samples: Sequence[NDArray[Any]]) -> tuple[float, int]:
    """Bin width and number of bins that suit all samples: a tenth of the narrowest clear peak's FWHM, 1, 2 or 5 · 10^k.

    Args:
        samples: energies of each detector or module, NaN where there is none.

    Source: daily-qc.md §2a (bin width about FWHM / 10).
    """
    top, finest = 0.0, math.inf
    for sample in samples:
        good = sample[np.isfinite(sample)].astype(np.float64)
        good = good[good > 0]
        if good.size < 2:
            continue
        end = float(np.quantile(good, 0.998)) * 1.05
        top = max(top, end)
        if good.size < 200:
            continue
        # Numbers on a grid (ADC channels) must not be binned finer than it.
        grid = _grid(good)
        n = int(min(4096, max(end / grid, 16))) if grid > 0 else 4096
        width = max(math.ceil(end / n / grid) * grid if grid > 0 else end / n, 1e-300)
        edges: NDArray[np.float64] = np.arange(n + 1, dtype=np.float64) * width
        counts = np.histogram(good, edges)[0].astype(np.float64)
        peaks = candidates(edges, counts, min_significance=8.0)
        # One peak answers at many widths, best above its own; half of the best answer is at about its own.
        clear = [p.sigma for p in peaks if p.significance > 0.5 * peaks[0].significance]
        if clear:
            finest = min(finest, max(FWHM_OF_SIGMA * min(clear) / 10.0, grid))
    if top <= 0.0:
        return 1.0, _FEWEST_BINS
    width = min(finest, top / _FEWEST_BINS)
    width = max(_nice(width), top / MOST_BINS)
    return width, max(16, math.ceil(top / width))


def _nice(width: float) -> float:
    """The largest of 1, 2, 5 · 10^k that is not above a width."""
    power = 10.0 ** math.floor(math.log10(width) + 1e-9)
    return next(m * power for m in (5.0, 2.0, 1.0) if m * power <= width * (1 + 1e-9))


def _grid(values: NDArray[np.float64]) -> float:
    """1 if all values are whole numbers, else 0."""
    return 1.0 if bool((values[:10_000] == np.rint(values[:10_000])).all()) else 0.0
