"""A channel times its hits with four buffers in turn; one that is off makes a side peak of a quarter of the hits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import CheckOutput
    from petqc.test_pulse import PulseInput


@check(
    "pulse_tac_offset",
    title="Time of one buffer of four",
    unit="ps",
    levels=("scanner", "module", "channel"),
    order=212,
    data=("test-pulse",),
    limits={"module": Limits(warn_high=40.0, fail_high=150.0), "channel": Limits(warn_high=40.0, fail_high=150.0)},
    source="fault F13: daily-qc.md §3 (one buffer of four is off by 50 to 500 ps); formula: mean calibrated time of "
    "each buffer against the median of the four; limits: daily-qc.md §5.2, row offset of a crystal (40 ps, 150 ps)",
)
def pulse_tac_offset(q: PulseInput) -> CheckOutput:
    """Largest distance of a buffer from the median of its channel's four, median of channels; and single channels."""
    return q.measured(
        "pulse_tac_offset", "ps", q.test.tac_ps, q.test.tac_error, method="test pulses, calibrated times by buffer"
    )
