"""A run with a source and bias on: frames flow into a recording and through the processing for a while.

The QC with a source is one; calibrations that need light (energy, time offsets) are others.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from petqcd import clock
from petqcd.config import SourceRunConfig
from petqcd.procedure import PROGRESS_EVERY_S, Procedure, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from petqc.analysis import RunContext
    from petqc.results import RawFile, Spectrum
    from petqcd.measurement import Measurement
    from petqcd.procedure import Bench, Job

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_PAUSE = 10.0
"""Times as long as a look took, until the next one."""


class SourceRun(Procedure):
    """What a kind adds: `conclude`, and where the plain one is not right, `measurement` and `is_enough`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench)
        assert isinstance(job.settings, SourceRunConfig)  # noqa: S101 - what source runs register; for the type checker
        self._settings = job.settings
        self._measurement = self.measurement()
        self._measurement.keep_configuration()

    def measurement(self, **own: Any) -> Measurement:
        """Recording, processing and histograms of the run; own: what a kind has otherwise, see Measurement."""
        from petqcd.measurement import Measurement

        return Measurement(
            self.job.folder,
            self.job.board_config,
            calibration_ids=self.job.calibration_ids,
            live_queue_mib=self._settings.live_queue_mib,
            **own,
        )

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
        await self.at_disk(self._measurement.open_recording, reference, self.job.about())
        recorder = self._measurement
        queue_mib = self._settings.queue_mib
        async with (
            self.flow(recorder, recorder.process, queue_mib=queue_mib, after=recorder.settle) as flow,
            self._looking(),
        ):
            while (left_s := self.run_clock.left_s(self._settings.seconds)) > 0 and not self.is_enough():
                await flow.wait(min(left_s, PROGRESS_EVERY_S))
                await self.run_clock.read()
                self._acquiring()

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        """Look at what was counted so far again and again, until the block ends."""
        looking = asyncio.create_task(self._look(), name="look at what was counted so far")
        try:
            yield
        finally:
            await settled(looking, cancel=True)

    async def _look(self) -> None:
        context = self.looked_at()
        while True:
            begun_s = clock.monotonic_s()
            try:
                await asyncio.to_thread(self._measurement.look, context)
            except Exception:
                log.exception("figures of the run that goes on; there will be no more of them")
                return
            # Fits of a large scanner take their time, which frames need more than people do.
            await asyncio.sleep(max(LOOK_EVERY_S, _PAUSE * (clock.monotonic_s() - begun_s)))

    def looked_at(self) -> RunContext:
        """What figures of the run that goes on depend on."""
        from petqc.analysis import RunContext

        source, _ = self.job.config.source
        return RunContext(self.job.run_id, self.job.kind, simulated=self.job.config.is_simulated, source=source)

    def finalise(self, *, truncated: str | None) -> None:
        """Finalise the recording, and decide what was still waiting for later frames, or read it again."""
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

    @property
    def frames_not_analysed_live(self) -> int:
        """Frames recorded that the analysis left out while they came."""
        return self._measurement.frames_not_analysed_live

    def spectra_so_far(self) -> Sequence[Spectrum]:
        """Energy and time differences of the whole scanner."""
        return self._measurement.spectra_so_far

    def notes(self, reason: str | None) -> list[str]:
        """That the machine was too busy to analyse while frames came, if it was."""
        remark = self._measurement.remark(is_cut=reason is not None)
        return [remark] if remark else []

    def _acquiring(self) -> None:
        first, last = self.stages["acquire"][0], self.stages["off"][0]
        left_s = self.run_clock.left_s(self._settings.seconds)
        part, m = 1.0 - left_s / self._settings.seconds, self._measurement
        self.tell("acquire", first + part * (last - first), f"{left_s:.0f} s left", m.counts(), m.so_far)
