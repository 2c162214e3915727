"""From data datagrams to whole frames in order, with an account in which every frame is found again.

`FrameIntake` belongs to the receive thread and knows no socket. Datagrams are taken many at once as long as they are
whole frames in order; the first one that is not is looked at by itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import DriverError, LinkLostError, SinkFailedError
from petqc_drivers.petsys.frames import (
    FRAME_ID_MODULO,
    frame_event_counts,
    frame_ids,
    frame_lost_mask,
    scan_frames,
)
from petqc_drivers.transport.datagrams import Datagrams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from petqc_drivers.petsys.frames import FrameScan

    Sink = Callable[[NDArray[np.uint64]], None]

BATCH_WORDS: Final = 1 << 17
"""Frames are handed over in blocks of at most this (1 MiB) ..."""
BATCH_S: Final = 0.01
"""... or when the oldest has waited this long."""
ROOM_BYTES: Final = 65_536
MAX_JUMP_FRAMES: Final = 1 << 22
"""A frame id further ahead than this (21 s) is not believed."""
RESTART_FRAMES: Final = 4096
"""So many frames (21 ms) that follow each other but not what came before mean that the board began afresh."""


@dataclass(frozen=True, slots=True)
class ReceiveAccount:
    """What became of everything received between start and stop.

    `frames_received == frames_delivered + sum(frames_rejected)`, and
    `last_frame - first_frame + 1 == frames_delivered + frames_rejected["sink-failed"] + frames_missing` (modulo 2**36).

    Attributes:
        datagrams: Data datagrams of the board, or blocks of slots taken from a shared ring.
        bytes: In them.
        frames_received: Whole, consistent frames in them.
        frames_delivered: Given to the consumer, in order.
        frames_rejected: Not given to it, by reason.
        datagrams_rejected: Datagrams, or slots of a ring, that were not data of the board, by reason.
        words_rejected: Words that were no part of a whole frame, by reason.
        events: In the frames delivered.
        gaps: Places where frame ids are missing.
        frames_missing: Frame ids missing there.
        frames_lost_by_board: Delivered frames in which the board says that it lost all events.
        frames_partly_lost_by_board: Delivered frames in which the board says that it lost some.
        first_frame: Id of the first frame delivered, None if there was none.
        last_frame: Id of the last.
        kernel_drops: Datagrams dropped because the receive buffer was full.
        receive_buffer_bytes: Size of that buffer.
        duration_s: From start to stop.
        failure: What ended it early, None if it was stopped.
    """

    datagrams: int = 0
    bytes: int = 0
    frames_received: int = 0
    frames_delivered: int = 0
    frames_rejected: Mapping[str, int] = field(default_factory=dict)
    datagrams_rejected: Mapping[str, int] = field(default_factory=dict)
    words_rejected: Mapping[str, int] = field(default_factory=dict)
    events: int = 0
    gaps: int = 0
    frames_missing: int = 0
    frames_lost_by_board: int = 0
    frames_partly_lost_by_board: int = 0
    first_frame: int | None = None
    last_frame: int | None = None
    kernel_drops: int = 0
    receive_buffer_bytes: int = 0
    duration_s: float = 0.0
    failure: DriverError | None = None


class FrameIntake:
    """Collects frames of one acquisition and gives them to its consumer in blocks.

    Args:
        sink: Called with (n,) uint64, whole frames, its own to keep; must not block.
        min_frame: Frames before this id are older than the start and dropped.
        device: Name of the board for messages.
        on_first: Told once when the first frame is accepted.
        on_failure: Told once when delivery ends early.
        room_bytes: Size of the room.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        min_frame: int,
        device: str,
        on_first: Callable[[], None],
        on_failure: Callable[[DriverError], None],
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self._sink = sink
        self._min_frame = min_frame
        self._device = device
        self._on_first = on_first
        self._on_failure = on_failure
        self._room_bytes = room_bytes
        self._words = np.empty(BATCH_WORDS + room_bytes // 8, dtype=np.uint64)
        self._bytes = self._words.data.cast("B")
        self._used = 0
        self._oldest_s = 0.0
        self._expected: int | None = None
        self._first: int | None = None
        self._stray_next = -1
        self._stray_run = 0
        self._counts: Counter[str] = Counter()
        self._frames_rejected: Counter[str] = Counter()
        self._words_rejected: Counter[str] = Counter()
        self._failure: DriverError | None = None
        from petqc_drivers.petsys import intake_kernel

        self._kernel = intake_kernel
        self._tally = np.zeros(len(intake_kernel.TALLY), np.int64)
        self._span = np.zeros(3, np.int64)
        self._given_at_once = 0
        self._gather(Datagrams(1), 0, 0)  # loaded before frames come; see warm_up
        self._started_s = monotonic_s()
        self.last_frame_s: float | None = None
        """When a frame was last accepted, monotonic; may be read from another thread."""

    def room(self) -> memoryview:
        """Where the words of the next datagram go."""
        return self._bytes[8 * self._used : 8 * self._used + self._room_bytes]

    def take(self, batch: Datagrams, begin: int, peer: int) -> int:
        """Take datagrams from `begin` on that are of this peer and whole frames in order; how many.

        What is not taken is as it was: it goes to `datagram`, if it is one of the peer with a data mark.
        """
        at = begin
        while at < batch.n and self._failure is None:
            n = self._gather(batch, at, peer)
            if n == 0:
                break
            n_words, first, last = self._span.tolist()
            if self._expected is None:
                self._first = first
                self._on_first()
            self._took(n_words, last)
            at += n
        return at - begin

    def datagram(self, body: memoryview) -> None:
        """Take a datagram of whatever frames: what follows its mark."""
        self.room()[: len(body)] = body
        self._counts["bytes"] += 1  # the mark
        self.accept(len(body))

    def accept(self, n_bytes: int, scan: FrameScan | None = None) -> None:
        """Take what was put into `room`; `scan` if it is known already where its frames are."""
        self._counts["datagrams"] += 1
        self._counts["bytes"] += n_bytes
        n_words = n_bytes // 8
        if n_bytes % 8:
            self._words_rejected["ragged-end"] += 1
        words = self._words[self._used : self._used + n_words]
        scan = scan_frames(words) if scan is None else scan
        if scan.reason is not None:
            self._words_rejected[scan.reason] += scan.n_dropped
        n = len(scan.starts)
        if n == 0:
            return
        self._counts["frames_received"] += n
        if self._failure is not None:
            self._frames_rejected["after-failure"] += n
            return
        ids = frame_ids(words, scan.starts)
        if self._is_in_order(ids):
            self._take(words, scan, ids, None)
        else:
            self._take(words, scan, ids, self._sift(ids))

    def _gather(self, batch: Datagrams, begin: int, peer: int) -> int:
        """Put datagrams behind the words that wait; how many."""
        due = self._min_frame if self._expected is None else self._expected
        return self._kernel.gather(
            *(batch.words, batch.marks, batch.sizes, batch.flags, batch.senders, begin, batch.n, peer),
            *(due, self._expected is None, MAX_JUMP_FRAMES),
            *(self._words, self._used, BATCH_WORDS, self._span, self._tally),
        )

    def _is_in_order(self, ids: NDArray[np.int64]) -> bool:
        steps = np.diff(ids)
        ahead = self._ahead(int(ids[0]))
        return 0 <= ahead < MAX_JUMP_FRAMES and (
            steps.size == 0 or (int(steps.min()) >= 1 and int(steps.max()) <= MAX_JUMP_FRAMES)
        )

    def _ahead(self, frame: int) -> int:
        """How far a frame is ahead of the one that is due; negative if behind; frame ids wrap."""
        due = self._min_frame if self._expected is None else self._expected
        distance = (frame - due) % FRAME_ID_MODULO
        return distance - FRAME_ID_MODULO if distance >= FRAME_ID_MODULO // 2 else distance

    def _sift(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Frame by frame: which of these (n,) ids continue what came before."""
        keep = np.zeros(len(ids), dtype=np.bool_)
        due = self._expected
        for i, frame in enumerate(ids.tolist()):
            ahead = self._ahead(frame)
            if 0 <= ahead < MAX_JUMP_FRAMES and self._failure is None:
                keep[i] = True
                self._expected = (frame + 1) % FRAME_ID_MODULO
                self._stray_run = 0
                continue
            if due is None and self._expected is None and ahead < 0:
                self._frames_rejected["before-start"] += 1
                continue
            self._frames_rejected["late-or-duplicate" if ahead < 0 else "implausible-id"] += 1
            self._stray_run = self._stray_run + 1 if frame == self._stray_next else 1
            self._stray_next = (frame + 1) % FRAME_ID_MODULO
            if self._stray_run >= RESTART_FRAMES and self._failure is None:
                self._fail(
                    LinkLostError(
                        f"frame ids went from {self._expected} to {frame} and stay there: the board restarted or was "
                        "synchronised again, so times before and after do not belong together",
                        device=self._device,
                        do="connect and configure again",
                    )
                )
        self._expected = due
        return keep

    def _take(
        self, words: NDArray[np.uint64], scan: FrameScan, ids: NDArray[np.int64], keep: NDArray[np.bool_] | None
    ) -> None:
        starts, n_words = scan.starts, scan.n_words
        if keep is not None:
            if not keep.any():
                return
            sizes = np.diff(np.append(starts, n_words))
            kept_words = words[:n_words][np.repeat(keep, sizes)]
            n_words = len(kept_words)
            words[:n_words] = kept_words
            sizes, ids = sizes[keep], ids[keep]
            starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes)[:-1]))
        if self._expected is None:
            self._first = int(ids[0])
            self._expected = self._first
            self._on_first()
        missing = np.diff(ids, prepend=self._expected - 1) % FRAME_ID_MODULO - 1
        n_events, is_lost = frame_event_counts(words, starts), frame_lost_mask(words, starts)
        counts = self._counts
        counts["gaps"] += int(np.count_nonzero(missing))
        counts["frames_missing"] += int(missing.sum())
        counts["events"] += int(n_events.sum())
        counts["frames_lost_by_board"] += int(np.count_nonzero(is_lost & (n_events == 0)))
        counts["frames_partly_lost_by_board"] += int(np.count_nonzero(is_lost & (n_events > 0)))
        counts["waiting"] += len(ids)
        self._took(n_words, int(ids[-1]))

    def _took(self, n_words: int, last_frame: int) -> None:
        """So many words more wait for the consumer; a full batch goes to it."""
        self._expected = (last_frame + 1) % FRAME_ID_MODULO
        self._stray_run = 0
        self.last_frame_s = monotonic_s()
        if self._used == 0:
            self._oldest_s = self.last_frame_s
        self._used += n_words
        if self._used >= BATCH_WORDS:
            self.flush()

    def due_in_s(self) -> float | None:
        """When `flush` is due, in seconds from now; None if nothing waits."""
        return None if self._used == 0 else max(0.0, self._oldest_s + BATCH_S - monotonic_s())

    def flush(self) -> None:
        """Give what waits to the consumer."""
        if self._used == 0:
            return
        frames_at_once = int(self._tally[self._kernel.FRAMES])
        block, n = self._words[: self._used], self._counts.pop("waiting", 0) + frames_at_once - self._given_at_once
        self._given_at_once = frames_at_once
        if len(self._words) - self._used <= ROOM_BYTES // 8:  # full: the consumer gets the memory itself
            self._words = np.empty_like(self._words)
            self._bytes = self._words.data.cast("B")
        else:
            block = block.copy()
        self._used = 0
        try:
            self._sink(block)
        except Exception as error:  # noqa: BLE001 - whatever the consumer raises ends the acquisition, with its cause
            self._frames_rejected["sink-failed"] += n
            failure = SinkFailedError(
                f"the consumer of the frames failed: {error!r}", device=self._device, do="see the consumer's own log"
            )
            failure.__cause__ = error
            self._fail(failure)
        else:
            self._counts["frames_delivered"] += n

    def abort(self, error: DriverError) -> None:
        """End the delivery because of something outside."""
        self._fail(error)

    def _fail(self, error: DriverError) -> None:
        if self._failure is None:
            self._failure = error
            self._on_failure(error)

    def account(
        self,
        *,
        datagrams_rejected: Mapping[str, int],
        kernel_drops: int,
        receive_buffer_bytes: int,
        failure: DriverError | None = None,
    ) -> ReceiveAccount:
        """The account up to now; call `flush` before it for the final one."""
        counts = self._counts + Counter(dict(zip(self._kernel.TALLY, self._tally.tolist(), strict=True)))
        last = None if self._expected is None else (self._expected - 1) % FRAME_ID_MODULO
        return ReceiveAccount(
            datagrams=counts["datagrams"],
            bytes=counts["bytes"],
            frames_received=counts["frames_received"],
            frames_delivered=counts["frames_delivered"],
            frames_rejected=dict(self._frames_rejected),
            datagrams_rejected=dict(datagrams_rejected),
            words_rejected=dict(self._words_rejected),
            events=counts["events"],
            gaps=counts["gaps"],
            frames_missing=counts["frames_missing"],
            frames_lost_by_board=counts["frames_lost_by_board"],
            frames_partly_lost_by_board=counts["frames_partly_lost_by_board"],
            first_frame=self._first,
            last_frame=last,
            kernel_drops=kernel_drops,
            receive_buffer_bytes=receive_buffer_bytes,
            duration_s=monotonic_s() - self._started_s,
            failure=failure or self._failure,
        )


def warm_up() -> None:
    """Compile, or load, what joins datagrams: seconds, once, that an acquisition which has begun does not have."""
    FrameIntake(lambda _: None, min_frame=0, device="none", on_first=lambda: None, on_failure=lambda _: None)
