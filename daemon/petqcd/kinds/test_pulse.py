"""The test-pulse run: the readout's own pulses through every channel, held against the calibration in use; bias off."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from petqcd.config import PulseTestConfig
from petqcd.kinds import run_kind
from petqcd.pulse_scan import PulsePoint, PulseScan, Scan
from petqcd.readout.board import AsicPlan, Pulses

if TYPE_CHECKING:
    from petqc.analysis import RunContext
    from petqc.results import Run
    from petqc.test_pulse import PulsePlan
    from petqcd.config import PulseScanConfig
    from petqcd.procedure import Bench, Job


@run_kind("test-pulse", title="test pulses", settings=PulseTestConfig, needs_bias=False)
class PulseTestRun(PulseScan):
    """The scan, and every check of test pulses; settings: [qc.test-pulse]."""

    def __init__(self, job: Job, bench: Bench) -> None:
        for table in ("tdc", "qdc"):
            job.board_config.require(table)  # better now than once everything was pulsed
        super().__init__(job, bench)

    @classmethod
    def scan(cls, settings: PulseScanConfig) -> Scan:
        """Phases, lengths, one train at a higher rate; steps: length, phase. ASICs as for the charge calibration."""
        from petqc.calibrate.charge import CHANNEL_FIELDS, GLOBAL_FIELDS

        plan = _plan(settings)
        points = [
            PulsePoint(p.length_clk, pulses.phase_clk, pulses)
            for p in plan.pulses()
            for pulses in [Pulses.at(p.length_clk, p.interval_clk, p.phase_clk)]
        ]
        return Scan(AsicPlan("qdc", GLOBAL_FIELDS, CHANNEL_FIELDS), points, plan.frames_per_point)

    def conclude(self, context: RunContext) -> Run:
        """Every check of test pulses."""
        from petqc.calibrate.conclude import topology_of
        from petqc.test_pulse import PulsedPoint, analyse_test_pulse

        config = self.job.board_config
        pulses = _plan(self.settings).pulses()
        points = [
            PulsedPoint(pulses[number % len(pulses)], self.channels_of(number), frames, events)
            for number, (events, frames) in enumerate(zip(self.points(), self.frames_taken, strict=True))
        ]
        topology = topology_of(config, self.all_channels())
        context = replace(context, reference=config.petqc.scanner)
        return analyse_test_pulse(points, config.require("tdc"), config.require("qdc"), topology, context)

    def inputs(self) -> dict[str, Any]:
        """The trains of pulses, the channels of each group, and how many frames came of each point."""
        pulses = _plan(self.settings).pulses()
        return {
            "pulses": [asdict(pulse) for pulse in pulses],
            "groups": [self.channels_of(first).tolist() for first in range(0, self.n_points, len(pulses))],
            "frames": list(self.frames_taken),
            "channels": self.all_channels().tolist(),
        }


def _plan(settings: PulseScanConfig) -> PulsePlan:
    from petqc.test_pulse import PulsePlan

    plan = PulsePlan()
    return plan if settings.hits_per_tac is None else replace(plan, hits_per_tac=settings.hits_per_tac)
