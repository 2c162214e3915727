"""What the simulated detector does, against formulas that do not come from it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from petqc_simulators.effects import Effects
from petqc_simulators.fault_plan import FaultPlan
from petqc_simulators.faults import KINDS, Fault
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S
from petqc_simulators.physics.controls import Controls, PulseTrain
from petqc_simulators.physics.crystal import (
    CHANNEL,
    DECAY,
    DEPOSIT_COLUMNS,
    E,
    T,
    attenuation_tables,
    klein_nishina_cm2,
)
from petqc_simulators.physics.detector import Detector, _without_last_zeros
from petqc_simulators.physics.draw import codes_for, draw_detector
from petqc_simulators.physics.emission import CLOCK_S, Emission
from petqc_simulators.physics.sipm import dark_pulse_rate_hz, dark_staircase_hz, fired_cells, sipm_state
from petqc_simulators.physics.source import beta_quantiles, source_model
from petqc_simulators.profile import ProfileError, load_profile

BENCH = load_profile("bench")


def deposits_of(emission: Emission, seconds: float) -> np.ndarray:
    rows, n = emission.generate(seconds / CLOCK_S, np.empty((64, DEPOSIT_COLUMNS)), 0)
    return rows[:n].copy()


def run(detector: Detector, blocks: int) -> np.ndarray:
    return np.concatenate([detector.advance().words for _ in range(blocks)])


def hits(words: np.ndarray) -> np.ndarray:
    """Event words of whole frames, headers left out; walks the frames as their headers say."""
    found, place = [], 0
    while place < words.size:
        n = int(words[place + 1]) & 0x7FFF
        found.append(words[place + 2 : place + 2 + n])
        place += 2 + n
    return np.concatenate(found) if found else words[:0]


def only(controls: Controls, channels: list[int], **changes: object) -> Controls:
    mode = np.full(controls.trigger_mode.size, 3)
    mode[channels] = controls.trigger_mode[channels]
    return replace(controls, trigger_mode=mode, **changes)


def test_klein_nishina_and_attenuation_at_511_kev() -> None:
    # Textbook value of the Compton cross-section at 511 keV: 2.865e-25 cm2 per electron.
    assert klein_nishina_cm2(np.array([511.0]))[0] == pytest.approx(2.865e-25, rel=2e-3)
    low = klein_nishina_cm2(np.array([0.5]))[0]
    assert low == pytest.approx(6.652e-25, rel=5e-3), "Thomson's limit"
    dense = replace(BENCH.crystal, fill_factor=1.0)
    per_mm, photo = attenuation_tables(dense)[511]
    assert per_mm * 10 == pytest.approx(0.81, abs=0.04), "LYSO: 0.8 to 0.87 per cm"
    assert 0.30 < photo < 0.36


def test_lutetium_beta_spectrum_has_the_published_mean() -> None:
    energies = beta_quantiles()
    assert energies.max() < 593.0
    assert energies.mean() == pytest.approx(182.0, abs=5.0)
    assert np.all(np.diff(energies) > 0)


def test_rates_of_decays_and_their_poisson_spacing() -> None:
    emission = Emission(BENCH, np.random.default_rng(1))
    rows = deposits_of(emission, 0.5)
    expected = (emission.source_hz + emission.lutetium_hz) * 0.5
    decays = emission.clock[1]
    assert decays == pytest.approx(expected, abs=5 * np.sqrt(expected))
    volume_cm3 = 2 * 256 * 0.32 * 0.32 * 2.0 * BENCH.crystal.fill_factor
    assert emission.lutetium_hz == pytest.approx(265.0 * volume_cm3)
    lutetium = deposits_of(Emission(load_profile("bench", source="none"), np.random.default_rng(2)), 2.0)
    _, first = np.unique(lutetium[:, DECAY], return_index=True)
    gaps = np.diff(np.sort(lutetium[first, T]))
    # Exponential: standard deviation equals the mean; the share above the mean is 1/e.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert rows[:, E].min() > 0


def test_solid_angle_of_the_modules() -> None:
    profile = replace(BENCH, crystal=replace(BENCH.crystal, material="none"))
    model = source_model(profile.source, profile.geometry)
    dense = replace(profile, crystal=replace(profile.crystal, density_g_cm3=2000.0))
    emission = Emission(dense, np.random.default_rng(3))
    seconds = 0.5
    rows = deposits_of(emission, seconds)
    # A square of half side a at distance d: omega = 4 asin(a²/(a²+d²)); black modules stop everything that meets them.
    a, d = 25.6, 50.0
    share = 4 * np.arcsin(a**2 / (a**2 + d**2)) / (4 * np.pi)
    full = rows[np.abs(rows[:, E] - 510.999) < 0.01]
    expected = model.activity_bq * model.pair_yield * 2 * share * 2 * seconds
    photons = 0
    for module in (0, 1):
        mine = full[full[:, CHANNEL] // 256 == module]
        photons += np.unique(mine[:, DECAY]).size
    scattered = rows[np.abs(rows[:, E] - 510.999) >= 0.01]
    assert photons < expected
    total = np.unique(np.stack([rows[:, DECAY], rows[:, CHANNEL] // 256]), axis=1).shape[1]
    gamma = model.activity_bq * model.gamma_yield * 2 * share * seconds
    # Every module that is met shows something; a decay whose pair and gamma meet the same module shows once.
    shown = expected + gamma - (model.activity_bq * model.pair_yield * seconds * 2 * share) * (2 * share) * 1.0
    assert total == pytest.approx(shown, rel=0.03)
    assert scattered.size


def test_pairs_are_back_to_back_and_in_time() -> None:
    profile = replace(BENCH, crystal=replace(BENCH.crystal, material="none"))
    rows = deposits_of(Emission(profile, np.random.default_rng(4)), 0.3)
    full = rows[np.abs(rows[:, E] - 510.999) < 0.01]
    a, b = full[full[:, CHANNEL] >= 256], full[full[:, CHANNEL] < 256]
    _, i, j = np.intersect1d(a[:, DECAY], b[:, DECAY], return_indices=True)
    assert i.size > 2000
    column_a, column_b = a[i, CHANNEL] % 16, b[j, CHANNEL] % 16
    # Seen from the middle, a column on one side faces its mirror image; depth in the crystal moves it a little.
    assert np.abs(column_a + column_b - 15).mean() < 1.5
    dt_ps = (a[i, T] - b[j, T]) * 5000.0
    assert abs(dt_ps.mean()) < 1.0
    # Only depth: exponential absorption in 20 mm, gammas at c, light at c/1.82: some 20 ps between two modules.
    assert 10.0 < dt_ps.std() < 30.0


def test_energy_of_a_decay_is_conserved() -> None:
    profile = load_profile("bench", source="none")
    rows = deposits_of(Emission(profile, np.random.default_rng(5)), 1.0)
    total = np.bincount(rows[:, DECAY].astype(int), rows[:, E])
    assert total.max() < 593.0 + 306.8 + 201.8 + 88.3 + 1e-6
    # The conversion share of the gammas and the betas stay; so the mean lies between the beta's and everything.
    assert 182.0 < total[total > 0].mean() < 182.0 + 597.0


def test_kernels_do_what_their_python_does() -> None:
    profile = BENCH
    compiled, plain = (Emission(profile, np.random.default_rng(7)) for _ in range(2))
    until = 2.0e-4 / CLOCK_S
    rows, n = compiled.generate(until, np.empty((2000, DEPOSIT_COLUMNS)), 0)
    from petqc_simulators.physics import crystal, directions, emission, pcg64, rays

    with pytest.MonkeyPatch.context() as patch:
        for module in (crystal, directions, emission, pcg64, rays):
            for name, value in vars(module).copy().items():
                # What a processor does in one instruction stays compiled: Python has no word for it.
                if hasattr(value, "py_func") and not value.py_func.__module__.endswith(".machine"):
                    patch.setattr(module, name, value.py_func)
        again, m = plain.generate(until, np.empty((2000, DEPOSIT_COLUMNS)), 0)
    assert n == m > 40
    np.testing.assert_array_equal(rows[:n], again[:m])


def test_charge_curves_keep_the_powers_that_any_of_them_has() -> None:
    qdc = np.zeros((3, 10))
    qdc[:, 0] = 1.0
    qdc[1, 3] = 1e-6
    np.testing.assert_array_equal(_without_last_zeros(qdc), qdc[:, :4])


def test_electronics_kernels_do_what_their_python_does() -> None:
    compiled, plain = Detector(BENCH, 3), Detector(BENCH, 3)
    for detector in (compiled, plain):
        detector.settle()
    names = ("light_kev", "timing_sigma_clk", "charge_units", "_latch", "_fine", "_charge_code")
    names += ("sort_by_time", "digitise", "emit", "shift_state")
    want = [compiled.advance().words for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(el, name, getattr(el, name).py_func)
        got = [plain.advance().words for _ in range(2)]
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    words = []
    for seed in (11, 11, 12):
        detector = Detector(BENCH, seed)
        detector.settle()
        words.append(run(detector, 3))
    np.testing.assert_array_equal(words[0], words[1])
    assert words[0].size != words[2].size or (words[0] != words[2]).any()


def test_bias_means_light_gain_and_noise() -> None:
    state = [
        sipm_state(BENCH.sipm, BENCH.crystal, np.array([32.5 + over]), np.array([32.5]), np.zeros(1))
        for over in (0.0, 2.9, 3.0, 3.5)
    ]
    assert state[0].signal[0] == 0.0
    assert state[0].dark_hz[0] == 0.0
    # 100 mV at 3 V is 3 to 6 % of the signal (fault catalogue, F03).
    assert 0.03 < 1 - state[1].signal[0] / state[2].signal[0] < 0.06
    for quantity in ("pde", "gain", "crosstalk", "dark_hz"):
        values = [getattr(s, quantity)[0] for s in state]
        assert values == sorted(values)
        assert values[-1] > values[1]
    warm = sipm_state(BENCH.sipm, BENCH.crystal, np.array([36.0]), np.array([32.5]), np.array([9.0]))
    cool = sipm_state(BENCH.sipm, BENCH.crystal, np.array([36.0 + 0.306]), np.array([32.5]), np.array([9.0]))
    assert warm.overvoltage_v[0] == pytest.approx(3.5 - 0.306)
    assert cool.dark_hz[0] == pytest.approx(2 * 600_000.0), "dark counts double in 9 K at equal overvoltage"
    # Uncompensated signal: some 2 to 4 % per kelvin with the light yield.
    nominal = sipm_state(BENCH.sipm, BENCH.crystal, np.array([36.0]), np.array([32.5]), np.zeros(1))
    per_k = (1 - warm.signal[0] * warm.light[0] / nominal.signal[0]) / 9.0
    assert 0.01 < per_k < 0.04


def test_saturation_and_dark_pulses() -> None:
    cells = np.array([1000.0])
    assert fired_cells(np.array([1.0]), cells)[0] == pytest.approx(1.0, rel=1e-3)
    assert fired_cells(np.array([1e5]), cells)[0] == pytest.approx(1000.0)
    rate = [dark_pulse_rate_hz(np.array([1e6]), np.array([0.25]), np.array([k]))[0] for k in (0.5, 1.5, 2.5)]
    assert rate[0] == pytest.approx(1e6)
    assert rate[1] / rate[0] == pytest.approx(0.2)
    assert rate[2] / rate[1] == pytest.approx(0.2)


def test_staircase_of_dark_counts() -> None:
    dark, crosstalk = np.array([1e6]), np.array([0.25])
    at = np.array([0.5, 1.5, 2.5])
    sharp = dark_staircase_hz(dark, crosstalk, at, np.array([0.0]))
    # Half a cell from a step of 8 % is six widths: the steps are those of the chain; the higher ones are wider.
    assert sharp == pytest.approx([1e6, 2e5, 4e4], rel=2e-3)
    half = dark_staircase_hz(dark, crosstalk, np.array([1.0]), np.array([0.05]))
    assert half[0] == pytest.approx(0.5 * (1e6 + 2e5), rel=1e-3), "half of the single ones pass their own amplitude"
    below = dark_staircase_hz(dark, crosstalk, np.array([-5.0]), np.array([0.1]))
    assert below[0] == pytest.approx(1e6)
    detector = Detector(BENCH, 22)
    detector.settle()
    steps = np.arange(-6, 21)
    vth = detector.controls.vth.copy()
    rates = []
    for step in steps:
        vth[:, 0] = np.floor(detector.draw.zero[:, 0]).astype(np.int64) - step
        rates.append(detector.comparator_dark_hz(replace(detector.controls, vth=vth.copy()))[:, 0].mean())
    rate = dict(zip(steps.tolist(), rates, strict=True))
    assert rate[-6] < 10.0, "held over the threshold by its own baseline it cannot go over it"
    assert rate[0] > 1e7, "noise alone"
    assert rate[3] == pytest.approx(6e5, rel=0.1)
    assert rate[8] == pytest.approx(9e4, rel=0.3)
    detector.set(replace(detector.controls, bias_v=np.zeros_like(detector.controls.bias_v)))
    detector.settle()
    assert detector.comparator_dark_hz(detector.controls)[:, 0].max() < 1.0


def test_no_bias_no_hits_and_each_setting_has_its_effect() -> None:
    detector = Detector(BENCH, 21)
    assert hits(run(detector, 20)).size > 0, "bias outputs settle within some blocks"
    nominal = detector.controls
    detector.set(replace(nominal, bias_v=np.zeros_like(nominal.bias_v)))
    detector.settle()
    run(detector, 2)
    assert hits(run(detector, 20)).size == 0

    def rate(controls: Controls, blocks: int = 60) -> float:
        detector.set(controls)
        detector.settle()
        run(detector, 2)
        return hits(run(detector, blocks)).size / (blocks * BLOCK_S)

    full = rate(nominal)
    assert rate(replace(nominal, vth=nominal.vth - np.array([0, 0, 25]))) < 0.97 * full, (
        "a lower code: higher threshold"
    )
    assert rate(replace(nominal, is_read=np.arange(512) < 256)) == pytest.approx(full / 2, rel=0.05)
    assert rate(only(nominal, list(range(128)))) == pytest.approx(full / 4, rel=0.1)
    assert rate(replace(nominal, bias_v=nominal.bias_v - 2.0)) < full, "less light, less above the threshold"
    low = replace(nominal, vth=np.minimum(nominal.vth + np.array([30, 30, 30]), 63))
    assert rate(low, 3) > 50 * full, "thresholds in the noise"


def test_bias_outputs_follow_with_their_time_constant() -> None:
    detector = Detector(BENCH, 22)
    tau = BENCH.electronics.bias_settle_s
    detector.advance_bias(tau)
    np.testing.assert_allclose(detector.bias_v, detector.controls.bias_v * (1 - np.exp(-1)))
    for _ in range(20):
        detector.advance_bias(tau)
    np.testing.assert_array_equal(detector.bias_v, detector.controls.bias_v)


def test_dead_time_and_four_buffers() -> None:
    detector = Detector(BENCH, 23)
    detector.settle()
    detector.refresh()
    p = detector.parameters
    window, rearm, conversion = p[0, el.WINDOW_CLK], p[0, el.REARM_CLK], p[0, el.CONVERSION_CLK]
    step = window + rearm + 1.0
    clk = 5000.0 + np.arange(6) * step
    rows = np.zeros((8, DEPOSIT_COLUMNS))
    rows[:6, T], rows[:6, E] = clk, 511.0
    rows[6] = rows[0]
    rows[6, T] = clk[0] + conversion + 2 * window  # the first buffer is free again
    buffers = detector._buffers
    counters = np.zeros(el.COUNTERS, np.int64)
    n, used = el.digitise(
        rows,
        7,
        1e9,
        p,
        detector.draw.tdc,
        detector._gids,
        buffers.state_f,
        buffers.state_i,
        buffers.hits_f,
        buffers.hits_i,
        buffers.words,
        0,
        counters,
    )
    assert (n, used) == (5, 7)
    assert counters[el.NO_BUFFER] == 2
    assert counters[el.ACCEPTED] == 5
    tacs = buffers.words[:n] >> np.uint64(40) & np.uint64(3)
    assert tacs.tolist() == [0, 1, 2, 3, 0]


def test_pile_up_adds_the_light_that_comes_in_time() -> None:
    detector = Detector(BENCH, 24)
    detector.settle()
    detector.refresh()
    p = detector.parameters
    window = p[0, el.WINDOW_CLK]
    rows = np.zeros((3, DEPOSIT_COLUMNS))
    rows[:, E] = 511.0
    rows[:, T] = 5000.0 + np.array([0.0, window - 8.0, window + 1.0])
    buffers = detector._buffers
    counters = np.zeros(el.COUNTERS, np.int64)
    n, _ = el.digitise(
        rows,
        3,
        1e9,
        p,
        detector.draw.tdc,
        detector._gids,
        buffers.state_f,
        buffers.state_i,
        buffers.hits_f,
        buffers.hits_i,
        buffers.words,
        0,
        counters,
    )
    assert n == 1
    assert counters[el.PILED] == 1
    assert counters[el.DEAD] == 1
    # 8 clocks are 40 ns, one decay time of the scintillator.
    assert buffers.hits_f[0, el.LIGHT_KEV] == pytest.approx(511.0 * (1 + 1 - np.exp(-1)), rel=1e-6)


def test_test_pulses_come_once_per_pulse_at_their_place() -> None:
    detector = Detector(BENCH, 25)
    mode = np.full(512, 3)
    mode[[5, 300]] = 1
    pulse = PulseTrain(length_clk=100, interval_clk=1024, phase_clk=200.25)
    detector.set(replace(detector.controls, trigger_mode=mode, test_pulse=pulse))
    run(detector, 1)
    words = hits(run(detector, 2))
    channel = words >> np.uint64(42)
    assert np.bincount(channel.astype(int), minlength=512)[[5, 300]].tolist() == [2048, 2048]
    assert words.size == 4096
    coarse = (words >> np.uint64(30) & np.uint64(1023)).astype(int)
    assert set(coarse.tolist()) <= {200, 201, 202}


def test_test_pulses_do_not_know_the_offsets_of_light() -> None:
    """With the TDC table alone every channel sees them at one time, so a table made of them is that table again."""
    detector = Detector(BENCH, 25)
    channels = np.arange(0, 512, 8)
    mode = np.full(512, 3)
    mode[channels] = 1
    pulse = PulseTrain(length_clk=100, interval_clk=1024, phase_clk=200.25)
    detector.set(replace(detector.controls, trigger_mode=mode, is_charge=np.zeros(512, np.bool_), test_pulse=pulse))
    run(detector, 1)
    words = hits(run(detector, 2))
    channel = (words >> np.uint64(42)).astype(int)
    row = 4 * channel + (words >> np.uint64(40) & np.uint64(3)).astype(int)
    for branch, (coarse_at, fine_at, place) in enumerate([(30, 10, 200.25), (20, 0, 300.25)]):
        coarse = (words >> np.uint64(coarse_at) & np.uint64(1023)).astype(float)
        fine = ((words >> np.uint64(fine_at)) + np.uint64(27) & np.uint64(1023)).astype(float)
        t0, a0, a1, a2 = detector.draw.tdc[row, 4 * branch : 4 * branch + 4].T
        at_ps = (coarse - t0 + (a1 - np.sqrt(a1**2 - 4 * (a0 - fine) * a2)) / (2 * a2) - place) * 5000.0
        mean = np.bincount(channel, at_ps)[channels] / np.bincount(channel)[channels]
        assert np.abs(mean).max() < 35.0, "half a code, and what moved since the calibration day"
        assert mean.std() < 12.0
    assert detector.draw.offset_ps[channels].std() > 100.0


def test_frames_are_whole_and_their_ids_run_on() -> None:
    detector = Detector(BENCH, 26)
    detector.settle()
    blocks = [detector.advance() for _ in range(3)]
    for k, block in enumerate(blocks):
        assert block.first_frame == k * BLOCK_FRAMES
        starts = block.starts
        heads, counts = block.words[starts[:-1]], block.words[starts[:-1] + 1]
        ids = heads & np.uint64((1 << 36) - 1)
        np.testing.assert_array_equal(ids, np.arange(BLOCK_FRAMES) + block.first_frame)
        np.testing.assert_array_equal(heads >> np.uint64(36), counts + np.uint64(2))
        np.testing.assert_array_equal(np.diff(starts), (counts + np.uint64(2)).astype(int))
    detector.restart()
    assert detector.advance().first_frame == 0


def test_too_many_hits_for_a_frame_are_lost_and_said_to_be() -> None:
    detector = Detector(BENCH, 27)
    pulse = PulseTrain(length_clk=10, interval_clk=1024, phase_clk=100.0)
    detector.set(replace(detector.controls, trigger_mode=np.ones(512, np.int64), test_pulse=pulse))
    run(detector, 1)
    block = detector.advance()
    counts = block.words[block.starts[:-1] + 1]
    full = counts & np.uint64(0x7FFF)
    assert full.max() == el.MAX_FRAME_EVENTS
    lost = (counts >> np.uint64(16)) & np.uint64(1)
    assert lost.any()
    assert detector.counters[el.LOST_IN_FRAME] > 0


@pytest.mark.parametrize(
    "text",
    [
        "F99",
        "F03=",
        "F03=-5",
        "F03=nan",
        "F03@x",
        "F24@9-3",
        "F24@3-3",
        "F24@-3",
        "F01=1000",
        "",
        "F03=1e",
        "F22@5",
        "F22=2@0-9",
    ],
)
def test_bad_faults_are_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        Fault.parse(text)


def test_faults_change_what_they_should_and_set_in_on_time() -> None:
    geometry = BENCH.geometry
    faults = [Fault.parse(t) for t in ("F01=3", "F02=5000@1", "F03=200", "F14=300@2.5", "F15=50", "F19=10@1")]
    plan = FaultPlan(faults, BENCH, 4)
    early, late = plan.effects(0.0), plan.effects(3.0)
    assert int(early.dead.sum()) == 3
    assert early.extra_hz.sum() == 0
    assert late.extra_hz.max() == 5000
    assert min(early.bias_shift_v) == pytest.approx(-0.2)
    assert int((early.bias_shift_v != 0).sum()) == 1
    assert early.module_delay_ps.sum() == 0
    assert late.module_delay_ps.max() == 300
    assert late.module_jitter_ps.max() == 50
    assert (early.frame_loss, late.frame_loss) == (0.0, pytest.approx(0.1))
    assert plan.onsets_s() == [0.0, 1.0, 2.5]
    assert FaultPlan(faults, BENCH, 4).describe() == plan.describe()
    healthy = Effects.none(geometry)
    assert not healthy.dead.any()


def test_a_dead_and_a_hot_channel_show_in_the_counts() -> None:
    faults = [Fault.parse("F01"), Fault.parse("F02=20000")]
    detector = Detector(BENCH, 28, faults)
    detector.settle()
    counts = np.bincount((hits(run(detector, 150)) >> np.uint64(42)).astype(int), minlength=512)
    places = {d["id"]: d["places"][0] for d in detector.plan.describe()}
    assert counts[places["F01"]] == 0
    assert counts[places["F02"]] > 10 * np.median(counts)
    assert int((counts == 0).sum()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_any_kind_sits_at_one_address_and_a_healthy_detector_has_none(kind: str) -> None:
    detector = Detector(BENCH, 31, [Fault.parse(kind)])
    described = detector.plan.describe()[0]
    assert described["nodes"]
    assert described == detector.plan.describe()[0]
    # Gradients need their minutes.
    healthy, broken = Effects.none(BENCH.geometry), detector.plan.effects(60.0 if kind == "F24" else 0.0)
    moved = [
        name
        for name in Effects.__dataclass_fields__
        if not np.array_equal(getattr(healthy, name), getattr(broken, name))
    ]
    # A setting is in what the QC is configured with, and nothing that the detector does.
    is_setting = detector.plan.configured(BENCH) != BENCH
    assert is_setting == (kind == "F22")
    assert len(moved) == (0 if is_setting else 2 if kind in {"F10", "F27"} else 1), moved


def test_a_wrong_window_is_the_coincidence_window_or_the_lower_energy_edge() -> None:
    right = BENCH.processing
    seen = set()
    for seed in range(8):
        wrong = FaultPlan([Fault.parse("F22=2")], BENCH, seed).configured(BENCH).processing
        if wrong.coincidence_time_window_clk != right.coincidence_time_window_clk:
            assert wrong == replace(right, coincidence_time_window_clk=2.0 * right.coincidence_time_window_clk)
            seen.add("coincidence")
        else:
            assert wrong == replace(right, energy_window_low_kev=200.0)
            seen.add("energy")
    assert seen == {"coincidence", "energy"}


def test_swapped_asics_exchange_their_names_and_nothing_else() -> None:
    plain, swapped = (Detector(BENCH, 32, faults) for faults in ([], [Fault.parse("F21")]))
    one, other = swapped.plan.describe()[0]["places"]
    words = []
    for detector in (plain, swapped):
        detector.settle()
        words.append(hits(detector.advance().words))
    chip = [(w >> np.uint64(48)).astype(int) for w in words]
    assert (chip[1] == np.where(chip[0] == one, other, np.where(chip[0] == other, one, chip[0]))).all()


def test_heat_comes_and_goes_with_minutes_and_the_room_has_a_day() -> None:
    plan = FaultPlan([Fault.parse("F24=4@60-240")], load_profile("ring-small"), 1)
    warm = [plan.effects(t).warmer_k.max() for t in (0.0, 60.0, 150.0, 239.0, 241.0, 420.0, 2000.0)]
    assert warm[:2] == [0.0, 0.0]
    assert warm[2] == pytest.approx(4.0 * (1.0 - np.exp(-0.5)))
    assert warm[3] == pytest.approx(warm[4], rel=0.02)
    assert warm[5] == pytest.approx(warm[4] * np.exp(-179.0 / 180.0), rel=0.02)
    assert warm[6] < 0.01
    assert plan.onsets_s() == [60.0, 240.0]
    assert plan.varies_every_s(0.0) == np.inf
    assert plan.varies_every_s(100.0) == 1.0
    room = FaultPlan([Fault.parse("F07=2")], BENCH, 1)
    assert [round(float(room.effects(h * 3600.0).warmer_k[0]), 3) for h in (0, 6, 12, 24)] == [2.0, 0.0, -2.0, 2.0]


def test_rf_triggers_come_in_bursts_and_only_while_the_sequence_runs() -> None:
    detector = Detector(BENCH, 41, [Fault.parse("F23=20@0.1-0.5")])
    detector.settle()
    module = detector.plan.describe()[0]["places"][0]
    per_block = []
    for _ in range(130):
        chips = (hits(detector.advance().words) >> np.uint64(48)).astype(int)
        per_block.append(int((chips // BENCH.geometry.asics_per_module == module).sum()))
    counts = np.array(per_block)
    running = counts[20:94]
    assert 0.08 < (running > 3 * np.median(counts)).mean() < 0.2, "one block in eight"
    assert not (counts[:18] > 3 * np.median(counts)).any()
    assert not (counts[98:] > 3 * np.median(counts)).any()


def test_time_stamps_a_frame_off_leave_the_singles_and_take_the_coincidences() -> None:
    def pairs(faults: list[Fault]) -> tuple[int, int]:
        detector = Detector(BENCH, 42, faults)
        detector.settle()
        clk, module = [], []
        for _ in range(60):
            block = detector.advance()
            frame = np.repeat(np.arange(BLOCK_FRAMES) + block.first_frame, np.diff(block.starts) - 2)
            words = hits(block.words)
            clk.append(frame * 1024 + ((words >> np.uint64(30)) & np.uint64(1023)).astype(int))
            module.append((words >> np.uint64(48)).astype(int) // BENCH.geometry.asics_per_module)
        at, of = np.concatenate(clk), np.concatenate(module)
        order = np.argsort(at, kind="stable")
        at, of = at[order], of[order]
        return at.size, int(((np.diff(at) <= 1) & (np.diff(of) != 0)).sum())

    n, together = pairs([])
    n_off, apart = pairs([Fault.parse("F20")])
    assert n_off == pytest.approx(n, rel=0.02)
    assert apart < 0.2 * together


def test_slow_and_rare_faults_move_what_they_should() -> None:
    healthy = Detector(BENCH, 43)
    for text in ("F04", "F08=100", "F11=4", "F18=50", "F28=30", "F17=40"):
        detector = Detector(BENCH, 43, [Fault.parse(text)])
        for one in (healthy, detector):
            one.restart()
            one.settle()
            run(one, 20)
            one.refresh()
        change = detector.parameters - healthy.parameters
        moved = {int(k) for k in np.flatnonzero(np.abs(change).max(axis=0) > 1e-9)}
        expected = {
            "F04": {el.SIGNAL, el.LIGHT_VARIANCE},
            "F08=100": {el.PHOTON_VARIANCE},
            "F11=4": {el.AMPLIFIER_VARIANCE, el.NOISE_VARIANCE},
            "F18=50": {el.REARM_CLK},
            "F28=30": set(),
            "F17=40": {el.SIGNAL},
        }[text]
        assert expected <= moved, text
        if text == "F17=40":
            rate_khz = detector.counters[el.ACCEPTED] / 512 / (20 * 1024 * 1024 * 5e-9) / 1000.0
            assert change[:, el.SIGNAL].mean() == pytest.approx(-0.4 * rate_khz * (1.0 - 0.9**20), rel=0.15)
        if text == "F28=30":
            counts = [
                np.bincount((hits(run(d, 200)) >> np.uint64(42)).astype(int), minlength=512)
                for d in (healthy, detector)
            ]
            leaky = np.flatnonzero(detector.effects.leak)
            assert leaky.size == 64
            row_ends = counts[1][leaky].sum() / counts[0][leaky].sum()
            assert row_ends == pytest.approx(1.0, abs=0.06), "most go to a crystal of the same ASIC"


def test_a_misplaced_source_lights_the_nearer_module_more() -> None:
    emission = Emission(BENCH, np.random.default_rng(33), 15.0)
    emission.move_source(np.array([0.0, 0.0, 15.0]))
    rows = deposits_of(emission, 0.05)
    per_module = np.bincount((rows[:, CHANNEL] // 256).astype(int), minlength=2)
    assert per_module[1] > 1.3 * per_module[0]


def test_lost_slices_leave_gaps() -> None:
    detector = Detector(BENCH, 29, [Fault.parse("F19=50")])
    detector.settle()
    blocks = [detector.advance() for _ in range(40)]
    frames = sum(b.starts.size - 1 for b in blocks)
    assert frames % (BLOCK_FRAMES // 4) == 0
    assert frames == 40 * BLOCK_FRAMES - detector.slices_lost * BLOCK_FRAMES // 4
    assert 0.3 < detector.slices_lost / 160 < 0.7


def test_bias_codes_never_give_more_than_asked() -> None:
    draw = draw_detector(BENCH, 1)
    wanted = draw.breakdown_found_v + BENCH.sipm.overvoltage_v
    got = draw.output_v(draw.bias_code)
    assert (got <= wanted + 1e-4).all()
    assert (got >= wanted - 2e-3).all()
    points = np.array([[0.0, 10.0]])
    assert codes_for(np.array([5.05]), points, np.array([0, 100])).tolist() == [50]


def test_profiles_are_refused_with_the_key_named(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    text = (Path(__file__).parents[2] / "simulators/petqc_simulators/profiles/bench.toml").read_text()
    changes = {
        "pitch_mm = 3.2": "pitch_mmm = 3.2",
        "columns = 16": 'columns = "16"',
        "[today]": "[tomorrow]",
        'kind = "na22"': 'kind = "co60"',
    }
    for (old, new), word in zip(changes.items(), ("pitch_mmm", "columns", "tomorrow", "co60"), strict=True):
        path = folder / "p.toml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ProfileError, match=word):
            load_profile(str(path))
    with pytest.raises(ProfileError, match="bench"):
        load_profile("no-such-profile")


def test_two_seeds_differ_in_everything_that_is_drawn() -> None:
    a, b = draw_detector(BENCH, 1), draw_detector(BENCH, 2)
    for name in ("breakdown_v", "cells", "photoelectrons_per_kev", "tdc", "zero", "offset_ps", "light_today"):
        assert (getattr(a, name) != getattr(b, name)).mean() > 0.9, name
    assert (a.qdc[:, :4] != b.qdc[:, :4]).all()
    for first, second in itertools.pairwise([a, draw_detector(BENCH, 1)]):
        np.testing.assert_array_equal(first.tdc, second.tdc)
