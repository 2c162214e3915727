"""Where the history is kept: a file of SQLite in the state directory, or a PostgreSQL server by URL.

Everything above speaks SQLAlchemy Core; what the two have not in common is what a `Database` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.exc import DBAPIError

    from petqcd.config import StoreConfig

DATABASE = "history.sqlite"


Files = tuple[tuple[int, int] | None, ...]
"""Device and inode of each; None: there is none."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing is acknowledged. may_pass: a disk may be well again; what is corrupt stays so."""

    what: str
    may_pass: bool


class Database(Protocol):
    """One history's place. Its engines make their settings and read them back."""

    @property
    def name(self) -> str:
        """What people are told; no secrets."""

    @property
    def exists(self) -> bool:
        """Whether something was ever stored there."""

    @property
    def log_bytes(self) -> int:
        """Size of a write-ahead log that is ours to keep small."""

    def writer_engine(self) -> Engine:
        """The engine of the one writing connection, which takes the history for this process.

        Raises:
            StoreError: a setting is not taken, or another process writes here.
        """

    def reader_engine(self) -> Engine:
        """An engine of connections that can only read, each statement for two seconds at most."""

    def checkpoint(self, connection: Connection, *, last: bool) -> None:
        """Keep the log small; last: the connection is closed next."""

    def keep_before_migration(self, connection: Connection, version: int) -> None:
        """Set a copy aside before tables of a version are changed."""

    def files(self) -> Files:
        """Which files have the names of ours now."""

    def rescue(self, connection: Connection, opened: Files) -> None:
        """Bring what a connection has in files that lost their names to where it stays.

        Args:
            connection: the one that has them open.
            opened: which they were.

        Raises:
            StoreError: it is not there yet; the connection must stay open.
            DBAPIError, OSError: the same.
        """

    def trouble(self, error: DBAPIError) -> Trouble | None:
        """Why nothing may be acknowledged after an error; None: the next write may work."""

    def make_good(self, connection: Connection) -> None:
        """On a new connection after a trouble: bring everything that is there to the disk anew, and check it.

        Raises:
            StoreError: it is not well yet.
            DBAPIError: the same, in the words of the database.
        """


def database_of(config: StoreConfig, state_dir: Path) -> Database:
    """The history that a configuration names; without a URL the file in the state directory."""
    if config.url is None:
        from petqcd.store.sqlite import SqliteDatabase

        return SqliteDatabase(state_dir / DATABASE)
    from petqcd.store.postgres import PostgresDatabase

    return PostgresDatabase(config.url, config.database_schema)
