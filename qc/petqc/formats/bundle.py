"""Bundles: everything that a run recorded, in one folder with a manifest that names every file and its hash.

The run's own folder is one. `bundle.json` is written when the recording begins (state `recording`) and again, with
sizes and hashes, when the run has ended. A folder whose run was killed still has the first: it reads as truncated.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from petqc.errors import BadInputError
from petqc.file_hash import sha256_of
from petqc.formats.petsys_manifest import read_manifest
from petqc.formats.wire_log import SUFFIX, WireLogReader, WireTotals
from petqc.output_files import sync_path, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

SCHEMA: Final = "petqc-bundle/1"
BUNDLE_JSON: Final = "bundle.json"
WIRES: Final = "wire"
"""Folder of the wire logs."""
PETQC_JSON: Final = "petqc.json"
"""petqc.toml as it was resolved, every default in its place; its SHA-256 is the run's config_hash."""
CONTEXT_JSON: Final = "context.json"
"""What the analysis was told beside the events."""
INPUTS_JSON: Final = "inputs.json"
"""What the analysis of this kind of run was told beside that."""
ENVIRONMENT: Final = "environment.jsonl"
"""Readings during the run, one JSON object a line."""

MR_RECORDINGS: Final = ("idle", "stress", "idle-again")
"""Recordings of a run on the influence of the MR, in the order of its phases."""
CURVES: Final = "curves.csv"
"""Curves of a source meter."""

State = Literal["recording", "complete", "truncated"]
Entry = TypeVar("Entry", "BundleFile", "BundleWire")


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
    software, config_hash, calibration_ids, recorded (frames or everything), instruments (a table of petqc.toml each).
    reason: why it is truncated.
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


ROLES: Final = (
    "frames", "frames-index", "frames-modes", "frames-manifest", "points", "wire", "configuration", "petqc",
    "context", "inputs", "environment", "result", "channels", "spectra", "report", "other",
)  # fmt: skip
_BY_NAME: Final = {
    PETQC_JSON: "petqc",
    CONTEXT_JSON: "context",
    INPUTS_JSON: "inputs",
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
    if path.suffix in (".jsonl", ".csv"):
        return "points"
    return _BY_SUFFIX.get(path.suffix, "other")


def is_bundle(folder: Path) -> bool:
    """Whether there is a manifest."""
    return (Path(folder) / BUNDLE_JSON).is_file()


def begin_bundle(folder: Path, about: Mapping[str, Any]) -> None:
    """Say that a recording begins; about: as in `Bundle`, JSON values."""
    _write(Path(folder), {"schema": SCHEMA, "state": "recording", **about})


def seal_bundle(folder: Path, truncated: str | None = None) -> Bundle:
    """Hash every file of a folder whose recording was begun, and say that it is over.

    Args:
        folder: of the bundle.
        truncated: why the run ended early; None: the files themselves say whether they are whole.

    Raises:
        BadInputError: no recording was begun there.
        OSError: a file cannot be read, or the manifest not written.
    """
    folder = Path(folder)
    begun = read_bundle(folder)
    cut = [truncated] if truncated is not None else []
    wires = [_wire(folder, path, cut) for path in sorted((folder / WIRES).glob(f"*{SUFFIX}"))]
    hashes: dict[str, str] = {}
    for path in sorted(folder.glob("*.manifest.jsonl")):
        manifest = read_manifest(path)
        if manifest is not None and manifest.end is not None:
            hashes[manifest.recording["file"]] = str(manifest.end["sha256"])
        if manifest is None or manifest.state != "complete":
            cut.append(f"{path.name.removesuffix('.manifest.jsonl')}.rawf was cut")
    files = []
    for name in _names(folder):
        path = folder / name
        files.append(BundleFile(name, role_of(name), path.stat().st_size, hashes.get(name) or sha256_of(path)))
    bundle = Bundle(folder, "truncated" if cut else "complete", begun.about, "; ".join(cut), tuple(wires), tuple(files))
    document = {
        "schema": SCHEMA,
        "state": bundle.state,
        **({"reason": bundle.reason} if cut else {}),
        **bundle.about,
        "wires": [asdict(wire) for wire in bundle.wires],
        "files": [asdict(file) for file in bundle.files],
    }
    _write(folder, document)
    return bundle


def _wire(folder: Path, path: Path, cut: list[str]) -> BundleWire:
    """What a wire log says of itself; a log without an end is added to what was cut."""
    try:
        with WireLogReader(path) as log:
            for _ in log.records():
                pass
            header, totals, is_closed = log.header, log.end.totals, log.end.is_closed
    except BadInputError:
        header, totals, is_closed = {}, WireTotals(), False
    name = path.relative_to(folder).as_posix()
    if not is_closed:
        cut.append(f"{name} was cut")
    device, kind, transport, address = (str(header.get(key, "")) for key in ("device", "kind", "transport", "address"))
    counts = totals.sent, totals.received, totals.dropped_bytes
    return BundleWire(path.name.removesuffix(SUFFIX), name, device, kind, transport, address, *counts)


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a manifest. That of a run which was killed names no files: they are those that are there.

    Raises:
        BadInputError: there is none, or it is damaged.
    """
    folder = Path(folder)
    path = folder / BUNDLE_JSON
    try:
        document = json.loads(path.read_bytes())
        schema = document.get("schema")
        of_ours = document if schema == SCHEMA else {}
        wires = tuple(_entry(BundleWire, wire) for wire in of_ours.get("wires", ()))
        files = tuple(_entry(BundleFile, file) for file in of_ours.get("files", ()))
    except FileNotFoundError as error:
        raise BadInputError(
            "is no bundle: it has no bundle.json", where=str(folder), do="name the folder of a run that was recorded"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"is no manifest of a bundle ({type(error).__name__})", where=str(path)) from error
    if schema != SCHEMA:
        raise BadInputError(f"has schema {schema!r}, not {SCHEMA}", where=str(path))
    state = document.get("state")
    if state not in get_args(State):
        raise BadInputError(f"has the unknown state {state!r}", where=str(path))
    for name in (*(file.name for file in files), *(wire.file for wire in wires)):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInputError(f"names {name!r}, which is outside of its folder", where=str(path))
    about = {k: v for k, v in document.items() if k not in {"schema", "state", "reason", "wires", "files"}}
    reason = str(document.get("reason", ""))
    if state == "recording":
        reason = "the recording was never ended: its process died, or is still at it"
        files = tuple(BundleFile(name, role_of(name), (folder / name).stat().st_size, "") for name in _names(folder))
    return Bundle(folder, state, about, reason, wires, files)


def _entry(kind: type[Entry], content: Any) -> Entry:
    """A wire or a file of a manifest, if its fields have the types they are declared with; JSON has no such promise."""
    entry = kind(**content)
    for about in fields(kind):
        if type(getattr(entry, about.name)).__name__ != about.type:
            raise TypeError(f"{about.name} is {getattr(entry, about.name)!r}")
    return entry


def _names(folder: Path) -> list[str]:
    """Every file of a bundle but its manifest, relative to its folder."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(name for name in found if name not in (BUNDLE_JSON, f"{BUNDLE_JSON}.partial"))


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    write_text(folder / BUNDLE_JSON, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    sync_path(folder)
