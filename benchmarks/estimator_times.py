"""Draws of coincidence peaks for the table of estimators. See estimators.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from estimator_rows import Row, attempt, covariance_at, parameters, row

from petqc.fits import PeakFit, slots_of
from petqc.fits.kernels import A1, A2, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, S2, expected
from petqc.fits.time_peaks import fit_time_peak, fit_time_peaks, fit_whole_peak
from petqc.fits.time_shapes import SHARE_PRIOR, bound_of_width
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

PS = np.arange(-500, 501) * 10.0 - 0.5
SHAPES = {"Gaussian": (0.0, 1.0), "3/10 1.24 times as wide": (0.3, 1.24), "1/10 2.2 times as wide": (0.1, 2.2)}
"""Of the scanner's peak: share of the second Gaussian, and how many times as wide it is."""


def time_peak(repeats: int) -> list[Row]:
    """CTR and position of the time peak, 390 ps on 20 % of randoms, without and with a second Gaussian."""
    rng = np.random.default_rng(12)
    rows = []
    sigma = 390.0 / FWHM_OF_SIGMA
    single = slots_of((A1,), (MU1,), (S1,), (LOW, HIGH))
    double = slots_of((A1,), (MU1, MU2), (S1,), (A2,), (S2,), (LOW, HIGH))
    for n, share in ((300, 0.0), (1000, 0.0), (3000, 0.0), (30_000, 0.0), (30_000, 0.1), (300_000, 0.1)):
        flat = 0.25 * n / 10_000.0
        p = parameters(A1=n * (1 - share), MU1=23.0, S1=sigma, LOW=flat, HIGH=flat)
        if share:
            p[A2], p[MU2], p[S2] = n * share, 23.0, 2.2 * sigma
        mean, _ = _expected(p)
        covariance = covariance_at(p, double if share else single, np.zeros(2), PS, 0, PS.size - 1)
        times = repeats if n < 100_000 else repeats // 4
        found = np.full((times, 4), np.nan)
        for k in range(times):
            counts = rng.poisson(mean).astype(float)
            fit = attempt(lambda c=counts: fit_time_peak(PS, c))
            if fit is not None:
                found[k] = fit.fwhm, fit.fwhm_error, fit.mu, fit.mu_error
        truth, bound = _width_of(p, covariance)
        name = f"{n} pairs" + (f", {100 * share:.0f} % wide" if share else "")
        rows += [
            row(f"CTR, {name}", found[:, 0], found[:, 1], truth, bound, "ps"),
            row(
                f"offset of a pair, {name}", found[:, 2], found[:, 3], 23.0, float(np.sqrt(covariance[MU1, MU1])), "ps"
            ),
        ]
    return rows


NO_BOUND = np.zeros((N_PARAMETERS, N_PARAMETERS))


def _width_of(p: NDArray[np.float64], covariance: NDArray[np.float64] = NO_BOUND) -> tuple[float, float]:
    """FWHM of the density and its bound."""
    if p[S2] == 0.0:
        return FWHM_OF_SIGMA * float(p[S1]), FWHM_OF_SIGMA * float(np.sqrt(covariance[S1, S1]))

    def width(q: NDArray[np.float64]) -> float:
        x = np.linspace(0.0, 5.0 * q[S1], 20_001)
        y = q[A1] / q[S1] * np.exp(-0.5 * (x / q[S1]) ** 2) + q[A2] / q[S2] * np.exp(-0.5 * (x / q[S2]) ** 2)
        return 2.0 * float(np.interp(-0.5 * y[0], -y, x))

    gradient = np.zeros(N_PARAMETERS)
    for j in (A1, S1, A2, S2):
        step = np.zeros(N_PARAMETERS)
        step[j] = 1e-3 * max(p[j], 1e-3)
        gradient[j] = (width(p + step) - width(p - step)) / (2.0 * step[j])
    return width(p), float(np.sqrt(gradient @ covariance @ gradient))


SECOND_SHARE, SECOND_WIDER = 0.3, 1.24
"""Of the second Gaussian: about what a ring's pairs of modules show."""


def pairs_of_one_shape(repeats: int) -> list[Row]:
    """CTR of sixteen pairs of modules, about 223 ps; the bound knows that their shape is the same, not which."""
    rng = np.random.default_rng(18)
    rows = []
    for n in (3000, 30_000):
        times = max(repeats // 40, 5)
        found, stated, true = np.full((3, times, 16), np.nan)
        for t in range(times):
            sigma, mu = 90.0 * (1.0 + 0.02 * rng.standard_normal(16)), 8.0 * rng.standard_normal(16)
            drawn = [_two(n, m, s) for m, s in zip(mu, sigma, strict=True)]
            counts = np.stack([rng.poisson(_expected(p)[0]).astype(float) for p in drawn])
            for k, fit in enumerate(fit_time_peaks(PS, counts, of_one_kind=True)):
                if isinstance(fit, PeakFit):
                    found[t, k], stated[t, k] = fit.fwhm, fit.fwhm_error
            true[t] = [_width_of(p)[0] for p in drawn]
        rows.append(row(f"CTR of one of 16 pairs of {n}", found - true, stated, 0.0, _bound_of_one(n), "ps"))
    return rows


def _two(
    n: float, mu: float, sigma: float, share: float = SECOND_SHARE, wider: float = SECOND_WIDER
) -> NDArray[np.float64]:
    return parameters(
        A1=(1.0 - share) * n, MU1=mu, S1=sigma, A2=share * n, MU2=mu, S2=wider * sigma, LOW=2e-6 * n, HIGH=2e-6 * n
    )


def _bound_of_one(n: float, n_pairs: int = 16, sigma: float = 90.0) -> float:
    """Of the FWHM of one of many pairs, each with its area, place, width and randoms, and all with one shape."""
    mean, jac = _expected(_two(n, 0.0, sigma))
    own = [
        (1.0 - SECOND_SHARE) * jac[A1] + SECOND_SHARE * jac[A2], jac[MU1] + jac[MU2],
        jac[S1] + SECOND_WIDER * jac[S2], jac[LOW] + jac[HIGH],
    ]  # fmt: skip
    slopes = np.array([*own, n * (jac[A2] - jac[A1]), sigma * jac[S2]])
    one = slopes / mean @ slopes.T
    m = len(own)
    whole = np.zeros((m * n_pairs + 2, m * n_pairs + 2))
    whole[-2:, -2:] = n_pairs * one[m:, m:]
    for k in range(n_pairs):
        part = slice(m * k, m * (k + 1))
        whole[part, part], whole[part, -2:], whole[-2:, part] = one[:m, :m], one[:m, m:], one[m:, :m]
    gradient = np.zeros(len(whole))
    of = {"sigma": sigma, "share": SECOND_SHARE, "wider": SECOND_WIDER}
    for j, name in ((2, "sigma"), (-2, "share"), (-1, "wider")):
        step = 1e-3 * of[name]
        up, down = (_width_of(_two(n, 0.0, **{**of, name: of[name] + x}))[0] for x in (step, -step))
        gradient[j] = (up - down) / (2.0 * step)
    return float(np.sqrt(gradient @ np.linalg.solve(whole, gradient)))


def _expected(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected counts and their slopes."""
    mean, jac = np.empty(PS.size - 1), np.empty((N_PARAMETERS, PS.size - 1))
    expected(p, np.zeros(2), PS, mean, jac)
    return mean, jac


def whole_peak(repeats: int) -> list[Row]:
    """CTR of the scanner, of 217 to 223 ps; the bound has the shape free, under the priors that the fit states."""
    rng = np.random.default_rng(19)
    rows = []
    for n in (300, 2000, 5000, 20_000, 50_000):
        for name, (share, wider) in SHAPES.items():
            p = _two(n, 8.0, 92.0, share, wider)
            p[LOW] = p[HIGH] = 0.25 * n / 10_000.0
            mean, _ = _expected(p)
            found = np.full((max(repeats // 5, 20), 2), np.nan)
            for k in range(len(found)):
                fit = attempt(lambda m=mean: fit_whole_peak(PS, rng.poisson(m).astype(float)))
                if fit is not None:
                    found[k] = fit.fwhm, fit.fwhm_error
            logit = float(np.log(share / (1.0 - share))) if share else SHARE_PRIOR[0]
            bend = 3.0 * share * (1.0 - share) * (wider**2 - 1.0) ** 2
            true = _width_of(p)[0]
            bound = bound_of_width(PS, area=n, mean=8.0, fwhm=true, bend=bend, logit=logit, flat=float(p[LOW]))
            rows.append(row(f"CTR of the scanner, {n} pairs, {name}", found[:, 0], found[:, 1], true, bound, "ps"))
    return rows
