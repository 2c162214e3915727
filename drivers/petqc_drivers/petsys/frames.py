"""Frames and event words: 64-bit words in, columns out, and back.

A frame is two header words and n event words; a data datagram brings one or more whole frames (2.7, 3.5, 6.1).

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.2, 1.3, 2.7, 3.5, 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from petqc_drivers.petsys.wire import DATA_MARK, MAX_DATAGRAM_BYTES, WireError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOCK_HZ: Final = 200_000_000
CLOCKS_PER_FRAME: Final = 1024
FRAME_ID_BITS: Final = 36
FRAME_ID_MODULO: Final = 1 << FRAME_ID_BITS
FRAMES_PER_S: Final = CLOCK_HZ / CLOCKS_PER_FRAME
MAX_EVENTS: Final = (1 << 15) - 1 - 2
"""The 15-bit frame size counts the two header words too."""

ID_MASK: Final = np.uint64(FRAME_ID_MODULO - 1)
SIZE_SHIFT: Final = np.uint64(FRAME_ID_BITS)
COUNT_MASK: Final = np.uint64(0x7FFF)
LOST_MASK: Final = np.uint64(0x18000)
_LOST_BIT: Final = np.uint64(1 << 16)


def channel_number(port: int, slave: int, chip: int, channel: int) -> int:
    """Absolute channel number (1.2).

    Raises:
        WireError: If a part is out of range.
    """
    if not (0 <= port < 32 and 0 <= slave < 32 and 0 <= chip < 64 and 0 <= channel < 64):
        raise WireError(f"address {port}/{slave}/{chip}/{channel} out of range 32/32/64/64")
    return port << 17 | slave << 12 | chip << 6 | channel


class Events(NamedTuple):
    """Columns of event words, each (n,) int64; fine values as transmitted (6.1: decoded = (raw + 27) % 1024)."""

    channel: NDArray[np.int64]
    tac: NDArray[np.int64]
    tcoarse: NDArray[np.int64]
    ecoarse: NDArray[np.int64]
    tfine: NDArray[np.int64]
    efine: NDArray[np.int64]


_EVENT_FIELDS: Final = (("channel", 42, 22), ("tac", 40, 2), ("tcoarse", 30, 10), ("ecoarse", 20, 10))
_FINE_FIELDS: Final = (("tfine", 10, 10), ("efine", 0, 10))


def pack_events(events: Events) -> NDArray[np.uint64]:
    """Event words (n,) uint64 from columns.

    Raises:
        WireError: If a value does not fit its field or the columns differ in length.
    """
    words = np.zeros(len(events.channel), dtype=np.uint64)
    for name, shift, bits in _EVENT_FIELDS + _FINE_FIELDS:
        column = np.asarray(getattr(events, name), dtype=np.int64)
        if column.shape != words.shape:
            raise WireError(f"event column {name} has shape {column.shape} instead of {words.shape}")
        if column.size and (int(column.min()) < 0 or int(column.max()) >= 1 << bits):
            raise WireError(f"event column {name} does not fit {bits} bits")
        words |= column.astype(np.uint64) << np.uint64(shift)
    return words


def unpack_events(words: NDArray[np.uint64]) -> Events:
    """Columns of event words (n,) uint64."""
    return Events(
        *(
            (words >> np.uint64(shift) & np.uint64((1 << bits) - 1)).astype(np.int64)
            for _, shift, bits in _EVENT_FIELDS + _FINE_FIELDS
        )
    )


def pack_frames(
    frame_ids: NDArray[np.int64],
    n_events: NDArray[np.int64],
    event_words: NDArray[np.uint64],
    is_lost: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint64]:
    """Whole frames back to back.

    Args:
        frame_ids: (n,) 36-bit frame ids.
        n_events: (n,) events of each frame.
        event_words: (sum of n_events,) their words in frame order.
        is_lost: (n,) whether events of the frame were lost.

    Returns:
        (2 n + sum of n_events,) uint64.

    Raises:
        WireError: If lengths disagree or a number does not fit its field.
    """
    ids, counts = np.asarray(frame_ids, dtype=np.int64), np.asarray(n_events, dtype=np.int64)
    if ids.shape != counts.shape or int(counts.sum()) != len(event_words):
        raise WireError(f"{len(ids)} frame ids, {len(counts)} counts for {len(event_words)} event words")
    if ids.size == 0:
        return np.zeros(0, dtype=np.uint64)
    if int(ids.min()) < 0 or int(ids.max()) >= FRAME_ID_MODULO:
        raise WireError("a frame id does not fit 36 bits")
    if int(counts.min()) < 0 or int(counts.max()) > MAX_EVENTS:
        raise WireError(f"a frame holds at most {MAX_EVENTS} events")
    starts = np.concatenate(([0], np.cumsum(counts + 2)[:-1]))
    words = np.empty(2 * len(ids) + len(event_words), dtype=np.uint64)
    is_event = np.ones(len(words), dtype=np.bool_)
    is_event[starts] = is_event[starts + 1] = False
    words[is_event] = event_words
    words[starts] = ids.astype(np.uint64) | (counts + 2).astype(np.uint64) << SIZE_SHIFT
    second = counts.astype(np.uint64)
    if is_lost is not None:
        second |= np.where(is_lost, _LOST_BIT, np.uint64(0))
    words[starts + 1] = second
    return words


def data_datagram(words: NDArray[np.uint64]) -> bytes:
    """Datagram of whole frames.

    Raises:
        WireError: If there is no frame or the datagram would be too long.
    """
    if len(words) < 2 or 1 + 8 * len(words) > MAX_DATAGRAM_BYTES:
        raise WireError(f"{len(words)} words do not make a data datagram")
    return bytes((DATA_MARK,)) + words.astype("<u8").tobytes()


@dataclass(frozen=True, slots=True)
class FrameScan:
    """Where the whole frames of a block of words are.

    Attributes:
        starts: (n,) int64 index of the first word of each whole frame.
        n_words: Words that belong to whole frames; the rest must be dropped.
        n_dropped: Words behind them.
        reason: Why words are dropped, None if there are none.
    """

    starts: NDArray[np.int64]
    n_words: int
    n_dropped: int
    reason: str | None


def scan_frames(words: NDArray[np.uint64]) -> FrameScan:
    """Find the whole, consistent frames from the beginning of a block of words; the first bad one ends the scan.

    Args:
        words: (k,) uint64 in machine order, as they came in one datagram.
    """
    n = len(words)
    sizes = (words >> SIZE_SHIFT & COUNT_MASK).tolist()
    found: list[int] = []
    place, reason = 0, None
    while place < n:
        size = sizes[place]
        if size < 2:
            reason = "frame-inconsistent"
            break
        if place + size > n:
            reason = "frame-cut"
            break
        found.append(place)
        place += size
    starts = np.array(found, dtype=np.int64)
    if found:
        consistent = (words[starts] >> SIZE_SHIFT & COUNT_MASK) == (words[starts + 1] & COUNT_MASK) + np.uint64(2)
        if not consistent.all():
            first_bad = int(np.argmin(consistent))
            place, reason = found[first_bad], "frame-inconsistent"
            starts = starts[:first_bad]
    return FrameScan(starts, place, n - place, reason)


def frame_ids(words: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frame ids (n,) int64 of the frames that begin at `starts`."""
    return (words[starts] & ID_MASK).astype(np.int64)


def frame_event_counts(words: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Events (n,) int64 in each of these frames."""
    return (words[starts + 1] & COUNT_MASK).astype(np.int64)


def frame_lost_mask(words: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the board lost events (n,) of each of these frames."""
    is_lost: NDArray[np.bool_] = (words[starts + 1] & LOST_MASK) != 0
    return is_lost


def parse_data_datagram(datagram: bytes) -> tuple[NDArray[np.uint64], FrameScan]:
    """The words of a data datagram and the frames among them; bytes behind the last whole word are dropped.

    Raises:
        WireError: If it does not begin with 0xA5.
    """
    if not datagram or datagram[0] != DATA_MARK:
        raise WireError(f"not a data datagram: begins {datagram[:1].hex() or 'with nothing'}")
    n_words = (len(datagram) - 1) // 8
    words = np.frombuffer(datagram, dtype="<u8", count=n_words, offset=1).astype(np.uint64)
    return words, scan_frames(words)
