"""What the daemon tells of its own process: a loop that stood still is seen, and what is counted is what there is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from petqcd import process_health
from petqcd.metrics import Metrics

if TYPE_CHECKING:
    import pytest


def value(metrics: Metrics, name: str) -> float:
    (line,) = [line for line in metrics.text().decode().splitlines() if line.startswith(name + "{")]
    return float(line.rpartition(" ")[2])


def test_a_loop_that_stood_still_and_a_task_more_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_health, "PUBLISH_S", 0.2)
    metrics = Metrics("bench", "board", simulated=True)

    async def main() -> None:
        watching = asyncio.create_task(process_health.watch(metrics))
        beside = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0.01)
        time.sleep(0.4)  # noqa: ASYNC251 - this is the fault
        async with asyncio.timeout(20):
            while not value(metrics, "petqc_tasks"):  # noqa: ASYNC110 - it is published by nobody that could tell
                await asyncio.sleep(0.01)
        for task in (watching, beside):
            task.cancel()
        await asyncio.wait({watching, beside})

    asyncio.run(main())
    assert value(metrics, "petqc_loop_lag_max_seconds") > 0.3
    assert value(metrics, "petqc_tasks") == 3
    assert value(metrics, "petqc_threads") == threading.active_count()
    assert value(metrics, "petqc_open_files") >= 3
    assert value(metrics, "petqc_memory_bytes") > 2**20
