"""The frame ring that the daemon shares with its clients: read only, every field of it taken for a lie until checked.

Words leave the mapping only through a copy by the kernel, which reports memory that is not there any more: it writes
them to a nameless file of our own. An access by the process itself would end it with a bus error if the object were cut
short in that moment. (Copying between processes does the same for twice the time.) The object is opened
by its path and not through `multiprocessing.shared_memory`, which removes the writer's object when a reader ends.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.6, 2.7 and 10.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc_drivers.errors import ConnectError, LinkLostError
from petqc_drivers.petsys.daqd_wire import POINTER_MODULO, RING_BYTES, RING_SLOTS, SLOT_BYTES, SLOT_WORDS
from petqc_drivers.petsys.frames import COUNT_MASK, SIZE_SHIFT, FrameScan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_drivers.petsys.daqd_wire import SharedMemoryInfo

SHARED_MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where the system keeps POSIX shared memory
STEP_SLOTS: Final = RING_SLOTS // 2
"""Most that is taken at once, so that the writer always has room (2.6)."""
_HEAD_WORDS: Final = 2
_FIRST_WORDS: Final = 64
"""Of each slot at the first look: most frames whole. The kernel's price is per piece, whether of 16 bytes or of 512."""
_PIECES: Final = 1024
"""Most pieces of one copy (IOV_MAX)."""


def _kernel_copy() -> Any:
    function = ctypes.CDLL(None, use_errno=True).pwritev
    function.restype = ctypes.c_ssize_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    return function


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step took out of the ring.

    Attributes:
        slots: Slots that are done with, good or bad.
        n_bytes: Bytes of whole frames put into the room.
        scan: Where these frames are.
        rejected: Slots without a frame that can be believed, by reason.
    """

    slots: int
    n_bytes: int
    scan: FrameScan
    rejected: Counter[str]


class SharedRing:
    """The ring of a running daemon, mapped read only.

    Args:
        info: Name and slot size as the daemon announces them.
        device: Name of the daemon for messages.
        folder: Where shared memory is.

    Raises:
        ConnectError: If the object is not there, may not be read, or has not the layout of the ring.
    """

    def __init__(self, info: SharedMemoryInfo, *, device: str, folder: Path = SHARED_MEMORY_FOLDER) -> None:
        self._path = folder / info.name[1:]
        self._device = device
        if info.slot_bytes != SLOT_BYTES:
            raise ConnectError(
                f"the daemon's slots have {info.slot_bytes} bytes instead of {SLOT_BYTES}",
                device=device,
                do="use the daemon of the version this driver knows",
            )
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConnectError(
                f"the shared memory {self._path} that the daemon announces cannot be opened: {error.strerror}",
                device=device,
                do="was it removed by hand? restart the daemon, or join its group to be allowed to read",
            ) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != RING_BYTES:
                raise ConnectError(
                    f"the shared memory {self._path} has {found.st_size} bytes instead of {RING_BYTES}",
                    device=device,
                    do="left over from another version? end the daemon, remove the file, start the daemon again",
                )
            self._map = mmap.mmap(descriptor, RING_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise ConnectError(f"the shared memory {self._path} cannot be mapped: {error}", device=device) from error
        finally:
            os.close(descriptor)
        self._desk = os.memfd_create("petqc-ring", os.MFD_CLOEXEC)
        self._identity = (found.st_dev, found.st_ino)
        self._base = np.uint64(np.frombuffer(self._map, dtype=np.uint8).ctypes.data)
        self._copy_pieces = _kernel_copy()

    @property
    def is_current(self) -> bool:
        """Whether the name still leads to the object that is mapped, in its full size."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity and found.st_size == RING_BYTES

    def close(self) -> None:
        """Let go of the mapping."""
        self._map.close()
        if self._desk >= 0:
            os.close(self._desk)
            self._desk = -1

    def _copy(
        self,
        places: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
        out: NDArray[np.uint64],
        to: NDArray[np.int64] | None = None,
    ) -> None:
        """Copy pieces, (n,) first words and numbers of words, into `out`: back to back, or to words `to`."""
        pieces = np.empty((len(places), 2), dtype=np.uint64)
        pieces[:, 0] = self._base + np.uint64(8) * places
        pieces[:, 1] = np.uint64(8) * sizes
        lengths = sizes.astype(np.int64)
        ends, flat = np.cumsum(lengths), out.reshape(-1)
        for begin in range(0, len(pieces), _PIECES):
            part = pieces[begin : begin + _PIECES]
            n_bytes = int(part[:, 1].sum())
            done = self._copy_pieces(self._desk, part.ctypes.data, len(part), 0)
            if done != n_bytes:
                self._cannot_copy(ctypes.get_errno() if done < 0 else errno.EFAULT)
            here = slice(begin, begin + len(part))
            first = int(ends[begin] - lengths[begin])
            copied = np.empty(n_bytes // 8, np.uint64) if to is not None else flat[first : first + n_bytes // 8]
            if os.preadv(self._desk, [copied.data.cast("B")], 0) != n_bytes:
                raise AssertionError("what was written cannot be read")
            if to is not None:
                moved = to[here] - (ends[here] - lengths[here] - first)
                out[np.repeat(moved, lengths[here]) + np.arange(copied.size)] = copied

    def _cannot_copy(self, number: int) -> None:
        if number == errno.EFAULT:
            raise LinkLostError(
                f"the shared memory {self._path} was cut short while it was read",
                device=self._device,
                do="restart the daemon, then connect again",
            )
        raise LinkLostError(
            f"the shared memory could not be copied (pwritev: {os.strerror(number)})",
            device=self._device,
            do="is memory short? see what the machine has left",
        )

    def take(self, first: int, count: int, room: memoryview) -> Taken:
        """Copy the frames of slots into a room, as many slots as it holds, half the ring at most.

        The header of each slot is read with its frame and once more after it; if they differ the slot was being written
        and its frame is not believed.

        Args:
            first: Pointer of the first slot.
            count: How many slots may be read.
            room: At least one slot of writable bytes.

        Raises:
            LinkLostError: If the memory went away.
        """
        slots = (first + np.arange(min(max(count, 0), STEP_SLOTS))) % POINTER_MODULO % RING_SLOTS
        places = slots.astype(np.uint64) * np.uint64(SLOT_WORDS)
        words = np.frombuffer(room, dtype=np.uint64)
        looks = np.empty((len(slots), _FIRST_WORDS), dtype=np.uint64)
        self._copy(places, np.full(len(slots), _FIRST_WORDS, dtype=np.uint64), looks)
        sizes = (looks[:, 0] >> SIZE_SHIFT & COUNT_MASK).astype(np.int64)
        is_good = sizes == (looks[:, 1] & COUNT_MASK).astype(np.int64) + _HEAD_WORDS
        is_good &= sizes <= SLOT_WORDS
        ends = np.cumsum(np.where(is_good, sizes, 0))
        n_slots = int(np.searchsorted(ends, len(words), side="right"))
        is_good, rejected = is_good[:n_slots], Counter[str]()
        n_bad = n_slots - int(np.count_nonzero(is_good))
        if n_bad:
            rejected["slot-inconsistent"] = n_bad
        taken = np.flatnonzero(is_good)
        places, sizes = places[taken], sizes[taken]
        starts = np.cumsum(sizes) - sizes
        n_words = int(sizes.sum())
        seen = np.minimum(sizes, _FIRST_WORDS)
        seen_starts = np.cumsum(seen) - seen
        within = np.arange(int(seen.sum())) - np.repeat(seen_starts, seen)
        words[np.repeat(starts, seen) + within] = looks.ravel()[np.repeat(taken * _FIRST_WORDS, seen) + within]
        is_long = sizes > _FIRST_WORDS
        if is_long.any():
            rest = (sizes[is_long] - _FIRST_WORDS).astype(np.uint64)
            self._copy(places[is_long] + np.uint64(_FIRST_WORDS), rest, words, starts[is_long] + _FIRST_WORDS)
        is_whole = (self._heads(places) == looks[taken, :_HEAD_WORDS]).all(axis=1)
        if not is_whole.all():
            rejected["slot-torn"] = len(is_whole) - int(np.count_nonzero(is_whole))
            kept = words[:n_words][np.repeat(is_whole, sizes)]
            n_words = len(kept)
            words[:n_words] = kept
            sizes = sizes[is_whole]
            starts = np.cumsum(sizes) - sizes
        return Taken(n_slots, 8 * n_words, FrameScan(starts, n_words, 0, None), rejected)

    def _heads(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        heads = np.empty((len(places), _HEAD_WORDS), dtype=np.uint64)
        self._copy(places, np.full(len(places), _HEAD_WORDS, dtype=np.uint64), heads)
        return heads
