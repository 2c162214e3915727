"""The bias calibration: breakdown from current-voltage curves, planted and recorded, and from steps of dark counts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.calibrate import CounterPoint
from petqc.calibrate.bias import fit_gain, fit_iv, volts_name
from petqc.calibrate.bias_outputs import outputs_of_channels, parse_output
from petqc.calibrate.iv_curve import iv_breakdown, read_iv_file
from petqc.calibrate.staircase import fit_staircases
from petqc.errors import BadInputError, FitFailedError, TooFewCountsError
from petqc.formats.petsys_tables import TABLES
from petqc.limits import Status
from petqc_simulators.config_files import tables
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

BENCH = load_profile("bench")
WINDOW_S = (1 << 22) * 5e-9
OVER_V = (2.1, 2.45, 2.8, 3.15, 3.5)
BELOW = tuple(range(2, 22))
README_LIGHT_V = {"n30C": 36.88, "n20C": 37.18, "n10C": 37.52, "0C": 37.95, "10C": 38.35, "20C": 38.72}
"""Source: README of the recorded curves, largest d(ln I)/dV of 5-point means, tolerance 0.1 V."""


def light_curve(breakdown: float, seed: int = 1, noise: float = 0.003) -> tuple[np.ndarray, np.ndarray]:
    """Photocurrent that multiplies towards breakdown and goes on above it."""
    v = np.concatenate([np.arange(0.0, breakdown - 2.0, 0.25), np.arange(breakdown - 2.0, breakdown + 0.9, 0.025)])
    over = v - breakdown
    width = 0.07  # of the turn from one to the other
    smooth = width * np.logaddexp(0.0, over / width)
    current = 3e-7 * (1.0 + 6.0 * np.exp(np.minimum(over, 0.0))) + 6e-3 * smooth**2
    return v, current * (1.0 + noise * np.random.default_rng(seed).standard_normal(v.size))


def dark_curve(breakdown: float, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    v = np.concatenate([np.arange(0.0, breakdown - 2.0, 0.25), np.arange(breakdown - 2.0, breakdown + 4.0, 0.025)])
    over = np.maximum(v - breakdown, 0.0)
    current = 5e-10 + 5e-11 * v + 3e-9 * over**2 * (1.0 + 0.1 * over)
    return v, current * (1.0 + 0.003 * np.random.default_rng(seed).standard_normal(v.size))


@pytest.mark.parametrize("breakdown", [31.33, 38.6, 53.02])
def test_breakdown_of_planted_curves(breakdown):
    found = iv_breakdown(*light_curve(breakdown))
    assert found.method == "steepest"
    # ln I is steepest where the current of the avalanche has taken over: somewhat above.
    assert found.volts == pytest.approx(breakdown, abs=0.1)
    assert 0.0 < found.error_v < 0.05
    assert found.volts == pytest.approx(breakdown, abs=2 * found.error_v)
    shuffled = np.random.default_rng(3).permutation(light_curve(breakdown)[0].size)
    again = iv_breakdown(*(column[shuffled] for column in light_curve(breakdown)))
    assert again == found
    dark = iv_breakdown(*dark_curve(breakdown))
    assert dark.method == "parabola"
    assert dark.volts == pytest.approx(breakdown, abs=2 * dark.error_v)


def test_a_curve_without_breakdown_gives_no_number():
    v = np.arange(0.5, 40.0, 0.25)
    rng = np.random.default_rng(4)
    with pytest.raises((FitFailedError, TooFewCountsError)):
        iv_breakdown(v, 1e-9 * (1.0 + v) * (1.0 + 0.01 * rng.standard_normal(v.size)))
    with pytest.raises((FitFailedError, TooFewCountsError)):
        iv_breakdown(v, np.abs(rng.standard_normal(v.size)) * 1e-12)
    with pytest.raises(TooFewCountsError):
        iv_breakdown(v[:10], v[:10])
    with pytest.raises(TooFewCountsError):
        iv_breakdown(v, np.full(v.size, -1e-12))


def test_recorded_curves_agree_with_other_peoples_figures(shared_data: Path):
    folder = shared_data / "sipm-iv-temperature-a"
    temperature, light = [], []
    n_dark = 0
    for name, expected in README_LIGHT_V.items():
        ((volts, amperes),) = read_iv_file(folder / f"{name}_light.csv", (0, 0, 0, 0)).values()
        found = iv_breakdown(volts, amperes)
        assert found.volts == pytest.approx(expected, abs=0.1), name
        assert found.error_v < 0.05
        assert found.other_v == pytest.approx(found.volts, abs=0.06)
        temperature.append(float(name.removesuffix("C").replace("n", "-")))
        light.append(found.volts)
        ((volts, amperes),) = read_iv_file(folder / f"{name}_dark.csv", (0, 0, 0, 0)).values()
        try:
            dark = iv_breakdown(volts, amperes)
        except FitFailedError:
            continue  # picoamperes: some cannot be trusted, and say so
        n_dark += 1
        assert dark.method == "parabola"
        assert dark.volts == pytest.approx(found.volts, abs=3 * dark.error_v), name
    assert n_dark >= 4
    slope, at_zero = np.polyfit(temperature, light, 1)
    assert 1000 * slope == pytest.approx(37.5, abs=1.5)
    assert at_zero == pytest.approx(37.95, abs=0.05)


def test_files_of_curves(tmp_path: Path):
    path = tmp_path / "iv.csv"
    path.write_text("output,volts,amperes\n0.0.0.5,1.0,2e-9\nbias:0.0.0.5,2.0,3e-9\n0.0.1.0,1.5,1e-9\n\n# end\n")
    curves = read_iv_file(path)
    assert set(curves) == {(0, 0, 0, 5), (0, 0, 1, 0)}
    assert curves[0, 0, 0, 5][0].tolist() == [1.0, 2.0]
    assert curves[0, 0, 0, 5][1].tolist() == [2e-9, 3e-9]
    path.write_text("1.0,2e-9\n2.0,3e-9\n")
    assert list(read_iv_file(path, (0, 0, 0, 7))) == [(0, 0, 0, 7)]
    for text, why in (
        ("1.0,2e-9\n", "which output"),
        ("0.0.0.5,1.0,2e-9\n0.0.0.5,x,y\n", "line 2"),
        ("5,1.0,2e-9\n", "no bias output"),
        ("0.0.0.5,1,2,3,4\n", "fields"),
        ("", "no points"),
    ):
        path.write_text(text)
        with pytest.raises(BadInputError, match=why):
            read_iv_file(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_iv_file(tmp_path / "none.csv")
    with pytest.raises(BadInputError):
        parse_output("0.0.5")


def settings_of(values: list[float]) -> np.ndarray:
    table = np.zeros(len(values), TABLES["bias_settings"].dtype)
    table["channel"] = np.arange(len(values))
    table["breakdown"], table["prebreakdown"], table["overvoltage"] = values, 25.0, 3.5
    return table


def test_curves_make_a_table_and_what_is_far_off_is_a_finding():
    curves = {(0, 0, 0, k): light_curve(v) for k, v in enumerate((32.5, 32.6, 34.0))}
    curves[0, 0, 0, 3] = (np.arange(30.0), np.ones(30))
    curves[0, 0, 0, 9] = light_curve(32.4)
    found = fit_iv(curves, settings_of([32.5, 32.9, 32.5, 32.5, 32.7]))
    table = found.tables["bias_settings"]
    assert table["breakdown"][:2] == pytest.approx([32.5, 32.6], abs=0.1)
    assert table["breakdown"][2:].tolist() == [32.5, 32.5, 32.7]
    assert (table["prebreakdown"] == 25.0).all()
    assert (table["overvoltage"] == 3.5).all()
    of = {r.node: r for r in found.results if r.id == "bias_breakdown"}
    assert of["bias:0.0.0.0"].status is Status.PASS
    assert of["bias:0.0.0.1"].status is Status.WARN
    assert of["bias:0.0.0.2"].status is Status.FAIL
    assert of["bias:0.0.0.2"].value == pytest.approx(34.0, abs=0.1), "what was measured is told"
    assert "find out why" in of["bias:0.0.0.2"].reason
    assert of["bias:0.0.0.3"].status is Status.INVALID
    assert of["bias:0.0.0.4"].reason.startswith("not measured")
    assert "not in the bias settings" in of["bias:0.0.0.9"].reason
    assert not fit_iv(curves, None).tables


def staircase_points(detector: Detector, *, reads: int = 4, seed: int = 1) -> list[CounterPoint]:
    """What the channel counters of the bench would give, straight from its physics."""
    draw, rng = detector.draw, np.random.default_rng(seed)
    channels = np.arange(draw.zero.shape[0], dtype=np.int32)
    points = []
    for level, over in enumerate(OVER_V):
        volts = draw.breakdown_found_v + over
        detector.bias_v = volts
        settings = {volts_name((0, 0, 0, k)): float(v) for k, v in enumerate(volts)}
        for below in BELOW:
            vth = detector.controls.vth.copy()
            vth[:, 0] = np.floor(draw.zero[:, 0]).astype(np.int64) - below
            rate = detector.comparator_dark_hz(replace(detector.controls, vth=vth))[:, 0]
            points += [
                CounterPoint(
                    {"level": float(level), "below": float(below), **settings},
                    channels,
                    rng.poisson(rate * WINDOW_S).astype(np.int64),
                    1 << 22,
                )
                for _ in range(reads)
            ]
    return points


def truth_of(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    draw = detector.draw
    of_channel = draw.breakdown_v + BENCH.sipm.breakdown_v_per_k * draw.warmer_k[draw.module_of]
    return of_channel, np.array([of_channel[draw.bias_of == k].mean() for k in range(draw.breakdown_found_v.size)])


@pytest.mark.parametrize("seed", [1, 2])
def test_steps_of_dark_counts_give_the_breakdown_to_a_few_millivolts(seed):
    detector = Detector(BENCH, seed)
    of = tables(BENCH, detector.draw)
    outputs = outputs_of_channels(of["bias_map"])
    found = fit_gain(staircase_points(detector, seed=seed), of["disc_calibration"], outputs, of["bias_settings"])
    of_channel, of_output = truth_of(detector)
    column = next(c for c in found.columns if c.id == "bias_channel_breakdown")
    assert np.isfinite(column.value).mean() > 0.99
    pulls = (column.value - of_channel) / column.uncertainty
    assert 0.8 < np.nanstd(pulls) < 1.2
    error = found.tables["bias_settings"]["breakdown"] - of_output
    assert np.sqrt((error**2).mean()) < 0.010
    assert np.abs(error).max() < 0.020
    results = [r for r in found.results if r.id == "bias_breakdown"]
    assert all(r.status is Status.PASS for r in results)
    stated = np.array([r.uncertainty for r in results])
    assert 0.6 < np.std(error / stated) < 1.5
    assert found.spectra[0].fit is not None


def test_a_wrong_breakdown_in_use_is_found_and_not_replaced_and_dead_channels_are_named():
    detector = Detector(BENCH, 3)
    of = tables(BENCH, detector.draw)
    points = staircase_points(detector, reads=2)
    dead = detector.draw.bias_of == 4
    dead[7] = True
    for p in points:
        p.counts[dead] = 0
    settings = of["bias_settings"]
    settings["breakdown"][2] -= 0.6
    settings["offset"][1], settings["breakdown"][1] = 0.5, settings["breakdown"][1] - 0.5
    disc = of["disc_calibration"]
    disc["zero_t1"][20] = -1.0
    found = fit_gain(points, disc, outputs_of_channels(of["bias_map"]), settings)
    results = {r.node: r for r in found.results if r.id == "bias_breakdown"}
    assert results["bias:0.0.0.2"].status is Status.FAIL
    assert results["bias:0.0.0.4"].status is Status.INVALID
    assert "0 of 16" in results["bias:0.0.0.4"].reason
    new = found.tables["bias_settings"]
    assert new["breakdown"][2] == settings["breakdown"][2]
    assert new["breakdown"][4] == settings["breakdown"][4]
    assert new["breakdown"][1] + new["offset"][1] == pytest.approx(truth_of(detector)[1][1], abs=0.03)
    column = next(c for c in found.columns if c.id == "bias_channel_breakdown")
    assert "dark counts" in str(column.reason[7]) or "no step" in str(column.reason[7])
    assert "not calibrated" in str(column.reason[20])
    assert results["bias:0.0.0.0"].n == 15


def test_counts_without_steps_are_refused():
    rng = np.random.default_rng(6)
    steps = np.broadcast_to(np.arange(2.0, 22.0), (4, 3, 20))
    counts = rng.poisson(1e5 * np.exp(-steps / 4.0)).astype(np.int64)
    counts[1] = 0
    counts[2] = 100_000
    counts[3] = rng.integers(0, 100_000, counts[3].shape)
    stairs = fit_staircases(steps, counts, np.ones((3, 20)), np.array([[0.6, 0.8, 1.0]] * 4), np.full(4, 0.5))
    assert (stairs.reason != "").all(), stairs.reason
    assert np.isnan(stairs.amplitude).all()


def test_points_that_cannot_be_used_are_refused():
    detector = Detector(BENCH, 3)
    of = tables(BENCH, detector.draw)
    outputs = outputs_of_channels(of["bias_map"])
    points = [
        CounterPoint({"level": float(k), "below": 3.0}, np.arange(2, dtype=np.int32), np.ones(2, np.int64), 1 << 22)
        for k in range(3)
    ]
    with pytest.raises(BadInputError, match="no points"):
        fit_gain([], of["disc_calibration"], outputs, of["bias_settings"])
    with pytest.raises(BadInputError, match="voltages"):
        fit_gain(points[:2], of["disc_calibration"], outputs, of["bias_settings"])
    other = replace(points[2], channels=np.arange(1, 3, dtype=np.int32))
    with pytest.raises(BadInputError, match="same channels"):
        fit_gain([*points[:2], other], of["disc_calibration"], outputs, of["bias_settings"])
    other = replace(points[2], settings={"level": 2.0, "below": 4.0})
    with pytest.raises(BadInputError, match="every voltage"):
        fit_gain([*points[:2], other], of["disc_calibration"], outputs, of["bias_settings"])
