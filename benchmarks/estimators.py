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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from estimator_pulls import nema, simulated
from estimator_rows import Row, attempt, covariance_at, model, parameters, row
from estimator_times import PS, pairs_of_one_shape, time_peak, whole_peak

from petqc.event_times import GAP_BIN_PS, GAP_BINS
from petqc.fits import slots_of
from petqc.fits.dead_time import dead_time
from petqc.fits.energy_fits import LYSO_RANGE
from petqc.fits.kernels import A1, HIGH, LOW, MU1, MU2, N_PARAMETERS, S1, TAIL, TAIL_WIDTH, expected
from petqc.fits.offsets import solve_offsets
from petqc.fits.photopeaks import LU_EDGE_RATIO, PLAIN, PeakShape, fit_photopeak, fit_photopeaks
from petqc.fits.randoms import module_ratios
from petqc.fits.single_modules import single_widths
from petqc.fits.time_peaks import fit_time_peak
from petqc.lutetium import spectra as continua
from petqc.lutetium.crystals import LINES_KEV
from petqc.lutetium.lines import _SLOTS, _TAIL_KEV, _TAIL_SHARE, RANGE_KEV, fit_lines
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

KEV = np.arange(401) * 4.0


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
        fit = attempt(
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


# --- single modules, offsets -------------


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
            fits = [attempt(lambda m=m: fit_time_peak(PS, rng.poisson(m).astype(float))) for m in means]
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
            solution = solve_offsets(a, b, np.rint(dt), n, window_ps=window, start_ps=start, sigma_ps=sigma)
            solved = solution.with_errors()
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
    fits = [attempt(lambda g=g: dead_time(g, rate)) for g in gaps]
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
            fit = attempt(lambda c=counts: fit_lines(c))
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
    photopeak, time_peak, whole_peak, pairs_of_one_shape, single_modules, offsets, rates, lutetium,
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
