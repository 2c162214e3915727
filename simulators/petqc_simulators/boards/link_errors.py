"""Errors of the ASICs' data links as a board counts them: codes by lane, words by chip.

What exactly hardware counts is not known. Here a lane that carries what the board expects has no errors but those of
its set rate; a receiver that is enabled and hears nothing that it understands counts at every code.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.2 (0x0320 to 0x0338).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NOISE_HZ = 20e6
"""Wrong codes per second of a receiver that hears noise: half of those of a link of 400 Mbit/s."""


class LinkErrors:
    """Counters that run with the simulated time; 32 bits, they wrap around.

    Args:
        now_s: the time.
        is_deaf: whether a chip's receiver is enabled without hearing what it expects.
        words_lost: words that the link to the host lost, counted for every chip.

    Attributes:
        code_hz: errors per second of a lane, by chip and lane. Settable, a defect.
        word_hz: errors per second of a chip's words. Settable, a defect.
    """

    def __init__(
        self, now_s: Callable[[], float], is_deaf: Callable[[int], bool], words_lost: Callable[[], int]
    ) -> None:
        self.code_hz: dict[tuple[int, int], float] = {}
        self.word_hz: dict[int, float] = {}
        self._now_s = now_s
        self._is_deaf = is_deaf
        self._words_lost = words_lost
        self._counts: dict[tuple[int, int], float] = {}
        self._seen_s: dict[tuple[int, int], float] = {}
        self._since_s = 0.0

    def codes(self, chip: int, lane: int) -> int:
        """Wrong codes on a lane so far."""
        return self._count((chip, lane), self.code_hz.get((chip, lane), 0.0))

    def words(self, chip: int) -> int:
        """Wrong words of a chip so far."""
        return self._count((chip, -1), self.word_hz.get(chip, 0.0)) + self._words_lost() & 0xFFFFFFFF

    def _count(self, key: tuple[int, int], rate_hz: float) -> int:
        """Up to now, at the rate that holds now since it was last looked at."""
        now_s = self._now_s()
        seconds = now_s - self._seen_s.get(key, self._since_s)
        rate = _NOISE_HZ if self._is_deaf(key[0]) else rate_hz
        self._counts[key] = self._counts.get(key, 0.0) + rate * seconds
        self._seen_s[key] = now_s
        return int(self._counts[key]) & 0xFFFFFFFF

    def restart(self) -> None:
        """All counters at zero."""
        self._counts.clear()
        self._seen_s.clear()
        self._since_s = self._now_s()
