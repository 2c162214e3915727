"""CAEN Janus event lists of FERS boards as text: `//` heading, a line of column names, one line a channel.

Only the first line of an event has its time stamp, trigger id and number of channels; the lines that follow belong to
it. Columns are taken by their names, so that spectroscopy, timing and mixed lists read alike.
Source: CAEN Janus 4.3 list files, file format 3.4 (heading of the files themselves).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import Damage, DamageLog
from petqc.formats.reader import StreamReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

EVENT_COLUMNS: Final = ("tstamp_us", "trgid", "nchs", "nhits")
"""Columns (lower case) that only the first line of an event has."""

_LONGEST_LINE = 4096


@dataclass(frozen=True, slots=True)
class JanusEvents:
    """A list as read.

    heading: `name: value` lines of the heading, names as written. board, channel: (n,) int32, one row a line of data.
    event: (n,) int64, which event a line belongs to, from 0. values: the other columns of each line by lower-case
    name ("lg", "hg", "toa_ns", …), (n,) float64, NaN where a line has none. time_us, trigger_id, n_channels: one row
    an event, NaN and -1 where the list does not say.
    """

    heading: Mapping[str, str]
    board: NDArray[np.int32]
    channel: NDArray[np.int32]
    event: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    time_us: NDArray[np.float64]
    trigger_id: NDArray[np.int64]
    n_channels: NDArray[np.int32]
    damages: DamageLog

    def __len__(self) -> int:
        return self.channel.size

    @property
    def n_events(self) -> int:
        """Events in the list."""
        return self.time_us.size

    @property
    def damage(self) -> Damage | None:
        """The first line that does not read."""
        return self.damages.first


class _Lines:
    """Lines of the list while they are collected, turned into arrays block by block."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.of_line = [n for n in names if n not in EVENT_COLUMNS and n not in ("brd", "ch")]
        self.rows: list[tuple[float, ...]] = []
        self.events: list[tuple[float, float, float]] = []
        self.n_events = 0
        self.n_lines = 0

    def begins_event(self, fields: list[bytes]) -> bool:
        """Whether a line is the first of an event; a list without event columns has no events to begin."""
        return len(fields) == len(self.names) > 2 + len(self.of_line)

    def add(self, fields: list[bytes]) -> str | None:
        """Add a line; what is wrong with it, if anything."""
        n_line = 2 + len(self.of_line)
        if len(fields) not in (n_line, len(self.names)):
            return f"{len(fields)} fields, where {n_line} or {len(self.names)} are needed"
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            return f"{b' '.join(fields)[:80]!r} are not numbers"
        found = dict(zip(self.names, values, strict=False))
        board, channel = found["brd"], found["ch"]
        if not (board.is_integer() and channel.is_integer() and 0 <= board < 256 and 0 <= channel < 1024):
            return f"board {board:g} channel {channel:g} does not exist"
        if self.begins_event(fields):
            missing = math.nan
            counted = found.get("nchs", found.get("nhits", missing))
            self.events.append((found.get("tstamp_us", missing), found.get("trgid", missing), counted))
            self.n_events += 1
        elif not self.n_events:
            return "belongs to an event whose first line is missing"
        self.rows.append((board, channel, self.n_events - 1, *(found[n] for n in self.of_line)))
        self.n_lines += 1
        return None


class JanusReader(StreamReader):
    """A Janus list, opened for reading in blocks of whole events.

    Attributes:
        heading: see JanusEvents. columns: names of the columns, in lower case.
        size, bytes_read: bytes of the file and how far the last `blocks` came.
        damages: lines that it could not read, and events with fewer lines than they say.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a list.

        Raises:
            BadInputError: no such file, or no line of column names with Brd and Ch.
        """
        self.path = Path(path)
        self.damages = DamageLog()
        self.bytes_read = 0
        self._file = self._open(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.heading, self.columns, self._begin, self._lines_before = _heading(self.path, _numbered(self._file))
        except BaseException:
            self._file.close()
            raise

    def blocks(self, max_lines: int = 1 << 16) -> Iterator[JanusEvents]:
        """Whole events, about max_lines lines at a time; event numbers count over the whole list."""
        self.damages = DamageLog()
        self.bytes_read = self._begin
        self._file.seek(self._begin)
        lines = _Lines(self.columns)
        number = self._lines_before
        for at, line in _numbered(self._file, self._begin):
            number += 1
            fields = line.split()
            if len(lines.rows) >= max_lines and lines.begins_event(fields):
                yield self._block(lines)
            self.bytes_read = at + len(line)
            if self.bytes_read == self.size and not line.endswith(b"\n"):
                problem: str | None = "does not end: the file is cut off here"
            else:
                problem = lines.add(fields) if fields else None
            if problem:
                self.damages.note(at, f"line {number}: {problem}", lines.n_lines, len(line))
        if lines.rows:
            yield self._block(lines)

    def _block(self, lines: _Lines) -> JanusEvents:
        table = np.array(lines.rows, np.float64).reshape(len(lines.rows), 3 + len(lines.of_line))
        events = np.array(lines.events, np.float64).reshape(len(lines.events), 3)
        event = table[:, 2].astype(np.int64)
        counted = np.nan_to_num(events[:, 2], nan=-1.0)
        first = lines.n_events - len(events)
        present = np.bincount(event - first, minlength=len(events))
        for short in np.flatnonzero((counted >= 0) & (present != counted)).tolist():
            what = f"event {first + short} has {present[short]} lines, its first line says {counted[short]:g}"
            self.damages.note(self.bytes_read, what, lines.n_lines, 0)
        lines.rows, lines.events = [], []
        return JanusEvents(
            heading=self.heading,
            board=table[:, 0].astype(np.int32),
            channel=table[:, 1].astype(np.int32),
            event=event,
            values={name: table[:, 3 + k] for k, name in enumerate(lines.of_line)},
            time_us=events[:, 0],
            trigger_id=_whole(events[:, 1]).astype(np.int64),
            n_channels=_whole(counted).astype(np.int32),
            damages=self.damages,
        )


def _whole(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers that a count can be; -1 for all others."""
    return np.where((values >= 0) & (values < 1 << 31), values, -1.0)


def read_janus_list(path: str | os.PathLike[str]) -> JanusEvents:
    """Read a list at once; for a long one read `JanusReader.blocks` instead.

    Raises:
        BadInputError: no such file, or no line of column names with Brd and Ch. Lines that do not read are in
            `damages`; so is an event that has fewer lines than its number of channels says.
    """
    with JanusReader(path) as reader:
        parts = list(reader.blocks())
        if len(parts) == 1:
            return parts[0]
        names = _Lines(reader.columns).of_line

        def join(arrays: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
            return np.concatenate(arrays) if arrays else np.empty(0, dtype)

        return JanusEvents(
            heading=reader.heading,
            board=join([p.board for p in parts], np.int32),
            channel=join([p.channel for p in parts], np.int32),
            event=join([p.event for p in parts], np.int64),
            values={name: join([p.values[name] for p in parts], np.float64) for name in names},
            time_us=join([p.time_us for p in parts], np.float64),
            trigger_id=join([p.trigger_id for p in parts], np.int64),
            n_channels=join([p.n_channels for p in parts], np.int32),
            damages=reader.damages,
        )


def _numbered(file: Any, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    at = begin
    while line := file.readline(_LONGEST_LINE):
        yield at, line
        at += len(line)


def _heading(path: Path, lines: Iterator[tuple[int, bytes]]) -> tuple[dict[str, str], list[str], int, int]:
    heading: dict[str, str] = {}
    for number, (at, line) in enumerate(lines, 1):
        text = line.decode("utf-8", "replace").strip()
        if text.startswith("//"):
            name, colon, value = text.strip("/* ").partition(":")
            if not colon:
                # "File Format Version 3.4", "Janus Release 4.3.0": the value is the last word
                name, _, value = text.strip("/* ").rpartition(" ")
            if name:
                heading[name.strip()] = value.strip()
            continue
        if not text:
            continue
        names = [name.lower() for name in text.split()]
        if "brd" not in names or "ch" not in names or len(set(names)) != len(names):
            raise BadInputError(
                f"the line of column names is {text[:80]!r}",
                where=f"{path}:{number}",
                do="a Janus list names its columns Brd Ch …",
            )
        return heading, names, at + len(line), number
    raise BadInputError("no line of column names", where=str(path), do="the list is empty or is not a Janus list")
