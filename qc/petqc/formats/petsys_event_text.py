"""PETsys processed events as text: one record a line, tab separated; the compact forms have a line of counts first.

Source: PETsys sw_daq_tofpet2 revision 194662e, processed output.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import DamageLog
from petqc.formats.petsys_compact import expand_coincidences, expand_groups, fold_coincidences, fold_groups
from petqc.formats.petsys_events import DTYPES, SINGLE, EventKind, plausible
from petqc.formats.reader import StreamReader
from petqc.output_files import partial_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

_LONGEST_LINE = 4096
_KIND_BY_FIELDS: Final[dict[int, EventKind]] = {
    3: "singles",
    5: "groups",
    10: "coincidences",
    1: "groups-compact",
    2: "coincidences-compact",
}


class TextReader(StreamReader):
    """A text event file, opened for reading; the same attributes and blocks as the binary reader.

    Attributes:
        kind, dtype, size, bytes_read, records_read, damages, warnings: as for LdatReader.
    """

    def __init__(self, path: str | os.PathLike[str], kind: EventKind | None = None) -> None:
        """Open a file; kind None tells it by the number of fields in the first line.

        Raises:
            BadInputError: no such file, or its kind cannot be told.
        """
        self.path = Path(path)
        self.bytes_read = self.records_read = 0
        self.damages = DamageLog()
        self.warnings: list[str] = []
        self._file = self._open(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.kind: EventKind = self._detect() if kind is None else kind
        except BaseException:
            self._file.close()
            raise
        self.dtype = DTYPES[self.kind]

    def _detect(self) -> EventKind:
        line = self._file.readline(_LONGEST_LINE)
        self._file.seek(0)
        fields = len(line.split())
        if fields not in _KIND_BY_FIELDS:
            raise BadInputError(
                f"{fields} fields: singles have 3, groups 5, coincidences 10",
                where=f"{self.path}:1",
                do="say which kind of events it holds",
            )
        return _KIND_BY_FIELDS[fields]

    def blocks(self, max_records: int = 1 << 16) -> Iterator[NDArray[Any]]:
        """Records, in blocks of at most max_records lines (a compact record is never cut in two).

        Yields:
            (n,) structured array of `dtype`. A line that does not read is left out and noted in `damages`.
        """
        self.damages = DamageLog()
        self.bytes_read = self.records_read = 0
        self._file.seek(0)
        if self.kind.endswith("-compact"):
            yield from self._compact(max_records)
            return
        number = 0
        while lines := self._lines(max_records):
            begin = self.bytes_read
            self.bytes_read += sum(map(len, lines))
            records = self._parse(lines, begin, number)
            number += len(lines)
            self.records_read += records.size
            if records.size:
                yield records

    def _lines(self, most: int) -> list[bytes]:
        """Lines with their ends; a longer one than any record has comes in pieces, none of which reads."""
        lines: list[bytes] = []
        while len(lines) < most and (line := self._file.readline(_LONGEST_LINE)):
            lines.append(line)
        return lines

    def _parse(self, lines: list[bytes], begin: int, number: int) -> NDArray[Any]:
        rows = [line.split() for line in lines]
        if lines[-1].endswith(b"\n"):
            records = _convert(rows, self.dtype)
            if records is not None and plausible(records).all():
                return records
        # Something here does not read: line by line, to say which.
        good, at = [], begin
        wanted = " ".join(self.dtype.names or ())
        for offset, (line, row) in enumerate(zip(lines, rows, strict=True), number + 1):
            problem = None
            if not line.endswith(b"\n"):
                problem = "does not end: the file is cut off here"
            elif row:
                one = _convert([row], self.dtype)
                if one is None or not plausible(one).all():
                    problem = f"{b' '.join(row)[:120]!r} is not {wanted}, or cannot be real"
                else:
                    good.append(row)
            if problem:
                self.damages.note(at, f"line {offset}: {problem}", self.records_read + len(good), len(line))
            at += len(line)
        records = _convert(good, self.dtype)
        return np.empty(0, self.dtype) if records is None else records

    def _compact(self, max_records: int) -> Iterator[NDArray[Any]]:
        head = 1 if self.kind == "groups-compact" else 2
        number = 0
        counts: list[list[int]] = []
        hits: list[NDArray[Any]] = []
        while line := self._file.readline(_LONGEST_LINE):
            begin, number = self.bytes_read, number + 1
            row = line.split()
            ok = len(row) == head and all(f.isdigit() and 1 <= int(f) <= 255 for f in row) and line.endswith(b"\n")
            rows = self._lines(sum(map(int, row))) if ok else []
            found = _convert([r.split() for r in rows], SINGLE) if rows and rows[-1].endswith(b"\n") else None
            if found is None or found.size != sum(map(int, row)) or not plausible(found).all():
                read = self.records_read + sum(map(len, hits))
                self.damages.note(begin, f"line {number}: no whole record begins here", read, self.size - begin)
                self.bytes_read = self.size
                break
            counts.append([int(f) for f in row])
            hits.append(found)
            number += len(rows)
            self.bytes_read += len(line) + sum(map(len, rows))
            if sum(map(len, hits)) >= max_records:
                yield self._expand(counts, hits, head)
                counts, hits = [], []
        if counts:
            yield self._expand(counts, hits, head)

    def _expand(self, counts: list[list[int]], hits: list[NDArray[Any]], head: int) -> NDArray[Any]:
        table = np.array(counts, np.int64)
        joined = np.concatenate(hits)
        records = expand_groups(table[:, 0], joined) if head == 1 else expand_coincidences(table, joined)
        self.records_read += records.size
        return records


def _convert(rows: list[list[bytes]], dtype: np.dtype[np.void]) -> NDArray[Any] | None:
    """Rows of fields as records; None if any of them does not read."""
    names = dtype.names or ()
    if not rows or any(len(row) != len(names) for row in rows):
        return None
    records = np.empty(len(rows), dtype)
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        try:
            if dtype[name].kind == "f":
                values: NDArray[Any] = np.array(column, "S").astype(np.float64)
                if (np.abs(values[np.isfinite(values)]) > np.finfo(np.float32).max).any():
                    return None
            else:
                values = np.array(column, "S").astype(np.int64)
                limits = np.iinfo(dtype[name])
                if values.min() < limits.min or values.max() > limits.max:
                    return None
        except (ValueError, OverflowError):
            return None
        records[name] = values
    return records


class TextWriter:
    """A text event file being written; it gets its name when it is closed.

    Attributes:
        path: the file, exactly as given. records: records written so far.
    """

    def __init__(self, path: str | os.PathLike[str], kind: EventKind) -> None:
        """Begin a file.

        Raises:
            BadInputError: the folder is not there or cannot be written.
        """
        self.path = Path(path)
        self.kind = kind
        self.dtype = DTYPES[kind]
        self.records = 0
        self._partial = partial_of(self.path)
        try:
            self._file = self._partial.open("w", encoding="ascii", newline="\n")
        except OSError as error:
            raise BadInputError(f"cannot be written: {error.strerror}", where=str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()

    def start_step(self, step1: float = 0.0, step2: float = 0.0) -> None:
        """Text files have no steps; here so that both writers are used alike."""

    def end_step(self) -> None:
        """Text files have no steps; here so that both writers are used alike."""

    def write(self, records: NDArray[Any]) -> None:
        """Append records of the kind's dtype; for a compact kind whole groups or coincidences."""
        if records.dtype != self.dtype:
            raise BadInputError(
                f"{self.kind} are records of {self.dtype}, not of {records.dtype}", where=str(self.path)
            )
        if self.kind == "groups-compact":
            self._write_compact(*fold_groups(records))
        elif self.kind == "coincidences-compact":
            self._write_compact(*fold_coincidences(records))
        else:
            self._file.writelines(_format(records))
        self.records += records.size

    def _write_compact(self, counts: NDArray[np.int64], hits: NDArray[Any]) -> None:
        lines = _format(hits)
        at = 0
        for row in (counts[:, None] if counts.ndim == 1 else counts).tolist():
            self._file.write("\t".join(map(str, row)) + "\n")
            self._file.writelines(lines[at : at + sum(row)])
            at += sum(row)

    def close(self) -> None:
        """Finish and give the file its name. May be called again."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)


def _format(records: NDArray[Any]) -> list[str]:
    names = records.dtype.names or ()
    pattern = "\t".join("%f" if records.dtype[name].kind == "f" else "%d" for name in names) + "\n"
    return [pattern % row for row in records.tolist()]
