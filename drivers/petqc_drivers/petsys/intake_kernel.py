"""The frames of a datagram, looked at once: compiled, because a full link brings tens of thousands of them a second.

Loaded when an acquisition begins and not before: what switches off must not wait for a compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numba
import numpy as np

from petqc_drivers.petsys.frames import COUNT_MASK, FRAME_ID_MODULO, ID_MASK, LOST_MASK, SIZE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FRAMES, FIRST, LAST, GAPS, MISSING, EVENTS, LOST, PARTLY_LOST = range(8)
N_SEEN = 8
"""Places in what `examine` says."""


def _examine(
    words: NDArray[np.uint64],
    begin: int,
    n_words: int,
    due: int,
    is_first: bool,  # noqa: FBT001
    most: int,
    seen: NDArray[np.int64],
) -> bool:
    """Look at the frames of one datagram.

    Args:
        words: where it lies.
        begin: its first word there.
        n_words: its length.
        due: id of the frame that should come next; of the oldest that may come, if none came yet.
        is_first: none came yet.
        most: a frame further ahead than this is not believed.
        seen: (N_SEEN,) out.

    Returns:
        Whether it is whole frames from end to end, each after the one before. If not, seen says nothing.
    """
    seen[:] = 0
    end = begin + n_words
    at = np.int64(begin)
    expected = np.int64(due)
    while at < end:
        if at + 2 > end:
            return False
        head, second = words[np.uint64(at)], words[np.uint64(at + 1)]
        size = np.int64((head >> SIZE_SHIFT) & COUNT_MASK)
        n = np.int64(second & COUNT_MASK)
        frame = np.int64(head & ID_MASK)
        if size != n + 2 or at + size > end:
            return False
        ahead = (frame - expected) & np.int64(FRAME_ID_MODULO - 1)
        if ahead >= most:
            return False
        if seen[FRAMES] == 0:
            seen[FIRST] = frame
            if is_first:
                ahead = np.int64(0)
        if ahead > 0:
            seen[GAPS] += 1
            seen[MISSING] += ahead
        if (second & LOST_MASK) != np.uint64(0):
            seen[LOST if n == 0 else PARTLY_LOST] += 1
        seen[EVENTS] += n
        seen[FRAMES] += 1
        seen[LAST] = frame
        expected = (frame + 1) & np.int64(FRAME_ID_MODULO - 1)
        at += size
    return bool(seen[FRAMES] > 0)


examine = cast("Callable[..., bool]", cast("Any", numba.njit(cache=True, nogil=True))(_examine))
