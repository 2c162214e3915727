"""Fits at the statistical limit, peaks, widths and humps, on toys with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba.core.errors import TypingError
from scipy import integrate, optimize, stats
from tests.unit.peak_models import KEV, NO_SHAPE, model, photopeak

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits import fit_two_peaks
from petqc.fits import kernels as fk
from petqc.fits import photopeak_kernels as pk
from petqc.fits import row_kernels as rk
from petqc.fits.energy_fits import LYSO_RANGE
from petqc.fits.peaks import find_peaks, nema_width, onset, two_humps
from petqc.fits.photopeaks import LU_EDGE_RATIO, PeakShape, apparent_peak, fit_lines, fit_photopeak, fit_photopeaks
from petqc.lutetium.spectra import in_bins
from petqc.statistics import (
    FWHM_OF_SIGMA,
    channel_sigmas,
    family_sigmas,
    mean_bound,
    pearson_p_value,
    pearson_p_values,
    robust_spread,
    sigma_bound,
    sparse_chi2_p_value,
)

# --- the compiled model and fit --------------------------------------------------------------------------------------


def test_model_is_the_integral_of_its_formula():
    edges = np.array([400.0, 410.0, 470.0, 505.0, 515.0, 560.0, 600.0, 650.0])
    p = {
        "A1": 1000.0, "MU1": 510.0, "S1": 22.0, "A2": 300.0, "MU2": 450.0, "S2": 15.0,
        "STEP": 2.0, "LOW": 1.5, "HIGH": 0.5, "TAIL": 0.07, "EDGE": 0.9,
    }  # fmt: skip
    shape = np.array([30.0, LU_EDGE_RATIO])

    def density(x):
        gauss = stats.norm.pdf(x, p["MU1"], p["S1"])
        missing = (stats.norm.sf(x, p["MU1"], p["S1"]) - stats.norm.sf(x, p["MU1"] - 30.0, p["S1"])) / 30.0
        line = p["LOW"] + (p["HIGH"] - p["LOW"]) * (x - 400.0) / 250.0
        edge = stats.norm.cdf(x, LU_EDGE_RATIO * p["MU1"], math.sqrt(LU_EDGE_RATIO) * p["S1"])
        return (
            p["A1"] * (gauss + p["TAIL"] * missing)
            + p["A2"] * stats.norm.pdf(x, p["MU2"], p["S2"])
            + p["STEP"] * stats.norm.sf(x, p["MU1"], p["S1"])
            + p["EDGE"] * edge
            + line
        )

    found = model(edges, shape, **p)
    for low, high, value in zip(edges[:-1], edges[1:], found, strict=True):
        assert value == pytest.approx(integrate.quad(density, low, high)[0], rel=1e-8)


def test_derivatives_are_those_of_the_model():
    edges = np.linspace(400.0, 650.0, 63)
    shape = np.array([30.0, LU_EDGE_RATIO])
    p = np.array([1000.0, 511.0, 22.0, 300.0, 450.0, 15.0, 2.0, 1.0, 0.5, 0.1, 0.7])
    mu, jac = np.empty(62), np.empty((p.size, 62))
    fk.expected(p, shape, edges, mu, jac)
    scratch = np.empty_like(jac)
    for k in range(p.size):
        step = 1e-4 * max(1.0, abs(p[k]))
        up, down, high, low = p.copy(), p.copy(), np.empty(62), np.empty(62)
        up[k] += step
        down[k] -= step
        fk.expected(up, shape, edges, high, scratch)
        fk.expected(down, shape, edges, low, scratch)
        numeric = (high - low) / (2 * step)
        np.testing.assert_allclose(jac[k], numeric, atol=2e-5 * np.abs(numeric).max())


def test_compiled_fit_equals_python():
    counts = np.random.default_rng(1).poisson(photopeak(3000)).astype(float)[100:162]
    edges = KEV[100:163]
    slot = np.full(fk.N_PARAMETERS, -1, np.int64)
    slot[[fk.A1, fk.MU1, fk.S1, fk.STEP, fk.LOW, fk.HIGH]] = np.arange(6)
    results = []
    for function in (fk.poisson_fit, fk.poisson_fit.py_func):
        p = np.zeros(fk.N_PARAMETERS)
        p[[fk.A1, fk.MU1, fk.S1, fk.STEP, fk.LOW, fk.HIGH]] = 2500.0, 505.0, 25.0, 5.0, 3.0, 3.0
        lower = np.zeros(fk.N_PARAMETERS)
        mu, covariance = np.empty(62), np.empty((fk.N_PARAMETERS, fk.N_PARAMETERS))
        status, steps, nll = function(counts, edges, p, NO_SHAPE, slot, lower, mu, covariance)
        assert status == fk.CONVERGED
        results.append((steps, nll, p, mu, covariance))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_exponentials_and_logarithms_of_rows():
    rng = np.random.default_rng(3)
    scratch = np.empty((2, 4001))
    z = np.concatenate([np.linspace(-37.6, 37.6, 3999), [0.0, 1e-9]])
    f, twin = np.empty(4001), np.empty(4001)
    rk.bells(z, f, *scratch)
    rk.bells.py_func(z, twin, *scratch)
    np.testing.assert_array_equal(f, twin)
    np.testing.assert_allclose(f, np.exp(-0.5 * z**2), rtol=3e-16 + 1e-18, atol=0)
    rk.bells(1e3 * z, f, *scratch)
    assert (f[:1000] < 1e-300).all(), "too far away it is as good as none"
    x = np.concatenate([np.exp(rng.uniform(-30.0, 30.0, 3900)), 1.0 + np.linspace(-1e-3, 1e-3, 101)])
    y = np.empty(4001)
    rk.logarithms(x, y, *scratch)
    rk.logarithms.py_func(x, twin, *scratch)
    np.testing.assert_array_equal(y, twin)
    np.testing.assert_allclose(y, np.log(x), rtol=3e-16, atol=1e-19)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 64, 115])
def test_sums_of_rows(n):
    x, y = np.random.default_rng(n).standard_normal((2, n))
    each = np.zeros(8)
    whole = n - n % 8
    for k in range(0, whole, 8):
        each += x[k : k + 8] * y[k : k + 8]
    for k in range(whole, n):
        each[0] += x[k] * y[k]
    assert rk.dot(x, y) == ((each[0] + each[4]) + (each[2] + each[6])) + ((each[1] + each[5]) + (each[3] + each[7]))
    assert rk.dot(x, y) == pytest.approx(np.dot(x, y), rel=1e-12, abs=1e-12)
    assert rk.total(x) == rk.total.py_func(x) == rk.dot(x, np.ones(n))


def test_likelihood_and_pearsons_sums_equal_numpy():
    rng = np.random.default_rng(4)
    mu = rng.uniform(0.0, 50.0, 77)
    counts, scratch = rng.poisson(mu).astype(float), np.empty((3, 77))
    mu[:3], counts[:3] = 0.0, (0.0, 1.0, 2.0)
    floor = np.maximum(mu, 1e-12)
    rows = np.empty((4, 80))
    assert fk.negative_log_likelihood(counts, mu, rows) == pytest.approx(
        np.sum(floor - counts * np.log(floor)), rel=1e-13
    )
    assert fk.negative_log_likelihood(counts, mu, rows) == fk.negative_log_likelihood.py_func(counts, mu, rows)
    for bad in (np.nan, np.inf):
        mu[5] = bad
        assert not np.isfinite(fk.negative_log_likelihood(counts, mu, rows))
    mu[5] = 3.0
    found = fk.pearson_sums(counts, mu, 0.02, scratch)
    assert found == fk.pearson_sums.py_func(counts, mu, 0.02, scratch)
    chi2, _ = pearson_p_values(counts, mu, 4, (0.0, 0.02))
    np.testing.assert_allclose(found, [*chi2, np.sum(1.0 / np.maximum(mu, 1e-3))], rtol=1e-12)


def test_expected_counts_equal_python_in_memory_of_any_size():
    edges = np.linspace(400.0, 650.0, 63)
    shape = np.array([30.0, LU_EDGE_RATIO])
    p = np.array([1000.0, 511.0, 22.0, 300.0, 450.0, 15.0, 2.0, 1.0, 0.5, 0.1, 0.7])
    found, twin = np.empty((12, 62)), np.zeros((12, 62))
    fk.expected(p, shape, edges, found[0], found[1:])
    fk.expected_in.py_func(p, shape, edges, twin[0], twin[1:], np.empty((5, 80)))
    np.testing.assert_array_equal(found, twin)


def test_what_a_step_follows_from_equals_numpy():
    """Of five parameters: two with one quantity, which the second follows half as fast, and three by themselves."""
    rng = np.random.default_rng(8)
    n, slot, times = 62, np.full(fk.N_PARAMETERS, -1, np.int64), np.ones(fk.N_PARAMETERS)
    slot[[fk.A1, fk.A2, fk.MU1, fk.LOW, fk.S1]] = 0, 0, 1, 2, 3
    times[fk.A2] = 0.5
    mu, jac = rng.uniform(1.0, 50.0, n), rng.standard_normal((fk.N_PARAMETERS, 72))
    counts = rng.poisson(mu).astype(float)
    first, is_tied = np.array([min(fk.A1, fk.A2), fk.MU1, fk.LOW, fk.S1]), np.array([True, False, False, False])
    found = []
    for function in (fk.sums_of_step, fk.sums_of_step.py_func):
        score, fisher = np.zeros(4), np.zeros((4, 4))
        function(counts, mu, jac, times, slot, first, is_tied, np.empty((7, 72)), score, fisher)
        found.append((score, fisher))
    for compiled, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(compiled, plain)
    slopes = jac[[fk.A1, fk.MU1, fk.LOW, fk.S1], :n] + 0.5 * np.outer([1, 0, 0, 0], jac[fk.A2, :n])
    np.testing.assert_allclose(found[0][0], slopes @ (counts / mu - 1.0), rtol=1e-12)
    np.testing.assert_allclose(found[0][1], np.tril((slopes / mu) @ slopes.T), rtol=1e-12, atol=1e-14)


def test_upper_tail_of_the_normal_distribution():
    z = np.linspace(0.0, 37.0, 20_001)
    found = np.array([fk.tail_over_exponential(float(a)) for a in z]) * np.exp(-0.5 * z**2)
    np.testing.assert_allclose(found, stats.norm.sf(z), atol=5e-16, rtol=0)
    near = z < 4.0
    np.testing.assert_allclose(found[near], stats.norm.sf(z[near]), rtol=1e-12)
    assert [fk.tail_over_exponential(a) for a in z[::500]] == [fk.tail_over_exponential.py_func(a) for a in z[::500]]


@pytest.mark.parametrize("missing", [0.0, 8.0, 32.0, 70.0])
def test_maximum_and_width_of_a_peak_that_lacks_light(missing):
    rng = np.random.default_rng(2)
    sigma, share = rng.uniform(8.0, 60.0, 40), rng.uniform(-0.09, 0.2, 40)
    top, width = apparent_peak(sigma, share, missing)

    def density(x, s, t):
        value = stats.norm.pdf(x, 0.0, s)
        return value + t / missing * (stats.norm.sf(x, 0.0, s) - stats.norm.sf(x, -missing, s)) if missing else value

    for s, t, at, across in zip(sigma, share, top, width, strict=True):
        found = optimize.minimize_scalar(lambda x: -density(x, s, t), bounds=(-s, s), options={"xatol": 1e-9})  # noqa: B023
        assert at == pytest.approx(found.x, abs=1e-6 * s)
        half = 0.5 * density(at, s, t)
        ends = [
            optimize.brentq(lambda x: density(x, s, t) - half, at, at + side * (3 * s + missing))  # noqa: B023
            for side in (-1.0, 1.0)
        ]
        assert across == pytest.approx(ends[1] - ends[0], rel=1e-10)
    if missing:
        twin = np.empty((2, 40))
        pk.apparent_peaks.py_func(sigma, share, missing, twin[0], twin[1])
        np.testing.assert_array_equal(twin, np.stack([top, width]))
    one = apparent_peak(float(sigma[0]), float(share[0]), missing)
    assert (float(one[0]), float(one[1])) == (top[0], width[0])


def test_place_to_look_for_a_peak_equals_python():
    rng = np.random.default_rng(6)
    for n in (40, 300, 4000):
        counts = rng.poisson(photopeak(n)).astype(float)
        for low, high, sigma in ((360.0, 660.0, 23.0), (0.0, 90.0, 30.0), (1500.0, 1700.0, 30.0)):
            found = pk.seed_position(KEV, counts, low, high, sigma)
            assert found == pk.seed_position.py_func(KEV, counts, low, high, sigma)
    assert pk.seed_position(KEV, photopeak(4000), 360.0, 660.0, 23.0)[0] == pytest.approx(511.0, abs=4.0)


def test_a_fit_with_everything_on_its_bound_is_no_fit():
    # Nothing but zeros: every area wants to be zero.
    with pytest.raises((FitFailedError, TooFewCountsError)):
        fit_two_peaks(KEV[:50], np.zeros(49), (50.0, 150.0), (10.0, 10.0))


# --- photopeak -------------------------------------------------------------------------------------------------------


def bound_of(edges, p, free):
    """Cramér-Rao bound of each free parameter, from the Fisher information of the model."""
    mu, jac = np.empty(edges.size - 1), np.empty((fk.N_PARAMETERS, edges.size - 1))
    fk.expected(p, NO_SHAPE, edges, mu, jac)
    fisher = (jac[free] / mu) @ jac[free].T
    return np.sqrt(np.diag(np.linalg.inv(fisher)))


@pytest.mark.parametrize(("n", "toys"), [(500, 1500), (2000, 1500), (10_000, 800)])
def test_photopeak_is_at_the_cramer_rao_bound(n, toys):
    truth = photopeak(n)
    rng = np.random.default_rng(n)
    mean_pulls, width_pulls, means = [], [], []
    refused = 0
    for _ in range(toys):
        try:
            fit = fit_photopeak(KEV, rng.poisson(truth).astype(float), 508.0)
        except FitFailedError:  # a goodness of fit below 1e-4 happens, at that rate
            refused += 1
            continue
        means.append(fit.mu)
        mean_pulls.append((fit.mu - 511.0) / fit.mu_error)
        width_pulls.append((fit.fwhm - 0.105 * 511.0) / fit.fwhm_error)
    p = np.zeros(fk.N_PARAMETERS)
    per_kev = n / 250.0
    values = [n, 511.0, 511 * 0.105 / FWHM_OF_SIGMA, 0.3 * per_kev]
    # The line has other end values on the fitted range than on the whole axis; what it is there counts.
    low = 0.3 * per_kev + (0.2 - 0.3) * per_kev * 400 / 1600
    high = 0.3 * per_kev + (0.2 - 0.3) * per_kev * 650 / 1600
    p[[fk.A1, fk.MU1, fk.S1, fk.STEP, fk.LOW, fk.HIGH]] = [*values, low, high]
    bound = bound_of(KEV[100:164], p, [fk.A1, fk.MU1, fk.S1, fk.STEP, fk.LOW, fk.HIGH])[1]
    assert refused <= 2
    # A step that may not be negative is knowledge: with few counts the fit may beat the bound that ignores it.
    assert np.std(means) / bound < 1.05
    assert np.std(means) / bound > (0.95 if n >= 10_000 else 0.8)
    assert np.mean(mean_pulls) == pytest.approx(0.0, abs=0.15)
    assert np.std(mean_pulls) == pytest.approx(1.0, abs=0.1)
    assert np.mean(width_pulls) == pytest.approx(0.0, abs=0.2)
    assert np.std(width_pulls) == pytest.approx(1.0, abs=0.1)


def test_missing_light_and_lutetium_edge_are_fitted_along():
    shape = PeakShape(missing=32.0, edge_ratio=LU_EDGE_RATIO, signed_step=True)
    truth = model(
        KEV,
        shape.constants(),
        A1=400_000.0,
        MU1=509.0,
        S1=22.5,
        STEP=50.0,
        LOW=400.0,
        HIGH=400.0,
        TAIL=0.03,
        EDGE=230.0,
    )
    plain = fit_photopeak(KEV, truth, 510.0, min_p_value=0.0)
    assert plain.mu < 508.95  # light that is missing pulls a fit down that does not know of it
    rng = np.random.default_rng(7)
    pulls = []
    for _ in range(150):
        fit = fit_photopeak(KEV, rng.poisson(truth).astype(float), 510.0, shape=shape, relative_sigma=0.045)
        pulls.append(((fit.mu - 509.0) / fit.mu_error, (fit.fwhm - 22.5 * FWHM_OF_SIGMA) / fit.fwhm_error))
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.3
    assert np.abs(np.std(pulls, axis=0) - 1.0).max() < 0.2


def test_fits_of_all_channels_equal_single_ones():
    rng = np.random.default_rng(2)
    counts = np.stack([rng.poisson(photopeak(n, peak=peak)) for n, peak in ((800, 500.0), (3000, 525.0), (150, 511.0))])
    many = fit_photopeaks(KEV, counts.astype(np.uint32), np.full(3, 511.0), np.full(3, 23.0))
    for k in (0, 1):
        one = fit_photopeak(KEV, counts[k].astype(float), many.mu[k], relative_sigma=23.0 / many.mu[k])
        assert many.mu[k] == pytest.approx(one.mu, abs=1e-3)
        assert many.mu_error[k] == pytest.approx(one.mu_error, rel=1e-3)
        assert many.fwhm[k] == pytest.approx(one.fwhm, abs=2e-3)
        assert many.reason[k] == ""
    assert np.isnan(many.mu[2])
    assert "200" in many.reason[2]


BROAD = PeakShape(41.0, 0.05, LU_EDGE_RATIO, None)


def broad(area: float, step: float) -> np.ndarray:
    """A scanner of 16 % energy resolution: its peak ends where the fit range does."""
    rest = {"MU1": 511.0, "S1": 34.5, "LOW": 3.0, "HIGH": 1.0, "TAIL": 0.05, "EDGE": 2.0}
    return model(KEV, BROAD.constants(), A1=area, STEP=step, **rest)


def test_a_peak_whose_area_is_hard_to_tell_from_the_background_is_there_all_the_same():
    rng = np.random.default_rng(1)
    fits = [
        fit_photopeak(
            KEV, rng.poisson(broad(1500.0, 4.0)).astype(float), 511.0, shape=BROAD, relative_range=LYSO_RANGE,
            relative_sigma=0.067,
        )
        for _ in range(150)
    ]  # fmt: skip
    assert sum(fit.area < fk.STANDS_OUT * fit.area_error for fit in fits) > 10  # or nothing is shown here
    assert np.std([(fit.mu - 511.0) / fit.mu_error for fit in fits]) < 1.35
    # A step without a peak does not come in by this door, however it is taken for the side of one.
    steps = rng.poisson(broad(0.0, 30.0), (150, 400)).astype(float)
    doubtful = 0
    for shape in (PeakShape(), BROAD):
        for counts in steps:
            try:
                fit = fit_photopeak(KEV, counts, 511.0, shape=shape, relative_range=LYSO_RANGE, relative_sigma=0.067)
            except (FitFailedError, TooFewCountsError) as refused:
                doubtful += "stands out" in str(refused)
            else:
                assert fit.area >= fk.STANDS_OUT * fit.area_error
    assert doubtful > 10


def test_photopeak_refuses():
    rng = np.random.default_rng(3)
    with pytest.raises(TooFewCountsError, match="at least 200"):
        fit_photopeak(KEV, rng.poisson(photopeak(60)).astype(float), 511.0)
    flat = rng.poisson(np.full(400, 40.0)).astype(float)
    with pytest.raises((FitFailedError, TooFewCountsError)):
        fit_photopeak(KEV, flat, 511.0)
    two = rng.poisson(photopeak(4000, 0.06, 455.0) + photopeak(4000, 0.06, 560.0)).astype(float)
    with pytest.raises(FitFailedError):
        fit_photopeak(KEV, two, 511.0)
    with pytest.raises(FitFailedError, match="no room"):
        fit_photopeak(KEV, flat, 20.0)


def test_goodness_of_fit_is_uniform_even_for_sparse_bins():
    rng = np.random.default_rng(4)
    truth = np.full(100, 0.5)
    p = np.array([pearson_p_value(rng.poisson(truth).astype(float), truth, 0)[0:2][1] for _ in range(4000)])
    for level in (0.01, 0.1, 0.5, 0.9):
        assert (p < level).mean() == pytest.approx(level, abs=0.012 + 0.25 * level * (1 - level))
    chi2, one = pearson_p_value(np.full(100, 1.0), truth, 0)
    assert sparse_chi2_p_value(np.array([chi2]), np.array([100]), np.array([200.0]), 0)[0] == pytest.approx(one)


def test_lines_of_an_unknown_spectrum():
    edges = np.arange(2001.0)
    truth = model(edges, A1=3000.0, MU1=602.0, S1=12.0, A2=800.0, MU2=1450.0, S2=18.0, LOW=60.0, HIGH=2.0)
    counts = np.random.default_rng(5).poisson(truth).astype(float)
    found = fit_lines(edges, counts)
    assert [f.mu for f in found[:2]] == [pytest.approx(602.0, abs=2.0), pytest.approx(1450.0, abs=4.0)]
    assert found[0].fwhm == pytest.approx(12.0 * FWHM_OF_SIGMA, rel=0.15)
    assert fit_lines(edges, np.zeros(2000)) == []


# --- NEMA, peak search, humps ----------------------------------------------------------------------------------------


def test_nema_width_without_noise():
    for width, bias in ((25.0, 0.0015), (50.0, 0.006), (78.0, 0.015)):
        edges = np.arange(-60, 61) * width
        counts = model(edges, A1=1e6, MU1=0.3 * width, S1=390.0 / FWHM_OF_SIGMA)
        found = nema_width(edges, counts)
        # The bins that daily-qc.md §2c lists with their bias; where the peak stands in its bin moves it a little.
        assert found.width / 390.0 - 1.0 == pytest.approx(bias, abs=0.004)
        assert found.position == pytest.approx(0.3 * width, abs=0.05 * width)
        ratio = nema_width(edges, counts, 0.0, 0.1).width / found.width
        assert ratio == pytest.approx(1.823, abs=0.02)


def test_nema_width_reads_too_small_at_low_counts():
    """Source: table of daily-qc.md §2c, 3 000 events in 13 ps bins: 329 ± 30 for a true 390."""
    edges = np.arange(-150, 151) * 13.0
    truth = model(edges, A1=3000.0, MU1=0.0, S1=390.0 / FWHM_OF_SIGMA)
    rng = np.random.default_rng(11)
    widths = [nema_width(edges, rng.poisson(truth).astype(float)).width for _ in range(400)]
    assert np.mean(widths) == pytest.approx(329.0, abs=8.0)
    assert np.std(widths) == pytest.approx(30.0, abs=6.0)


def test_nema_width_refuses():
    edges = np.arange(11.0)
    with pytest.raises(FitFailedError, match="first or the last"):
        nema_width(edges, np.arange(10.0))
    with pytest.raises(FitFailedError, match="does not fall"):
        nema_width(edges, np.array([5, 5, 5, 5, 6, 7, 6, 5, 5, 5.0]))


def test_a_narrow_line_beats_a_compton_edge():
    edges = np.arange(2001.0)
    truth = model(edges, A1=9000.0, MU1=1436.0, S1=3.7, LOW=3.0, HIGH=1.0)
    truth[:940] += 40.0
    counts = np.random.default_rng(12).poisson(truth).astype(float)
    assert counts[:940].sum() > 9000  # more counts, in a broader thing
    assert find_peaks(edges, counts)[0].position == pytest.approx(1436.0, abs=5.0)
    assert find_peaks(edges, np.zeros(2000)) == []


def test_onset_of_a_spectrum():
    counts = np.zeros(100)
    counts[8:] = 1000.0
    counts[7] = 400.0
    assert onset(np.arange(101) * 4.0, counts, 200.0) == pytest.approx(32.0 - 0.4 * 4.0, abs=2.5)
    assert onset(np.arange(101) * 4.0, np.full(100, 5.0), 200.0) is None
    assert onset(np.arange(101) * 4.0, np.zeros(100), 200.0) is None


@pytest.mark.parametrize("n", [1500, 20_000])
def test_two_humps_are_told_from_one(n):
    rng = np.random.default_rng(n)
    edges = np.arange(101) * 2.0
    one = model(edges, A1=n, MU1=60.0, S1=9.0, LOW=n / 2000, HIGH=n / 2000)
    two = model(edges, A1=0.5 * n, MU1=35.0, S1=6.0, A2=0.5 * n, MU2=62.0, S2=6.0, LOW=n / 2000, HIGH=n / 2000)
    for _ in range(25):
        assert two_humps(edges, rng.poisson(one).astype(float), 10.0, 150.0) is None
        found = two_humps(edges, rng.poisson(two).astype(float), 10.0, 150.0)
        assert found is not None
        assert (found.low, found.high) == (pytest.approx(35.0, abs=3.0), pytest.approx(62.0, abs=3.0))
    with pytest.raises(TooFewCountsError):
        two_humps(edges, np.ones(100), 10.0, 150.0)


@pytest.mark.parametrize("n", [1000, 4000, 30_000])
def test_the_sum_of_lutetiums_gammas_is_no_second_hump(n):
    rng = np.random.default_rng(n)
    lutetium = in_bins(10.5, KEV, 1.0) @ np.array([0.01, 0.2, 0.06, 0.64, 0.05, 0.025, 0.0, 0.015])
    peak = model(KEV, A1=1.0, MU1=511.0, S1=22.8)
    low_gain = model(KEV, A1=1.0, MU1=400.0, S1=20.0)
    for _ in range(25):
        one = rng.poisson(n * (0.3 * peak + 0.7 * lutetium)).astype(float)
        assert two_humps(KEV, one, 306.0, 766.0, edge_ratio=LU_EDGE_RATIO) is None
        two = rng.poisson(n * (0.4 * peak + 0.4 * low_gain + 0.2 * lutetium)).astype(float)
        assert two_humps(KEV, two, 306.0, 766.0, edge_ratio=LU_EDGE_RATIO) is not None


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half", "share", "mean", "sigma"),
    [(3, 0.0, 1.03, 0.58), (3, 0.2, 1.51, 2.9), (3, 0.8, 6.18, 16), (5, 0.0, 1.00, 0.50), (5, 0.4, 1.73, 1.69)],
)
def test_bounds_are_those_of_the_table(half, share, mean, sigma):
    """Source: daily-qc.md §2k."""
    assert mean_bound(1.0, 1.0, share, half) ** 2 == pytest.approx(mean, rel=0.01)
    assert sigma_bound(1.0, 1.0, share, half) ** 2 == pytest.approx(sigma, rel=0.02)


def test_family_sigmas():
    """Source: daily-qc.md §0.5 and §2j."""
    assert family_sigmas(20_160) == pytest.approx(5.03, abs=0.005)
    assert family_sigmas(60_800) == pytest.approx(5.24, abs=0.005)
    assert family_sigmas(564_480) == pytest.approx(5.63, abs=0.005)
    assert channel_sigmas(512) == 5.0
    assert channel_sigmas(564_480) > 5.6


def test_robust_spread():
    values = np.random.default_rng(13).normal(0.0, 2.0, 20_000)
    values[:1000] = 1e6
    assert robust_spread(values) == pytest.approx(2.0, rel=0.1)
    assert robust_spread(np.empty(0)) == 0.0


def test_a_fit_whose_bounds_pull_it_to_and_fro_converges() -> None:
    """One block of a simulated ring: line and edge lie near their bounds, and all the way to one of them leads down."""
    counts = np.zeros(400)
    counts[88:172] = [
        23, 20, 23, 24, 19, 23, 16, 13, 22, 24, 17, 16, 15, 18, 25, 19, 34, 20, 37, 34, 34, 54, 39,
        63, 80, 81, 82, 116, 112, 143, 157, 168, 206, 200, 220, 219, 242, 246, 227, 255, 226, 235,
        212, 231, 225, 218, 171, 163, 145, 111, 109, 96, 99, 84, 70, 67, 54, 55, 32, 31, 36, 38, 41,
        34, 32, 29, 29, 30, 30, 36, 23, 47, 31, 33, 26, 37, 29, 39, 28, 25, 40, 21, 34, 42,
    ]  # fmt: skip
    shape = PeakShape(25.0, 0.03, LU_EDGE_RATIO, None)
    fit = fit_photopeak(
        np.arange(401) * 4.0, counts, 509.1, shape=shape, relative_range=LYSO_RANGE, relative_sigma=33.9 / 509.1
    )
    assert fit.mu == pytest.approx(509.21, abs=0.02)
    assert fit.fwhm == pytest.approx(79.59, abs=0.05)


def test_products_of_rows_that_do_not_lie_side_by_side_are_refused():
    rows = np.ones((8, 8))
    with pytest.raises(TypingError, match="not contiguous"):
        rk.dot(rows[:, 0], rows[0])
