"""What a run of any kind holds to: analysed again from its folder it is what it was, and twice the same bytes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from petqc.compare import compare
from petqc.formats.bundle import read_bundle
from petqc.reanalyse import reanalyse
from petqc.results import Run
from petqc.run_names import expected_id

if TYPE_CHECKING:
    from pathlib import Path


def same_again(folder: Path, copy: Path) -> Run:
    """Analyse a run again, where it is and from a copy elsewhere.

    Args:
        folder: of the run.
        copy: where to copy it, which does not exist.
    """
    done, again = Run.load(folder), reanalyse(folder)
    shutil.copytree(folder, copy)
    assert again.to_json() == reanalyse(copy).to_json()
    assert (again.kind, again.reanalysis_of) == (done.kind, done.run_id)
    assert again.run_id == expected_id(read_bundle(folder))
    assert again.sentence == f"Re-analysis: {done.sentence}"
    assert (again.verdict, again.environment) == (done.verdict, done.environment)
    found = compare(done, again)
    assert found.n_same == len(found.differences) > 0
    assert [c.status for c in again.checks] == [c.status for c in done.checks]
    assert [(c.id, c.value.tobytes()) for c in again.columns] == [(c.id, c.value.tobytes()) for c in done.columns]
    return again
