"""Recordings, tables and truth: the tables undo the electronics, and the truth is what the processing finds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.calibration import CalibrationSet
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_raw import RawReader
from petqc.processing import ProcessingSettings, Processor
from petqc.recorded import analyse_file
from petqc_simulators import __main__ as command_line
from petqc_simulators.densities import mixture_density, peak_and_fwhm
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.crystal import CHANNEL, DEPOSIT_COLUMNS, E, T
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqc_simulators.recording import write_recording
from petqc_simulators.truth import compute_truth

if TYPE_CHECKING:
    from pathlib import Path

    from petqc_simulators.physics.controls import Controls

BENCH = load_profile("bench")


class Analysed:
    """A recording through the event processing."""

    def __init__(self, written: dict[str, Any]) -> None:
        from pathlib import Path

        config = load_config(Path(written["config"]))
        assert config.warnings == ()
        processor = Processor(CalibrationSet.from_config(config), ProcessingSettings.from_config(config))
        with RawReader(Path(written["recording"])) as reader:
            parts = [processor.feed(words) for words in reader.blocks()]
            self.header = reader.header
            assert reader.damage is None
        parts.append(processor.finish())
        self.account = processor.account
        self.live_s = self.account.live_time_s
        self.energy = np.concatenate([p.singles.energy for p in parts])
        self.channel = np.concatenate([p.singles.channel for p in parts])
        self.dt = np.concatenate([p.prompts.time_a_ps - p.prompts.time_b_ps for p in parts])
        time_ps = np.concatenate([p.singles.time_ps for p in parts])
        kept = (self.energy >= 425) & (self.energy <= 650)
        a = np.sort(time_ps[kept & (self.channel >= 256)]) - 1_003_700
        b = np.sort(time_ps[kept & (self.channel < 256)])
        # One delayed window of 10 ns: singles of one module against those of the other, one of them shifted.
        self.delayed = int((np.searchsorted(b, a + 5000, "right") - np.searchsorted(b, a - 5000)).sum())


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Analysed]:
    written = write_recording(tmp_path_factory.mktemp("healthy") / "run", BENCH, seed=3, seconds=4.0)
    return written, Analysed(written)


def test_tables_give_energy_and_time_back_to_the_last_step(tmp_path: Path) -> None:
    """One noiseless pulse at a time, at random phases: what comes out is what went in, to half a code."""
    detector = Detector(BENCH, 8)
    detector.settle()
    detector.refresh()
    p = detector.parameters
    for column in (el.LIGHT_VARIANCE, el.NOISE_VARIANCE, el.PHOTON_VARIANCE, el.AMPLIFIER_VARIANCE, el.FIXED_VARIANCE):
        p[:, column] = 0.0
    p[:, el.WALK_CLK] = 0.0
    p[:, el.DELAY_CLK] = p[:, el.OFFSET_CLK]  # nothing moved since the calibration
    draw = detector.draw
    p[:, el.CELL_SHARE] = 1.0 / (draw.kev_per_unit * draw.saturation_unit)
    p[:, el.SATURATION_UNIT] = draw.saturation_unit
    rng = np.random.default_rng(1)
    n = 4000
    rows = np.zeros((n, DEPOSIT_COLUMNS))
    rows[:, T] = 2000.0 + np.arange(n) * 6000.0 + rng.uniform(0, 1024, n)
    rows[:, CHANNEL] = rng.integers(0, 512, n)
    rows[:, E] = rng.uniform(60.0, 1300.0, n)
    buffers = detector._buffers
    buffers.make_room(n)
    kept, used = el.digitise(
        rows,
        n,
        1e12,
        p,
        draw.tdc,
        detector._gids,
        buffers.state_f,
        buffers.state_i,
        buffers.hits_f,
        buffers.hits_i,
        buffers.words,
        0,
        np.zeros(el.COUNTERS, np.int64),
    )
    assert kept == used == n
    frames = int(buffers.hits_i[:n, el.FRAME].max()) + 1
    out = np.empty(2 * frames + n, np.uint64)
    starts = np.zeros(frames + 1, np.int64)
    n_words, left = el.emit(
        0,
        frames,
        el.MAX_FRAME_EVENTS,
        p,
        draw.qdc,
        buffers.hits_f,
        buffers.hits_i,
        buffers.words,
        n,
        buffers.state_i,
        out,
        starts,
        np.zeros(el.COUNTERS, np.int64),
    )
    assert left == 0
    from petqc_simulators.config_files import write_config_folder

    config = load_config(write_config_folder(tmp_path / "config", BENCH, draw))
    alone = replace(ProcessingSettings.from_config(config), group_window_ps=0.0, group_max_distance_mm=0.0)
    processor = Processor(CalibrationSet.from_config(config), alone)
    parts = [processor.feed(out[:n_words]), processor.finish()]
    time_ps = np.concatenate([q.singles.time_ps for q in parts])
    energy = np.concatenate([q.singles.energy for q in parts])
    channel = np.concatenate([q.singles.channel for q in parts])
    assert time_ps.size == n
    order = np.argsort(rows[:, T])
    np.testing.assert_array_equal(channel, rows[order, CHANNEL].astype(int))
    # The interpolator steps by 5000 ps / about 195 codes; half a step, and the picosecond that times are cut to.
    assert np.abs(time_ps - rows[order, T] * 5000.0).max() < 0.5 * 5000.0 / 150.0 + 1.5
    step_kev = np.abs(energy - rows[order, E])
    assert np.percentile(step_kev, 99) < 4.5
    error = energy - rows[order, E]
    assert abs(error.mean()) < 0.05
    assert error[rows[order, E] < 600].std() == pytest.approx(2.9 / np.sqrt(12), rel=0.25)


def test_truth_is_what_the_processing_finds(healthy: tuple[dict[str, Any], Analysed]) -> None:
    written, found = healthy
    scanner = written["scanner"]

    def expect(got: float, truth: float, counts: float) -> None:
        assert got == pytest.approx(truth, rel=5.0 * np.sqrt(1 / counts + 1 / (counts * 3 / 4)) + 1e-3)

    expect(found.energy.size / found.live_s, scanner["singles_hz"], found.energy.size)
    in_window = ((found.energy >= 425) & (found.energy <= 650)).sum()
    expect(in_window / found.live_s, scanner["singles_in_window_hz"], in_window)
    expect(found.dt.size / found.live_s, scanner["prompts_hz"], found.dt.size / 2)
    assert found.delayed / found.live_s == pytest.approx(scanner["randoms_hz"], rel=0.5)
    near = found.dt[np.abs(found.dt) < 800]
    assert 2.3548 * near.std() == pytest.approx(scanner["ctr_rms_fwhm_ps"], rel=0.015)
    assert near.mean() == pytest.approx(scanner["tof_mean_ps"], abs=1.5)
    for i, module in enumerate(written["modules"]):
        mine = found.energy[found.channel // 256 == i]
        counts, edges = np.histogram(mine, np.arange(420.0, 621.0, 4.0))
        density = np.array(written["energy_spectrum"][module])
        expected = np.interp(0.5 * (edges[1:] + edges[:-1]), np.arange(density.size), density) * 4.0 * found.live_s
        chi2 = ((counts - expected) ** 2 / (expected * (1 + 4.0 / 3.0))).sum() / counts.size
        assert chi2 < 2.0, f"{module}: the expected spectrum does not describe the recorded one"


def test_anchors_of_the_bench(healthy: tuple[dict[str, Any], Analysed]) -> None:
    scanner = healthy[0]["scanner"]
    # Published benches with this ASIC: 216 to 220 ps, 9.5 to 13.1 %.
    assert 210 < scanner["ctr_fwhm_ps"] < 226
    assert 9.5 < scanner["energy_resolution_percent"] < 11.5
    assert scanner["photopeak_kev"] == pytest.approx(511.0, rel=0.01)


def test_recording_is_reproducible_and_its_header_right(tmp_path: Path) -> None:
    one, two = (write_recording(tmp_path / n / "run", "bench", 9, 0.2, truth_seconds=0) for n in "ab")
    assert (tmp_path / "a" / "run.rawf").read_bytes() == (tmp_path / "b" / "run.rawf").read_bytes()
    assert (tmp_path / "a" / "config" / "tdc.tsv").read_bytes() == (tmp_path / "b" / "config" / "tdc.tsv").read_bytes()
    other = write_recording(tmp_path / "c" / "run", "bench", 9, 0.2, truth_seconds=0, events_name="other day")
    assert (tmp_path / "c" / "run.rawf").read_bytes() != (tmp_path / "a" / "run.rawf").read_bytes()
    assert one["hits"] == two["hits"] != other["hits"]
    with RawReader(tmp_path / "a" / "run.rawf") as reader:
        assert reader.header.trigger_id == 1
        assert reader.header.all_charge
        assert [(s.first_frame, s.last_frame) for s in reader.steps] == [(0, one["frames"] - 1)]


def test_what_is_analysed_of_it_says_that_it_is_simulated(tmp_path: Path) -> None:
    written = write_recording(tmp_path / "run", BENCH, seed=3, seconds=0.5)
    run = analyse_file(written["recording"], config=written["config"])
    assert run.simulated
    (tmp_path / "run.manifest.jsonl").unlink()
    assert not analyse_file(written["recording"], config=written["config"]).simulated, "nobody knows any more"


def test_a_recording_of_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="-1"):
        write_recording(tmp_path / "run", "bench", 1, -1.0)


def test_no_bias_gives_a_recording_without_hits(tmp_path: Path) -> None:
    def off(controls: Controls) -> Controls:
        return replace(controls, bias_v=np.zeros_like(controls.bias_v))

    written = write_recording(tmp_path / "run", "bench", 1, 0.1, truth_seconds=0, change_controls=off)
    assert written["hits"] == 0


def test_time_over_threshold_mode_sends_end_times(tmp_path: Path) -> None:
    detector = Detector(BENCH, 4)
    detector.set(replace(detector.controls, is_charge=np.zeros(512, np.bool_)))
    detector.settle()
    words = np.concatenate([detector.advance().words for _ in range(20)])
    found, place = [], 0
    while place < words.size:
        n = int(words[place + 1])
        found.append(words[place + 2 : place + 2 + n])
        place += n + 2
    events = np.concatenate(found)
    coarse = (events >> np.uint64(30) & np.uint64(1023)).astype(int)
    end = (events >> np.uint64(20) & np.uint64(1023)).astype(int)
    over = (end - coarse) % 1024
    assert over.min() > 15
    assert over.max() < 120
    row = ((events >> np.uint64(42)) * np.uint64(4) + (events >> np.uint64(40) & np.uint64(3))).astype(int)
    fine = ((events & np.uint64(1023)).astype(int) + 27) % 1024
    t = detector.draw.tdc[row]
    low, high = t[:, 5] + 0.5 * t[:, 6] + 0.25 * t[:, 7], t[:, 5] + 1.5 * t[:, 6] + 2.25 * t[:, 7]
    assert ((fine >= low - 1) & (fine <= high + 1)).all()


@pytest.mark.parametrize("source", ["na22", "ge68", "none"])
def test_sources(source: str) -> None:
    truth = compute_truth(load_profile("bench", source=source), 1, seconds=0.5)
    assert truth["source"] == source
    spectrum = np.sum([truth["energy_spectrum"][m] for m in truth["modules"]], axis=0)
    above = spectrum[1000:1250].sum()
    prompts = truth["scanner"]["prompts_hz"]
    if source == "na22":
        assert above > 5000
        assert prompts > 10_000
    elif source == "ge68":
        assert 500 < above < 2500, "few decays have the 1077 keV gamma"
        assert 5_000 < prompts < 40_000
    else:
        assert prompts == 0
        assert "photopeak_kev" not in truth["scanner"]
        # About 265 Bq/cm3 of lutetium, nearly all of it seen.
        assert truth["scanner"]["singles_hz"] == pytest.approx(26_000, rel=0.1)


def test_faults_change_the_truth() -> None:
    def truth(*faults: str, seconds: float = 0.4) -> dict[str, Any]:
        from petqc_simulators.faults import Fault

        return compute_truth(BENCH, 6, [Fault.parse(f) for f in faults], seconds=seconds)

    healthy = truth()
    drift = truth("F03=100")
    place = drift["faults"][0]["places"][0]
    ratios = [
        drift["channels"][name]["photopeak_one_hit_kev"] / healthy["channels"][name]["photopeak_one_hit_kev"]
        for name in list(healthy["channels"])[16 * place : 16 * place + 16]
        if "photopeak_one_hit_kev" in drift["channels"][name] and "photopeak_one_hit_kev" in healthy["channels"][name]
    ]
    assert len(ratios) > 10
    assert 0.03 < 1 - np.mean(ratios) < 0.06, "100 mV are 3 to 6 % (fault catalogue)"
    dead = truth("F01=2")
    assert len(dead["dead_channels"]) == 2
    assert all(dead["channels"][name]["singles_hz"] == 0 for name in dead["dead_channels"])
    step = truth("F14=300")
    assert abs(step["scanner"]["tof_mean_ps"] - healthy["scanner"]["tof_mean_ps"]) == pytest.approx(300.0, abs=2.0)
    jitter = truth("F15=80")
    want = np.hypot(healthy["scanner"]["ctr_rms_fwhm_ps"], 2.3548 * 80)
    assert jitter["scanner"]["ctr_rms_fwhm_ps"] == pytest.approx(want, rel=0.02)
    assert truth("F19=10")["frames_lost_share"] == pytest.approx(0.1)
    hot = truth("F02=20000")
    (name,) = hot["hot_channels"]
    assert hot["channels"][name]["singles_hz"] > 10_000


def test_frame_loss_shows_in_the_account(tmp_path: Path) -> None:
    found = Analysed(write_recording(tmp_path / "run", "bench", 2, 1.0, faults=["F19=20"], truth_seconds=0))
    assert found.account.frames_lost / found.account.frames == pytest.approx(0.2, abs=0.06)


def test_mixture_density_of_known_gaussians() -> None:
    grid = np.arange(-60.0, 60.5, 0.5)
    mean = np.repeat([-3.13, 2.77], 5000)
    density = mixture_density(grid, mean, np.full(10_000, 10.0)) / 10_000
    exact = 0.5 * (np.exp(-0.5 * ((grid + 3.13) / 10) ** 2) + np.exp(-0.5 * ((grid - 2.77) / 10) ** 2))
    exact /= 10 * np.sqrt(2 * np.pi)
    np.testing.assert_allclose(density, exact, atol=2e-6)
    place, fwhm = peak_and_fwhm(grid, mixture_density(grid, np.full(10, 1.25), np.full(10, 8.0)))
    assert place == pytest.approx(1.25, abs=0.01)
    assert fwhm == pytest.approx(8.0 * 2.35482, rel=2e-4)
    with pytest.raises(ValueError, match="peak"):
        peak_and_fwhm(grid, np.arange(grid.size, dtype=float))


def test_command_line_records_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "run"
    assert command_line.main(["record", str(prefix), "--seconds", "0.05", "--seed", "4", "--fault", "F01"]) == 0
    assert str(prefix) in capsys.readouterr().out
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["seed"] == 4
    assert truth["faults"][0]["id"] == "F01"
    assert command_line.main(["record", str(prefix), "--fault", "F77"]) == 2
    assert "F77" in capsys.readouterr().err
    assert command_line.main(["serve", "--state-dir", str(tmp_path), "--listen", "tcp://127.0.0.1:1"]) == 2
    assert "udp://" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["serve", "--state-dir", str(tmp_path), "--speed", "0"])
    assert stopped.value.code == 2
