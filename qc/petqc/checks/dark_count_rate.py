"""Dark counts of the SiPMs: they double every 9 K, rise with the overvoltage, and with what radiation does to cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.dark_counts import DOUBLING_K, FALLBACK, REFERENCE_DEGC
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput


@check(
    "dark_count_rate",
    title="Dark count rate",
    unit="kHz",
    levels=("scanner", "module", "channel"),
    order=200,
    data=("dark",),
    relative={"module": Limits(warn_high=25.0, fail_high=100.0)},
    source="formula: staircase of dark counts, daily-qc.md §2h; brought to 20 degC with a doubling every 9 K (8 to 10 "
    "K are in the uncertainty): §2h; limits: daily-qc.md §5.2, row dark rate (+25 %, x2); fault F06, §3",
)
def dark_count_rate(q: DarkInput) -> CheckOutput:
    """Median rate of dark counts of one cell and more of a module's channels, at 20 degC if a temperature is known."""
    factor, factor_error = q.to_reference()
    known = np.isfinite(factor)
    is_corrected = bool(known.all())
    if not is_corrected:
        factor, factor_error = np.ones(known.size), np.zeros(known.size)
    value, error = q.dark.rate_hz * factor / 1000.0, q.dark.rate_error_hz * factor / 1000.0
    method = "steps of dark counts"
    method += f", at {REFERENCE_DEGC:g} degC" if is_corrected else ", at the temperature of the run: no sensor tells it"
    common = float(np.max(factor_error / factor)) if is_corrected else 0.0
    results = q.medians("dark_count_rate", "kHz", value, common=common, method=method)
    reason = np.where(q.dark.is_fallback, FALLBACK, np.where(np.isfinite(value), "", q.dark.reason)).astype(object)
    notes = (
        [] if is_corrected else [f"Dark count rates are not brought to one temperature: {DOUBLING_K:g} K double them."]
    )
    column = q.column("dark_count_rate", "kHz", value, error, reason=reason)
    return CheckOutput(results, column, [q.dark.picture] if q.dark.picture is not None else [], notes)
