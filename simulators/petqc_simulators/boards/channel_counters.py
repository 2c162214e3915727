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

from petqc_drivers.petsys.wire import MemoryRead, WireError, memory_read_reply, parse_memory_access
from petqc_simulators.boards.asics import CHANNELS
from petqc_simulators.physics.emission import CLOCK_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.boards.petsys_febd import PetsysFebd

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


class ChannelCounters:
    """The counters of a board as a memory: 64 words an ASIC, the tag in the top byte.

    Args:
        board: whose.
        rng: for what is counted.
    """

    def __init__(self, board: PetsysFebd, rng: np.random.Generator) -> None:
        self._board, self._rng = board, rng
        self._place_of_chip = np.full(65, -1)  # the last one stands for all numbers that no chip can have
        self._place_of_chip[board.asics.chips] = np.arange(board.asics.n_chips)
        self.restart()

    def restart(self) -> None:
        """No window has ended, and there is no tag."""
        self._windows = CounterWindows(SHARING[self._board.profile.hardware.asic_version])

    def tag(self, tag: int) -> None:
        """Windows that begin from now on carry this tag."""
        self._windows.tag(tag, self._board.elapsed_s)

    def answer(self, payload: bytes) -> bytes:
        """The reply to a read of counters.

        Raises:
            WireError: the payload is something else.
        """
        access = parse_memory_access(payload, word_bytes=4)
        if not isinstance(access, MemoryRead):
            raise WireError("channel counters cannot be written")
        asked = np.arange(access.address, access.address + access.count)
        counts = np.zeros(access.count, np.int64)
        place = self._place_of_chip[np.minimum(asked // CHANNELS, self._place_of_chip.size - 1)]
        is_there = place >= 0
        if is_there.any() and self._board.asics_are_alive():
            counts[is_there] = self._counted(CHANNELS * place[is_there] + asked[is_there] % CHANNELS)
        tags = self._windows.tags(asked % CHANNELS, self._board.elapsed_s)
        return memory_read_reply((counts | tags << 24).astype("<u4").tobytes())

    def _counted(self, channels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Clocks in a window during which the selected comparators are over their thresholds, or their transitions."""
        board = self._board
        mode, which = board.asics.counter[channels].T
        is_counting = np.array([board.asics.global_field(chip, "counter_en") for chip in range(board.asics.n_chips)])
        is_on = (which <= 2) & (is_counting[channels // CHANNELS] != 0)
        counts = np.zeros(channels.size, np.int64)
        board.hand_over()
        controls = board.detector.controls
        of_detector = board.share.channels.start + channels
        clocks, events = is_on & (mode == 0xF), is_on & (mode == 0xC)
        if clocks.any():
            duty = board.detector.comparator_duty(controls, of_detector[clocks])
            counts[clocks] = self._rng.binomial(WINDOW_CLK, duty[np.arange(len(duty)), which[clocks]])
        if events.any():
            rate_hz = board.detector.comparator_dark_hz(controls, of_detector[events])
            counts[events] = self._rng.poisson(rate_hz[np.arange(len(rate_hz)), which[events]] * WINDOW_S)
        return np.minimum(counts, 0xFFFFFF)
