"""The history: durable before acknowledged, never changed, one writer, whole after kill -9; on both back ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import exc
from tests.unit.histories import Place, a_run, claim, claimed_and_stored
from tests.unit.postgres_server import PostgresServer, postgres_server

from petqcd.errors import NotFoundError, StoreAwayError, StoreError
from petqcd.store import Store, postgres, read_only, writer
from petqcd.store.marks import Marks
from petqcd.store.postgres import PostgresDatabase
from petqcd.store.sqlite import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_a_run_is_claimed_then_stored_and_read_back(place: Place) -> None:
    with closing(place.store()) as store:

        async def work() -> None:
            assert await claim(store, "a") == 1
            assert [r.run_id for r in store.running()] == ["a"]
            with pytest.raises(NotFoundError, match="still going on"):
                store.document("a")
            assert await store.finish_run(a_run("a")) == 1
            assert await claimed_and_stored(store, "b") == 2

        asyncio.run(work())
        assert [r.run_id for r in store.history()] == ["b", "a"]
        assert [r.run_id for r in store.history(before=2)] == ["a"]
        assert store.line("last").run_id == "b"
        assert {kind: line.run_id for kind, line in store.newest().items()} == {"daily": "b", "source": "b"}
        assert store.document("a") == a_run("a").document()
        assert store.last_document("daily")["run_id"] == "b"
        assert not store.running()
        with pytest.raises(NotFoundError):
            store.document("c")
    assert place.rows("SELECT count(*) FROM results") == [(6,)]


def test_order_is_by_sequence_and_not_by_wall_time(place: Place) -> None:
    with closing(place.store()) as store:

        async def work() -> None:
            for name, started in (("first", "2026-03-02T06:00:00+00:00"), ("second", "2020-01-01T00:00:00+00:00")):
                await store.begin_run(
                    name, kind="daily", scanner="s", simulated=False, started_at=started, config_hash="c"
                )

        asyncio.run(work())
        assert [r.run_id for r in store.history()] == ["second", "first"]


def test_a_stored_run_is_never_changed_or_deleted(place: Place) -> None:
    with closing(place.store()) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        with pytest.raises(StoreError, match="never changed"):
            asyncio.run(store.finish_run(a_run("a", n_checks=2)))
        assert asyncio.run(store.finish_run(a_run("a"))) == 1  # the same once more is no change
    engine = place.database.writer_engine()
    statements = ["UPDATE runs SET verdict = 'pass'", "DELETE FROM runs", "UPDATE results SET value = 1"]
    statements += ["DELETE FROM results"] + (["TRUNCATE runs CASCADE"] if engine.name == "postgresql" else [])
    for statement in statements:
        with pytest.raises(exc.IntegrityError, match="never"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_run_that_was_never_claimed_is_not_stored(place: Place) -> None:
    with closing(place.store()) as store:
        with pytest.raises(StoreError, match="never claimed"):
            asyncio.run(store.finish_run(a_run("ghost")))
        assert store.history() == []


def test_the_same_run_cannot_be_claimed_twice(place: Place) -> None:
    with closing(place.store()) as store:
        asyncio.run(claim(store, "a"))
        with pytest.raises(StoreError, match=r"(?i)unique"):
            asyncio.run(claim(store, "a"))
        assert len(store.history()) == 1


def test_a_cancelled_wait_leaves_the_write_whole(place: Place) -> None:
    with closing(place.store()) as store:
        gate = threading.Event()
        blocker = store._writer.submit(lambda _: gate.wait(10))

        async def work() -> None:
            task = asyncio.create_task(claim(store, "a"))
            await asyncio.sleep(0)  # the claim is in the writer's queue now
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(work())
        gate.set()
        assert blocker.result(10)
        asyncio.run(claim(store, "b"))  # stands behind a in the queue
        assert [r.run_id for r in store.history()] == ["b", "a"]


def test_a_second_daemon_is_refused_with_the_process_named(tmp_path: Path) -> None:
    with closing(Store(tmp_path)), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_a_second_writer_of_a_schema_is_refused(
    tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_DEADLINE_S", 0.1)
    database = PostgresDatabase(server.url, "shared")
    with closing(Store(tmp_path / "a", database)):
        with pytest.raises(StoreError, match="another daemon writes this history"):
            Store(tmp_path / "b", database)
        Store(tmp_path / "c", PostgresDatabase(server.url, "own")).close()
    Store(tmp_path / "b", database).close()


def test_a_careless_server_is_refused(tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "fsync", ("never",))
    with pytest.raises(StoreError, match="fsync = on, not never"):
        Store(tmp_path, PostgresDatabase(server.url, "careless"))


def test_a_server_that_is_not_there_is_told_with_its_name(tmp_path: Path) -> None:
    database = PostgresDatabase(f"postgresql+psycopg://petqc@/postgres?host={tmp_path}", "petqc")
    with pytest.raises(StoreError, match="schema petqc: cannot be opened"):
        Store(tmp_path / "state", database)
    with pytest.raises(StoreError, match="schema petqc: cannot be opened"):
        _ = database.exists


def test_a_server_that_crashes_and_comes_again_has_what_was_acknowledged(tmp_path: Path) -> None:
    with postgres_server() as server, closing(Store(tmp_path, PostgresDatabase(server.url, "petqc"))) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        server.stop(signal.SIGQUIT)
        with pytest.raises(StoreError, match="not stored"):
            asyncio.run(claim(store, "b"))
        with pytest.raises(StoreError, match="cannot be read"):
            store.history()
        server.start()
        asyncio.run(claimed_and_stored(store, "c"))
        assert [r.run_id for r in store.history()] == ["c", "a"]
        assert store.document("a") == a_run("a").document()

        async def ends_while_it_is_away() -> int:
            await claim(store, "d")
            server.stop(signal.SIGQUIT)
            ending = asyncio.create_task(store.finish_run(a_run("d"), patience_s=60))
            await asyncio.sleep(0.2)
            assert not ending.done()
            await asyncio.to_thread(server.start)
            return await ending

        assert asyncio.run(ends_while_it_is_away()) == store.line("d").sequence
        assert store.document("d") == a_run("d").document()


@contextmanager
def a_disk_that_fails(bytes_: int) -> Iterator[None]:
    """No file grows beyond a size: SQLite calls what then happens an I/O error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_after_an_io_error_it_is_well_again_by_itself_with_what_it_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MEND_FIRST_S", 0.05)
    monkeypatch.setattr(writer, "MEND_LATEST_S", 0.1)

    async def stored_once_it_is_well(store: Store) -> None:
        ending = asyncio.create_task(store.finish_run(a_run("b"), patience_s=60))
        async with asyncio.timeout(20):
            while not store.trouble:  # noqa: ASYNC110 - the store's own thread tells nobody
                await asyncio.sleep(0.01)
            with pytest.raises(StoreAwayError, match="nothing is acknowledged any more"):
                await claim(store, "refused")
            while "not well yet" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
        assert await ending == store.line("b").sequence

    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        asyncio.run(claim(store, "b"))
        with a_disk_that_fails(1):
            asyncio.run(stored_once_it_is_well(store))
        assert not store.trouble
        assert [r.run_id for r in store.history()] == ["b", "a"]
        assert store.document("a") == a_run("a").document()
    assert "well again" in caplog.text
    assert rows(tmp_path / "history.sqlite", "PRAGMA integrity_check") == [("ok",)]


def test_a_history_that_lost_what_it_acknowledged_is_not_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MEND_FIRST_S", 0.05)
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        with a_disk_that_fails(1), pytest.raises(StoreAwayError):
            asyncio.run(claim(store, "b"))
        monkeypatch.setattr(writer, "marks_of", lambda _: Marks())
        end_s = time.monotonic() + 20
        while "records are gone" not in store.trouble and time.monotonic() < end_s:
            time.sleep(0.01)
        with pytest.raises(StoreError, match="restore a backup") as refused:
            asyncio.run(claim(store, "c"))
        assert not isinstance(refused.value, StoreAwayError)


def test_settings_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "synchronous", 7)
    with pytest.raises(StoreError, match="synchronous"):
        Store(tmp_path)
    monkeypatch.undo()
    Store(tmp_path).close()


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="schema version 99"):
        Store(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"this is not a database, and it is long enough to be looked at as one" * 20)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_the_history_is_readable_without_a_daemon(place: Place) -> None:
    with pytest.raises(NotFoundError), read_only(place.database):
        pass
    with closing(place.store()) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        with read_only(place.database) as reader:
            assert reader.line("last").verdict == "pass"
    with read_only(place.database) as reader:
        assert reader.document("a")["verdict"] == "pass"
        assert not hasattr(reader, "finish_run")


def test_a_closed_store_says_so(place: Place) -> None:
    store = place.store()
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(claim(store, "a"))


def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Store(folder).close()
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "history.sqlite").stat().st_mode & 0o077 == 0


WRITER = """
import asyncio, sys
from contextlib import closing
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.histories import claimed_and_stored
from petqcd.store import Store

async def work(store):
    for n in range(100_000):
        sequence = await claimed_and_stored(store, f"run-{sys.argv[3]}-{n}")
        print(f"run-{sys.argv[3]}-{n}", flush=True)

with closing(Store(Path(sys.argv[1]))) as store:
    asyncio.run(work(store))
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parents[2]), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout:
            for line in process.stdout:
                acknowledged.append(line.strip())
                if len(acknowledged) == 40 * (life + 1):
                    process.send_signal(signal.SIGKILL)
                    break
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -signal.SIGKILL
    assert len(acknowledged) >= 120
    with closing(Store(tmp_path)) as store:
        stored = {r.run_id: r for r in store.history(limit=10_000)}
        for run_id in acknowledged:
            assert stored[run_id].state == "finished"
            assert store.document(run_id) == a_run(run_id).document()
        # At most the run that was being written when each life ended is neither acknowledged nor whole.
        assert len(stored) - len(acknowledged) <= 3
        assert len(store.running()) <= 3
    assert rows(tmp_path / "history.sqlite", "PRAGMA integrity_check") == [("ok",)]
    counts = "SELECT count(results.run) FROM runs LEFT JOIN results ON run = sequence WHERE state = 'finished' "
    assert set(rows(tmp_path / "history.sqlite", counts + "GROUP BY sequence")) == {(3,)}
