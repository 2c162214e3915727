"""The charge calibration against detectors whose integrators are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc.calibrate import EventPoint
from petqc.calibrate.charge import ChargePlan, fit
from petqc.calibration.charge import charge_table, code_of_time, time_of_code
from petqc.formats.petsys_tables import TABLES
from petqc_simulators.physics.controls import PulseTrain
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

BENCH = load_profile("bench")


def tdc_table(detector: Detector, channels: list[int]) -> np.ndarray:
    table = np.zeros(8 * len(channels), TABLES["tdc"].dtype)
    for i, channel in enumerate(channels):
        for tac in range(4):
            for branch in (0, 1):
                line = table[8 * i + 2 * tac + branch]
                line["chip"], line["channel"], line["tac"], line["branch"] = channel // 64, channel % 64, tac, branch
                for k, name in enumerate(("t0", "a0", "a1", "a2")):
                    line[name] = detector.draw.tdc[4 * channel + tac, k + 4 * branch]
    return table


def scan(seed: int, channels: list[int], plan: ChargePlan) -> tuple[Detector, list[EventPoint]]:
    detector = Detector(BENCH, seed)
    mode = np.full(BENCH.geometry.channels, 3)
    mode[channels] = 1
    points = []
    for length, phase in plan.points():
        controls = replace(
            detector.controls,
            trigger_mode=mode,
            integration=np.zeros(mode.size, np.int64),
            test_pulse=PulseTrain(length, plan.interval_clk, phase),
        )
        detector.set(controls)
        detector.advance()
        block = detector.advance()
        starts = block.starts[: plan.frames_per_point + 1]
        words = block.words[: starts[-1]]
        is_event = np.ones(words.size, np.bool_)
        is_event[starts[:-1]] = is_event[starts[:-1] + 1] = False
        found, counts = np.unique(words[is_event], return_counts=True)
        points.append(EventPoint(length, phase, found, counts.astype(np.int32)))
    return detector, points


@pytest.mark.parametrize("seed", [4, 5])
def test_charges_are_right_to_half_a_percent(seed):
    channels = [0, 63, 200, 511]
    detector, points = scan(seed, channels, ChargePlan())
    found = fit(points, np.array(channels, np.int32), tdc_table(detector, channels))
    table = found.tables["qdc"]
    assert table.size == 4 * len(channels)
    p = np.stack([table[f"p{k}"] for k in range(10)], axis=1)
    inverse = charge_table(p.astype(np.float32))
    integrated = np.array([60.2, 61.0])
    charge = np.linspace(5.0, 150.0, 40)
    worst = 0.0
    for row, line in enumerate(table):
        true = detector.draw.qdc[4 * (int(line["chip"]) * 64 + int(line["channel"])) + int(line["tac"])]
        for t in integrated:
            code = code_of_time(t + charge, true)
            measured = time_of_code(code.astype(np.float32), np.full(charge.size, row), inverse) - t
            worst = max(worst, float(np.abs(measured / charge - 1.0)[charge > 20].max()))
            assert np.abs(measured - charge).max() < 0.2
    assert worst < 0.005
    stated = next(c for c in found.columns if c.id == "charge_error").value
    assert 0.01 < stated.min() <= stated.max() < 0.05
    residual = next(r for r in found.results if r.id == "charge_residual" and r.node == "scanner")
    assert str(residual.status) == "pass"


def test_stray_hits_do_no_harm():
    channels = [0, 200]
    detector, points = scan(6, channels, ChargePlan())
    table = tdc_table(detector, channels)
    rng = np.random.default_rng(6)
    spoiled = []
    for point in points:
        stray = rng.integers(0, 1 << 42, 20, np.uint64) | rng.choice(channels, 20).astype(np.uint64) << np.uint64(42)
        near = point.words[:2] ^ np.uint64(1 << 8)  # of a pulse, with a wild code
        words = np.concatenate([point.words, stray, near])
        counts = np.concatenate([point.counts, np.ones(22, np.int32)])
        spoiled.append(EventPoint(point.step1, point.step2, words, counts))
    clean, found = (fit(taken, np.array(channels, np.int32), table).tables["qdc"] for taken in (points, spoiled))
    t = np.linspace(10.0, 270.0, 50)
    for one, other in zip(clean, found, strict=True):
        p, r = (np.array([line[f"p{k}"] for k in range(10)]) for line in (one, other))
        assert np.abs(code_of_time(t, p) - code_of_time(t, r)).max() < 0.25  # of a slope of 3 codes a clock


def test_without_a_time_calibration_a_channel_is_left_out_with_the_reason():
    channels = [0, 63]
    detector, points = scan(4, channels, ChargePlan(length_step=20))
    found = fit(points, np.array([*channels, 64], np.int32), tdc_table(detector, [0]))
    assert set(found.tables["qdc"]["channel"].tolist()) == {0}
    assert found.columns[0].reason.tolist() == ["", "no time calibration", "no hits"]
