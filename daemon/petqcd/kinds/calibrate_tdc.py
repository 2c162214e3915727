"""TDC calibration: test pulses at many phases of the clock, time over threshold, bias off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.kinds import run_kind
from petqcd.pulse_scan import PulseCalibration, PulsePoint, PulseScanSettings, Scan, chosen_plan
from petqcd.readout.board import AsicPlan, Pulses

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.calibrate import Calibration, EventPoint
    from petqcd.config import PulseScanConfig


@run_kind("calibrate-tdc", title="TDC calibration", settings=PulseScanSettings, needs_bias=False)
class TdcCalibration(PulseCalibration):
    """The scan and the fit of `petqc.calibrate.tdc`."""

    @classmethod
    def scan(cls, settings: PulseScanConfig) -> Scan:
        """Phases over the clock; step 1 is the phase."""
        from petqc.calibrate.tdc import VENDOR_PLAN, TdcPlan

        plan = chosen_plan(settings, TdcPlan(), VENDOR_PLAN)
        points = [
            PulsePoint(pulses.phase_clk, 0.0, pulses)
            for phase in plan.points()
            for pulses in [Pulses.at(plan.length_clk, plan.interval_clk, phase)]
        ]
        return Scan(AsicPlan("tot"), points, plan.frames_per_point)

    def fit(self, points: Sequence[EventPoint], channels: NDArray[np.int32]) -> Calibration:
        """Curves of the interpolators."""
        from petqc.calibrate.tdc import fit

        return fit(points, channels)
