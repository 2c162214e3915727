"""The nightly backup: once a night, made up for when the night was slept through, tried again when it failed."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from tests.unit.histories import claimed_and_stored

from petqcd import clock
from petqcd.config import PetqcConfig, StoreConfig
from petqcd.metrics import Metrics
from petqcd.security.audit import Audit, entries
from petqcd.store import Store
from petqcd.store import nightly_backup as backups_module
from petqcd.store.nightly_backup import Backups

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_night_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [datetime(2026, 3, 2, 1, 0, tzinfo=UTC)]
    monkeypatch.setattr(clock, "unix_s", lambda: now[0].timestamp())  # noqa: PLW0108 - now[0] changes
    monkeypatch.setattr(backups_module, "EVERY_S", 0.01)
    metrics = Metrics("bench", "board", simulated=True)
    config = PetqcConfig(store=StoreConfig(nightly_at=time(2, 30)))

    def failed() -> bool:
        return b'petqc_backups_failed_total{scanner="bench"} 0.0' not in metrics.text()

    async def until_there_are(made: Backups, count: int) -> None:
        async with asyncio.timeout(20):
            while len(await asyncio.to_thread(made.listing)) < count:  # noqa: ASYNC110 - it is a folder that is looked at
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # a second one would come now
        assert len(made.listing()) == count

    async def work(store: Store) -> None:
        await claimed_and_stored(store, "a")
        audit = Audit(store, "1")
        made = Backups(config, store, audit, metrics, "1")
        running = asyncio.create_task(made.run())
        await until_there_are(made, 0)
        now[0] = now[0].replace(hour=2, minute=31)
        await until_there_are(made, 1)
        at = f'petqc_backup_last_verified_timestamp_seconds{{scanner="bench"}} {now[0].timestamp():.9}'
        assert at.split("e", maxsplit=1)[0].encode() in metrics.text()
        now[0] = now[0].replace(day=4, hour=1)  # the night of the 3rd was slept through
        await until_there_are(made, 2)
        shutil.rmtree(made.folder)
        made.folder.write_text("in the way")
        now[0] = now[0].replace(hour=3)
        async with asyncio.timeout(20):
            while not failed():  # noqa: ASYNC110 - it is a metric that is looked at
                await asyncio.sleep(0.01)
        made.folder.unlink()
        await until_there_are(made, 0)  # not at once again
        monkeypatch.setattr(backups_module, "AGAIN_S", 0.0)
        await until_there_are(made, 1)
        running.cancel()
        await asyncio.wait({running})
        rows = [row for row in entries(store, limit=50) if row["action"] == "backup"]
        assert {row["by"]["name"] for row in rows} == {"nightly"}
        later = Backups(config, store, audit, Metrics("bench", "board", simulated=True), "1")
        await later.publish()
        assert later._last_unix_s == now[0].timestamp()
        await audit.aclose()

    with closing(Store(tmp_path)) as store:
        asyncio.run(work(store))
