"""Commands that carry an id of their own: the same id has one effect and one answer, for a day, over restarts too.

The id is claimed on the disk before the act, its answer stored after. What a daemon that died had begun is never begun
again: nobody knows what came of it, and the audit log has it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from petqcd import clock
from petqcd.errors import InvalidRequestError, RefusedError
from petqcd.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from petqcd.store import Store

HEADER = "request-id"
KEPT_S = 86_400.0
LONGEST_BYTES = 1 << 16
"""Of an answer that is kept; of a longer one it is only known that it was given."""
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to a command."""

    status: int
    body: bytes


class Answers:
    """The answers of a daemon.

    Args:
        store: where they are kept.
        unix_s: the clock that forgets them.
    """

    def __init__(self, store: Store, unix_s: Callable[[], float] = clock.unix_s) -> None:
        self._store = store
        self._unix_s = unix_s

    async def claim(self, actor: str, request_id: str, path: str, body: bytes) -> Answer | None:
        """Begin a command; the answer of an earlier one with this id: nothing is to be done.

        Raises:
            InvalidRequestError: the id is none.
            RefusedError: the id stands for another command, or for one whose end is not known.
            StoreError: it cannot be recorded, so nothing was begun.
        """
        if not _ID.fullmatch(request_id):
            raise InvalidRequestError(f"{HEADER}: 8 to 64 letters, digits and . _ - that are used for one command only")
        said = hashlib.sha256(path.encode() + b"\n" + body).hexdigest()
        table, now_s = schema.answers, self._unix_s()
        mine = (table.c.actor == actor) & (table.c.request_id == request_id)

        def write(connection: Connection) -> tuple[str, int | None, str | None] | None:
            connection.execute(delete(table).where(table.c.unix_s < now_s - KEPT_S))
            row = connection.execute(select(table.c.said, table.c.status, table.c.body).where(mine)).one_or_none()
            if row is None:
                values = {"actor": actor, "request_id": request_id, "said": said, "unix_s": now_s}
                connection.execute(insert(table).values(**values))
                return None
            return str(row[0]), row[1], row[2]

        found = await self._store.write(write)
        if found is None:
            return None
        known, status, kept = found
        if known != said:
            raise RefusedError(f"{HEADER} {request_id} stands for another command already")
        if status is None:
            raise RefusedError(
                f"the command with {HEADER} {request_id} was begun and is not answered: the audit log has what "
                "came of it; it is not begun again"
            )
        if kept is None:
            raise RefusedError(f"the command with {HEADER} {request_id} was done; its answer was too long to be kept")
        return Answer(status, kept.encode())

    async def keep(self, actor: str, request_id: str, answer: Answer) -> None:
        """Store what came of a command.

        Raises:
            StoreError: it is not stored; the id stays claimed.
        """
        table = schema.answers
        mine = (table.c.actor == actor) & (table.c.request_id == request_id)
        body = answer.body.decode() if len(answer.body) <= LONGEST_BYTES else None

        def write(connection: Connection) -> None:
            connection.execute(update(table).where(mine).values(status=answer.status, body=body))

        await self._store.write(write)
