"""The threshold calibration against detectors whose baselines are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc.calibrate import CounterPoint
from petqc.calibrate.threshold import ThresholdPlan, fit, lowered_baselines
from petqc.errors import BadInputError
from petqc_simulators.physics.detector import THRESHOLD_NOISE_STEPS, Detector
from petqc_simulators.profile import load_profile

BENCH = load_profile("bench")
CLOCKS = 1 << 22


def scan(detector: Detector, plan: ThresholdPlan, rng: np.random.Generator) -> list[CounterPoint]:
    channels = np.arange(BENCH.geometry.channels, dtype=np.int32)
    points = []
    for discriminator in range(3):
        for code in plan.codes():
            vth = np.zeros((channels.size, 3), np.int64)
            vth[:, discriminator] = code
            duty = detector.comparator_duty(replace(detector.controls, vth=vth))[:, discriminator]
            for _ in range(plan.reads):
                settings = {"discriminator": discriminator, "code": code}
                points.append(CounterPoint(settings, channels, rng.binomial(CLOCKS, duty), CLOCKS))
    return points


@pytest.mark.parametrize("plan", [ThresholdPlan(), ThresholdPlan(code_step=2)])
def test_zeros_and_noise_are_those_of_the_detector(plan):
    detector = Detector(BENCH, 7)
    rng = np.random.default_rng(7)
    baseline = detector.draw.baseline
    found = fit(scan(detector, plan, rng), baseline[:, 0], baseline[:, 1])
    table = found.tables["disc_calibration"]
    for k, name in enumerate(("t1", "t2", "e")):
        column = next(c for c in found.columns if c.id == f"threshold_zero_{name}")
        pulls = (column.value - detector.draw.zero[:, k]) / column.uncertainty
        assert abs(pulls.mean()) < 0.2
        assert 0.8 < pulls.std() < 1.2
        assert np.abs(table[f"noise_{name}"] - THRESHOLD_NOISE_STEPS).max() < 0.01
        assert column.uncertainty.max() < 0.01
        column = next(c for c in found.columns if c.id == f"threshold_noise_{name}")
        pulls = (column.value - THRESHOLD_NOISE_STEPS) / column.uncertainty
        assert abs(pulls.mean()) < 0.25
        assert 0.75 < pulls.std() < 1.25
    assert (table["baseline_t"] == baseline[:, 0]).all()
    assert found.results[0].value == 0


def test_discriminators_that_never_or_always_fire_are_marked_and_named():
    detector = Detector(BENCH, 8)
    points = scan(detector, ThresholdPlan(), np.random.default_rng(8))
    for point in points:
        if point.settings["discriminator"] == 0:
            point.counts[3] = 0
            point.counts[4] = CLOCKS
            point.counts[5] = CLOCKS // 2 if point.settings["code"] % 2 else 0
    found = fit(points, detector.draw.baseline[:, 0], detector.draw.baseline[:, 1])
    reasons = found.columns[0].reason
    assert "never over" in reasons[3]
    assert "every code" in reasons[4]
    assert "no width" in reasons[5]
    t2 = found.columns[2]
    assert t2.id == "threshold_zero_t2"
    assert t2.reason[3:6].tolist() == [""] * 3  # what is wrong with T1 says nothing about T2
    assert np.isfinite(t2.value[3:6]).all()
    table = found.tables["disc_calibration"]
    assert table["zero_t1"][3:6].tolist() == [-1.0] * 3
    assert (table["zero_t2"][3:6] > 0).all()
    assert found.results[0].value == 3


def test_a_baseline_is_lowered_until_the_discriminator_is_seen():
    new, right = lowered_baselines(np.array([0.96, 0.5, 0.0]), np.array([60, 60, 0]))
    assert new.tolist() == [60, 59, 0]
    assert right.tolist() == [True, False, False]


def test_a_scan_with_holes_is_refused():
    detector = Detector(BENCH, 8)
    points = scan(detector, ThresholdPlan(), np.random.default_rng(8))
    with pytest.raises(BadInputError, match="codes"):
        fit(points[:20], detector.draw.baseline[:, 0], detector.draw.baseline[:, 1])
