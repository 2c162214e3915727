"""Analysis while frames come: a queue of its own behind the recorder's, and a thread that fills the histograms.

The recorder hands on what it has recorded and never waits. Where the analysis cannot follow, whole blocks of frames are
left out of it and counted: the recording has them, and what counts is made from the recording then. So a busy machine
costs time, and never a frame or a number.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from petqcd.acquisition import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from petqc.calibration import CalibrationSet
    from petqc.channel_map import Topology
    from petqc.formats.petsys_raw import RawReader
    from petqc.histograms import QcHistograms
    from petqc.processing import Processed, ProcessingAccount, ProcessingSettings

    Look = Callable[[Topology], Callable[[Processed], None]]

log = logging.getLogger(__name__)


class Counting:
    """Frames, processed and counted; the same frames give the same counts however they come.

    Args:
        calibration: of the detector.
        settings: of the processing.
        trigger_id: the unit whose events are trigger records.
        look: given the channels, what is called with all that becomes final, beside the histograms.
    """

    def __init__(
        self,
        calibration: CalibrationSet,
        settings: ProcessingSettings,
        *,
        trigger_id: int | None = None,
        look: Look | None = None,
    ) -> None:
        from petqc.histograms import QcHistograms
        from petqc.processing import Processor

        self._processor = Processor(calibration, settings, trigger_id=trigger_id)
        self._look = None if look is None else look(calibration.topology)
        self.histograms = QcHistograms.of(calibration, settings)

    def feed(self, words: NDArray[np.uint64]) -> None:
        """Take whole frames."""
        self._add(self._processor.feed(words))

    def finish(self) -> None:
        """Decide what was still waiting for later frames."""
        self._add(self._processor.finish())

    def read(self, reader: RawReader) -> None:
        """Take everything in a recording, to its end."""
        from petqc.recorded import events_of

        notes: list[str] = []
        for processed in events_of(reader, self._processor, notes):
            self._add(processed)
        for note in notes:
            log.warning("%s", note)

    @property
    def account(self) -> ProcessingAccount:
        """Where everything went so far."""
        return self._processor.account

    def _add(self, processed: Processed) -> None:
        self.histograms.add(processed)
        if self._look is not None:
            self._look(processed)


class Live:
    """A counting that follows the recorder. `offer` is called from one thread; all else may be called from any.

    Args:
        counting: what is filled; nobody else may touch it before `finish`.
        count_frames: number of frames in an array of whole frames.
        queue_bytes: most that may wait.
    """

    def __init__(
        self, counting: Counting, count_frames: Callable[[NDArray[np.uint64]], int], *, queue_bytes: int
    ) -> None:
        self.counting = counting
        self._count_frames = count_frames
        self._frames = 0
        self._is_settled = True
        self._wanted = threading.Event()
        self._there = threading.Event()
        self._summed: tuple[QcHistograms, float] | None = None
        self.counts: dict[str, int] = {}
        self._pipeline = Pipeline(
            self, None, count_frames, queue_bytes=queue_bytes, on_failure=self._failed, name="live analysis"
        )
        self._is_started = False

    @property
    def frames_left_out(self) -> int:
        """Frames that were recorded and are not in the counting."""
        return self._pipeline.counts().frames_dropped

    @property
    def is_whole(self) -> bool:
        """Whether every frame that was offered is in the counting; known once it is finished."""
        return self._is_settled and self.frames_left_out == 0 and self._pipeline.failure is None

    def offer(self, words: NDArray[np.uint64]) -> None:
        """Take whole frames, which nobody changes any more; never waits."""
        if not self._is_started:
            self._is_started = True
            self._pipeline.start()
        self._pipeline.sink(words)

    def finish(self, deadline_s: float) -> None:
        """Count what waits and end the thread; after the deadline the rest is left out. May be called again."""
        self._is_settled &= self._pipeline.finish(deadline_s)
        self._there.set()

    def summed(self, deadline_s: float) -> tuple[QcHistograms, float] | None:
        """Sums of what was counted until now, and its live time in s; None: there is nothing new."""
        self._there.clear()
        self._wanted.set()
        self._there.wait(deadline_s)
        found, self._summed = self._summed, None
        return found

    # -- in the thread ------------------------------------------------------------------------------------------------

    @property
    def frames_recorded(self) -> int:
        """Frames counted; the name is the pipeline's."""
        return self._frames

    def write(self, words: NDArray[np.uint64]) -> None:
        """Count whole frames."""
        self.counting.feed(words)
        self._frames += self._count_frames(words)
        account = self.counting.account
        self.counts = {
            "frames": account.frames,
            "hits": account.hits,
            "singles": account.singles,
            "prompts": account.prompts,
        }
        if self._wanted.is_set():
            self._wanted.clear()
            self._summed = self.counting.histograms.summed(), account.live_time_s
            self._there.set()

    def _failed(self, error: BaseException) -> None:
        log.warning("the live analysis ended (%s); the verdict will be made from the recording", error)
