"""Small files that must be right or not there: written whole, with a checksum, the generation before kept beside them.

A file that does not carry its own checksum is not believed; then the generation before speaks, and it is said so.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_MARK = "sha256 "
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """What a small file says. is_previous: the file itself could not be believed, this is the generation before."""

    document: Any
    is_previous: bool
    why: str = ""


def previous(path: Path) -> Path:
    """Where the generation before is."""
    return path.with_name(f"{path.name}.previous")


def write(path: Path, document: Any) -> None:
    """Replace the file in one step; when this returns, it is on the disk.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="utf-8", opener=_private) as file:
        file.write(f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n")
        file.flush()
        os.fsync(file.fileno())
    if _believed(path) is not None:  # a torn file must not take the place of a whole one
        link = path.with_name(f"{path.name}.link")
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous(path))
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> Found | None:
    """What it says, or what the generation before said; None: neither can be believed, or there is none."""
    now = _believed(path)
    if now is not None:
        return Found(now[0], is_previous=False)
    before = _believed(previous(path))
    if before is None:
        return None
    why = f"{path} is {'damaged' if path.exists() else 'missing'}: what is said is the generation before"
    return Found(before[0], is_previous=True, why=why)


def read_newest(path: Path, schema: str) -> Any:
    """What the file itself says, where the generation before will not do; None: there is no file.

    Raises:
        ValueError: it is damaged, or of another schema.
    """
    found = read(path)
    if found is None and not path.exists() and not previous(path).exists():
        return None
    if found is None or found.is_previous or found.document["schema"] != schema:
        raise ValueError(path)
    return found.document


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _believed(path: Path) -> tuple[Any] | None:
    """The document in a tuple, for null is one, too."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text, mark, checksum = raw.decode().rpartition(_MARK)
        if not mark or len(raw) > MOST_BYTES or hashlib.sha256(text.encode()).hexdigest() != checksum.strip():
            return None
        return (json.loads(text),)
    except (OSError, ValueError):
        return None
