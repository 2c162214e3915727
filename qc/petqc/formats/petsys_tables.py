"""PETsys calibration and settings tables: text lines to structured arrays and back.

Source: PETsys sw_daq_tofpet2 revision 194662e (calibration tables, maps, bias and discriminator tables). The vendor's
reader skips what it cannot read without a word; ours reports every such line.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TableKind = Literal[
    "tdc",
    "qdc",
    "energy",
    "time_offset",
    "channel_map",
    "trigger_map",
    "acquisition_mode",
    "disc_calibration",
    "disc_settings",
    "bias_calibration",
    "bias_settings",
    "hwtrigger",
    "energy_kev",
    "bias_map",
]

_MAX_WARNINGS = 1000


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, whole numbers or not, the range it must be in, or the words that stand for numbers."""

    name: str
    whole: bool = False
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    inf_allowed: bool = False

    @property
    def dtype(self) -> str:
        """Type of the column's array."""
        return "i1" if self.words else "i4" if self.whole else "f8"


@dataclass(frozen=True, slots=True)
class TableFormat:
    """A kind of table. key: the columns that make a line unique; ini_key: its name in config.ini."""

    kind: TableKind
    ini_section: str
    ini_key: str
    columns: tuple[Column, ...]
    n_key: int
    optional: bool = False
    symmetric: bool = False

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Structured type of the table's array."""
        return np.dtype([(c.name, c.dtype) for c in self.columns])

    @property
    def comment(self) -> str:
        """First line of a table that we write."""
        return "# " + "\t".join(c.name for c in self.columns) + "\n"


def _address(fourth: str = "channel") -> tuple[Column, ...]:
    return (
        Column("port", whole=True, low=0, high=31),
        Column("slave", whole=True, low=0, high=31),
        Column("chip", whole=True, low=0, high=63),
        Column(fourth, whole=True, low=0, high=63),
    )


def _bias_address() -> tuple[Column, ...]:
    return (
        Column("port", whole=True, low=0, high=31),
        Column("slave", whole=True, low=0, high=31),
        Column("slot", whole=True, low=0, high=15),
        Column("channel", whole=True, low=0, high=63),
    )


def _reals(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name) for name in names)


_TAC = Column("tac", whole=True, low=0, high=3)

_FORMATS: Final = (
    TableFormat(
        "tdc",
        "main",
        "tdc_calibration_table",
        (*_address(), _TAC, Column("branch", words=("T", "E")), *_reals("t0", "a0", "a1", "a2")),
        6,
    ),
    TableFormat("qdc", "main", "qdc_calibration_table", (*_address(), _TAC, *_reals(*(f"p{k}" for k in range(10)))), 5),
    TableFormat(
        "energy",
        "main",
        "energy_calibration_table",
        (*_address(), _TAC, *_reals("p0", "p1", "p2", "p3")),
        5,
        optional=True,
    ),
    TableFormat(
        "time_offset", "main", "time_offset_calibration_table", (*_address(), *_reals("t0_ps")), 4, optional=True
    ),
    TableFormat(
        "channel_map",
        "main",
        "channel_map",
        (
            *_address(),
            Column("region", whole=True, low=-1, high=4095),
            Column("xi", whole=True, low=-32768, high=32767),
            Column("yi", whole=True, low=-32768, high=32767),
            *_reals("x", "y", "z"),
        ),
        4,
    ),
    TableFormat(
        "trigger_map",
        "main",
        "trigger_map",
        (
            Column("region1", whole=True, low=0, high=4095),
            Column("region2", whole=True, low=0, high=4095),
            Column("kind", words=("M", "C")),
        ),
        2,
        symmetric=True,
    ),
    TableFormat(
        "acquisition_mode",
        "main",
        "acquisition_mode_table",
        (*_address(), Column("mode", words=("tot", "qdc"))),
        4,
        optional=True,
    ),
    TableFormat(
        "disc_calibration",
        "main",
        "disc_calibration_table",
        (
            *_address(),
            Column("baseline_t", whole=True, low=-1, high=63),  # the vendor's tools end with an error on 52.0
            Column("baseline_e", whole=True, low=-1, high=63),
            *_reals("zero_t1", "zero_t2", "zero_e", "noise_t1", "noise_t2", "noise_e"),
        ),
        4,
    ),
    TableFormat("disc_settings", "main", "disc_settings_table", (*_address(), *_reals("vth_t1", "vth_t2", "vth_e")), 4),
    TableFormat(
        "bias_calibration",
        "main",
        "bias_calibration_table",
        (
            *_bias_address(),
            Column("dac_code", whole=True, low=0, high=65535),
            Column("volts"),
            Column("adc_code", whole=True, low=0),
        ),
        5,
    ),
    TableFormat(
        "bias_settings",
        "main",
        "bias_settings_table",
        (*_bias_address(), *_reals("offset", "prebreakdown", "breakdown", "overvoltage")),
        4,
    ),
    TableFormat(
        "hwtrigger",
        "hw_trigger",
        "hwtrigger_empirical_calibration_table",
        (*_address(), _TAC, *_reals("p0", "p1", "p2", "k0")),
        5,
        optional=True,
    ),
    TableFormat(
        "energy_kev",
        "petqc",
        "energy_kev_table",
        (*_address(), Column("kev_per_unit"), Column("saturation_unit", inf_allowed=True)),
        4,
        optional=True,
    ),
    TableFormat(
        "bias_map",
        "petqc",
        "bias_map_table",
        (
            *_address(),
            Column("slot", whole=True, low=0, high=15),
            Column("bias_channel", whole=True, low=0, high=63),
        ),
        4,
        optional=True,
    ),
)

TABLES: Final[dict[TableKind, TableFormat]] = {f.kind: f for f in _FORMATS}
"""Every kind of table that petqc knows."""

TOT, QDC = 0, 1
"""Values of the mode column of the acquisition_mode table (and of .modf files)."""

BRANCH_T, BRANCH_E = 0, 1
"""Values of the branch column of the tdc table."""

SAME_PHOTON, COINCIDENCE = 0, 1
"""Values of the kind column of the trigger_map table: M and C."""


class _Notes:
    """Warnings with their line; bounded, so that a file of noise does not become a list of noise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.left_out = 0

    def add(self, line: int, text: str) -> None:
        if len(self.lines) < _MAX_WARNINGS:
            self.lines.append(f"{self.name}:{line}: {text}")
        else:
            self.left_out += 1

    def all(self) -> tuple[str, ...]:
        if self.left_out:
            return (*self.lines, f"{self.name}: {self.left_out} more lines with problems")
        return tuple(self.lines)


def parse_table(kind: TableKind, text: str, *, name: str = "table") -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read a table.

    Args:
        kind: which table it is.
        text: its content; `#` starts a comment, fields are separated by any white space.
        name: what to call it in warnings.

    Returns:
        (n,) structured array of the kind's dtype, one row a usable line, and warnings `name:line: text` about every
        line that was not used. Of lines with the same key the last one counts, as it does for the vendor.
    """
    form = TABLES[kind]
    table = _without_remarks(form, text)
    if table is not None:
        return table, ()
    columns = form.columns
    notes = _Notes(name)
    numbers, rows = _split(text)
    if kind == "bias_calibration" and rows and all(len(r) == len(columns) - 1 for r in rows):
        # Tables of boards with fixed bias outputs have no slot column.
        notes.add(numbers[0], "no slot column: taken as slot 0")
        rows = [[*r[:2], "0", *r[2:]] for r in rows]
    table = _convert(form, rows)
    if table is None:
        numbers, rows = _usable(columns, numbers, rows, notes)
        table = _convert(form, rows)
        if table is None:  # every field was tried alone, so together they cannot fail
            raise BadInputError("cannot be read", where=name)
    table, numbers = _in_range(columns, table, numbers, notes)
    return _last_of_each(form, table, numbers, notes), notes.all()


def _without_remarks(form: TableFormat, text: str) -> NDArray[Any] | None:
    """A table of which every line is used, read in one go; None where that is not so, or might not be.

    The tables of a large scanner have millions of fields: as strings of their own they need a gigabyte.
    """
    if "\r" in text or text[text.rstrip().rfind("\n") + 1 :].lstrip()[:1] in {"", "#"}:
        return None
    fields = [(c.name, f"U{max(map(len, c.words)) + 1}" if c.words else c.dtype) for c in form.columns]
    try:
        lines = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline="")
        found = np.loadtxt(lines, np.dtype(fields), comments="#", ndmin=1)
    except ValueError:
        return None
    table = np.empty(found.size, form.dtype)
    for column in form.columns:
        table[column.name] = 0 if column.words else found[column.name]
        known = np.full(found.size, not column.words)
        for number, word in enumerate(column.words):
            here = found[column.name] == word
            table[column.name][here] = number
            known |= here
        if not known.all():
            return None
    notes, numbers = _Notes(""), [0] * table.size
    table, numbers = _in_range(form.columns, table, numbers, notes)
    table = _last_of_each(form, table, numbers, notes)
    return None if notes.lines else table


def _split(text: str) -> tuple[list[int], list[list[str]]]:
    numbers, rows = [], []
    for number, line in enumerate(text.split("\n"), 1):
        fields = (line[: line.index("#")] if "#" in line else line).split()
        if fields:
            numbers.append(number)
            rows.append(fields)
    return numbers, rows


def _convert(form: TableFormat, rows: list[list[str]]) -> NDArray[Any] | None:
    """All rows at once; None if any field of any row does not read."""
    table = np.empty(len(rows), form.dtype)
    columns = form.columns
    if not rows:
        return table
    if set(map(len, rows)) != {len(columns)}:
        return None
    for column, fields in zip(columns, zip(*rows, strict=True), strict=True):
        try:
            if column.words:
                table[column.name] = [column.words.index(f) for f in fields]
            elif column.whole:
                values = np.array(fields, "U").astype(np.int64)
                table[column.name] = values
                if (table[column.name] != values).any():
                    return None  # does not fit 32 bits
            else:
                table[column.name] = np.array(fields, "U").astype(np.float64)
        except (ValueError, OverflowError):
            return None
    return table


def _problem(column: Column, field: str) -> str | None:
    if column.words:
        return None if field in column.words else f"{column.name} is {field!r}, not one of {', '.join(column.words)}"
    try:
        value = int(field) if column.whole else float(field)
    except ValueError:
        return f"{column.name} is {field!r}, not a {'whole ' if column.whole else ''}number"
    if column.whole and not -(1 << 31) <= value < 1 << 31:
        return f"{column.name} {field} does not fit 32 bits"
    return None


def _usable(
    columns: Sequence[Column], numbers: list[int], rows: list[list[str]], notes: _Notes
) -> tuple[list[int], list[list[str]]]:
    kept_numbers, kept = [], []
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != len(columns):
            notes.add(number, f"{len(row)} fields where {len(columns)} are needed: line not used")
            continue
        problem = next((p for c, f in zip(columns, row, strict=True) if (p := _problem(c, f)) is not None), None)
        if problem:
            notes.add(number, f"{problem}: line not used")
            continue
        kept_numbers.append(number)
        kept.append(row)
    return kept_numbers, kept


def _in_range(
    columns: Sequence[Column], table: NDArray[Any], numbers: list[int], notes: _Notes
) -> tuple[NDArray[Any], list[int]]:
    good = np.ones(table.size, bool)
    for column in columns:
        values = table[column.name]
        bad = np.zeros(table.size, bool)
        if column.low is not None:
            bad |= values < column.low
        if column.high is not None:
            bad |= values > column.high
        if not column.whole and not column.words:
            bad |= np.isnan(values) if column.inf_allowed else ~np.isfinite(values)
        for row in np.flatnonzero(bad & good):
            high = "" if column.high is None else f"{column.high:g}"
            span = "" if column.low is None else f", outside {column.low:g}..{high}"
            notes.add(numbers[row], f"{column.name} is {values[row]}{span}: line not used")
        good &= ~bad
    if good.all():
        return table, numbers
    return table[good], [number for number, ok in zip(numbers, good, strict=True) if ok]


def _last_of_each(form: TableFormat, table: NDArray[Any], numbers: list[int], notes: _Notes) -> NDArray[Any]:
    names = [c.name for c in form.columns[: form.n_key]]
    if table.size < 2:
        return table
    key = np.zeros(table.size, np.int64)
    parts = [table[name].astype(np.int64) for name in names]
    if form.symmetric:
        parts = [np.minimum(parts[0], parts[1]), np.maximum(parts[0], parts[1])]
    for part in parts:
        key = key * (int(part.max()) + 1) + part
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    if not again.size:
        return table
    keep = np.ones(table.size, bool)
    for at in again:
        earlier, later = int(order[at]), int(order[at + 1])
        keep[earlier] = False
        what = " ".join(f"{name} {table[name][earlier]}" for name in names)
        notes.add(numbers[later], f"{what} again: replaces line {numbers[earlier]}")
    return table[keep]


def absolute_of(table: NDArray[Any]) -> NDArray[np.int32]:
    """Absolute channel number of each line of a table by port, slave, chip and channel; shape as given."""
    port, slave, chip, channel = (table[name].astype(np.int32) for name in ("port", "slave", "chip", "channel"))
    return np.asarray(port << 17 | slave << 12 | chip << 6 | channel, np.int32)


def set_address(table: NDArray[Any], absolute: NDArray[Any]) -> None:
    """Give the lines of a table the port, slave, chip and channel of absolute channel numbers."""
    table["port"], table["slave"] = absolute >> 17, absolute >> 12 & 31
    table["chip"], table["channel"] = absolute >> 6 & 63, absolute & 63


def _texts(values: NDArray[Any]) -> list[str]:
    """Each value as text. Addresses, and powers that no polynomial has, are the same number many times."""
    if values.dtype.kind in "iu":
        known = {v: repr(v) for v in np.unique(values).tolist()}
        return [known[v] for v in values.tolist()]
    is_one_value = values.size > 0 and values.tobytes() == values[:1].tobytes() * values.size
    return [repr(values[0].item())] * values.size if is_one_value else [repr(v) for v in values.tolist()]


def format_table(kind: TableKind, table: NDArray[Any]) -> str:
    """The table as text; reading it again gives the same array, bit for bit."""
    form = TABLES[kind]
    if table.dtype.names is None or [c.name for c in form.columns] != list(table.dtype.names):
        wanted = ", ".join(c.name for c in form.columns)
        raise BadInputError(f"a {kind} table has the columns {wanted}, this array has {table.dtype.names}")
    fields = []
    for column in form.columns:
        values = table[column.name]
        fields.append([column.words[v] for v in values.tolist()] if column.words else _texts(values))
    return form.comment + "".join("\t".join(row) + "\n" for row in zip(*fields, strict=True))


def write_table(path: Path, kind: TableKind, table: NDArray[Any]) -> None:
    """Write a table that the vendor's tools and `parse_table` read."""
    path.write_text(format_table(kind, table), "utf-8")
