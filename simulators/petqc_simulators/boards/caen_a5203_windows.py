"""The windows of a CAEN A5203's stream as it sends them, many at once: a real board sends 50 000 a second.

Source: CAEN FERS-5200 direct Ethernet reference, sections "Data socket" and "Payloads" (5203).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc_drivers.caen_a5203 import picotdc
from petqc_drivers.caen_a5203.events import (
    END_MARK,
    MOST_WORDS,
    SEPARATOR_BIT,
    START_MARK,
    TIMING,
    TRAILER_BIT,
    RawEvent,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PORT_CHANNELS: Final = 16
_HEADER: Final = 6
_AROUND: Final = _HEADER + 1
"""Words of an event that are not payload: the header and the end mark."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows and their hits, sorted by window, TDC and time.

    numbers: (n,) of the windows. period_clk: length of each. tdcs: of the board. place: (hits,) which of the windows.
    tdc, channel: (hits,) channel within its TDC. toa: (hits,) time in the window, in steps of 3.125 ps.
    """

    numbers: NDArray[np.int64]
    period_clk: int
    tdcs: int
    place: NDArray[np.int64]
    tdc: NDArray[np.int64]
    channel: NDArray[np.int64]
    toa: NDArray[np.int64]

    def plain(self, *, has_trailer: bool) -> bytes:
        """Of each TDC its hits and, if asked for, one word at their end."""
        group = self.place * self.tdcs + self.tdc
        counts = np.bincount(group, minlength=self.numbers.size * self.tdcs).reshape(-1, self.tdcs)
        # Where each TDC begins within its payload, and each window in all.
        lengths = counts + has_trailer
        payload = lengths.sum(axis=1)
        first = np.cumsum(lengths, axis=1) - lengths
        ends = np.cumsum(payload + _AROUND)
        begin = ends - payload - _AROUND
        words = np.zeros(int(ends[-1]) if ends.size else 0, np.uint32)
        numbers = (self.numbers, self.numbers * self.period_clk)
        head = (
            np.full(self.numbers.size, START_MARK),
            (TIMING | (TRAILER_BIT if has_trailer else 0)) << 24 | payload,
            *(half for number in numbers for half in (number & 0xFFFF_FFFF, number >> 32 & 0xFF_FFFF)),
        )
        for k, values in enumerate(head):
            words[begin + k] = values
        words[ends - 1] = END_MARK
        rank = np.arange(group.size) - np.searchsorted(group, group)
        at = begin[self.place] + _HEADER + first[self.place, self.tdc] + rank
        words[at] = self.channel << 25 | self.toa & 0xFF_FFFF
        if has_trailer:
            words[(begin[:, None] + _HEADER + first + counts).ravel()] = 0xC << 28 | counts.ravel() & 0xFFFF
        return words.astype("<u4").tobytes()

    def of_ports(self) -> bytes:
        """Hits with a header and a trailer for each group of 16 channels."""
        sent = bytearray()
        for k, number in enumerate(self.numbers):
            words: list[int] = []
            for tdc in range(self.tdcs):
                for port in range(picotdc.CHANNELS // _PORT_CHANNELS):
                    mine = (self.place == k) & (self.tdc == tdc) & (self.channel // _PORT_CHANNELS == port)
                    words.append(0x8 << 28)
                    words += [
                        (int(c) % _PORT_CHANNELS) << 27 | int(t) & 0x3FF_FFFF
                        for c, t in zip(self.channel[mine], self.toa[mine], strict=True)
                    ]
                    words.append(0xA << 28)
            payload = np.array(words[:MOST_WORDS], np.uint32)
            qualifier = TIMING | SEPARATOR_BIT
            sent += RawEvent(qualifier, int(number), int(number) * self.period_clk, payload).to_bytes()
        return bytes(sent)
