"""Empty histories on each back end, and small runs to put into them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.unit.run_documents import usual_run

from petqc.limits import Limits
from petqc.results import CheckResult, Run
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.store import Database


@dataclass(frozen=True)
class Place:
    """An empty history on one of the back ends."""

    state_dir: Path
    database: Database

    def store(self) -> Store:
        return Store(self.state_dir, self.database)

    def rows(self, query: str) -> list[Any]:
        engine = self.database.reader_engine()
        with closing(engine.connect()) as connection:
            found = [tuple(row) for row in connection.exec_driver_sql(query)]
        engine.dispose()
        return found


def a_run(run_id: str, *, n_checks: int = 3) -> Run:
    checks = [
        CheckResult.measured(
            "photopeak", f"module:0.0.{i}", 510.0 + i, "keV", 0.2, 1000, Limits(warn_low=500.0, warn_high=520.0)
        )
        for i in range(n_checks)
    ]
    return usual_run(
        run_id=run_id,
        software={"petqc": "0"},
        config_hash="c",
        checks=checks,
    )


async def claim(store: Store, run_id: str) -> int:
    return await store.begin_run(
        run_id, kind="daily", scanner="bench", simulated=True, started_at="2026-03-02T06:00:00+00:00", config_hash="c"
    )


async def claimed_and_stored(store: Store, run_id: str) -> int:
    await claim(store, run_id)
    return await store.finish_run(a_run(run_id))
