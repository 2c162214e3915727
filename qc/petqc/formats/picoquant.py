"""PicoQuant time tags (.ptu, and .pt3 of the PicoHarp 300): photons, syncs and markers in blocks.

Source: PicoQuant TTTR record layouts (PicoHarp, HydraHarp 1 and 2, TimeHarp 260, MultiHarp/PicoHarp 330 "Generic").
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.formats.damage import DamageLog
from petqc.formats.picoquant_header import RECORD_TYPES, RecordType, TttrHeader, read_header
from petqc.formats.reader import StreamReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["RECORD_TYPES", "PicoquantReader", "RecordType", "TimeTags", "TttrHeader", "read_picoquant"]

_PHOTON, _SYNC, _MARKER, _OVERFLOW, _UNKNOWN = range(5)


@dataclass(frozen=True, slots=True)
class TimeTags:
    """Time tags; times are int64 ps since the start of the measurement.

    time_ps, channel, delay_ps: (n,) photons: their time (T3: of the sync pulse before, plus the delay), input channel
    as the record has it, and in T3 the delay after the sync pulse (T2: 0). sync_ps: (s,) sync pulses that a T2 file
    records. marker_ps, marker: (m,) markers and their bits. overflows: overflow records.
    """

    time_ps: NDArray[np.int64]
    channel: NDArray[np.int16]
    delay_ps: NDArray[np.float64]
    sync_ps: NDArray[np.int64]
    marker_ps: NDArray[np.int64]
    marker: NDArray[np.uint8]
    overflows: int

    def __len__(self) -> int:
        return self.time_ps.size


class PicoquantReader(StreamReader):
    """A time-tag file, opened for reading.

    Attributes:
        header: the header, with all its tags. size, bytes_read: bytes of the file and how far the last `blocks` came.
        records_read: records it has read. damages: what it could not use.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file.

        Raises:
            BadInputError: no such file, or no header that its records can be read with.
        """
        self.path = Path(path)
        self.damages = DamageLog()
        self.bytes_read = self.records_read = 0
        self._file = self._open(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header = read_header(self._file, str(self.path))
        except BaseException:
            self._file.close()
            raise

    def blocks(self, max_records: int = 1 << 20) -> Iterator[TimeTags]:
        """Time tags of at most max_records records at a time."""
        self.damages = DamageLog()
        begin = self.header.data_offset
        self.bytes_read, self.records_read = min(begin, self.size), 0
        there = max(0, self.size - begin) // 4
        wanted = self.header.n_records or there
        wrapped = 0
        self._file.seek(begin)
        while self.records_read < min(wanted, there):
            raw = self._file.read(4 * min(max_records, min(wanted, there) - self.records_read))
            words = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4")
            if not words.size:
                there = self.records_read
                break
            decoded = self._decode(words, wrapped)
            if decoded is None:
                at = begin + 4 * self.records_read
                reason = "times from here on do not fit 64 bits of ps: these are no time tags"
                self.damages.note(at, reason, self.records_read, self.size - at)
                self.bytes_read = self.size
                return
            tags, wrapped = decoded
            self.records_read += words.size
            self.bytes_read += 4 * words.size
            yield tags
        at = begin + 4 * self.records_read
        if wanted > there:
            self.damages.note(
                at, f"the file ends, its header says {wanted} records", self.records_read, max(0, self.size - at)
            )
        elif at < self.size:
            self.damages.note(
                at, "bytes after the last record that the header counts", self.records_read, self.size - at
            )
        self.bytes_read = self.size

    def _decode(self, words: NDArray[np.uint32], wrapped: int) -> tuple[TimeTags, int] | None:
        form = self.header.record_type
        kind, channel, ticks, delay, overflow = (_picoharp if form.picoharp else _special_bit)(words, form)
        if (wrapped + overflow.sum(dtype=np.float64) + form.wrap) * self.header.global_resolution_ps > 2.0**62:
            return None
        total = wrapped + np.cumsum(overflow)
        ticks += total
        time_ps = self._ps(ticks)
        photon, marker = kind == _PHOTON, kind == _MARKER
        delay_ps = delay[photon] * self.header.resolution_ps if form.t3 else np.zeros(int(photon.sum()))
        unknown = np.flatnonzero(kind == _UNKNOWN)
        if unknown.size:
            at = self.header.data_offset + 4 * (self.records_read + int(unknown[0]))
            reason = f"{unknown.size} records of no known kind, the first one {int(words[unknown[0]]):#010x}"
            self.damages.note(at, reason, self.records_read + int(unknown[0]), 4 * unknown.size)
        tags = TimeTags(
            time_ps=time_ps[photon] + np.rint(delay_ps).astype(np.int64),
            channel=channel[photon].astype(np.int16),
            delay_ps=delay_ps,
            sync_ps=time_ps[kind == _SYNC],
            marker_ps=time_ps[marker],
            marker=channel[marker].astype(np.uint8),
            overflows=int(np.count_nonzero(kind == _OVERFLOW)),
        )
        return tags, int(total[-1])

    def _ps(self, ticks: NDArray[np.int64]) -> NDArray[np.int64]:
        unit = self.header.global_resolution_ps
        whole = round(unit)
        if whole > 0 and abs(unit - whole) <= 1e-9 * unit:
            return ticks * whole
        # A sync period is not a whole number of ps: float64 keeps 1 ps for two hours, 64 ps for five days.
        times: NDArray[np.int64] = np.rint(ticks * unit).astype(np.int64)
        return times


_Fields = tuple[Any, Any, Any, Any, Any]


def _picoharp(words: NDArray[np.uint32], form: RecordType) -> _Fields:
    """Kind, channel (or marker bits), ticks, delay, and what each record adds to the time, of a PicoHarp 300."""
    channel = (words >> 28).astype(np.int64)
    if form.t3:
        delay = (words >> 16 & 0xFFF).astype(np.int64)
        ticks = (words & 0xFFFF).astype(np.int64)
        bits = delay & 0xF
        overflows = delay == 0
    else:
        ticks = (words & 0xFFFFFFF).astype(np.int64)
        delay = np.zeros(words.size, np.int64)
        bits = ticks & 0xF
        overflows = bits == 0
    special = channel == 0xF
    kind = np.where(special, np.where(overflows, _OVERFLOW, _MARKER), _PHOTON)
    if not form.t3:
        # The lowest bits of a T2 marker are its number, not its time.
        ticks = np.where(special, ticks & ~0xF, ticks)
    return kind, np.where(special, bits, channel), ticks, delay, np.where(kind == _OVERFLOW, form.wrap, 0)


def _special_bit(words: NDArray[np.uint32], form: RecordType) -> _Fields:
    """The same for records with a special bit and six bits of channel: all devices after the PicoHarp 300."""
    special = (words >> 31).astype(bool)
    channel = (words >> 25 & 0x3F).astype(np.int64)
    if form.t3:
        delay = (words >> 10 & 0x7FFF).astype(np.int64)
        ticks = (words & 0x3FF).astype(np.int64)
    else:
        delay = np.zeros(words.size, np.int64)
        ticks = (words & 0x1FFFFFF).astype(np.int64)
    overflow = special & (channel == 0x3F)
    marker = special & (channel >= 1) & (channel <= 15)
    sync = special & (channel == 0) & (not form.t3)
    kind = np.select([~special, overflow, marker, sync], [_PHOTON, _OVERFLOW, _MARKER, _SYNC], _UNKNOWN)
    times = np.maximum(ticks, 1) if form.counted else 1
    return kind, channel, ticks, delay, np.where(overflow, form.wrap * times, 0)


def read_picoquant(path: str | os.PathLike[str]) -> tuple[TttrHeader, TimeTags, DamageLog]:
    """A whole file at once: header, time tags, damage. For a long file read `PicoquantReader.blocks` instead."""
    with PicoquantReader(path) as reader:
        parts = list(reader.blocks())

        def join(name: str, dtype: type) -> NDArray[Any]:
            return np.concatenate([getattr(p, name) for p in parts]) if parts else np.empty(0, dtype)

        tags = TimeTags(
            time_ps=join("time_ps", np.int64),
            channel=join("channel", np.int16),
            delay_ps=join("delay_ps", np.float64),
            sync_ps=join("sync_ps", np.int64),
            marker_ps=join("marker_ps", np.int64),
            marker=join("marker", np.uint8),
            overflows=sum(p.overflows for p in parts),
        )
        return reader.header, tags, reader.damages
