"""What a stored run holds beside its document, from its files; its channels: `petqcd.web.channel_view`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from petqcd.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.results import Run, Spectrum
    from petqcd.store import Store


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
    return drawn(found)


def drawn(found: Spectrum) -> dict[str, Any]:
    """What a page needs to draw a spectrum, as plain types."""
    return {
        "id": found.id,
        "node": found.node,
        "quantity": found.quantity,
        "unit": found.unit,
        "text": found.text,
        "window": found.window,
        "edges": numbers(found.edges),
        "counts": numbers(found.counts),
        "fit": None if found.fit is None else numbers(found.fit),
        "background": None if found.background is None else numbers(found.background),
        "delayed": None if found.delayed is None else numbers(found.delayed),
    }


def numbers(values: NDArray[Any]) -> list[float | None]:
    """Numbers for JSON, null where there is none."""
    return [v if math.isfinite(v) else None for v in np.asarray(values, np.float64).tolist()]
