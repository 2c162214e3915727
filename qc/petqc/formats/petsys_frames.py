"""The words of PETsys raw data: file header, frame header, event word, index line.

Source: PETsys sw_daq_tofpet2 revision 194662e: frame layout, event word, raw file header, index line.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HEADER_BYTES = 64
WORD_BYTES = 8
FRAME_ID_BITS = 36
FRAME_ID_MASK = (1 << FRAME_ID_BITS) - 1
FRAME_SIZE_MASK = 0x7FFF
N_EVENTS_MASK = 0x7FFF
LOST_MASK = 0x18000
LOST_BIT = 1 << 16
MAX_FRAME_WORDS = FRAME_SIZE_MASK
CLOCKS_PER_FRAME = 1024

WHOLE, INCOMPLETE, IMPOSSIBLE = 0, 1, 2
"""How a walk over frames ended: at the end of the words, inside a frame, at words that are no frame."""

USED, FRAMES, EVENTS, FIRST_ID, LAST_ID, ENDED, N_WALK = 0, 1, 2, 3, 4, 5, 6
"""Positions in the result of petsys_kernels.walk_frames; first and last id are -1 without a frame."""

(
    S_LAST_ID,
    S_LAST_TYPE,
    S_FIRST_ID,
    S_FRAMES_IN,
    S_FRAMES_WRITTEN,
    S_EVENTS,
    S_FRAMES_LOST,
    S_FRAMES_PARTLY_LOST,
    S_OUT_OF_ORDER,
    N_STATE,
) = range(10)
"""Positions in the state of petsys_kernels.store_frames."""

NO_FRAME_YET = -2
TYPE_DATA, TYPE_EMPTY, TYPE_LOST = 0, 1, 2

_QDC_BIT = 1 << 32
_TRIGGER_FLAG = 0x8000
_LAYOUT = struct.Struct("<QdQQQQQQ")


@dataclass(frozen=True, slots=True)
class RawHeader:
    """The 64 bytes in front of a .rawf file.

    sync_epoch_s: Unix time of the synchronisation. trigger_id: the unit whose hits are trigger records, None for no
    such unit. mixed: channels differ in mode and a .modf file says how. created_time_tag: clocks at file creation.
    """

    frequency_hz: int = 200_000_000
    all_charge: bool = False
    sync_epoch_s: float = 0.0
    trigger_id: int | None = None
    mixed: bool = False
    created_time_tag: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.frequency_hz < 1 << 32:
            raise BadInputError(f"clock frequency {self.frequency_hz} Hz is not a 32-bit number above 0")
        if self.trigger_id is not None and not 0 <= self.trigger_id < 1 << 10:
            raise BadInputError(f"trigger id {self.trigger_id} is outside 0..1023")
        if not math.isfinite(self.sync_epoch_s):
            raise BadInputError(f"synchronisation time {self.sync_epoch_s} is not a number")
        if not 0 <= self.created_time_tag < 1 << 64:
            raise BadInputError(f"time tag {self.created_time_tag} is not a 64-bit number")

    def to_bytes(self) -> bytes:
        """The header as it stands in the file."""
        return _LAYOUT.pack(
            self.frequency_hz | (_QDC_BIT if self.all_charge else 0),
            self.sync_epoch_s,
            0 if self.trigger_id is None else _TRIGGER_FLAG + self.trigger_id,
            int(self.mixed),
            self.created_time_tag,
            0,
            0,
            0,
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str | None = None) -> RawHeader:
        """Read a header.

        Raises:
            BadInputError: fewer than 64 bytes, or values that no header has.
        """
        if len(data) < HEADER_BYTES:
            raise BadInputError(
                f"the file header needs {HEADER_BYTES} bytes and there are {len(data)}",
                where=where,
                do="the recording ended before it began: there is nothing in it",
            )
        first, epoch, trigger, mixed, time_tag, *_ = _LAYOUT.unpack(data[:HEADER_BYTES])
        if first >> 33 or trigger >> 16 or (trigger and not trigger & _TRIGGER_FLAG) or mixed > 1:
            raise BadInputError(
                f"not a raw data header: words 0, 2, 3 are {first:#x}, {trigger:#x}, {mixed:#x}",
                where=f"{where or 'header'} byte 0",
                do="check that this is a .rawf file",
            )
        try:
            return cls(
                frequency_hz=first & 0xFFFFFFFF,
                all_charge=bool(first & _QDC_BIT),
                sync_epoch_s=epoch,
                trigger_id=trigger & 0x7FFF if trigger else None,
                mixed=bool(mixed),
                created_time_tag=time_tag,
            )
        except BadInputError as error:
            raise BadInputError(f"not a raw data header: {error.what}", where=f"{where or 'header'} byte 0") from error


@dataclass(frozen=True, slots=True)
class RawStep:
    """One line of the index: bytes [begin, end) of the file, first and last frame id (both inside the step)."""

    begin: int
    end: int
    first_frame: int
    last_frame: int
    step1: float = 0.0
    step2: float = 0.0

    def to_line(self) -> str:
        """The line of the .idxf file."""
        return f"{self.begin}\t{self.end}\t{self.first_frame}\t{self.last_frame}\t{self.step1:.6f}\t{self.step2:.6f}\n"

    @classmethod
    def from_line(cls, line: str) -> RawStep:
        """Read a line of the .idxf file; ValueError if it is none."""
        begin, end, first, last, step1, step2 = line.split()
        step = cls(int(begin), int(end), int(first), int(last), float(step1), float(step2))
        if not HEADER_BYTES <= step.begin <= step.end or (step.begin | step.end) % WORD_BYTES:
            raise ValueError(f"byte range {step.begin}..{step.end} is impossible")
        return step

    @property
    def frames(self) -> int:
        """Frames the step lasted, stored or not."""
        return max(0, self.last_frame - self.first_frame + 1)


def pack_frame(
    frame_id: int, events: Sequence[int] | NDArray[np.uint64] = (), *, lost: bool = False
) -> NDArray[np.uint64]:
    """One frame as it stands in the ring and in the file: (2 + n,) uint64."""
    n = len(events)
    if n + 2 > MAX_FRAME_WORDS:
        raise BadInputError(f"a frame cannot hold {n} events", do=f"at most {MAX_FRAME_WORDS - 2}")
    frame = np.empty(n + 2, np.uint64)
    frame[0] = (n + 2) << FRAME_ID_BITS | (frame_id & FRAME_ID_MASK)
    frame[1] = n | (LOST_BIT if lost else 0)
    frame[2:] = events
    return frame
