"""History of runs: what was claimed, what was stored, what was interrupted."""

from petqcd.store.history import Occasion, Store, StoredRun, StoredValues, kind_of, read_only

__all__ = ["Occasion", "Store", "StoredRun", "StoredValues", "kind_of", "read_only"]
