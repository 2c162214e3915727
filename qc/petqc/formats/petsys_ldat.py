"""PETsys processed events: binary files (.ldat with .lidx) and text files, read in blocks and written.

Source: PETsys sw_daq_tofpet2 revision 194662e, processed output.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import Damage, DamageLog
from petqc.formats.petsys_compact import LONGEST, expand_coincidences, expand_groups, unpack
from petqc.formats.petsys_event_text import TextReader, TextWriter
from petqc.formats.petsys_events import COINCIDENCE, DTYPES, GROUP, SINGLE, EventKind, EventStep, plausible
from petqc.formats.petsys_ldat_write import LdatWriter
from petqc.formats.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "COINCIDENCE",
    "GROUP",
    "SINGLE",
    "Damage",
    "EventKind",
    "EventStep",
    "LdatReader",
    "LdatWriter",
    "TextReader",
    "TextWriter",
    "detect_kind",
    "open_event_writer",
    "open_events",
]

_SAMPLE_BYTES = 36 * 4096
_PAIR_PS = 200_000
_KINDS: Final[tuple[EventKind, ...]] = ("singles", "groups", "coincidences", "groups-compact", "coincidences-compact")


def detect_kind(path: str | os.PathLike[str]) -> EventKind:
    """What a .ldat file holds, from its content.

    Raises:
        BadInputError: the file cannot be read, is empty, or looks like none or more than one kind.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            sample = np.frombuffer(file.read(_SAMPLE_BYTES), np.uint8)
            whole = os.fstat(file.fileno()).st_size <= _SAMPLE_BYTES
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not sample.size:
        raise BadInputError("empty: it could hold anything", where=str(path), do="say which kind of events it holds")
    kinds = [kind for kind in _KINDS if _fits(kind, sample, whole=whole)]
    if "groups" in kinds and "coincidences" in kinds:
        kinds.remove("groups" if _pairs(sample) else "coincidences")
    if len(kinds) != 1:
        what = "none of the kinds of event file" if not kinds else " or ".join(kinds)
        raise BadInputError(f"looks like {what}", where=str(path), do="say which kind of events it holds")
    return kinds[0]


def _fits(kind: EventKind, sample: NDArray[np.uint8], *, whole: bool) -> bool:
    dtype = DTYPES[kind]
    if kind.endswith("-compact"):
        counts, hits, used = unpack(sample, 1 if kind == "groups-compact" else 2)
        left = sample.size - used
        return bool(counts.size) and left < (dtype.itemsize if whole else LONGEST) and bool(plausible(hits).all())
    records = sample[: sample.size // dtype.itemsize * dtype.itemsize].view(dtype)
    if not records.size or np.count_nonzero(plausible(records)) < 0.99 * records.size:
        return False
    if kind == "groups":
        # Hits of one group follow each other.
        after = records["index"][1:] == records["index"][:-1] + 1
        good = (records["index"][1:] == 0) | (after & (records["n"][1:] == records["n"][:-1]))
        return bool(np.count_nonzero(good) >= 0.99 * good.size)
    if kind == "coincidences":
        good = (records["index_a"] == 0) | (records["index_b"] == 0)
        return bool(np.count_nonzero(good) >= 0.99 * good.size)
    return True


def _pairs(sample: NDArray[np.uint8]) -> bool:
    """Whether records of half the length come in pairs of one time: a coincidence is two group records in a row."""
    records = sample[: sample.size // COINCIDENCE.itemsize * COINCIDENCE.itemsize].view(GROUP)
    close = np.abs(np.diff(records["time_ps"])) < _PAIR_PS
    within, between = close[0::2], close[1::2]
    return bool(within.size and within.mean() > 0.99 and (not between.size or between.mean() < 0.9))


class LdatReader(Reader):
    """A binary event file, opened for reading.

    Attributes:
        kind: what it holds. dtype: type of the arrays that `blocks` gives.
        size: bytes of the file. bytes_read: bytes that the last `blocks` has dealt with so far.
        records_read: records that it has given so far.
        damages: places that it could not use (the first 1000). warnings: what is wrong with the index.
    """

    def __init__(self, path: str | os.PathLike[str], kind: EventKind | None = None) -> None:
        """Open a file; kind None finds it out from the content.

        Raises:
            BadInputError: no such file, or its kind cannot be told.
        """
        self.path = Path(path)
        self.kind: EventKind = detect_kind(self.path) if kind is None else kind
        self.dtype = DTYPES[self.kind]
        self.bytes_read = self.records_read = 0
        self.damages = DamageLog()
        self.warnings: list[str] = []
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInputError(f"cannot be opened: {error.strerror}", where=str(self.path)) from error
        self.size = os.fstat(self._fd).st_size
        self.steps: tuple[EventStep, ...] = self._read_index()

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_index(self) -> tuple[EventStep, ...]:
        everything = (EventStep(0, self.size),)
        path = self.path.with_suffix(".lidx")
        if path == self.path or not path.is_file():
            return everything
        steps: list[EventStep] = []
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            try:
                step = EventStep.from_line(line)
            except ValueError as error:
                self.warnings.append(f"{path.name}:{number}: {error}: the index is not used")
                return everything
            if step.begin != (steps[-1].end if steps else 0):
                self.warnings.append(f"{path.name}:{number}: does not begin where the step before ends: index not used")
                return everything
            steps.append(step)
        return tuple(steps) or everything

    def blocks(self, max_records: int = 1 << 18, step: int | None = None) -> Iterator[NDArray[Any]]:
        """Records, never cutting a group or a coincidence with its further hits in two.

        Args:
            max_records: most records in a block (at least the longest group that there can be).
            step: number of the step to read; None reads all.

        Yields:
            (n,) structured array of `dtype`. Records that cannot be real are left out and counted in `damages`;
            where too many are, reading ends.
        """
        self.damages = DamageLog()
        self.bytes_read = self.records_read = 0
        if step is not None and not 0 <= step < len(self.steps):
            raise BadInputError(f"there is no step {step}: the file has {len(self.steps)}", where=str(self.path))
        for part in self.steps if step is None else self.steps[step : step + 1]:
            begin, end = min(part.begin, self.size), min(part.end, self.size)
            if self.kind.endswith("-compact"):
                yield from self._compact(begin, end, max(max_records, 512))
            else:
                yield from self._plain(begin, end, max(max_records, 512))
            if part.end > self.size:
                self._damaged(self.size, 0, f"the file ends, its index goes on to byte {part.end}")
        if step is None and self.steps[-1].end < self.size:
            at = self.steps[-1].end
            self._damaged(at, self.size - at, "the bytes after the last step belong to no step of the index")

    def _damaged(self, offset: int, n_bytes: int, reason: str) -> None:
        self.damages.note(offset, reason, self.records_read, n_bytes)

    def _pread(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        if self._fd < 0:
            raise BadInputError("the file is closed", where=str(self.path))
        data = np.empty(n_bytes, np.uint8)
        filled = 0
        while filled < n_bytes and (got := os.preadv(self._fd, [data[filled:].data], offset + filled)):
            filled += got
        return data[:filled]

    def _plain(self, begin: int, end: int, max_records: int) -> Iterator[NDArray[Any]]:
        at, width = begin, self.dtype.itemsize
        while end - at >= width:
            wanted = min(max_records, (end - at) // width)
            data = self._pread(at, wanted * width)
            records = data[: data.size // width * width].view(self.dtype)
            if at + wanted * width < end and records.size == wanted:
                records = records[: _whole_events(records)]
            if not records.size:
                self._damaged(at, end - at, "the file has become shorter since it was opened")
                self.bytes_read += end - at
                return
            good = plausible(records)
            if not good.all():
                stop = self._sift(at, records, good, end)
                if stop is not None:
                    self.bytes_read += end - at
                    self.records_read += stop
                    if stop:
                        yield records[:stop]
                    return
            at += records.size * width
            self.bytes_read += records.size * width
            records = records[good] if not good.all() else records
            self.records_read += records.size
            if records.size:
                yield records
        if at < end:
            self._damaged(at, end - at, f"{end - at} bytes are left, a record has {width}")
            self.bytes_read += end - at

    def _sift(self, at: int, records: NDArray[Any], good: NDArray[np.bool_], end: int) -> int | None:
        """Note the records that cannot be real; where to stop if there are too many of them."""
        width = self.dtype.itemsize
        bad = np.flatnonzero(~good).tolist()
        if len(bad) > max(8, records.size // 20):
            reason = f"no {self.kind} record: {len(bad)} of {records.size} from byte {at} on cannot be real"
            self.damages.note(at + bad[0] * width, reason, self.records_read + bad[0], end - at - bad[0] * width)
            return int(bad[0])
        for before, row in enumerate(bad):
            reason = f"no {self.kind} record: {records[row].item()}"
            self.damages.note(at + row * width, reason, self.records_read + row - before, width)
        return None

    def _compact(self, begin: int, end: int, max_records: int) -> Iterator[NDArray[Any]]:
        at = begin
        head = 1 if self.kind == "groups-compact" else 2
        while at < end:
            data = self._pread(at, min(max(max_records * SINGLE.itemsize, LONGEST), end - at))
            counts, hits, used = unpack(data, head)
            good = plausible(hits)
            if not used or not good.all():
                break
            at += used
            self.bytes_read += used
            records = expand_groups(counts, hits) if head == 1 else expand_coincidences(counts, hits)
            self.records_read += records.size
            yield records
        if at < end:
            # Records are of different lengths: past one that does not read there is no way to find the next.
            self._damaged(at, end - at, f"no whole {self.kind} record, or one of its channels cannot be real")
            self.bytes_read += end - at


def _whole_events(records: NDArray[Any]) -> int:
    """How many records there are before the last event begins; all, if there is no such place."""
    if records.dtype == SINGLE:
        return records.size
    if records.dtype == GROUP:
        starts = records["index"][-300:] == 0
    else:
        starts = (records["index_a"][-512:] == 0) & (records["index_b"][-512:] == 0)
    places = np.flatnonzero(starts)
    cut = records.size - starts.size + int(places[-1]) if places.size else 0
    return cut or records.size


def open_events(path: str | os.PathLike[str], kind: EventKind | None = None) -> LdatReader | TextReader:
    """Open an event file of any form: text if the first bytes are text, else binary."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise BadInputError(f"cannot be opened: {error.strerror}", where=str(path)) from error
    if start and not start.translate(None, bytes(range(32, 127)) + b"\t\r\n"):
        return TextReader(path, kind)
    return LdatReader(path, kind)


def open_event_writer(path: str | os.PathLike[str], kind: EventKind, *, text: bool = False) -> LdatWriter | TextWriter:
    """A writer for events of a kind; text goes to exactly the path given, binary to .ldat with .lidx."""
    return TextWriter(path, kind) if text else LdatWriter(path, kind)
