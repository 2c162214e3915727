"""List-mode text of any laboratory: one event a line, described by a small TOML file.

A descriptor, all keys but `column` optional::

    title = "Two detectors and a time-to-amplitude converter"
    separator = "whitespace"     # or "," ";" "|" or a tab
    comment = "#"                # text from here to the end of the line is no data
    skip_lines = 0               # heading lines

    [[column]]
    name = "energy_1"            # what the column is called from here on
    index = 0                    # which field it is, from 0
    quantity = "energy"          # energy, time, time_difference, amplitude, channel, id or other
    detector = "1"               # which detector it belongs to
    unit = "kev"                 # unit after scaling
    scale = 1.0                  # value = field * scale + offset; a negative pulse has a negative scale
    offset = 0.0
    zero_is_missing = true       # a field that is exactly 0 was not measured

Values are float64, NaN where nothing was measured.
"""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import Damage, DamageLog
from petqc.formats.reader import StreamReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Quantity = Literal["energy", "time", "time_difference", "amplitude", "channel", "id", "other"]
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)

_LONGEST_LINE = 1 << 16
_SEPARATORS: Final = ("whitespace", ",", ";", "|", "\t")


@dataclass(frozen=True, slots=True)
class ListColumn:
    """One column: value = field * scale + offset, in `unit`."""

    name: str
    index: int
    quantity: Quantity = "other"
    detector: str = ""
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    zero_is_missing: bool = False


@dataclass(frozen=True, slots=True)
class ListDescriptor:
    """How to read a list-mode text file."""

    columns: tuple[ListColumn, ...]
    title: str = ""
    separator: str = "whitespace"
    comment: str = "#"
    skip_lines: int = 0

    @property
    def fields_needed(self) -> int:
        """Fewest fields that a line of data has."""
        return max(c.index for c in self.columns) + 1

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ListDescriptor:
        """Read a descriptor file.

        Raises:
            BadInputError: not TOML, a key that does not exist, or a value that makes no sense.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"cannot be read: {error}", where=str(path)) from error
        return cls.from_toml(text, where=str(path))

    @classmethod
    def shipped(cls, name: str) -> ListDescriptor:
        """A descriptor that comes with petqc: `two_energies_and_tac`, `lyso_and_two_nai`."""
        path = Path(__file__).parent / "descriptors" / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
            raise BadInputError(f"there is no descriptor {name!r}", do=f"known: {known}; or give a file")
        return cls.load(path)

    @classmethod
    def from_toml(cls, text: str, *, where: str = "descriptor") -> ListDescriptor:
        """Read a descriptor."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInputError(f"not TOML: {error}", where=where) from error
        columns = content.pop("column", None)
        if not isinstance(columns, list) or not columns:
            raise BadInputError("no [[column]]", where=where, do="describe at least one column")
        read = tuple(_column(entry, f"{where}: column {n}") for n, entry in enumerate(columns, 1))
        names = [c.name for c in read]
        if len(set(names)) != len(names):
            raise BadInputError(f"two columns have one name: {names}", where=where)
        known = {"title": str, "separator": str, "comment": str, "skip_lines": int}
        _check_types(content, known, where)
        descriptor = cls(read, **content)
        if descriptor.separator not in _SEPARATORS:
            choice = ", ".join(map(repr, _SEPARATORS))
            raise BadInputError(f"separator {descriptor.separator!r} is none of {choice}", where=where)
        if descriptor.skip_lines < 0:
            raise BadInputError(f"skip_lines is {descriptor.skip_lines}", where=where)
        return descriptor


def _check_types(content: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for key, value in content.items():
        if key not in known:
            raise BadInputError(f"unknown key {key!r}", where=where, do=f"known keys: {', '.join(known)}")
        good = isinstance(value, int | float) if known[key] is float else isinstance(value, known[key])
        if not good or (isinstance(value, bool) and known[key] is not bool):
            raise BadInputError(f"{key} is {value!r}, not {known[key].__name__}", where=where)


def _column(entry: Any, where: str) -> ListColumn:
    known = {
        "name": str,
        "index": int,
        "quantity": str,
        "detector": str,
        "unit": str,
        "scale": float,
        "offset": float,
        "zero_is_missing": bool,
    }
    if not isinstance(entry, dict):
        raise BadInputError("not a table", where=where)
    _check_types(entry, known, where)
    missing = {"name", "index"} - entry.keys()
    if missing:
        raise BadInputError(f"{' and '.join(sorted(missing))} missing", where=where)
    column = ListColumn(**entry)
    if column.quantity not in QUANTITIES:
        raise BadInputError(f"quantity {column.quantity!r} is none of {', '.join(QUANTITIES)}", where=where)
    if not 0 <= column.index < 1000:
        raise BadInputError(f"index {column.index} is outside 0..999", where=where)
    if not math.isfinite(column.scale) or column.scale == 0 or not math.isfinite(column.offset):
        raise BadInputError(f"scale {column.scale} and offset {column.offset} give no number", where=where)
    return column


@dataclass(frozen=True, slots=True)
class ListEvents:
    """Events of a list-mode file: columns by name, (n,) float64 each, NaN where nothing was measured.

    lines: lines of the file. damages: lines that do not read.
    """

    descriptor: ListDescriptor
    columns: Mapping[str, NDArray[np.float64]]
    lines: int
    damages: DamageLog

    def __len__(self) -> int:
        return next(iter(self.columns.values())).size

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.columns[name]

    @property
    def damage(self) -> Damage | None:
        """The first line that does not read."""
        return self.damages.first


class ListTextReader(StreamReader):
    """A list-mode text file, opened for reading in blocks.

    Attributes:
        size: bytes of the file. bytes_read, lines_read, records_read: how far the last `blocks` came.
        damages: lines that it could not read.
    """

    def __init__(self, path: str | os.PathLike[str], descriptor: ListDescriptor) -> None:
        """Open a file.

        Raises:
            BadInputError: no such file.
        """
        self.path = Path(path)
        self.descriptor = descriptor
        self.damages = DamageLog()
        self.bytes_read = self.lines_read = self.records_read = 0
        self._file = self._open(self.path)
        self.size = os.fstat(self._file.fileno()).st_size

    def blocks(self, max_lines: int = 1 << 16) -> Iterator[dict[str, NDArray[np.float64]]]:
        """Columns of at most max_lines lines at a time, (n,) float64 each."""
        self.damages = DamageLog()
        self.bytes_read = self.lines_read = self.records_read = 0
        self._file.seek(0)
        comment = self.descriptor.comment.encode()
        for _ in range(self.descriptor.skip_lines):
            self._count(self._file.readline())
        while True:
            rows: list[list[bytes]] = []
            places: list[tuple[int, int, int]] = []
            n_lines = 0
            while n_lines < max_lines and (line := self._file.readline(_LONGEST_LINE)):
                n_lines += 1
                begin = self.bytes_read
                self._count(line)
                row = self._split(line.split(comment, 1)[0] if comment else line)
                if row:
                    rows.append(row)
                    places.append((begin, self.lines_read, len(line)))
            if not n_lines:
                return
            columns = self._convert(rows)
            if columns is None:
                columns = self._convert(self._readable(rows, places))
            else:
                self.records_read += len(rows)
            if columns is None:  # every line was tried alone, so together they cannot fail
                raise BadInputError("cannot be read", where=str(self.path))
            yield columns

    def _count(self, line: bytes) -> None:
        self.bytes_read += len(line)
        self.lines_read += bool(line)

    def _split(self, line: bytes) -> list[bytes]:
        if self.descriptor.separator == "whitespace":
            return line.split()
        line = line.strip(b"\r\n ")
        return [field.strip() for field in line.split(self.descriptor.separator.encode())] if line else []

    def _convert(self, rows: list[list[bytes]]) -> dict[str, NDArray[np.float64]] | None:
        needed = self.descriptor.fields_needed
        if any(len(row) < needed for row in rows):
            return None
        columns = {}
        for column in self.descriptor.columns:
            try:
                fields = np.array([row[column.index] for row in rows], "S").astype(np.float64)
            except ValueError:
                return None
            with np.errstate(over="ignore"):
                values = fields * column.scale + column.offset
            if not np.isfinite(values).all():
                return None
            if column.zero_is_missing:
                values[fields == 0] = np.nan
            columns[column.name] = values
        return columns

    def _readable(self, rows: list[list[bytes]], places: list[tuple[int, int, int]]) -> list[list[bytes]]:
        good = []
        needed = self.descriptor.fields_needed
        for row, (offset, number, length) in zip(rows, places, strict=True):
            if self._convert([row]) is not None:
                good.append(row)
                self.records_read += 1
                continue
            what = (
                f"{len(row)} fields, {needed} are needed"
                if len(row) < needed
                else f"a field of {b' '.join(row)[:80]!r} is no number"
            )
            self.damages.note(offset, f"line {number}: {what}", self.records_read, length)
        return good


def read_list_text(path: str | os.PathLike[str], descriptor: ListDescriptor) -> ListEvents:
    """All events of a file at once; for a long file read `ListTextReader.blocks` instead."""
    with ListTextReader(path, descriptor) as reader:
        parts = list(reader.blocks())
        columns = {
            column.name: np.concatenate([p[column.name] for p in parts]) if parts else np.empty(0)
            for column in descriptor.columns
        }
        return ListEvents(descriptor, columns, reader.lines_read, reader.damages)
