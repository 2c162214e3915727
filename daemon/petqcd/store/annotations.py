"""Remarks that people write into the trends: a service, a recalibration, whatever explains a step. Kept for ever."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from petqcd import clock
from petqcd.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from petqcd.store import Reader, Store

MOST = 500


class AnnotationKind(enum.StrEnum):
    """What a remark is about."""

    SERVICE = "service"
    RECALIBRATION = "recalibration"
    SOURCE = "source"
    REMARK = "remark"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One remark. at: the time it is about, ISO 8601; written_at: when it was written."""

    at: str
    kind: AnnotationKind
    text: str
    who: str
    written_at: str

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**asdict(self), "kind": str(self.kind)}


async def annotate(store: Store, *, at: str, kind: AnnotationKind, text: str, who: str) -> Annotation:
    """Write a remark.

    Raises:
        StoreError: not stored.
    """
    found = Annotation(at, kind, text, who, clock.utc_text())

    def write(connection: Connection) -> None:
        connection.execute(insert(schema.annotated).values(**found.document()))

    await store.write(write)
    return found


def read_annotations(reader: Reader) -> list[Annotation]:
    """The newest remarks, by the time they are about; reads the history."""
    table = schema.annotated.c
    query = select(table.at, table.kind, table.text, table.who, table.written_at)
    rows = reader.rows(query.order_by(table.at.desc()).limit(MOST))
    return [Annotation(**{**row, "kind": AnnotationKind(row["kind"])}) for row in reversed(rows)]
