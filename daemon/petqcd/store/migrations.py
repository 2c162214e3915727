"""From an older version of the tables to this one: all steps in one transaction, so old or new and nothing between."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exc, insert, inspect, select, update

from petqcd.errors import StoreError
from petqcd.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from petqcd.store.database import Database

log = logging.getLogger(__name__)

VERSION_KEY = "schema_version"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. version: of the tables after it."""

    version: int
    what: str
    apply: Callable[[Connection], None]


def _outbox(connection: Connection) -> None:
    # Programs of version 1 added tables as they came; the first had none of these.
    newer = ("parts", "occasions", "schedules", "baselines", "audit", "users", "tokens", "outbox")
    for table in (schema.metadata.tables[name] for name in newer):
        table.create(connection, checkfirst=True)


def _annotations(connection: Connection) -> None:
    schema.annotated.create(connection, checkfirst=True)


def _commands(connection: Connection) -> None:
    schema.answers.create(connection, checkfirst=True)
    there = {column["name"] for column in inspect(connection).get_columns("tokens")}
    for name in ("networks", "devices", "kinds"):
        if name not in there:  # step 2 may just have made the table, as it is now
            connection.exec_driver_sql(f"ALTER TABLE tokens ADD COLUMN {name} VARCHAR")


MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "messages that wait for the broker", _outbox),
    Migration(3, "remarks in the trends", _annotations),
    Migration(4, "answers of commands, and restrictions of tokens", _commands),
)
"""Every step, in order. A step that changes a table spells out how it was before and is never edited afterwards."""


def prepare(connection: Connection, database: Database) -> None:
    """Make the tables of an empty history, or bring those of an older version to this one.

    Raises:
        StoreError: they are of a version that this program does not know, or cannot be read; nothing was changed.
    """
    try:
        found = _version(connection)
        connection.rollback()
        if found is not None and found != schema.SCHEMA_VERSION:
            _refuse_unknown(found, database)
            database.keep_before_migration(connection, found)
        with connection.begin():
            _bring(connection, found)
    except exc.DBAPIError as error:
        raise StoreError(f"{database.name}: cannot be opened: {error.orig}") from error
    if found is not None and found != schema.SCHEMA_VERSION:
        log.warning("%s: brought from schema version %d to %d", database.name, found, schema.SCHEMA_VERSION)


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(schema.meta.name):
        return None
    text = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == VERSION_KEY)).scalar_one_or_none()
    return None if text is None else int(text)


def _refuse_unknown(found: int, database: Database) -> None:
    if not MIGRATIONS[0].version - 1 <= found <= schema.SCHEMA_VERSION:
        raise StoreError(
            f"{database.name}: schema version {found}, this program writes {schema.SCHEMA_VERSION}: use the version "
            "that wrote it, or a new state directory"
        )


def _bring(connection: Connection, found: int | None) -> None:
    if found is None:
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.meta).values(key=VERSION_KEY, value=str(schema.SCHEMA_VERSION)))
    else:
        for step in MIGRATIONS:
            if step.version > found:
                step.apply(connection)
        connection.execute(
            update(schema.meta).where(schema.meta.c.key == VERSION_KEY).values(value=str(schema.SCHEMA_VERSION))
        )
    for statement in schema.rule_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
