"""Bias calibration: dark counts against the T1 threshold at several voltages; no source, no light.

The highest voltage is the working one unless the settings say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from petqcd import resume
from petqcd.config import BiasScanConfig
from petqcd.dark_scan import DarkScan, plan_document
from petqcd.kinds import run_kind
from petqcd.point_scan import CalibrationScan

if TYPE_CHECKING:
    from petqc.calibrate import Calibration
    from petqcd.procedure import Bench, Job


class BiasScanSettings(BiasScanConfig):
    """Settings of one run."""

    resume: Annotated[str, Field(max_length=100)] = ""
    """Run that was interrupted and is to be continued, or `last`."""


@run_kind("calibrate-bias", title="bias calibration", settings=BiasScanSettings)
class BiasCalibration(DarkScan, CalibrationScan):
    """The scan, and the fit of `petqc.calibrate.bias`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self.settings = _settings(job)
        for table in ("bias_map", "bias_settings"):
            job.board_config.require(table)  # better now than once everything was counted
        super().__init__(job, bench, self.settings.overvoltage_shares)

    @classmethod
    def refuse(cls, job: Job) -> None:
        """Refuse to continue what cannot be continued, before the run is claimed."""
        settings = _settings(job)
        resume.continued(job, plan_document(settings, settings.overvoltage_shares))

    def prepare(self) -> None:
        """Load the fit."""
        import petqc.calibrate.bias  # noqa: F401 - it takes its time

    def inputs(self) -> dict[str, Any]:
        """The same, and how far an output's voltage may change."""
        return {**super().inputs(), "largest_change_v": self.settings.largest_change_v}

    def calibration(self) -> Calibration:
        """Breakdown voltage of every output."""
        from petqc.calibrate.bias import fit_gain
        from petqc.calibrate.bias_outputs import outputs_of_channels

        points, thresholds = self.counted()
        config = self.job.board_config
        return fit_gain(
            points,
            thresholds,
            outputs_of_channels(config.require("bias_map")),
            config.require("bias_settings"),
            largest_change_v=self.settings.largest_change_v,
        )


def _settings(job: Job) -> BiasScanSettings:
    assert isinstance(job.settings, BiasScanSettings)  # noqa: S101 - the model that this kind registers
    return job.settings
