"""The test pulse generator's word: what fits, what is refused, and that nothing is rounded away unseen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.petsys.test_pulse import OFF, PHASES_PER_CLOCK, TestPulse
from petqc_drivers.petsys.wire import WireError


@given(st.integers(1, 1023), st.integers(0, (1 << 21) - 1), st.integers(0, (1 << 24) - 1), st.booleans())
def test_every_train_comes_back_from_its_word(length, gap, steps, inverted):
    pulse = TestPulse(length, length + 1 + gap, steps / PHASES_PER_CLOCK, inverted)
    assert TestPulse.from_word(pulse.to_word()) == pulse
    assert pulse.to_word() < 1 << 64


@pytest.mark.parametrize(
    ("length", "interval", "phase", "words"),
    [
        (0, 1024, 0.0, "0 clocks"),
        (1024, 4096, 0.0, "1024 clocks"),
        (100, 100, 0.0, "every 100 clocks"),
        (100, 1 << 22, 0.0, "every 4194304 clocks"),
        (100, 1024, -0.01, "phase"),
        (100, 1024, 49933.0, "phase"),
        (100, 1024, float("nan"), "phase"),
    ],
)
def test_what_the_generator_cannot_do_is_refused(length, interval, phase, words):
    with pytest.raises(WireError, match=words):
        TestPulse(length, interval, phase)


def test_a_generator_that_is_off_has_no_train():
    assert TestPulse.from_word(OFF) is None


def test_the_phase_that_is_made_of_the_one_asked_for():
    assert TestPulse(100, 1024, 0.3).true_phase_clk == pytest.approx(101 / 336)


def test_a_train_in_step_with_the_buffer_refresh_is_noticed():
    assert TestPulse(100, 64 * 10 * 31, 0.0).meets_refresh(9, 30)
    assert not TestPulse(100, 1024, 0.0).meets_refresh(9, 30)
