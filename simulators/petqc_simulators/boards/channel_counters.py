"""The ASICs' channel counters as a board collects them: windows that end, and the tag that their readings carry.

A chip of version 2C counts all its channels in one window. A chip of version 2B has one counter for eight channels and
takes eight windows, one channel of each eight after the other.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.5; which of the eight
a 2B counts in which window is not documented.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.physics.emission import CLOCK_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_CLK = 1 << 22
WINDOW_S = WINDOW_CLK * CLOCK_S
SHARING = {"2B": 8, "2C": 1}
"""Channels that share a counter, by version of the ASIC."""


class CounterWindows:
    """Which tag the reading of each channel carries.

    Args:
        sharing: channels that share a counter.
    """

    def __init__(self, sharing: int) -> None:
        self._shown = np.zeros(sharing, np.int64)
        self._tag = 0
        self._tagged_s = -math.inf

    def tag(self, tag: int, now_s: float) -> None:
        """Windows that begin from now on carry this tag."""
        self._look(now_s)
        self._tag, self._tagged_s = tag, now_s

    def tags(self, channels: NDArray[np.int64], now_s: float) -> NDArray[np.int64]:
        """Tag of the present reading of channels of an ASIC."""
        self._look(now_s)
        return np.asarray(self._shown[channels % self._shown.size])

    def _look(self, now_s: float) -> None:
        ended = np.arange(1, self._shown.size + 1) <= (now_s - self._tagged_s) / WINDOW_S
        self._shown[ended] = self._tag
