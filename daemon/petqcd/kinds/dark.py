"""The dark run: dark counts against the T1 threshold at the working voltage; no source, no operator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from petqcd.config import DarkScanConfig
from petqcd.dark_scan import DarkScan
from petqcd.kinds import run_kind

if TYPE_CHECKING:
    from petqc.analysis import RunContext
    from petqc.results import Run
    from petqcd.procedure import Bench, Job


@run_kind("dark", title="dark counts", settings=DarkScanConfig)
class DarkRun(DarkScan):
    """The scan, and every check of dark counts; settings: [qc.dark]."""

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench, (1.0,))

    def prepare(self) -> None:
        """Load the checks."""
        import petqc.dark_counts  # noqa: F401 - it takes its time

    def conclude(self, context: RunContext) -> Run:
        """Every check of dark counts."""
        from petqc.calibrate.conclude import topology_of
        from petqc.dark_counts import analyse_dark

        points, thresholds = self.counted()
        config = self.job.board_config
        topology = topology_of(config, self.all_channels())
        return analyse_dark(points, thresholds, topology, replace(context, reference=config.petqc.scanner))
