"""The timing board's stream under damage: nothing is guessed, all of it is counted, memory stays bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc_drivers.caen_a5203.board import CaenA5203Settings
from petqc_drivers.caen_a5203.events import ListEvents, RawEvent, StreamParser, hit_word, trailer_word
from petqc_drivers.caen_a5203.intervals import Intervals
from petqc_drivers.errors import DriverError, LocalProtocolError
from petqc_simulators.boards.caen_a5203_windows import Windows

EVERY_BYTE = 0x01010101
"""One byte that is changed makes no other window's id of a multiple of it."""


def stream(n: int = 20) -> tuple[bytes, list[int]]:
    """Windows 0 .. n - 1 with two hits each, and where each begins."""
    parts = []
    for k in range(n):
        words = [hit_word(3, 100 + k), hit_word(40, 200 + k), trailer_word(2)]
        parts.append(RawEvent(0x82, k * EVERY_BYTE, 1562 * k, np.array(words, np.uint32)).to_bytes())
    return b"".join(parts), np.cumsum([0, *map(len, parts)]).tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_how_the_stream_is_cut_up_changes_nothing(pieces: list[int]) -> None:
    data, _ = stream()
    parser = StreamParser()
    at, ids = 0, []
    for size in (*pieces, len(data)):
        ids += parser.feed(data[at : at + size]).lists.trigger_id.tolist()
        at += size
    assert ids == [k * EVERY_BYTE for k in range(20)]
    assert (parser.bytes_held, parser.bytes_skipped, parser.events_damaged) == (0, 0, 0)


FILLER = b"".join(
    RawEvent(0x82, 0x5000_0000 + k, 1562 * k, np.array([hit_word(3, k), trailer_word(1)], np.uint32)).to_bytes()
    for k in range(2100)
)
"""More than the largest window that is waited for."""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 799), st.integers(1, 255))
def test_a_damaged_byte_costs_the_window_that_it_is_in_and_no_other(place: int, flip: int) -> None:
    data, starts = stream()
    damaged = bytearray(data)
    damaged[place] ^= flip
    parser = StreamParser()
    ids = parser.feed(bytes(damaged) + FILLER).lists.trigger_id.tolist()
    hit = next(k for k in range(20) if starts[k] <= place < starts[k + 1])
    others = [k * EVERY_BYTE for k in range(20) if k != hit]
    assert [number for number in ids if number in others] == others
    assert hit * EVERY_BYTE in ids or parser.events_damaged or parser.bytes_skipped or len(ids) == 2120, (
        "an id may be what changed"
    )
    assert ids[-1] == 0x5000_0000 + 2099


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_noise_is_skipped_and_counted_and_the_next_windows_are_found(noise: bytes) -> None:
    data, _ = stream(3)
    ids = [0, EVERY_BYTE, 2 * EVERY_BYTE]
    parser = StreamParser()
    parser.feed(noise)
    # A start mark inside the noise may claim a payload of up to 256 kB; more than that is never waited for.
    found: list[int] = []
    for _ in range(3000):
        found += parser.feed(data).lists.trigger_id.tolist()
        if found[-3:] == ids:
            break
    assert found[-3:] == ids
    assert parser.bytes_held < 300_000


def test_a_header_that_claims_too_much_is_no_header() -> None:
    data, _ = stream(2)
    parser = StreamParser()
    liar = bytes.fromhex("00000082 ffffff82 00000000 00000000 00000000 00000000")
    found = parser.feed(liar + data).lists
    assert found.trigger_id.tolist() == [0, EVERY_BYTE]
    assert parser.events_damaged == 1
    assert parser.bytes_skipped == len(liar)


@pytest.mark.parametrize(
    ("qualifier", "words"),
    [
        (0xC2, [0x8000_0000, 0xA000_0000]),
        (0x92, [hit_word(1, 1), trailer_word(1)]),
        (0x82, [0xB000_0000]),
        (0x82, [trailer_word(0), trailer_word(0), hit_word(1, 1)]),
        (0x01, [1]),
        (0x2F, [7] * 12),
        (0x2F, [8]),
    ],
)
def test_a_window_that_was_not_asked_for_or_cannot_be_is_counted_whole(qualifier: int, words: list[int]) -> None:
    data, _ = stream(1)
    parser = StreamParser()
    found = parser.feed(RawEvent(qualifier, 9, 9, np.array(words, np.uint32)).to_bytes() + data)
    assert found.lists.trigger_id.tolist() == [0]
    assert not found.service
    assert parser.events_damaged == 1


def test_intervals_are_those_of_absolute_time_also_across_windows() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    at_a = np.arange(n) * 6_000_000 + rng.integers(0, 1_000_000, n)
    at_b = at_a + np.rint(rng.normal(160.0, 32.0, n)).astype(np.int64)  # b is 500 ps later, 100 ps wide
    at = np.concatenate([at_a, at_b])
    order = np.argsort(at)
    channel = np.concatenate([np.full(n, 3), np.full(n, 40)])[order]
    window = at[order] // (1562 * 4096)
    number, starts = np.unique(window, return_index=True)
    events = ListEvents(
        number,
        number * 1562,
        np.append(starts, 2 * n),
        channel,
        at[order] - window * 1562 * 4096,
        np.ones(2 * n, bool),
    )
    found = Intervals([(3, 40)], 5_000.0)
    found(events)
    (pair,) = found.found()
    assert pair.n == n
    assert pair.mean_ps == pytest.approx(-500.0, abs=4.0 * 100.0 / n**0.5)
    assert pair.sigma_ps == pytest.approx(100.0, rel=0.05)
    assert pair.error_ps == pytest.approx(100.0 / n**0.5, rel=0.1)


@pytest.mark.parametrize("wrong", [{"inputs": (1, 1)}, {"inputs": (128,)}, {"reply_s": 0.0}, {"silence_s": 0.5}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        CaenA5203Settings(name="timing", host="h", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DriverError):
        Intervals([], 1000.0)
    with pytest.raises(DriverError):
        Intervals([(0, 1)], float("nan"))


def test_what_the_simulated_board_sends_is_what_it_measured_with_one_tdc_and_with_two() -> None:
    rng = np.random.default_rng(7)
    for tdcs in (1, 2):
        numbers = np.array([3, 4, 9, 1 << 33])
        place, tdc = np.sort(rng.integers(0, 4, 60)), rng.integers(0, tdcs, 60)
        toa, channel = rng.integers(0, 1 << 22, 60), rng.integers(0, 64, 60)
        order = np.lexsort((toa, tdc, place))
        windows = Windows(numbers, 1562, tdcs, place[order], tdc[order], channel[order], toa[order])
        for has_trailer in (True, False):
            parser = StreamParser()
            found = parser.feed(windows.plain(has_trailer=has_trailer)).lists
            if has_trailer or tdcs == 1:  # without trailers nothing says where the second TDC begins
                assert found.channel.tolist() == (64 * tdc + channel)[order].tolist()
                assert found.trigger_id.tolist() == numbers.tolist()
                assert found.timestamp_clk.tolist() == (numbers * 1562).tolist()
                assert found.toa_lsb.tolist() == toa[order].tolist()
                assert np.diff(found.starts).tolist() == np.bincount(place, minlength=4).tolist()
            assert (parser.events_damaged, parser.bytes_skipped, parser.bytes_held) == (0, 0, 0)
        words = np.frombuffer(windows.of_ports(), "<u4")
        assert (words >> 28 == 0xA).sum() == 4 * tdcs * 4  # four groups of a TDC end in each window
        assert words.size == 4 * (7 + 8 * tdcs) + 60


def test_no_windows_are_no_bytes() -> None:
    nothing = np.empty(0, np.int64)
    assert Windows(nothing, 1562, 1, nothing, nothing, nothing, nothing).plain(has_trailer=True) == b""
