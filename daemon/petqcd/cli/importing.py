"""Runs that were made elsewhere come into the history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.cli.common import say
from petqcd.errors import UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.results import Run
    from petqcd.config import PetqcConfig

_DEADLINE_S = 60.0
"""For one run: its document may have megabytes, and the disk be slow."""


def import_runs(config: PetqcConfig, folder: Path, runs: list[Run], *, quiet: bool = False) -> list[tuple[str, bool]]:
    """Store runs through the daemon; without one, as its own only writer for as long as that takes.

    Returns ids, and whether each is new; quiet: do not say which way it goes.

    Raises:
        StoreError: not stored: another process has the history, or its disk refuses.
    """
    import asyncio

    from petqcd.client import Client

    client = Client(folder)
    try:
        return [
            (run.run_id, client.post("/api/v1/imports", {"document": run.document()}, _DEADLINE_S)["imported"])
            for run in runs
        ]
    except UnreachableError as error:
        from petqcd.store import Store, database_of

        if not quiet:
            say(f"petqc: {error}; writing the history itself")

        async def store_all() -> list[tuple[str, bool]]:
            store = Store(folder, database_of(config.store, folder))
            try:
                return [(run.run_id, await store.import_run(run)) for run in runs]
            finally:
                store.close()

        return asyncio.run(store_all())
