"""Blocks that are simulated once and repeated with new frame ids, for streams faster than photons can be followed.

Everything that reads frames sees a stream like any other, at a rate that the full simulation does not reach in real
time. What it is not: new decays. Whatever is measured over more than one turn has the statistics of one turn only, and
at the seam between two turns a channel may fire within its dead time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.frames import FRAME_ID_BITS, FRAME_ID_MODULO
from petqc_simulators.physics.blocks import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.physics.detector import Detector

_NO_ID = ~np.uint64((1 << FRAME_ID_BITS) - 1)


class Repetition:
    """A detector whose blocks repeat once `turn` of them are there; it is simulated in full whenever anything changes.

    Args:
        detector: what is seen.
        turn: how many blocks; 0: nothing is ever repeated.

    Attributes:
        blocks_repeated: how many blocks that were given were no new ones.
    """

    def __init__(self, detector: Detector, turn: int) -> None:
        self._detector = detector
        self._turn = turn
        self._kept: list[Block] = []
        self._place = 0
        self.blocks_repeated = 0

    def advance(self) -> Block:
        """The next block."""
        detector = self._detector
        if not self._turn:
            return detector.advance()
        if not detector.is_steady:
            self._kept, self._place = [], 0
            return detector.advance()
        if len(self._kept) < self._turn:
            self._kept.append(detector.advance())
            return self._kept[-1]
        block = self._kept[self._place]
        self._place = (self._place + 1) % self._turn
        self.blocks_repeated += 1
        first = detector.pass_over(block.words.size - 2 * (block.starts.size - 1))
        return Block(first, _with_ids(block, first), block.starts)


def _with_ids(block: Block, first: int) -> NDArray[np.uint64]:
    """Its words as those of a later block."""
    words = block.words.copy()
    heads = block.starts[:-1]
    ids = (words[heads] & ~_NO_ID).astype(np.int64) + (first - block.first_frame)
    words[heads] = words[heads] & _NO_ID | (ids % FRAME_ID_MODULO).astype(np.uint64)
    return words
