"""An older history is brought to the tables of today or refused; whatever interrupts that, it is never half done."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.histories import a_run, claimed_and_stored

from petqcd.errors import StoreError
from petqcd.store import Store, migrations, read_only, schema
from petqcd.store.migrations import MIGRATIONS, Migration
from petqcd.store.postgres import PostgresDatabase

if TYPE_CHECKING:
    from tests.unit.postgres_server import PostgresServer

VERSION_1 = (Path(__file__).parents[1] / "golden" / "history_schema_1.sql").read_text()
"""Written by the last program of version 1: one run that is stored, one that was going on."""


def version_1(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        connection.executescript(VERSION_1)
    return folder


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def structure(path: Path) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {(*row[:3], " ".join((row[3] or "").split())) for row in found}


def test_version_1_becomes_what_a_new_history_is(tmp_path: Path) -> None:
    old, new = version_1(tmp_path / "old"), tmp_path / "new"
    with closing(Store(old)) as store:
        assert store.document("a") == a_run("a").document()
        assert [r.run_id for r in store.running()] == ["b"]
        assert asyncio.run(claimed_and_stored(store, "c")) == 3
    Store(new).close()
    assert structure(old / "history.sqlite") == structure(new / "history.sqlite")


def test_what_was_before_a_migration_is_kept(tmp_path: Path) -> None:
    version_1(tmp_path)
    before = dump(tmp_path / "history.sqlite")
    Store(tmp_path).close()
    assert dump(tmp_path / "history-schema-1.sqlite") == before
    assert dump(tmp_path / "history.sqlite") != before


def test_version_1_is_readable_before_it_is_migrated(tmp_path: Path) -> None:
    with read_only(version_1(tmp_path)) as reader:
        assert [r.run_id for r in reader.history()] == ["b", "a"]


def test_there_is_one_step_for_each_version() -> None:
    assert [step.version for step in MIGRATIONS] == list(range(2, schema.SCHEMA_VERSION + 1))


@pytest.mark.parametrize("version", ["0", "99"])
def test_a_version_that_is_not_known_is_refused_and_kept(tmp_path: Path, version: str) -> None:
    version_1(tmp_path)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    before = dump(tmp_path / "history.sqlite")
    with pytest.raises(StoreError, match=f"schema version {version}"):
        Store(tmp_path)
    assert dump(tmp_path / "history.sqlite") == before


def failing(_connection: Any) -> None:
    raise RuntimeError("the last step fails")


def test_a_step_that_fails_leaves_the_history_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path)
    before = dump(tmp_path / "history.sqlite")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, Migration(99, "fails", failing)))
    with pytest.raises(RuntimeError):
        Store(tmp_path)
    assert dump(tmp_path / "history.sqlite") == before


def test_a_step_that_fails_leaves_a_server_as_it_was(
    tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = PostgresDatabase(server.url, "migrated")
    with closing(Store(tmp_path, database)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
    engine = database.writer_engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE outbox")
        connection.exec_driver_sql("UPDATE meta SET value = '1'")
    engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, Migration(99, "fails", failing)))
        with pytest.raises(RuntimeError):
            Store(tmp_path, database)
    with read_only(database) as reader:
        assert not reader._has_table("outbox")
    with closing(Store(tmp_path, database)) as store:
        assert store._has_table("outbox")
        assert store.document("a") == a_run("a").document()


KILLED = """
import os, signal, sys
from pathlib import Path
from petqcd.store import Store, migrations
die = lambda connection: os.kill(os.getpid(), signal.SIGKILL)
migrations.MIGRATIONS = (*migrations.MIGRATIONS, migrations.Migration(99, "dies", die))
Store(Path(sys.argv[1]))
"""


def test_kill_9_in_a_migration_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    version_1(tmp_path)
    before = dump(tmp_path / "history.sqlite")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert dump(tmp_path / "history.sqlite") == before
    Store(tmp_path).close()
