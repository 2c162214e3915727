"""The energy spectrum of every channel of a run, as counted, with the parameters of the fit through it: one file.

Kept so that whoever doubts a channel's number sees what it was made of. One channel is read without the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.channel_map import channel_node
from petqc.errors import BadInputError
from petqc.output_files import write_parquet
from petqc.results import Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.fits.photopeaks import PeakFits
    from petqc.qc_input import QcInput

CHANNEL_SPECTRA_PARQUET: Final = "channel_spectra.parquet"
_ROWS: Final = 64
"""Channels that are compressed together: as many are read for one. An ASIC has 64."""
_ABOUT: Final = b"petqc.spectra"
_COLUMNS: Final = ("channel", "counts", "below", "above", "first", "last", "parameters", "reason")


@dataclass(frozen=True, slots=True)
class ChannelSpectra:
    """Spectra of n channels on one axis.

    channels: (n,) int32, sorted absolute numbers. edges: (b + 1,) of equal bins, in `unit`. counts: (n, b) uint32.
    outside: (n, 2) int64, counts below and above the axis. fits: of each; None: nobody looked for peaks.
    """

    quantity: str
    unit: str
    channels: NDArray[np.int32]
    edges: NDArray[np.float64]
    counts: NDArray[np.uint32]
    outside: NDArray[np.int64]
    fits: PeakFits | None

    def save(self, folder: Path) -> None:
        """Write the file; the same spectra give the same bytes."""
        import pyarrow as pa

        n, bins = self.counts.shape
        fits = self.fits
        parameters = np.zeros((n, 0)) if fits is None else fits.parameters
        ends = np.zeros((n, 2), np.int32) if fits is None else fits.bins
        reasons = np.full(n, "nobody looked for a peak", object) if fits is None else fits.reason
        about = {
            "quantity": self.quantity,
            "unit": self.unit,
            "first_edge": float(self.edges[0]),
            "bin": float(self.edges[1] - self.edges[0]),
            "constants": [] if fits is None else fits.constants.tolist(),
        }
        table = pa.table(
            {
                "channel": pa.array(self.channels),
                "counts": _rows(self.counts, pa.uint32(), bins),
                "below": pa.array(self.outside[:, 0]),
                "above": pa.array(self.outside[:, 1]),
                "first": pa.array(ends[:, 0]),
                "last": pa.array(ends[:, 1]),
                "parameters": _rows(parameters, pa.float64(), parameters.shape[1]),
                "reason": pa.array([str(r) for r in reasons], pa.string()),
            }
        ).replace_schema_metadata({_ABOUT: json.dumps(about)})
        write_parquet(table, Path(folder) / CHANNEL_SPECTRA_PARQUET, compression="zstd", row_group_size=_ROWS)


def of_run(q: QcInput) -> ChannelSpectra | None:
    """The spectra of what was counted; None where no energies were recorded. Fits are those that checks asked for."""
    if not (q.context.has_singles and q.context.has_energies):
        return None
    h = q.histograms
    return ChannelSpectra(
        "energy", q.energy_unit, h.topology.channels, h.energy_edges, h.energy_counts, h.energy_outside, q.fitted
    )


def read_channel_spectra(folder: Path, channels: Sequence[int]) -> dict[int, Spectrum]:
    """Spectra of some channels of a run, by absolute number; those that the file has.

    Raises:
        BadInputError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / CHANNEL_SPECTRA_PARQUET
    wanted = np.unique(np.asarray(channels, np.int64))
    found: dict[int, Spectrum] = {}
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            if missing := set(_COLUMNS) - set(file.schema_arrow.names):
                raise BadInputError(f"column {min(missing)} is missing", where=str(path))
            about = json.loads(file.schema_arrow.metadata[_ABOUT])
            for group in range(file.num_row_groups):
                there: Any = file.metadata.row_group(group).column(0).statistics
                if not ((wanted >= there.min) & (wanted <= there.max)).any():
                    continue
                for row in file.read_row_group(group).to_pylist():
                    if row["channel"] in wanted:
                        found[row["channel"]] = _spectrum(row, about)
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"no readable spectra of channels: {error}", where=str(path)) from error
    return found


def _rows(values: NDArray[Any], kind: Any, size: int) -> Any:
    import pyarrow as pa

    if not size:
        return pa.array([[]] * values.shape[0], pa.list_(kind))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(values.shape[0] + 1, dtype=np.int32) * size), flat)


def _spectrum(row: dict[str, Any], about: dict[str, Any]) -> Spectrum:
    counts = np.array(row["counts"], np.float64)
    edges = about["first_edge"] + np.arange(counts.size + 1) * about["bin"]
    fit = background = None
    if row["last"] > row["first"]:
        fit, background = _drawn(row, edges, np.array(about["constants"], np.float64))
    told = [row["reason"]] if row["reason"] else []
    told += [f"{row[side]} {side} the axis" for side in ("below", "above") if row[side]]
    return Spectrum(
        about["quantity"], channel_node(row["channel"]), about["quantity"], about["unit"], edges, counts,
        fit=fit, background=background, text="; ".join(told),
    )  # fmt: skip


def _drawn(
    row: dict[str, Any], edges: NDArray[np.float64], constants: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The fit and its background on the axis, from its parameters; NaN outside the fitted range."""
    from petqc.fits.kernels import A1, A2, N_PARAMETERS, expected

    first, last = row["first"], row["last"]
    parameters = np.array(row["parameters"], np.float64)
    without = parameters.copy()
    without[[A1, A2]] = 0.0
    jac = np.empty((N_PARAMETERS, last - first))
    drawn = []
    for values in (parameters, without):
        curve = np.full(edges.size - 1, np.nan)
        expected(values, constants, edges[first : last + 1], curve[first:last], jac)
        drawn.append(curve)
    return drawn[0], drawn[1]
