"""The past of a run that was just measured, read from the history: trends of its first numbers, and what moved."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from petqc.limits import Status

if TYPE_CHECKING:
    from petqc.baseline import AcceptedBaseline
    from petqc.past import Changes, Trend
    from petqc.results import Run
    from petqcd.store import Store, StoredValues

log = logging.getLogger(__name__)

MOST_RUNS = 400
"""Of a trend: several a day."""


def tell_past(run: Run, store: Store, *, nuclide: str, reference: AcceptedBaseline | None) -> None:
    """Put the past into the run; reads the history. A calibration, or what could not measure, has none.

    What cannot be read is a remark in the run, never the end of it.

    Args:
        run: finished, not stored yet.
        store: the history.
        nuclide: of the source; one that is not known does not decay.
        reference: the baseline that holds for it.
    """
    if run.is_calibration or run.verdict is Status.INVALID:
        return
    from petqc.charts.judge import HALF_LIFE_D
    from petqc.past import Past

    try:
        trends, earlier = _trends(run, store)
        run.past = Past(tuple(trends), tuple(_changes(run, store, earlier, HALF_LIFE_D.get(nuclide), reference)))
    except Exception as error:
        log.exception("the past of run %s", run.run_id)
        run.notes.append(f"The past could not be told: {type(error).__name__}: {error}.")


def _trends(run: Run, store: Store) -> tuple[list[Trend], list[StoredValues]]:
    from petqc.past import TREND_DAYS, Trend, TrendPoint
    from petqc.report.tiles import tiles

    places = [(tile.id, tile.node, tile.unit) for tile in tiles(run) if tile.number]
    since = datetime.fromisoformat(run.started_at) - timedelta(days=TREND_DAYS)
    earlier = [
        one
        for one in store.values(
            run.kind,
            scanner=run.scanner,
            simulated=run.simulated,
            checks=sorted({check for check, _, _ in places}),
            most=MOST_RUNS,
        )
        if since <= datetime.fromisoformat(one.started_at)
    ]
    found = []
    for check, node, unit in places:
        points, calibration, before = [], -1, None
        for one in earlier:
            if one.calibration_ids != before:
                calibration, before = calibration + 1, one.calibration_ids
            value = one.values.get((check, node))
            if value is not None:
                points.append(TrendPoint(one.started_at, *value, one.statuses[check, node], calibration))
        now = run.find(check, node)
        if now is not None and now.value is not None:
            number = calibration + (run.calibration_ids != before)
            points.append(TrendPoint(run.started_at, now.value, now.uncertainty or 0.0, str(now.status), number))
        found.append(Trend(check, node, unit, tuple(points)))
    return found, earlier


def _changes(
    run: Run,
    store: Store,
    earlier: list[StoredValues],
    half_life_d: float | None,
    reference: AcceptedBaseline | None,
) -> list[Changes]:
    from petqc.baseline import day_of
    from petqc.past import since_baseline, since_run
    from petqc.results import Run

    if not earlier:
        return []
    last = earlier[-1]
    found = [since_run(run, Run.from_document(store.document(last.run_id)), "the run before")]
    same = [one for one in earlier if one.calibration_ids == run.calibration_ids]
    has_changed = any(one.calibration_ids != run.calibration_ids for one in earlier)
    if has_changed and same and same[0].run_id != last.run_id:
        first = Run.from_document(store.document(same[0].run_id))
        found.append(since_run(run, first, "the first run with this calibration"))
    if reference is not None:
        found.append(since_baseline(run, reference, day_of(run.started_at), half_life_d))
    return found
