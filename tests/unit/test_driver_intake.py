"""Frames from datagrams: order, gaps, wraps, restarts and damage, with an account in which nothing is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc_drivers.errors import LinkLostError, SinkFailedError
from petqc_drivers.petsys import frames
from petqc_drivers.petsys.receive import BATCH_WORDS, MAX_JUMP_FRAMES, RESTART_FRAMES, FrameIntake
from petqc_drivers.transport.datagrams import Datagrams, address_word

MODULO = 1 << 36
PEER = ("127.0.0.1", 9)


class Bench:
    """An intake with everything it tells written down."""

    def __init__(self, min_frame: int = 0, *, broken: bool = False) -> None:
        self.blocks: list[np.ndarray] = []
        self.failures: list[Exception] = []
        self.firsts = 0
        self.broken = broken
        self.intake = FrameIntake(
            self.sink, min_frame=min_frame, device="board", on_first=self.first, on_failure=self.failures.append
        )

    def sink(self, block: np.ndarray) -> None:
        if self.broken:
            raise OSError("disk full")
        self.blocks.append(block)

    def first(self) -> None:
        self.firsts += 1

    def give(self, words: np.ndarray) -> None:
        self.give_bytes(np.asarray(words, dtype=np.uint64).astype("<u8").tobytes())

    def give_bytes(self, body: bytes) -> None:
        batch = Datagrams(1)
        batch.lay(b"\xa5" + body, PEER)
        if not self.intake.take(batch, 0, address_word(PEER)):
            self.intake.datagram(memoryview(body))

    def give_ids(self, ids: list[int], n_events: int = 0) -> None:
        self.give(empty(ids, n_events))

    def end(self):
        self.intake.flush()
        account = self.intake.account(datagrams_rejected={}, kernel_drops=0, receive_buffer_bytes=0)
        rejected = sum(account.frames_rejected.values())
        assert account.frames_received == account.frames_delivered + rejected
        if account.first_frame is not None:
            span = (account.last_frame - account.first_frame) % MODULO + 1
            failed = account.frames_rejected.get("sink-failed", 0)
            assert span == account.frames_delivered + failed + account.frames_missing
        return account

    @property
    def ids(self) -> list[int]:
        found: list[int] = []
        for block in self.blocks:
            scan = frames.scan_frames(block)
            assert scan.reason is None
            found += frames.frame_ids(block, scan.starts).tolist()
        return found


def empty(ids: list[int], n_events: int = 0) -> np.ndarray:
    n = np.full(len(ids), n_events)
    return frames.pack_frames(np.array(ids), n, np.arange(n.sum(), dtype=np.uint64))


def test_frames_in_order_arrive_word_for_word():
    bench = Bench()
    sent = [empty(list(range(100 * i, 100 * i + 100)), n_events=i % 3) for i in range(20)]
    for words in sent:
        bench.give(words)
    account = bench.end()
    assert np.array_equal(np.concatenate(bench.blocks), np.concatenate(sent))
    assert (account.frames_delivered, account.gaps, account.datagrams) == (2000, 0, 20)
    assert account.events == 100 * sum(i % 3 for i in range(20))
    assert account.bytes == sum(8 * len(words) + 1 for words in sent)
    assert bench.firsts == 1
    assert not bench.failures


def test_blocks_are_the_consumers_own_and_bounded():
    bench = Bench()
    for i in range(100):
        bench.give_ids(list(range(500 * i, 500 * i + 500)), n_events=6)
    before = [block.copy() for block in bench.blocks]
    assert len(before) >= 3
    bench.give_ids(list(range(50_000, 50_500)), n_events=6)
    bench.end()
    assert all(np.array_equal(a, b) for a, b in zip(before, bench.blocks, strict=False))
    assert max(len(block) for block in bench.blocks) < BATCH_WORDS + 8192
    assert bench.ids == list(range(50_500))


def test_what_is_older_than_the_start_is_dropped_and_counted():
    bench = Bench(min_frame=1000)
    bench.give_ids(list(range(900, 950)))
    bench.give_ids(list(range(950, 1010)))
    account = bench.end()
    assert bench.ids == list(range(1000, 1010))
    assert account.frames_rejected == {"before-start": 100}
    assert (account.first_frame, account.last_frame) == (1000, 1009)


def test_gaps_are_counted_within_and_between_datagrams():
    bench = Bench()
    bench.give_ids([5, 6, 9])
    bench.give_ids([20, 21])
    account = bench.end()
    assert (account.gaps, account.frames_missing) == (2, 2 + 10)
    assert bench.ids == [5, 6, 9, 20, 21]


def test_duplicates_and_late_frames_are_counted_and_not_delivered():
    bench = Bench()
    for ids in ([1, 2, 3], [1, 2, 3], [6, 7], [4, 5], [7, 8], [9, 9, 10]):
        bench.give_ids(ids, n_events=1)
    account = bench.end()
    assert bench.ids == [1, 2, 3, 6, 7, 8, 9, 10]
    assert account.frames_rejected == {"late-or-duplicate": 3 + 2 + 1 + 1}
    assert account.frames_missing == 2
    assert account.events == 8
    assert not bench.failures


def test_the_frame_id_wraps():
    bench = Bench(min_frame=MODULO - 4)
    bench.give_ids([MODULO - 3, MODULO - 2, MODULO - 1, 0, 1])
    bench.give_ids([2, 5])
    account = bench.end()
    assert bench.ids == [MODULO - 3, MODULO - 2, MODULO - 1, 0, 1, 2, 5]
    assert (account.frames_missing, account.frames_rejected) == (2, {})


def test_a_restarted_board_ends_the_acquisition_without_a_huge_gap():
    bench = Bench(min_frame=10_000_000)
    bench.give_ids(list(range(10_000_000, 10_000_100)))
    sent = 0
    while not bench.failures and sent < 3 * RESTART_FRAMES:
        bench.give_ids(list(range(sent, sent + 100)))
        sent += 100
    bench.give_ids(list(range(10_000_100, 10_000_200)))
    account = bench.end()
    assert RESTART_FRAMES <= sent < RESTART_FRAMES + 200
    assert isinstance(bench.failures[0], LinkLostError)
    assert "restarted" in str(bench.failures[0])
    assert account.failure is bench.failures[0]
    assert account.frames_delivered == 100
    assert account.frames_missing == 0
    assert sum(account.frames_rejected.values()) == sent + 100


def test_one_frame_with_an_unbelievable_id_does_no_harm():
    bench = Bench()
    bench.give_ids([10, 11])
    bench.give_ids([MAX_JUMP_FRAMES + 12, 12, 13])
    bench.give_ids([14])
    account = bench.end()
    assert bench.ids == [10, 11, 12, 13, 14]
    assert account.frames_rejected == {"implausible-id": 1}
    assert not bench.failures


def test_the_rest_of_a_datagram_behind_a_bad_frame_is_dropped_and_counted():
    bench = Bench()
    words = empty([1, 2, 3], n_events=2)
    words[5] += np.uint64(1)
    bench.give(words)
    bench.give(empty([4, 5])[:-1])
    bench.give_bytes(empty([6]).tobytes() + b"\x01\x02\x03")
    bench.give_bytes(b"")
    account = bench.end()
    assert bench.ids == [1, 4, 6]
    assert account.words_rejected == {"frame-inconsistent": 8, "frame-cut": 1, "ragged-end": 1}
    assert account.datagrams == 4


def test_frames_the_board_lost_are_told_apart():
    bench = Bench()
    lost = np.array([False, True, True, False])
    counts = np.array([1, 0, 2, 0])
    bench.give(frames.pack_frames(np.arange(4), counts, np.zeros(3, dtype=np.uint64), lost))
    account = bench.end()
    assert (account.frames_lost_by_board, account.frames_partly_lost_by_board) == (1, 1)


def test_a_consumer_that_fails_ends_the_acquisition_with_its_own_words():
    bench = Bench(broken=True)
    bench.give_ids([1, 2, 3])
    bench.intake.flush()
    bench.give_ids([4, 5])
    account = bench.end()
    assert isinstance(bench.failures[0], SinkFailedError)
    assert "disk full" in str(bench.failures[0])
    assert isinstance(bench.failures[0].__cause__, OSError)
    assert account.frames_rejected == {"sink-failed": 3, "after-failure": 2}
    assert account.frames_delivered == 0
    assert len(bench.failures) == 1


BODIES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda first, steps: empty((first + np.cumsum(steps)).tolist() if steps else [first]).tobytes(),
            st.integers(0, 60),
            st.lists(st.integers(-3, 5), max_size=10).filter(lambda steps: min(np.cumsum([0, *steps])) >= -0),
        ),
    ),
    max_size=30,
)


@given(BODIES)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_the_account_adds_up_and_order_holds(bodies):
    bench = Bench()
    for body in bodies:
        bench.give_bytes(body)
    account = bench.end()
    assert len(bench.ids) == account.frames_delivered
    assert bench.ids == sorted(set(bench.ids))
    assert account.datagrams == len(bodies)


@pytest.mark.parametrize("n", [1, 3])
def test_an_account_can_be_taken_in_between(n):
    bench = Bench()
    bench.give_ids(list(range(n)))
    account = bench.intake.account(datagrams_rejected={"empty": 1}, kernel_drops=2, receive_buffer_bytes=3)
    assert (account.frames_received, account.frames_delivered) == (n, 0)
    assert (account.datagrams_rejected, account.kernel_drops) == ({"empty": 1}, 2)
    assert bench.intake.due_in_s() is not None
    bench.end()
    assert bench.intake.due_in_s() is None


def test_a_datagram_at_once_and_frame_by_frame_give_one_account():
    """What the compiled look finds in ordinary datagrams is what the general way finds."""
    at_once, frame_by_frame = Bench(), Bench()
    rng = np.random.default_rng(4)
    frame = 100
    for _ in range(60):
        n = int(rng.integers(1, 30))
        ids, events = frame + np.cumsum(rng.integers(1, 4, n)), rng.integers(0, 5, n)
        body = rng.integers(0, 1 << 62, events.sum()).astype(np.uint64)
        words = frames.pack_frames(ids, events, body, rng.random(n) < 0.2)
        frame = int(ids[-1])
        at_once.give(words)
        frame_by_frame.intake.room()[: 8 * words.size] = words.tobytes()
        frame_by_frame.intake.accept(8 * words.size, frames.scan_frames(words))
    accounts = [one.end() for one in (at_once, frame_by_frame)]
    assert accounts[0].frames_partly_lost_by_board > 0
    assert accounts[0].frames_lost_by_board > 0
    assert accounts[0].frames_missing > 0
    same = [replace(account, bytes=0, duration_s=0.0) for account in accounts]  # the mark in front is a byte, too
    assert same[0] == same[1]
    np.testing.assert_array_equal(*(np.concatenate(one.blocks) for one in (at_once, frame_by_frame)))
