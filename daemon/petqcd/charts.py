"""The charts of a run that was just measured: what they need of the history, and what they make of the verdict."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.baseline import AcceptedBaseline
    from petqc.charts.crystals import CrystalValues
    from petqc.charts.judge import PastRun
    from petqc.results import CheckResult, Run
    from petqcd.store import Store
    from petqcd.store.rows import StoredValues

log = logging.getLogger(__name__)

MOST_RUNS = 1000
"""Most that are looked at; a calibration seldom lasts for so many."""
_DAY_S = 86_400.0


def chart(
    run: Run,
    store: Store,
    *,
    nuclide: str,
    reference: AcceptedBaseline | None = None,
    acceptance: AcceptedBaseline | None = None,
) -> None:
    """Judge a run by the charts of its kind, in the run itself; reads the history. A calibration has none.

    Charts that cannot be made are a remark in the run, never the end of it.

    Args:
        run: measured and judged by its absolute limits.
        store: the history.
        nuclide: of the source, whose decay is taken out of rates; one that is not known does not decay.
        reference: the baseline that holds for the calibration in use.
        acceptance: the one that stays through calibrations.
    """
    if run.is_calibration or run.verdict is Status.INVALID:
        return
    try:
        _chart(run, store, nuclide, reference, acceptance)
    except Exception as error:
        log.exception("the charts of run %s", run.run_id)
        run.notes.append(f"Control charts could not be made: {type(error).__name__}: {error}.")


def _chart(
    run: Run, store: Store, nuclide: str, reference: AcceptedBaseline | None, acceptance: AcceptedBaseline | None
) -> None:
    from petqc.charts.acceptance import since_acceptance
    from petqc.charts.judge import HALF_LIFE_D, PastRun, judge, split, warn

    half_life_d = HALF_LIFE_D.get(nuclide)
    accepted = () if reference is None else reference.runs
    now = PastRun.of(run, _day(run.started_at))
    past = _past(run, store)
    judged = judge(run, now, past, half_life_d=half_life_d, accepted=accepted)
    if acceptance is not None:
        units = {c.id: c.unit for c in run.checks}
        judged.results.extend(since_acceptance([*past, now], acceptance, units, half_life_d=half_life_d))
    learned, after = split(now, past, accepted)
    judged.results.extend(_crystals(run, store, [p.run_id for p in learned], [p.run_id for p in after[:-1]]))
    warn(run, judged)
    _onsets(run, store)


def _crystals(run: Run, store: Store, learned: Sequence[str], since: Sequence[str]) -> list[CheckResult]:
    """Charts of single crystals; a run whose channel file is gone or damaged is passed over."""
    from petqc.charts.crystals import CHARTED_CRYSTALS, LEAST_RUNS, crystal_centre, crystals_outside

    checks = [column.id for column in run.columns if column.id in CHARTED_CRYSTALS]
    if len(learned) < LEAST_RUNS or not checks or not since:
        return []
    own = dict(run.channels) | {f"{c.id}.{part}": getattr(c, part) for c in run.columns for part in _PARTS}
    of_learned = [_columns(store, run_id, checks) for run_id in learned]
    before = _columns(store, since[-1], checks)
    results = []
    for check in checks:
        now = _values(check, own)
        if now is not None:
            base = [one for columns in of_learned if (one := _values(check, columns)) is not None]
            results.append(crystals_outside(check, base, _values(check, before), now))
            centre = crystal_centre(base, now)
            if centre is not None:
                run.channels[f"{check}.baseline"] = centre
    return [result for result in results if result is not None]


_PARTS = ("value", "uncertainty")


def _columns(store: Store, run_id: str, checks: Sequence[str]) -> dict[str, NDArray[Any]]:
    from petqc.errors import BadInputError
    from petqc.run_files import load_columns

    names = ["channel", "module", *(f"{check}.{part}" for check in checks for part in _PARTS)]
    try:
        return load_columns(store.folder_of(run_id), names)
    except BadInputError as error:
        log.warning("no crystals of run %s for the charts: %s", run_id, error)
        return {}


def _values(check: str, columns: Mapping[str, NDArray[Any]]) -> CrystalValues | None:
    import numpy as np

    from petqc.charts.crystals import CrystalValues

    if not {"channel", "module", f"{check}.value"} <= set(columns):
        return None
    _, module = np.unique(columns["module"].astype(str), return_inverse=True)
    value, error = (columns[f"{check}.{part}"] for part in _PARTS)
    return CrystalValues(columns["channel"], module, value, error)


def _stored(
    run: Run, store: Store, checks: Sequence[str], *, most: int, nodes: Sequence[str] = ()
) -> list[StoredValues]:
    """Of earlier runs of the same kind on the same scanner, oldest first, with any calibration."""
    return store.values(run.kind, scanner=run.scanner, simulated=run.simulated, checks=checks, most=most, nodes=nodes)


def _past(run: Run, store: Store) -> list[PastRun]:
    """Earlier runs with what is charted, oldest first."""
    from petqc.charts.judge import CHARTED, TEMPERATURE, PastRun

    stored = _stored(run, store, (*CHARTED, TEMPERATURE), most=MOST_RUNS)
    return [PastRun.of_values(s.run_id, _day(s.started_at), s.calibration_ids, s.values) for s in stored]


def _onsets(run: Run, store: Store) -> None:
    """How bias outputs that the diagnosis names came to where they are."""
    from petqc.charts.judge import PastRun
    from petqc.charts.onset import CHECK, asked, tell_onset
    from petqc.charts.onset import MOST_RUNS as RUNS_ASKED

    nodes = asked(run)
    if not nodes:
        return
    stored = _stored(run, store, (CHECK,), most=RUNS_ASKED, nodes=nodes)
    past = [PastRun(s.run_id, _day(s.started_at), s.calibration_ids, s.values) for s in stored]
    tell_onset(run, _day(run.started_at), past)


def _day(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() / _DAY_S
