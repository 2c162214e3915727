"""Baselines of the daemon: accepting one, ending it, and which one holds for a run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from petqc.baseline import DAY_S, AcceptedBaseline, middle_of, of_runs
from petqcd import clock
from petqcd.errors import RefusedError
from petqcd.kinds import find_kind
from petqcd.metric_table import DAILY, QC_RUNS, SOURCE
from petqcd.store import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.results import Run
    from petqcd.config import PetqcConfig
    from petqcd.metrics import Metrics
    from petqcd.store import Store

MOST_RUNS = 200


@dataclass(frozen=True, slots=True)
class Held:
    """What limits of a run are relative to: values and standard errors by check, then by node."""

    values: dict[str, dict[str, float]]
    errors: dict[str, dict[str, float]]


class Baselines:
    """The accepted baselines of one scanner.

    Args:
        config: petqc.toml; names the scanner.
        store: where they are kept, each for ever.
        metrics: where it is published which ones are in use.
    """

    def __init__(self, config: PetqcConfig, store: Store, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._scanner = config.scanner.name
        self._simulated = config.is_simulated
        self._store = store

    def listing(self) -> list[AcceptedBaseline]:
        """Every one, oldest first; reads the history."""
        return self._store.baselines()

    def current(self, kind: str, *, is_acceptance: bool = False) -> AcceptedBaseline | None:
        """The last one of a kind and role, if it was not ended; reads the history."""
        found = self._last(self._store.baselines(kind)).get((_named(kind), is_acceptance))
        return None if found is None or found.is_end else found

    def in_use(self, every: Sequence[AcceptedBaseline]) -> set[int]:
        """Numbers of those in use of a listing, one of each kind and role."""
        return {b.number for b in self._last(every).values() if not b.is_end}

    def _last(self, every: Sequence[AcceptedBaseline]) -> dict[tuple[str, bool], AcceptedBaseline]:
        """This scanner's last one of each kind and role, or the end of it; every: oldest first."""
        mine = (self._scanner, self._simulated)
        return {(_named(b.kind), b.is_acceptance): b for b in every if (b.scanner, b.simulated) == mine}

    def holding(self, kind: str, calibration_ids: Mapping[str, str]) -> tuple[AcceptedBaseline | None, str]:
        """The one that holds for a run with a calibration, or why the last one does not."""
        found = self.current(kind)
        if found is None:
            return None, ""
        if dict(found.calibration_ids) != dict(calibration_ids):
            return None, (
                f"Baseline {found.number} of {found.at[:10]} ended: it was made with another calibration. "
                f"Accept a new one: petqc baseline accept {kind}."
            )
        return found, ""

    async def accept(
        self, kind: str, *, run_ids: Sequence[str], last: int, who: str, reason: str, is_acceptance: bool = False
    ) -> AcceptedBaseline:
        """Make a baseline of runs that were looked at.

        Args:
            kind: of the runs.
            run_ids: which; empty: the last ones.
            last: how many of the last ones, back to the last change of calibration; those that failed or could not
                measure are passed over.
            who: signs it.
            reason: why now.
            is_acceptance: the scanner as it was accepted, which stays through calibrations.

        Raises:
            BadInputError: the runs cannot be a baseline.
            RefusedError: they are not this scanner's, or of a kind that is composed of others.
            NotFoundError: one of them does not exist.
        """
        if find_kind(kind).is_composed:
            raise RefusedError(f"{kind} runs are composed of others: accept a baseline of those, such as {SOURCE}")
        runs = await asyncio.to_thread(self._runs, kind, run_ids, last)
        calibration_ids, values = of_runs(runs, self._half_life_d)
        mine = (kind, self._scanner, self._simulated)
        if (runs[0].kind, runs[0].scanner, runs[0].simulated) != mine:
            raise RefusedError(f"run {runs[0].run_id} is not a {kind} run of {self._scanner}")
        accepted = await self._store.add_baseline(
            AcceptedBaseline(
                0,
                *mine,
                clock.utc_text(),
                who,
                reason,
                tuple(run.run_id for run in runs),
                calibration_ids,
                values,
                is_acceptance=is_acceptance,
                measured_at=middle_of(runs),
            )
        )
        await self.publish()
        return accepted

    async def end(self, kind: str, *, who: str, reason: str, is_acceptance: bool = False) -> AcceptedBaseline:
        """End the baseline of a kind.

        Raises:
            RefusedError: there is none.
        """
        current = await asyncio.to_thread(self.current, kind, is_acceptance=is_acceptance)
        if current is None:
            raise RefusedError(f"there is no accepted baseline of {kind} runs")
        mine = (kind, self._scanner, self._simulated)
        ending = AcceptedBaseline(0, *mine, clock.utc_text(), who, reason, is_acceptance=is_acceptance)
        ended = await self._store.add_baseline(ending)
        await self.publish()
        return ended

    def held(
        self,
        reference: AcceptedBaseline | None,
        kind: str,
        started_unix_s: float,
        calibration_ids: Mapping[str, str],
    ) -> Held:
        """What limits of a run are relative to: the acceptance, else the reference, else [baseline]; reads the history.

        Args:
            reference: the one that holds.
            kind: of the run.
            started_unix_s: when it began; rates are brought to that day.
            calibration_ids: that it was made with.
        """
        values = {check: dict(nodes) for check, nodes in self._config.baseline.items()}
        errors: dict[str, dict[str, float]] = {}
        for one in (reference, self.current(kind, is_acceptance=True)):
            if one is not None:
                day = (calibration_ids, started_unix_s / DAY_S, self._half_life_d)
                for found, brought in ((values, one.references(*day)), (errors, one.reference_errors(*day))):
                    for check, nodes in brought.items():
                        found.setdefault(check, {}).update(nodes)
        return Held(values, errors)

    async def publish(self) -> None:
        """Tell monitoring when the baselines in use were accepted; 0: there is none."""
        await asyncio.to_thread(self._publish)

    def _publish(self) -> None:
        newest: dict[tuple[str, str], float] = {
            (kind, role): 0.0 for kind in QC_RUNS for role in ("reference", "acceptance")
        }
        for (kind, _), b in self._last(self._store.baselines()).items():
            newest[kind, b.role] = 0.0 if b.is_end else datetime.fromisoformat(b.at).timestamp()
        for (kind, role), at_unix_s in newest.items():
            self._metrics.set(f"petqc_{role}_accepted_timestamp_seconds", at_unix_s, kind=kind)

    @property
    def _half_life_d(self) -> float | None:
        from petqc.charts.judge import HALF_LIFE_D

        return HALF_LIFE_D.get(self._config.nuclide)

    def _runs(self, kind: str, run_ids: Sequence[str], last: int) -> list[Run]:
        if run_ids:
            return [_run(self._store.document(run_id)) for run_id in run_ids]
        found: list[Run] = []
        for line in self._store.history(MOST_RUNS, kind):
            if line.verdict not in ("pass", "warn"):
                continue
            if (line.scanner, line.simulated) != (self._scanner, self._simulated):
                continue
            run = _run(self._store.document(line.run_id))
            if found and run.calibration_ids != found[0].calibration_ids:
                break
            found.append(run)
            if len(found) == last:
                break
        return found[::-1]


def _named(kind: str) -> str:
    """What runs of a kind are called now: what was the daily run is the run with a source."""
    return SOURCE if kind == DAILY else kind


def _run(document: Mapping[str, Any]) -> Run:
    from petqc.results import Run

    return Run.from_document({**document, "kind": kind_of(document)})
