"""Gain of the charge integrators against the calibration in use: the photopeak moves by as much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import CheckOutput
    from petqc.test_pulse import PulseInput


@check(
    "pulse_charge_gain",
    title="Charge gain with test pulses",
    unit="%",
    levels=("scanner", "module", "channel"),
    order=213,
    data=("test-pulse",),
    limits={"module": Limits(-3.0, -1.0, 1.0, 3.0), "channel": Limits(-8.0, -3.0, 3.0, 8.0)},
    source="charge self-test: daily-qc.md §5.1, P1; formula: slope of the code's excess over the calibrated curve "
    "against the time integrated, in time; limits: daily-qc.md §5.2, row photopeak (block 1 % and 3 %, crystal 3 % "
    "and 8 %), which moves as much",
)
def pulse_charge_gain(q: PulseInput) -> CheckOutput:
    """How much more charge is measured than was integrated, median of channels; and channels further out than noise."""
    return q.measured("pulse_charge_gain", "%", q.test.gain, q.test.gain_error, method="test pulses of several lengths")
