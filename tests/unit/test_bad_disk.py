"""A disk that fails, is full, slow or far away: nothing acknowledged is lost, and off needs none of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import column, insert, text
from tests.contract.served_instruments import served
from tests.unit.histories import a_run, claim, claimed_and_stored
from tests.unit.test_daemon_web import ask, board_config, daemon
from tests.unit.test_full_disk import small_disk
from tests.unit.test_safe import a7585d, energised_a7585d

from petqcd import app, process_health
from petqcd.client import Client
from petqcd.errors import StoreError
from petqcd.off import outputs, petqc_safe
from petqcd.places import hold
from petqcd.security.access import daemon_itself
from petqcd.security.audit import Audit, verify
from petqcd.store import Store, read_only, schema, sqlite, writer
from petqcd.store.backup import verify_backup

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["board_config"]

ROOT = Path(__file__).parents[2]
SWEEP = """
import asyncio, ctypes, sys
from contextlib import closing
from pathlib import Path
from petqcd.errors import StoreError
from petqcd.store import Store, writer
from tests.unit.histories import claim, claimed_and_stored

writer.MEND_FIRST_S = writer.MEND_LATEST_S = 0.01
disk = ctypes.CDLL(None)

async def work(store):
    for what in b"sw":
        n, is_over = 0, False
        while not is_over:
            n += 1
            run_id = f"{chr(what)}-{n}"
            disk.fail_at(what, n)
            try:
                await claimed_and_stored(store, run_id)
                print("stored", run_id, flush=True)
            except StoreError as error:
                print("refused", run_id, error, flush=True)
            is_over = bool(disk.is_due())
            disk.fail_at(what, 0)
            while store.trouble:  # noqa: ASYNC110 - the store's own thread tells nobody
                await asyncio.sleep(0.01)
            await claimed_and_stored(store, f"{run_id}-after")
            print("stored", f"{run_id}-after", flush=True)

with closing(Store(Path(sys.argv[1]))) as store:
    asyncio.run(work(store))
"""


def test_a_write_or_a_sync_that_fails_once_is_never_acknowledged_and_never_fatal(tmp_path: Path) -> None:
    shim = tmp_path / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", shim, source, "-ldl"], check=True)
    place = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, place],
        env={**os.environ, "LD_PRELOAD": str(shim)}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line.split(" ", 2) for line in done.stdout.splitlines()]
    refused = [line[1] for line in said if line[0] == "refused"]
    assert [one for one in refused if one.startswith("s")]
    assert [one for one in refused if one.startswith("w")]
    with closing(Store(place)) as store:
        for _, run_id in (line[:2] for line in said if line[0] == "stored"):
            assert store.document(run_id) == a_run(run_id).document()
    with closing(sqlite3.connect(place / "history.sqlite")) as history:
        assert history.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_slow_disk_makes_acknowledgements_late_and_nothing_else(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            goes_on = threading.Event()
            syncing = asyncio.create_task(d.store.write(lambda _: goes_on.wait(60)))
            waiting = asyncio.create_task(claim(d.store, "a"))
            try:
                for path in ("/healthz", "/metrics", "/api/v1/status", "/"):
                    assert (await asyncio.to_thread(ask, d.http, "GET", path))[0] == 200
                told = await asyncio.to_thread(Client(d.state_dir).post, "/api/v1/off", {})
                assert told["devices"][0]["device"] == "board"
                assert not waiting.done()
            finally:
                goes_on.set()
            assert await syncing
            assert await waiting == d.store.line("a").sequence

    asyncio.run(work())


def test_a_full_disk_keeps_audit_rows_waiting_and_makes_no_half_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MEND_FIRST_S", 0.02)
    monkeypatch.setattr(writer, "MEND_LATEST_S", 0.05)

    async def work(fill: Any, make_room: Any) -> None:
        with closing(Store(tmp_path / "disk")) as store:
            audit = Audit(store, "1")
            await claimed_and_stored(store, "a")
            fill()
            for n in range(50):
                await audit.note(daemon_itself("test"), "note", f"{n} {'x' * 400}")
            with pytest.raises(StoreError):
                await asyncio.to_thread(store.back_up, tmp_path / "disk" / "backups", None, "1")
            make_room()
            while store.trouble:  # noqa: ASYNC110 - the store's own thread tells nobody
                await asyncio.sleep(0.01)
            assert not [path for path in (tmp_path / "disk" / "backups").glob("*") if (path / "backup.json").exists()]
            await audit.flush()
            assert verify(store).number == 50
            verify_backup(await asyncio.to_thread(store.back_up, tmp_path / "disk" / "backups", None, "1"))
            await audit.aclose()

    with small_disk(tmp_path / "disk") as (fill, make_room):
        asyncio.run(work(fill, make_room))


def test_a_disk_that_fills_up_in_a_migration_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    old = (Path(__file__).parents[1] / "golden" / "history_schema_1.sql").read_text()
    with small_disk(tmp_path / "disk") as (fill, make_room):
        path = tmp_path / "disk" / "history.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(old)
        fill()
        os.close(hold(tmp_path / "disk"))
        with pytest.raises((StoreError, OSError, sqlite3.Error)):
            Store(tmp_path / "disk")
        make_room()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("1",)
        with closing(Store(tmp_path / "disk")) as store:
            assert store.history()


@contextmanager
def read_only_disk(folder: Path) -> Iterator[None]:
    """A mount that takes no writes, where this process may make one; else permissions."""
    mount = ["mount", "-o", "bind", str(folder), str(folder)]
    if os.geteuid() == 0 and not subprocess.run(mount, check=False, capture_output=True).returncode:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)


def test_off_needs_no_disk_that_can_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    supply, place = energised_a7585d(), tmp_path / "state"
    place.mkdir()
    with served(supply, speed=20.0) as address:
        outputs.write(place, [a7585d(address)])
        with read_only_disk(place):
            assert petqc_safe.main(["--state-dir", str(place)]) == 3  # off, and it could not be written down
            with pytest.raises((StoreError, OSError)):
                Store(place)
    assert not supply.is_on
    assert "could not be kept" in capfd.readouterr().err


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    here = {line.partition(" - ")[2].split()[0] for line in lines}
    monkeypatch.setattr(sqlite, "NETWORK_FILE_SYSTEMS", frozenset(here))
    with pytest.raises(StoreError, match="is on a network file system"):
        Store(tmp_path / "there")
    assert not (tmp_path / "there" / "history.sqlite").exists()


def test_a_page_that_is_damaged_is_found_by_the_next_backup_and_the_file_stays(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        for n in range(60):
            asyncio.run(claimed_and_stored(store, f"run-{n}"))
    path = tmp_path / "history.sqlite"
    data = bytearray(path.read_bytes())
    for at in range(8 * 4096, len(data), 4096):
        data[at : at + 64] = b"\xa5" * 64
    path.write_bytes(data)
    try:
        with closing(Store(tmp_path)) as store, pytest.raises(StoreError):
            store.back_up(tmp_path / "backups", None, "1")
    except StoreError:
        pass  # refused at the start already
    assert not [one for one in (tmp_path / "backups").glob("*") if (one / "backup.json").exists()]
    assert path.stat().st_size == len(data)


def test_a_write_without_memory_fails_alone_and_whole(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:

        def write(connection: Any) -> None:
            connection.execute(insert(schema.schedules).values(job="half", since="now"))
            raise MemoryError

        with pytest.raises(MemoryError):
            asyncio.run(store.write(write))
        asyncio.run(claimed_and_stored(store, "a"))
        assert not store.trouble
    with read_only(tmp_path) as reader:
        assert reader.rows(schema.schedules.select()) == []
        assert reader.line("a").verdict == "pass"


def test_without_descriptors_nothing_new_begins_and_the_daemon_stays(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HOUSEKEEPING_EVERY_S", 0.05)
    monkeypatch.setattr(process_health, "PUBLISH_S", 0.1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz"))[0] == 200
            while "petqcd.readout.supplied_board" not in sys.modules:  # noqa: ASYNC110 - a thread loads it
                await asyncio.sleep(0.02)
            taken: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 5, before[1]))
            try:
                for _ in range(10):
                    with contextlib.suppress(OSError):
                        while True:
                            taken.append(os.dup(0))
                    await asyncio.sleep(0.05)
                with pytest.raises(StoreError):
                    d.store.history()
                told = await d.off()
                assert [one.device for one in told] == ["board"]
            finally:
                for descriptor in taken:
                    os.close(descriptor)
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            await asyncio.sleep(0.3)
            assert d.stuck() == ""
            assert (await asyncio.to_thread(ask, d.http, "GET", "/"))[0] == 200
            await claimed_and_stored(d.store, "a")

    asyncio.run(work())


def test_whoever_reads_without_end_is_ended_or_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "READ_LIMIT_S", 0.05)
    monkeypatch.setattr(sqlite, "TRUNCATE_WAL_BYTES", 0)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 600_000)  # whatever waited for the reader would not come back
    monkeypatch.setattr(writer, "CHECKPOINT_LOG_BYTES", 0)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS x FROM n"
    with closing(Store(tmp_path)) as store:
        with pytest.raises(StoreError, match="interrupted"):
            store._rows(text(endless).columns(column("x")))
        with closing(sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)) as foreign:
            foreign.execute("BEGIN")
            foreign.execute("SELECT * FROM runs").fetchall()
            for n in range(3):
                asyncio.run(claimed_and_stored(store, f"run-{n}"))
            assert (
                store.wal_bytes > 0
            )  # petqc_store_wal_bytes, which has an alert: somebody else's reader is theirs to end
            foreign.execute("COMMIT")
        asyncio.run(claimed_and_stored(store, "last"))
        assert store.history(1)[0].run_id == "last"
        for _ in range(2):  # the log is cut after a piece of work is told to be done, and before the next one
            store._writer.maintain(lambda _: None).result(10)
        assert store.wal_bytes == 0
