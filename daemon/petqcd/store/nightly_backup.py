"""Backups of a daemon: one at a time, every night by themselves, and how old the last verified one is."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from petqcd import clock
from petqcd.errors import BusyError, StoreError
from petqcd.schedule import Job
from petqcd.security.access import daemon_itself
from petqcd.store.backup import BACKUPS, Backup, backups
from petqcd.store.retention import Retention

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.config import PetqcConfig
    from petqcd.metrics import Metrics
    from petqcd.security.audit import Audit
    from petqcd.store import Store

log = logging.getLogger(__name__)

EVERY_S = 20.0
AGAIN_S = 1800.0
"""After a backup that failed."""


def backup_folder(config: PetqcConfig, state_dir: Path) -> Path:
    """Where the backups of a state directory are."""
    return config.store.backups or state_dir / BACKUPS


class Backups:
    """Makes backups; everything is called from the event loop.

    Args:
        config: petqc.toml.
        store: what is backed up.
        audit: where each one is noted.
        metrics: where the age of the last one is published.
        version: of petqc.
    """

    def __init__(self, config: PetqcConfig, store: Store, audit: Audit, metrics: Metrics, version: str) -> None:
        self._config, self._store, self._audit, self._metrics, self._version = config, store, audit, metrics, version
        self.folder = backup_folder(config, store.state_dir)
        self._at_work = asyncio.Lock()
        self._last_unix_s = 0.0
        self._began_unix_s = clock.unix_s()
        self._failed_s: float | None = None

    def listing(self) -> list[Backup]:
        """Every verified backup, oldest first; reads the folder."""
        return backups(self.folder)

    async def publish(self) -> None:
        """Read what there is, for the metrics."""
        try:
            found = await asyncio.to_thread(self.listing)
        except (StoreError, OSError) as error:
            log.warning("%s", error)
            return
        if found:
            await self._tell(found[-1])

    async def make(self) -> Backup:
        """Make one, verify it, and drop those that are no longer kept.

        Raises:
            BusyError: one is being made.
            StoreError: what was made is no backup.
        """
        if self._at_work.locked():
            raise BusyError("a backup is being made")
        async with self._at_work:
            began_s = clock.monotonic_s()
            try:
                made = await asyncio.to_thread(
                    self._store.back_up, self.folder, self._config.source_file, self._version
                )
            except OSError as error:
                self._metrics.add("petqc_backups_failed_total")
                raise StoreError(f"{self.folder}: no backup: {error.strerror or error}") from error
            except StoreError:
                self._metrics.add("petqc_backups_failed_total")
                raise
            self._metrics.set("petqc_backup_duration_seconds", clock.monotonic_s() - began_s)
            await self._tell(made)
            return made

    async def run(self) -> None:
        """Every night: a backup, then what is no longer kept goes. A night that was slept through is made up for."""
        store = self._config.store
        job = Job(
            "backup", "", store.nightly_at, frozenset(range(7)), timedelta(), ZoneInfo(self._config.schedule.timezone)
        )
        retention = Retention(store, self._store, self._metrics)
        while True:
            if store.nightly and self._is_due(job):
                await self._nightly(retention)
            await asyncio.sleep(EVERY_S)

    async def _nightly(self, retention: Retention) -> None:
        try:
            async with self._audit.act(daemon_itself("nightly"), "backup", str(self.folder)) as act:
                act.result = (await self.make()).path.name
        except Exception as error:  # noqa: BLE001 - told in the log and by the metrics; the next night comes
            self._failed_s = clock.monotonic_s()
            log.error("nightly backup: %s", error)  # noqa: TRY400 - the reason says it all
            return
        self._failed_s = None
        if deleted := await retention.apply():
            await self._audit.note(daemon_itself("nightly"), "delete-files", str(self._store.state_dir), files=deleted)

    def _is_due(self, job: Job) -> bool:
        if self._failed_s is not None and clock.monotonic_s() - self._failed_s < AGAIN_S:
            return False
        after = datetime.fromtimestamp(self._last_unix_s or self._began_unix_s, UTC)
        return job.next_due(after).timestamp() <= clock.unix_s()

    async def _tell(self, last: Backup) -> None:
        self._last_unix_s = last.made_unix_s
        self._metrics.set("petqc_backup_last_verified_timestamp_seconds", last.made_unix_s)
        self._metrics.set("petqc_backup_bytes", await asyncio.to_thread(lambda: last.bytes))
