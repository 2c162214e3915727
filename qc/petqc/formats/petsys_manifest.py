"""The manifest beside a recording: what the vendor's raw format lacks, as JSON lines.

Lines, by `kind`: `recording` (what was recorded, first line) · `step` (a step begins) · `block` (up to 4 MiB of whole
frames that are on disk, with their CRC-32) · `step-end` · `end` (totals, SHA-256, complete or truncated). A line
that cannot be read, such as the last one after a power failure, is passed over with a warning.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from petqc.errors import BadInputError
from petqc.formats.petsys_frames import HEADER_BYTES, WORD_BYTES, RawStep

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = "petqc-recording/1"
MAX_BLOCK_BYTES: Final = 64 << 20
_MAX_LINE = 1 << 20

Record = TypeVar("Record", "ManifestBlock", "ManifestStep", RawStep)

RecordingState = Literal["complete", "truncated", "damaged"]


@dataclass(frozen=True, slots=True)
class ManifestBlock:
    """Bytes [begin, end) of the recording: whole frames, synced to disk.

    first_frame: id of the first frame in it. last_frame: id of the last frame that came, stored or not.
    """

    begin: int
    end: int
    first_frame: int
    last_frame: int
    frames_in: int
    frames_written: int
    frames_lost: int
    events: int
    crc32: str
    step: int


@dataclass(frozen=True, slots=True)
class ManifestStep:
    """A step that begins at a byte of the recording."""

    step: int
    begin: int
    step1: float
    step2: float


@dataclass(slots=True)
class Manifest:
    """A manifest as read: recording is the first line, end the last one (None: the recording was never closed)."""

    recording: dict[str, Any] = field(default_factory=dict)
    steps: list[ManifestStep] = field(default_factory=list)
    finished: list[RawStep] = field(default_factory=list)
    blocks: list[ManifestBlock] = field(default_factory=list)
    end: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def state(self) -> RecordingState:
        """What the writer said of the recording; a recording without a last line was cut off."""
        return "complete" if self.end is not None and self.end.get("state") == "complete" else "truncated"


def line(kind: str, value: Any) -> bytes:
    """One line of a manifest from a dataclass or a dict."""
    content = value if isinstance(value, dict) else asdict(value)
    return json.dumps({"kind": kind, **content}, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None if there is none, or if it is not one of ours."""
    manifest = Manifest()
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    with file:
        number = 0
        while raw := file.readline(_MAX_LINE):
            number += 1
            problem = _take(manifest, raw, number) if raw.strip() else None
            if problem and len(manifest.warnings) < 100:
                manifest.warnings.append(f"{path.name}:{number}: {problem}: line not used")
    return manifest if manifest.recording else None


def _typed(record: Record) -> Record:
    """The record, if its fields have the types they are declared with; JSON has no such promise."""
    for entry in fields(record):
        value = getattr(record, entry.name)
        wanted = {"int": int, "float": int | float, "str": str}[str(entry.type)]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TypeError(f"{entry.name} is {value!r}")
    return record


def _take(manifest: Manifest, raw: bytes, number: int) -> str | None:
    """Add one line to the manifest; what is wrong with it, if anything."""
    try:
        content = json.loads(raw)
        kind = content.pop("kind")
        if kind == "recording":
            if number == 1 and content.get("schema") == SCHEMA:
                manifest.recording = content
                return None
            return f"schema is {content.get('schema')!r}"
        if kind == "step":
            manifest.steps.append(_typed(ManifestStep(**content)))
        elif kind == "block":
            block = _typed(ManifestBlock(**content))
            after = manifest.blocks[-1].end if manifest.blocks else HEADER_BYTES
            if not after <= block.begin < block.end or (block.begin | block.end) % WORD_BYTES:
                return f"byte range {block.begin}..{block.end} is impossible"
            if block.end - block.begin > MAX_BLOCK_BYTES:
                return f"a block of {block.end - block.begin} bytes is too long"
            manifest.blocks.append(block)
        elif kind == "end":
            manifest.end = content
        elif kind == "step-end":
            manifest.finished.append(RawStep.from_line(_typed(RawStep(**content)).to_line()))
        else:
            return f"kind is {kind!r}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"not a manifest line ({type(error).__name__})"
    return None
