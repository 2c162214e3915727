"""Backups: a copy is made under a temporary name, opened, checked and counted; only then is it called a backup.

One backup is one folder: `history.sqlite`, the calibration sets, the configuration, and `backup.json` with the checksum
of every file and the rows of every table.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from petqc.file_hash import sha256_of
from petqcd import clock
from petqcd.errors import StoreError
from petqcd.store import schema
from petqcd.store.copying import check_copy, copy_history
from petqcd.store.database import DATABASE
from petqcd.store.sqlite import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from petqcd.store.database import Database
    from petqcd.store.writer import Writer

BACKUPS = "backups"
MANIFEST = "backup.json"
SCHEMA = "petqc-backup/1"
DAILY, WEEKLY, MONTHLY = 7, 5, 12
"""How many days, weeks and months keep their newest backup."""
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Backup:
    """A verified backup. made_at: UTC. rows: by table. files: SHA-256 by path in the folder."""

    path: Path
    made_at: str
    software: str
    schema_version: int
    rows: dict[str, int]
    files: dict[str, str]

    @property
    def made_unix_s(self) -> float:
        """When, in seconds since 1970."""
        return datetime.fromisoformat(self.made_at).timestamp()

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum((self.path / name).stat().st_size for name in self.files)

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**asdict(self), "path": str(self.path)}


def make_backup(
    database: Database, writer: Writer, folder: Path, *, sets: Path, configuration: Path | None, software: str
) -> Backup:
    """Make and verify a backup, then drop those that are no longer kept.

    Args:
        database: what is copied.
        writer: of that database.
        folder: where backups are kept.
        sets: calibration sets.
        configuration: petqc.toml, if there is one.
        software: version of petqc.

    Raises:
        StoreError: it is not a backup; nothing of it is left, and no older one was dropped.
        OSError: it could not be written; the same.
    """
    now_s = clock.unix_s()
    path = folder / clock.compact_utc(now_s)
    partial = path.with_name(path.name + PARTIAL)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(partial, ignore_errors=True)
    if path.exists():
        raise StoreError(f"{path}: there is a backup of this second already")
    try:
        partial.mkdir(mode=0o700)
        rows = copy_history(database, writer, partial / DATABASE)
        check_copy(partial / DATABASE, rows)
        if sets.is_dir():
            shutil.copytree(sets, partial / "sets", symlinks=True)
        if configuration is not None and configuration.is_file():
            shutil.copyfile(configuration, partial / "petqc.toml")
        made = Backup(path, clock.utc_text(now_s), software, schema.SCHEMA_VERSION, rows, _digests(partial))
        document = {"schema": SCHEMA, **{k: v for k, v in made.document().items() if k != "path"}}
        (partial / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        _sync(partial)
        partial.rename(path)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    prune(folder)
    return made


def backups(folder: Path) -> list[Backup]:
    """Every backup, oldest first; what has no manifest is none."""
    paths = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return [read_backup(path) for path in paths if not path.name.endswith(PARTIAL)]


def read_backup(path: Path) -> Backup:
    """What a backup says of itself.

    Raises:
        StoreError: it is none, or of a version that is not known.
    """
    try:
        document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise StoreError(f"{path}: a backup of a version that is not known")
        return Backup(path, **document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: no backup: {error}") from error


def verify_backup(backup: Backup) -> None:
    """Compare every file with its checksum, and look at all of the history in it.

    Raises:
        StoreError: something is missing or not as it was.
    """
    for name, digest in backup.files.items():
        path = backup.path / name
        if not path.is_file():
            raise StoreError(f"{path}: is missing")
        if sha256_of(path) != digest:
            raise StoreError(f"{path}: is not what it was when the backup was made")
    check_copy(backup.path / DATABASE, backup.rows)


def kept(made: Iterable[datetime]) -> set[datetime]:
    """Of backups by their time those that are kept: the newest of 7 days, of 5 weeks, of 12 months."""
    found: set[datetime] = set()
    times = sorted(made, reverse=True)
    periods = ((DAILY, "%Y-%m-%d"), (WEEKLY, "%G-%V"), (MONTHLY, "%Y-%m"))
    for most, form in periods:
        newest: dict[str, datetime] = {}
        for time in times:
            newest.setdefault(time.strftime(form), time)
        found |= set(list(newest.values())[:most])
    return found


def prune(folder: Path) -> list[Path]:
    """Drop the backups that are no longer kept, and what was never finished; which they were.

    One that is dropped first loses its name: cut off in the middle, it must not look like a backup.
    """
    found = {datetime.fromisoformat(one.made_at): one.path for one in backups(folder)}
    dropped = [path for time, path in found.items() if time not in kept(found)]
    cut = datetime.fromtimestamp(clock.unix_s(), UTC) - timedelta(days=1)
    dropped += [path for path in folder.glob(f"*{PARTIAL}") if path.stat().st_mtime < cut.timestamp()]
    for path in dropped:
        nameless = path if path.name.endswith(PARTIAL) else path.rename(path.with_name(path.name + PARTIAL))
        shutil.rmtree(nameless)
    return dropped


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
