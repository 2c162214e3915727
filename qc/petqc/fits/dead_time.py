"""Dead time of channels from the gaps between their own singles.

After an independent photon the next one of the same channel comes after a gap of t to t + dt with a chance of
r·exp(-r·t)·dt. Gaps that a channel sleeps through are missing. So the histogram of gaps has that one shape where the
channel is awake, and what is missing below it, in counts over counts per unit of time, is the dead time:
∫(1 - n(t)/n_awake(t)) dt. It counts whatever makes a channel miss a photon shortly after another one: integration
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

NEAR_US = (2, 4, 8, 16, 32, 64, 100)
"""Where a dead time is looked for: up to the first of these after which a channel is as awake as later on."""
MIN_FREE = 400
"""Fewest gaps beyond: the level is then known to 5 %."""
_AWAKE, _SIGMAS = 0.95, 3.0


class AsleepError(FitFailedError):
    """Channels sleep for longer than can be told."""


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
        AsleepError: channels sleep for longer than is looked at.
        FitFailedError: more gaps near zero than far from it: noise that follows photons, or comes in bursts.
    """
    width_us = GAP_BIN_PS * 1e-6
    rate, found = rate_hz * 1e-6, DeadTime(0.0, 0.0, 0, 0.0)
    for _ in range(4):  # what is measured is the rate of a channel that sleeps at times; awake it is higher
        found = _at_rate(gaps, rate, width_us)
        rate = rate_hz * 1e-6 / max(1.0 - 1e-9 * rate_hz * found.value_ns, 0.1)
    return found


def _at_rate(gaps: NDArray[np.int64], rate: float, width_us: float) -> DeadTime:
    """Dead time if channels that are awake see `rate` photons per us."""
    shape = np.exp(-rate * width_us * (np.arange(gaps.size) + 0.5))
    for near_us in NEAR_US:
        near = round(near_us / width_us)
        free = int(gaps[near:].sum())
        if free < MIN_FREE:
            raise TooFewCountsError(
                f"{free} gaps between {near_us} and {gaps.size * width_us:.0f} us of one channel, {MIN_FREE} wanted"
            )
        level = free / float(shape[near:].sum())
        just_after, wanted = int(gaps[near : 2 * near].sum()), level * float(shape[near : 2 * near].sum())
        if just_after > _AWAKE * wanted - _SIGMAS * math.sqrt(wanted):
            break
    else:
        raise AsleepError(f"channels are not awake {NEAR_US[-1]} us after a hit: dead for longer than can be told")
    seen, wanted = int(gaps[:near].sum()), level * float(shape[:near].sum())
    missing = width_us * (wanted - seen) / level
    # Counts of the near bins, and the level that they are held against.
    error = width_us * math.sqrt(max(seen, 1.0) / level**2 + (seen / level) ** 2 / free)
    if missing < -5.0 * error:
        raise FitFailedError(
            f"{seen} gaps below {near_us} us, {wanted:.0f} expected: hits come in bursts, which hides a dead time"
        )
    # Gaps that are missing between 0 and the dead time got rarer there, too: ∫exp(-r·t)dt = (1 - exp(-r·t_d)) / r.
    left = max(1.0 - rate * missing, 0.05)
    value = -math.log(left) / rate if rate > 0.0 else missing
    return DeadTime(1e3 * value, 1e3 * error / left, seen + free, 1e3 * width_us * int(np.argmax(gaps > 0)))
