"""PETsys raw recordings (.rawf with .idxf, .modf and our manifest): reading in blocks of whole frames.

Memory is bounded by the block size, however long the file is. Without an index the step is found by walking over the
frames; with a manifest each block is checked, a damaged one is passed over and reading goes on after it.
Source: PETsys sw_daq_tofpet2 revision 194662e, raw data files.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import Damage, DamageLog
from petqc.formats.petsys_calibration_raw import CALIBRATION_HEAD_BYTES, refuse_calibration
from petqc.formats.petsys_frames import (
    ENDED,
    FIRST_ID,
    FRAME_ID_BITS,
    FRAME_SIZE_MASK,
    FRAMES,
    HEADER_BYTES,
    IMPOSSIBLE,
    LAST_ID,
    MAX_FRAME_WORDS,
    N_EVENTS_MASK,
    N_WALK,
    USED,
    WORD_BYTES,
    RawHeader,
    RawStep,
    pack_frame,
)
from petqc.formats.petsys_manifest import ManifestBlock, ManifestStep, RecordingState, read_manifest
from petqc.formats.petsys_recording import RawWriter, finalise_partial
from petqc.formats.petsys_tables import parse_table
from petqc.formats.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["Damage", "RawHeader", "RawReader", "RawStep", "RawWriter", "finalise_partial", "pack_frame"]

_SUFFIXES = (".rawf.partial", ".rawf")


def _prefix(path: Path) -> tuple[Path, Path]:
    """The data file and the prefix that its companions share."""
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path, path.with_name(path.name.removesuffix(suffix))
    return path.with_name(path.name + ".rawf"), path


class RawReader(Reader):
    """A raw recording, opened for reading.

    Attributes:
        header: the file header.
        modes: acquisition_mode table (columns port, slave, chip, channel, mode) of a mixed file, else None.
        size: bytes of the file.
        bytes_read: bytes that the last `blocks` has dealt with so far.
        usable_end: byte after the last whole frame that it gave.
        damages: every place that the last `blocks` could not use, in the order of the file.
        warnings: what is wrong with the companions (index, modes, manifest).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open `X.rawf`, `X.rawf.partial` or `X` with the companions of the same prefix.

        Raises:
            BadInputError: no such file, no header in it, or channels of mixed modes and no .modf file.
        """
        self.path, self.prefix = _prefix(Path(path))
        self.bytes_read = 0
        self.usable_end = HEADER_BYTES
        self.damages = DamageLog()
        self.warnings: list[str] = []
        self._broken = False
        self._frames = 0
        self._ids = (0, -1)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInputError(f"cannot be opened: {error.strerror}", where=str(self.path)) from error
        try:
            self.size = os.fstat(self._fd).st_size
            self.header = RawHeader.from_bytes(os.pread(self._fd, HEADER_BYTES, 0), where=str(self.path))
            refuse_calibration(os.pread(self._fd, CALIBRATION_HEAD_BYTES, HEADER_BYTES), where=str(self.path))
            self.manifest = read_manifest(self._companion(".manifest.jsonl"))
            if self.manifest is not None:
                self.warnings.extend(self.manifest.warnings)
            self.modes = self._read_modes() if self.header.mixed else None
            partial = self.path.name.endswith(".partial")
            self._index = (None if partial else self._read_index()) or self._index_of_manifest()
        except BaseException:
            self.close()
            raise
        self._walked: tuple[RawStep, ...] | None = None

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _companion(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    def _read_modes(self) -> NDArray[Any]:
        path = self._companion(".modf")
        try:
            text = path.read_text("utf-8", "replace")
        except OSError as error:
            raise BadInputError(
                f"the recording mixes ToT and charge, and {path.name} cannot be read: {error.strerror}",
                where=str(self.path),
                do=f"put {path.name} beside it: it says which channel is in which mode",
            ) from error
        modes, warnings = parse_table("acquisition_mode", text, name=path.name)
        self.warnings.extend(warnings)
        return modes

    def _read_index(self) -> tuple[RawStep, ...] | None:
        path = self._companion(".idxf")
        try:
            with path.open("r", encoding="utf-8", errors="replace") as file:
                steps = _index_lines(file)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.warnings.append(f"{path.name}:{error}: the index is not used")
            return None
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if not steps and self.size > HEADER_BYTES:
            self.warnings.append(f"{path.name}: empty: the index is not used")
            return None
        return steps

    def _index_of_manifest(self) -> tuple[RawStep, ...] | None:
        """Steps as the manifest tells them, for a recording that has no index yet."""
        if self.manifest is None or not self.manifest.steps:
            return None
        starts = self.manifest.steps
        ends = [*(s.begin for s in starts[1:]), self.size]
        if any(not HEADER_BYTES <= s.begin <= end or s.begin % WORD_BYTES for s, end in zip(starts, ends, strict=True)):
            self.warnings.append("manifest: the steps do not fit the file: not used")
            return None
        finished = {s.begin: s for s in self.manifest.finished}
        return tuple(
            finished.get(start.begin) or self._unfinished(start, end) for start, end in zip(starts, ends, strict=True)
        )

    def _unfinished(self, start: ManifestStep, end: int) -> RawStep:
        """A step that was begun and not ended."""
        blocks = [b for b in self.manifest.blocks if b.step == start.step] if self.manifest is not None else []
        at = blocks[-1].end if blocks else start.begin
        _, first, last = self._walk(at, end)
        if blocks:
            first, last = blocks[0].first_frame, max(last, *(b.last_frame for b in blocks))
        return RawStep(start.begin, end, first, last, start.step1, start.step2)

    @property
    def state(self) -> RecordingState:
        """Complete, truncated (it just ends) or damaged, as far as the last `blocks` came."""
        if self._broken:
            return "damaged"
        cut = self.manifest is not None and self.manifest.state != "complete"
        return "truncated" if self.damages or cut else "complete"

    @property
    def steps(self) -> tuple[RawStep, ...]:
        """The steps: from the index, else the manifest, else (walking over the whole file once) the frames."""
        if self._index is not None:
            return self._index
        if self._walked is None:
            end, first, last = self._walk(HEADER_BYTES, self.size)
            self._walked = (RawStep(HEADER_BYTES, end, first, last),)
        return self._walked

    def blocks(self, max_words: int = 1 << 20, step: int | None = None) -> Iterator[NDArray[np.uint64]]:
        """Whole frames, as they stand in the file.

        Args:
            max_words: most words of one block (but never less than the longest frame there can be).
            step: number of the step to read; None reads all.

        Yields:
            (n,) uint64, whole frames one after the other (2 + n_events words each). The arrays are the caller's.
            `damages`, `bytes_read` and `state` are right once the iteration has ended.
        """
        self.damages = DamageLog()
        self._broken = False
        self.bytes_read = HEADER_BYTES if step is None else 0
        self._frames = 0
        self._ids = (0, -1)
        self.usable_end = HEADER_BYTES
        index = self._index
        ranges = [(HEADER_BYTES, self.size)] if index is None else [(s.begin, s.end) for s in index]
        if step is not None:
            if not 0 <= step < len(ranges):
                raise BadInputError(f"there is no step {step}: the recording has {len(ranges)}", where=str(self.path))
            ranges = ranges[step : step + 1]
        reached = HEADER_BYTES if step is None else ranges[0][0]
        for begin, end in ranges:
            if begin > reached:
                self._damaged(reached, min(begin, self.size) - reached, "these bytes belong to no step of the index")
            yield from self._read(min(begin, self.size), min(end, self.size), max(max_words, MAX_FRAME_WORDS))
            if end > self.size:
                self._damaged(self.size, 0, f"the file ends, its index goes on to byte {end}", cut=True)
            reached = end
        if index is None:
            self._walked = (RawStep(HEADER_BYTES, self.usable_end, *self._ids),)
        if step is None and reached < self.size:
            self._damaged(reached, self.size - reached, "the bytes after the last step belong to no step of the index")

    @property
    def frames_read(self) -> int:
        """Whole frames that the last `blocks` has given so far."""
        return self._frames

    def _damaged(self, offset: int, n_bytes: int, reason: str, *, cut: bool = False) -> None:
        self.damages.note(offset, reason, self._frames, max(0, n_bytes))
        self._broken |= not cut

    def _count(self, walk: NDArray[np.int64]) -> None:
        if walk[FRAMES]:
            self._ids = (self._ids[0] if self._frames else int(walk[FIRST_ID]), int(walk[LAST_ID]))
            self._frames += int(walk[FRAMES])

    def _pread(self, offset: int, n_words: int) -> NDArray[np.uint64]:
        """Words of the file; fewer only where the file has become shorter since it was opened."""
        if self._fd < 0:
            raise BadInputError("the recording is closed", where=str(self.path))
        words = np.empty(n_words, np.uint64)
        view = words.view(np.uint8).data
        filled = 0
        while filled < len(view):
            got = os.preadv(self._fd, [view[filled:]], offset + filled)
            if not got:
                break
            filled += got
        return words[: filled // WORD_BYTES]

    def _read(self, begin: int, end: int, max_words: int) -> Iterator[NDArray[np.uint64]]:
        """Frames of one step: checked blocks where the manifest knows them, plain frames elsewhere."""
        at = begin
        known = self.manifest.blocks if self.manifest is not None else []
        for block in [b for b in known if begin <= b.begin and b.end <= end]:
            if block.begin < at:
                continue
            yield from self._read_plain(at, block.begin, max_words, resumes=True)
            yield from self._read_checked(block, max_words)
            at = block.end
        yield from self._read_plain(at, end, max_words, resumes=False)

    def _read_checked(self, block: ManifestBlock, max_words: int) -> Iterator[NDArray[np.uint64]]:
        from petqc.formats.petsys_kernels import walk_frames

        words = self._pread(block.begin, (block.end - block.begin) // WORD_BYTES)
        found = f"{zlib.crc32(words.view(np.uint8).data):08x}"
        if found != block.crc32:
            reason = f"the block's CRC-32 is {found}, its manifest says {block.crc32}"
            self._damaged(block.begin, block.end - block.begin, reason)
            self.bytes_read += block.end - block.begin
            return
        walk = np.empty(N_WALK, np.int64)
        while words.size:
            walk_frames(words[:max_words], walk)
            used = int(walk[USED])
            if not used:  # a manifest made for other bytes that happen to have this CRC
                at = block.end - words.size * WORD_BYTES
                self._damaged(at, block.end - at, _what_is_wrong(words))
                self.bytes_read += block.end - at
                return
            self._count(walk)
            self.bytes_read += used * WORD_BYTES
            self.usable_end = block.end - (words.size - used) * WORD_BYTES
            yield words[:used]
            words = words[used:]

    def _read_plain(self, begin: int, end: int, max_words: int, *, resumes: bool) -> Iterator[NDArray[np.uint64]]:
        """Frames until the range ends or the words are no frame. resumes: reading goes on after the range."""
        from petqc.formats.petsys_kernels import walk_frames

        walk = np.empty(N_WALK, np.int64)
        at = begin
        while end - at >= WORD_BYTES:
            words = self._pread(at, min(max_words, (end - at) // WORD_BYTES))
            walk_frames(words, walk)
            used = int(walk[USED])
            self._count(walk)
            self.bytes_read += used * WORD_BYTES
            at += used * WORD_BYTES
            self.usable_end = max(self.usable_end, at)
            if used:
                yield words[:used]
            if walk[ENDED] == IMPOSSIBLE or not used:
                cut = walk[ENDED] != IMPOSSIBLE and not resumes
                self._damaged(at, end - at, _what_is_wrong(words[used:]), cut=cut)
                break
        else:
            if at < end:
                self._damaged(at, end - at, f"{end - at} bytes are left, a word has {WORD_BYTES}", cut=not resumes)
        self.bytes_read += end - at

    def _walk(self, begin: int, end: int) -> tuple[int, int, int]:
        """Where the whole frames of a range end, and the first and last id among them (0 and -1 without any)."""
        from petqc.formats.petsys_kernels import walk_frames

        walk = np.empty(N_WALK, np.int64)
        at, first, last, frames = begin, 0, -1, 0
        while end - at >= WORD_BYTES:
            walk_frames(self._pread(at, min(1 << 20, (end - at) // WORD_BYTES)), walk)
            if walk[FRAMES]:
                first = first if frames else int(walk[FIRST_ID])
                last = int(walk[LAST_ID])
                frames += int(walk[FRAMES])
            at += int(walk[USED]) * WORD_BYTES
            if walk[ENDED] == IMPOSSIBLE or not walk[USED]:
                break
        return at, first, last


def _index_lines(file: Iterable[str]) -> tuple[RawStep, ...]:
    steps: list[RawStep] = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            step = RawStep.from_line(line)
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from error
        if steps and step.begin < steps[-1].end:
            raise ValueError(f"{number}: begins before the previous step ends at byte {steps[-1].end}")
        steps.append(step)
    return tuple(steps)


def _what_is_wrong(words: NDArray[np.uint64]) -> str:
    """Why the first of these words begin no whole frame."""
    if not words.size:
        return "the file has become shorter since it was opened"
    size = int(words[0]) >> FRAME_ID_BITS & FRAME_SIZE_MASK
    if words.size == 1:
        if size < 2:
            return f"not a frame header: a frame of {size} words"
        return f"the frame of {size} words is cut off after 1"
    n_events = int(words[1]) & N_EVENTS_MASK
    if size != n_events + 2:
        return f"not a frame header: {size} words for {n_events} events, where {n_events + 2} are needed"
    return f"the frame of {size} words is cut off after {words.size}"
