"""Daily QC reports of the scanners' own software as runs, so that years of history are there on day one.

One vendor's report is one file here; a kind of report is added to `READERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.results import Run
from petqc.vendor_reports.siemens_daily_qc import KIND as SIEMENS_DAILY_QC
from petqc.vendor_reports.siemens_daily_qc import read_siemens_daily_qc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

READERS: Final[Mapping[str, Callable[[Path], Run]]] = {SIEMENS_DAILY_QC: read_siemens_daily_qc}
"""Readers of reports by kind, which is also the kind of the runs they give."""


def imported_run(document: Mapping[str, Any]) -> Run:
    """The run of a document that is to be imported.

    Raises:
        BadInputError: it is no run document, or neither of a kind that is imported nor a re-analysis, which is listed
            apart: a daily run cannot be slipped in.
    """
    try:
        run = Run.from_document(document)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"not the document of a run: {error}") from error
    is_again = run.reanalysis_of and run.run_id.startswith(f"{run.reanalysis_of}-again-")
    if run.kind not in READERS and not is_again:
        raise BadInputError(f"runs of kind {run.kind!r} are not imported", do=f"known are {', '.join(READERS)}")
    return run
