"""What of old runs is deleted to make room: recorded frames and values of channels. Results never are."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from petqcd import clock

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.config import StoreConfig
    from petqcd.metrics import Metrics
    from petqcd.store import Store, StoredRun

log = logging.getLogger(__name__)

RECORDED = ("*.rawf", "*.idxf", "wire/*.wire")
CHANNELS = ("*.parquet",)
_PAGE = 500


@dataclass(slots=True)
class Retention:
    """Deletes files of runs that are stored, old enough, and in no baseline that was ever accepted."""

    config: StoreConfig
    store: Store
    metrics: Metrics

    async def apply(self) -> int:
        """Delete what is no longer kept; how many files."""
        count, freed = await asyncio.to_thread(self._delete)
        if count:
            log.warning("%d files of old runs were deleted, %.1f MB", count, freed / 1e6)
        self.metrics.add("petqc_retention_deleted_bytes_total", freed)
        return count

    def _delete(self) -> tuple[int, int]:
        rules = [
            (patterns, clock.unix_s() - days * 86_400)
            for patterns, days in (
                (RECORDED, self.config.keep_recordings_days),
                (CHANNELS, self.config.keep_channels_days),
            )
            if days is not None
        ]
        count = freed = 0
        if not rules:
            return count, freed
        of_baselines = {run_id for baseline in self.store.baselines() for run_id in baseline.runs}
        runs = self._finished()
        wholes = {run.sequence for run in runs if run.run_id in of_baselines}
        for run in runs:
            if run.run_id in of_baselines or run.part_of in wholes:
                continue
            ended_s = datetime.fromisoformat(run.finished_at or run.started_at).timestamp()
            for patterns, before_s in rules:
                if ended_s < before_s:
                    for path in _files(self.store.folder_of(run.run_id), patterns):
                        freed += path.stat().st_size
                        path.unlink()
                        count += 1
        return count, freed

    def _finished(self) -> list[StoredRun]:
        found: list[StoredRun] = []
        before: int | None = None
        while page := self.store.history(_PAGE, before=before):
            before = page[-1].sequence
            found += [run for run in page if run.state == "finished"]
        return found


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
