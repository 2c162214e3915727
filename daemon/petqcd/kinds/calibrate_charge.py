"""Charge calibration: test pulses of many lengths, charge mode with the full range of integration times, bias off."""

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


@run_kind("calibrate-charge", title="charge calibration", settings=PulseScanSettings, needs_bias=False)
class ChargeCalibration(PulseCalibration):
    """The scan and the fit of `petqc.calibrate.charge`, with the time calibration of the configuration in use."""

    @classmethod
    def scan(cls, settings: PulseScanConfig) -> Scan:
        """Lengths at some phases, sorted by phase, which the generator takes time to change; steps: length, phase."""
        from petqc.calibrate.charge import CHANNEL_FIELDS, GLOBAL_FIELDS, VENDOR_PLAN, ChargePlan

        plan = chosen_plan(settings, ChargePlan(), VENDOR_PLAN)
        points = [
            PulsePoint(length, pulses.phase_clk, pulses)
            for length, phase in sorted(plan.points(), key=lambda point: (point[1], point[0]))
            for pulses in [Pulses.at(length, plan.interval_clk, phase)]
        ]
        return Scan(AsicPlan("qdc", GLOBAL_FIELDS, CHANNEL_FIELDS), points, plan.frames_per_point)

    def fit(self, points: Sequence[EventPoint], channels: NDArray[np.int32]) -> Calibration:
        """Curves of the integrators."""
        from petqc.calibrate.charge import fit

        return fit(points, channels, self.job.board_config.require("tdc"))
