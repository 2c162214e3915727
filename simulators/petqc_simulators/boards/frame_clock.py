"""When a detector sees on: in blocks of frames, in step with the simulated time since the synchronisation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.repetition import Repetition

if TYPE_CHECKING:
    from concurrent.futures import Future

    from petqc_simulators.physics.blocks import Block
    from petqc_simulators.physics.detector import Detector


class FrameClock:
    """The frames of one detector.

    Whoever serves them in real time lets it run ahead: the next block is made by a thread of its own while this one is
    on the wire. Settings then act from the block after that on, at most two blocks (10 ms) after they were sent;
    otherwise they act on the whole block in which they come. While no SiPM sees light, as where test pulses calibrate,
    it does not run ahead: each point of a scan has its own settings from its first frame on. Nobody ever waits for a
    block that is made ahead: one that is not ready comes with a later call, and whoever keeps the time lets it stand
    while `lag` says that two are due.

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

    @property
    def is_free(self) -> bool:
        """No block is being made, so that new settings can be handed over without waiting."""
        return self._next is None or self._next.done()

    def lag(self, elapsed_s: float) -> int:
        """How many blocks are due and were not given out, because they are still being made."""
        return 0 if self._thread is None or not self.is_running else self._due(elapsed_s) - self._given

    def _due(self, elapsed_s: float) -> int:
        return int((elapsed_s - self._synchronised_s) / BLOCK_S)

    def _wait(self) -> None:
        if self._next is not None:
            self._next.result()
            self._next = None

    def synchronise(self, elapsed_s: float) -> None:
        """Frame ids begin at 0 now."""
        self._wait()
        self.detector.restart()
        self.is_running = True
        self._synchronised_s = elapsed_s
        self._given = 0

    def stop(self) -> None:
        """No frames until the next synchronisation."""
        self._wait()
        self.is_running = False

    def advance(self, elapsed_s: float) -> tuple[list[Block], float]:
        """All frames that ended since the last call and are ready, and the seconds since then."""
        seconds, self._advanced_s = elapsed_s - self._advanced_s, elapsed_s
        if not self.is_running:
            self.detector.stand(seconds)
            self.bias_v = self.detector.bias_v
            return [], seconds
        if self._thread is None or (self._next is None and not self.detector.sees_light):
            blocks = [self.repetition.advance() for _ in range(self._due(elapsed_s) - self._given)]
        else:
            blocks = self._ready(elapsed_s)
        if blocks:
            self.bias_v = self.detector.bias_v
        self._given += len(blocks)
        if self._thread is not None and self._next is None and self.detector.sees_light:
            self._next = self._thread.submit(self.repetition.advance)
        return blocks, seconds

    def _ready(self, elapsed_s: float) -> list[Block]:
        """The next block if it is due and made."""
        if self._next is None or not self._next.done() or self._due(elapsed_s) <= self._given:
            return []
        block, self._next = self._next.result(), None
        return [block]
