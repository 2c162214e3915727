"""Frames on their way to the disk, and on to the histograms: a bounded queue and one worker thread of their own.

The driver's receive thread only appends to the queue and never waits. What does not fit is dropped whole and counted,
so that received = recorded + dropped, exactly. Recording comes first: what was recorded can be analysed again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

BATCH_WORDS = 1 << 18
"""Words handed on at once, 2 MiB: so many that the cost of a call does not count, so few that they stay in cache."""
STOP_DEADLINE_S = 20.0
"""For whatever waits in the queue when the acquisition ends."""


class FrameWriter(Protocol):
    """Where frames are recorded."""

    @property
    def frames_recorded(self) -> int:
        """Frames taken so far; those of a call that raised included if they were taken before it did."""

    def write(self, words: NDArray[np.uint64]) -> None:
        """Append whole frames."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What passed so far; every frame that came is among the taken or the dropped ones."""

    words_taken: int = 0
    words_done: int = 0
    frames_dropped: int = 0


class Pipeline:
    """Takes chunks of whole frames from the receive thread; a worker thread records and processes them in order.

    Args:
        writer: the recording.
        process: is handed one array of whole frames after it was recorded; None: nobody is.
        count_frames: number of frames in an array of whole frames.
        queue_bytes: most that may wait.
        on_failure: called once, from the worker thread, when recording or processing raised; later frames are dropped.
        name: of the worker.
        after: called by `finish` once the worker has ended, from the same thread.
    """

    def __init__(
        self,
        writer: FrameWriter,
        process: Callable[[NDArray[np.uint64]], None] | None,
        count_frames: Callable[[NDArray[np.uint64]], int],
        *,
        queue_bytes: int,
        on_failure: Callable[[BaseException], None],
        name: str = "recorder",
        after: Callable[[], None] | None = None,
    ) -> None:
        self._writer = writer
        self._process = process
        self._count_frames = count_frames
        self._queue_words = queue_bytes // 8
        self._on_failure = on_failure
        self._after = after
        self._queue: deque[NDArray[np.uint64]] = deque()
        self._waiting_words = 0
        self._ready = threading.Condition()
        self._ending = False
        self._is_late = False
        self._words_taken = self._words_done = self._frames_dropped = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def sink(self, words: NDArray[np.uint64]) -> None:
        """Take whole frames, which are ours from now on; called from the receive thread, never waits for anything."""
        with self._ready:
            if self.failure is not None or self._ending or self._waiting_words + words.size > self._queue_words:
                self._frames_dropped += self._count_frames(words)
                return
            self._words_taken += words.size
            self._waiting_words += words.size
            self._queue.append(words)
            self._ready.notify()

    def counts(self) -> Counts:
        """What passed so far."""
        with self._ready:
            return Counts(self._words_taken, self._words_done, self._frames_dropped)

    def finish(self, deadline_s: float = STOP_DEADLINE_S) -> bool:
        """Let the worker empty the queue and end it; False: the deadline came first and the rest was dropped.

        May be called again, and says the same.
        """
        try:
            return self._end(deadline_s)
        finally:
            if self._after is not None:
                self._after()

    def _end(self, deadline_s: float) -> bool:
        with self._ready:
            self._ending = True
            self._ready.notify()
        if self._thread.ident is None:
            return True
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._is_late = True
            with self._ready:
                self._drop_waiting()
            self._thread.join(deadline_s)
        return not self._is_late

    def _work(self) -> None:
        while True:
            batch = self._take()
            if batch is None:
                return
            before = self._writer.frames_recorded
            try:
                self._writer.write(batch)
                if self._process is not None:
                    self._process(batch)
            except BaseException as error:
                log.exception("the %s failed", self._thread.name)
                with self._ready:
                    self.failure = error
                    taken = self._writer.frames_recorded - before
                    self._frames_dropped += self._count_frames(batch) - taken
                    self._drop_waiting()
                self._on_failure(error)
                return
            with self._ready:
                self._words_done += batch.size

    def _take(self) -> NDArray[np.uint64] | None:
        with self._ready:
            while not self._queue:
                if self._ending:
                    return None
                self._ready.wait()
            chunks: list[NDArray[np.uint64]] = []
            size = 0
            while self._queue and (not chunks or size + self._queue[0].size <= BATCH_WORDS):
                chunk = self._queue.popleft()
                chunks.append(chunk)
                size += chunk.size
            self._waiting_words -= size
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _drop_waiting(self) -> None:
        for chunk in self._queue:
            self._words_taken -= chunk.size
            self._frames_dropped += self._count_frames(chunk)
        self._queue.clear()
        self._waiting_words = 0
