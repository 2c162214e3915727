"""The results of runs as one long table, one row a check and node: CSV for spreadsheets, Parquet for all else."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

from petqc.output_files import partial_of, sync_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from petqc.results import Run

COLUMNS: Final = {
    "run_id": str,
    "scanner": str,
    "kind": str,
    "started_at": str,
    "simulated": bool,
    "verdict": str,
    "check": str,
    "node": str,
    "value": float,
    "unit": str,
    "uncertainty": float,
    "n": int,
    "status": str,
    "fail_low": float,
    "warn_low": float,
    "warn_high": float,
    "fail_high": float,
    "baseline": float,
    "reason": str,
    "method": str,
}
"""Columns and their types. value, uncertainty, limits and baseline are in `unit`; what is missing is empty."""


def rows(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """One row a check and node, in the order of the documents."""
    for run in runs:
        for check in run.checks:
            limits = check.limits
            yield {
                "run_id": run.run_id,
                "scanner": run.scanner,
                "kind": run.kind,
                "started_at": run.started_at,
                "simulated": run.simulated,
                "verdict": str(run.verdict),
                "check": check.id,
                "node": check.node,
                "value": check.value,
                "unit": check.unit,
                "uncertainty": check.uncertainty,
                "n": check.n,
                "status": str(check.status),
                "fail_low": limits.fail_low,
                "warn_low": limits.warn_low,
                "warn_high": limits.warn_high,
                "fail_high": limits.fail_high,
                "baseline": check.baseline,
                "reason": check.reason,
                "method": check.method,
            }


def write_csv(runs: Iterable[Run], path: Path) -> int:
    """Write the table as CSV (RFC 4180, UTF-8, numbers with all their digits). Returns the number of rows."""
    partial, count = partial_of(path), 0
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(COLUMNS))
        writer.writeheader()
        for row in rows(runs):
            writer.writerow({name: _cell(value) for name, value in row.items()})
            count += 1
    _in_place(partial, path)
    return count


def write_parquet(runs: Iterable[Run], path: Path) -> int:
    """Write the table as Parquet. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[type, pa.DataType] = {str: pa.string(), bool: pa.bool_(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist(list(rows(runs)), schema=schema)
    partial = partial_of(path)
    pq.write_table(table, partial)
    _in_place(partial, path)
    return int(table.num_rows)


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value


def _in_place(partial: Path, path: Path) -> None:
    sync_path(partial)
    partial.replace(path)
