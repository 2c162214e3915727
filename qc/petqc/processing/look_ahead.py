"""Decoding in a thread of its own, ahead of whoever takes the hits, also from one call to the next."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from petqc.processing.pipeline import Columns

    Decode = Callable[[NDArray[np.uint64], int, int, Columns], int]
    Walk = Callable[[NDArray[np.uint64]], Iterator[tuple[int, int]]]


class _Words(NamedTuple):
    """Words whose frames are gone through, and the blocks of them that are still to come."""

    words: NDArray[np.uint64]
    blocks: Iterator[tuple[int, int]]


class _End(NamedTuple):
    """All blocks of the words that were given first are decoded."""


class LookAhead:
    """Blocks of hits in the order of the words that were given; a few are decoded before they are asked for.

    Words are read until their last block was taken, and must not change before.

    Args:
        walk: goes through words in blocks, and tells frames and hits of each.
        decode: decodes such a block into columns, which are empty; what it gives, it tells of the block.
        rooms: columns for the blocks that wait.
    """

    def __init__(self, walk: Walk, decode: Decode, rooms: tuple[Columns, ...]) -> None:
        self._walk, self._decode = walk, decode
        self._free = list(rooms)
        self._words: deque[_Words] = deque()
        self._coming: deque[tuple[Columns, Future[int | _End | None]]] = deque()
        self._given = self._taken = 0
        self._thread = ThreadPoolExecutor(1, "petqc-decode")

    def give(self, words: NDArray[np.uint64]) -> None:
        """More words, behind those that were given before."""
        self._words.append(_Words(words, self._walk(words)))
        self._given += 1
        self._begin()

    def take(self, waiting: int) -> Iterator[tuple[Columns, int]]:
        """Blocks, until no more than so many of the given arrays of words have blocks left.

        Each is the caller's until the next one is asked for.

        Raises:
            BadInputError: as the walk does.
        """
        while self._given - self._taken > waiting:
            self._begin()
            hits, decoding = self._coming.popleft()
            found = decoding.result()
            if isinstance(found, int):
                yield hits, found
            self._taken += isinstance(found, _End)
            self._free.append(hits)
        self._begin()

    def _begin(self) -> None:
        """Decode as far ahead as there is room."""
        while self._free and (self._words or not self._coming):
            into = self._free.pop()
            self._coming.append((into, self._thread.submit(self._next, into)))

    def _next(self, into: Columns) -> int | _End | None:
        """Runs in the thread, one at a time."""
        if not self._words:
            return None
        words, blocks = self._words[0]
        for n_frames, n_hits in blocks:
            into.n = 0
            return self._decode(words, n_frames, n_hits, into)
        self._words.popleft()
        return _End()
