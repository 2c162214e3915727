"""History of runs: what was claimed, what was stored, what was interrupted."""

from petqcd.store.database import Database, database_of
from petqcd.store.reader import Reader, read_only
from petqcd.store.rows import SOURCE, Occasion, StoredRun, StoredValues, kind_of
from petqcd.store.store import Store

__all__ = [
    "SOURCE",
    "Database",
    "Occasion",
    "Reader",
    "Store",
    "StoredRun",
    "StoredValues",
    "database_of",
    "kind_of",
    "read_only",
]
