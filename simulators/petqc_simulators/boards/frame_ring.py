"""The ring of frames as the daemon shares it: slots of a fixed size in one shared-memory object, pointers outside.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.5 to 2.8.
"""

from __future__ import annotations

import mmap
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.daqd_ring import SHARED_MEMORY_FOLDER
from petqc_drivers.petsys.daqd_wire import (
    POINTER_MODULO,
    RING_BYTES,
    RING_SLOTS,
    SLOT_WORDS,
    Pointers,
    check_shared_memory_name,
)
from petqc_drivers.petsys.frames import FRAME_ID_MODULO, frame_event_counts, frame_ids

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.physics.blocks import Block


@dataclass(slots=True)
class RingAccount:
    """What became of the frames of one acquisition.

    Attributes:
        frames_written: put into the ring.
        frames_before_minimum: older than the minimum frame, not put into it.
        frames_dropped: came while it was full.
        frames_released: taken by a client.
        frames_released_valid: those of them that are not older than the minimum frame.
        events_released: in these.
        crc32: of their words in order, as bytes.
    """

    frames_written: int = 0
    frames_before_minimum: int = 0
    frames_dropped: int = 0
    frames_released: int = 0
    frames_released_valid: int = 0
    events_released: int = 0
    crc32: int = 0


class FrameRing:
    """Creates the shared-memory object, which must not exist yet, and removes it in the end.

    Attributes:
        name: of the object.
        write, read: pointers, modulo twice the number of slots.
        minimum_frame: frames before it are not taken.
        accounts: one per acquisition.

    Raises:
        FileExistsError: the object exists: another daemon runs, or one was killed.
    """

    def __init__(self, name: str, folder: Path = SHARED_MEMORY_FOLDER) -> None:
        self.name = check_shared_memory_name(name)
        self._path = folder / name[1:]
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o660)
        try:
            os.ftruncate(descriptor, RING_BYTES)
            self._map = mmap.mmap(descriptor, RING_BYTES)
        except BaseException:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)
        self.words: NDArray[np.uint64] = np.frombuffer(self._map, dtype=np.uint64)
        self.write = self.read = 0
        self.minimum_frame = 0
        self.accounts: list[RingAccount] = []

    def close(self) -> None:
        """Remove the object."""
        del self.words
        self._map.close()
        self._path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Pointers back to 0; the slots keep what they hold."""
        self.write = self.read = 0

    def begin(self) -> None:
        """A new acquisition."""
        self.clear()
        self.minimum_frame = 0
        self.accounts.append(RingAccount())

    @property
    def waiting(self) -> int:
        """Slots from read to write; more than there are if a client set a read pointer that is none."""
        return (self.write - self.read) % POINTER_MODULO

    def put(self, block: Block) -> None:
        """Put the frames of a block into free slots; those that find none are dropped."""
        account, starts = self.accounts[-1], block.starts
        n_all = starts.size - 1
        ids = frame_ids(block.words, starts[:-1])
        # Behind the minimum by less than half the range of frame ids is older, whatever the wrap.
        first = int(np.count_nonzero((ids - self.minimum_frame) % FRAME_ID_MODULO >= FRAME_ID_MODULO // 2))
        account.frames_before_minimum += first
        n = min(n_all - first, max(RING_SLOTS - self.waiting, 0))
        account.frames_dropped += n_all - first - n
        if n <= 0:
            return
        begin, end = int(starts[first]), int(starts[first + n])
        slots = (self.write + np.arange(n)) % RING_SLOTS
        sizes = np.diff(starts[first : first + n + 1])
        places = np.repeat(slots * SLOT_WORDS - starts[first : first + n], sizes) + np.arange(begin, end)
        self.words[places] = block.words[begin:end]
        account.frames_written += n
        self.write = (self.write + n) % POINTER_MODULO

    def release(self, pointer: int) -> None:
        """Take a new read pointer, whatever it is, and account for the frames before it."""
        count = (pointer - self.read) % POINTER_MODULO
        if self.accounts and count <= self.waiting <= RING_SLOTS:
            self._account(self.accounts[-1], count)
        self.read = pointer

    def _account(self, account: RingAccount, count: int) -> None:
        places = (self.read + np.arange(count)) % RING_SLOTS * SLOT_WORDS
        account.frames_released += count
        ids = frame_ids(self.words, places)
        places = places[(ids - self.minimum_frame) % FRAME_ID_MODULO < FRAME_ID_MODULO // 2]
        counts = frame_event_counts(self.words, places)
        account.frames_released_valid += len(places)
        account.events_released += int(counts.sum())
        sizes = counts + 2
        indices = np.repeat(places - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        account.crc32 = zlib.crc32(self.words[indices].astype("<u8", copy=False).tobytes(), account.crc32)

    def pointers(self, *, is_acquiring: bool) -> Pointers:
        """State as a client is told."""
        return Pointers(self.write, self.read, is_acquiring)
