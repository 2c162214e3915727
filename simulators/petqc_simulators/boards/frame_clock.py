"""When a detector sees on: in blocks of frames, in step with the simulated time since the synchronisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_simulators.physics.detector import BLOCK_FRAMES, BLOCK_S

if TYPE_CHECKING:
    from petqc_simulators.physics.detector import Block, Detector


class FrameClock:
    """The frames of one detector.

    Attributes:
        detector: what they are of.
        is_running: frames are made, which they are from the first synchronisation on.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.is_running = False
        self._synchronised_s = 0.0
        self._advanced_s = 0.0

    def synchronise(self, elapsed_s: float) -> None:
        """Frame ids begin at 0 now."""
        self.detector.restart()
        self.is_running = True
        self._synchronised_s = elapsed_s

    def advance(self, elapsed_s: float) -> tuple[list[Block], float]:
        """All frames that ended since the last call, and the seconds since then."""
        seconds, self._advanced_s = elapsed_s - self._advanced_s, elapsed_s
        if not self.is_running:
            self.detector.advance_bias(seconds)
            return [], seconds
        due = int((elapsed_s - self._synchronised_s) / BLOCK_S)
        return [self.detector.advance() for _ in range(due - self.detector.frame // BLOCK_FRAMES)], seconds
