"""Randoms counted in the delayed window against randoms expected from singles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.event_times import SLICE_PS
from petqc.fits.randoms import BOTH_WAYS, module_ratios, ratio
from petqc.limits import Limits, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.checks import Level
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

MAX_UNCERTAINTY = 0.2
"""A ratio less certain than this says nothing about limits of 3 and 10 per cent."""
MOST_LOST = 1e-3
"""Share of lost frames up to which slices of time have one length: with more, how rates changed is not known."""
LEAST_SLICES = 5
"""Whole slices of time below which rates are taken as constant: the run is then shorter than a second."""
_METHOD = "delayed pairs (half of both ways) over 2τ·S_a·S_b·T, singles inside the energy window"
_LIMITS = Limits(0.90, 0.97, 1.03, 1.10)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Of each pair of modules that is searched, (m,) all.

    pair: number; a, b: its modules; n: delayed pairs, both ways; expected: in one way; error: relative, of expected.
    """

    pair: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    n: NDArray[np.int64]
    expected: NDArray[np.float64]
    error: NDArray[np.float64]


@check(
    "randoms_delayed",
    title="Randoms, delayed over singles",
    unit="",
    levels=("scanner", "module", "pair"),
    order=100,
    limits={"scanner": _LIMITS, "module": _LIMITS, "pair": _LIMITS},
    source="formula: daily-qc.md §2e (window of full width 2τ; R = 2τ·S_i·S_j); limits: daily-qc.md §5.2, row randoms",
)
def randoms_delayed(q: QcInput) -> CheckOutput:
    """Ratio of the two estimates, 1 for a healthy detector, by scanner, module and pair; the rate as a remark.

    Singles are counted slice by slice of 0.1 s, so that rates that change do not look like correlated noise; bursts
    shorter than that do. A module's ratio is its own where pairs suffice to tell modules apart.
    """
    h, live = q.histograms, q.live_time_s
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    where: tuple[Level, str] = ("scanner", SCANNER)
    if not q.context.has_singles or live is None:
        reason = "the live time is not known" if q.context.has_singles else "no singles were recorded"
        return CheckOutput([q.missing("randoms_delayed", where, "", h.delayed.sum(), reason, needed=False)])
    found, note = _pairs(q, live)
    measured, total = int(h.delayed.sum()), float(found.expected.sum())
    results = [
        q.judge(
            "randoms_delayed", where, measured / BOTH_WAYS / live, "1/s",
            math.sqrt(max(measured, 1)) / BOTH_WAYS / live, measured,
            limits=Limits(), part="rate", method="pairs in the delayed window (half of both ways) over live time",
        )
    ]  # fmt: skip
    results.append(_result(q, where, measured, total, _METHOD + note))
    notes: list[str] = []
    if h.n_pairs > 1:
        results += _of_modules(q, found, note)
        told = [k for k in range(found.n.size) if _is_told(int(found.n[k]), float(found.expected[k]))]
        for k in told:
            pair: tuple[Level, str] = ("pair", h.pair_name(int(found.pair[k])))
            value, error = ratio(float(found.n[k]), float(found.expected[k]))
            error = math.hypot(error, value * float(found.error[k]))
            n = int(found.n[k])
            results.append(q.judge("randoms_delayed", pair, value, "", error, n, method=_METHOD + note))
        if len(told) < found.n.size:
            notes.append(
                f"Randoms: {found.n.size - len(told)} of {found.n.size} pairs of modules have too few delayed pairs "
                "for a ratio of their own; they are in the ratios of their modules."
            )
    return CheckOutput(results, notes=notes)


def _pairs(q: QcInput, live_s: float) -> tuple[_Pairs, str]:
    """Counts and expectations; and what the method has to say about rates that change."""
    h = q.histograms
    two_tau_s = h.settings.coincidence_window_ps * 1e-12
    in_window = np.bincount(h.topology.module, weights=h.singles_in_window, minlength=len(h.topology.module_nodes))
    pair = np.array(h.searched_pairs, np.int64)
    modules = np.array([h.pair_modules(int(p)) for p in pair], np.int64).reshape(-1, 2)
    a, b = modules[:, 0], modules[:, 1]
    expected: NDArray[np.float64] = two_tau_s / live_s * (in_window[a] * in_window[b]).astype(np.float64)
    error = np.zeros(pair.size)
    account = q.context.account
    lost = float(account.get("frames_lost", 0)) / max(float(account.get("frames", 0)), 1.0)
    if lost > MOST_LOST:
        return _Pairs(pair, a, b, h.delayed[pair], expected, error), "; rates taken as constant, since frames were lost"
    times = h.times
    if times.n_slices >= LEAST_SLICES:
        whole = np.maximum(times.in_slices, 1)
        share = np.sqrt(whole[a] / np.maximum(in_window[a], 1) * whole[b] / np.maximum(in_window[b], 1))
        together = np.array([times.together_s(int(i), int(j)) for i, j in zip(a, b, strict=True)])
        expected = two_tau_s * together / share
        error = 1.0 / np.sqrt(np.maximum(together * SLICE_PS * 1e-12, 1.0))
    return _Pairs(pair, a, b, h.delayed[pair], expected, error), ""


def _is_told(n: int, expected: float) -> bool:
    """Whether there are counts enough for a number."""
    return expected > 0.0 and n > 0 and 1.0 / math.sqrt(n) <= MAX_UNCERTAINTY


def _result(q: QcInput, where: tuple[Level, str], n: int, expected: float, method: str) -> CheckResult:
    if not _is_told(n, expected):
        reason = f"{n} delayed pairs ({BOTH_WAYS * expected:.1f} expected from singles) are too few to compare"
        return q.missing("randoms_delayed", where, "", n, reason, method=method, needed=False)
    value, error = ratio(n, expected)
    return q.judge("randoms_delayed", where, value, "", error, n, method=method)


def _of_modules(q: QcInput, found: _Pairs, note: str) -> list[CheckResult]:
    names = q.histograms.topology.module_nodes
    modules = module_ratios(found.n, found.expected, found.a, found.b, len(names))
    results = []
    for i, name in enumerate(names):
        n, value, error = int(modules.n[i]), float(modules.value[i]), float(modules.error[i])
        if not math.isfinite(value) or not error <= MAX_UNCERTAINTY:
            continue  # the note of the pairs, and the scanner's ratio, say what there is
        method = _METHOD + (", of this module alone" if modules.alone[i] else ", of all pairs of this module") + note
        result = q.judge("randoms_delayed", ("module", name), value, "", error, n, method=method)
        if result.status in {Status.WARN, Status.FAIL}:
            result = q.judge(
                "randoms_delayed", ("module", name), value, "", error, n, method=method, reason=_without(found, i)
            )
        results.append(result)
    return results


def _without(found: _Pairs, module: int) -> str:
    """What the pairs of all other modules say: if it is 1, this module explains what is odd."""
    rest = (found.a != module) & (found.b != module)
    n, expected = float(found.n[rest].sum()), float(found.expected[rest].sum())
    if not _is_told(int(n), expected):
        return "too few delayed pairs of the other modules to say whether they are the same"
    value, error = ratio(n, expected)
    return f"pairs without this module: {value:.3f} ± {error:.3f}"
