"""The channels of a stored run: maps of a module and of the ring, and one channel with its spectrum and neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from petqcd.errors import NotFoundError
from petqcd.web import run_view
from petqcd.web.run_view import numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.report.channels import Channels, Module
    from petqc.report.ring_maps import Ring
    from petqc.results import ChannelColumn, Run, Spectrum
    from petqcd.store import Store

MOST_CELLS = 4096
"""Of one module's map; the largest modules have 1024."""
MOST_FLAGGED = 40
"""Channels that the page lists as having something to say."""
_NOT_KEPT = "this run keeps no spectra of single channels"


def modules(run: Run) -> list[str]:
    """The modules whose channels a run has numbers of."""
    found = _channels(run)
    return [] if found is None or not run.columns else [module.node for module in found.modules]


def has_ring(run: Run) -> bool:
    """Whether the detectors stand in a ring whose crystals have places."""
    return _channels(run) is not None and bool(run.columns) and _ring(run) is not None


def flagged(run: Run) -> tuple[list[Any], int]:
    """Channels outside limits or without a number, the worst first; and how many more there are."""
    from petqc.report.tables import offenders

    found = _channels(run)
    every = [] if found is None else offenders(run, found)
    return every[:MOST_FLAGGED], max(len(every) - MOST_FLAGGED, 0)


def modules_of(run: Run, indices: list[int]) -> dict[str, str]:
    """The module of some channels, by the channel's name."""
    found = _must_have(run) if indices else None
    return {} if found is None else {found.nodes[i]: _place(found, i)[0].node for i in indices}


def module_map(run: Run, node: str) -> dict[str, Any]:
    """The channels of one module: place, marks, and each quantity with status, as arrays of one length.

    Raises:
        NotFoundError: the run has no channels of it.
    """
    found = _must_have(run)
    module = next((m for m in found.modules if m.node == node), None)
    if module is None:
        raise NotFoundError(f"run {run.run_id} has no channels of {node}")
    at = module.index[:MOST_CELLS]
    return {
        "node": node,
        "columns": module.columns,
        "rows": module.rows,
        "is_mapped": module.is_mapped,
        **_cells(found, at, module.column[:MOST_CELLS], module.row[:MOST_CELLS]),
        "quantities": [
            {
                **_about(column),
                "value": numbers(column.value[at]),
                "uncertainty": numbers(column.uncertainty[at]),
                "status": [str(s) for s in column.status[at]],
            }
            for column in _columns(run, found)
        ],
    }


def ring_map(run: Run, quantity: str) -> dict[str, Any]:
    """One quantity of all channels, the ring unrolled: the angle to the right, the axis upwards.

    Raises:
        NotFoundError: the detectors stand in no ring, or there is no such quantity.
    """
    found, ring = _must_have(run), _ring(run)
    if ring is None:
        raise NotFoundError(f"the detectors of run {run.run_id} stand in no ring")
    columns = _columns(run, found)
    # Nothing is asked for: the first that has a number.
    fits = (c for c in columns if (c.id == quantity if quantity else np.isfinite(c.value).any()))
    shown = next(fits, None)
    if shown is None:
        raise NotFoundError(f"run {run.run_id} has no {quantity or 'number'} of channels")
    rows, across = ring.shape
    return {
        "node": "scanner",
        "columns": across,
        "rows": rows,
        "is_mapped": True,
        **_cells(found, np.arange(len(found)), ring.across, rows - 1 - ring.up),
        "quantities": [
            {**_about(c), "value": numbers(c.value), "status": [str(s) for s in c.status]} if c is shown else _about(c)
            for c in columns
        ],
    }


def channel(store: Store, run: Run, node: str) -> dict[str, Any]:
    """One channel: where it is, all its numbers beside those of its neighbours, its spectrum as counted; reads files.

    `neighbours` are the crystals around it in its module's map; `around` is the mean of their spectra.

    Raises:
        NotFoundError: the run has no such channel.
    """
    found = _must_have(run)
    if node not in found.nodes:
        raise NotFoundError(f"run {run.run_id} has no channel {node}")
    index = found.nodes.index(node)
    module, k = _place(found, index)
    around = _neighbours(module, k)
    spectra, why = _spectra(store, run, found, [index, *around.tolist()])
    own = spectra.pop(index, None)
    return {
        "node": node,
        "asic": found.asics[index],
        "module": module.node,
        "place": [int(module.column[k]), int(module.row[k])] if module.is_mapped else None,
        "marks": [word for word, marks in found.marks.items() if marks[index]],
        "values": [_value(column, index, around) for column in _columns(run, found)],
        "neighbours": [_neighbour(run, found, int(i)) for i in around],
        "spectrum": None if own is None else run_view.drawn(own),
        "around": _mean([s.counts for s in spectra.values()]),
        "why": why if own is None else "",
    }


def _channels(run: Run) -> Channels | None:
    from petqc.report.channels import read_channels

    return read_channels(run)


def _must_have(run: Run) -> Channels:
    found = _channels(run)
    if found is None:
        raise NotFoundError(f"run {run.run_id} has no channels")
    return found


def _ring(run: Run) -> Ring | None:
    from petqc.report.ring_maps import ring_of

    return ring_of(run)


def _columns(run: Run, found: Channels) -> list[ChannelColumn]:
    from petqc.report.channels import map_columns

    return [column for column in map_columns(run) if column.value.size == len(found)]


def _about(column: ChannelColumn) -> dict[str, Any]:
    from petqc.report.text import title_of

    return {"id": column.id, "title": title_of(column.id), "unit": column.unit}


def _cells(found: Channels, at: NDArray[np.int64], column: NDArray[np.int64], row: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "channels": [found.nodes[i] for i in at],
        "column": column.tolist(),
        "row": row.tolist(),
        "marks": {word: marks[at].tolist() for word, marks in found.marks.items() if marks[at].any()},
    }


def _place(found: Channels, index: int) -> tuple[Module, int]:
    """The module of a channel, and which of its channels it is."""
    for module in found.modules:
        at = np.flatnonzero(module.index == index)
        if at.size:
            return module, int(at[0])
    raise NotFoundError(f"{found.nodes[index]} is in no module")


def _neighbours(module: Module, k: int) -> NDArray[np.int64]:
    """Channels whose crystals touch this one's; without a map nobody knows them."""
    if not module.is_mapped:
        return np.empty(0, np.int64)
    near = (np.abs(module.column - module.column[k]) <= 1) & (np.abs(module.row - module.row[k]) <= 1)
    near[k] = False
    touching: NDArray[np.int64] = module.index[near]
    return touching


def _value(column: ChannelColumn, index: int, around: NDArray[np.int64]) -> dict[str, Any]:
    beside = column.value[around]
    beside = beside[np.isfinite(beside)]
    return {
        **_about(column),
        "value": numbers(column.value[[index]])[0],
        "uncertainty": numbers(column.uncertainty[[index]])[0],
        "n": int(column.n[index]),
        "status": str(column.status[index]),
        "reason": str(column.reason[index]),
        "beside": float(np.median(beside)) if beside.size else None,
    }


def _neighbour(run: Run, found: Channels, index: int) -> dict[str, Any]:
    """A neighbour with its first quantity."""
    first = next(iter(_columns(run, found)), None)
    return {
        "node": found.nodes[index],
        "value": None if first is None else numbers(first.value[[index]])[0],
        "unit": "" if first is None else first.unit,
        "status": "" if first is None else str(first.status[index]),
    }


def _spectra(store: Store, run: Run, found: Channels, indices: list[int]) -> tuple[dict[int, Spectrum], str]:
    """Spectra of channels by their index, from the run's folder or that of the first part that has them; or why not."""
    from petqc.channel_spectra import CHANNEL_SPECTRA_PARQUET, read_channel_spectra
    from petqc.errors import BadInputError

    of = {found.nodes[i]: i for i in indices}
    for run_id in (run.run_id, *(part.run_id for part in run.parts)):
        folder = None if run_id is None else store.folder_of(run_id)
        if folder is None or not (folder / CHANNEL_SPECTRA_PARQUET).is_file():
            continue
        try:
            there = read_channel_spectra(folder, [found.absolute[i] for i in indices])
        except BadInputError as error:
            return {}, str(error)
        return {of[s.node]: s for s in there.values()}, f"run {run_id} has no spectrum of it"
    return {}, _NOT_KEPT


def _mean(counts: list[NDArray[np.float64]]) -> list[float | None] | None:
    return numbers(np.mean(counts, axis=0)) if counts else None
