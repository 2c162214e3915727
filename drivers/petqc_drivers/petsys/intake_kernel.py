"""The frames of many datagrams, looked at and joined at once: compiled, as a full link brings ten thousands a second.

Loaded when an acquisition begins and not before: what switches off must not wait for a compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numba
import numpy as np

from petqc_drivers.petsys.frames import COUNT_MASK, FRAME_ID_MODULO, ID_MASK, LOST_MASK, SIZE_SHIFT
from petqc_drivers.petsys.wire import DATA_MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

TALLY: Final = (
    "datagrams",
    "bytes",
    "frames_received",
    "events",
    "gaps",
    "frames_missing",
    "frames_lost_by_board",
    "frames_partly_lost_by_board",
)
"""What `gather` counts, in this order."""
DATAGRAMS, BYTES, FRAMES, EVENTS, GAPS, MISSING, LOST, PARTLY_LOST = range(len(TALLY))
WORDS, FIRST, LAST = range(3)
"""Places in the span of what it took."""


def _gather(
    slots: NDArray[np.uint64],
    marks: NDArray[np.uint8],
    sizes: NDArray[np.uint32],
    flags: NDArray[np.int32],
    senders: NDArray[np.uint64],
    begin: int,
    end: int,
    peer: int,
    due: int,
    is_first: bool,  # noqa: FBT001
    most: int,
    out: NDArray[np.uint64],
    used: int,
    enough: int,
    span: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> int:
    """Join datagrams as long as each is whole frames from end to end, every frame after the one before.

    Args:
        slots: (k, m) where they lie, each from word 1 on.
        marks: (k,) the byte in front of each.
        sizes: (k,) bytes of each, with that one.
        flags: (k,) what the system says of it; 0 if nothing.
        senders: (k,) who sent it.
        begin: First of them to look at.
        end: Behind the last.
        peer: Who must have sent it.
        due: Id of the frame that should come next; of the oldest that may come, if none came yet.
        is_first: None came yet.
        most: A frame further ahead than this is not believed.
        out: Where they go; m words of room behind `enough`.
        used: From this word on.
        enough: Words in `out` at which no further datagram is begun.
        span: (3,) out, words taken, first and last frame; these two only if any were taken.
        tally: (len(TALLY),) what is in those taken is added to it.

    Returns:
        How many datagrams were taken; the next one, if any, was left as it is.
    """
    span[:] = 0
    expected, place = np.int64(due), np.int64(used)
    for i in range(begin, end):
        size = np.int64(sizes[i])
        n_words = (size - 1) // 8
        if place >= enough or senders[i] != np.uint64(peer) or flags[i] != 0 or marks[i] != DATA_MARK:
            return i - begin
        if size < 17 or 8 * n_words != size - 1:
            return i - begin
        words = slots[i]
        frames = gaps = missing = events = lost = partly_lost = np.int64(0)
        first = last = np.int64(0)
        here, stop = expected, n_words + 1
        at = np.int64(1)
        while at < stop:
            if at + 2 > stop:
                return i - begin
            head, second = words[np.uint64(at)], words[np.uint64(at + 1)]
            n = np.int64(second & COUNT_MASK)
            if np.int64((head >> SIZE_SHIFT) & COUNT_MASK) != n + 2 or at + n + 2 > stop:
                return i - begin
            frame = np.int64(head & ID_MASK)
            ahead = (frame - here) & np.int64(FRAME_ID_MODULO - 1)
            if ahead >= most:
                return i - begin
            if frames == 0:
                first = frame
                if is_first and i == begin:
                    ahead = np.int64(0)
            if ahead > 0:
                gaps += 1
                missing += ahead
            if (second & LOST_MASK) != np.uint64(0):
                if n == 0:
                    lost += 1
                else:
                    partly_lost += 1
            events += n
            frames += 1
            last = frame
            here = (frame + 1) & np.int64(FRAME_ID_MODULO - 1)
            at += n + 2
        for k in range(n_words):
            out[np.uint64(place + k)] = words[np.uint64(k + 1)]
        place += n_words
        expected = here
        if i == begin:
            span[FIRST] = first
        span[LAST] = last
        span[WORDS] += n_words
        tally[DATAGRAMS] += 1
        tally[BYTES] += size
        tally[FRAMES] += frames
        tally[EVENTS] += events
        tally[GAPS] += gaps
        tally[MISSING] += missing
        tally[LOST] += lost
        tally[PARTLY_LOST] += partly_lost
    return end - begin


gather = cast("Callable[..., int]", cast("Any", numba.njit(cache=True, nogil=True))(_gather))
