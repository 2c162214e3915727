"""What becomes of a run on the disk: its software, its files, what a dead daemon left of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from petqc.file_hash import sha256_of
from petqcd.resume import left_behind

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.analysis import RunContext
    from petqc.results import Run

log = logging.getLogger(__name__)

DIED = "the daemon stopped in mid-run, the run was interrupted"
"""The reason of a run that a dead daemon left behind."""


def finalise_left_behind(folder: Path) -> list[str]:
    """Finalise every recording that a dead process left in a run folder; what happened, for the record.

    A document that it had only begun to write is nothing, and goes.
    """
    from petqc.formats.petsys_raw import finalise_partial

    told = []
    recordings = sorted(folder.glob("*.rawf.partial"))
    for begun in set(folder.glob("*.partial")) - set(recordings):
        begun.unlink(missing_ok=True)
    for partial in recordings:
        try:
            path = finalise_partial(partial)
            digest = sha256_of(path)
            told.append(f"The recording {path.name} was finalised as truncated (SHA-256 {digest}).")
        except Exception as error:  # noqa: BLE001 - the record must be made whatever the file looks like
            told.append(f"The recording {partial.name} could not be finalised: {error}.")
    return told + left_behind(folder)


def concluded(folder: Path, run_id: str) -> Run | None:
    """The run that a dead daemon had concluded and not stored any more: its document is written last, and whole."""
    from petqc.errors import BadInputError
    from petqc.results import Run

    try:
        run = Run.load(folder)
    except (BadInputError, OSError):
        return None
    if run.run_id != run_id:
        return None
    run.notes.append("The daemon stopped before this record was stored; it was stored when the daemon started again.")
    return run


def invalid(context: RunContext, reason: str) -> Run:
    """A run that could not measure."""
    from petqc.analysis import invalid_run

    return invalid_run(context, reason)


def missed(context: RunContext, reason: str) -> Run:
    """A run that never began: nothing was switched on."""
    from petqc.limits import Status

    run = invalid(context, reason)
    run.verdict, run.sentence = Status.MISSED, f"Missed: {reason}; nothing was switched on."
    return run


def write_files(run: Run, folder: Path) -> None:
    """The run's documents and its report; a report that cannot be made is told in the log and loses nothing."""
    run.save(folder)
    try:
        from petqc.report import write_html

        write_html(run, folder / "report.html")
    except Exception:
        log.exception("the report of run %s could not be written", run.run_id)


def first_line(error: Exception) -> str:
    """An error for a sentence; all of it is in the log."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
