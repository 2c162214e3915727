"""From frames that flow to the points of a scan: the events of a span of frames, each word once, with its count."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.calibrate import EventPoint
from petqc.formats.petsys_frames import FRAME_ID_BITS
from petqc.jit import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_MODULO = 1 << FRAME_ID_BITS
_ID = np.uint64(_MODULO - 1)
_FIFTEEN_BITS = np.uint64(0x7FFF)
_HALF = 1 << (FRAME_ID_BITS - 1)
_FRAMES, _IN_SPAN, _EVENTS, _LAST, _PAST, _N = 0, 1, 2, 3, 4, 5
MOST_HELD = 1 << 21
"""Words of one point that are held before they are counted, so that memory is bounded whatever comes."""


@kernel
def take_events(
    words: NDArray[np.uint64], first: int, span: int, out: NDArray[np.uint64], result: NDArray[np.int64]
) -> None:
    """Events of the frames `first` to `first + span - 1`; frame ids wrap.

    Args:
        words: (n,) uint64, whole frames.
        first: first frame id of the span.
        span: how many frames; 0 takes none.
        out: (n,) uint64, filled from the beginning.
        result: (5,) int64, filled: frames, frames in the span, events taken, last frame id, 1 if frames at or past the
            last one of the span came.
    """
    frames, inside, taken, past = 0, 0, 0, 0
    last, at = np.int64(-1), np.int64(0)
    while at + 2 <= words.size:
        frame = np.int64(words[at] & _ID)
        n = np.int64(words[at + 1] & _FIFTEEN_BITS)
        ahead = (frame - first) % _MODULO
        if ahead >= _HALF:
            ahead -= _MODULO
        if span > 0 and ahead >= span - 1:
            past = 1
        if 0 <= ahead < span:
            inside += 1
            for i in range(at + 2, at + 2 + n):
                out[taken] = words[i]
                taken += 1
        frames += 1
        last = frame
        at += 2 + n
    result[0], result[1], result[2], result[3], result[4] = frames, inside, taken, last, past


@dataclass(frozen=True, slots=True)
class TakenPoint:
    """A point that is complete. frames: of its span that came. first_frame, last_frame: ids of the span."""

    point: EventPoint
    frames: int
    events: int
    first_frame: int
    last_frame: int


class PointCollector:
    """Takes whole frames in order, from one worker thread; `begin` is called from another.

    Args:
        done: called from the worker thread with each point, once its last frame came.
    """

    def __init__(self, done: Callable[[TakenPoint], None]) -> None:
        self._done = done
        self._lock = threading.Lock()
        self._seen = -1
        self._first = self._span = 0
        self._step = (0.0, 0.0)
        self._held: list[NDArray[np.uint64]] = []
        self._words = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._n_held = self._frames = self._events = 0
        self.frames_recorded = 0
        """Frames that came, whether or not they belong to a point."""

    def begin(self, step1: float, step2: float, first_frame: int, frames: int) -> None:
        """Begin a point: the next `frames` frames from `first_frame` on, or from the next one if that is past."""
        with self._lock:
            if self._seen >= 0 and (self._seen + 1 - first_frame) % _MODULO < _HALF:
                first_frame = (self._seen + 1) % _MODULO
            self._first, self._span, self._step = first_frame, frames, (step1, step2)
            self._held, self._n_held, self._frames, self._events = [], 0, 0, 0
            self._words, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    def write(self, words: NDArray[np.uint64]) -> None:
        """Take whole frames."""
        finished: TakenPoint | None = None
        with self._lock:
            out, result = np.empty(words.size, np.uint64), np.zeros(_N, np.int64)
            take_events(words, self._first, self._span, out, result)
            self.frames_recorded += int(result[_FRAMES])
            if result[_FRAMES]:
                self._seen = int(result[_LAST])
            taken = int(result[_EVENTS])
            if taken:
                self._held.append(out[:taken].copy())
                self._n_held += taken
            self._frames += int(result[_IN_SPAN])
            self._events += taken
            if self._n_held > MOST_HELD or result[_PAST]:
                self._count()
            if result[_PAST]:
                point = EventPoint(*self._step, self._words, self._counts.astype(np.int32))
                last = (self._first + self._span - 1) % _MODULO
                finished = TakenPoint(point, self._frames, self._events, self._first, last)
                self._span = 0
        if finished is not None:
            self._done(finished)

    def _count(self) -> None:
        new, counts = np.unique(np.concatenate([*self._held, np.empty(0, np.uint64)]), return_counts=True)
        words, at = np.unique(np.concatenate([self._words, new]), return_inverse=True)
        both = np.concatenate([self._counts, counts])
        self._counts = np.bincount(at, both, words.size).astype(np.int64)
        self._words, self._held, self._n_held = words, [], 0


def warm_up() -> None:
    """Compile, or load, the kernel."""
    take_events(np.zeros(2, np.uint64), 0, 1, np.empty(2, np.uint64), np.zeros(_N, np.int64))
