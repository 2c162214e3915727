"""The daily run: bias on, acquire for a while, bias off, analyse with every check."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from petqcd import clock
from petqcd.config import DailyConfig
from petqcd.kinds import run_kind
from petqcd.procedure import PROGRESS_EVERY_S, Procedure

if TYPE_CHECKING:
    from petqc.analysis import RunContext
    from petqc.results import RawFile, Run
    from petqcd.procedure import Bench, Job


@run_kind("daily", title="daily QC", settings=DailyConfig)
class DailyRun(Procedure):
    """The procedure of the daily run; settings: [qc.daily]."""

    def __init__(self, job: Job, bench: Bench) -> None:
        from petqcd.measurement import Measurement

        super().__init__(job, bench)
        assert isinstance(job.settings, DailyConfig)  # noqa: S101 - as registered above; for the type checker
        self._settings = job.settings
        self._measurement = Measurement(job.folder, job.board_config, calibration_ids=job.calibration_ids)
        self._measurement.keep_configuration()

    def prepare(self) -> None:
        """Compile or load the kernels."""
        self._measurement.warm_up()

    async def at_board(self) -> None:
        """Let frames flow for the configured time, or until something fails."""
        await self.at_bias_on(self._settings.settle_s)
        reference = await self.board.time_reference()
        await asyncio.to_thread(self._measurement.open_recording, reference, self.job.about())
        recorder = self._measurement
        async with self.flow(recorder, recorder.process, queue_mib=self._settings.queue_mib) as flow:
            end_s = self._started_s + self._settings.seconds
            while (left_s := end_s - clock.monotonic_s()) > 0:
                await flow.wait(min(left_s, PROGRESS_EVERY_S))
                self._acquiring(end_s)

    def finalise(self, *, truncated: str | None) -> None:
        """Finalise the recording, and decide what was still waiting for later frames."""
        self._measurement.close_recording(truncated=truncated)
        if truncated is None:
            self._measurement.finish()

    def conclude(self, context: RunContext) -> Run:
        """Every check."""
        return self._measurement.analyse(context)

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

    def _acquiring(self, end_s: float) -> None:
        first, last = self.stages["acquire"][0], self.stages["off"][0]
        left_s = max(end_s - clock.monotonic_s(), 0.0)
        part = 1.0 - left_s / self._settings.seconds
        self.tell("acquire", first + part * (last - first), f"{left_s:.0f} s left", self._measurement.counts())
