"""Files that are complete or not there: written beside their place, then moved into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path


def sync_path(path: Path) -> None:
    """Let a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """Where a file is written until it is complete.

    Raises:
        BadInputError: `path` is a folder or a device; moving a file there would put it in the device's place.
    """
    if path.exists() and not path.is_file():
        raise BadInputError("is not a regular file and will not be replaced by one", where=str(path), do="name a file")
    return path.with_name(path.name + ".partial")


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, and whose content is on the disk."""
    partial = partial_of(path)
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_parquet(table: Any, path: Path, **options: Any) -> None:
    """Write an Arrow table as a Parquet file that is there whole or not at all; options: of pyarrow."""
    import pyarrow.parquet as pq

    partial = partial_of(path)
    with partial.open("wb") as file:
        pq.write_table(table, file, **options)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
