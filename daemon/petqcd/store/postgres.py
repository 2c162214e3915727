"""The history on a PostgreSQL server: one schema for each daemon, one writing session, settings read back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, exc, inspect, make_url

from petqcd import clock
from petqcd.errors import StoreError
from petqcd.store.database import Files, Trouble

if TYPE_CHECKING:
    from psycopg import Connection as PgConnection
    from sqlalchemy import Connection, Engine

LOCK_DEADLINE_S = 5.0
"""For the session of a daemon that was killed to be noticed by the server."""
_LOCK_POLL_S = 0.1
STATEMENT_LIMIT_MS = 30_000
READ_LIMIT_MS = 2000
OLDEST_SERVER = 140_000
"""The first with CREATE OR REPLACE TRIGGER."""

SETTINGS = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "remote_apply")}
"""Without them an acknowledged commit may be lost with the power of the server."""
_DISK_STATES = ("58", "F0")
_CORRUPT_STATES = ("XX",)
"""Classes of SQLSTATE: input and output failed or configuration file error; internal error or corrupted data."""
_LINK: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """A schema in a database of a server; several daemons share a server, never a schema.

    url: `postgresql+psycopg://USER@HOST/DATABASE`, without a password. schema: name in the database.
    """

    url: str
    schema: str

    @property
    def name(self) -> str:
        """Its URL and schema."""
        return f"{make_url(self.url).render_as_string(hide_password=True)} schema {self.schema}"

    @property
    def exists(self) -> bool:
        """Whether the schema has a history.

        Raises:
            StoreError: the server does not answer.
        """
        engine = self.reader_engine()
        try:
            return bool(inspect(engine).has_table("meta"))
        except exc.DBAPIError as error:
            raise StoreError(f"{self.name}: cannot be opened: {error.orig}") from error
        finally:
            engine.dispose()

    @property
    def log_bytes(self) -> int:
        """The server keeps its own log."""
        return 0

    def writer_engine(self) -> Engine:
        """The engine of the one writing session; it holds an advisory lock on the schema.

        Raises:
            StoreError: the server would not keep a commit, or another daemon writes here.
        """
        engine = self._engine(f"-cstatement_timeout={STATEMENT_LIMIT_MS} -clock_timeout=5000", size=1, overflow=0)

        @event.listens_for(engine, "connect")
        def configure(connection: PgConnection[Any], _record: Any) -> None:
            connection.autocommit = True
            try:
                self._refuse_careless(connection)
                self._lock(connection)
            except BaseException:
                connection.close()
                raise
            connection.autocommit = False

        return engine

    def reader_engine(self) -> Engine:
        """Sessions that can only read."""
        return self._engine(
            f"-cstatement_timeout={READ_LIMIT_MS} -cdefault_transaction_read_only=on", size=2, overflow=8
        )

    def checkpoint(self, connection: Connection, *, last: bool) -> None:
        """The server's own job."""

    def keep_before_migration(self, connection: Connection, version: int) -> None:
        """The migration is one transaction; copies of the server are its administrator's."""

    def files(self) -> Files:
        """The server looks after its own."""
        return ()

    def rescue(self, connection: Connection, opened: Files) -> None:
        """The server looks after its own files."""

    def trouble(self, error: exc.DBAPIError) -> Trouble | None:
        """A lost session comes again, and so may the server's disk; corrupt data must be looked at."""
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if state.startswith(_CORRUPT_STATES):
            return Trouble(f"SQLSTATE {state}", may_pass=False)
        return Trouble(f"SQLSTATE {state}", may_pass=True) if state.startswith(_DISK_STATES) else None

    def make_good(self, connection: Connection) -> None:
        """The server's own job, which it does before it answers again."""

    def _engine(self, options: str, *, size: int, overflow: int) -> Engine:
        arguments = {**_LINK, "application_name": "petqcd", "options": f"-csearch_path={self.schema} {options}"}
        return create_engine(
            self.url, connect_args=arguments, pool_size=size, max_overflow=overflow, pool_pre_ping=True
        )

    def _refuse_careless(self, connection: PgConnection[Any]) -> None:
        if connection.info.server_version < OLDEST_SERVER:
            raise StoreError(f"{self.name}: the server is older than PostgreSQL {OLDEST_SERVER // 10_000}")
        if _shown(connection, "synchronous_commit") != "remote_apply":
            connection.execute("SET synchronous_commit = on")
        for name, good in SETTINGS.items():
            value = _shown(connection, name)
            if value not in good:
                raise StoreError(f"{self.name}: the server has {name} = {value}, not {good[0]}: no durable store")
        there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.schema,)).fetchone()
        if there is None:
            connection.execute(f'CREATE SCHEMA "{self.schema}"'.encode())

    def _lock(self, connection: PgConnection[Any]) -> None:
        """Take the schema for this session; the server gives it back when the session ends, however it ends."""
        key = f"petqcd {self.schema}"
        end_s = clock.monotonic_s() + LOCK_DEADLINE_S
        while True:
            row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchone()
            if row is not None and row[0]:
                return
            if clock.monotonic_s() > end_s:
                raise StoreError(f"{self.name}: another daemon writes this history already")
            time.sleep(_LOCK_POLL_S)


def _shown(connection: PgConnection[Any], name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return "" if row is None else str(row[0])
