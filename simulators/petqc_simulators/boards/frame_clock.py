"""When a detector sees on: in blocks of frames, in step with the simulated time since the synchronisation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from petqc_simulators.physics.detector import BLOCK_S
from petqc_simulators.physics.repetition import Repetition

if TYPE_CHECKING:
    from concurrent.futures import Future

    from petqc_simulators.physics.detector import Block, Detector


class FrameClock:
    """The frames of one detector.

    Whoever serves them in real time lets it run ahead: the next block is made by a thread of its own while this one is
    on the wire. Settings then act from the block after that on, at most two blocks (10 ms) after they were sent;
    otherwise they act on the whole block in which they come. `wait` before anything of the detector is used.

    Attributes:
        detector: what they are of.
        repetition: what makes them, one block after the other.
        is_running: frames are made, which they are from the first synchronisation on.
        bias_v: (outputs,) true voltages at the end of the frames that were given out.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.is_running = False
        self.bias_v = detector.bias_v
        self._synchronised_s = 0.0
        self._advanced_s = 0.0
        self._given = 0
        self.repetition = Repetition(detector, detector.profile.repetition.blocks)
        self._thread: ThreadPoolExecutor | None = None
        self._next: Future[Block] | None = None

    def run_ahead(self) -> None:
        """Make the next block before it is asked for, until `close`."""
        self._thread = ThreadPoolExecutor(1, "physics")

    def close(self) -> None:
        """End the thread that runs ahead."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def wait(self) -> None:
        """Wait until nothing uses the detector any more; at most as long as a block takes."""
        if self._next is not None:
            self._next.result()

    def synchronise(self, elapsed_s: float) -> None:
        """Frame ids begin at 0 now."""
        self.wait()
        self._next = None
        self.detector.restart()
        self.is_running = True
        self._synchronised_s = elapsed_s
        self._given = 0

    def stop(self) -> None:
        """No frames until the next synchronisation."""
        self.wait()
        self._next = None
        self.is_running = False

    def advance(self, elapsed_s: float) -> tuple[list[Block], float]:
        """All frames that ended since the last call, and the seconds since then."""
        seconds, self._advanced_s = elapsed_s - self._advanced_s, elapsed_s
        if not self.is_running:
            self.detector.advance_bias(seconds)
            self.bias_v = self.detector.bias_v
            return [], seconds
        due = int((elapsed_s - self._synchronised_s) / BLOCK_S)
        blocks = [self._block() for _ in range(due - self._given)]
        self._given += len(blocks)
        if self._thread is not None and self._next is None:
            self._next = self._thread.submit(self.repetition.advance)
        return blocks, seconds

    def _block(self) -> Block:
        if self._next is None:
            block = self.repetition.advance()
        else:
            block, self._next = self._next.result(), None
        self.bias_v = self.detector.bias_v
        return block
