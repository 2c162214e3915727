"""Tables of the history. Stored runs and baselines are never changed and never deleted; the database refuses."""

from __future__ import annotations

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

SCHEMA_VERSION = 1

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
)

TRIGGERS = (
    (
        "CREATE TRIGGER IF NOT EXISTS audit_unchanged BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS audit_kept BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is never deleted'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS runs_unchanged BEFORE UPDATE ON runs WHEN OLD.state = 'finished' "
        "BEGIN SELECT RAISE(ABORT, 'a stored run is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS runs_kept BEFORE DELETE ON runs "
        "BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS parts_unchanged BEFORE UPDATE ON parts "
        "BEGIN SELECT RAISE(ABORT, 'a stored run is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS parts_kept BEFORE DELETE ON parts "
        "BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS occasions_unchanged BEFORE UPDATE ON occasions "
        "BEGIN SELECT RAISE(ABORT, 'an occasion is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS occasions_kept BEFORE DELETE ON occasions "
        "BEGIN SELECT RAISE(ABORT, 'an occasion is never deleted'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS results_unchanged BEFORE UPDATE ON results "
        "BEGIN SELECT RAISE(ABORT, 'a stored result is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS baselines_unchanged BEFORE UPDATE ON baselines "
        "BEGIN SELECT RAISE(ABORT, 'a baseline is never changed'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS baselines_kept BEFORE DELETE ON baselines "
        "BEGIN SELECT RAISE(ABORT, 'a baseline is never deleted'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS results_kept BEFORE DELETE ON results "
        "BEGIN SELECT RAISE(ABORT, 'a result is never deleted'); END"
    ),
)
