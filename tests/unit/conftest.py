"""A real PostgreSQL server for all tests of a session, and empty histories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.histories import Place
from tests.unit.postgres_server import PostgresServer, postgres_server

from petqcd.store.postgres import PostgresDatabase
from petqcd.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that runs until the last test."""
    with postgres_server() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: PostgresServer) -> Place:
    """An empty history on either back end."""
    if request.param == "sqlite":
        return Place(tmp_path, SqliteDatabase(tmp_path / "history.sqlite"))
    return Place(tmp_path, PostgresDatabase(server.url, f"t{abs(hash(request.node.nodeid)):x}"))
