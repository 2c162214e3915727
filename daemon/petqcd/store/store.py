"""Writing the history: a run is claimed before it starts and stored whole before anybody is told its verdict."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import insert, select, update

from petqcd import clock
from petqcd.errors import StoreAwayError, StoreError
from petqcd.places import hold
from petqcd.store import outbox, schema
from petqcd.store.database import DATABASE
from petqcd.store.reader import Reader
from petqcd.store.rows import IMPORTED, listed_kind
from petqcd.store.sqlite import SqliteDatabase
from petqcd.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from sqlalchemy import Connection

    from petqc.baseline import AcceptedBaseline
    from petqc.results import Run
    from petqcd.store.backup import Backup
    from petqcd.store.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

RUNS = "runs"
SETS = "sets"
AGAIN_S = 1.0
"""Between two tries of a store that is away."""


class Store(Reader):
    """The daemon's store: reads, and writes through the one writer. Holds the state directory's lock.

    Args:
        state_dir: where the files of runs and calibrations are.
        database: where the history is; None: a file of SQLite in the state directory.

    Raises:
        StoreError: another process has it, it cannot be trusted, or it is of a version that is not known.
    """

    def __init__(self, state_dir: Path, database: Database | None = None) -> None:
        self.state_dir = state_dir
        self.instance = uuid.uuid4().hex
        self.announces: Callable[[Run, int], tuple[str, dict[str, Any]]] | None = None
        """Topic and content of the message that a stored run is told with; None: nobody is told."""
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = hold(state_dir)
        place = database or SqliteDatabase(state_dir / DATABASE)
        try:
            self._writer = Writer(place)
        except BaseException:
            os.close(self._lock)
            raise
        super().__init__(place)

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log; 0 where a server keeps it."""
        return self._database.log_bytes

    @property
    def last_commit_unix_s(self) -> float:
        """When the last durable commit was made; 0: none yet."""
        return self._writer.last_commit_unix_s

    @property
    def trouble(self) -> str:
        """Why nothing is stored, as it was when it was last tried; empty: all is well."""
        return self._writer.trouble

    @property
    def is_alive(self) -> bool:
        """Whether there is still somebody who writes; a disk that refuses is another matter."""
        return self._writer.is_alive

    def folder_of(self, run_id: str) -> Path:
        """The folder of a run's files."""
        return self.state_dir / RUNS / run_id

    @property
    def sets(self) -> Path:
        """The folder of all calibration sets."""
        return self.state_dir / SETS

    async def begin_run(
        self,
        run_id: str,
        *,
        kind: str,
        scanner: str,
        simulated: bool,
        started_at: str,
        config_hash: str,
        part_of: int | None = None,
        occasion: tuple[str, str, int] | None = None,
    ) -> int:
        """Claim a run: durable before it starts, so that it can never vanish. Returns its sequence.

        part_of: sequence of the run that it is a part of. occasion: job, local day and attempt of the schedule; refused
        if it is claimed already.
        """
        values = {
            "run_id": run_id,
            "kind": kind,
            "scanner": scanner,
            "simulated": simulated,
            "state": "running",
            "started_at": started_at,
            "started_monotonic_s": clock.monotonic_s(),
            "boot_id": clock.boot_id(),
            "instance": self.instance,
            "folder": f"{RUNS}/{run_id}",
            "config_hash": config_hash,
        }

        def write(connection: Connection) -> int:
            key = connection.execute(insert(schema.runs).values(**values)).inserted_primary_key
            assert key is not None  # noqa: S101 - one row was inserted; for the type checker
            if part_of is not None:
                connection.execute(insert(schema.parts).values(whole=part_of, part=key[0]))
            _insert_occasion(connection, occasion, int(key[0]))
            return int(key[0])

        return await self.write(write)

    async def finish_run(self, run: Run, *, patience_s: float = 0.0) -> int:
        """Store a claimed run whole: returns after the commit is on the disk. Returns its sequence.

        Args:
            run: what was measured.
            patience_s: how long it is tried again while the store is away; until then nobody is told a verdict.

        Raises:
            StoreError: not stored; the run was not claimed, another one is stored already, or the disk refuses.
        """
        document = await asyncio.to_thread(run.to_json)  # with the readings of a site it is long
        head = {
            "state": "finished",
            "finished_at": run.finished_at,
            "verdict": str(run.verdict),
            "sentence": run.sentence,
            "document": document,
        }

        def write(connection: Connection) -> int:
            c = schema.runs.c
            row = connection.execute(select(c.sequence, c.document).where(c.run_id == run.run_id)).one_or_none()
            if row is None:
                raise StoreError(f"run {run.run_id} was never claimed")
            sequence = int(row.sequence)
            if row.document == document:
                return sequence  # the commit came through, and its answer did not
            connection.execute(update(schema.runs).where(c.sequence == sequence).values(**head))
            _insert_results(connection, sequence, run)
            self._announce(connection, run, sequence)
            return sequence

        end_s = clock.monotonic_s() + patience_s
        is_told = False
        while True:
            try:
                return await self.write(write)
            except StoreAwayError as error:
                if clock.monotonic_s() > end_s:
                    raise
                if not is_told:
                    log.warning("run %s waits for the store: %s", run.run_id, error)
                is_told = True
            await asyncio.sleep(AGAIN_S)

    async def import_run(self, run: Run) -> bool:
        """Store, in one step, a run that was measured elsewhere, or analysed again. False: it is there already.

        Raises:
            StoreError: another run has its name, or the disk refuses.
        """
        values = _whole(run, IMPORTED)

        def write(connection: Connection) -> bool:
            there = connection.execute(
                select(schema.runs.c.document).where(schema.runs.c.run_id == run.run_id)
            ).scalar_one_or_none()
            if there is not None:
                if [file["sha256"] for file in json.loads(there)["raw_files"]] == [f.sha256 for f in run.raw_files]:
                    return False
                raise StoreError(f"another run {run.run_id} is stored already, made from other files")
            key = connection.execute(insert(schema.runs).values(**values)).inserted_primary_key
            assert key is not None  # noqa: S101 - one row was inserted; for the type checker
            _insert_results(connection, int(key[0]), run)
            return True

        return await self.write(write)

    async def miss_run(self, run: Run, occasion: tuple[str, str, int]) -> None:
        """Store, in one step, that a scheduled run never happened."""
        values = _whole(run, self.instance)

        def write(connection: Connection) -> None:
            key = connection.execute(insert(schema.runs).values(**values)).inserted_primary_key
            assert key is not None  # noqa: S101 - one row was inserted; for the type checker
            _insert_occasion(connection, occasion, int(key[0]))
            self._announce(connection, run, int(key[0]))

        await self.write(write)

    async def schedule_since(self, job: str, now: str) -> str:
        """When a job came into the schedule: now, if it is not known yet."""

        def write(connection: Connection) -> str:
            query = select(schema.schedules.c.since).where(schema.schedules.c.job == job)
            since = connection.execute(query).scalar_one_or_none()
            if since is None:
                connection.execute(insert(schema.schedules).values(job=job, since=now))
            return now if since is None else str(since)

        return await self.write(write)

    async def add_baseline(self, given: AcceptedBaseline) -> AcceptedBaseline:
        """Append a baseline: it gets its number, and the digest of the one before."""
        from petqc.baseline import digest_of

        def write(connection: Connection) -> AcceptedBaseline:
            last = connection.execute(
                select(schema.baselines.c.document).order_by(schema.baselines.c.number.desc()).limit(1)
            ).scalar_one_or_none()
            before = None if last is None else json.loads(last)
            number, digest = (1, "") if before is None else (before["number"] + 1, digest_of(before))
            found = replace(given, number=number, previous=digest)
            values = {name: getattr(found, name) for name in ("number", "kind", "scanner", "simulated")}
            document = json.dumps(found.document(), allow_nan=False)
            connection.execute(insert(schema.baselines).values(document=document, **values))
            return found

        return await self.write(write)

    async def write(self, write: Callable[[Connection], T]) -> T:
        """Run a write of another part in its own transaction; returns after the commit is on the disk.

        Raises:
            StoreError: not stored.
        """
        return await _done(self._writer.submit(write))

    def _announce(self, connection: Connection, run: Run, sequence: int) -> None:
        """In the same transaction: what is stored is told, and what is not stored is not."""
        if self.announces is not None:
            outbox.put(connection, *self.announces(run, sequence))

    def back_up(self, folder: Path, configuration: Path | None, software: str) -> Backup:
        """Make a verified backup while everything goes on; takes its time, so from a thread.

        Args:
            folder: where backups are kept.
            configuration: petqc.toml, if there is one.
            software: version of petqc.

        Raises:
            StoreError: what was made is no backup, and is gone.
        """
        from petqcd.store.backup import make_backup

        return make_backup(
            self._database, self._writer, folder, sets=self.sets, configuration=configuration, software=software
        )

    def close(self) -> None:
        """Finish all writes and let the state directory go."""
        super().close()
        self._writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _whole(run: Run, instance: str) -> dict[str, Any]:
    """The row of a run that was never claimed."""
    return {
        "run_id": run.run_id,
        "kind": listed_kind(run),
        "scanner": run.scanner,
        "simulated": run.simulated,
        "state": "finished",
        "started_at": run.started_at,
        "started_monotonic_s": 0.0,
        "boot_id": "",
        "instance": instance,
        "folder": f"{RUNS}/{run.run_id}",
        "config_hash": run.config_hash,
        "finished_at": run.finished_at,
        "verdict": str(run.verdict),
        "sentence": run.sentence,
        "document": run.to_json(),
    }


def _insert_occasion(connection: Connection, occasion: tuple[str, str, int] | None, sequence: int) -> None:
    if occasion is not None:
        job, day, attempt = occasion
        connection.execute(insert(schema.occasions).values(job=job, day=day, attempt=attempt, run=sequence))


def _insert_results(connection: Connection, sequence: int, run: Run) -> None:
    rows = [
        {
            "run": sequence,
            "position": position,
            "check_id": c.id,
            "node": c.node,
            "value": c.value,
            "unit": c.unit,
            "uncertainty": c.uncertainty,
            "n": c.n,
            "status": str(c.status),
            "reason": c.reason,
        }
        for position, c in enumerate(run.checks)
    ]
    if rows:
        connection.execute(insert(schema.results), rows)


async def _done(future: Future[T]) -> T:
    """Wait for a write. Cancelled: the write still happens, whole; only the waiting ends."""
    return await asyncio.shield(asyncio.wrap_future(future))
