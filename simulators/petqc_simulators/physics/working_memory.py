"""Memory that a detector uses again from block to block: deposits, hits, their words, and what channels remember."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_FRAMES
from petqc_simulators.physics.crystal import DEPOSIT_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class WorkingMemory:
    """Of one detector; times are clocks since the first frame of the next block."""

    deposits: NDArray[np.float64]
    n_deposits: int
    hits_f: NDArray[np.float64]
    hits_i: NDArray[np.int64]
    words: NDArray[np.uint64]
    n_hits: int
    state_f: NDArray[np.float64]
    state_i: NDArray[np.int64]
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BLOCK_FRAMES + 1, np.int64))

    @classmethod
    def empty(cls, channels: int) -> WorkingMemory:
        """Nothing in it yet; hits of so many channels."""
        rows = 8192
        return cls(
            deposits=np.empty((rows, DEPOSIT_COLUMNS)),
            n_deposits=0,
            hits_f=np.empty((rows, el.HIT_FLOATS)),
            hits_i=np.empty((rows, el.HIT_INTS), np.int64),
            words=np.empty(rows, np.uint64),
            n_hits=0,
            state_f=np.full((channels, el.STATE_FLOATS), -1e9),
            state_i=np.concatenate([np.full((channels, 1), -1), np.zeros((channels, 1))], axis=1).astype(np.int64),
        )

    def add_deposits(self, rows: int) -> NDArray[np.float64]:
        """New rows at the end of the deposits."""
        before, self.n_deposits = self.n_deposits, self.n_deposits + rows
        if self.n_deposits > self.deposits.shape[0]:
            larger = np.empty((2 * self.n_deposits, DEPOSIT_COLUMNS))
            larger[:before] = self.deposits[:before]
            self.deposits = larger
        return self.deposits[before : self.n_deposits]

    def make_room(self, rows: int) -> None:
        """For so many hits in all."""
        if rows <= self.hits_f.shape[0]:
            return
        n = self.n_hits
        hits_f, hits_i, words = self.hits_f[:n], self.hits_i[:n], self.words[:n]
        self.hits_f = np.empty((2 * rows, el.HIT_FLOATS))
        self.hits_i = np.empty((2 * rows, el.HIT_INTS), np.int64)
        self.words = np.empty(2 * rows, np.uint64)
        self.hits_f[:n], self.hits_i[:n], self.words[:n] = hits_f, hits_i, words
