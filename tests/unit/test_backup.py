"""A backup is one once it was opened, checked and counted; it restores, on either back end, and onto the other."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from tests.unit.histories import a_run, claim, claimed_and_stored

from petqc.file_hash import sha256_of
from petqcd.errors import RefusedError, StoreError
from petqcd.store import Store, copying, schema
from petqcd.store import backup as backup_module
from petqcd.store.backup import backups, kept, read_backup, verify_backup
from petqcd.store.postgres import PostgresDatabase
from petqcd.store.restore import rehearse, restore
from petqcd.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.histories import Place
    from tests.unit.postgres_server import PostgresServer

    from petqcd.store.backup import Backup


def backed_up(place: Place, n_runs: int = 3) -> Backup:
    with closing(place.store()) as store:
        for number in range(n_runs):
            asyncio.run(claimed_and_stored(store, f"run-{number}"))
        asyncio.run(claim(store, "going-on"))
        store.sets.mkdir()
        (store.sets / "set-1").mkdir()
        (store.sets / "set-1" / "energy.tsv").write_text("0 0 0 1\n")
        return store.back_up(place.state_dir / "backups", None, "1")


def test_a_backup_has_everything_and_restores(place: Place, tmp_path: Path) -> None:
    made = backed_up(place)
    assert made.rows["runs"] == 4
    assert made.rows["results"] == 9
    assert set(made.files) == {"history.sqlite", "sets/set-1/energy.tsv"}
    (found,) = backups(place.state_dir / "backups")
    assert found == made
    verify_backup(found)

    empty = tmp_path / "empty"
    back = restore(made.path, empty, SqliteDatabase(empty / "history.sqlite"))
    assert (back.runs, back.read, back.kept) == (4, 3, None)
    with closing(Store(empty)) as store:
        assert store.document("run-1") == a_run("run-1").document()
        assert [r.run_id for r in store.running()] == ["going-on"]
        assert asyncio.run(claimed_and_stored(store, "next")) == 5
        assert (store.sets / "set-1" / "energy.tsv").read_text() == "0 0 0 1\n"


def test_it_restores_onto_a_server(place: Place, tmp_path: Path, server: PostgresServer) -> None:
    made = backed_up(place)
    name = f"r{abs(hash(str(tmp_path))):x}"
    database, there = PostgresDatabase(server.url, name), tmp_path / "there"
    assert restore(made.path, there, database).read == 3
    with closing(Store(there, database)) as store:
        assert store.document("run-2") == a_run("run-2").document()
        assert asyncio.run(claimed_and_stored(store, "next")) == 5
    with pytest.raises(RefusedError, match="there is a history"):
        restore(made.path, there, database)


def test_what_is_written_meanwhile_comes_along_and_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGES", 2)
    with closing(Store(tmp_path)) as store:
        for number in range(30):
            asyncio.run(claimed_and_stored(store, f"before-{number}"))
        original, steps, told = store._writer.let_others, [0], []

        def writing() -> None:
            steps[0] += 1
            if steps[0] <= 5:
                told.append(store._writer.submit(lambda c: c.execute(select(schema.runs)).first()))
                future = threading.Thread(
                    target=lambda: asyncio.run(claimed_and_stored(store, f"meanwhile-{steps[0]}"))
                )
                future.start()
                while store._writer._queue.qsize() < 2:
                    pass
                original()
                assert told[-1].done()
                while future.is_alive():
                    original()
            original()

        monkeypatch.setattr(store._writer, "let_others", writing)
        made = store.back_up(tmp_path / "backups", None, "1")
        assert steps[0] > 5
        assert made.rows["runs"] == 35
        assert {r.run_id for r in store.history()} >= {f"meanwhile-{n}" for n in range(1, 6)}
    assert rehearse(made.path).read == 35


def test_a_store_that_is_closed_meanwhile_leaves_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGES", 2)
    store = Store(tmp_path)
    original = store._writer.let_others

    def closing_now() -> None:
        store._writer._queue.put(None)
        original()

    monkeypatch.setattr(store._writer, "let_others", closing_now)
    with pytest.raises(StoreError, match="being closed"):
        store.back_up(tmp_path / "backups", None, "1")
    store.close()
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_copy_that_lacks_something_is_no_backup(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(database: object, writer: object, target: Path) -> dict[str, int]:
        rows = copying.copy_history(database, writer, target)
        with closing(sqlite3.connect(target)) as connection, connection:
            connection.execute("DROP TRIGGER results_kept")
            connection.execute("DELETE FROM results WHERE position = 1")
        return rows

    monkeypatch.setattr(backup_module, "copy_history", copy)
    with pytest.raises(StoreError, match="rows of results, the original has 9"):
        backed_up(place)
    assert list((place.state_dir / "backups").iterdir()) == []


def damaged(made: Backup, how: str) -> None:
    path = made.path / "history.sqlite"
    data = bytearray(path.read_bytes())
    if how == "a bit":
        data[len(data) // 2] ^= 1
    elif how == "its end":
        data = data[: len(data) // 2]
    path.write_bytes(data)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["a bit", "its end", "missing"])
def test_a_damaged_backup_is_not_restored(tmp_path: Path, how: str) -> None:
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        made = store.back_up(tmp_path / "backups", None, "1")
    damaged(made, how)
    for attempt in (lambda: rehearse(made.path), lambda: restore(made.path, tmp_path, SqliteDatabase(tmp_path / "x"))):
        with pytest.raises(StoreError, match=r"missing|is not what it was"):
            attempt()
    with closing(Store(tmp_path)) as store:
        assert store.document("a") == a_run("a").document()


def test_a_history_that_is_there_is_set_aside_only_when_asked(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "history.sqlite")
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        made = store.back_up(tmp_path / "backups", None, "1")
        asyncio.run(claimed_and_stored(store, "b"))
        folder = store.folder_of("b")
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        with pytest.raises(StoreError, match="a daemon uses this"):
            restore(made.path, tmp_path, database, replace=True)
    with pytest.raises(RefusedError, match="--replace"):
        restore(made.path, tmp_path, database)
    back = restore(made.path, tmp_path, database, replace=True)
    assert back.newer == ("b",)
    assert back.kept is not None
    with closing(sqlite3.connect(back.kept)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    with closing(Store(tmp_path)) as store:
        assert [r.run_id for r in store.history()] == ["a"]


def test_a_rehearsal_touches_nothing(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        made = store.back_up(tmp_path / "backups", None, "1")
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        assert rehearse(made.path, tmp_path).read == 1
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_backup_of_version_1_restores(tmp_path: Path) -> None:
    from tests.unit.test_store_migrations import version_1

    with closing(Store(tmp_path / "new")) as store:
        made = store.back_up(tmp_path / "backups", None, "1")
    (made.path / "history.sqlite").unlink()
    version_1(made.path)
    manifest = json.loads((made.path / "backup.json").read_text())
    manifest |= {"schema_version": 1, "rows": {"runs": 2, "results": 3}}
    manifest["files"]["history.sqlite"] = sha256_of(made.path / "history.sqlite")
    (made.path / "backup.json").write_text(json.dumps(manifest))
    assert rehearse(made.path).read == 1
    there = tmp_path / "there"
    assert restore(made.path, there, SqliteDatabase(there / "history.sqlite")).runs == 2


def test_what_is_kept_of_two_years_of_nights() -> None:
    last = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
    nights = [last - timedelta(days=n) for n in range(730)]
    found = kept(nights)
    assert {last - timedelta(days=n) for n in range(7)} <= found
    assert len({t.strftime("%G-%V") for t in found if last - t < timedelta(weeks=5)}) >= 5
    assert len({t.strftime("%Y-%m") for t in found}) == 12
    assert len(found) <= 7 + 5 + 12
    assert kept([*nights, last + timedelta(hours=3)]) >= {last + timedelta(hours=3)}
    # Night after night, what is dropped was never one that a later night would have kept.
    held: set[datetime] = set()
    for night in reversed(nights):
        held = kept([*held, night])
    assert held == found


def test_old_backups_go_after_a_new_one_only(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    with closing(Store(tmp_path)) as store:
        made = store.back_up(folder, None, "1")
        for day in range(1, 30):
            name = f"202501{day:02}T023000Z"
            shutil.copytree(made.path, folder / name)
            manifest = json.loads((folder / name / "backup.json").read_text())
            manifest["made_at"] = f"2025-01-{day:02}T02:30:00+00:00"
            (folder / name / "backup.json").write_text(json.dumps(manifest))
        (folder / "20250101T000000Z.partial").mkdir()
        shutil.rmtree(made.path)
        assert len(backups(folder)) == 29
        newest = store.back_up(folder, None, "1")
    names = [one.path.name for one in backups(folder)]
    assert names[-1] == newest.path.name
    assert names[-7:-1] == [f"202501{day:02}T023000Z" for day in range(24, 30)]
    assert len(names) < 29
    assert read_backup(newest.path) == newest


def test_a_backup_that_is_half_dropped_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backups"
    with closing(Store(tmp_path)) as store:
        made = store.back_up(folder, None, "1")
        old = folder / "20250101T023000Z"
        shutil.copytree(made.path, old)
        manifest = json.loads((old / "backup.json").read_text())
        (old / "backup.json").write_text(json.dumps({**manifest, "made_at": "2025-01-01T02:30:00+00:00"}))

        def killed(path: Path) -> None:
            (path / "history.sqlite").unlink()
            raise KeyboardInterrupt

        monkeypatch.setattr(backup_module, "kept", lambda made: {max(made)})
        with monkeypatch.context() as patched:
            patched.setattr(backup_module.shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                backup_module.prune(folder)
    assert [one.path for one in backups(folder)] == [made.path]
    (left,) = folder.glob(f"*{backup_module.PARTIAL}")
    os.utime(left, (0, 0))
    assert backup_module.prune(folder) == [left]
    assert [path.name for path in folder.iterdir()] == [made.path.name]
