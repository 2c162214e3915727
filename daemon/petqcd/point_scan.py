"""A run that takes points, one after the other, each on the disk once it is taken; most of them calibrate.

What was taken survives an interruption, see `resume.py`. Scans of test pulses share more, see `pulse_scan.py`, and so
do scans of dark counts, see `dark_scan.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from petqcd import clock, resume
from petqcd.measurement import keep_configuration
from petqcd.procedure import PROGRESS_EVERY_S, Procedure

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from petqc.analysis import RunContext
    from petqc.calibrate import Calibration
    from petqc.formats.counter_points import CounterRecording
    from petqc.formats.petsys_calibration_raw import CalibrationRecording
    from petqc.results import RawFile, Run
    from petqcd.procedure import Bench, Job

CHANNELS_PER_ASIC = 64
COMMIT_EVERY_S = 1.0
"""How much a power failure may cost; a process that dies loses nothing but the point it was at."""


class PointScan(Procedure):
    """What scans of points have in common: the run they continue, progress, files, and how they end.

    Args:
        job: the run's job.
        bench: what it works with.
        plan: the document that says what the points are points of.
        channels: first and last channel of each ASIC.
    """

    stages: ClassVar[Mapping[str, tuple[float, str]]] = {
        "connect": (0.0, "connecting to the board and verifying its identity"),
        "configure": (0.01, "bias off, configuring and reading back"),
        "acquire": (0.04, "taking points"),
        "off": (0.9, "bias off"),
        "analyse": (0.92, "fitting"),
    }

    def __init__(self, job: Job, bench: Bench, plan: Mapping[str, Any], channels: tuple[int, int]) -> None:
        super().__init__(job, bench)
        self._plan = plan
        self._chosen = channels
        self._recording: CalibrationRecording | CounterRecording | None = None
        self._kept = resume.continued(job, plan)
        self._points_continued = 0
        self._committed_s = 0.0
        self._told_s = self._begun_s = 0.0
        keep_configuration(job.folder, job.board_config)

    @property
    @abstractmethod
    def n_points(self) -> int:
        """Points of the whole scan."""

    @property
    @abstractmethod
    def n_recorded(self) -> int:
        """Points that are on the disk."""

    def begin_points(self) -> int:
        """Begin to take points, behind those that are there already; how many those are."""
        self._points_continued = self.n_recorded
        self.stage("acquire")
        self._begun_s = clock.monotonic_s()
        return self._points_continued

    def tell_points(self, done: int, counts: Mapping[str, int] | None = None) -> None:
        """Tell how many points are there, not too often."""
        now_s = clock.monotonic_s()
        if now_s - self._told_s < PROGRESS_EVERY_S and done < self.n_points:
            return
        self._told_s = now_s
        first, last = self.stages["acquire"][0], self.stages["off"][0]
        left_s = (now_s - self._begun_s) / max(done - self._points_continued, 1) * (self.n_points - done)
        detail = f"{done:,} of {self.n_points:,} points, {left_s:.0f} s left"
        told = {"points_done": done, "points_total": self.n_points, **(counts or {})}
        self.tell("acquire", first + done / self.n_points * (last - first), detail, told)

    def is_time_to_commit(self) -> bool:
        """Whether what was taken should be synced to the disk now."""
        now_s = clock.monotonic_s()
        if now_s - self._committed_s <= COMMIT_EVERY_S:
            return False
        self._committed_s = now_s
        return True

    def finalise(self, *, truncated: str | None) -> None:
        """Sync and close the recording."""
        del truncated
        if self._recording is not None:
            self._recording.close()

    def raw_files(self) -> tuple[RawFile, ...]:
        """The points."""
        return resume.hashed(self.job.folder, resume.RECORDING)

    def notes(self, reason: str | None) -> list[str]:
        """How to go on, if it was interrupted."""
        found = [f"Continues run {self._kept.run_id}, which took {self._kept.points:,} points."] if self._kept else []
        if reason is not None and self.n_recorded and resume.can_be_continued(self.job.kind):
            found.append(resume.how_to_continue(self.job.kind, self.job.run_id, self.n_recorded, self.n_points))
        return found

    def channels(self) -> NDArray[np.int32]:
        """Those that are calibrated."""
        low, high = self._chosen
        found = self.all_channels()
        place = found % CHANNELS_PER_ASIC
        return found[(place >= low) & (place <= high)]


class CalibrationScan(PointScan):
    """A scan that ends with a calibration set."""

    @abstractmethod
    def calibration(self) -> Calibration:
        """What the points on the disk say.

        Raises:
            DaemonError: points are missing.
        """

    def inputs(self) -> dict[str, Any]:
        """How many points a whole scan has, and of which channels."""
        return {
            "points": self.n_points,
            "channels": self.all_channels().tolist(),
            "calibrated": self.channels().tolist(),
        }

    def conclude(self, context: RunContext) -> Run:
        """Fit, judge, and write the calibration set."""
        from petqcd.calibration_run import conclude

        return conclude(self.job, context, self.calibration(), self.all_channels())
