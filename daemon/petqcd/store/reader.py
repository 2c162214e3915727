"""Reading the history: short connections that can only read; works with and without a daemon.

Order of runs is their sequence, never wall time.
"""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, exc, func, inspect, not_, or_, select

from petqcd.errors import NotFoundError, StoreError
from petqcd.store import schema
from petqcd.store.database import DATABASE
from petqcd.store.rows import AGAIN, DAILY, IMPORTED, SOURCE, Occasion, StoredRun, StoredValues
from petqcd.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Select

    from petqc.baseline import AcceptedBaseline
    from petqcd.store.database import Database

_RUNS_AT_ONCE = 50
"""Of one statement that reads from documents."""
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

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.reader_engine()
        self._composes = False

    def history(self, limit: int = 50, kind: str | None = None, before: int | None = None) -> list[StoredRun]:
        """The newest runs first, in the order in which they began here; behind them imported history, by its dates.

        Args:
            limit: most.
            kind: only of this kind.
            before: only what comes after the run with this sequence.
        """
        c = schema.runs.c
        is_imported = c.instance == IMPORTED
        query = self._lines().order_by(*_newest_first()).limit(limit)
        if kind is not None:
            query = query.where(self._is_of(kind))
        if before is not None:
            rows = self._rows(select(c.instance, c.started_at).where(c.sequence == before))
            if rows and rows[0]["instance"] == IMPORTED:
                at = rows[0]["started_at"]
                is_older = or_(c.started_at < at, and_(c.started_at == at, c.sequence < before))
                query = query.where(is_imported, is_older)
            else:
                query = query.where(or_(is_imported, c.sequence < before))
        return [StoredRun(**row) for row in self._rows(query)]

    def newest(self) -> dict[str, StoredRun]:
        """The newest run of each kind that has ended, in the order of `history`; one question for all of them."""
        c = schema.runs.c
        place = func.row_number().over(partition_by=c.kind, order_by=_newest_first()).label("place")
        ended = select(c.sequence, place).where(c.verdict.is_not(None)).subquery()
        first = select(ended.c.sequence).where(ended.c.place == 1)
        lines = [StoredRun(**row) for row in self._rows(self._lines().where(c.sequence.in_(first)))]
        found = {line.kind: line for line in lines}
        if DAILY in found:  # runs with a source had that name once
            named = [line for line in self.history(20, SOURCE) if line.verdict is not None]
            found |= {SOURCE: line for line in named[:1]}  # noqa: B035 - one at most
        return found

    def kinds(self) -> list[str]:
        """Every kind that there are runs of: those of this version, of older ones, and imported."""
        return sorted(row["kind"] for row in self._rows(select(schema.runs.c.kind).distinct()))

    def scanners(self, kind: str) -> list[tuple[str, bool]]:
        """Whose runs of a kind there are, and whether they are simulated; that of the newest run first."""
        c = schema.runs.c
        newest = func.max(c.started_at).label("newest")
        query = select(c.scanner, c.simulated, newest).where(c.state == "finished", self._is_of(kind))
        rows = self._rows(query.group_by(c.scanner, c.simulated).order_by(newest.desc(), c.scanner))
        return [(row["scanner"], bool(row["simulated"])) for row in rows]

    def line(self, run_id: str) -> StoredRun:
        """One run; `last` is the newest of its own that has ended here: no part of one, no imported history.

        Raises:
            NotFoundError: there is none.
        """
        query = self._lines().order_by(schema.runs.c.sequence.desc()).limit(1)
        if run_id == "last":
            query = query.where(schema.runs.c.instance != IMPORTED, schema.runs.c.state == "finished")
            if self._has_parts():
                query = query.where(schema.parts.c.whole.is_(None))
        else:
            query = query.where(schema.runs.c.run_id == run_id)
        rows = self._rows(query)
        if not rows:
            raise NotFoundError("no run has ended yet" if run_id == "last" else f"there is no run {run_id!r}")
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
        self, kind: str, *, scanner: str, simulated: bool, checks: Sequence[str], most: int, nodes: Sequence[str] = ()
    ) -> list[StoredValues]:
        """Results of scanner, modules and the nodes named, of the last runs that could measure, oldest first.

        Args:
            kind: of the runs.
            scanner: theirs.
            simulated: whether they were.
            checks: ids.
            most: runs.
            nodes: beside scanner and modules.
        """
        c = schema.runs.c
        of_runs = (
            select(c.sequence, c.run_id, c.started_at, schema.calibration_ids_of(c.document).label("ids"))
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
            self._fill(page, checks, nodes)
            found += page.values()
        return found[::-1]

    def _fill(self, page: Mapping[int, StoredValues], checks: Sequence[str], nodes: Sequence[str]) -> None:
        r = schema.results.c
        query = (
            select(r.run, r.check_id, r.node, r.value, r.uncertainty, r.status)
            .where(r.run.in_(page), r.check_id.in_(checks), r.value.is_not(None))
            .where(or_(r.node == "scanner", r.node.like("module:%"), r.node.in_(nodes)))
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

        if not self._has_table(schema.baselines.name):
            return []  # a history of a version that had none
        rows = self._rows(select(schema.baselines.c.document).order_by(schema.baselines.c.number))
        found = []
        before = ""
        for row in rows:
            document = json.loads(row["document"])
            one = AcceptedBaseline.from_document(document)
            if one.previous != before:
                raise StoreError(
                    f"{self._database.name}: baseline {one.number} does not follow the one before: restore a backup"
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

    def reanalyses(self) -> dict[str, str]:
        """Verdicts of all runs that were analysed again, by run id."""
        query = select(schema.runs.c.run_id, schema.runs.c.verdict).where(schema.runs.c.kind.like(f"%{AGAIN}"))
        return {row["run_id"]: row["verdict"] for row in self._rows(query)}

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
        self._composes = self._composes or self._has_table(schema.parts.name)
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

    def _has_table(self, name: str) -> bool:
        try:
            return bool(inspect(self._engine).has_table(name))
        except exc.DBAPIError as error:
            raise StoreError(f"{self._database.name}: cannot be read: {error.orig}") from error

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]
        except exc.DBAPIError as error:
            raise StoreError(f"{self._database.name}: cannot be read: {error.orig}") from error


def _newest_first() -> list[ColumnElement[Any]]:
    """In the order in which they began here; behind them imported history, by its dates."""
    c = schema.runs.c
    is_imported = c.instance == IMPORTED
    return [is_imported, case((is_imported, c.started_at), else_="").desc(), c.sequence.desc()]


@contextmanager
def read_only(place: Path | Database) -> Iterator[Reader]:
    """The history without a daemon; place: where it is, or the state directory whose file it is.

    Raises:
        NotFoundError: nothing was ever stored there.
    """
    database = SqliteDatabase(place / DATABASE) if isinstance(place, Path) else place
    if not database.exists:
        raise NotFoundError(f"{database.name}: no run was ever stored here")
    with closing(Reader(database)) as reader:
        yield reader
