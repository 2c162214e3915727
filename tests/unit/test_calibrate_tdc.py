"""The time calibration against detectors whose interpolators are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc.calibrate import EventPoint
from petqc.calibrate.tdc import CLOCK_PS, TdcPlan, fit
from petqc.errors import BadInputError
from petqc_simulators.physics.controls import PulseTrain
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

BENCH = load_profile("bench")


def event_point(words: np.ndarray, starts: np.ndarray, step1: float, step2: float = 0.0) -> EventPoint:
    is_event = np.ones(words.size, np.bool_)
    is_event[starts[:-1]] = is_event[starts[:-1] + 1] = False
    found, counts = np.unique(words[is_event], return_counts=True)
    return EventPoint(step1, step2, found, counts.astype(np.int32))


def scan(seed: int, channels: list[int], plan: TdcPlan) -> tuple[Detector, list[EventPoint]]:
    """Pulses at every phase into some channels of the bench, straight from the physics."""
    detector = Detector(BENCH, seed)
    mode = np.full(BENCH.geometry.channels, 3)
    mode[channels] = 1
    points = []
    for phase in plan.points():
        pulse = PulseTrain(plan.length_clk, plan.interval_clk, phase)
        controls = replace(detector.controls, trigger_mode=mode, is_charge=np.zeros(mode.size, bool), test_pulse=pulse)
        detector.set(controls)
        detector.advance()  # what is under way still has the phase before
        block = detector.advance()
        frames = plan.frames_per_point
        points.append(event_point(block.words[: block.starts[frames]], block.starts[: frames + 1], phase))
    return detector, points


def time_errors_ps(detector: Detector, channels: list[int], table: np.ndarray) -> np.ndarray:
    """Calibrated minus true time of pulses over a whole clock, without the rounding of the code, (tacs, times)."""
    true = np.linspace(0.0, 1.0, 41)[:-1]
    errors = []
    moved = (detector.draw.delay_ps - detector.draw.offset_ps) / CLOCK_PS
    for line in table[table["branch"] == 0]:
        channel = int(line["chip"]) * 64 + int(line["channel"])
        t0, a0, a1, a2 = detector.draw.tdc[4 * channel + int(line["tac"]), :4]
        at = true + moved[channel] + t0
        q_true = np.ceil(at + 0.5) - at
        code = a0 + a1 * q_true + a2 * q_true**2
        b0, b1, b2 = line["a0"], line["a1"], line["a2"]
        q = (-b1 + np.sqrt(b1 * b1 - 4 * (b0 - code) * b2)) / (2 * b2)
        errors.append((np.ceil(at + 0.5) - q - line["t0"] - true) * CLOCK_PS)
    found = np.array(errors)
    assert found.shape[0] == 4 * len(channels)
    return found - found.mean()


@pytest.mark.parametrize("seed", [1, 2])
def test_times_are_right_to_a_few_picoseconds(seed):
    channels = [0, 5, 63, 64, 200, 511]
    detector, points = scan(seed, channels, TdcPlan())
    found = fit(points, np.array(channels, np.int32))
    errors = time_errors_ps(detector, channels, found.tables["tdc"])
    assert np.sqrt((errors**2).mean()) < 3.0
    stated = next(c for c in found.columns if c.id == "tdc_error").value
    assert stated.min() > 0.2
    assert stated.max() < 3.0
    pulls = np.sqrt((errors**2).mean(axis=1)).reshape(-1, 4).mean(axis=1) / stated
    assert 0.4 < pulls.mean() < 2.0
    assert all(str(c.status) == "pass" for c in found.results if c.id == "tdc_residual")
    table = found.tables["tdc"]
    assert table.size == len(channels) * 8
    assert (table["a2"] <= -0.01).all()
    for branch in (0, 1):
        assert table["t0"][table["branch"] == branch].mean() == pytest.approx(0.0, abs=1e-12)
    residual = next(r for r in found.results if r.id == "tdc_residual" and r.node == "scanner")
    assert residual.value < 6.0


def test_a_channel_without_hits_and_one_that_does_not_follow_are_left_out_with_the_reason():
    channels = [0, 5, 6]
    _, points = scan(3, [0, 5], TdcPlan(phases=31))
    rng = np.random.default_rng(1)
    spoiled = []
    for point in points:
        words = point.words.copy()
        mine = words >> np.uint64(42) == 5
        words[mine] = (words[mine] & ~np.uint64(1023 << 30)) | rng.integers(
            0, 1024, mine.sum(), np.uint64
        ) << np.uint64(30)
        spoiled.append(EventPoint(point.step1, point.step2, words, point.counts))
    found = fit(spoiled, np.array(channels, np.int32))
    assert set(found.tables["tdc"]["channel"].tolist()) == {0}
    reasons = found.columns[0].reason
    assert reasons[0] == ""
    assert "phases" in reasons[1] or "follow" in reasons[1]
    assert "no hits" in reasons[2]
    assert next(r for r in found.results if r.id == "tdc_channels_refused").value == 2


def test_stray_hits_and_missing_points_do_no_harm():
    channels = [0, 63, 200]
    detector, points = scan(5, channels, TdcPlan())
    rng = np.random.default_rng(5)
    spoiled = []
    for i, point in enumerate(points):
        stray = rng.integers(0, 1 << 40, 25, np.uint64) | rng.choice(channels, 25).astype(np.uint64) << np.uint64(42)
        pulses = point.words.size if i % 8 else 0  # at every eighth phase there is nothing but strays
        words = np.concatenate([point.words[:pulses], stray])
        counts = np.concatenate([point.counts[:pulses], np.ones(25, np.int32)])
        near = point.words[:3] ^ np.uint64(1 << 17)  # of the pulse's own count, with a wild code
        spoiled.append(EventPoint(point.step1, 0.0, np.concatenate([words, near]), np.append(counts, [1, 1, 1])))
    found = fit(spoiled, np.array(channels, np.int32))
    assert found.columns[0].reason.tolist() == [""] * 3
    errors = time_errors_ps(detector, channels, found.tables["tdc"])
    assert np.sqrt((errors**2).mean()) < 3.0
    covered = next(c for c in found.columns if c.id == "tdc_covered")
    assert 75.0 < covered.value.min() <= covered.value.max() < 100.0 * 44.5 / 51


def test_an_interpolator_that_is_bent_shows_it():
    channels = [0, 63]
    _, points = scan(6, channels, TdcPlan())
    bent = []
    for point in points:
        fine = (point.words >> np.uint64(10) & np.uint64(1023)).astype(np.int64)
        wave = np.round(4.0 * np.sin(fine / 20.0)).astype(np.int64) * (point.words >> np.uint64(42) == 63)
        words = (point.words & ~np.uint64(1023 << 10)) | ((fine + wave) & 1023).astype(np.uint64) << np.uint64(10)
        words, at = np.unique(words, return_inverse=True)
        bent.append(EventPoint(point.step1, 0.0, words, np.bincount(at, point.counts).astype(np.int32)))
    found = fit(bent, np.array(channels, np.int32))
    inl, chi2, error = (next(c for c in found.columns if c.id == f"tdc_{name}") for name in ("inl", "chi2", "error"))
    assert 50.0 < inl.value[1] < 150.0  # 4 codes of 27 ps
    assert inl.value[0] < 10.0
    assert inl.status.tolist()[0] == "pass"
    assert inl.status.tolist()[1] in {"warn", "fail"}
    assert chi2.status.tolist() == ["pass", "warn"]
    assert error.value[1] > 3 * error.value[0]


def test_no_events_at_all_is_an_error():
    with pytest.raises(BadInputError, match="no events"):
        fit([EventPoint(0.1, 0.0, np.empty(0, np.uint64), np.empty(0, np.int32))], np.array([1], np.int32))


def test_a_plan_that_cannot_calibrate_is_refused():
    with pytest.raises(BadInputError, match="phases"):
        TdcPlan(phases=5)
