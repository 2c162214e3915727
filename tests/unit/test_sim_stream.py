"""Frames made ahead of time and frames repeated: what a stream that keeps up with the clock is made of."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from petqc_drivers.petsys.frames import frame_event_counts, frame_ids
from petqc_simulators.boards.frame_clock import FrameClock
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S, Block
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.repetition import Repetition
from petqc_simulators.profile import ProfileError, Repeated, load_profile

BENCH = load_profile("bench")


def biased(turn: int = 0) -> Detector:
    detector = Detector(replace(BENCH, repetition=Repeated(turn)), 1)
    detector.settle()
    return detector


def made(clock: FrameClock, at_s: float) -> list[Block]:
    """All blocks that are due, those included that must be waited for."""
    blocks = clock.advance(at_s)[0]
    until_s = time.monotonic() + 30
    while clock.lag(at_s) and time.monotonic() < until_s:
        time.sleep(0.001)
        blocks += clock.advance(at_s)[0]
    return blocks


def words_without_ids(block):
    words = block.words.copy()
    words[block.starts[:-1]] &= ~np.uint64((1 << 36) - 1)
    return words


def test_a_clock_that_runs_ahead_gives_the_same_frames():
    ahead, plain = FrameClock(biased()), FrameClock(biased())
    ahead.run_ahead()
    try:
        for clock in (ahead, plain):
            clock.synchronise(0.0)
        for k, blocks_due in enumerate((1, 0, 2, 1), 1):
            at_s = BLOCK_S * sum((1, 0, 2, 1)[:k]) + 0.3 * BLOCK_S
            found, expected = made(ahead, at_s), plain.advance(at_s)[0]
            assert len(found) == len(expected) == blocks_due
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a.words, b.words)
        ahead.synchronise(1.0)
        blocks = made(ahead, 1.0 + 1.5 * BLOCK_S)
        assert [block.first_frame for block in blocks] == [0]
        ahead.stop()
        assert ahead.advance(2.0)[0] == []
    finally:
        ahead.close()


def test_a_setting_acts_at_the_latest_two_blocks_later():
    clock = FrameClock(biased())
    clock.run_ahead()
    try:
        clock.synchronise(0.0)
        made(clock, 1.5 * BLOCK_S)
        controls = clock.detector.controls
        clock.detector.set(replace(controls, is_read=np.zeros_like(controls.is_read)))
        hits = [
            int(frame_event_counts(b.words, b.starts[:-1]).sum())
            for k in range(4)
            for b in made(clock, (k + 2.5) * BLOCK_S)
        ]
        assert len(hits) == 4
        # What is late in the electronics still comes with the first block after it.
        assert hits[1] < 60
        assert hits[2:] == [0, 0]
    finally:
        clock.close()


def test_repeated_blocks_are_the_same_hits_with_ids_that_go_on():
    detector = biased(3)
    detector.advance()
    repetition = Repetition(detector, 3)
    blocks = [repetition.advance() for _ in range(8)]
    ids = np.concatenate([frame_ids(b.words, b.starts[:-1]) for b in blocks])
    np.testing.assert_array_equal(ids, np.arange(BLOCK_FRAMES, 9 * BLOCK_FRAMES))
    assert repetition.blocks_repeated == 5
    for k, block in enumerate(blocks):
        np.testing.assert_array_equal(words_without_ids(block), words_without_ids(blocks[k % 3]))
    assert not np.array_equal(words_without_ids(blocks[0]), words_without_ids(blocks[1]))


def test_whatever_changes_is_simulated_anew():
    detector = biased(2)
    repetition = Repetition(detector, 2)
    for _ in range(6):
        repetition.advance()
    assert repetition.blocks_repeated > 0
    before = repetition.blocks_repeated
    detector.set(replace(detector.controls, bias_v=np.zeros_like(detector.controls.bias_v)))
    for _ in range(5):
        repetition.advance()
    assert repetition.blocks_repeated == before, "while the voltage is on its way"
    assert detector.frame == 11 * BLOCK_FRAMES


def test_nothing_is_repeated_unless_a_profile_asks_for_it(tmp_path):
    assert BENCH.repetition.blocks == 0
    clock = FrameClock(biased())
    clock.synchronise(0.0)
    clock.advance(6.5 * BLOCK_S)
    assert clock.repetition.blocks_repeated == 0
    (tmp_path / "fast.toml").write_text('base = "bench"\n[repetition]\nblocks = 4\n')
    assert load_profile(str(tmp_path / "fast.toml")).repetition.blocks == 4
    (tmp_path / "odd.toml").write_text('base = "bench"\n[repetition]\nblocks = -1\n')
    with pytest.raises(ProfileError, match="below 0"):
        load_profile(str(tmp_path / "odd.toml"))


def test_nobody_is_made_to_follow_photons_that_no_sipm_can_see():
    detector = Detector(BENCH, 1)
    nominal = detector.controls
    detector.set(replace(nominal, bias_v=np.zeros_like(nominal.bias_v)))
    for _ in range(3):
        detector.advance()
    assert not detector.counters.any()
    assert detector.emission.clock[1] == 0, "no decay was followed"
    detector.set(nominal)
    detector.settle()
    assert frame_event_counts((block := detector.advance()).words, block.starts[:-1]).sum() > 500
