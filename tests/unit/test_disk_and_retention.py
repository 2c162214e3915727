"""A disk that fills up refuses in steps and says so; old recordings go where that is configured, results never."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.histories import a_run, claimed_and_stored

from petqcd.config import StoreConfig
from petqcd.metrics import Metrics
from petqcd.store import Store
from petqcd.store import disk as disk_module
from petqcd.store.disk import Disk, DiskLevel, level_of
from petqcd.store.retention import Retention

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [
        (300 * GIB, 1000 * GIB, DiskLevel.FINE),
        (199 * GIB, 1000 * GIB, DiskLevel.LOW),
        (9 * GIB, 20 * GIB, DiskLevel.LOW),
        (49 * GIB, 1000 * GIB, DiskLevel.NO_NEW_RUNS),
        (19 * GIB, 1000 * GIB, DiskLevel.RUNS_STOP),
        (9 * GIB, 1000 * GIB, DiskLevel.RECORDS_ONLY),
        (0, 1000 * GIB, DiskLevel.RECORDS_ONLY),
    ],
)
def test_levels(free: int, total: int, level: DiskLevel) -> None:
    assert level_of(free, total) is level


def test_the_reserve_is_given_back_when_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "RESERVE_BYTES", 4096)
    free = [500]
    metrics = Metrics("bench", "board", simulated=True)
    disk = Disk(tmp_path, metrics, keeps_reserve=True, usage=lambda _: (1000, free[0]))
    disk.look()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 4096
    free[0] = 40
    disk.look()
    assert "4.0 % free, a new run needs 5%" in str(disk.why_no_run())
    assert (tmp_path / "reserve").exists()
    free[0] = 5
    assert disk.look() is DiskLevel.RECORDS_ONLY
    assert not (tmp_path / "reserve").exists()
    assert b'petqc_state_disk_level{scanner="bench"} 4.0' in metrics.text()
    free[0] = 40
    disk.look()
    assert not (tmp_path / "reserve").exists()  # not before there is room again
    free[0] = 100 * GIB
    disk.look()
    assert disk.why_no_run() is None
    assert (tmp_path / "reserve").exists()


def test_files_of_old_runs_go_and_results_stay(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "old"))
        names = ("recording.rawf", "recording.idxf", "recording.manifest.jsonl", "channels.parquet", "run.json")
        folder = store.folder_of("old")
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"x" * 100)
        metrics = Metrics("bench", "board", simulated=True)

        def left(**keep: float) -> set[str]:
            asyncio.run(Retention(StoreConfig(**keep), store, metrics).apply())
            return set(os.listdir(folder))

        assert left() == set(names)
        assert left(keep_recordings_days=1e6) == set(names)
        assert left(keep_recordings_days=1) == set(names[2:])
        assert left(keep_recordings_days=1, keep_channels_days=1) == {names[2], names[4]}
        assert store.document("old") == a_run("old").document()
        assert b"petqc_retention_deleted_bytes_total" in metrics.text()
