"""CTR by likelihood fit: of the scanner, of every pair of modules, and of single modules where that is defined."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.fits.randoms import BOTH_WAYS
from petqc.fits.single_modules import single_widths
from petqc.limits import Limits
from petqc.results import Spectrum
from petqc.statistics import FWHM_OF_SIGMA, sigma_bound

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.fits import PeakFit
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_SITE = Limits(warn_high=650.0, fail_high=750.0)
_LABELS = {"point": "ctr_point", "line": "ctr_line", "extended": "width_extended", "none": "width_extended"}


@check(
    "ctr_fit",
    title="CTR (likelihood fit)",
    unit="ps",
    levels=("scanner", "pair", "module"),
    order=40,
    limits={"scanner": _SITE, "pair": _SITE},
    relative={
        "scanner": Limits(warn_high=3.0, fail_high=10.0),
        "pair": Limits(warn_high=5.0, fail_high=15.0),
        "module": Limits(warn_high=5.0, fail_high=15.0),
    },
    source="formula: daily-qc.md §2c (Gauss, second Gauss if the counts ask for it, flat randoms; single modules by "
    "non-negative least squares of pair variances); limits: daily-qc.md §5.2 (+3 %, +10 %; module +5 %, +15 % of the "
    "baseline); without a baseline those of one site, daily-qc.md §1.3",
)
def ctr_fit(q: QcInput) -> CheckOutput:
    """FWHM of the coincidence peak in ps, with the loaded calibration and whatever skew it leaves."""
    h = q.histograms
    if q.without_tof:
        return q.not_applicable("ctr_fit", "ps", q.without_tof)
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput(notes=["No coincidences between modules were searched: nothing is said about timing."])
    label = _LABELS[q.context.source]
    results: list[CheckResult] = []
    spectra: list[Spectrum] = []
    notes: list[str] = []
    fits: dict[int, PeakFit] = {}
    pairs = [-1, *_looked_at(q)] if h.n_pairs > 1 else [0]
    for pair, fit in zip(pairs, q.time_fits(pairs), strict=True):
        level: Level = "scanner" if pair < 0 or h.n_pairs == 1 else "pair"
        name = SCANNER if level == "scanner" else h.pair_name(pair)
        if isinstance(fit, Refusal):
            # In a ring most pairs do not face each other: too few counts there is geometry, not a fault.
            # Of an extended source the width has no limits, and may have no peak: it says nothing about timing.
            needed = level == "scanner" and label != "width_extended"
            results.append(q.missing("ctr_fit", (level, name), "ps", fit.n, fit.reason, method=label, needed=needed))
        else:
            fits[pair] = fit
            results.append(_judged(q, level, name, fit, label))
            notes += _honest(fit, name)
        if level == "scanner" or len(spectra) < 12:
            spectra.append(_spectrum(q, pair, name, fit))
    if len(pairs) > 2 and label != "width_extended":  # with an extended source widths of pairs hold the source as well
        singles, note = _single_modules(q, fits)
        results += singles
        notes += [note] if note else []
    if label == "width_extended":
        notes.append("The source is extended: the width of the time peak contains the source and is not a CTR.")
    return CheckOutput(results, None, spectra, notes)


def _looked_at(q: QcInput) -> list[int]:
    """Pairs of modules between which coincidences were looked for."""
    h, chosen = q.histograms, q.context.coincident_modules
    if not chosen:
        return h.searched_pairs
    return [p for p in h.searched_pairs if all(h.topology.module_nodes[m] in chosen for m in h.pair_modules(p))]


def _judged(q: QcInput, level: Level, name: str, fit: PeakFit, label: str) -> CheckResult:
    shape = "two Gaussians + flat" if fit.is_double else "Gauss + flat"
    if math.isfinite(fit.kurtosis):
        shape += f", excess kurtosis {fit.kurtosis:+.2f} ± {fit.kurtosis_error:.2f} fitted along"
    shape += ", in the proportions of all pairs of modules" if fit.has_given_shape else ""
    limits = Limits() if label == "width_extended" else None
    return q.judge(
        "ctr_fit", (level, name), fit.fwhm, "ps", fit.fwhm_error, fit.area,
        limits=limits, method=f"{label}, Poisson likelihood: {shape}",
    )  # fmt: skip


def _honest(fit: PeakFit, name: str) -> list[str]:
    """The fit's own error against the bound. Source: daily-qc.md §2k, last paragraph."""
    if fit.is_double or math.isfinite(fit.kurtosis):
        return []
    half = 0.5 * float(fit.edges[-1] - fit.edges[0]) / fit.sigma
    share = min(max(float(fit.background.sum() / fit.model.sum()), 0.0), 0.99)
    bound = FWHM_OF_SIGMA * sigma_bound(fit.sigma, fit.area, share, min(half, 40.0))
    told = f"CTR at {name}: {fit.area:.0f} pairs, and the stated error of {fit.fwhm_error:.2g} ps"
    if fit.fwhm_error < 0.9 * bound:
        return [f"{told} is less than they can give: judge this value with {bound:.2g} ps instead"]
    if fit.fwhm_error > 2.0 * bound:
        told += f" stands where a Gaussian peak gives {bound:.2g} ps: its shape is another (parts late or wider, or a "
        told += "spike), and the counts do not show which. A change by less than "
        told += f"{2.0 * fit.fwhm_error:.2g} ps means nothing; "
        return [f"{told}four times as many pairs tell, and offsets and tails say which parts of it are late"]
    return []


def _spectrum(q: QcInput, pair: int, name: str, fit: PeakFit | Refusal) -> Spectrum:
    h = q.histograms
    edges, counts = q.time_spectrum(pair)
    first = int(np.searchsorted(h.tof_edges, edges[0]))
    delayed = h.tof_delayed.sum(axis=0, dtype=np.int64) if pair < 0 else h.tof_delayed[pair]
    shown = None if isinstance(fit, Refusal) else fit.on(edges)
    half = 0.5 * h.settings.coincidence_window_ps
    return Spectrum(
        "time",
        name,
        "time difference",
        "ps",
        edges,
        counts,
        fit=None if shown is None else shown[0],
        background=None if shown is None else shown[1],
        delayed=delayed[first : first + counts.size] / BOTH_WAYS,
        window=(-half, half),
        text=fit.reason if isinstance(fit, Refusal) else "",
    )


def _single_modules(q: QcInput, fits: dict[int, PeakFit]) -> tuple[list[CheckResult], str]:
    """FWHM of single modules."""
    h = q.histograms
    known = [(p, f) for p, f in fits.items() if p >= 0]
    modules = np.array([h.pair_modules(p) for p, _ in known], np.int64).reshape(-1, 2)
    fwhm, error = np.array([f.fwhm for _, f in known]), np.array([f.fwhm_error for _, f in known])
    names = h.topology.module_nodes
    found = single_widths(fwhm, error, modules[:, 0], modules[:, 1], len(names))
    if found is None:
        return [], "Pairs of modules do not suffice to tell single modules' time resolution apart."
    results = []
    for i, name in enumerate(names):
        n = sum(f.area for p, f in known if i in h.pair_modules(p))
        value, sigma = float(found.fwhm[i]), float(found.error[i])
        if not math.isfinite(value):
            # At the limit of what the counts tell, nothing is left for a module as often as not: no fault, no number.
            most = float(found.most[i])
            why = f": it is below {most:.3g} ps (95 %)" if math.isfinite(most) else ", nor does noise explain that"
            reason = f"the pairs leave no width for this module alone{why}"
            results.append(q.missing("ctr_fit", ("module", name), "ps", n, reason, needed=not math.isfinite(most)))
            continue
        results.append(
            q.judge("ctr_fit", ("module", name), value, "ps", sigma, n, method="FWHM of this module alone, from pairs")
        )
    return results, ""
