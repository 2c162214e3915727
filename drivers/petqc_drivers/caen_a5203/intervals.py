"""Time intervals between inputs: what a list of hits says of how two of them stand to each other."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc_drivers.caen_a5203.registers import LSB_PS
from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_drivers.caen_a5203.events import ListEvents

_MOST_LSB = 1 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """Times of input a minus those of input b, over the pairs that were near enough.

    n: pairs. mean_ps, sigma_ps: None where there are too few. error_ps: standard error of the mean.
    """

    a: int
    b: int
    n: int
    mean_ps: float | None
    sigma_ps: float | None
    error_ps: float | None


class Intervals:
    """Collects the pairs of hits of some input pairs; a sink for events, memory does not grow.

    A pair is every hit of a with every hit of b that is within half the coincidence window of it.

    Args:
        pairs: inputs (a, b).
        window_ps: full width, 2τ.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], window_ps: float) -> None:
        half = math.floor(window_ps / 2.0 / LSB_PS) if math.isfinite(window_ps) else 0
        if not 0 < half < _MOST_LSB or not pairs:
            raise LocalProtocolError(f"{len(pairs)} pairs with a window of {window_ps:g} ps cannot be collected")
        self._pairs = tuple(pairs)
        self._half = half
        self._histograms = np.zeros((len(self._pairs), 2 * half + 1), np.int64)

    def __call__(self, events: ListEvents) -> None:
        """Take the hits of some windows; pairs across the beginning or end of them are not seen."""
        leading = events.is_leading
        channel, at = events.channel[leading], events.time_lsb()[leading]
        for k, (a, b) in enumerate(self._pairs):
            of_a, of_b = at[channel == a], np.sort(at[channel == b])
            first = np.searchsorted(of_b, of_a - self._half)
            partners = np.searchsorted(of_b, of_a + self._half, side="right") - first
            pairs = np.repeat(first - np.cumsum(partners) + partners, partners) + np.arange(partners.sum())
            between = np.repeat(of_a, partners) - of_b[pairs]
            self._histograms[k] += np.bincount(between + self._half, minlength=2 * self._half + 1)

    def add(self, other: Intervals) -> None:
        """Take what another one of the same pairs and window has collected."""
        self._histograms += other._histograms

    def found(self) -> list[Interval]:
        """What has been collected: mean and spread of the peak, without what lies flat under it.

        The flat part is taken from the outer half of the window; the peak is where it stands out.
        """
        return [self._of(k) for k in range(len(self._pairs))]

    def _of(self, k: int) -> Interval:
        (a, b), counts = self._pairs[k], self._histograms[k]
        n = int(counts.sum())
        at = np.arange(counts.size) - self._half
        outer = np.abs(at) > self._half // 2
        flat = float(counts[outer].mean()) if outer.any() else 0.0
        above = counts - flat
        true = float(above[~outer].sum())
        if true < _LEAST_PAIRS or true < 5.0 * math.sqrt(n):
            return Interval(a, b, n, None, None, None)
        inside = ~outer
        mean = float((above * at)[inside].sum() / true)
        for _ in range(_ROUNDS):
            sigma = math.sqrt(max(float((above * (at - mean) ** 2)[inside].sum() / true), 1.0 / 12.0))
            inside = np.abs(at - mean) <= max(4.0 * sigma, 1.0)
            true = float(above[inside].sum())
            if true < _LEAST_PAIRS:
                return Interval(a, b, n, None, None, None)
            mean = float((above * at)[inside].sum() / true)
        sigma = math.sqrt(max(float((above * (at - mean) ** 2)[inside].sum() / true), 1.0 / 12.0))
        error = sigma * math.sqrt(float(counts[inside].sum())) / true
        return Interval(a, b, n, mean * LSB_PS, sigma * LSB_PS, error * LSB_PS)


class RecentIntervals:
    """The same over the last so many seconds, in a fixed number of parts; a sink for events.

    Args:
        pairs: inputs (a, b).
        window_ps: full width, 2τ.
        over_s: over how long; a part of that is forgotten at once.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], window_ps: float, over_s: float) -> None:
        self._pairs, self._window_ps, self._part_s = tuple(pairs), window_ps, over_s / _PARTS
        self._parts: deque[tuple[float, Intervals]] = deque()

    def __call__(self, events: ListEvents) -> None:
        """Take the hits of some windows."""
        self._forget()
        now = monotonic_s()
        if not self._parts or now - self._parts[-1][0] >= self._part_s:
            self._parts.append((now, Intervals(self._pairs, self._window_ps)))
        self._parts[-1][1](events)

    def _forget(self) -> None:
        oldest = monotonic_s() - _PARTS * self._part_s
        while self._parts and self._parts[0][0] < oldest:
            self._parts.popleft()

    def found(self) -> list[Interval]:
        """See `Intervals.found`."""
        self._forget()
        whole = Intervals(self._pairs, self._window_ps)
        for _, part in self._parts:
            whole.add(part)
        return whole.found()


_LEAST_PAIRS: Final = 20.0
_ROUNDS: Final = 3
_PARTS: Final = 6
