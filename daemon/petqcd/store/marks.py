"""How far the history had come at a commit: what must be there when a store that was in trouble is well again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from petqcd.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Marks:
    """The last numbers that were given: to a run, to a row of the audit log, to a baseline."""

    run: int = 0
    audit: int = 0
    baseline: int = 0

    def __ge__(self, other: Marks) -> bool:
        """Whether all that was there at the other is there."""
        return self.run >= other.run and self.audit >= other.audit and self.baseline >= other.baseline


def marks_of(connection: Connection) -> Marks:
    """Those of the transaction that a connection is in."""
    numbers = (schema.runs.c.sequence, schema.audit.c.number, schema.baselines.c.number)
    found = connection.execute(select(*(select(func.max(one)).scalar_subquery() for one in numbers))).one()
    return Marks(*(int(one or 0) for one in found))
