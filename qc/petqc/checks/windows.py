"""Coincidence and energy window in use, against those of the scanner: a wrong setting looks like a wrong scanner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

COINCIDENCE_PERCENT = 1.0, 20.0
EDGE_KEV = 1.0, 20.0
"""Warn and fail differences of the coincidence window and of an edge of the energy window. Settings have no noise: the
warn limits only let published values be rounded; a fifth of a window, or 20 keV, moves randoms or sensitivity as far as
the fail limits of their own checks."""
_NS = 1e-3


@check(
    "windows",
    title="Window",
    unit="ns, keV",
    levels=("scanner",),
    order=95,
    source="formula: the settings that events were processed with, coincidence window as full width 2τ, daily-qc.md "
    f"§2c; limits: ±{COINCIDENCE_PERCENT[0]:g} % (warn) and ±{COINCIDENCE_PERCENT[1]:g} % (fail) of the coincidence "
    f"window, ±{EDGE_KEV[0]:g} and ±{EDGE_KEV[1]:g} keV of an edge of the energy window, around the accepted baseline; "
    "around the published value of this kind of scanner, which is no setting of this one, warn limits only; §3, F22",
)
def windows(q: QcInput) -> CheckOutput:
    """Full width of the coincidence window, and the two edges of the energy window.

    Without a baseline and without a published value they are said, and not judged. Files that hold events which were
    sorted elsewhere say nothing about windows.
    """
    settings = q.histograms.settings
    if "frames" not in q.context.account:
        return CheckOutput()
    results = []
    if q.context.has_pair_search and q.histograms.n_pairs:
        width = settings.coincidence_window_ps * _NS
        results.append(_one(q, "coincidence", width, "ns", None))
    if settings.energy_window is not None and q.is_kev:
        results += [
            _one(q, part, edge, "keV", side)
            for side, (part, edge) in enumerate(zip(("energy_low", "energy_high"), settings.energy_window, strict=True))
        ]
    return CheckOutput(results)


def _one(q: QcInput, part: str, value: float, unit: str, side: int | None) -> CheckResult:
    """One setting. side: of the energy window, 0 low, 1 high; None: the coincidence window."""
    where: tuple[Level, str] = ("scanner", SCANNER)
    baseline = q.context.baselines.get(f"windows.{part}", {}).get(SCANNER)
    golden = baseline if baseline is not None else _published(q, side)
    if golden is None:
        limits, reason = Limits(), "nothing to compare with: no accepted baseline, no published value"
    else:
        warn, fail = (0.01 * share * golden for share in COINCIDENCE_PERCENT) if side is None else EDGE_KEV
        limits = Limits(golden - fail, golden - warn, golden + warn, golden + fail)
        reason = ""
        if baseline is None:
            limits = replace(limits, fail_low=None, fail_high=None)
            reason = f"published for this kind of scanner: {golden:g} {unit}"
    found = q.judge(
        "windows", where, value, unit, 0.0, 0, limits=limits, part=part, method="as configured", reason=reason or None
    )
    return found if baseline is None else replace(found, baseline=baseline)


def _published(q: QcInput, side: int | None) -> float | None:
    reference = q.context.reference
    if reference is None:
        return None
    if side is None:
        return reference.number("coincidence_window_ns")
    quoted = reference.values.get("energy_window_kev")
    return float(quoted.value[side]) if quoted is not None and isinstance(quoted.value, list) else None
