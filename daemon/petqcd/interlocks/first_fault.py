"""What was measured before and after the first fault: a minute before, half a minute after, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqcd.readout.board import ReadingLike

BEFORE_S, AFTER_S = 60.0, 30.0
MOST_SAMPLES = 20_000
"""Of one device: a minute and a half of 60 readings at 4 Hz."""


@dataclass(slots=True)
class Capture:
    """The samples of one device, and what is being kept of its last fault."""

    device: str
    _samples: deque[tuple[float, str, str, float | None, str]] = field(
        default_factory=lambda: deque(maxlen=MOST_SAMPLES)
    )
    _fault: dict[str, Any] | None = None
    _until_s: float = 0.0
    _newest_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, readings: Sequence[ReadingLike], now_s: float) -> None:
        """Readings as they are now; those that were added before are not added again."""
        for one in readings:
            key = (one.name, one.node)
            if one.at_monotonic_s <= self._newest_s.get(key, -1.0):
                continue
            self._newest_s[key] = one.at_monotonic_s
            self._samples.append((one.at_monotonic_s, one.name, one.node, one.value, str(one.quality)))
        keep_from_s = now_s - BEFORE_S - (AFTER_S if self._fault is not None else 0.0)
        while self._samples and self._samples[0][0] < keep_from_s:
            self._samples.popleft()

    def fault(self, cause: str, now_s: float, unix_s: float) -> None:
        """A fault; the first of a cascade is the one that is kept, later ones are listed."""
        if self._fault is not None:
            self._fault["later"].append({"cause": cause, "after_s": round(now_s - self._fault["at_monotonic_s"], 3)})
            return
        self._fault = {
            "device": self.device,
            "cause": cause,
            "at_unix_s": unix_s,
            "at_monotonic_s": now_s,
            "later": [],
        }
        self._until_s = now_s + AFTER_S

    def finished(self, now_s: float) -> dict[str, Any] | None:
        """The whole story, once; None: there is none, or it goes on."""
        if self._fault is None or now_s < self._until_s:
            return None
        return self.cut_short()

    def cut_short(self) -> dict[str, Any] | None:
        """The story as far as it goes, at the end of the process."""
        fault, self._fault = self._fault, None
        if fault is None:
            return None
        at_s = fault.pop("at_monotonic_s")
        samples = [
            {"t_s": round(t - at_s, 3), "name": name, "node": node, "value": value, "quality": quality}
            for t, name, node, value, quality in self._samples
            if t >= at_s - BEFORE_S
        ]
        return {**fault, "samples": samples}
