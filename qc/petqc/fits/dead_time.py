"""Dead time of channels from the gaps between their own singles.

After an independent photon the next one of the same channel comes after a gap of t to t + dt with a chance of
r·exp(-r·t)·dt. Gaps that a channel sleeps through are missing. So the histogram of gaps, r·t being small, is all but
flat where the channel is awake, and what is missing below that level, in counts over counts per unit of time, is the
dead time: ∫(1 - n(t)/n(∞)) dt. It counts whatever makes a channel miss a photon shortly after another one: integration
(light that comes then is added to the pulse before), conversion, buffers.

Source: daily-qc.md §2f (test-pulse survival; here the pulses are photons).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.event_times import GAP_BIN_PS

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR_NS = 2000.0
"""Where a dead time is looked for; beyond it gaps are taken as free. Longest integration of the readout: 0.7 us."""
MIN_FREE = 400
"""Fewest gaps beyond NEAR_NS: the level is then known to 5 %."""
_LONGEST = 0.9


@dataclass(frozen=True, slots=True)
class DeadTime:
    """Of the channels of a node together.

    value_ns, error_ns: dead time after a single and its standard deviation. n: gaps that were looked at. first_ns:
    shortest gap that was seen at all.
    """

    value_ns: float
    error_ns: float
    n: int
    first_ns: float


def dead_time(gaps: NDArray[np.int64], rate_hz: float) -> DeadTime:
    """Dead time from a histogram of gaps.

    Args:
        gaps: (bins,) counts in bins of GAP_BIN_PS from 0 on.
        rate_hz: of a channel, mean over its photons: gaps get rarer as exp(-rate·t).

    Raises:
        TooFewCountsError: too few gaps to know the level.
        FitFailedError: more gaps near zero than far from it (noise that follows photons), or the channel sleeps through
            nearly all of NEAR_NS.
    """
    width_ns = GAP_BIN_PS * 1e-3
    near = round(NEAR_NS / width_ns)
    free = int(gaps[near:].sum())
    if free < MIN_FREE:
        raise TooFewCountsError(f"{free} gaps between 2 and 20 us of one channel, at least {MIN_FREE} wanted")
    shape = np.exp(-rate_hz * 1e-9 * width_ns * (np.arange(gaps.size) + 0.5))
    level = free / float(shape[near:].sum())
    seen, wanted = int(gaps[:near].sum()), level * float(shape[:near].sum())
    value = width_ns * (wanted - seen) / level
    # Counts of the near bins, and the level that they are held against.
    error = width_ns * math.sqrt(max(seen, 1.0) / level**2 + (seen / level) ** 2 / free)
    if value < -5.0 * error:
        raise FitFailedError(
            f"{seen} gaps below 2 us, {wanted:.0f} expected: noise follows photons, which hides a dead time"
        )
    if value > _LONGEST * NEAR_NS:
        raise FitFailedError("hardly any gaps below 2 us: the dead time is longer than can be told")
    first = int(np.argmax(gaps > 0)) * width_ns
    return DeadTime(value, error, seen + free, first)
