"""Recordings of calibration runs: for each step of a scan, the event words that came and how often.

`.rawf` with the ordinary header, then 16-byte records `u64 event word, i32 count, 4 bytes`; `.idxf` with a line for
each step. A step exists once its line is in the index, so that a scan that was interrupted can go on behind its last.

Source: PETsys sw_daq_tofpet2 revision 194662e, file writer (interface reference, section 8.1, flag T).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from petqc.calibrate import EventPoint
from petqc.errors import BadInputError
from petqc.formats.damage import DamageLog
from petqc.formats.petsys_frames import (
    FRAME_ID_BITS,
    FRAME_SIZE_MASK,
    HEADER_BYTES,
    N_EVENTS_MASK,
    RawHeader,
    RawStep,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

RECORD: Final = np.dtype([("word", "<u8"), ("count", "<i4"), ("padding", "<u4")])


CALIBRATION_HEAD_BYTES: Final = 64 * RECORD.itemsize
"""Of the content, as much as `looks_like_calibration` wants to see."""


def looks_like_calibration(head: bytes) -> bool:
    """Whether the first bytes after the header of a .rawf are records of a calibration run and no frames.

    A frame says its size twice, in both of its first words, which a record does not; and a record has a count.
    """
    records = np.frombuffer(head[: len(head) // RECORD.itemsize * RECORD.itemsize], RECORD)
    if not records.size:
        return False
    size = int(records["word"][0]) >> FRAME_ID_BITS & FRAME_SIZE_MASK
    is_frame = size == (int(records["count"][0]) & N_EVENTS_MASK) + 2
    return bool((records["count"] > 0).all() and not is_frame)


def refuse_calibration(head: bytes, *, where: str) -> None:
    """Say what a recording of a calibration run is to whoever takes it for frames.

    Raises:
        BadInputError: it is one.
    """
    if looks_like_calibration(head):
        raise BadInputError(
            "is the recording of a calibration run, which has counted events and no frames",
            where=where,
            do="name a recording of an acquisition",
        )


class CalibrationRecording:
    """A calibration recording being written, or written on.

    Attributes:
        path: the data file. header: its header. steps: of the index, in order.
    """

    def __init__(self, prefix: str | os.PathLike[str], header: RawHeader) -> None:
        """Create PREFIX.rawf and PREFIX.idxf, or open them behind their last whole step.

        Args:
            prefix: path without suffix.
            header: for a new file; an existing one must have the same.

        Raises:
            BadInputError: an existing file is another recording, or its index does not belong to it.
        """
        self.path, self._index_path = Path(f"{os.fspath(prefix)}.rawf"), Path(f"{os.fspath(prefix)}.idxf")
        self.header = header
        self.steps: list[RawStep] = []
        is_new = not self.path.exists() or self.path.stat().st_size < HEADER_BYTES
        if not is_new:
            found = RawHeader.from_bytes(self.path.read_bytes()[:HEADER_BYTES], where=str(self.path))
            if (found.frequency_hz, found.all_charge) != (header.frequency_hz, header.all_charge):
                raise BadInputError(
                    "is a recording of another kind", where=str(self.path), do="begin a new one under another name"
                )
            self.header = found
            self.steps = _whole_steps(self._index_path, self.path.stat().st_size)
        end = self.steps[-1].end if self.steps else HEADER_BYTES
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._data = os.open(self.path, flags, 0o644)
        try:
            self._index = os.open(self._index_path, flags, 0o644)
        except OSError:
            os.close(self._data)
            raise
        if is_new:
            os.pwrite(self._data, header.to_bytes(), 0)
        os.ftruncate(self._data, end)
        lines = "".join(step.to_line() for step in self.steps).encode()
        os.ftruncate(self._index, 0)
        os.pwrite(self._index, lines, 0)
        self._end, self._index_end = end, len(lines)
        self.sync()

    def add(self, point: EventPoint, *, first_frame: int = 0, last_frame: int = 0) -> None:
        """Append a step. It is durable after the next `sync`, or at once as far as the operating system lives."""
        records = np.zeros(point.words.size, RECORD)
        records["word"], records["count"] = point.words, point.counts
        data = records.tobytes()
        os.pwrite(self._data, data, self._end)
        step = RawStep(self._end, self._end + len(data), first_frame, last_frame, point.step1, point.step2)
        line = step.to_line().encode()
        os.pwrite(self._index, line, self._index_end)
        self._end, self._index_end = step.end, self._index_end + len(line)
        self.steps.append(step)

    def sync(self) -> None:
        """Let what was added survive a power failure; data first, so that the index never names what is not there."""
        os.fsync(self._data)
        os.fsync(self._index)

    def close(self) -> None:
        """Sync and close; safe more than once."""
        if self._data >= 0:
            self.sync()
            os.close(self._data)
            os.close(self._index)
            self._data = self._index = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _whole_steps(index: Path, size: int) -> list[RawStep]:
    """Steps of an index, up to the first line that is torn, out of order or names bytes that are not there."""
    steps: list[RawStep] = []
    end = HEADER_BYTES
    for line in index.read_text("utf-8", errors="replace").splitlines(keepends=True) if index.exists() else ():
        try:
            step = RawStep.from_line(line)
        except ValueError:
            break
        if not line.endswith("\n") or step.begin != end or step.end > size or (step.end - end) % RECORD.itemsize:
            break
        steps.append(step)
        end = step.end
    return steps


class CalibrationReader:
    """Reads a calibration recording step by step, the readout maker's or ours.

    Attributes:
        header: of the file. steps: of its index, as far as the file goes. damages: what could not be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it.

        Args:
            path: the .rawf file; the .idxf file stands beside it.

        Raises:
            BadInputError: it cannot be read, or has no index.
        """
        self.path = Path(path)
        self.damages = DamageLog()
        index = self.path.with_suffix(".idxf")
        try:
            with self.path.open("rb") as file:
                self.header = RawHeader.from_bytes(file.read(HEADER_BYTES), where=str(self.path))
            size = self.path.stat().st_size
            lines = len(index.read_text("utf-8", errors="replace").splitlines())
        except OSError as error:
            raise BadInputError(
                f"cannot be read: {error.strerror}",
                where=str(error.filename or self.path),
                do="a calibration recording means nothing without its index: keep .rawf and .idxf together",
            ) from error
        self.steps = tuple(_whole_steps(index, size))
        end = self.steps[-1].end if self.steps else HEADER_BYTES
        if size > end or lines > len(self.steps):
            reason = (
                f"{lines - len(self.steps)} index lines that do not fit the file, {size - end} bytes without a step"
            )
            self.damages.note(end, reason, (end - HEADER_BYTES) // RECORD.itemsize, size - end)

    def points(self) -> Iterator[EventPoint]:
        """The steps, one after the other; records without a count, which no writer makes, are left out and counted."""
        with self.path.open("rb") as file:
            for step in self.steps:
                file.seek(step.begin)
                records = np.frombuffer(file.read(step.end - step.begin), RECORD)
                good = records["count"] > 0
                if not good.all():
                    bad = int(np.flatnonzero(~good)[0])
                    n_bad = int((~good).sum())
                    self.damages.note(
                        step.begin + bad * RECORD.itemsize, "records without a count", bad, n_bad * RECORD.itemsize
                    )
                yield EventPoint(step.step1, step.step2, records["word"][good], records["count"][good])
