"""The history: a run is claimed before it starts, stored whole before it is acknowledged, and found again if it died.

Source of the rules: SQLite in WAL mode with FULL sync, one writer; readers are read-only connections with a limit on
the time of a statement.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import and_, create_engine, event, exc, func, insert, inspect, not_, or_, select, update
from sqlalchemy.pool import NullPool

from petqcd import clock
from petqcd.errors import NotFoundError, StoreError
from petqcd.places import hold
from petqcd.store import schema
from petqcd.store.writer import Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from sqlalchemy import ColumnElement, Connection, Engine, Select

    from petqc.baseline import AcceptedBaseline
    from petqc.results import Run

T = TypeVar("T")

DATABASE = "history.sqlite"
RUNS = "runs"
DAILY, SOURCE = "daily", "source"
IMPORTED = "imported"
"""In place of the daemon that made a run: it was measured by something else, and only its results are here."""
SETS = "sets"
READ_LIMIT_S = 2.0
"""Longest statement of a reader: a long read would keep the log from shrinking."""
_PROGRESS_STEPS = 10_000
_RUNS_AT_ONCE = 50
"""Of one statement that reads from documents."""
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One line of the history; verdict, sentence and finished_at are None while it runs.

    part_of: sequence of the run that it is a part of; None: it was started by itself.
    """

    sequence: int
    run_id: str
    kind: str
    scanner: str
    simulated: bool
    state: str
    started_at: str
    folder: str
    finished_at: str | None
    verdict: str | None
    sentence: str | None
    part_of: int | None = None


@dataclass(frozen=True, slots=True)
class StoredValues:
    """Results of one run by check and node: value with standard error, and status."""

    run_id: str
    started_at: str
    calibration_ids: dict[str, str]
    values: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occasion:
    """The last attempt of a job of the schedule on a local day; verdict and sentence are None while it runs."""

    day: date
    attempt: int
    run_id: str
    verdict: str | None
    sentence: str | None


_LINE = (
    schema.runs.c.sequence,
    schema.runs.c.run_id,
    schema.runs.c.kind,
    schema.runs.c.scanner,
    schema.runs.c.simulated,
    schema.runs.c.state,
    schema.runs.c.started_at,
    schema.runs.c.folder,
    schema.runs.c.finished_at,
    schema.runs.c.verdict,
    schema.runs.c.sentence,
)


class Reader:
    """Reads the history through short, read-only connections; works with and without a daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = _reader_engine(path)
        self._composes = False

    def history(self, limit: int = 50, kind: str | None = None, before: int | None = None) -> list[StoredRun]:
        """The newest runs first; before: only those with a lower sequence."""
        query = self._lines().order_by(schema.runs.c.sequence.desc()).limit(limit)
        if kind is not None:
            query = query.where(self._is_of(kind))
        if before is not None:
            query = query.where(schema.runs.c.sequence < before)
        return [StoredRun(**row) for row in self._rows(query)]

    def line(self, run_id: str) -> StoredRun:
        """One run; `last` is the newest that was started here by itself: no part of one, no imported history.

        Raises:
            NotFoundError: there is none.
        """
        query = self._lines().order_by(schema.runs.c.sequence.desc()).limit(1)
        if run_id == "last":
            query = query.where(schema.runs.c.instance != IMPORTED)
            if self._has_parts():
                query = query.where(schema.parts.c.whole.is_(None))
        else:
            query = query.where(schema.runs.c.run_id == run_id)
        rows = self._rows(query)
        if not rows:
            raise NotFoundError("there is no run yet" if run_id == "last" else f"there is no run {run_id!r}")
        return StoredRun(**rows[0])

    def document(self, run_id: str) -> dict[str, Any]:
        """The stored document of a run.

        Raises:
            NotFoundError: there is none, or it is still going on.
        """
        line = self.line(run_id)
        rows = self._rows(select(schema.runs.c.document).where(schema.runs.c.sequence == line.sequence))
        text = rows[0]["document"]
        if text is None:
            raise NotFoundError(f"run {line.run_id} is still going on")
        document: dict[str, Any] = json.loads(text)
        return document

    def last_document(self, kind: str, *, missed: bool = False) -> dict[str, Any]:
        """The document of the newest run of a kind that is stored; missed: of the newest one that never happened.

        Raises:
            NotFoundError: there is none.
        """
        query = select(schema.runs.c.document).where(schema.runs.c.state == "finished", self._is_of(kind))
        is_missed = schema.runs.c.verdict == "missed"
        query = query.where(is_missed if missed else not_(is_missed))
        rows = self._rows(query.order_by(schema.runs.c.sequence.desc()).limit(1))
        if not rows:
            raise NotFoundError(f"there is no {kind} run yet")
        document: dict[str, Any] = json.loads(rows[0]["document"])
        return document

    def values(
        self, kind: str, *, scanner: str, simulated: bool, checks: Sequence[str], most: int
    ) -> list[StoredValues]:
        """Results of scanner and modules of the last runs that could measure, oldest first, without their documents.

        Args:
            kind: of the runs.
            scanner: theirs.
            simulated: whether they were.
            checks: ids.
            most: runs.
        """
        c = schema.runs.c
        of_runs = (
            select(c.sequence, c.run_id, c.started_at, func.json_extract(c.document, "$.calibration_ids").label("ids"))
            .where(c.state == "finished", c.verdict != "invalid")
            .where(self._is_of(kind), c.scanner == scanner, c.simulated == simulated)
            .order_by(c.sequence.desc())
        )
        found: list[StoredValues] = []
        before: int | None = None
        while len(found) < most:
            older = of_runs if before is None else of_runs.where(c.sequence < before)
            rows = self._rows(older.limit(min(_RUNS_AT_ONCE, most - len(found))))
            if not rows:
                break
            before = rows[-1]["sequence"]
            page = {
                r["sequence"]: StoredValues(r["run_id"], r["started_at"], json.loads(r["ids"] or "{}")) for r in rows
            }
            self._fill(page, checks)
            found += page.values()
        return found[::-1]

    def _fill(self, page: Mapping[int, StoredValues], checks: Sequence[str]) -> None:
        r = schema.results.c
        query = (
            select(r.run, r.check_id, r.node, r.value, r.uncertainty, r.status)
            .where(r.run.in_(page), r.check_id.in_(checks), r.value.is_not(None))
            .where(or_(r.node == "scanner", r.node.like("module:%")))
        )
        for row in self._rows(query):
            one, place = page[row["run"]], (row["check_id"], row["node"])
            one.values[place] = row["value"], row["uncertainty"] or 0.0
            one.statuses[place] = row["status"]

    def baselines(self, kind: str | None = None) -> list[AcceptedBaseline]:
        """Every accepted baseline and every end of one, oldest first; those of source runs were once of daily runs.

        Raises:
            StoreError: one of them is not what was written after the one before it.
        """
        from petqc.baseline import AcceptedBaseline, digest_of

        if not inspect(self._engine).has_table(schema.baselines.name):
            return []  # a history of a version that had none
        rows = self._rows(select(schema.baselines.c.document).order_by(schema.baselines.c.number))
        found = []
        before = ""
        for row in rows:
            document = json.loads(row["document"])
            one = AcceptedBaseline.from_document(document)
            if one.previous != before:
                raise StoreError(
                    f"{self._path}: baseline {one.number} does not follow the one before: restore a backup"
                )
            before = digest_of(document)
            found.append(one)
        return [one for one in found if kind is None or one.kind in (kind, *([DAILY] if kind == SOURCE else []))]

    def running(self) -> list[StoredRun]:
        """Runs that were claimed and never stored, oldest first."""
        query = self._lines().where(schema.runs.c.state == "running").order_by(schema.runs.c.sequence)
        return [StoredRun(**row) for row in self._rows(query)]

    def occasions(self, job: str) -> list[Occasion]:
        """What became of each day of a job of the schedule, oldest first: the last attempt."""
        joined = schema.occasions.join(schema.runs, schema.runs.c.sequence == schema.occasions.c.run)
        query = (
            select(
                schema.occasions.c.day,
                schema.occasions.c.attempt,
                schema.runs.c.run_id,
                schema.runs.c.verdict,
                schema.runs.c.sentence,
            )
            .select_from(joined)
            .where(schema.occasions.c.job == job)
            .order_by(schema.occasions.c.day, schema.occasions.c.attempt)
        )
        last = {row["day"]: row for row in self._rows(query)}
        return [Occasion(**{**row, "day": date.fromisoformat(row["day"])}) for row in last.values()]

    def newest_time(self) -> str | None:
        """When the newest record was stored, by the clock of then; None: there is none."""
        query = select(func.max(schema.runs.c.finished_at).label("at")).where(schema.runs.c.instance != IMPORTED)
        at = self._rows(query)[0]["at"]
        return None if at is None else str(at)

    def parts_of(self, sequence: int) -> list[StoredRun]:
        """The parts of a run that were claimed, in order."""
        if not self._has_parts():
            return []
        query = self._lines().where(schema.parts.c.whole == sequence).order_by(schema.runs.c.sequence)
        return [StoredRun(**row) for row in self._rows(query)]

    def _lines(self) -> Select[Any]:
        if not self._has_parts():
            return select(*_LINE)
        joined = schema.runs.outerjoin(schema.parts, schema.parts.c.part == schema.runs.c.sequence)
        return select(*_LINE, schema.parts.c.whole.label("part_of")).select_from(joined)

    def _has_parts(self) -> bool:
        """Whether the history was written by a version that composes runs."""
        self._composes = self._composes or inspect(self._engine).has_table(schema.parts.name)
        return self._composes

    def _is_of(self, kind: str) -> ColumnElement[bool]:
        """Whether a run is of a kind: daily runs without parts were what source runs are."""
        own = schema.runs.c.kind == kind
        if kind != SOURCE:
            return own
        older = schema.runs.c.kind == DAILY
        if self._has_parts():
            older = and_(older, schema.runs.c.sequence.not_in(select(schema.parts.c.whole)))
        return or_(own, older)

    def close(self) -> None:
        """Close; there is nothing open between reads."""
        self._engine.dispose()

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        """What a query of another part finds, by column."""
        return self._rows(query)

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]
        except exc.DBAPIError as error:
            raise StoreError(f"{self._path}: cannot be read: {error.orig}") from error


def kind_of(document: Mapping[str, Any]) -> str:
    """The kind of a stored run: daily runs without parts were what source runs are."""
    is_older = document["kind"] == DAILY and not document.get("parts")
    return SOURCE if is_older else str(document["kind"])


class Store(Reader):
    """The daemon's store: reads, and writes through the one writer. Holds the state directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.instance = uuid.uuid4().hex
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_network_file_system(state_dir)
        self._lock = hold(state_dir)
        try:
            path = state_dir / DATABASE
            _prepare(path)
            self._writer = Writer(path)
        except BaseException:
            os.close(self._lock)
            raise
        super().__init__(path)

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        return self._writer.wal_bytes

    @property
    def last_commit_unix_s(self) -> float:
        """When the last durable commit was made; 0: none yet."""
        return self._writer.last_commit_unix_s

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

        return await _done(self._writer.submit(write))

    async def finish_run(self, run: Run) -> int:
        """Store a claimed run whole: returns after the commit is on the disk. Returns its sequence.

        Raises:
            StoreError: not stored; the run was not claimed, is stored already, or the disk refuses.
        """
        document = run.to_json()
        head = {
            "state": "finished",
            "finished_at": run.finished_at,
            "verdict": str(run.verdict),
            "sentence": run.sentence,
            "document": document,
        }

        def write(connection: Connection) -> int:
            sequence = connection.execute(
                select(schema.runs.c.sequence).where(schema.runs.c.run_id == run.run_id)
            ).scalar_one_or_none()
            if sequence is None:
                raise StoreError(f"run {run.run_id} was never claimed")
            connection.execute(update(schema.runs).where(schema.runs.c.sequence == sequence).values(**head))
            _insert_results(connection, int(sequence), run)
            return int(sequence)

        return await _done(self._writer.submit(write))

    async def import_run(self, run: Run) -> bool:
        """Store, in one step, a run that was measured elsewhere. False: it is there already.

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

        return await _done(self._writer.submit(write))

    async def miss_run(self, run: Run, occasion: tuple[str, str, int]) -> None:
        """Store, in one step, that a scheduled run never happened."""
        values = _whole(run, self.instance)

        def write(connection: Connection) -> None:
            key = connection.execute(insert(schema.runs).values(**values)).inserted_primary_key
            assert key is not None  # noqa: S101 - one row was inserted; for the type checker
            _insert_occasion(connection, occasion, int(key[0]))

        await self.write(write)

    async def schedule_since(self, job: str, now: str) -> str:
        """When a job came into the schedule: now, if it is not known yet."""

        def write(connection: Connection) -> str:
            query = select(schema.schedules.c.since).where(schema.schedules.c.job == job)
            since = connection.execute(query).scalar_one_or_none()
            if since is None:
                connection.execute(insert(schema.schedules).values(job=job, since=now))
            return now if since is None else str(since)

        return await _done(self._writer.submit(write))

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

        return await _done(self._writer.submit(write))

    async def write(self, write: Callable[[Connection], T]) -> T:
        """Run a write of another part in its own transaction; returns after the commit is on the disk.

        Raises:
            StoreError: not stored.
        """
        return await _done(self._writer.submit(write))

    def close(self) -> None:
        """Finish all writes and let the state directory go."""
        super().close()
        self._writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextmanager
def read_only(state_dir: Path) -> Iterator[Reader]:
    """The history without a daemon.

    Raises:
        NotFoundError: nothing was ever stored there.
    """
    path = state_dir / DATABASE
    if not path.is_file():
        raise NotFoundError(f"{state_dir}: no run was ever stored here")
    with closing(Reader(path)) as reader:
        yield reader


def _whole(run: Run, instance: str) -> dict[str, Any]:
    """The row of a run that was never claimed."""
    return {
        "run_id": run.run_id,
        "kind": run.kind,
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


def _prepare(path: Path) -> None:
    """Make the tables, or check that they are of a version this program knows."""
    from petqcd.store.writer import writer_engine

    engine = writer_engine(path)
    try:
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            for trigger in schema.TRIGGERS:
                connection.exec_driver_sql(trigger)
            version = connection.execute(
                select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")
            ).scalar_one_or_none()
            if version is None:
                connection.execute(insert(schema.meta).values(key="schema_version", value=str(schema.SCHEMA_VERSION)))
            elif int(version) != schema.SCHEMA_VERSION:
                raise StoreError(
                    f"{path}: schema version {version}, this program writes {schema.SCHEMA_VERSION}: use the version "
                    "that wrote it, or a new state directory"
                )
    except exc.DBAPIError as error:
        raise StoreError(f"{path}: cannot be opened: {error.orig}") from error
    finally:
        engine.dispose()
    path.chmod(0o600)


def _reader_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def limit(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA query_only=1")
        connection.execute("PRAGMA busy_timeout=1000")
        end_s = clock.monotonic_s() + READ_LIMIT_S
        stop: Callable[[], int] = lambda: int(clock.monotonic_s() > end_s)  # noqa: E731 - one expression, one use
        connection.set_progress_handler(stop, _PROGRESS_STEPS)

    return engine


def _refuse_network_file_system(folder: Path) -> None:
    """SQLite's locks and syncs cannot be trusted over a network."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        head, _, tail = line.partition(" - ")
        mount = head.split()[4].replace("\\040", " ")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, tail.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(f"{folder}: is on a network file system ({kind}); the history needs a local disk")
