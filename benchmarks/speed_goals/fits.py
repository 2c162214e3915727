"""Fits of photopeaks, time peaks and offsets against what a Python program would use instead."""

from __future__ import annotations

import contextlib
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from figures import Figure, in_turn

from petqc.fits.offset_kernels import conjugate_gradients
from petqc.fits.photopeaks import fit_photopeaks
from petqc.fits.time_peaks import fit_time_peaks
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from figures import Size

CHANNELS, PAIRS = 20_160, 4_000_000
SIGMA_PS = 185.0


def figures(size: Size) -> Iterator[Figure]:
    yield from _photopeaks(size)
    yield from _time_peaks(size)
    yield from _offsets(size)


def _gauss_on_line(x: Any, area: float, mu: float, sigma: float, low: float, high: float) -> Any:
    t = (x - x[0]) / (x[-1] - x[0])
    peak = area * np.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return peak * (x[1] - x[0]) + low * (1 - t) + high * t


def _photopeaks(size: Size) -> Iterator[Figure]:
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(1)
    edges = np.linspace(400.0, 650.0, 65)
    x = 0.5 * (edges[:-1] + edges[1:])
    counts = rng.poisson(_gauss_on_line(x, 2000.0, 511.0, 22.8, 12.0, 4.0), (400 if size.quick else 4000, x.size))
    counts = counts.astype(np.uint32)
    few = counts[: 5 if size.quick else 200]
    n = counts.shape[0]
    centre, sigma = np.full(n, 511.0), np.full(n, 23.0)

    def scipy() -> None:
        for y in few:
            with contextlib.suppress(RuntimeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                curve_fit(_gauss_on_line, x, y, (1500.0, 505.0, 25.0, 10.0, 5.0), np.sqrt(np.maximum(y, 1.0)))

    spent = in_turn({"ours": lambda: fit_photopeaks(edges, counts, centre, sigma), "scipy": scipy}, size.repeats)
    ours, theirs = n / spent["ours"], few.shape[0] / spent["scipy"]
    yield Figure("photopeak-fits", "photopeak fits, 64 bins", ours, "a second", "with errors, goodness and the width")
    yield Figure(
        "photopeak-scipy",
        "photopeak fits against curve_fit",
        ours / theirs,
        "×",
        f"a loop of curve_fit on the same spectra: {theirs:.0f} a second",
        50.0,
    )


def _time_peaks(size: Size) -> Iterator[Figure]:
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(2)
    edges = np.linspace(-3000.0, 3000.0, 257)
    x = 0.5 * (edges[:-1] + edges[1:])
    width = edges[1] - edges[0]

    def shape(t: Any, area: float, mu: float, sigma: float, flat: float) -> Any:
        return area * width * np.exp(-0.5 * ((t - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) + flat

    counts = rng.poisson(shape(x, 2000.0, 30.0, 390.0 / FWHM_OF_SIGMA, 2.0), (5 if size.quick else 200, x.size))
    counts = counts.astype(np.float64)

    def ours() -> None:
        fit_time_peaks(edges, counts, allow_second=False)

    def scipy() -> None:
        for y in counts:
            with contextlib.suppress(RuntimeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                curve_fit(shape, x, y, (1500.0, 0.0, 200.0, 1.0), np.sqrt(np.maximum(y, 1.0)))

    spent = in_turn({"ours": ours, "scipy": scipy}, size.repeats)
    rate = counts.shape[0] / spent["ours"]
    yield Figure("time-fits", "time peak fits, 256 bins", rate, "a second", "judged and with errors, one call for all")
    yield Figure(
        "time-scipy",
        "time peak fits against curve_fit",
        spent["scipy"] / spent["ours"],
        "×",
        f"a loop of curve_fit on the same histograms: {counts.shape[0] / spent['scipy']:.0f} a second",
        25.0,
    )


def _offsets(size: Size) -> Iterator[Figure]:
    rng = np.random.default_rng(3)
    n, m = (200, 20_000) if size.quick else (CHANNELS, PAIRS)
    a, b = rng.integers(0, n, m).astype(np.int32), rng.integers(0, n, m).astype(np.int32)
    keep = a != b
    a, b = a[keep], b[keep]
    true = rng.normal(0.0, 200.0, n)
    true -= true.mean()
    dt = true[a] - true[b] + rng.normal(0.0, SIGMA_PS, a.size)
    weight = np.ones(a.size, np.float32)
    degree = np.bincount(a, minlength=n).astype(np.float64) + np.bincount(b, minlength=n)
    right = np.bincount(a, weights=dt, minlength=n) - np.bincount(b, weights=dt, minlength=n)
    none16, none8, group = np.empty(0, np.int16), np.empty(0, np.int8), np.zeros(n, np.int32)
    coarse = np.empty((0, 0))

    def solved(tolerance: float) -> tuple[float, float]:
        x = np.zeros(n)
        began = time.perf_counter()
        conjugate_gradients(a, b, none16, none8, n, weight, degree, right, group, coarse, tolerance, x)
        took = time.perf_counter() - began
        return took, float(np.std(x - x.mean() - true))

    solved(1e-4)
    exact = solved(1e-12)[1]
    runs = [solved(1e-4) for _ in range(size.repeats)]
    yield Figure(
        "offset-seconds",
        f"offsets, {n} unknowns, {a.size / 1e6:.1f} M pairs",
        float(np.median([r[0] for r in runs])),
        "s",
        "one solution of the normal equations, wall time; the robust fit takes about a dozen",
        0.3,
        is_least=False,
    )
    yield Figure(
        "offset-error",
        "their error against the exact solution's",
        runs[0][1] / exact,
        "×",
        "standard deviation from the truth, tolerance 1e-4 against 1e-12",
        1.01,
        is_least=False,
    )
