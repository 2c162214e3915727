"""Photons followed a block ahead: the same frames as one after the other, whatever is set or planted meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc_simulators.faults import Fault
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.photons_ahead import PhotonsAhead
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCKS = 30


def _nothing(_detector: Detector, _n: int) -> None:
    pass


def _thresholds(detector: Detector, n: int) -> None:
    if n % 7 == 3:
        detector.set(replace(detector.controls, vth=detector.controls.vth - 1.0))


def _live_faults(detector: Detector, n: int) -> None:
    if n == 5:
        detector.begin_fault(Fault.parse("F26=20"))
    if n == 9:
        detector.begin_fault(Fault.parse("F12=3"))
    if n == 12:
        detector.end_fault(0)


def _warmer(detector: Detector, n: int) -> None:
    if n in (4, 5, 11):
        detector.set_coolant(0.1 * n)


def _synchronised_again(detector: Detector, n: int) -> None:
    if n == 8:
        detector.restart()


@pytest.mark.parametrize("faults", [[], ["F14=300@0.05-0.1"], ["F12=3", "F10=0.3"]], ids=str)
@pytest.mark.parametrize("change", [_nothing, _thresholds, _live_faults, _warmer, _synchronised_again])
def test_frames_are_the_same_as_one_after_the_other(change: Callable[[Detector, int], None], faults: list[str]) -> None:
    one_by_one, ahead = (Detector(load_profile("bench"), 7, [Fault.parse(f) for f in faults]) for _ in range(2))
    was_ahead = 0
    with PhotonsAhead() as ahead.ahead:
        for detector in (one_by_one, ahead):
            detector.settle()
        for n in range(BLOCKS):
            for detector in (one_by_one, ahead):
                change(detector, n)
            first, second = one_by_one.advance(), ahead.advance()
            assert first.first_frame == second.first_frame
            np.testing.assert_array_equal(first.words, second.words)
            was_ahead += ahead.ahead.is_going_on
    ahead.ahead = None
    np.testing.assert_array_equal(one_by_one.advance().words, ahead.advance().words)
    np.testing.assert_array_equal(one_by_one.counters, ahead.counters)
    assert was_ahead > 1


def test_what_is_wrong_with_the_configuration_s_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file where the folder should be", "utf-8")
    with pytest.raises((OSError, ProfileError)):
        write_recording(tmp_path / "r", "bench", seconds=0.1, truth_seconds=0)
