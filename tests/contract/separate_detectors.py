"""Boards with a detector each behind one daemon: their frames joined by id, as the maker's daemon joins its ports'.

Real scanners have one source, so simulated ones have one detector; where a test wants boards that know nothing of each
other, it joins their frames with this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_drivers.petsys.frames import pack_frames
from petqc_simulators.physics.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESS_SHIFT = np.uint64(42 + 12)
_MOST_PENDING = 64


def merge_blocks(blocks: Mapping[tuple[int, int], Block]) -> Block:
    """One block of frames from blocks of several units with the same frame ids, with their addresses in the events."""
    ids, frames_of, events = [], [], []
    for (port, slave), block in blocks.items():
        is_event = np.ones(block.words.size, np.bool_)
        heads = block.starts[:-1]
        is_event[heads] = is_event[heads + 1] = False
        own_ids = (block.words[heads] & np.uint64((1 << 36) - 1)).astype(np.int64)
        ids.append(own_ids)
        frames_of.append(np.repeat(own_ids, np.diff(block.starts) - 2))
        events.append(block.words[is_event] | np.uint64(port << 5 | slave) << _ADDRESS_SHIFT)
    all_ids, frame_of = np.unique(np.concatenate(ids)), np.concatenate(frames_of)
    order = np.argsort(frame_of, kind="stable")
    counts = np.bincount(np.searchsorted(all_ids, frame_of), minlength=all_ids.size)
    words = pack_frames(all_ids, counts, np.concatenate(events)[order])
    starts = np.concatenate(([0], np.cumsum(counts + 2)))
    return Block(min(block.first_frame for block in blocks.values()), words, starts)


class JoinedFrames:
    """Gives the frames of several units; a block is whole once each unit that sends has given its part."""

    def __init__(self, units: Mapping[tuple[int, int], Any]) -> None:
        self._units = {address: unit for address, unit in units.items() if hasattr(unit, "advance_blocks")}
        self._pending: dict[int, dict[tuple[int, int], Block]] = {}

    def __call__(self) -> list[Block]:
        sending = 0
        for address, unit in self._units.items():
            for block in unit.advance_blocks():
                self._pending.setdefault(block.first_frame, {})[address] = block
            sending += unit.is_streaming
        whole = [first for first in sorted(self._pending) if len(self._pending[first]) >= sending]
        blocks = [merge_blocks(self._pending.pop(first)) for first in whole]
        while len(self._pending) > _MOST_PENDING:  # units that are not synchronised never give the same block
            del self._pending[min(self._pending)]
        return blocks
