"""Channel counters of the ASICs: how long, or how often, a discriminator was over its threshold in one window.

A window is 2^22 clocks (21 ms). A reading belongs to the windows after a tag was written, and carries that tag.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4 (function 0x05),
4.2 (0x0348) and 4.5 (counter read-out).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import DeviceFaultError, RemoteProtocolError
from petqc_drivers.petsys.asic import AsicVersion
from petqc_drivers.petsys.frames import CLOCK_HZ
from petqc_drivers.petsys.link import ago
from petqc_drivers.petsys.wire import Function, MemoryRead, WireError, parse_memory_read_reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc_drivers.petsys.board import Board

WINDOW_CLK: Final = 1 << 22
WINDOW_S: Final = WINDOW_CLK / CLOCK_HZ
CHANNELS: Final = 64
COUNT_MASK: Final = 0xFFFFFF
COUNTER_PERIOD: Final[Mapping[AsicVersion, int]] = {AsicVersion.V2B: 4, AsicVersion.V2C: 6}
"""Global field `counter_period` that makes a window of WINDOW_CLK."""
DEADLINE_S: Final = 2.0
"""How long a full set may take; a full set of the slowest chips takes 0.19 s."""
_TAG_BITS: Final = 8
_PAUSE_S: Final = 0.002


class CounterMode(IntEnum):
    """Channel field `counter_mode`: what is counted."""

    ACTIVE_CLOCKS = 0xF
    EVENTS = 0xC


class Discriminator(IntEnum):
    """Channel field `trigger_mode_2_b`: which discriminator is counted."""

    T1 = 0
    T2 = 1
    E = 2


@dataclass(frozen=True, slots=True)
class CounterReading:
    """Counts of every channel of some chips in a window of WINDOW_CLK.

    Attributes:
        counts: (64,) int64 by chip.
        tag: The tag they carried.
    """

    counts: dict[int, NDArray[np.int64]]
    tag: int


async def tag_channel_counters(board: Board, tag: int) -> None:
    """Let the windows that begin from now on carry a tag; the first half of a reading."""
    await board.write("counter_tag", tag % (1 << _TAG_BITS))


async def collect_channel_counters(
    board: Board, chips: Sequence[int], tag: int, *, deadline_s: float = DEADLINE_S
) -> CounterReading:
    """Counts of the first window that carries a tag; the other half of a reading.

    Raises:
        DeviceFaultError: If some channel did not bring the tag in time.
        RemoteProtocolError: If an answer has the wrong length.
    """
    tag %= 1 << _TAG_BITS
    end_s = monotonic_s() + deadline_s
    counts: dict[int, NDArray[np.int64]] = {}
    waiting = list(chips)
    while True:
        still: list[int] = []
        for chip in waiting:
            words = await _words(board, chip)
            if (words >> 24 == tag).all():
                counts[chip] = words & COUNT_MASK
            else:
                still.append(chip)
        if not still:
            return CounterReading({chip: counts[chip] for chip in chips}, tag)
        if monotonic_s() > end_s:
            raise DeviceFaultError(
                f"the channel counters of ASICs {still} did not bring the tag {tag:#04x} within {deadline_s:g} s",
                device=board.name,
                last_good=ago(board.link.last_good_s),
                do="configure again; if it stays, check the data links of these ASICs",
            )
        waiting = still
        await asyncio.sleep(_PAUSE_S)


async def _words(board: Board, chip: int) -> NDArray[np.int64]:
    what = f"read channel counters of ASIC {chip}"
    payload = MemoryRead(CHANNELS * chip, CHANNELS).to_bytes()
    reply = await board.exchange(Function.CHANNEL_COUNTERS, payload, what)
    try:
        data = parse_memory_read_reply(reply, 4 * CHANNELS)
    except WireError as error:
        raise RemoteProtocolError(
            f"{what}: {error}", device=board.name, do="check the firmware of the board"
        ) from error
    return np.frombuffer(data, "<u4").astype(np.int64)
