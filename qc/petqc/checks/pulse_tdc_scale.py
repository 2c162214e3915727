"""Scale of the time interpolators against the calibration in use: temperature and supply voltage move it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import CheckOutput
    from petqc.test_pulse import PulseInput


@check(
    "pulse_tdc_scale",
    title="TDC scale with test pulses",
    unit="%",
    levels=("scanner", "module", "channel"),
    order=210,
    data=("test-pulse",),
    limits={"module": Limits(-1.0, -0.3, 0.3, 1.0), "channel": Limits(-3.0, -1.5, 1.5, 3.0)},
    source="fault F12: daily-qc.md §3; formula: slope of the calibrated time's error against the interval, weighted "
    "least squares; limits: daily-qc.md §5.2, row TDC scale (0.3 %, 1 %); single channels: three times the module's, "
    "petqc's own choice",
)
def pulse_tdc_scale(q: PulseInput) -> CheckOutput:
    """How much longer an interval is measured than it is, median of channels; and channels further out than noise."""
    return q.measured(
        "pulse_tdc_scale", "%", q.test.scale, q.test.scale_error, method="test pulses at phases of one clock"
    )
