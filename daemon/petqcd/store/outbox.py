"""Messages that wait for the broker: written with the fact itself, deleted once the broker has them.

Bounded in age and number; the oldest go first. Each has its id in its payload, so that whoever gets one twice knows.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from petqcd import clock
from petqcd.store import schema

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

    from petqcd.store.reader import Reader

MOST_AGE_S = 7 * 86_400.0
MOST_MESSAGES = 1_000_000
_C = schema.outbox.c


@dataclass(frozen=True, slots=True)
class Message:
    """One that waits. number: its order. made_unix_s: when. topic: below the prefix of the scanner."""

    number: int
    message_id: str
    made_unix_s: float
    topic: str
    payload: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many wait, and since when the oldest one; 0: none."""

    count: int
    oldest_unix_s: float


def put(connection: Connection, topic: str, document: Mapping[str, Any]) -> None:
    """Add a message, inside the transaction of the fact that it tells."""
    message_id, now_s = uuid.uuid4().hex, clock.unix_s()
    payload = json.dumps({"id": message_id, **document}, allow_nan=False, ensure_ascii=False)
    values = {"message_id": message_id, "made_unix_s": now_s, "topic": topic, "payload": payload}
    key = connection.execute(insert(schema.outbox).values(**values)).inserted_primary_key
    assert key is not None  # noqa: S101 - one row was inserted; for the type checker
    connection.execute(
        delete(schema.outbox).where((_C.number <= key[0] - MOST_MESSAGES) | (_C.made_unix_s < now_s - MOST_AGE_S))
    )


def waiting(store: Reader) -> Waiting:
    """What waits; reads the store."""
    (row,) = store.rows(
        select(func.count().label("count"), func.min(_C.made_unix_s).label("oldest")).subquery().select()
    )
    return Waiting(int(row["count"]), float(row["oldest"] or 0.0))


def oldest(store: Reader, most: int, without: Collection[str] = ()) -> list[Message]:
    """The next ones to tell, in order, without those of some topics; reads the store."""
    found = select(schema.outbox).where(_C.topic.not_in(without)).order_by(_C.number).limit(most)
    return [Message(**row) for row in store.rows(found)]


def told(connection: Connection, number: int) -> None:
    """The broker has it."""
    connection.execute(delete(schema.outbox).where(_C.number == number))
