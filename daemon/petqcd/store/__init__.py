"""History of runs: what was claimed, what was stored, what was interrupted."""

from petqcd.store.history import Occasion, Reader, Store, StoredRun, StoredValues, kind_of, read_only

__all__ = ["Occasion", "Reader", "Store", "StoredRun", "StoredValues", "kind_of", "read_only"]
