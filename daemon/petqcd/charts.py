"""The charts of a run that was just measured: what they need of the history, and what they make of the verdict."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc.charts.judge import PastRun
    from petqc.results import Run
    from petqcd.store import Store

log = logging.getLogger(__name__)

MOST_RUNS = 1000
"""Most that are looked at; a calibration seldom lasts for so many."""
_PAGE = 50
_DAY_S = 86_400.0


def chart(run: Run, store: Store, *, nuclide: str, accepted: Sequence[str] = ()) -> None:
    """Judge a run by the charts of its kind, in the run itself; reads the history. A calibration has none.

    Charts that cannot be made are a remark in the run, never the end of it.

    Args:
        run: measured and judged by its absolute limits.
        store: the history.
        nuclide: of the source, whose decay is taken out of rates; one that is not known does not decay.
        accepted: ids of the runs of the baseline that holds.
    """
    if run.is_calibration or run.verdict is Status.INVALID:
        return
    from petqc.charts.judge import HALF_LIFE_D, PastRun, judge, warn

    try:
        calibration = json.dumps(run.calibration_ids, sort_keys=True)
        now = PastRun.of(run, _day(run.started_at), calibration=calibration)
        warn(run, judge(run, now, _past(run, store), half_life_d=HALF_LIFE_D.get(nuclide), accepted=accepted))
    except Exception as error:
        log.exception("the charts of run %s", run.run_id)
        run.notes.append(f"Control charts could not be made: {type(error).__name__}: {error}.")


def _past(run: Run, store: Store) -> list[PastRun]:
    """Earlier runs of the same kind on the same scanner, oldest first, back to the last change of calibration."""
    found: list[PastRun] = []
    before: int | None = None
    while len(found) < MOST_RUNS:
        lines = store.history(_PAGE, run.kind, before)
        for line in lines:
            before = line.sequence
            if line.state != "finished" or line.verdict == "invalid":
                continue
            if (line.scanner, line.simulated) != (run.scanner, run.simulated):
                continue
            document = store.document(line.run_id)
            if document["calibration_ids"] != run.calibration_ids:
                return found[::-1]
            found.append(_of(document))
        if len(lines) < _PAGE:
            break
    return found[::-1]


def _of(document: dict[str, Any]) -> PastRun:
    from petqc.charts.judge import PastRun
    from petqc.results import Run

    calibration = json.dumps(document["calibration_ids"], sort_keys=True)
    return PastRun.of(Run.from_document(document), _day(document["started_at"]), calibration=calibration)


def _day(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() / _DAY_S
