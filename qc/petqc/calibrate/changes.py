"""What a new table changes against the one it replaces, in units that people can judge; the largest changes by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.calibrate.tdc import CLOCK_PS
from petqc.calibration.tdc import interval_of_code
from petqc.channel_map import channel_node
from petqc.formats.petsys_tables import BRANCH_T, TABLES, absolute_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from petqc.formats.petsys_tables import TableKind

LARGEST: Final = 10
_AT_CLK = 100.0
"""Where two curves of an integrator are compared: in the middle of the lengths that are scanned."""


@dataclass(frozen=True, slots=True)
class Change:
    """One quantity of a table. n: lines that both tables have; median, largest: of absolute changes, in unit.

    lines: the largest changes, each with node, further words (TAC, branch), before and after.
    """

    table: str
    quantity: str
    unit: str
    n: int
    n_new: int
    n_gone: int
    median: float | None
    largest: float | None
    lines: tuple[tuple[str, float, float], ...]

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**asdict(self), "lines": [list(line) for line in self.lines]}


def changes(kind: TableKind, old: NDArray[Any] | None, new: NDArray[Any]) -> list[Change]:
    """Every quantity of a table; old None: there was no such table.

    Args:
        kind: of both tables.
        old: the parent's table.
        new: the one that takes its place.
    """
    form = TABLES[kind]
    empty = np.empty(0, form.dtype)
    before, after = (empty if old is None else old), new
    names = [c.name for c in form.columns[: form.n_key]]
    keys, at_before, at_after = np.intersect1d(
        _keys(before, names), _keys(after, names), assume_unique=True, return_indices=True
    )
    found = []
    for quantity, unit, was, now in _quantities(kind, before[at_before], after[at_after]):
        with np.errstate(invalid="ignore"):  # what is infinite in both did not change, and has no difference
            difference = np.abs(now - was)
        known = np.isfinite(difference)
        order = np.argsort(-np.where(known, difference, -1.0), kind="stable")[:LARGEST]
        lines = tuple(
            (_line(after[at_after[i]], names), round(float(was[i]), 6), round(float(now[i]), 6))
            for i in order.tolist()
            if known[i] and difference[i] > 0
        )
        found.append(
            Change(
                table=kind,
                quantity=quantity,
                unit=unit,
                n=int(keys.size),
                n_new=int(after.size - keys.size),
                n_gone=int(before.size - keys.size),
                median=round(float(np.median(difference[known])), 6) if known.any() else None,
                largest=round(float(difference[known].max()), 6) if known.any() else None,
                lines=lines,
            )
        )
    return found


def _keys(table: NDArray[Any], names: list[str]) -> NDArray[np.int64]:
    """One number for each line; lines of a table are unique in these columns, whose values are below 2^17."""
    key = np.zeros(table.size, np.int64)
    for name in names:
        key = (key << (17 if name == "dac_code" else 6)) | table[name].astype(np.int64)
    return key


def _line(line: Any, names: list[str]) -> str:
    if "chip" not in names:
        return " ".join(f"{name} {int(line[name])}" for name in names)
    absolute = int(absolute_of(np.asarray(line)))
    extra = [f"TAC {int(line['tac'])}"] if "tac" in names else []
    if "branch" in names:
        extra.append("T branch" if int(line["branch"]) == BRANCH_T else "E branch")
    return " ".join([channel_node(absolute), *extra])


def _quantities(
    kind: TableKind, old: NDArray[Any], new: NDArray[Any]
) -> Iterator[tuple[str, str, NDArray[np.float64], NDArray[np.float64]]]:
    if kind == "tdc":
        # The convention leaves a shift between t0 and a0 open, and one common to all lines of a branch: what counts is
        # the time of a code in the middle of the range, against the mean.
        code = new["a0"] + new["a1"] + new["a2"]
        was, now = (_time_ps(table, code) for table in (old, new))
        for branch in np.unique(new["branch"]):
            mine = new["branch"] == branch
            both = mine & np.isfinite(was) & np.isfinite(now)
            if both.any():
                was[mine] -= was[both].mean()
                now[mine] -= now[both].mean()
        yield "time at the middle of the range", "ps", was, now
        yield "step at the middle of the range", "ps", _step_ps(old), _step_ps(new)
    elif kind == "qdc":
        yield f"code after {_AT_CLK:g} clocks", "codes", _code(old, _AT_CLK), _code(new, _AT_CLK)
    else:
        form = TABLES[kind]
        for column in form.columns[form.n_key :]:
            if not column.words:
                yield column.name, "", old[column.name].astype(np.float64), new[column.name].astype(np.float64)


def _time_ps(table: NDArray[Any], code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Time that the lines make of codes, ps."""
    a0, a1, a2 = (table[name].astype(np.float32) for name in ("a0", "a1", "a2"))
    q = interval_of_code(code.astype(np.float32), a0, a1, a2)
    return np.asarray(-CLOCK_PS * (q + table["t0"]), np.float64)


def _step_ps(table: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(CLOCK_PS / (table["a1"] + 2 * table["a2"]), np.float64)


def _code(table: NDArray[Any], clk: float) -> NDArray[np.float64]:
    value = np.zeros(table.size)
    for k in range(9, -1, -1):
        value = value * clk + table[f"p{k}"]
    return value
