"""The frames of a recording as they were on the wire: block after block, with ids that go on from any number.

Of a run of empty or lost frames a recording has only the first; the others are put back, so that empty stays empty and
lost stays lost. Nothing else is added, and after the last frame there is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.formats.petsys_frames import (
    CLOCKS_PER_FRAME,
    FRAME_ID_BITS,
    FRAME_ID_MASK,
    FRAME_SIZE_MASK,
    LOST_BIT,
    LOST_MASK,
    N_EVENTS_MASK,
)
from petqc.formats.petsys_raw import RawReader
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S, Block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_ID: Final = np.uint64(FRAME_ID_MASK)
_SHIFT: Final = np.uint64(FRAME_ID_BITS)
_EMPTY_SIZE: Final = np.uint64(2 << FRAME_ID_BITS)
_READ_WORDS: Final = 1 << 17
FRAME_S: Final = BLOCK_S / BLOCK_FRAMES


@dataclass(frozen=True, slots=True)
class RecordingAccount:
    """What is in a recording. frames: of the wire, runs of empty ones in full. channels: rising absolute numbers."""

    frames: int
    hits: int
    channels: NDArray[np.int64]
    trigger_id: int | None
    all_charge: bool
    state: str

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.frames * CLOCKS_PER_FRAME * 5e-9


def account_of(path: Path) -> RecordingAccount:
    """Read a recording once.

    Raises:
        BadInputError: it is none.
    """
    with RawReader(path) as reader:
        trigger, hits, frames = reader.header.trigger_id, 0, 0
        seen = np.zeros(1 << 22, np.bool_)
        for words, starts, ids in _chunks(reader):
            is_event = np.ones(words.size, np.bool_)
            is_event[starts] = is_event[starts + 1] = False
            channels = (words[is_event] >> np.uint64(42)).astype(np.int64)
            seen[channels] = True
            hits += channels.size
            frames = max(frames, int(ids[-1]) + 1)
        return RecordingAccount(frames, hits, np.flatnonzero(seen), trigger, reader.header.all_charge, reader.state)


def _starts(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each frame begins; words are whole frames."""
    found, at = [], 0
    sizes = ((words >> _SHIFT) & np.uint64(FRAME_SIZE_MASK)).tolist()
    while at < len(sizes):
        found.append(at)
        at += sizes[at]
    return np.array(found, np.int64)


def _chunks(reader: RawReader) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
    """Words, beginnings of their frames, and the frames' numbers from 0 on; each step goes on where the last ended."""
    end = 0
    for step in range(len(reader.steps)):
        first, begin = None, end
        for words in reader.blocks(_READ_WORDS, step):
            starts = _starts(words)
            if not starts.size:
                continue
            ids = (words[starts] & _ID).astype(np.int64)
            if first is None:
                first = int(ids[0])
            # Numbers of late frames stay behind; the counter may wrap once.
            ids = (ids - first + (FRAME_ID_MASK + 1) // 2) % (FRAME_ID_MASK + 1) - (FRAME_ID_MASK + 1) // 2 + begin
            end = max(end, int(ids.max()) + 1)
            yield words, starts, ids


class RecordedFrames:
    """Gives blocks of BLOCK_FRAMES frames' time.

    Args:
        path: of the .rawf.

    Attributes:
        frames_given: of this turn.
        is_over: the end was reached.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: RawReader | None = None
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self.close()
        self.frames_given = 0
        self.is_over = False
        self._reader = RawReader(self._path)
        self._source = _chunks(self._reader)
        self._words, self._begins = np.empty(0, np.uint64), np.zeros(1, np.int64)
        self._ids = np.empty(0, np.int64)
        self._last_id, self._is_lost = -1, False
        self._ended = False

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def block(self, first_frame: int) -> Block:
        """The next block with ids from first_frame on; one without frames if there are no more."""
        until = self.frames_given + BLOCK_FRAMES
        while not self._ended and (not self._ids.size or int(self._ids[-1]) < until):
            self._read()
        # In the order of the file: a frame that came late is late again.
        n = int(np.argmax(self._ids >= until)) if (self._ids >= until).any() else self._ids.size
        words, begins, ids = self._words[: self._begins[n]], self._begins[: n + 1], self._ids[:n]
        upto = until if n < self._ids.size else min(until, int(ids.max(initial=self._last_id)) + 1)
        out, starts = self._filled(words, begins, ids, upto)
        heads = starts[:-1]
        moved = (out[heads] & _ID).astype(np.int64) + (first_frame - self.frames_given)
        out[heads] = (out[heads] & ~_ID) | (moved % (FRAME_ID_MASK + 1)).astype(np.uint64)
        self._words, self._begins = self._words[begins[-1] :], self._begins[n:] - begins[-1]
        self._ids = self._ids[n:]
        self.frames_given = until
        self.is_over = self._ended and not self._ids.size
        return Block(first_frame, out, starts)

    def _read(self) -> None:
        chunk = next(self._source, None)
        if chunk is None:
            self._ended = True
            return
        words, starts, ids = chunk
        self._begins = np.concatenate([self._begins[:-1], self._words.size + starts, [self._words.size + words.size]])
        self._words = np.concatenate([self._words, words])
        self._ids = np.concatenate([self._ids, ids])

    def _filled(
        self, words: NDArray[np.uint64], begins: NDArray[np.int64], ids: NDArray[np.int64], until: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Words and beginnings, with the empty and lost frames put back up to frame `until`."""
        pieces: list[NDArray[np.uint64]] = []
        sizes: list[NDArray[np.int64]] = []

        def put_back(first: int, end: int) -> None:
            first = max(first, self.frames_given)
            if end > first:
                gap = np.zeros(2 * (end - first), np.uint64)
                gap[::2] = _EMPTY_SIZE | np.arange(first, end).astype(np.uint64)
                gap[1::2] = LOST_BIT if self._is_lost else 0
                pieces.append(gap)
                sizes.append(np.full(end - first, 2, np.int64))

        starts = begins[:-1]
        counts = (words[starts + 1] & np.uint64(N_EVENTS_MASK)).astype(np.int64)
        lost = ((words[starts + 1] & np.uint64(LOST_MASK)) != 0) & (counts == 0)
        heads = words.copy()
        heads[starts] = (heads[starts] & ~_ID) | (ids & FRAME_ID_MASK).astype(np.uint64)
        # Only where an id does not follow the one before is there anything to put back.
        breaks = np.flatnonzero(np.diff(ids, prepend=-2) != 1)
        for begin, end in zip(breaks, [*breaks[1:], ids.size], strict=False):
            put_back(self._last_id + 1, int(ids[begin]))
            pieces.append(heads[begins[begin] : begins[end]])
            sizes.append(np.diff(begins[begin : end + 1]))
            if ids[end - 1] > self._last_id:
                self._last_id, self._is_lost = int(ids[end - 1]), bool(lost[end - 1])
        put_back(self._last_id + 1, until)
        if until > self._last_id + 1:
            self._last_id = until - 1
        out = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
        ends = np.cumsum(np.concatenate([[0], *sizes])).astype(np.int64)
        return out, ends
