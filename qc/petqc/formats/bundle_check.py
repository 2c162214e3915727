"""A bundle held against its manifest: which files are there, whole and unchanged, and what of a cut one is whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from petqc.errors import BadInputError
from petqc.file_hash import sha256_of
from petqc.formats.bundle import Bundle, read_bundle

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection
    from pathlib import Path


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


def check_bundle(
    folder: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    roles: Collection[str] | None = None,
) -> BundleCheck:
    """Hold every file against its size and hash; of wire logs and recordings of a run that was cut, tell what is whole.

    Args:
        folder: of the bundle.
        progress: called with bytes read so far and in all.
        roles: look at files of these only.

    Raises:
        BadInputError: there is no manifest, or it is damaged.
    """
    bundle = read_bundle(folder)
    found = BundleCheck(bundle)
    files = [file for file in bundle.files if roles is None or file.role in roles]
    total, done = sum(file.bytes for file in files), 0
    for file in files:
        path = bundle.folder / file.name
        if not path.is_file():
            found.findings.append(FileFinding(file.name, file.role, "is not there"))
            continue
        size, digest = path.stat().st_size, sha256_of(path)
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
