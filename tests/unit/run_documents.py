"""A run as tests need one: a passing, simulated daily run, in which each test changes what it is about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from petqc.limits import Status
from petqc.results import Run
from petqcd import records

if TYPE_CHECKING:
    from petqcd.store import Store


def usual_run(**changes: Any) -> Run:
    """The run, with some of its fields."""
    usual: dict[str, Any] = {
        "run_id": "r1",
        "kind": "daily",
        "started_at": "2026-03-02T06:00:00+00:00",
        "finished_at": "2026-03-02T06:01:00+00:00",
        "simulated": True,
        "verdict": Status.PASS,
        "sentence": "Scan: all fine.",
        "software": {},
        "config_hash": "",
        "calibration_ids": {},
        "scanner": "bench",
    }
    return Run(**{**usual, **changes})


async def stored(store: Store, run: Run) -> None:
    """Put a run into a history as the daemon does, with its files."""
    await store.begin_run(
        run.run_id,
        kind=run.kind,
        scanner=run.scanner or "bench",
        simulated=True,
        started_at=run.started_at,
        config_hash="",
    )
    folder = store.folder_of(run.run_id)
    folder.mkdir(parents=True)
    await asyncio.to_thread(records.write_files, run, folder)
    await store.finish_run(run)
