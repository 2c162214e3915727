"""backup, restore: verified copies of the history, and the way back."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, say
from petqcd.errors import UnreachableError

if TYPE_CHECKING:
    from petqcd.config import PetqcConfig
    from petqcd.store.backup import Backup

DEADLINE_S = 1800.0


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    *,
    only_list: Annotated[bool, typer.Option("--list", help="Make none; say which there are.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a verified backup now, while everything goes on; [store] backups says where it goes."""
    from petqcd.store.backup import backups
    from petqcd.store.nightly_backup import backup_folder

    loaded, folder = configuration(config, state_dir)
    there = backups(backup_folder(loaded, folder)) if only_list else [_make(loaded, folder)]
    found = [one.document() for one in there]
    if as_json:
        give_json({"backups": found})
        return
    for one in found:
        sys.stdout.write(f"{one['path']}: verified, {one['rows']['runs']} runs, {one['rows']['results']} results\n")


def restore(
    path: Annotated[Path, typer.Argument(metavar="BACKUP", help="Folder of a backup.")],
    *,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Restore into a temporary place, read all of it, and throw it away.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set the history that is there aside and restore over it.")
    ] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a backup the history again; the daemon must not be running. Nothing that is there is deleted."""
    from petqcd.store import database_of
    from petqcd.store import restore as work

    loaded, folder = configuration(config, state_dir)
    if rehearse:
        found = work.rehearse(path, folder)
    else:
        found = work.restore(path, folder, database_of(loaded.store, folder), replace=replace)
    if as_json:
        kept = None if found.kept is None else str(found.kept)
        give_json({"rehearsed": rehearse, "runs": found.runs, "read": found.read, "newer": found.newer, "kept": kept})
        return
    what = "would restore" if rehearse else "restored"
    sys.stdout.write(f"{path}: {what}: {found.runs} runs, {found.read} documents read whole\n")
    if found.newer:
        sys.stdout.write(
            f"not in it: {len(found.newer)} runs whose folders are there: {', '.join(found.newer[:3])} …\n"
        )
    if found.kept is not None:
        sys.stdout.write(f"what was there is {found.kept}\n")


def _make(config: PetqcConfig, folder: Path) -> Backup:
    from petqcd.client import Client
    from petqcd.store.backup import read_backup

    try:
        return read_backup(Path(Client(folder).post("/api/v1/backups", {}, DEADLINE_S)["path"]))
    except UnreachableError as error:
        from petqc.software import software
        from petqcd.store import Store, database_of
        from petqcd.store.nightly_backup import backup_folder

        database = database_of(config.store, folder)
        if not database.exists:
            raise
        say(f"petqc: {error}; copying the history itself")
        with closing(Store(folder, database)) as store:
            return store.back_up(backup_folder(config, folder), config.source_file, software()["petqc"])
