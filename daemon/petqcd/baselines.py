"""Baselines of the daemon: accepting one, ending it, and which one holds for a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from petqc.baseline import AcceptedBaseline, of_runs
from petqcd import clock
from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.results import Run
    from petqcd.config import PetqcConfig
    from petqcd.store import Store

MOST_RUNS = 200


class Baselines:
    """The accepted baselines of one scanner.

    Args:
        config: petqc.toml; names the scanner.
        store: where they are kept, each for ever.
    """

    def __init__(self, config: PetqcConfig, store: Store) -> None:
        self._scanner = config.scanner.name
        self._simulated = config.board.is_simulated
        self._store = store

    def listing(self) -> list[AcceptedBaseline]:
        """Every one, oldest first; reads the history."""
        return self._store.baselines()

    def current(self, kind: str) -> AcceptedBaseline | None:
        """The last one of a kind, if it was not ended; reads the history."""
        mine = [b for b in self._store.baselines(kind) if (b.scanner, b.simulated) == (self._scanner, self._simulated)]
        return None if not mine or mine[-1].is_end else mine[-1]

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

    async def accept(self, kind: str, *, run_ids: Sequence[str], last: int, who: str, reason: str) -> AcceptedBaseline:
        """Make a baseline of runs that were looked at.

        Args:
            kind: of the runs.
            run_ids: which; empty: the last ones.
            last: how many of the last ones, back to the last change of calibration; those that failed or could not
                measure are passed over.
            who: signs it.
            reason: why now.

        Raises:
            BadInputError: the runs cannot be a baseline.
            RefusedError: they are not this scanner's.
            NotFoundError: one of them does not exist.
        """
        runs = await asyncio.to_thread(self._runs, kind, run_ids, last)
        calibration_ids, values = of_runs(runs)
        mine = (kind, self._scanner, self._simulated)
        if (runs[0].kind, runs[0].scanner, runs[0].simulated) != mine:
            raise RefusedError(f"run {runs[0].run_id} is not a {kind} run of {self._scanner}")
        return await self._store.add_baseline(
            AcceptedBaseline(
                0,
                *mine,
                clock.utc_text(),
                who,
                reason,
                tuple(run.run_id for run in runs),
                calibration_ids,
                values,
            )
        )

    async def end(self, kind: str, *, who: str, reason: str) -> AcceptedBaseline:
        """End the baseline of a kind.

        Raises:
            RefusedError: there is none.
        """
        if await asyncio.to_thread(self.current, kind) is None:
            raise RefusedError(f"there is no accepted baseline of {kind} runs")
        ending = AcceptedBaseline(0, kind, self._scanner, self._simulated, clock.utc_text(), who, reason)
        return await self._store.add_baseline(ending)

    def _runs(self, kind: str, run_ids: Sequence[str], last: int) -> list[Run]:
        from petqc.results import Run

        if run_ids:
            return [Run.from_document(self._store.document(run_id)) for run_id in run_ids]
        found: list[Run] = []
        for line in self._store.history(MOST_RUNS, kind):
            if line.verdict not in ("pass", "warn"):
                continue
            if (line.scanner, line.simulated) != (self._scanner, self._simulated):
                continue
            run = Run.from_document(self._store.document(line.run_id))
            if found and run.calibration_ids != found[0].calibration_ids:
                break
            found.append(run)
            if len(found) == last:
                break
        return found[::-1]
