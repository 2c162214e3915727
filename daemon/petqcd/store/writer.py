"""The one thread that owns the one connection that writes: every write, every checkpoint, nothing else does.

One writer avoids the WAL-reset race of SQLite before 3.51.3 and makes writes safe against cancellation: a task that is
cancelled only stops waiting for its future.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import create_engine, event, exc

from petqcd import clock
from petqcd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)

T = TypeVar("T")

QUEUE_LENGTH = 256
"""Writes that may wait; beyond it new ones are refused, which the caller is told."""
CHECKPOINT_EVERY_S = 60.0
CHECKPOINT_WAL_BYTES = 1000 * 4096
TRUNCATE_WAL_BYTES = 64 * 2**20
BUSY_TIMEOUT_MS = 5000

SETTINGS: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: a commit that was acknowledged survives loss of power
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "wal_autocheckpoint": 0,  # the writer's own job, below
    "mmap_size": 0,
}


def writer_engine(path: Path) -> Engine:
    """The engine of the writing connection, with its settings made and read back.

    Raises:
        StoreError: SQLite did not take one of the settings.
    """
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"isolation_level": None, "check_same_thread": False}, pool_size=1
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        for name, value in SETTINGS.items():
            connection.execute(f"PRAGMA {name}={value}")
        for name, value in SETTINGS.items():
            row = connection.execute(f"PRAGMA {name}").fetchone()
            if row is None or row[0] != value:
                connection.close()
                raise StoreError(f"{path}: SQLite has {name} = {row and row[0]!r}, not {value!r}: no durable store")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class Writer:
    """Runs functions on the writing connection, one after the other, each in its own durable transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._engine = writer_engine(path)
        self._queue: queue.Queue[tuple[Callable[[Connection], Any], Future[Any]] | None] = queue.Queue(QUEUE_LENGTH)
        self._broken: str | None = None
        self._checkpointed_s = clock.monotonic_s()
        self.last_commit_unix_s = 0.0
        self._thread = threading.Thread(target=self._work, name="store writer", daemon=False)
        self._thread.start()

    def submit(self, write: Callable[[Connection], T]) -> Future[T]:
        """Run a write in its own transaction; the future is done once the commit is on the disk.

        Raises:
            StoreError: the store is closed, broken or overloaded; the write was not taken.
        """
        if self._broken is not None:
            raise StoreError(self._broken)
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((write, future))
        except queue.Full:
            raise StoreError(f"{self._path}: {QUEUE_LENGTH} writes are waiting; this one was refused") from None
        return future

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Finish what was taken, checkpoint and close; safe to call twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._broken = f"{self._path}: the store is closed"

    def _work(self) -> None:
        try:
            while True:
                try:
                    job = self._queue.get(timeout=CHECKPOINT_EVERY_S)
                except queue.Empty:
                    self._checkpoint()
                    continue
                if job is None:
                    self._checkpoint(last=True)
                    return
                self._run(*job)
                if (
                    self.wal_bytes > CHECKPOINT_WAL_BYTES
                    or clock.monotonic_s() - self._checkpointed_s > CHECKPOINT_EVERY_S
                ):
                    self._checkpoint()
        finally:
            self._engine.dispose()

    def _run(self, write: Callable[[Connection], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if self._broken is not None:
            future.set_exception(StoreError(self._broken))
            return
        try:
            with self._engine.begin() as connection:
                result = write(connection)
        except (exc.OperationalError, exc.DatabaseError) as error:
            self._judge(error)
            future.set_exception(StoreError(f"{self._path}: not stored: {error.orig}"))
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the one who waits
            future.set_exception(error)
        else:
            self.last_commit_unix_s = clock.unix_s()
            future.set_result(result)

    def _judge(self, error: exc.DBAPIError) -> None:
        """A full disk may pass; a failed sync or a corrupt file may not: retrying would hide what was lost."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB")):
            self._broken = f"{self._path}: {name}: nothing is acknowledged any more; restart after checking the disk"
            log.error("%s", self._broken)

    def _checkpoint(self, *, last: bool = False) -> None:
        self._checkpointed_s = clock.monotonic_s()
        mode = "TRUNCATE" if last or self.wal_bytes > TRUNCATE_WAL_BYTES else "PASSIVE"
        try:
            with self._engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - the engine is SQLite's; for the type checker
                raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except (exc.SQLAlchemyError, sqlite3.Error) as error:
            log.warning("%s: checkpoint did not work: %s", self._path, error)
