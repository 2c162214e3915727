"""Recordings of channel counters: what was read at each point of a scan, one JSON object a line.

The first line says what holds for all points: channels, window, and settings that the scan was taken with and that
differ from channel to channel. Every further line is a point. A point exists once its line has its end, so that a scan
that was interrupted can go on behind its last.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from petqc.calibrate import CounterPoint
from petqc.errors import BadInputError
from petqc.formats.damage import DamageLog

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

SCHEMA: Final = "petqc-counters/1"
SUFFIX: Final = ".jsonl"
_LARGEST_COUNT: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class CounterHeader:
    """What holds for all points.

    channels: (n,) int32 absolute channel numbers. window_clk: clocks of one reading. of_channels: settings of each
    channel that did not change during the scan, (n,) int64 each, by name.
    """

    channels: NDArray[np.int32]
    window_clk: int
    of_channels: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def to_line(self) -> str:
        """The first line of a file."""
        document = {
            "schema": SCHEMA,
            "window_clk": self.window_clk,
            "channels": self.channels.tolist(),
            "of_channels": {name: values.tolist() for name, values in self.of_channels.items()},
        }
        return json.dumps(document, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str, *, where: str) -> Self:
        """Parse the first line of a file.

        Raises:
            BadInputError: it is none.
        """
        try:
            document = json.loads(line)
            if document["schema"] != SCHEMA:
                raise BadInputError(f"has schema {document['schema']!r}, not {SCHEMA}", where=where)
            channels = np.array(document["channels"], np.int32)
            of_channels = {str(k): np.array(v, np.int64) for k, v in document["of_channels"].items()}
            window_clk = int(document["window_clk"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInputError(
                "is no recording of channel counters", where=where, do="name the points.jsonl of a calibration run"
            ) from error
        if window_clk < 1 or channels.ndim != 1 or any(v.shape != channels.shape for v in of_channels.values()):
            raise BadInputError("has a first line that does not fit together", where=where)
        return cls(channels, window_clk, of_channels)


class CounterReader:
    """Reads a recording of channel counters.

    Attributes:
        header: of the file. points: all that are whole, in order. end: bytes up to there. damages: what could not be
            used: everything behind the first line that is torn or does not fit.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read it.

        Raises:
            BadInputError: it cannot be read, or is something else.
        """
        self.path = Path(path)
        self.damages = DamageLog()
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=str(self.path)) from error
        if not lines or not lines[0].endswith(b"\n"):
            raise BadInputError("has no whole first line", where=str(self.path), do="take the scan again")
        self.header = CounterHeader.from_line(lines[0].decode(errors="replace"), where=str(self.path))
        self.points: list[CounterPoint] = []
        self.end = len(lines[0])
        for line in lines[1:]:
            point = _point(line, self.header)
            if isinstance(point, str):
                left = sum(len(other) for other in lines) - self.end
                self.damages.note(self.end, point, len(self.points), left)
                break
            self.points.append(point)
            self.end += len(line)


def _point(line: bytes, header: CounterHeader) -> CounterPoint | str:
    """The point that a line is, or what is wrong with it."""
    if not line.endswith(b"\n"):
        return "a line without an end"
    try:
        document: Any = json.loads(line)
        settings = {str(k): float(v) for k, v in document["settings"].items()}
        given = document["counts"]
        if not all(type(count) is int and 0 <= count <= _LARGEST_COUNT for count in given):
            return "counts that are none"
        counts = np.array(given, np.int64)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "a line that is no point"
    if counts.shape != header.channels.shape:
        return f"a point of {counts.size} channels among points of {header.channels.size}"
    return CounterPoint(settings, header.channels, counts, header.window_clk)


class CounterRecording:
    """A recording of channel counters being written, or written on.

    Attributes:
        path: the file. header: its header. n_points: whole points in it.
    """

    def __init__(self, prefix: str | os.PathLike[str], header: CounterHeader) -> None:
        """Create PREFIX.jsonl, or open it behind its last whole point.

        Args:
            prefix: path without suffix.
            header: for a new file; an existing one must have the same channels and window, and keeps its own.

        Raises:
            BadInputError: an existing file is another recording.
        """
        self.path = Path(f"{os.fspath(prefix)}{SUFFIX}")
        self.header, self.n_points, end = header, 0, 0
        if self.path.exists() and b"\n" in self.path.read_bytes():
            found = CounterReader(self.path)
            same = np.array_equal(found.header.channels, header.channels)
            if not same or found.header.window_clk != header.window_clk:
                raise BadInputError(
                    "is a recording of other channels or windows",
                    where=str(self.path),
                    do="begin a new one under another name",
                )
            self.header, self.n_points, end = found.header, len(found.points), found.end
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, end)
        self._end = end
        if not end:
            self._append(header.to_line())
        self.sync()

    def add(self, point: CounterPoint) -> None:
        """Append a point. It is durable after the next `sync`, or at once as far as the operating system lives."""
        document = {"settings": point.settings, "counts": point.counts.tolist()}
        self._append(json.dumps(document, allow_nan=False) + "\n")
        self.n_points += 1

    def _append(self, line: str) -> None:
        data = line.encode()
        os.pwrite(self._file, data, self._end)
        self._end += len(data)

    def sync(self) -> None:
        """Let what was added survive a power failure."""
        os.fsync(self._file)

    def close(self) -> None:
        """Sync and close; safe more than once."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
