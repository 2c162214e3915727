"""Writing PETsys raw recordings so that whatever was written survives a power failure.

The bytes are the vendor's (.rawf, .idxf, .modf); a manifest stands beside them. While it is written the file is called
`X.rawf.partial`; data are synced every second or 4 MiB and only then named in the manifest.
Source: PETsys sw_daq_tofpet2 revision 194662e, file writer.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.petsys_frames import (
    FRAME_ID_MASK,
    HEADER_BYTES,
    MAX_FRAME_WORDS,
    N_STATE,
    NO_FRAME_YET,
    S_EVENTS,
    S_FIRST_ID,
    S_FRAMES_IN,
    S_FRAMES_LOST,
    S_FRAMES_PARTLY_LOST,
    S_FRAMES_WRITTEN,
    S_LAST_ID,
    S_LAST_TYPE,
    S_OUT_OF_ORDER,
    TYPE_DATA,
    WHOLE,
    WORD_BYTES,
    RawHeader,
    RawStep,
)
from petqc.formats.petsys_manifest import SCHEMA, ManifestBlock, ManifestStep, line
from petqc.formats.petsys_tables import format_table
from petqc.output_files import sync_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

BLOCK_BYTES: Final = 4 << 20
SYNC_SECONDS: Final = 1.0


class RawWriter:
    """A recording being written.

    Attributes:
        path: the data file's final name.
        frames_in: frames given to `write`. frames_written: frames in the file, gap records among them.
        events: events in them. frames_lost: frames of which nothing arrived, missing ids among them.
        frames_partly_lost: frames that say that some of their events were lost. frames_out_of_order: frames whose
        id is not above the one before.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        header: RawHeader,
        *,
        modes: NDArray[Any] | None = None,
        context: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create PREFIX.rawf.partial and PREFIX.manifest.jsonl.

        Args:
            prefix: path without suffix; nothing is ever overwritten.
            header: the file header.
            modes: acquisition_mode table; needed if the header says mixed.
            context: JSON values for the manifest's first line, such as config_hash, calibration_ids, simulated.
            clock: seconds, rising; decides when a second has passed.

        Raises:
            BadInputError: a file of this name exists, or modes and header contradict each other.
        """
        from petqc.formats.petsys_kernels import store_frames

        self.prefix = Path(prefix)
        self.path = self._companion(".rawf")
        self.header = header
        self._store = store_frames
        self._partial = self._companion(".rawf.partial")
        if header.mixed != (modes is not None):
            what = "the header says that modes are mixed" if header.mixed else "the header says one mode for all"
            raise BadInputError(f"{what}, and {'no' if modes is None else 'a'} mode table is given")
        for suffix in (".rawf", ".rawf.partial", ".idxf", ".modf", ".manifest.jsonl"):
            if self._companion(suffix).exists():
                raise BadInputError("exists already", where=str(self._companion(suffix)), do="choose another name")
        self._clock = clock
        self._state = np.zeros(N_STATE, np.int64)
        self._state[S_LAST_ID], self._state[S_FIRST_ID] = NO_FRAME_YET, -1
        self._at_block = self._state.copy()
        self._out = np.empty(BLOCK_BYTES // WORD_BYTES + MAX_FRAME_WORDS + 2, np.uint64)
        self._fill = 0
        # Loading the kernel takes a second or two and holds up every thread: now, while no frames come yet.
        self._store(np.empty(0, np.uint64), 0, self._out, 0, self._out.size, False, self._state, np.zeros(3, np.int64))
        self._position = HEADER_BYTES
        self._hash = hashlib.sha256()
        self._steps: list[RawStep] = []
        self._step: ManifestStep | None = None
        self._failed = self._closed = False
        self._data = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._manifest = os.open(
                self._companion(".manifest.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
            )
        except OSError:
            os.close(self._data)
            raise
        try:
            raw = header.to_bytes()
            _write_all(self._data, raw)
            self._hash.update(raw)
            first = {"schema": SCHEMA, "file": self.path.name, **(context or {})}
            _write_all(self._manifest, line("recording", first))
            if modes is not None:
                self._companion(".modf").write_text(format_table("acquisition_mode", modes), "utf-8")
                sync_path(self._companion(".modf"))
            os.fsync(self._data)
            os.fsync(self._manifest)
            sync_path(self.path.parent)
        except BaseException:
            self._release()
            raise
        self._synced = self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self.close(truncated=f"{type(error).__name__}: {error}")

    def _companion(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    def _total(self, position: int) -> int:
        return int(self._state[position])

    @property
    def frames_in(self) -> int:
        """Frames given to `write`."""
        return self._total(S_FRAMES_IN)

    @property
    def frames_written(self) -> int:
        """Frames in the file, gap records among them."""
        return self._total(S_FRAMES_WRITTEN)

    @property
    def events(self) -> int:
        """Events in the frames given."""
        return self._total(S_EVENTS)

    @property
    def frames_lost(self) -> int:
        """Frames of which nothing arrived: marked lost and empty, or missing between two ids."""
        return self._total(S_FRAMES_LOST)

    @property
    def frames_partly_lost(self) -> int:
        """Frames with events that say that others were lost."""
        return self._total(S_FRAMES_PARTLY_LOST)

    @property
    def frames_out_of_order(self) -> int:
        """Frames whose id is not above the one before."""
        return self._total(S_OUT_OF_ORDER)

    @property
    def bytes_written(self) -> int:
        """Bytes of the data file that are on disk."""
        return self._position

    def start_step(self, step1: float = 0.0, step2: float = 0.0) -> None:
        """Begin a step; one that is open ends."""
        self._usable()
        if self._step is not None:
            self.end_step()
        self._state[S_LAST_ID], self._state[S_FIRST_ID] = NO_FRAME_YET, -1
        self._state[S_LAST_TYPE] = TYPE_DATA
        self._step = ManifestStep(len(self._steps), self._position, float(step1), float(step2))
        self._note("step", self._step)

    def write(self, words: NDArray[np.uint64], *, compacted: bool = False) -> None:
        """Record whole frames.

        Of a run of empty frames (and of one of lost frames) only the first is stored, and a gap in frame ids gets a
        lost frame in front, as the vendor's writer does.

        Args:
            words: (n,) uint64, whole frames one after the other.
            compacted: the frames come from a recording: their gaps are its own and everything is stored as it is.

        Raises:
            BadInputError: no step is open, or the words are not whole frames; frames before the bad one are kept.
            OSError: the disk is full or fails; the recording stays as `.rawf.partial`.
        """
        self._usable()
        if self._step is None:
            raise BadInputError("no step is open", where=str(self.path), do="call start_step first")
        words = np.ascontiguousarray(words, np.uint64)
        result = np.zeros(3, np.int64)
        limit = BLOCK_BYTES // WORD_BYTES
        while result[0] < words.size:
            self._store(words, int(result[0]), self._out, self._fill, limit, compacted, self._state, result)
            self._fill = int(result[1])
            if result[2] != WHOLE:
                raise BadInputError(f"word {result[0]} of {words.size} does not begin a whole frame")
            if self._fill >= limit:
                self._flush()
        if self._clock() - self._synced >= SYNC_SECONDS:
            self._flush()

    def end_step(self, *, last_frame: int | None = None) -> None:
        """End the step.

        Args:
            last_frame: id of the step's last frame, where the frames given do not tell (a copied recording).
        """
        self._usable()
        if self._step is None:
            raise BadInputError("no step is open", where=str(self.path))
        self._flush()
        first, last = self._total(S_FIRST_ID), self._total(S_LAST_ID)
        if last == NO_FRAME_YET:
            first, last = 0, -1
        if last_frame is not None:
            last = last_frame
        begun = self._step
        step = RawStep(begun.begin, self._position, first, last, begun.step1, begun.step2)
        self._steps.append(step)
        self._step = None
        self._note("step-end", step)

    def close(self, *, truncated: str | None = None) -> None:
        """Finish the recording: index, last line of the manifest, sync, final name. May be called again.

        Args:
            truncated: why the recording ends early, None if it is complete.
        """
        if self._closed:
            return
        if self._failed:
            self._release()
            return
        try:
            if self._step is not None:
                self.end_step()
            _write_index(self.prefix, self._steps)
            reason = {} if truncated is None else {"reason": truncated}
            totals = {
                "bytes": self._position,
                "frames_in": self.frames_in,
                "frames_written": self.frames_written,
                "frames_lost": self.frames_lost,
                "frames_partly_lost": self.frames_partly_lost,
                "frames_out_of_order": self.frames_out_of_order,
                "events": self.events,
                "sha256": self._hash.hexdigest(),
            }
            self._note("end", {"state": "truncated" if reason else "complete", **reason, **totals})
            os.fsync(self._data)
            os.fsync(self._manifest)
            _rename(self._partial, self.path)
        finally:
            self._release()

    def _usable(self) -> None:
        if self._closed or self._failed:
            what = "closed" if self._closed else "broken by an earlier write error"
            raise BadInputError(f"the recording is {what}", where=str(self.path))

    def _note(self, kind: str, value: Any) -> None:
        with _noting_failure(self):
            _write_all(self._manifest, line(kind, value))

    def _flush(self) -> None:
        """Put what is waiting on disk, then say so in the manifest."""
        self._synced = self._clock()
        if not self._fill:
            return
        data = self._out[: self._fill].view(np.uint8).data
        with _noting_failure(self):
            _write_all(self._data, data)
            os.fdatasync(self._data)
        self._hash.update(data)
        gained = self._state - self._at_block
        begin, self._position = self._position, self._position + len(data)
        block = ManifestBlock(
            begin=begin,
            end=self._position,
            first_frame=int(self._out[0]) & FRAME_ID_MASK,
            last_frame=self._total(S_LAST_ID),
            frames_in=int(gained[S_FRAMES_IN]),
            frames_written=int(gained[S_FRAMES_WRITTEN]),
            frames_lost=int(gained[S_FRAMES_LOST]),
            events=int(gained[S_EVENTS]),
            crc32=f"{zlib.crc32(data):08x}",
            step=self._step.step if self._step is not None else 0,
        )
        self._fill = 0
        self._at_block = self._state.copy()
        self._note("block", block)

    def _release(self) -> None:
        self._closed = True
        for descriptor in (self._data, self._manifest):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._manifest = -1


class _noting_failure:  # noqa: N801 - reads as a word in a with statement
    """A write error makes a recording unusable; what is on disk stays for `finalise_partial`."""

    def __init__(self, writer: RawWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._writer._failed = True  # noqa: SLF001 - same module


def finalise_partial(path: str | os.PathLike[str]) -> Path:
    """Give a recording that a killed process left behind its index and its name.

    Everything up to the last whole frame is indexed, the bytes after it stay, and the manifest says truncated.

    Args:
        path: `X.rawf.partial` (or X).

    Returns:
        The path of X.rawf.

    Raises:
        BadInputError: there is no such recording, or not even a whole header in it; nothing is deleted or renamed.
    """
    from petqc.formats.petsys_raw import RawReader

    partial = Path(path)
    if not partial.name.endswith(".rawf.partial"):
        partial = partial.with_name(partial.name.removesuffix(".rawf") + ".rawf.partial")
    prefix = partial.with_name(partial.name.removesuffix(".rawf.partial"))
    final = prefix.with_name(prefix.name + ".rawf")
    if final.exists():
        raise BadInputError("exists already", where=str(final), do="move one of the two recordings away")
    steps, frames, damages = [], 0, []
    with RawReader(partial) as reader:
        known = reader.manifest is not None
        for number, step in enumerate(reader.steps):
            end = step.begin
            for _ in reader.blocks(step=number):
                end = reader.usable_end
            frames += reader.frames_read
            damages += [str(damage) for damage in reader.damages]
            steps.append(replace(step, end=end))
    digest = hashlib.sha256()
    with partial.open("rb") as file:
        while chunk := file.read(BLOCK_BYTES):
            digest.update(chunk)
        os.fsync(file.fileno())
        size = file.tell()
    _write_index(prefix, steps)
    with prefix.with_name(prefix.name + ".manifest.jsonl").open("ab") as file:
        if not known:
            file.write(line("recording", {"schema": SCHEMA, "file": final.name}))
        totals = {"bytes": size, "frames_written": frames, "damage": damages, "sha256": digest.hexdigest()}
        # The line feed ends a line that the writing process did not; an empty line is passed over.
        file.write(b"\n" + line("end", {"state": "truncated", "reason": "the recording was not closed", **totals}))
        file.flush()
        os.fsync(file.fileno())
    _rename(partial, final)
    return final


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_index(prefix: Path, steps: Sequence[RawStep]) -> None:
    path = prefix.with_name(prefix.name + ".idxf")
    temporary = prefix.with_name(prefix.name + ".idxf.partial")
    temporary.write_text("".join(step.to_line() for step in steps), "ascii")
    sync_path(temporary)
    _rename(temporary, path)


def _rename(old: Path, new: Path) -> None:
    old.replace(new)
    sync_path(new.parent)
