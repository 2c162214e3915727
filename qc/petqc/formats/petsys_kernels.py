"""Compiled walks over raw frames: where whole frames end, and what the vendor's writer would store of them.

Source: PETsys sw_daq_tofpet2 revision 194662e, frame layout and file writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.formats.petsys_frames import (
    ENDED,
    EVENTS,
    FIRST_ID,
    FRAMES,
    IMPOSSIBLE,
    INCOMPLETE,
    LAST_ID,
    NO_FRAME_YET,
    S_EVENTS,
    S_FIRST_ID,
    S_FRAMES_IN,
    S_FRAMES_LOST,
    S_FRAMES_PARTLY_LOST,
    S_FRAMES_WRITTEN,
    S_LAST_ID,
    S_LAST_TYPE,
    S_OUT_OF_ORDER,
    TYPE_DATA,
    TYPE_EMPTY,
    TYPE_LOST,
    USED,
    WHOLE,
)
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIFT = np.uint64(36)
_ID = np.uint64((1 << 36) - 1)
_FIFTEEN_BITS = np.uint64(0x7FFF)
_LOST = np.uint64(0x18000)
_LOST_BIT = np.uint64(1 << 16)
_TWO = np.uint64(2)
_ZERO = np.uint64(0)


@kernel
def walk_frames(words: NDArray[np.uint64], result: NDArray[np.int64]) -> None:
    """Walk over whole frames from the first word on.

    Args:
        words: (n,) uint64, beginning with a frame.
        result: (6,) int64, filled: words in whole frames, frames, events, first and last frame id, how it ended.
    """
    n = words.size
    at = np.int64(0)
    frames = 0
    events = np.int64(0)
    first = np.int64(-1)
    last = np.int64(-1)
    ended = WHOLE
    while at < n:
        if at + 2 > n:
            # One word is enough to see that it cannot become a frame.
            ended = INCOMPLETE if np.int64((words[at] >> _SHIFT) & _FIFTEEN_BITS) >= 2 else IMPOSSIBLE
            break
        size = np.int64((words[at] >> _SHIFT) & _FIFTEEN_BITS)
        n_events = np.int64(words[at + 1] & _FIFTEEN_BITS)
        if size != n_events + 2:
            ended = IMPOSSIBLE
            break
        if at + size > n:
            ended = INCOMPLETE
            break
        last = np.int64(words[at] & _ID)
        if first < 0:
            first = last
        frames += 1
        events += n_events
        at += size
    result[USED] = at
    result[FRAMES] = frames
    result[EVENTS] = events
    result[FIRST_ID] = first
    result[LAST_ID] = last
    result[ENDED] = ended


@kernel
def store_frames(
    words: NDArray[np.uint64],
    begin: int,
    out: NDArray[np.uint64],
    fill: int,
    limit: int,
    compacted: bool,  # noqa: FBT001 - a kernel takes no keywords
    state: NDArray[np.int64],
    result: NDArray[np.int64],
) -> None:
    """Copy frames to out as the vendor's writer stores them, until out holds limit words or the frames end.

    Of a run of empty frames and of a run of empty lost frames only the first is stored. A jump in ids first stores
    a lost frame with the first missing id; after it an empty frame counts as the run's second, as it does for the
    vendor.

    Args:
        words: (n,) uint64, whole frames from `begin` on.
        begin: where to start.
        out: (m,) uint64, m >= limit + 32767 + 2.
        fill: words that out already holds.
        limit: stop when out holds so many.
        compacted: the frames come from a file: store them as they are.
        state: (N_STATE,) int64, carried from call to call; S_LAST_ID NO_FRAME_YET at the start of a step.
        result: (3,) int64, filled: where the next frame starts, words now in out, how the walk ended.
    """
    n = words.size
    at = np.int64(begin)
    filled = np.int64(fill)
    ended = WHOLE
    while at < n and filled < limit:
        if at + 2 > n:
            ended = INCOMPLETE
            break
        size = np.int64((words[at] >> _SHIFT) & _FIFTEEN_BITS)
        lost_bits = words[at + 1] & _LOST
        n_events = np.int64(words[at + 1] & _FIFTEEN_BITS)
        if size != n_events + 2:
            ended = IMPOSSIBLE
            break
        if at + size > n:
            ended = INCOMPLETE
            break
        frame_id = np.int64(words[at] & _ID)
        last_id = state[S_LAST_ID]
        if last_id == NO_FRAME_YET:
            state[S_FIRST_ID] = frame_id
        elif frame_id <= last_id:
            state[S_OUT_OF_ORDER] += 1
        elif frame_id != last_id + 1:
            if compacted:
                if state[S_LAST_TYPE] == TYPE_LOST:
                    state[S_FRAMES_LOST] += frame_id - last_id - 1
            else:
                out[filled] = (_TWO << _SHIFT) | np.uint64(last_id + 1)
                out[filled + 1] = _LOST_BIT
                filled += 2
                state[S_FRAMES_LOST] += frame_id - last_id - 1
                state[S_FRAMES_WRITTEN] += 1
                state[S_LAST_TYPE] = TYPE_EMPTY
        state[S_LAST_ID] = frame_id
        state[S_FRAMES_IN] += 1
        state[S_EVENTS] += n_events
        frame_type = TYPE_DATA
        if lost_bits != _ZERO:
            if n_events == 0:
                frame_type = TYPE_LOST
                state[S_FRAMES_LOST] += 1
            else:
                state[S_FRAMES_PARTLY_LOST] += 1
        elif n_events == 0:
            frame_type = TYPE_EMPTY
        if compacted or frame_type == TYPE_DATA or frame_type != state[S_LAST_TYPE]:
            for k in range(size):
                out[filled + k] = words[at + k]
            filled += size
            state[S_FRAMES_WRITTEN] += 1
        state[S_LAST_TYPE] = frame_type
        at += size
    result[0] = at
    result[1] = filled
    result[2] = ended
