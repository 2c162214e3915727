"""The frames of a datagram, looked at once: compiled, because a full link brings tens of thousands of them a second.

Loaded when an acquisition begins and not before: what switches off must not wait for a compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FRAMES, WORDS, FIRST, LAST, GAPS, MISSING, EVENTS, LOST, PARTLY_LOST = range(9)
N_SEEN = 9
"""Places in what `examine` says."""

_ID_MASK = (1 << 36) - 1
_HALF = 1 << 35


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
        size = np.int64((head >> np.uint64(36)) & np.uint64(0x7FFF))
        n = np.int64(second & np.uint64(0x7FFF))
        frame = np.int64(head & np.uint64(_ID_MASK))
        if size != n + 2 or at + size > end:
            return False
        ahead = (frame - expected) & np.int64(_ID_MASK)
        if ahead >= most:
            return False
        if seen[FRAMES] == 0:
            seen[FIRST] = frame
            if is_first:
                ahead = np.int64(0)
        if ahead > 0:
            seen[GAPS] += 1
            seen[MISSING] += ahead
        if (second & np.uint64(0x18000)) != np.uint64(0):
            seen[LOST if n == 0 else PARTLY_LOST] += 1
        seen[EVENTS] += n
        seen[FRAMES] += 1
        seen[LAST] = frame
        expected = (frame + 1) & np.int64(_ID_MASK)
        at += size
    seen[WORDS] = n_words
    return bool(seen[FRAMES] > 0)


examine = cast("Callable[..., bool]", cast("Any", numba.njit(cache=True, nogil=True))(_examine))
