"""The data socket: a stream of events, each a header, payload words and an end mark. Everything is little-endian.

Source: CAEN FERS-5200 direct Ethernet reference, sections "Data socket" and "Payloads" (5203).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc_drivers.caen_a5203.registers import CLOCK_PS, LSB_PS, board_degc, board_raw, fpga_degc, fpga_raw
from petqc_drivers.errors import RemoteProtocolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

START_MARK: Final = 0x8200_0000
END_MARK: Final = 0xF100_0000
LSB_PER_CLK: Final = round(CLOCK_PS / LSB_PS)
MOST_WORDS: Final = 16_384
"""Largest payload that is believed: as many words as the board's event memory has."""
TIMING: Final = 0x02
SERVICE: Final = 0x2F
TRAILER_BIT: Final = 0x80
"""Of the qualifier: the payload ends with one trailer word a TDC."""
SEPARATOR_BIT: Final = 0x40
_HIT_FORMAT = 0x30
_TDC0_SUPPRESSED = 0x04
_TRAILER = 0xC
_HEADER: Final = struct.Struct("<6I")
_START_BYTES: Final = struct.pack("<I", START_MARK)
_END_BYTES: Final = struct.pack("<I", END_MARK)
_LOW_56 = (1 << 56) - 1


@dataclass(frozen=True, slots=True)
class ListEvents:
    """Consecutive trigger windows and their hits, as columns.

    trigger_id: (n,) counts windows. timestamp_clk: (n,) of the window's trigger, FPGA clocks since the time reset.
    starts: (n + 1,) place of each window's hits. channel: (hits,) 0 to 127. toa_lsb: (hits,) time of arrival in the
    window, in steps of 3.125 ps. is_leading: (hits,) which edge.
    """

    trigger_id: NDArray[np.int64]
    timestamp_clk: NDArray[np.int64]
    starts: NDArray[np.int64]
    channel: NDArray[np.int64]
    toa_lsb: NDArray[np.int64]
    is_leading: NDArray[np.bool_]

    def time_lsb(self) -> NDArray[np.int64]:
        """Time of each hit since the time reset, in steps of 3.125 ps; (hits,)."""
        return np.repeat(self.timestamp_clk, np.diff(self.starts)) * LSB_PER_CLK + self.toa_lsb


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """What the board says of itself about once a second. Temperatures in degC; counters since the start.

    tdc_degc: of TDC 0 and 1. almost_full: one bit for each channel. triggers_suppressed: windows without a hit.
    """

    timestamp_clk: int
    status: int
    fpga_degc: float
    board_degc: float
    tdc_degc: tuple[float, float]
    almost_full: int
    readout_flags: int
    triggers_rejected: int
    triggers: int
    triggers_suppressed: int
    tdc_status: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a piece of the stream held: windows with hits, and service events."""

    lists: ListEvents
    service: list[ServiceEvent]


@dataclass(frozen=True, slots=True)
class RawEvent:
    """An event as it stands in the stream; payload: 32-bit words."""

    qualifier: int
    trigger_id: int
    timestamp_clk: int
    payload: NDArray[np.uint32]

    def to_bytes(self) -> bytes:
        """As it is sent."""
        numbers = (self.trigger_id, self.timestamp_clk)
        words = [half for number in numbers for half in (number & 0xFFFF_FFFF, number >> 32 & 0xFF_FFFF)]
        head = _HEADER.pack(START_MARK, self.qualifier << 24 | self.payload.size, *words)
        return head + self.payload.astype("<u4").tobytes() + _END_BYTES


class StreamParser:
    """Cuts a stream into events. What is none is skipped to the next start mark and counted, never guessed.

    Attributes:
        bytes_skipped: Belonging to no event.
        events_damaged: With a wrong end mark or a payload that cannot be.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.bytes_skipped = 0
        self.events_damaged = 0

    @property
    def bytes_held(self) -> int:
        """Of an event that is not whole yet."""
        return len(self._held)

    def feed(self, data: bytes) -> Batch:
        """The events that are whole with these bytes."""
        self._held += data
        raw, at = self._cut(bytes(self._held))
        del self._held[:at]
        service = []
        for event in raw:
            if event.qualifier == SERVICE:
                try:
                    service.append(_service(event))
                except RemoteProtocolError:
                    self.events_damaged += 1
        return Batch(self._lists([event for event in raw if event.qualifier != SERVICE]), service)

    def _cut(self, held: bytes) -> tuple[list[RawEvent], int]:
        """Whole events, and how many bytes they and what was skipped take."""
        found: list[RawEvent] = []
        at = 0
        while True:
            if held[at : at + len(_START_BYTES)] != _START_BYTES:
                start = held.find(_START_BYTES, at)
                if start < 0:
                    # The last three bytes may begin a start mark.
                    kept = min(len(held) - at, len(_START_BYTES) - 1)
                    self.bytes_skipped += len(held) - at - kept
                    return found, len(held) - kept
                self.bytes_skipped += start - at
                at = start
            if len(held) - at < _HEADER.size:
                return found, at
            _, size, id_low, id_high, time_low, time_high = _HEADER.unpack_from(held, at)
            end = at + _HEADER.size + 4 * (size & 0xFF_FFFF)
            if size & 0xFF_FFFF <= MOST_WORDS:
                if len(held) < end + len(_END_BYTES):
                    return found, at
                if held.startswith(_END_BYTES, end) and not _has_start_mark(held, at + _HEADER.size, end):
                    payload = np.frombuffer(held, "<u4", size & 0xFF_FFFF, at + _HEADER.size)
                    number, stamp = id_high << 32 | id_low, time_high << 32 | time_low
                    found.append(RawEvent(size >> 24, number & _LOW_56, stamp & _LOW_56, payload))
                    at = end + len(_END_BYTES)
                    continue
            self.events_damaged += 1
            self.bytes_skipped += len(_START_BYTES)
            at += len(_START_BYTES)

    def _lists(self, raw: list[RawEvent]) -> ListEvents:
        """All windows at once. One with a word that cannot be is left out whole, and counted."""
        qualifier = np.array([event.qualifier for event in raw], np.int64)
        lengths = np.array([event.payload.size for event in raw], np.int64)
        words = np.concatenate([event.payload for event in raw]) if raw else np.empty(0, np.uint32)
        words = words.astype(np.int64)
        of = np.repeat(np.arange(len(raw)), lengths)
        kind = words >> 28
        is_trailer = kind >= _TRAILER
        # Each trailer ends one TDC; what follows is the next one's.
        passed = np.cumsum(is_trailer)
        ends = np.cumsum(lengths)
        before = np.concatenate([[0], passed])[ends - lengths]
        tdc = passed - np.repeat(before, lengths) + (qualifier[of] & _TDC0_SUPPRESSED != 0)
        is_hit = kind < 0x8
        is_wrong = ~(is_hit | is_trailer) | (is_hit & (tdc > 1))
        wanted = (qualifier & 0x03 == TIMING) & (qualifier & (SEPARATOR_BIT | _HIT_FORMAT) == 0)
        wanted[of[is_wrong]] = False
        self.events_damaged += int((~wanted).sum())
        is_hit &= wanted[of]
        number = np.array([event.trigger_id for event in raw], np.int64)
        stamp = np.array([event.timestamp_clk for event in raw], np.int64)
        per_event = np.bincount(of[is_hit], minlength=len(raw))[wanted]
        hits = words[is_hit]
        return ListEvents(
            number[wanted],
            stamp[wanted],
            np.concatenate([[0], np.cumsum(per_event)]).astype(np.int64),
            (hits >> 25 & 0x3F) + 64 * tdc[is_hit],
            hits & 0xFF_FFFF,
            (hits >> 24 & 1) == 0,
        )


def _has_start_mark(held: bytes, begin: int, end: int) -> bool:
    """Whether a payload holds the word that begins an event: then its length was damaged, and others are in it."""
    at = held.find(_START_BYTES, begin, end)
    while at >= 0 and (at - begin) % 4:
        at = held.find(_START_BYTES, at + 1, end)
    return at >= 0


def hit_word(channel: int, toa_lsb: int, *, is_leading: bool = True) -> int:
    """A measurement word of the full format; the channel within its TDC."""
    return (channel & 0x3F) << 25 | (0 if is_leading else 1) << 24 | toa_lsb & 0xFF_FFFF


def trailer_word(hits: int) -> int:
    """The word that ends what one TDC measured."""
    return _TRAILER << 28 | hits & 0xFFFF


_SERVICE_WORDS: Final = 12
_SERVICE_FORMAT: Final = 8


def service_payload(event: ServiceEvent) -> NDArray[np.uint32]:
    """The payload of a service event of format 8."""
    low = 0xFFFF_FFFF
    full = [event.almost_full >> shift & low for shift in (0, 32, 64, 96)]
    degc = (event.board_degc, *event.tdc_degc)
    return np.array(
        [
            _SERVICE_FORMAT,
            fpga_raw(event.fpga_degc) | (event.status & 0xFFFF) << 12,
            board_raw(degc[0]) | board_raw(degc[1]) << 10 | board_raw(degc[2]) << 20,
            *full,
            event.readout_flags,
            event.triggers_rejected & low,
            event.triggers & low,
            event.triggers_suppressed & low,
            (event.tdc_status & 0xFFFF) << 12,
        ],
        np.uint32,
    )


def _service(event: RawEvent) -> ServiceEvent:
    w = [int(word) for word in event.payload]
    if len(w) < _SERVICE_WORDS or w[0] & 0xFF != _SERVICE_FORMAT:
        raise RemoteProtocolError("a service event of another format than 8: the firmware is not one petqc knows")
    return ServiceEvent(
        timestamp_clk=event.timestamp_clk,
        status=w[1] >> 12 & 0xFFFF,
        fpga_degc=fpga_degc(w[1]),
        board_degc=board_degc(w[2]),
        tdc_degc=(board_degc(w[2] >> 10), board_degc(w[2] >> 20)),
        almost_full=w[3] | w[4] << 32 | w[5] << 64 | w[6] << 96,
        readout_flags=w[7],
        triggers_rejected=w[8],
        triggers=w[9],
        triggers_suppressed=w[10],
        tdc_status=w[11] >> 12 & 0xFFFF,
    )
