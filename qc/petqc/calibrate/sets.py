"""Calibration sets: complete configuration directories with a number, written once and never changed.

A set is `NNNN-kind/`: config.ini and every table as the readout maker's tools read them, the new tables in the place
of the parent's, and `set.json`, which says where all of it comes from and has the SHA-256 of every file. A set appears
whole (written elsewhere, synced, moved) or not at all. Contract: docs/reference/calibration-sets.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from petqc.calibrate import CalibrationKind
from petqc.errors import BadInputError
from petqc.file_hash import sha256_of
from petqc.formats.petsys_config import TABLES, rewrite_tables
from petqc.formats.petsys_tables import format_table
from petqc.limits import Limits, Status
from petqc.output_files import sync_path
from petqc.results import CheckResult, RawFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc.formats.petsys_tables import TableKind

SCHEMA = "petqc-calibration-set/1"
SET_JSON = "set.json"
CONFIG_INI = "config.ini"
KINDS: tuple[str, ...] = get_args(CalibrationKind)
_NAME = re.compile(r"^(\d{4,9})-([a-z]+(?:-[a-z]+)*)$")
_PREFIX = ".new-"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a new set needs to know about the run that makes it.

    parent_set: id of the set the run began from, None: the device's own configuration. root_hash: configuration hash
    of the device's own configuration, at the beginning of the chain. verdict, sentence, quality: of the run.
    """

    run_id: str
    created_at: str
    device: str
    scanner: str
    simulated: bool
    software: Mapping[str, str]
    root_hash: str
    verdict: Status
    sentence: str
    parent_set: str | None = None
    quality: tuple[CheckResult, ...] = ()
    raw_files: tuple[RawFile, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationSetInfo:
    """What set.json says.

    new_tables: kinds of table that this set has instead of its parent's. files: SHA-256 of every other file, by name.
    parent_set, parent_hash: the set (None: the device's own configuration) and the configuration hash it began from.
    """

    id: str
    kind: str
    created_at: str
    run_id: str
    device: str
    scanner: str
    simulated: bool
    software: dict[str, str]
    parent_set: str | None
    parent_hash: str
    root_hash: str
    verdict: Status
    sentence: str
    new_tables: tuple[str, ...]
    files: dict[str, str]
    quality: tuple[CheckResult, ...] = ()
    raw_files: tuple[RawFile, ...] = ()

    @property
    def number(self) -> int:
        """Place in the order in which sets were made."""
        return int(self.id.partition("-")[0])

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        found = asdict(self)
        found["verdict"] = str(self.verdict)
        found["new_tables"] = list(self.new_tables)
        found["quality"] = [{**asdict(c), "status": str(c.status)} for c in self.quality]
        found["raw_files"] = [asdict(r) for r in self.raw_files]
        return {"schema": SCHEMA, **found}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, where: str) -> CalibrationSetInfo:
        """Read set.json.

        Raises:
            BadInputError: it is no such document.
        """
        if document.get("schema") != SCHEMA:
            raise BadInputError(
                f"schema is {document.get('schema')!r}, not {SCHEMA!r}",
                where=where,
                do="read it with the version that wrote it",
            )
        given = {key: value for key, value in document.items() if key != "schema"}
        try:
            return cls(
                **{
                    **given,
                    "verdict": Status(given["verdict"]),
                    "new_tables": tuple(given["new_tables"]),
                    "quality": tuple(
                        CheckResult(**{**c, "limits": Limits(**c["limits"]), "status": Status(c["status"])})
                        for c in given["quality"]
                    ),
                    "raw_files": tuple(RawFile(**r) for r in given["raw_files"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"lacks or misnames a field: {error}", where=where) from error


@dataclass(frozen=True, slots=True)
class Listing:
    """Sets in the order in which they were made; junk: entries that are none, with the reason."""

    sets: tuple[CalibrationSetInfo, ...] = ()
    junk: dict[str, str] = field(default_factory=dict)


def create_set(
    root: Path, kind: CalibrationKind, parent: PetsysConfig, tables: Mapping[TableKind, NDArray[Any]], origin: Origin
) -> CalibrationSetInfo:
    """Write a new set under the next free number.

    Args:
        root: the folder of all sets; made if need be.
        kind: what was calibrated.
        parent: the configuration that the run used; its tables are copied byte for byte.
        tables: whole tables that take the place of the parent's.
        origin: what set.json says about the run.

    Raises:
        BadInputError: no table is given, or the parent's files are not those that were read any more.
        OSError: it could not be written; nothing is left behind then.
    """
    if not tables:
        raise BadInputError(f"a {kind} calibration set without a new table")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {f"{table}.tsv": format_table(table, array).encode() for table, array in tables.items()}
    for table, path in parent.paths.items():
        if table not in tables and table in parent.tables:
            files[f"{table}.tsv"] = _unchanged(path, parent.file_hashes[table])
    named: set[TableKind] = {k for k in TABLES if f"{k}.tsv" in files}
    text = _unchanged(parent.path, parent.file_hashes["config"]).decode("utf-8", "replace")
    files[CONFIG_INI] = rewrite_tables(text, named, folder=parent.path.resolve().parent).encode()
    with _locked(root):
        info = CalibrationSetInfo(
            id=f"{_next_number(root):04d}-{kind}",
            kind=kind,
            created_at=origin.created_at,
            run_id=origin.run_id,
            device=origin.device,
            scanner=origin.scanner,
            simulated=origin.simulated,
            software=dict(origin.software),
            parent_set=origin.parent_set,
            parent_hash=parent.config_hash,
            root_hash=origin.root_hash,
            verdict=origin.verdict,
            sentence=origin.sentence,
            new_tables=tuple(sorted(tables)),
            files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
            quality=origin.quality,
            raw_files=origin.raw_files,
        )
        files[SET_JSON] = (json.dumps(info.document(), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
        _appear(root, root / info.id, files)
    return info


def list_sets(root: Path) -> Listing:
    """Every set of a folder; what is no readable set is told, and stops nobody."""
    found: list[CalibrationSetInfo] = []
    junk: dict[str, str] = {}
    if not root.is_dir():
        return Listing()
    for entry in sorted(root.iterdir()):
        if entry.name == _LOCK or entry.suffix == ".jsonl":
            continue
        if entry.name.startswith(_PREFIX):
            junk[entry.name] = "was being written when its process ended: may be removed"
            continue
        if not _NAME.match(entry.name) or not entry.is_dir():
            junk[entry.name] = "is no calibration set"
            continue
        try:
            found.append(read_set(entry))
        except (BadInputError, OSError) as error:
            junk[entry.name] = str(error)
    return Listing(tuple(sorted(found, key=lambda s: s.number)), junk)


def find_set(root: Path, set_id: str) -> Path:
    """The folder of a set.

    Raises:
        BadInputError: there is none of this id.
    """
    folder = root / set_id
    if not _NAME.match(set_id) or not (folder / SET_JSON).is_file():
        raise BadInputError(f"there is no calibration set {set_id!r}", where=str(root), do="see petqc calibration list")
    return folder


def read_set(folder: Path) -> CalibrationSetInfo:
    """What set.json of a folder says; `verify_set` tells whether it is still true.

    Raises:
        BadInputError: there is no set.json, or it cannot be understood.
    """
    path = folder / SET_JSON
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError("has no set.json", where=str(folder)) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInputError(f"is damaged: {error}", where=str(path), do="restore it from a backup") from error
    if not isinstance(document, dict):
        raise BadInputError("is damaged: no object at the top", where=str(path), do="restore it from a backup")
    info = CalibrationSetInfo.from_document(document, where=str(path))
    if info.id != folder.name:
        raise BadInputError(f"says it is {info.id}", where=str(folder), do="give the folder its own name back")
    return info


def chain_of(root: Path, set_id: str | None) -> list[CalibrationSetInfo]:
    """A set and those it was made from, the newest first; None: none.

    Raises:
        BadInputError: one of them is damaged or missing.
    """
    found = []
    while set_id is not None:
        info = read_set(find_set(root, set_id))
        found.append(info)
        # A set is made from an older one; anything else is damage, and would never end.
        set_id = info.parent_set if info.parent_set is None or info.parent_set < set_id else None
    return found


def verify_set(folder: Path) -> list[str]:
    """What is wrong with a set's files; empty: all are as they were written.

    Raises:
        BadInputError: set.json itself cannot be read.
    """
    info = read_set(folder)
    problems = []
    for name, digest in info.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            problems.append(f"{name} was changed")
    known = {*info.files, SET_JSON}
    problems += [f"{p.name} does not belong to it" for p in sorted(folder.iterdir()) if p.name not in known]
    return problems


def set_config(folder: Path) -> Path:
    """The config.ini of a set whose files are all as they were written.

    Raises:
        BadInputError: they are not.
    """
    problems = verify_set(folder)
    if problems:
        raise BadInputError(
            f"the calibration set is damaged: {'; '.join(problems)}", where=str(folder), do="restore it from a backup"
        )
    return folder / CONFIG_INI


def _unchanged(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadInputError("was changed while the calibration ran", where=str(path), do="calibrate again")
    return content


def _next_number(root: Path) -> int:
    """One more than any entry has, whatever that entry is: a number is never given twice."""
    taken = [int(m[1]) for entry in root.iterdir() if (m := _NAME.match(entry.name))]
    return max(taken, default=0) + 1


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One writer at a time, also among processes."""
    handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _appear(root: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    """All files in a folder that is there whole or not at all; nothing that exists is touched."""
    partial = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        for name, content in files.items():
            path = partial / name
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.chmod(0o444)
        partial.chmod(0o755)
        sync_path(partial)
        partial.rename(folder)  # the number is free, the root is locked; onto a folder with files it would fail
        sync_path(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
