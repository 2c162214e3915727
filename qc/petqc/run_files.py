"""A run as files: run.json, channels.parquet, spectra.parquet, channel_spectra.parquet in one folder.

The JSON is written last and moved into place, so a folder that has a run.json is complete. The same run gives the
same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import BadInputError
from petqc.output_files import sync_path, write_parquet, write_text
from petqc.results import ChannelColumn, Run, Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RUN_JSON = "run.json"
CHANNELS_PARQUET = "channels.parquet"
SPECTRA_PARQUET = "spectra.parquet"

_FIELDS = ("value", "uncertainty", "n", "status", "reason")
_SPECTRUM_TEXTS = ("id", "node", "quantity", "unit", "text")
_SPECTRUM_ARRAYS = ("edges", "counts", "fit", "background", "delayed")


def save_run(run: Run, folder: Path) -> None:
    """Write the files of a run; spectra of single channels only where it has them.

    Args:
        run: the run.
        folder: a folder that exists; files of the same names are replaced.

    Raises:
        BadInputError: the folder does not exist, or columns of the run differ in length.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError("no such folder", where=str(folder), do="create it before saving a run into it")
    text = run.to_json()
    (folder / RUN_JSON).unlink(missing_ok=True)
    write_parquet(_channels_table(run), folder / CHANNELS_PARQUET)
    write_parquet(_spectra_table(run), folder / SPECTRA_PARQUET)
    if run.channel_spectra is not None:
        run.channel_spectra.save(folder)
    write_text(folder / RUN_JSON, text)
    sync_path(folder)


def load_run(folder: Path) -> Run:
    """Read the run that save_run wrote; the Parquet files may be missing, then there are no columns or spectra.

    Spectra of single channels stay in their file: `petqc.channel_spectra` reads those that are asked for.

    Raises:
        BadInputError: there is no run.json, or a file is damaged.
    """
    folder = Path(folder)
    path = folder / RUN_JSON
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError("no run here", where=str(path), do="name a folder that holds a run.json") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInputError(f"not a run document: {error}", where=str(path), do="restore it from a backup") from error
    if not isinstance(document, dict):
        raise BadInputError("not a run document: no object at the top", where=str(path))
    try:
        run = Run.from_document(document)
    except (KeyError, TypeError) as error:
        raise BadInputError(f"the run document lacks or misnames a field: {error}", where=str(path)) from error
    if (folder / CHANNELS_PARQUET).exists():
        run.channels, run.columns = _read_channels(folder / CHANNELS_PARQUET)
    if (folder / SPECTRA_PARQUET).exists():
        run.spectra = _read_spectra(folder / SPECTRA_PARQUET)
    return run


def load_columns(folder: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some columns of a run's channels.parquet, by name as they stand there (`photopeak.value`); those that are there.

    Raises:
        BadInputError: the file is missing or damaged.
    """
    table = _read_parquet(Path(folder) / CHANNELS_PARQUET, names)
    return {name: _column(table, name) for name in table.column_names}


def _channels_table(run: Run) -> Any:
    import pyarrow as pa

    n = len(next(iter(run.channels.values()))) if run.channels else (run.columns[0].value.size if run.columns else 0)
    arrays: dict[str, Any] = {}
    for name, values in run.channels.items():
        if len(values) != n:
            raise BadInputError(f"channel column {name!r} has {len(values)} rows, not {n}")
        arrays[name] = pa.array(values.tolist(), pa.string()) if values.dtype == object else pa.array(values)
    for column in run.columns:
        for part in _FIELDS:
            values = getattr(column, part)
            if values.size != n:
                raise BadInputError(f"channel column {column.id}.{part} has {values.size} rows, not {n}")
            texts = part in {"status", "reason"}
            arrays[f"{column.id}.{part}"] = (
                pa.array([str(v) for v in values], pa.string()) if texts else pa.array(values, from_pandas=not texts)
            )
    units = {column.id: column.unit for column in run.columns}
    return pa.table(arrays).replace_schema_metadata({"petqc.units": json.dumps(units)})


def _read_channels(path: Path) -> tuple[dict[str, NDArray[Any]], list[ChannelColumn]]:
    table = _read_parquet(path)
    try:
        units = json.loads((table.schema.metadata or {})[b"petqc.units"])
    except (KeyError, ValueError) as error:
        raise BadInputError("not a file of channel columns: no units in it", where=str(path)) from error
    checked = {f"{id_}.{part}" for id_ in units for part in _FIELDS}
    missing = checked - set(table.column_names)
    if missing:
        raise BadInputError(f"column {min(missing)} is missing", where=str(path))
    channels = {name: _column(table, name) for name in table.column_names if name not in checked}
    columns = [
        ChannelColumn(
            id=id_,
            unit=unit,
            value=_column(table, f"{id_}.value").astype(np.float64),
            uncertainty=_column(table, f"{id_}.uncertainty").astype(np.float64),
            n=_column(table, f"{id_}.n").astype(np.int64),
            status=_column(table, f"{id_}.status"),
            reason=_column(table, f"{id_}.reason"),
        )
        for id_, unit in units.items()
    ]
    return channels, columns


def _column(table: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    array: NDArray[Any] = column.to_numpy()
    return array


def _spectra_table(run: Run) -> Any:
    import pyarrow as pa

    floats = pa.list_(pa.float64())
    schema = pa.schema(
        [(name, pa.string()) for name in _SPECTRUM_TEXTS]
        + [(name, floats) for name in _SPECTRUM_ARRAYS]
        + [("window_low", pa.float64()), ("window_high", pa.float64())]
    )
    rows = []
    for s in run.spectra:
        row: dict[str, Any] = {name: getattr(s, name) for name in _SPECTRUM_TEXTS}
        for name in _SPECTRUM_ARRAYS:
            values = getattr(s, name)
            row[name] = None if values is None else np.asarray(values, np.float64)
        row["window_low"], row["window_high"] = s.window if s.window is not None else (None, None)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema)


def _read_spectra(path: Path) -> list[Spectrum]:
    table = _read_parquet(path)
    missing = {*_SPECTRUM_TEXTS, *_SPECTRUM_ARRAYS, "window_low", "window_high"} - set(table.column_names)
    if missing:
        raise BadInputError(f"column {min(missing)} is missing", where=str(path))
    found = []
    for row in table.to_pylist():
        arrays: dict[str, Any] = {k: None if row[k] is None else np.array(row[k], np.float64) for k in _SPECTRUM_ARRAYS}
        window = None if row["window_low"] is None else (row["window_low"], row["window_high"])
        found.append(Spectrum(**{k: row[k] for k in _SPECTRUM_TEXTS}, **arrays, window=window))
    return found


def _read_parquet(path: Path, names: Sequence[str] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            there = pq.ParquetFile(file)
            return there.read(None if names is None else [n for n in names if n in there.schema_arrow.names])
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInputError(
            f"not a readable Parquet file: {error}", where=str(path), do="restore it from a backup, or remove it"
        ) from error
