"""Tables of the history. Stored runs and baselines are never changed and never deleted; the database refuses.

A table that is new, or changed, needs a new SCHEMA_VERSION and its step in `petqcd.store.migrations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.sql.compiler import SQLCompiler

SCHEMA_VERSION = 4

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

runs = Table(
    "runs",
    metadata,
    # Order of runs is this number, never wall time: clocks step.
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("scanner", String, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", String, nullable=False),
    Column("started_monotonic_s", Float, nullable=False),
    Column("boot_id", String, nullable=False),
    Column("instance", String, nullable=False),
    Column("folder", String, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("finished_at", String),
    Column("verdict", String),
    Column("sentence", Text),
    Column("document", Text),
    CheckConstraint("state IN ('running', 'finished')", name="known_state"),
    CheckConstraint(
        "(state = 'running') = (document IS NULL) AND (document IS NULL) = (verdict IS NULL)", name="whole_or_not"
    ),
    sqlite_autoincrement=True,
)

results = Table(
    "results",
    metadata,
    Column("run", Integer, ForeignKey("runs.sequence"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("check_id", String, nullable=False),
    Column("node", String, nullable=False),
    Column("value", Float),
    Column("unit", String, nullable=False),
    Column("uncertainty", Float),
    Column("n", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", Text),
    Index("results_trend", "check_id", "node", "run"),
)

parts = Table(
    "parts",
    metadata,
    # A run that is composed of others, and each of those.
    Column("whole", Integer, ForeignKey("runs.sequence"), primary_key=True),
    Column("part", Integer, ForeignKey("runs.sequence"), primary_key=True),
    Index("parts_part", "part", unique=True),
)

occasions = Table(
    "occasions",
    metadata,
    # A job of the schedule, its local day, and which attempt of it the run is: no day is run twice.
    Column("job", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("run", Integer, ForeignKey("runs.sequence"), nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("job", String, primary_key=True),
    Column("since", String, nullable=False),
)

baselines = Table(
    "baselines",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),
    Column("scanner", String, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("document", Text, nullable=False),
    sqlite_autoincrement=True,
)

audit = Table(
    "audit",
    metadata,
    # Each row's document holds the hash of the row before; hash: of the document's own text.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("actor", String, nullable=False),
    Column("document", Text, nullable=False),
    Column("hash", String, nullable=False),
    Index("audit_actor", "actor", "number"),
)

annotated = Table(
    "annotations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("who", String, nullable=False),
    Column("written_at", String, nullable=False),
    sqlite_autoincrement=True,
)

users = Table(
    "users",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("password", String, nullable=False),  # Argon2id, in its own notation
    Column("created_at", String, nullable=False),
    Column("created_by", String, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),  # SHA-256 of the secret
    Column("role", String, nullable=False),
    Column("scope", String),  # actions with spaces between; none: all of the role
    Column("created_at", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("revoked_at", String),
    Column("used_at", String),
    # What it is restricted to, with spaces between; none: nothing.
    Column("networks", String),
    Column("devices", String),
    Column("kinds", String),
)

answers = Table(
    "answers",
    metadata,
    # Commands that carried an id: claimed before they were done, answered after; status none: not answered.
    Column("actor", String, primary_key=True),
    Column("request_id", String, primary_key=True),
    Column("said", String, nullable=False),  # SHA-256 of the command
    Column("unix_s", Float, nullable=False),
    Column("status", Integer),
    Column("body", Text),
)

outbox = Table(
    "outbox",
    metadata,
    # What is to be told to the broker: written with the fact itself, deleted once the broker has it.
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("message_id", String, nullable=False, unique=True),
    Column("made_unix_s", Float, nullable=False),
    Column("topic", String, nullable=False),
    Column("payload", Text, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the database refuses whoever asks. when: condition on the old row; empty: always."""

    name: str
    table: str
    event: Literal["UPDATE", "DELETE"]
    message: str
    when: str = ""


RULES = (
    Rule("annotations_unchanged", "annotations", "UPDATE", "an annotation is never changed"),
    Rule("annotations_kept", "annotations", "DELETE", "an annotation is never deleted"),
    Rule("audit_unchanged", "audit", "UPDATE", "the audit log is never changed"),
    Rule("audit_kept", "audit", "DELETE", "the audit log is never deleted"),
    Rule("runs_unchanged", "runs", "UPDATE", "a stored run is never changed", "OLD.state = 'finished'"),
    Rule("runs_kept", "runs", "DELETE", "a run is never deleted"),
    Rule("parts_unchanged", "parts", "UPDATE", "a stored run is never changed"),
    Rule("parts_kept", "parts", "DELETE", "a run is never deleted"),
    Rule("occasions_unchanged", "occasions", "UPDATE", "an occasion is never changed"),
    Rule("occasions_kept", "occasions", "DELETE", "an occasion is never deleted"),
    Rule("results_unchanged", "results", "UPDATE", "a stored result is never changed"),
    Rule("baselines_unchanged", "baselines", "UPDATE", "a baseline is never changed"),
    Rule("baselines_kept", "baselines", "DELETE", "a baseline is never deleted"),
    Rule("results_kept", "results", "DELETE", "a result is never deleted"),
)


def rule_statements(dialect: str) -> Iterator[str]:
    """SQL that makes every rule, where it is not there yet."""
    if dialect == "sqlite":
        for rule in RULES:
            when = f" WHEN {rule.when}" if rule.when else ""
            yield (
                f"CREATE TRIGGER IF NOT EXISTS {rule.name} BEFORE {rule.event} ON {rule.table}{when} "
                f"BEGIN SELECT RAISE(ABORT, '{rule.message}'); END"
            )
        return
    yield (
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for rule in RULES:
        when = f" WHEN ({rule.when})" if rule.when else ""
        yield (
            f"CREATE OR REPLACE TRIGGER {rule.name} BEFORE {rule.event} ON {rule.table} FOR EACH ROW{when} "
            f"EXECUTE FUNCTION refuse('{rule.message}')"
        )
    for table in dict.fromkeys(rule.table for rule in RULES if rule.event == "DELETE"):
        yield (
            f"CREATE OR REPLACE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse('what is stored is never deleted')"
        )


class calibration_ids_of(FunctionElement[str]):  # noqa: N801 - a function of SQL
    """The calibration ids in a document, as JSON text, without reading the whole of it."""

    inherit_cache = True
    type = Text()


@compiles(calibration_ids_of, "sqlite")
def _on_sqlite(element: calibration_ids_of, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"json_extract({compiler.process(element.clauses, **kwargs)}, '$.calibration_ids')"


@compiles(calibration_ids_of, "postgresql")
def _on_postgresql(element: calibration_ids_of, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"(CAST({compiler.process(element.clauses, **kwargs)} AS json) ->> 'calibration_ids')"
