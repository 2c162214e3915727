"""What a stored run holds beside its document: spectra, and the numbers of single channels; from its files."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from petqcd.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.report.channels import Channels
    from petqc.results import Run, Spectrum
    from petqcd.store import Store

MOST_CELLS = 4096
"""Of one module's map; the largest modules have 1024."""


def load(store: Store, run_id: str) -> Run:
    """A stored run with all that its files hold; one without files (imported) from its document. Reads files.

    Raises:
        NotFoundError: there is no such run, or it is going on.
    """
    from petqc.results import Run

    document = store.document(run_id)
    folder = store.folder_of(document["run_id"])
    file = folder / "run.json"
    if not file.is_file():
        return Run.from_document(document)
    return _of_file(folder, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _of_file(folder: Path, _changed_ns: int) -> Run:
    from petqc.results import Run

    return Run.load(folder)


def spectra(run: Run) -> list[dict[str, Any]]:
    """Which spectra a run has."""
    return [{"id": s.id, "node": s.node, "quantity": s.quantity, "unit": s.unit, "text": s.text} for s in run.spectra]


def spectrum(run: Run, id_: str, node: str) -> dict[str, Any]:
    """One spectrum: edges, counts, and the fit through it.

    Raises:
        NotFoundError: the run has none.
    """
    found: Spectrum | None = next((s for s in run.spectra if (s.id, s.node) == (id_, node)), None)
    if found is None:
        raise NotFoundError(f"run {run.run_id} has no spectrum {id_} of {node}")
    return {
        "id": found.id,
        "node": found.node,
        "quantity": found.quantity,
        "unit": found.unit,
        "text": found.text,
        "window": found.window,
        "edges": _numbers(found.edges),
        "counts": _numbers(found.counts),
        "fit": None if found.fit is None else _numbers(found.fit),
        "background": None if found.background is None else _numbers(found.background),
        "delayed": None if found.delayed is None else _numbers(found.delayed),
    }


def modules(run: Run) -> list[str]:
    """The modules whose channels a run has numbers of."""
    found = _channels(run)
    return [] if found is None or not run.columns else [module.node for module in found.modules]


def module_map(run: Run, node: str) -> dict[str, Any]:
    """The channels of one module: place, marks, and each quantity with status, as arrays of one length.

    Raises:
        NotFoundError: the run has no channels of it.
    """
    from petqc.report.channels import map_columns
    from petqc.report.text import title_of

    found = _channels(run)
    module = None if found is None else next((m for m in found.modules if m.node == node), None)
    if found is None or module is None:
        raise NotFoundError(f"run {run.run_id} has no channels of {node}")
    at = module.index[:MOST_CELLS]
    return {
        "node": node,
        "columns": module.columns,
        "rows": module.rows,
        "is_mapped": module.is_mapped,
        "channels": [found.nodes[i] for i in at],
        "asics": [found.asics[i] for i in at],
        "column": module.column[:MOST_CELLS].tolist(),
        "row": module.row[:MOST_CELLS].tolist(),
        "marks": {word: marks[at].tolist() for word, marks in found.marks.items() if marks[at].any()},
        "quantities": [
            {
                "id": column.id,
                "title": title_of(column.id),
                "unit": column.unit,
                "value": _numbers(column.value[at]),
                "uncertainty": _numbers(column.uncertainty[at]),
                "status": [str(s) for s in column.status[at]],
                "reason": [str(r) for r in column.reason[at]],
            }
            for column in map_columns(run)
            if column.value.size == len(found)
        ],
    }


def _channels(run: Run) -> Channels | None:
    from petqc.report.channels import read_channels

    return read_channels(run)


def _numbers(values: NDArray[Any]) -> list[float | None]:
    """Numbers for JSON, null where there is none."""
    return [v if math.isfinite(v) else None for v in np.asarray(values, np.float64).tolist()]
