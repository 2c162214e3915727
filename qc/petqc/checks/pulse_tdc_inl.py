"""What a straight line leaves of the error of calibrated times: the curve of the interpolator is another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import CheckOutput
    from petqc.test_pulse import PulseInput


@check(
    "pulse_tdc_inl",
    title="TDC linearity with test pulses",
    unit="ps",
    levels=("scanner", "module", "channel"),
    order=211,
    data=("test-pulse",),
    limits={"module": Limits(warn_high=25.0, fail_high=100.0), "channel": Limits(warn_high=25.0, fail_high=100.0)},
    source="fault F12: daily-qc.md §3 (INL pattern in time differences); formula: rms of the calibrated time around a "
    "straight line of the interval; limits: those of the time calibration itself (25 ps, 100 ps)",
)
def pulse_tdc_inl(q: PulseInput) -> CheckOutput:
    """Rms error of calibrated times over one clock beyond scale and delay, median of channels; and single channels."""
    return q.measured(
        "pulse_tdc_inl", "ps", q.test.inl_ps, q.test.inl_error, method="test pulses at phases of one clock"
    )
