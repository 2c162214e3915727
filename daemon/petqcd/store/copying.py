"""A whole copy of a history as a file of SQLite, whichever back end it comes from, and the counts that prove it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, exc, func, insert, select

from petqcd.errors import StoreError
from petqcd.store import schema
from petqcd.store.sqlite import SqliteDatabase, driver_connection

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from petqcd.store.database import Database
    from petqcd.store.writer import Writer

PAGES = 64
"""Of one step, 256 KiB: the writes that wait are done between two steps."""
ROWS = 500

Counts = dict[str, int]
"""Rows by table."""


def copy_history(database: Database, writer: Writer, target: Path) -> Counts:
    """Copy everything that is stored when the copy ends; what it must contain, counted in the original.

    Raises:
        StoreError: it could not be copied.
    """
    try:
        if isinstance(database, SqliteDatabase):
            return _copy_file(database, writer, target)
        return _copy_tables(database, target)
    except (exc.DBAPIError, sqlite3.Error) as error:
        raise StoreError(f"{database.name}: cannot be copied: {error}") from error


def count(connection: Connection) -> Counts:
    """Rows of every table."""
    return {
        table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for table in schema.metadata.sorted_tables
    }


def check_copy(path: Path, wanted: Counts) -> None:
    """Open a copy as any reader would, and look at all of it.

    Raises:
        StoreError: it is damaged, or not what the original had.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            for check in ("integrity_check", "foreign_key_check"):
                told = connection.execute(f"PRAGMA {check}").fetchall()
                if told not in ([], [("ok",)]):
                    raise StoreError(f"{path}: {check}: {told[:3]}")
            there = {name: _rows_of(connection, name) for name in wanted}
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error
    for name, number in wanted.items():
        if there[name] != number:
            raise StoreError(f"{path}: {there[name]} rows of {name}, the original has {number}")


def fill(connection: Connection, source: Path) -> Counts:
    """Put all rows of a copy into empty tables, inside the transaction that the connection is in."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as file:
        file.row_factory = sqlite3.Row
        for table in schema.metadata.sorted_tables:
            if table.name == schema.meta.name:
                continue
            names = ", ".join(f'"{c.name}"' for c in table.columns)
            cursor = file.execute(f'SELECT {names} FROM "{table.name}"')  # noqa: S608 - names of our own tables
            booleans = [c.name for c in table.columns if c.type.python_type is bool]
            while rows := cursor.fetchmany(ROWS):
                values = [dict(row) | {name: bool(row[name]) for name in booleans} for row in rows]
                connection.execute(insert(table), values)
    if connection.dialect.name == "postgresql":
        for table in schema.metadata.sorted_tables:
            _continue_sequence(connection, table)
    return count(connection)


def _copy_file(database: SqliteDatabase, writer: Writer, target: Path) -> Counts:
    """On the writing connection, in small steps; what is written meanwhile on the same connection comes along."""
    snapshots: list[sqlite3.Connection] = []

    def work(connection: Connection) -> None:
        def step(status: int, _remaining: int, _total: int) -> None:
            if status != _DONE:
                writer.let_others()
                return
            # Exactly what the copy has, held for counting without holding the writer.
            snapshot = sqlite3.connect(f"file:{database.path}?mode=ro", uri=True, check_same_thread=False)
            snapshots.append(snapshot)
            snapshot.execute("BEGIN")
            snapshot.execute("SELECT count(*) FROM meta").fetchone()

        with closing(sqlite3.connect(target)) as copy:
            driver_connection(connection).backup(copy, pages=PAGES, progress=step)
            copy.execute("PRAGMA journal_mode=DELETE")

    try:
        writer.maintain(work).result()
        (snapshot,) = snapshots
        return {table.name: _rows_of(snapshot, table.name) for table in schema.metadata.sorted_tables}
    finally:
        for snapshot in snapshots:
            snapshot.close()


_DONE = 101
"""SQLITE_DONE: the last step was made. Source: sqlite.org/rescode.html."""


def _copy_tables(database: Database, target: Path) -> Counts:
    """One read-only transaction that sees one moment; page by page."""
    source, copy = database.reader_engine(), create_engine(f"sqlite:///{target}")
    try:
        with source.connect().execution_options(isolation_level="REPEATABLE READ") as reading, copy.begin() as writing:
            schema.metadata.create_all(writing)
            for table in schema.metadata.sorted_tables:
                found = reading.execution_options(yield_per=ROWS).execute(select(table))
                for rows in found.mappings().partitions():
                    writing.execute(insert(table), [dict(row) for row in rows])
            for statement in schema.rule_statements("sqlite"):
                writing.exec_driver_sql(statement)
            return count(reading)
    finally:
        source.dispose()
        copy.dispose()


def _rows_of(connection: sqlite3.Connection, table: str) -> int:
    (number,) = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 - our own tables
    return int(number)


def _continue_sequence(connection: Connection, table: Any) -> None:
    """The server's counter of a table goes on after the highest number that came in."""
    column = table.autoincrement_column
    if column is None:
        return
    highest = connection.execute(select(func.max(column))).scalar_one()
    if highest is not None:
        connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, column.name), highest)))
