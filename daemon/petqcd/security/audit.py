"""The audit log: who did what, to what, why, and what came of it; each row carries the hash of the one before.

The intent is on the disk before the act, the result after. What cannot be recorded is refused. Only what goes towards
safe (off, stop) acts first: its rows wait in memory where the store does not take them at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import deque
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from petqcd import clock
from petqcd.errors import DaemonError, StoreError
from petqcd.store import schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sqlalchemy import Connection, Select

    from petqcd.security.access import Actor
    from petqcd.store import Reader, Store

log = logging.getLogger(__name__)

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The request that is being answered, so that all rows it causes name it."""
MOST_WAITING = 1000
"""Rows in memory while the store takes none; beyond it the oldest go to the log of the service."""
LATE_S = 2.0
"""How long an act waits for the row of its result; the row is stored all the same."""
_LONGEST = 1000
_DEEPEST = 6
_PAGE = 1000


@dataclass(slots=True)
class Act:
    """An act that is going on. result: what came of it, for the row after it; plain types."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row: its number (0: there is none) and its hash, which stands for all rows before it."""

    number: int
    hash: str


@dataclass(slots=True)
class Audit:
    """The audit log of a daemon.

    Attributes:
        store: where it is kept.
        version: of the software, in each row.
    """

    store: Store
    version: str
    _waiting: deque[dict[str, Any]] = field(default_factory=deque)
    _storing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def act(
        self,
        by: Actor,
        action: str,
        target: str,
        *,
        old: Any = None,
        new: Any = None,
        reason: str = "",
        first: bool = False,
    ) -> AsyncIterator[Act]:
        """Record an act around its doing: the intent before it, what came of it after it.

        Args:
            by: who acts.
            action: what is done, as in `petqcd.web.actions`.
            target: to what: a device, a run, a user.
            old: value before, where there is one; plain types, no secrets.
            new: value asked for.
            reason: why, in the words of whoever acts.
            first: towards safe: nothing is waited for before the act, and a store that fails does not stop it.

        Raises:
            StoreError: the intent could not be stored, so nothing was done.
        """
        began_s = clock.monotonic_s()
        intent = self._row(by, action, target, "intent", {"old": old, "new": new, "reason": reason})
        number: int | None = None
        if first:
            self._wait(intent)
        else:
            (number,) = await self._store([intent])
        act = Act()
        ending: dict[str, Any] = {"outcome": "done"}
        try:
            yield act
            ending["result"] = act.result
        except asyncio.CancelledError:
            ending["outcome"] = "cancelled"
            raise
        except DaemonError as error:
            ending |= {"outcome": "refused", "code": error.code, "error": str(error)}
            raise
        except BaseException as error:
            ending |= {"outcome": "failed", "error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            ending |= {"of": number, "duration_s": round(clock.monotonic_s() - began_s, 6)}
            self._wait(self._row(by, action, target, "result", ending))
            await self.flush()

    async def note(self, by: Actor, action: str, target: str, **said: Any) -> None:
        """Record what has happened already: a login, a refusal, a start; never fails what it tells of."""
        self._wait(self._row(by, action, target, "event", said))
        await self.flush()

    async def flush(self) -> None:
        """Store what waits in memory; waits for it a little. What the store does not take waits on."""
        if self._waiting and self._storing is None:
            self._storing = asyncio.create_task(self._store_waiting(), name="store the audit log")
        if self._storing is not None:
            await asyncio.wait({self._storing}, timeout=LATE_S)

    async def aclose(self) -> None:
        """Store the last rows; those that cannot be are in the log of the service."""
        if self._storing is not None:
            await asyncio.wait({self._storing})
        await self.flush()
        if self._storing is not None:
            await asyncio.wait({self._storing})
        for row in self._waiting:
            log.error("not in the audit log: %s", _canonical(row))

    async def _store_waiting(self) -> None:
        try:
            while self._waiting:
                rows = list(self._waiting)
                self._waiting.clear()
                try:
                    await self._store(rows)
                except StoreError as error:
                    log.error("the audit log is not stored: %s", error)  # noqa: TRY400 - the error says it all
                    since = list(self._waiting)
                    self._waiting.clear()
                    for row in rows + since:
                        self._wait(row)
                    return
        finally:
            self._storing = None

    def _wait(self, row: dict[str, Any]) -> None:
        if len(self._waiting) == MOST_WAITING:
            log.error("not in the audit log, too many rows wait: %s", _canonical(self._waiting.popleft()))
        self._waiting.append(row)

    def _row(self, by: Actor, action: str, target: str, phase: str, said: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "at": clock.utc_text(),
            "phase": phase,
            "by": by.document(),
            "action": action,
            "target": _plain(target),
            "request": REQUEST.get(),
            "version": self.version,
            "instance": self.store.instance,
            **{key: _plain(value) for key, value in said.items() if value not in (None, "")},
        }

    async def _store(self, rows: list[dict[str, Any]]) -> list[int]:
        def write(connection: Connection) -> list[int]:
            audit = schema.audit
            last = connection.execute(
                select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)
            ).one_or_none()
            number, previous = (0, "") if last is None else (int(last[0]), str(last[1]))
            numbers = []
            for row in rows:
                number += 1
                document = _canonical({**row, "number": number, "previous": previous})
                previous = _hash(document)
                values = {"actor": row["by"]["name"], "document": document, "hash": previous}
                connection.execute(insert(audit).values(number=number, **values))
                numbers.append(number)
            return numbers

        return await self.store.write(write)


def newest(reader: Reader) -> Head:
    """The newest row; reads the history."""
    audit = schema.audit.c
    rows = reader.rows(select(audit.number, audit.hash).order_by(audit.number.desc()).limit(1))
    return Head(rows[0]["number"], rows[0]["hash"]) if rows else Head(0, "")


def entries(
    reader: Reader, *, limit: int = 100, before: int | None = None, actor: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the log, newest first, each with its hash; reads the history.

    Args:
        reader: of the history.
        limit: most rows.
        before: only rows with a lower number.
        actor: only rows of this one.
    """
    audit = schema.audit.c
    query = select(audit.document, audit.hash).order_by(audit.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.number < before)
    if actor is not None:
        query = query.where(audit.actor == actor)
    return _with_hash(reader, query)


def rows_after(reader: Reader, number: int, limit: int) -> list[dict[str, Any]]:
    """Rows with a higher number, oldest first, at most so many, each with its hash; reads the history."""
    audit = schema.audit.c
    query = select(audit.document, audit.hash).where(audit.number > number).order_by(audit.number).limit(limit)
    return _with_hash(reader, query)


def _with_hash(reader: Reader, query: Select[Any]) -> list[dict[str, Any]]:
    return [{**json.loads(row["document"]), "hash": row["hash"]} for row in reader.rows(query)]


def verify(reader: Reader, *, known: Head | None = None) -> Head:
    """Check that no row was changed, removed or put in; the newest row.

    Args:
        reader: of the history.
        known: a row that was noted earlier; it must still be there, which shows that the end was not cut off.

    Raises:
        StoreError: naming the first row that does not fit.
    """
    head = Head(0, "")
    audit = schema.audit.c
    while True:
        query = select(audit.number, audit.document, audit.hash).where(audit.number > head.number)
        rows = reader.rows(query.order_by(audit.number).limit(_PAGE))
        if not rows:
            break
        for row in rows:
            said = json.loads(row["document"])
            is_next = row["number"] == said["number"] == head.number + 1 and said["previous"] == head.hash
            if not is_next or _hash(row["document"]) != row["hash"]:
                raise StoreError(
                    f"the audit log is broken at row {row['number']}: it does not follow row {head.number}"
                )
            head = Head(row["number"], row["hash"])
            if known is not None and known.number == head.number and known.hash != head.hash:
                raise StoreError(f"row {known.number} of the audit log is not the one that was noted")
    if known is not None and known.number > head.number:
        raise StoreError(f"the audit log ends at row {head.number}; row {known.number} was cut off")
    return head


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _hash(document: str) -> str:
    return hashlib.sha256(document.encode("ascii")).hexdigest()


def _plain(value: Any, depth: int = 0) -> Any:
    """Plain types of bounded size: what a caller sends must neither break the log nor fill the disk."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _DEEPEST and isinstance(value, dict):
        return {str(k)[:_LONGEST]: _plain(v, depth + 1) for k, v in list(value.items())[:100]}
    if depth < _DEEPEST and isinstance(value, list | tuple):
        return [_plain(v, depth + 1) for v in value[:100]]
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
