"""A backup becomes the history again, or is rehearsed: everything of it is read, nothing that is there is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from petqcd import clock
from petqcd.errors import RefusedError, StoreError
from petqcd.places import hold
from petqcd.store import schema
from petqcd.store.backup import read_backup, verify_backup
from petqcd.store.copying import fill
from petqcd.store.database import DATABASE
from petqcd.store.sqlite import SqliteDatabase, sync_folder
from petqcd.store.store import RUNS, SETS, Store
from petqcd.store.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from petqcd.store.backup import Backup
    from petqcd.store.database import Database
    from petqcd.store.reader import Reader

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back.

    runs: in the history. read: documents that were read whole. newer: folders of runs that the backup does not know
    of. kept: the history that was there before, set aside.
    """

    runs: int
    read: int
    newer: tuple[str, ...]
    kept: Path | None = None


def rehearse(path: Path, state_dir: Path | None = None) -> Restored:
    """Restore into a temporary place, read every document and every baseline there, and throw it away.

    Raises:
        StoreError: the backup would not restore.
    """
    backup = _verified(path)
    with tempfile.TemporaryDirectory(prefix="petqc-rehearsal-") as scratch:
        place = Path(scratch)
        shutil.copyfile(backup.path / DATABASE, place / DATABASE)
        with closing(Store(place)) as store:
            return _read_all(store, state_dir, None)


def restore(path: Path, state_dir: Path, database: Database, *, replace: bool = False) -> Restored:
    """Make a backup the history of a state directory. What is there is set aside, never deleted.

    Args:
        path: of the backup.
        state_dir: whose daemon must not be running.
        database: where its history is.
        replace: set a history that is there aside; on a server: refused, choose an empty schema.

    Raises:
        RefusedError: there is a history already.
        StoreError: the backup is damaged, or a daemon is running.
    """
    backup = _verified(path)
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = hold(state_dir)
    try:
        if isinstance(database, SqliteDatabase):
            kept = _put_file(backup, database, replace=replace)
        else:
            _fill_server(backup, database)
            kept = None
        _put_sets(backup, state_dir / SETS)
    finally:
        os.close(lock)
    with closing(Store(state_dir, database)) as store:
        return _read_all(store, state_dir, kept)


def _verified(path: Path) -> Backup:
    backup = read_backup(path)
    verify_backup(backup)
    return backup


def _put_file(backup: Backup, database: SqliteDatabase, *, replace: bool) -> Path | None:
    kept = None
    if database.exists:
        if not replace:
            raise RefusedError(f"{database.name}: there is a history; --replace sets it aside and restores over it")
        # Through its own writer first, so that nothing of it is left in a log.
        Writer(database).close()
        kept = database.path.with_name(f"{database.path.stem}-before-{clock.compact_utc(clock.unix_s())}.sqlite")
        database.path.rename(kept)
    for suffix in ("-wal", "-shm"):
        database.path.with_name(database.path.name + suffix).unlink(missing_ok=True)
    partial = database.path.with_name(database.path.name + ".partial")
    shutil.copyfile(backup.path / DATABASE, partial)
    partial.chmod(0o600)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(database.path)
    sync_folder(database.path.parent)
    return kept


def _fill_server(backup: Backup, database: Database) -> None:
    if backup.schema_version != schema.SCHEMA_VERSION:
        raise RefusedError(
            f"{backup.path}: of schema version {backup.schema_version}; restore it without url, and back that up"
        )
    writer = Writer(database)
    try:

        def work(connection: Connection) -> None:
            if connection.execute(schema.runs.select().limit(1)).first() is not None:
                raise RefusedError(f"{database.name}: there is a history; give another [store] schema")
            rows = fill(connection, backup.path / DATABASE)
            for name, number in backup.rows.items():
                if name != schema.meta.name and rows[name] != number:
                    raise StoreError(f"{database.name}: {rows[name]} rows of {name}, the backup has {number}")

        writer.submit(work).result()
    finally:
        writer.close()


def _put_sets(backup: Backup, target: Path) -> None:
    """Calibration sets that are missing come back; those that are there stay as they are."""
    source = backup.path / "sets"
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if (target / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target / path.name, symlinks=True)
        else:
            shutil.copy2(path, target / path.name, follow_symlinks=False)


def _read_all(store: Reader, state_dir: Path | None, kept: Path | None) -> Restored:
    from petqc.results import Run

    names: set[str] = set()
    read = 0
    before: int | None = None
    while page := store.history(_PAGE, before=before):
        before = page[-1].sequence
        names |= {line.run_id for line in page}
        for line in page:
            if line.state == "finished":
                Run.from_document(store.document(line.run_id))
                read += 1
    store.baselines()
    folders = [] if state_dir is None else sorted(p.parent.name for p in (state_dir / RUNS).glob("*/run.json"))
    return Restored(len(names), read, tuple(name for name in folders if name not in names), kept)
