"""Bundles: everything that a run recorded, in one folder with a manifest that names every file and its hash.

The run's own folder is one. `bundle.json` is written when the recording begins (state `recording`) and again, with
sizes and hashes, when the run has ended. A folder whose run was killed still has the first: it reads as truncated.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from petqc.errors import BadInputError
from petqc.output_files import partial_of, sync_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SCHEMA: Final = "petqc-bundle/1"
BUNDLE_JSON: Final = "bundle.json"
WIRES: Final = "wire"
"""Folder of the wire logs."""
PETQC_JSON: Final = "petqc.json"
"""petqc.toml as it was resolved, every default in its place; its SHA-256 is the run's config_hash."""
CONTEXT_JSON: Final = "context.json"
"""What the analysis was told beside the events."""
ENVIRONMENT: Final = "environment.jsonl"
"""Readings during the run, one JSON object a line."""

State = Literal["recording", "complete", "truncated"]
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of a bundle. name: relative to its folder. role: what it is, one of ROLES. sha256: of its bytes."""

    name: str
    role: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleWire:
    """A wire of a bundle.

    name: as the log's file. device: in petqc.toml. kind: of the device. transport: how it is reached (serial, tcp,
    visa, udp, daqd). address: there. sent, received: bytes. dropped: bytes that are not in it.
    """

    name: str
    file: str
    device: str
    kind: str
    transport: str
    address: str
    sent: int = 0
    received: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as its manifest tells it.

    about: run_id, kind, scanner, started_at, simulated, simulator (profile, seed, source, faults; None: real hardware),
    software, config_hash, calibration_ids, recorded (frames or everything). reason: why it is truncated.
    """

    folder: Path
    state: State
    about: dict[str, Any]
    reason: str = ""
    wires: tuple[BundleWire, ...] = ()
    files: tuple[BundleFile, ...] = ()

    def of_role(self, role: str) -> list[Path]:
        """The files of a role, in the order of the manifest."""
        return [self.folder / file.name for file in self.files if file.role == role]


@dataclass(frozen=True, slots=True)
class FileFinding:
    """What is wrong with a file of a bundle, or that nothing is (problem empty)."""

    name: str
    role: str
    problem: str = ""
    remark: str = ""


@dataclass(slots=True)
class BundleCheck:
    """A bundle held against its files. state: complete only if every file is there, whole and unchanged."""

    bundle: Bundle
    findings: list[FileFinding] = field(default_factory=list)

    @property
    def problems(self) -> list[FileFinding]:
        """Files with which something is wrong."""
        return [finding for finding in self.findings if finding.problem]

    @property
    def is_whole(self) -> bool:
        """Whether the run ended, and every file is as it was then."""
        return self.bundle.state == "complete" and not self.problems


ROLES: Final = (
    "frames", "frames-index", "frames-modes", "frames-manifest", "points", "wire", "configuration", "petqc",
    "context", "environment", "result", "channels", "spectra", "report", "other",
)  # fmt: skip
_BY_NAME: Final = {
    PETQC_JSON: "petqc",
    CONTEXT_JSON: "context",
    ENVIRONMENT: "environment",
    "run.json": "result",
    "channels.parquet": "channels",
    "spectra.parquet": "spectra",
    "report.html": "report",
}
_BY_SUFFIX: Final = {
    ".rawf": "frames",
    ".idxf": "frames-index",
    ".modf": "frames-modes",
    ".partial": "frames",
}


def role_of(name: str) -> str:
    """What a file of a run's folder is, by its name relative to the folder."""
    path = Path(name)
    if path.parts[0] == WIRES:
        return "wire"
    if path.parts[0] == "config":
        return "configuration"
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.endswith(".manifest.jsonl"):
        return "frames-manifest"
    if path.suffix == ".jsonl":
        return "points"
    return _BY_SUFFIX.get(path.suffix, "other")


def is_bundle(folder: Path) -> bool:
    """Whether there is a manifest."""
    return (Path(folder) / BUNDLE_JSON).is_file()


def begin_bundle(folder: Path, about: Mapping[str, Any]) -> None:
    """Say that a recording begins; about: as in `Bundle`, JSON values."""
    _write(Path(folder), {"schema": SCHEMA, "state": "recording", **about})


def end_bundle(
    folder: Path, about: Mapping[str, Any], *, wires: Iterable[BundleWire] = (), truncated: str | None = None
) -> Bundle:
    """Hash every file of the folder and say that the recording is over. truncated: why it ended early."""
    folder = Path(folder)
    files = [
        BundleFile(name, role_of(name), *_size_and_hash(folder / name))
        for name in _names(folder)
        if name != BUNDLE_JSON and not name.startswith(f"{BUNDLE_JSON}.")
    ]
    bundle = Bundle(
        folder, "complete" if truncated is None else "truncated", dict(about), truncated or "", tuple(wires),
        tuple(files),
    )  # fmt: skip
    reason = {"reason": bundle.reason} if bundle.reason else {}
    document = {
        "schema": SCHEMA,
        "state": bundle.state,
        **reason,
        **bundle.about,
        "wires": [asdict(wire) for wire in bundle.wires],
        "files": [asdict(file) for file in bundle.files],
    }
    _write(folder, document)
    return bundle


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a manifest. That of a run which was killed names no files: they are those that are there.

    Raises:
        BadInputError: there is none, or it is damaged.
    """
    folder = Path(folder)
    path = folder / BUNDLE_JSON
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise BadInputError(f"has schema {document['schema']!r}, not {SCHEMA}", where=str(path))
        state: State = document["state"]
        if state not in {"recording", "complete", "truncated"}:
            raise BadInputError(f"has the unknown state {state!r}", where=str(path))
        wires = tuple(BundleWire(**wire) for wire in document.get("wires", ()))
        files = tuple(BundleFile(**file) for file in document.get("files", ()))
    except FileNotFoundError as error:
        raise BadInputError(
            "is no bundle: it has no bundle.json", where=str(folder), do="name the folder of a run that was recorded"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"is no manifest of a bundle ({type(error).__name__})", where=str(path)) from error
    for name in (*(file.name for file in files), *(wire.file for wire in wires)):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInputError(f"names {name!r}, which is outside of its folder", where=str(path))
    about = {k: v for k, v in document.items() if k not in {"schema", "state", "reason", "wires", "files"}}
    reason = str(document.get("reason", ""))
    if state == "recording":
        reason = "the recording was never ended: its process died, or is still at it"
        files = tuple(
            BundleFile(name, role_of(name), (folder / name).stat().st_size, "")
            for name in _names(folder)
            if name != BUNDLE_JSON
        )
    return Bundle(folder, state, about, reason, wires, files)


def check_bundle(folder: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> BundleCheck:
    """Hold every file against its size and hash; of wire logs and recordings of a run that was cut, tell what is whole.

    Args:
        folder: of the bundle.
        progress: called with bytes read so far and in all.

    Raises:
        BadInputError: there is no manifest, or it is damaged.
    """
    bundle = read_bundle(folder)
    found = BundleCheck(bundle)
    total, done = sum(file.bytes for file in bundle.files), 0
    for file in bundle.files:
        path = bundle.folder / file.name
        if not path.is_file():
            found.findings.append(FileFinding(file.name, file.role, "is not there"))
            continue
        size, digest = _size_and_hash(path)
        problem = ""
        if file.sha256 and size != file.bytes:
            problem = f"has {size} bytes, and had {file.bytes}"
        elif file.sha256 and digest != file.sha256:
            problem = "was changed: its SHA-256 is another"
        remark = _what_is_whole(path, file.role) if problem or not file.sha256 else ""
        found.findings.append(FileFinding(file.name, file.role, problem, remark))
        done += size
        if progress is not None:
            progress(done, max(total, done))
    return found


def _what_is_whole(path: Path, role: str) -> str:
    """Of a file that nobody vouches for: how much of it can be used."""
    try:
        if role == "wire":
            from petqc.formats.wire_log import WireLogReader

            with WireLogReader(path) as log:
                n = sum(1 for _ in log.records())
                return f"{n} whole records" + ("" if log.damage is None else f"; {log.damage}")
        if role == "frames":
            from petqc.formats.petsys_raw import RawReader

            with RawReader(path) as reader:
                for number, _ in enumerate(reader.steps):
                    for _ in reader.blocks(step=number):
                        pass
                return f"{reader.usable_end} usable bytes" + ("" if reader.damage is None else f"; {reader.damage}")
    except BadInputError as error:
        return str(error)
    return ""


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _size_and_hash(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / BUNDLE_JSON
    partial = partial_of(path)
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_path(folder)
