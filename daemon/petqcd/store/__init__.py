"""History of runs: what was claimed, what was stored, what was interrupted."""

from petqcd.store.history import Store, StoredRun, StoredValues, kind_of, read_only

__all__ = ["Store", "StoredRun", "StoredValues", "kind_of", "read_only"]
