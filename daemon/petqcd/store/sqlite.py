"""The history as a file of SQLite: WAL with FULL sync, one writing connection, settings read back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool

from petqcd import clock
from petqcd.errors import StoreError
from petqcd.store.database import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine
    from sqlalchemy.exc import DBAPIError

    from petqcd.store.database import Files

BUSY_TIMEOUT_MS = 5000
READ_LIMIT_S = 2.0
"""Longest statement of a reader: a long read would keep the log from shrinking."""
TRUNCATE_WAL_BYTES = 64 * 2**20
_PROGRESS_STEPS = 10_000
_CORRUPT = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_OF_THE_DISK = ("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")

SETTINGS: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: a commit that was acknowledged survives loss of power
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "wal_autocheckpoint": 0,  # the writer's own job
    "mmap_size": 0,
}
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)


@dataclass(frozen=True, slots=True)
class SqliteDatabase:
    """The file of one state directory; the directory's lock, which the store holds, keeps a second writer out."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except OSError:
            return 0

    def writer_engine(self) -> Engine:
        """The engine of the writing connection.

        Raises:
            StoreError: SQLite did not take one of the settings, or the disk is not a local one.
        """
        refuse_network_file_system(self.path.parent)
        engine = create_engine(
            f"sqlite:///{self.path}",
            connect_args={"isolation_level": None, "check_same_thread": False},
            pool_size=1,
            max_overflow=0,
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _record: Any) -> None:
            for name, value in SETTINGS.items():
                connection.execute(f"PRAGMA {name}={value}")
            for name, value in SETTINGS.items():
                row = connection.execute(f"PRAGMA {name}").fetchone()
                if row is None or row[0] != value:
                    connection.close()
                    raise StoreError(
                        f"{self.path}: SQLite has {name} = {row and row[0]!r}, not {value!r}: no durable store"
                    )
            self.path.chmod(0o600)
            # The switch to WAL deletes a journal. Were it back after a loss of power, SQLite would undo the switch.
            sync_folder(self.path.parent)

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def reader_engine(self) -> Engine:
        """Short, read-only connections with a limit on the time of a statement."""
        engine = create_engine(f"sqlite:///file:{self.path}?mode=ro&uri=true", poolclass=NullPool)

        @event.listens_for(engine, "connect")
        def limit(connection: sqlite3.Connection, _record: Any) -> None:
            connection.execute("PRAGMA query_only=1")
            connection.execute("PRAGMA busy_timeout=1000")
            end_s = clock.monotonic_s() + READ_LIMIT_S
            stop: Callable[[], int] = lambda: int(clock.monotonic_s() > end_s)  # noqa: E731 - one expression, one use
            connection.set_progress_handler(stop, _PROGRESS_STEPS)

        return engine

    def checkpoint(self, connection: Connection, *, last: bool) -> None:
        """Bring the log into the file; where the log became long, or at the end, it is cut to nothing."""
        driver = driver_connection(connection)
        mode = "TRUNCATE" if last or self.log_bytes > TRUNCATE_WAL_BYTES else "PASSIVE"
        # Somebody who reads on and on is not waited for: every write would be.
        driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS if last else 0}")
        try:
            driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:
            driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")

    def keep_before_migration(self, connection: Connection, version: int) -> None:
        """Keep the file as it is now, as `history-schema-N.sqlite` beside it."""
        _copy(connection, self.path.with_name(f"{self.path.stem}-schema-{version}.sqlite"))

    def files(self) -> Files:
        """Of the file, its log and the index of the log."""
        return tuple(_identity(self.path.with_name(self.path.name + end)) for end in ("", "-wal", "-shm"))

    def rescue(self, connection: Connection, opened: Files) -> None:
        """A log without a name goes into its file; a file without a name is written anew.

        Another file that has the name by now stays, and ours is beside it as `history-replaced.sqlite`.
        """
        is_busy, _, _ = driver_connection(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise StoreError(f"{self.path}: somebody reads; the log could not be brought into the file")
        there = _identity(self.path)
        if there != opened[0]:
            _copy(connection, self.path if there is None else self.path.with_name("history-replaced.sqlite"))

    def trouble(self, error: DBAPIError) -> Trouble | None:
        """A full disk passes by itself; after a failed sync what the system shows may not be what is on the disk."""
        name = getattr(error.orig, "sqlite_errorname", "") or ""
        if name.startswith(_CORRUPT):
            return Trouble(name, may_pass=False)
        return Trouble(name, may_pass=True) if name.startswith(_OF_THE_DISK) else None

    def make_good(self, connection: Connection) -> None:
        """Write the whole log into the file anew and cut it, so that nothing builds on pages that were never synced."""
        driver = driver_connection(connection)
        is_busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise StoreError(f"{self.path}: somebody reads; the log could not be cut")
        (told,) = driver.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise StoreError(f"{self.path}: {told}")


def _copy(connection: Connection, to: Path) -> None:
    """The whole history of a connection as a file, which is there whole or not at all."""
    partial = to.with_name(to.name + ".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as target:
        driver_connection(connection).backup(target)
    partial.chmod(0o600)
    partial.replace(to)
    sync_folder(to.parent)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def sync_folder(folder: Path) -> None:
    """Bring names that were made, changed or deleted in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def driver_connection(connection: Connection) -> sqlite3.Connection:
    """SQLite's own connection beneath SQLAlchemy's."""
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)  # noqa: S101 - the engine is SQLite's; for the type checker
    return found


def refuse_network_file_system(folder: Path) -> None:
    """SQLite's locks and syncs cannot be trusted over a network."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        head, _, tail = line.partition(" - ")
        mount = head.split()[4].replace("\\040", " ")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, tail.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(f"{folder}: is on a network file system ({kind}); the history needs a local disk")
