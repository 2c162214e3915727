"""Baseline of the T1 discriminator with bias on, against its calibration: what it moved, thresholds moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput


@check(
    "t1_baseline",
    title="Baseline of T1 since its calibration",
    unit="codes",
    levels=("scanner", "module", "channel"),
    order=230,
    data=("dark",),
    limits={
        "module": Limits(warn_low=-1.0, warn_high=1.0),
        "channel": Limits(warn_low=-1.0, warn_high=1.0),
    },
    source="fault F16: daily-qc.md §3 (threshold drift or wrong setting); formula: where the steps of the dark counts "
    "begin; limit: one code, the least that a new threshold calibration can put right",
)
def t1_baseline(q: DarkInput) -> CheckOutput:
    """Codes that no photoelectron at all stands above the calibrated baseline; positive: a threshold is lower."""
    value, error = q.dark.shift, q.dark.shift_error
    results = q.medians("t1_baseline", "codes", value)
    status = q.channel_status("t1_baseline", value, error, 0.0)
    if np.isfinite(value).any():
        results.append(q.channels_outside("t1_baseline", status))
    return CheckOutput(results, q.column("t1_baseline", "codes", value, error, status))
