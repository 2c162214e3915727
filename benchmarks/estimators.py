"""How close the estimators come to the Cramér-Rao bound, and whether their errors are true.

    python benchmarks/estimators.py [--repeats 1000] [--json OUT.json]
    python benchmarks/estimators.py --simulated 20 [--keep FOLDER]   # pulls over simulated benches, reader and all
    python benchmarks/estimators.py --nema [--repeats 200]   # the bias of the NEMA rule against the fit

The first draws histograms and lists of pairs from the models themselves, many times, without the detector simulator.
The bound is the inverse of the Fisher information of the model at the truth, with everything that the fit leaves free,
calculated from numerical or exact derivatives of the expected counts. Columns: variance over the bound; bias in units
of the bound's standard deviation; mean and spread of pulls, (found - truth) / stated; share of draws without a number.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from estimator_pulls import nema, simulated

from petqc.errors import QcError
from petqc.event_times import GAP_BIN_PS, GAP_BINS
from petqc.fits import PeakFit, slots_of
from petqc.fits.dead_time import dead_time
from petqc.fits.energy_fits import LYSO_RANGE
from petqc.fits.kernels import A1, A2, EDGE, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, S2, STEP, TAIL, TAIL_WIDTH, expected
from petqc.fits.offsets import solve_offsets
from petqc.fits.photopeaks import LU_EDGE_RATIO, PLAIN, PeakShape, fit_photopeak, fit_photopeaks
from petqc.fits.randoms import module_ratios
from petqc.fits.single_modules import single_widths
from petqc.fits.time_peaks import fit_time_peak, fit_time_peaks
from petqc.lutetium import spectra as continua
from petqc.lutetium.crystals import LINES_KEV
from petqc.lutetium.lines import _SLOTS, _TAIL_KEV, _TAIL_SHARE, RANGE_KEV, fit_lines
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

KEV = np.arange(401) * 4.0
PS = np.arange(-500, 501) * 10.0 - 0.5
AIM_VARIANCE, AIM_BIAS = 1.05, 0.2


@dataclass(frozen=True)
class Row:
    """One estimator at one truth. chance: standard deviation of `variance` that the number of draws leaves."""

    name: str
    values: int
    bound: float
    unit: str
    variance: float
    chance: float
    bias: float
    pull_mean: float
    pull_spread: float
    refused: float

    def missed(self) -> bool:
        """Whether an aim is missed beyond chance."""
        return (
            self.variance - 2.0 * self.chance > AIM_VARIANCE or abs(self.bias) - 2.0 / np.sqrt(self.values) > AIM_BIAS
        )


def row(
    name: str,
    found: NDArray[np.float64],
    stated: NDArray[np.float64],
    truth: NDArray[np.float64] | float,
    bound: NDArray[np.float64] | float,
    unit: str,
) -> Row:
    """Figures of draws; found and stated NaN where there was no number."""
    found, stated = np.asarray(found, np.float64), np.asarray(stated, np.float64)
    truth, bound = (np.broadcast_to(np.asarray(x, np.float64), found.shape) for x in (truth, bound))
    known = np.isfinite(found)
    n = int(known.sum())
    off = (found - truth)[known] / bound[known]
    pulls = (found - truth)[known] / stated[known]
    variance = float(off.var(ddof=1))
    # The spread of the variance from the fourth moment: tails make it larger than a Gaussian's.
    fourth = float(np.mean((off - off.mean()) ** 4))
    chance = float(np.sqrt(max(fourth - variance**2, 0.0) / n))
    return Row(
        name, n, float(np.sqrt(np.mean(bound**2))), unit, variance, chance, float(off.mean()),
        float(pulls.mean()), float(pulls.std(ddof=1)), 1.0 - n / found.size,
    )  # fmt: skip


def covariance_at(
    p: NDArray[np.float64],
    slots: NDArray[np.int64],
    constants: NDArray[np.float64],
    edges: NDArray[np.float64],
    first: int,
    last: int,
) -> NDArray[np.float64]:
    """Inverse Fisher information of a binned model's free parameters, (11, 11)."""
    part = edges[first : last + 1].copy()
    mu, jac = np.empty(last - first), np.empty((N_PARAMETERS, last - first))
    expected(p, constants, part, mu, jac)
    n_free = int(slots.max()) + 1
    free = np.zeros((n_free, mu.size))
    for j in range(N_PARAMETERS):
        if slots[j] >= 0:
            free[slots[j]] += jac[j]
    inverse = np.linalg.inv((free / np.maximum(mu, 1e-12)) @ free.T)
    whole = np.zeros((N_PARAMETERS, N_PARAMETERS))
    seen = np.flatnonzero(slots >= 0)
    whole[np.ix_(seen, seen)] = inverse[np.ix_(slots[seen], slots[seen])]
    return whole


def model(
    edges: NDArray[np.float64], constants: NDArray[np.float64] | None = None, **values: float
) -> NDArray[np.float64]:
    """Expected counts of the peak model."""
    p = parameters(**values)
    mu, jac = np.empty(edges.size - 1), np.empty((N_PARAMETERS, edges.size - 1))
    expected(p, np.zeros(2) if constants is None else constants, edges, mu, jac)
    return mu


_NAMES = {
    "A1": A1,
    "MU1": MU1,
    "S1": S1,
    "A2": A2,
    "MU2": MU2,
    "S2": S2,
    "STEP": STEP,
    "LOW": LOW,
    "HIGH": HIGH,
    "EDGE": EDGE,
}


def parameters(**values: float) -> NDArray[np.float64]:
    p = np.zeros(N_PARAMETERS)
    for name, value in values.items():
        p[_NAMES[name]] = value
    return p


# --- energy ----------------------------------------------------------------------------------------------------------


def photopeak(repeats: int) -> list[Row]:
    """A channel's photopeak (the lutetium edge known from its module), and a module's with its edge fitted."""
    rng = np.random.default_rng(11)
    rows = []
    sigma = 0.105 * 511.0 / FWHM_OF_SIGMA
    for n in (300, 1000, 3000, 30_000):
        shape = PeakShape(edge_ratio=LU_EDGE_RATIO, edge=0.0)
        level = 0.15 * n / (100.0 * sigma / 23.0)
        p = parameters(
            A1=n, MU1=511.0, S1=sigma, STEP=2.0 * level / 4, LOW=0.6 * level / 4, HIGH=0.4 * level / 4, EDGE=level
        )
        counts = rng.poisson(_on_axis(p, shape.constants()), (repeats, KEV.size - 1)).astype(np.uint32)
        centre, width = np.full(repeats, 511.0), np.full(repeats, sigma)
        fits = fit_photopeaks(
            KEV,
            counts,
            centre,
            width,
            shape=shape,
            edge=np.full(repeats, level),
            relative_range=LYSO_RANGE,
            min_counts=200,
        )
        rows += _of_peak(
            f"channel, {n} counts", fits.mu, fits.mu_error, fits.fwhm, fits.fwhm_error, p, PLAIN.slots(), shape
        )
    shape = PeakShape(edge_ratio=LU_EDGE_RATIO, edge=None, signed_step=True)
    n = 100_000
    level = 0.15 * n / 100.0
    p = parameters(A1=n, MU1=511.0, S1=sigma, STEP=0.5 * level, LOW=0.15 * level, HIGH=0.1 * level, EDGE=level)
    truth = _on_axis(p, shape.constants())
    found = np.full((repeats // 2, 4), np.nan)
    for k in range(repeats // 2):
        fit = _try(
            lambda: fit_photopeak(
                KEV,
                rng.poisson(truth).astype(float),
                511.0,
                shape=shape,
                relative_range=LYSO_RANGE,
                relative_sigma=0.045,
            )
        )
        if fit is not None:
            found[k] = fit.mu, fit.mu_error, fit.fwhm, fit.fwhm_error
    return rows + _of_peak(f"module, {n} counts", *found.T, p, shape.slots(), shape)


def _on_axis(p: NDArray[np.float64], constants: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected counts over KEV; the straight line is that of the fit range and goes on beyond it."""
    low, high = (511.0 * x for x in LYSO_RANGE)
    first, last = round(low / 4.0), round(high / 4.0)
    mu, jac = np.empty(last - first), np.empty((N_PARAMETERS, last - first))
    part = KEV[first : last + 1].copy()
    expected(p, constants, part, mu, jac)
    whole, jac = np.empty(KEV.size - 1), np.empty((N_PARAMETERS, KEV.size - 1))
    slope = (p[HIGH] - p[LOW]) / (part[-1] - part[0])
    q = p.copy()
    q[LOW], q[HIGH] = p[LOW] + slope * (KEV[0] - part[0]), p[LOW] + slope * (KEV[-1] - part[0])
    expected(q, constants, KEV, whole, jac)
    return np.maximum(whole, 0.0)


def _of_peak(
    name: str,
    mu: NDArray[np.float64],
    mu_error: NDArray[np.float64],
    fwhm: NDArray[np.float64],
    fwhm_error: NDArray[np.float64],
    p: NDArray[np.float64],
    slots: NDArray[np.int64],
    shape: PeakShape,
) -> list[Row]:
    first, last = round(511.0 * LYSO_RANGE[0] / 4.0), round(511.0 * LYSO_RANGE[1] / 4.0)
    bound = np.sqrt(np.diag(covariance_at(p, slots, shape.constants(), KEV, first, last)))
    return [
        row(f"photopeak, {name}", mu, mu_error, p[MU1], bound[MU1], "keV"),
        row(f"energy resolution, {name}", fwhm, fwhm_error, FWHM_OF_SIGMA * p[S1], FWHM_OF_SIGMA * bound[S1], "keV"),
    ]


def _try(fit: Callable[[], object]):  # noqa: ANN202 - whatever the fit gives, or None
    try:
        return fit()
    except QcError:
        return None


# --- time ------------------------------------------------------------------------------------------------------------


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
            fit = _try(lambda c=counts: fit_time_peak(PS, c))
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
        step[j] = 1e-3 * p[j]
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


def single_modules(repeats: int) -> list[Row]:
    """Width of single modules: every pair of eight fitted, then solved."""
    rng = np.random.default_rng(13)
    true = np.array([270.0, 250.0, 290.0, 280.0, 400.0, 260.0, 275.0, 240.0])
    pairs = np.array([(i, j) for i in range(8) for j in range(i)])
    single = slots_of((A1,), (MU1,), (S1,), (LOW, HIGH))
    rows = []
    for n in (500, 5000):
        design = np.zeros((len(pairs), 8))
        means, information = [], np.zeros(len(pairs))
        for k, (i, j) in enumerate(pairs):
            fwhm = float(np.hypot(true[i], true[j]))
            flat = 0.25 * n / 10_000.0
            p = parameters(A1=n, S1=fwhm / FWHM_OF_SIGMA, LOW=flat, HIGH=flat)
            means.append(model(PS, A1=n, S1=fwhm / FWHM_OF_SIGMA, LOW=flat, HIGH=flat))
            information[k] = 1.0 / (
                FWHM_OF_SIGMA**2 * covariance_at(p, single, np.zeros(2), PS, 0, PS.size - 1)[S1, S1]
            )
            design[k, i], design[k, j] = true[i] / fwhm, true[j] / fwhm  # d fwhm / d s
        bound = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * information[:, None]))))
        times = max(repeats // 10, 20)
        found, stated = np.full((times, 8), np.nan), np.full((times, 8), np.nan)
        for t in range(times):
            fits = [_try(lambda m=m: fit_time_peak(PS, rng.poisson(m).astype(float))) for m in means]
            good = np.array([f is not None for f in fits])
            fwhm, error = (np.array([getattr(f, k) for f in fits if f is not None]) for k in ("fwhm", "fwhm_error"))
            solved = single_widths(fwhm, error, pairs[good, 0], pairs[good, 1], 8)
            if solved is not None:
                found[t], stated[t] = solved.fwhm, solved.error
        rows.append(row(f"single module, 28 pairs of {n}", found, stated, true, bound, "ps"))
    return rows


def offsets(repeats: int) -> list[Row]:
    """Offsets of channels and of modules: 8 modules of 16 crystals, all pairs of modules, 390 ps, randoms."""
    rng = np.random.default_rng(14)
    rows = []
    sigma, window, n = 390.0 / FWHM_OF_SIGMA, 10_000.0, 128
    module = np.arange(n) // 16
    mean_of = np.zeros((8, n))
    mean_of[module, np.arange(n)] = 1.0 / 16.0
    for per_channel, randoms in ((200, 0.0), (1000, 0.1), (1000, 0.3)):
        m = per_channel * n // 2
        x = np.linspace(-5000.0, 5000.0, 20_001)
        peak = (1 - randoms) * np.exp(-0.5 * (x / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        density = peak + randoms / window
        information = float(np.trapezoid((peak * x / sigma**2) ** 2 / density, x))
        times = max(repeats // 40, 10)
        of_channels, of_modules = [], []
        for _ in range(times):
            a, b = rng.integers(0, n, m), rng.integers(0, n, m)
            keep = module[a] != module[b]
            a, b = np.maximum(a, b)[keep].astype(np.int32), np.minimum(a, b)[keep].astype(np.int32)
            offset = rng.normal(0.0, 150.0, n)
            offset -= offset.mean()
            dt = offset[a] - offset[b] + rng.normal(0.0, sigma, a.size)
            random = rng.random(a.size) < randoms
            dt[random] = rng.uniform(-5000.0, 5000.0, int(random.sum()))
            start = (mean_of @ offset)[module]
            solved = solve_offsets(a, b, np.rint(dt), n, window_ps=window, start_ps=start, sigma_ps=sigma)
            joint = np.zeros((n, n))
            np.add.at(joint, (a, b), information)
            joint += joint.T
            inverse = np.linalg.pinv(np.diag(joint.sum(axis=1)) - joint, rcond=1e-9, hermitian=True)
            of_channels.append((solved.offset_ps - offset, solved.error_ps, np.sqrt(np.diag(inverse))))
            every = np.arange(n)
            of_modules.append(
                (
                    mean_of @ (solved.offset_ps - offset),
                    np.array([solved.mean_error(np.flatnonzero(module == k), every) for k in range(8)]),
                    np.sqrt(np.diag(mean_of @ inverse @ mean_of.T)),
                )
            )
        name = f"{per_channel} pairs each, {100 * randoms:.0f} % randoms"
        for level, parts in (("channel", of_channels), ("module", of_modules)):
            off, stated, bound = (np.array(column) for column in zip(*parts, strict=True))
            rows.append(row(f"offset of a {level}, {name}", off, stated, 0.0, bound, "ps"))
    return rows


# --- rates -----------------------------------------------------------------------------------------------------------


def rates(repeats: int) -> list[Row]:
    """Randoms ratio of modules alone, and dead time from gaps."""
    rng = np.random.default_rng(15)
    a, b = (np.array(x) for x in zip(*[(i, j) for i in range(28) for j in range(i)], strict=True))
    true = 1.0 + rng.normal(0.0, 0.02, 28)
    wanted = rng.uniform(3.0, 40.0, a.size)
    mean = 2.0 * wanted * (true[a] + true[b] - 1.0)
    design = np.zeros((a.size, 28))
    design[np.arange(a.size), a] = design[np.arange(a.size), b] = 1.0
    design *= 2.0 * wanted[:, None]
    bound = np.sqrt(np.diag(np.linalg.inv(design.T @ (design / mean[:, None]))))
    solved = [module_ratios(rng.poisson(mean), wanted, a, b, 28) for _ in range(max(repeats // 10, 20))]
    rows = [row("randoms ratio of a module", [s.value for s in solved], [s.error for s in solved], true, bound, "")]
    # Gaps: as many as a module of 256 channels at 500 Hz has in a minute.
    width, dead_ns, rate = GAP_BIN_PS * 1e-3, 326.0, 500.0
    level = 256 * 60 * rate**2 * width * 1e-9
    at = np.arange(GAP_BINS) * width
    awake = np.clip((at + width - dead_ns) / width, 0.0, 1.0)
    shape = np.exp(-rate * (at + 0.5 * width) * 1e-9)
    gaps = rng.poisson(level * awake * shape, (repeats, GAP_BINS))
    fits = [_try(lambda g=g: dead_time(g, rate)) for g in gaps]
    near = round(2000.0 / width)
    seen, free = float((level * awake * shape)[:near].sum()), float((level * shape)[near:].sum())
    # Two sums of counts, two unknowns: the bound of any estimator that does not know how the dead time ends.
    bound_ns = width * np.sqrt(seen / level**2 + (seen / level) ** 2 / free)
    value, stated = (np.array([np.nan if f is None else getattr(f, k) for f in fits]) for k in ("value_ns", "error_ns"))
    return [*rows, row("dead time of a channel, one minute", value, stated, dead_ns, bound_ns, "ns")]


# --- lutetium --------------------------------------------------------------------------------------------------------


def lutetium(repeats: int) -> list[Row]:
    """Lines of beta-gamma pairs, and the scale of a channel from its continuum."""
    rng = np.random.default_rng(16)
    lines = np.arange(101) * 4.0

    constants = np.zeros(2)
    constants[TAIL_WIDTH] = _TAIL_KEV
    rows = []
    for n in (2_000, 30_000):
        p = parameters(
            A1=0.7 * n,
            MU1=LINES_KEV[1],
            S1=17.5,
            A2=0.3 * n,
            MU2=LINES_KEV[0],
            S2=13.0,
            STEP=5e-4 * n,
            LOW=4e-4 * n,
            HIGH=2e-4 * n,
        )
        p[TAIL] = _TAIL_SHARE
        first, last = (round(e / 4.0) for e in RANGE_KEV)
        part = lines[first : last + 1].copy()
        mean, jac = np.empty(last - first), np.empty((N_PARAMETERS, last - first))
        expected(p, constants, part, mean, jac)
        bound = np.sqrt(np.diag(covariance_at(p, _SLOTS, constants, lines, first, last)))
        found = np.full((repeats // 2, 4), np.nan)
        for k in range(repeats // 2):
            counts = np.zeros(100)
            counts[first:last] = rng.poisson(mean)
            fit = _try(lambda c=counts: fit_lines(c))
            if fit is not None:
                error = np.sqrt(np.diag(fit.fit.covariance)) * fit.fit.scale
                found[k] = fit.fit.parameters[MU1], error[MU1], fit.fit.parameters[MU2], error[MU2]
        rows += [
            row(f"Lu-176 line at 307 keV, {n} pairs", found[:, 0], found[:, 1], LINES_KEV[1], bound[MU1], "keV"),
            row(f"Lu-176 line at 202 keV, {n} pairs", found[:, 2], found[:, 3], LINES_KEV[0], bound[MU2], "keV"),
        ]
    parts = np.array([0.01, 0.2, 0.06, 0.64, 0.05, 0.025, 0.0, 0.015])
    shape = continua.in_bins(11.0, KEV, 1.0) @ parts
    module = continua.fit_continuum(KEV, rng.poisson(4_000_000 * shape).astype(float))
    for n in (3000, 30_000):
        perfect = continua.fit_channels(KEV, np.rint(n * shape * 1e4).astype(np.uint32)[None], module)
        each = continua.fit_channels(KEV, rng.poisson(n * shape, (repeats, 400)).astype(np.uint32), module)
        bound = float(perfect.scale_error[0]) * 100.0
        rows.append(row(f"Lu-176 scale of a channel, {n} decays", each.scale, each.scale_error, 1.0, bound, ""))
    return rows


# --- output ----------------------------------------------------------------------------------------------------------

DRAWN: tuple[Callable[[int], list[Row]], ...] = (
    photopeak, time_peak, pairs_of_one_shape, single_modules, offsets, rates, lutetium,
)  # fmt: skip


def told(rows: Sequence[Row]) -> None:
    """Print the rows."""
    print("| estimator | values | bound | variance / bound | bias, σ | pulls, mean | spread | no number |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for r in rows:
        print(
            f"| {r.name} | {r.values} | {r.bound:.3g} {r.unit} | {r.variance:.2f} ± {r.chance:.2f} | {r.bias:+.2f} | "
            f"{r.pull_mean:+.2f} | {r.pull_spread:.2f} | {100 * r.refused:.1f} % |" + (" MISSED" if r.missed() else "")
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=1000)
    options.add_argument("--only", choices=[f.__name__ for f in DRAWN], action="append")
    options.add_argument("--simulated", type=int, metavar="SEEDS")
    options.add_argument("--seconds", type=float, default=3.0, help="of each simulated bench")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="pulls of each bench, not to be made again")
    options.add_argument("--nema", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    began_s = time.perf_counter()
    written: object
    missed = False
    if given.simulated:
        written = simulated(given.simulated, given.seconds, given.keep)
    elif given.nema:
        written = nema(given.repeats)
    else:
        rows = [r for draw in DRAWN if not given.only or draw.__name__ in given.only for r in draw(given.repeats)]
        told(rows)
        written, missed = [asdict(r) for r in rows], any(r.missed() for r in rows)
    sys.stderr.write(f"{time.perf_counter() - began_s:.0f} s\n")
    if given.json is not None:
        given.json.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
