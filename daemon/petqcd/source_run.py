"""A run with a source and bias on: frames flow into a recording and through the processing for a while.

The QC with a source is one; calibrations that need light (energy, time offsets) are others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from petqcd.config import SourceRunConfig
from petqcd.procedure import PROGRESS_EVERY_S, Procedure

if TYPE_CHECKING:
    from petqc.results import RawFile
    from petqcd.measurement import Measurement
    from petqcd.procedure import Bench, Job


class SourceRun(Procedure):
    """What a kind adds: `conclude`, and where the plain one is not right, `measurement` and `is_enough`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench)
        assert isinstance(job.settings, SourceRunConfig)  # noqa: S101 - what source runs register; for the type checker
        self._settings = job.settings
        self._measurement = self.measurement()
        self._measurement.keep_configuration()

    def measurement(self) -> Measurement:
        """Recording, processing and histograms of the run."""
        from petqcd.measurement import Measurement

        return Measurement(self.job.folder, self.job.board_config, calibration_ids=self.job.calibration_ids)

    def is_enough(self) -> bool:
        """Whether the data are enough before the time is over; asked a few times a second while frames are counted."""
        return False

    def prepare(self) -> None:
        """Compile or load the kernels."""
        self._measurement.warm_up()

    async def at_board(self) -> None:
        """Let frames flow for the configured time, until they are enough, or until something fails."""
        await self.at_bias_on(self._settings.settle_s)
        reference = await self.board.time_reference()
        await asyncio.to_thread(self._measurement.open_recording, reference, self.job.about())
        recorder = self._measurement
        async with self.flow(recorder, recorder.process, queue_mib=self._settings.queue_mib) as flow:
            while (left_s := self.run_clock.left_s(self._settings.seconds)) > 0 and not self.is_enough():
                await flow.wait(min(left_s, PROGRESS_EVERY_S))
                await self.run_clock.read()
                self._acquiring()

    def finalise(self, *, truncated: str | None) -> None:
        """Finalise the recording, and decide what was still waiting for later frames."""
        self._measurement.close_recording(truncated=truncated)
        if truncated is None:
            self._measurement.finish()

    @property
    def frames_kept(self) -> int:
        """Frames recorded."""
        return self._measurement.frames_recorded

    def raw_files(self) -> tuple[RawFile, ...]:
        """The recording."""
        return self._measurement.raw_files()

    def account(self) -> dict[str, int | float]:
        """The processing's account."""
        return self._measurement.account()

    @property
    def live_time_s(self) -> float | None:
        """Time covered by frames that were not lost."""
        return self._measurement.live_time_s

    def _acquiring(self) -> None:
        first, last = self.stages["acquire"][0], self.stages["off"][0]
        left_s = self.run_clock.left_s(self._settings.seconds)
        part = 1.0 - left_s / self._settings.seconds
        self.tell("acquire", first + part * (last - first), f"{left_s:.0f} s left", self._measurement.counts())
