"""Every check on a toy detector with planted truth: right where healthy, flagged where broken, silent where blind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from petqc import checks as checks_folder
from petqc import diagnosis
from petqc.analysis import RunContext, analyse
from petqc.channel_map import Topology
from petqc.checks import all_checks, check, checks_of, get_check, run_checks, unused_hits
from petqc.errors import BadInputError
from petqc.events import Coincidences, Singles
from petqc.fits.offsets import Depths, solve_offsets
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Limits, Status
from petqc.processing import DROP_REASONS
from petqc.qc_input import QcInput, widened
from petqc.report import render_html

N = 512
COLUMN, ROW = np.tile(np.arange(16), 32), np.tile(np.repeat(np.arange(16), 16), 2)
MODULE = np.arange(N) // 256
X, Y, Z = (COLUMN - 7.5) * 3.2, (ROW - 7.5) * 3.2, np.where(MODULE == 0, -60.0, 60.0)
TOPOLOGY = Topology.from_channels(
    np.arange(N, dtype=np.int32),
    column=COLUMN.astype(np.int16),
    row=ROW.astype(np.int16),
    xyz_mm=np.stack([X, Y, Z], axis=1).astype(np.float32),
)
SECONDS = 10.0
CTR, RESOLUTION = 220.0, 0.105
ACCOUNT = {"frames": 1000, "frames_lost": 0, "frames_partly_lost": 0}


class Toy:
    """A detector of two facing modules, events drawn from what the checks assume and no more."""

    def __init__(self, seed=1, n_pairs=60_000, n_singles=500_000):
        self.rng = np.random.default_rng(seed)
        self.n_pairs, self.n_singles = n_pairs, n_singles
        self.gain = np.ones(N)
        self.offset = self.rng.normal(0.0, 4.0, N)
        self.rate = np.ones(N)
        self.ctr = CTR
        self.randoms = 0.05
        self.n_delayed = 0

    def histograms(self, topology=TOPOLOGY):
        h = QcHistograms(topology, "kev", HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=10_000))
        h.add_singles(self.singles())
        h.add_prompts(self.pairs())
        h.add_delayed(self.delayed())
        return h

    def run(self, **context):
        known = {"elapsed_s": SECONDS, "live_time_s": SECONDS, "account": ACCOUNT, **context}
        return analyse(self.histograms(), RunContext("toy", **known))

    def singles(self):
        rng, n = self.rng, self.n_singles
        channel = rng.choice(N, n, p=self.rate / self.rate.sum()).astype(np.int32)
        kind = rng.random(n)
        s = RESOLUTION * 511.0 / 2.35482
        energy = np.where(kind < 0.45, rng.normal(511.0, s, n), rng.uniform(32.0, 1200.0, n)) * self.gain[channel]
        time = np.sort(rng.integers(0, int(SECONDS * 1e12), n))
        return Singles(time, energy.astype(np.float32), channel, np.ones(n, np.uint8), "kev")

    def pairs(self):
        rng, n = self.rng, self.n_pairs
        a = rng.integers(256, 512, n)
        b = np.clip(ROW[a] + rng.integers(-1, 2, n), 0, 15) * 16 + np.clip(COLUMN[a] + rng.integers(-1, 2, n), 0, 15)
        flight = np.sqrt(X**2 + Y**2 + Z**2) / 0.299792458
        dt = rng.normal(0.0, self.ctr / 2.35482, n) + self.offset[a] - self.offset[b] + flight[a] - flight[b]
        extra = int(n * self.randoms)
        a = np.concatenate([a, rng.integers(256, 512, extra)])
        b = np.concatenate([b, rng.integers(0, 256, extra)])
        dt = np.concatenate([dt, rng.uniform(-5000, 5000, extra)])
        alive = (self.rate[a] > 0) & (self.rate[b] > 0)
        return self._coincidences(a[alive], b[alive], dt[alive])

    def delayed(self):
        rng, n = self.rng, self.n_delayed
        return self._coincidences(rng.integers(256, 512, n), rng.integers(0, 256, n), rng.uniform(-5000, 5000, n))

    def _coincidences(self, a, b, dt):
        n = a.size
        time = self.rng.integers(0, int(SECONDS * 1e12), n)
        energy, one = np.full(n, 511.0, np.float32), np.ones(n, np.uint8)
        return Coincidences(
            time + np.rint(dt).astype(np.int64),
            time,
            energy,
            energy,
            a.astype(np.int32),
            b.astype(np.int32),
            one,
            one,
            "kev",
        )


@pytest.fixture(scope="module")
def healthy():
    toy = Toy()
    return toy, toy.run()


def column(run, id_):
    return next(c for c in run.columns if c.id == id_)


# --- the registry ----------------------------------------------------------------------------------------------------


def test_every_file_is_a_check_with_source_and_order():
    files = {p.stem for p in Path(checks_folder.__file__).parent.glob("*.py")} - {"__init__"}
    assert {c.id for c in all_checks()} == files
    assert [c.order for c in all_checks()] == sorted(c.order for c in all_checks())
    assert all_checks()[0].id == "photopeak"
    for one in all_checks():
        assert one.title
        assert one.levels
        assert "daily-qc.md" in one.source
    assert get_check("photopeak").unit == "keV"
    with pytest.raises(BadInputError, match="no check 'nothing'"):
        get_check("nothing")
    with pytest.raises(ValueError, match="registered twice"):
        check("photopeak", title="x", unit="x", levels=("scanner",), source="x", order=1)(lambda _: None)


def test_limits_are_defaults_baselines_and_overrides():
    ctr = get_check("ctr_fit")
    assert ctr.limits_at("scanner", None, None) == Limits(warn_high=650.0, fail_high=750.0)
    by_baseline = ctr.limits_at("scanner", 220.0, None)
    assert (by_baseline.warn_high, by_baseline.fail_high) == (pytest.approx(226.6), pytest.approx(242.0))
    assert ctr.limits_at("scanner", 220.0, {"fail_high": 300.0}).fail_high == 300.0
    with pytest.raises(BadInputError, match="limit 'warnhigh' of ctr_fit"):
        ctr.limits_at("scanner", None, {"warnhigh": 1.0})
    assert widened(Limits(0.9, 0.97, 1.03, 1.1), 0.1) == Limits(0.5, 0.7, 1.3, 1.5)
    assert widened(Limits(warn_high=650.0), 1000.0) == Limits(warn_high=650.0)


# --- a healthy detector ----------------------------------------------------------------------------------------------


def test_healthy_detector_passes(healthy):
    _, run = healthy
    assert run.verdict is Status.PASS
    assert run.sentence.startswith("Scan: ")
    assert "CTR" in run.sentence
    assert [c for c in run.checks if c.status in {Status.WARN, Status.FAIL, Status.INVALID}] == []


def test_measured_values_are_the_planted_ones(healthy):
    toy, run = healthy
    for id_, truth in (("photopeak", 511.0), ("energy_resolution", 10.5)):
        for node in ("scanner", "module:0.0.0", "module:0.0.1"):
            result = run.find(id_, node)
            assert abs(result.value - truth) < 4 * result.uncertainty
            assert result.uncertainty < 0.01 * truth
    skew = 2 * 16.0 * 2.355**2  # channel offsets of 4 ps on either side are part of the width
    true_ctr = np.sqrt(CTR**2 + skew)
    for id_ in ("ctr_fit", "ctr_nema"):
        result = run.find(id_)
        assert abs(result.value - true_ctr) < 4 * result.uncertainty
    late = toy.offset[256:].mean() - toy.offset[:256].mean()
    a, b = run.find("module_time_offset", "module:0.0.1"), run.find("module_time_offset", "module:0.0.0")
    assert a.value == pytest.approx(-b.value)
    assert a.value - b.value == pytest.approx(late, abs=8 * a.uncertainty)
    assert run.find("singles_rate").value == pytest.approx(50_000.0)
    assert run.find("live_time").value == 100.0
    assert run.find("lost_frames").value == 0.0
    assert run.find("window_acceptance").value > 99.9


def test_channel_columns_have_honest_uncertainties(healthy):
    toy, run = healthy
    assert {c.id for c in run.columns} >= {
        "photopeak", "energy_resolution", "module_time_offset", "dead_channels", "hot_channels", "singles_rate",
        "timing_width", "time_tails", "energy_onset", "block_efficiency",
    }  # fmt: skip
    for one in run.columns:
        assert one.value.shape == one.uncertainty.shape == one.status.shape == one.reason.shape == (N,)
    peak = column(run, "photopeak")
    pulls = (peak.value - 511.0) / peak.uncertainty
    assert abs(pulls.mean()) < 0.4
    assert pulls.std() == pytest.approx(1.0, abs=0.15)
    time = column(run, "module_time_offset")
    truth = toy.offset - np.where(MODULE == 0, toy.offset[:256].mean(), toy.offset[256:].mean())
    pulls = (time.value - truth) / time.uncertainty
    assert pulls.std() == pytest.approx(1.0, abs=0.2)
    asics = [c for c in run.checks if c.id == "module_time_offset" and c.node.startswith("asic:")]
    assert len(asics) == 8
    for result in asics:
        chip = int(result.node.split(".")[-1])
        mine = truth[64 * chip : 64 * chip + 64].mean()
        assert abs(result.value - mine) < 4 * result.uncertainty


def test_spectra_show_fit_and_window(healthy):
    _, run = healthy
    energy = next(s for s in run.spectra if s.id == "energy" and s.node == "scanner")
    assert energy.window == (425.0, 650.0)
    inside = np.isfinite(energy.fit)
    assert energy.fit[inside].sum() == pytest.approx(energy.counts[inside].sum(), rel=1e-3)
    assert (energy.background[inside] < energy.fit[inside]).all()
    time = next(s for s in run.spectra if s.id == "time")
    assert time.fit.sum() == pytest.approx(time.counts.sum(), rel=1e-3)
    assert time.delayed.shape == time.counts.shape


# --- faults ----------------------------------------------------------------------------------------------------------


def test_dead_channels():
    toy = Toy(2)
    toy.rate[[3, 300]] = 0.0
    run = toy.run()
    assert run.find("dead_channels").value == 2
    assert run.find("dead_channels").status is Status.WARN
    assert run.find("dead_channels", "module:0.0.0").reason == "channel 0.0.0.3"
    status = column(run, "dead_channels").status
    assert sorted(np.flatnonzero(status == "fail")) == [3, 300]
    assert np.isnan(column(run, "photopeak").value[3])
    assert column(run, "photopeak").status[3] == "invalid"
    assert run.sentence.startswith("Scan, but look at 2 dead channels")
    toy = Toy(2)
    toy.rate[64:128] = 0.0
    run = toy.run()
    assert run.find("dead_channels").value == 64
    assert run.verdict is Status.FAIL
    assert "dead channels" in run.sentence


def test_too_few_counts_for_dead_and_hot_channels_say_how_long_would_do():
    toy = Toy(2)
    toy.n_singles = 16 * 512
    run = toy.run()
    for name in ("dead_channels", "hot_channels"):
        result = run.find(name, "module:0.0.0")
        assert result.value is None
        seconds = float(re.search(r"measure for at least ([0-9.e+]+) s$", result.reason)[1])
        assert 25 / 18 * SECONDS < seconds < 25 / 14 * SECONDS * 1.1
    assert "times as long" in run.sentence


def test_a_dead_module_is_dead_not_unknown():
    toy = Toy(3)
    toy.rate[256:] = 0.0
    run = toy.run()
    assert run.verdict is Status.FAIL
    result = run.find("dead_channels", "module:0.0.1")
    assert (result.value, result.status) == (256.0, Status.FAIL)
    assert run.find("singles_rate", "module:0.0.1").value is None
    assert run.find("prompts").reason == "no coincidences between modules"


def test_hot_channel():
    toy = Toy(4)
    toy.rate[200] = 30.0
    run = toy.run()
    result = run.find("hot_channels", "module:0.0.0")
    assert (result.value, result.status) == (1.0, Status.WARN)
    assert "channel 0.0.3.8 at 30" in result.reason or "channel 0.0.3.8 at 29" in result.reason
    assert run.find("hot_channels", "module:0.0.1").value == 0.0
    assert run.sentence.startswith("Scan, but look at 1 hot channel in module 0.0.0")


@pytest.mark.parametrize(("gain", "status"), [(0.995, Status.PASS), (0.98, Status.WARN), (0.94, Status.FAIL)])
def test_gain_of_one_module(gain, status):
    toy = Toy(5)
    toy.gain[256:] = gain
    run = toy.run()
    result = run.find("photopeak", "module:0.0.1")
    assert result.value == pytest.approx(511.0 * gain, abs=1.0)
    assert result.status is status
    assert run.find("photopeak", "module:0.0.0").status is Status.PASS
    if status is Status.FAIL:
        assert run.sentence.startswith("Do not scan: photopeak position of module 0.0.1 is 48")
        assert "below the fail limit of 495.7 keV" in run.sentence


def test_one_channel_and_one_asic_are_named():
    toy = Toy(6, n_singles=800_000)
    toy.gain[[10, 11, 12, 13, 14, 15, 16]] = 0.85
    run = toy.run()
    assert run.find("photopeak.channels_outside").value == 7
    assert run.find("photopeak.channels_outside").status is Status.FAIL
    assert "channel 0.0.0.10" in run.find("photopeak.channels_outside").reason
    toy = Toy(6)
    toy.gain[64:128] = 0.95
    run = toy.run()
    assert run.find("photopeak", "asic:0.0.1").status is Status.FAIL
    assert "ASIC 0.0.1" in run.sentence


def test_two_gains_in_one_module_are_two_humps():
    toy = Toy(7)
    toy.gain[256:384], toy.gain[384:] = 0.8, 1.25
    run = toy.run()
    result = run.find("photopeak", "module:0.0.1")
    assert result.value is None
    assert "two humps" in result.reason
    assert run.verdict in {Status.INVALID, Status.FAIL}


@pytest.mark.parametrize(("step", "status"), [(20.0, Status.PASS), (60.0, Status.WARN), (300.0, Status.FAIL)])
def test_clock_step_of_one_module(step, status):
    toy = Toy(8)
    toy.offset += np.where(MODULE == 1, 0.5 * step, -0.5 * step) - toy.offset
    run = toy.run()
    late, early = run.find("module_time_offset", "module:0.0.1"), run.find("module_time_offset", "module:0.0.0")
    assert late.value == pytest.approx(0.5 * step, abs=1.5)
    assert early.value == pytest.approx(-0.5 * step, abs=1.5)
    assert late.status is status
    # A skew of two modules moves the peak and does not widen it.
    assert run.find("ctr_fit").value == pytest.approx(CTR, rel=0.03)


def test_offset_of_one_asic_and_of_one_channel():
    toy = Toy(9)
    toy.offset[320:384] += 100.0
    toy.offset[40] += 400.0
    run = toy.run()
    asic = run.find("module_time_offset", "asic:0.0.5")
    assert asic.value == pytest.approx(75.0, abs=12.0)  # a quarter of the module's channels moves its mean
    assert asic.status in {Status.WARN, Status.FAIL}
    assert abs(run.find("module_time_offset", "asic:0.0.0").value) < 20.0
    time = column(run, "module_time_offset")
    assert time.value[40] == pytest.approx(400.0, abs=35.0)
    assert time.status[40] == "fail"


def test_ctr_against_its_baseline():
    toy = Toy(10)
    toy.ctr = 300.0
    run = toy.run(baselines={"ctr_fit": {"scanner": 220.0}})
    result = run.find("ctr_fit")
    assert result.status is Status.FAIL
    assert result.baseline == 220.0
    assert "above the fail limit of 242 ps" in run.sentence
    assert Toy(10).run(baselines={"ctr_fit": {"scanner": 220.0}}).find("ctr_fit").status is Status.PASS


def test_a_baseline_of_few_counts_is_as_uncertain_as_they_make_it():
    """Both sides of the difference are noisy: where both have the same, limits are wider by the root of two."""
    of_asic = {"singles_rate": {"asic:0.0.0": 20_000.0}}

    def judged(**context):
        context = RunContext("toy", baselines=of_asic, **context)
        q = QcInput(QcHistograms(TOPOLOGY, "kev", HistogramSettings()), context)
        return q.judge("singles_rate", ("asic", "asic:0.0.0"), 19_200.0, "1/s", 200.0, 9_216)

    known, alike = judged(), judged(baseline_errors={"singles_rate": {"asic:0.0.0": 200.0}})
    room = 20_000.0 - known.limits.warn_low
    assert room > 400.0, "noise, and not two per cent, makes the limit"
    assert 20_000.0 - alike.limits.warn_low == pytest.approx(2**0.5 * room)
    assert (known.status, alike.status) == (Status.WARN, Status.PASS)
    assert (known.uncertainty, alike.uncertainty) == (200.0, 200.0)


LYSO = {"crystal_material": "lyso", "crystal_mm": (3.1, 3.1, 20.0)}
OWN_SINGLES = round(0.1922 * 265.0 * N * SECONDS)
"""Decays of Lu-176 in these crystals, each of which makes one single."""


@pytest.mark.parametrize(("singles", "pairs", "seen"), [(1.0, 0, False), (1.0, 3_000, True), (4.0, 0, True)])
def test_a_source_that_was_forgotten_is_no_broken_detector(singles, pairs, seen):
    run = Toy(12, n_pairs=pairs, n_singles=round(singles * OWN_SINGLES)).run(**LYSO)
    assert (run.find("source_seen").value is not None) is seen
    if seen:
        assert run.find("source_seen").value == pytest.approx(run.find("source_seen").n / OWN_SINGLES, rel=0.01)
        assert run.find("photopeak")
        return
    assert run.verdict is Status.INVALID
    assert run.sentence == (
        "Not measured: source: not seen: no more singles than the crystals make themselves, and no pairs; put it in "
        "and measure again."
    )
    assert {c.id for c in run.checks} & {"photopeak", "energy_resolution", "ctr_fit", "prompts"} == set()
    assert run.find("dead_channels")


@pytest.mark.parametrize(("singles", "is_told"), [(1.3, True), (4.0, False)])
def test_where_the_crystals_own_line_is_the_highest_the_photopeak_is_still_the_sources(singles, is_told):
    """A weak source: the line of 307 keV is as high as that of 511 keV, or twice; the crystals say which is meant."""
    toy = Toy(14, n_singles=round(singles * OWN_SINGLES))
    drawn = toy.singles()
    is_own = toy.rng.random(len(drawn)) < 0.35
    drawn.energy[is_own] = toy.rng.normal(307.0, 0.14 * 307.0 / 2.35482, int(is_own.sum()))
    toy.singles = lambda: drawn
    peak = toy.run(**LYSO).find("photopeak")
    if is_told:
        assert peak.value == pytest.approx(511.0, abs=1.0)
        drawn.energy[np.abs(drawn.energy - 511.0) < 60.0] = 100.0
        assert toy.run(**LYSO).find("photopeak").value is None  # and no other line is taken for it
    else:  # a source that makes four times as many: what stands highest is its photopeak, wherever that is
        assert peak.value == pytest.approx(307.0, abs=3.0)


def test_without_knowing_the_crystals_nobody_says_whether_a_source_is_there():
    run = Toy(12, n_pairs=0, n_singles=OWN_SINGLES).run()
    assert not [c for c in run.checks if c.id == "source_seen"]
    assert run.find("photopeak")


def test_limits_can_be_overridden():
    run = Toy(11).run(limits={"ctr_fit": {"warn_high": 100.0}, "photopeak.module": {"warn_low": 512.5}})
    assert run.find("ctr_fit").status is Status.WARN
    assert run.find("photopeak", "module:0.0.0").status is Status.WARN
    assert run.find("photopeak").status is Status.PASS


def test_lost_frames_and_live_time():
    run = Toy(12).run(account={"frames": 1000, "frames_lost": 20, "frames_partly_lost": 70}, live_time_s=9.8)
    assert run.find("lost_frames").value == pytest.approx(2.0)
    assert run.find("lost_frames").status is Status.WARN
    assert run.find("lost_frames.incomplete").status is Status.FAIL
    assert run.find("live_time").status is Status.WARN
    assert run.find("live_time").value == pytest.approx(98.0)
    none = Toy(12).run(account={"frames": 0}, elapsed_s=0.0, live_time_s=0.0)
    assert none.find("lost_frames").value is None
    assert none.find("live_time").value is None
    assert Toy(12).run(account={}, elapsed_s=None, live_time_s=None).find("lost_frames") is None


def test_randoms_against_singles():
    toy = Toy(13)
    h = toy.histograms()
    expected = 10_000e-12 * h.singles_in_window[:256].sum() * h.singles_in_window[256:].sum() / SECONDS
    toy = Toy(13)
    toy.n_delayed = round(2 * expected)  # either way
    run = toy.run()
    result = run.find("randoms_delayed")
    assert result.value == pytest.approx(1.0, abs=0.05)
    assert run.find("randoms_delayed.rate").value == pytest.approx(expected / SECONDS, rel=0.05)
    toy = Toy(13)
    toy.n_delayed = round(8 * expected)
    assert toy.run().find("randoms_delayed").status in {Status.WARN, Status.FAIL}
    few = Toy(13).run().find("randoms_delayed")
    assert few.value is None
    assert few.status is Status.NO_LIMITS  # too few randoms is no fault


# --- what cannot be measured -----------------------------------------------------------------------------------------


def test_too_few_counts_give_no_numbers():
    run = Toy(14, n_pairs=100, n_singles=300).run()
    assert run.verdict is Status.INVALID
    for id_ in ("photopeak", "ctr_fit", "module_time_offset", "dead_channels"):
        results = [c for c in run.checks if c.id == id_]
        assert results
        assert all(c.value is None for c in results)
    assert run.sentence.startswith("Not measured: ")
    assert "wanted" in run.sentence


def test_nothing_at_all():
    h = QcHistograms(TOPOLOGY, "kev", HistogramSettings(energy_window=(425.0, 650.0)))
    run = analyse(h, RunContext("empty", elapsed_s=1.0, live_time_s=1.0, account={"frames": 0}))
    assert run.verdict is Status.FAIL  # 512 channels without a count are dead
    assert run.find("dead_channels").value == 512
    nothing = analyse(QcHistograms(Topology.from_channels(np.empty(0, np.int32)), "kev"), RunContext("none"))
    assert nothing.verdict is Status.INVALID


def test_nema_rule_refuses_low_counts():
    toy = Toy(15, n_pairs=2500)
    run = toy.run()
    assert run.find("ctr_fit").value == pytest.approx(CTR, rel=0.1)
    refused = run.find("ctr_nema")
    assert refused.value is None
    assert "below 3000" in refused.reason
    assert refused.status is Status.NO_LIMITS


def test_nema_uncertainty_covers_the_rule():
    pulls = []
    for seed in range(20, 32):
        h = QcHistograms(TOPOLOGY, "kev", HistogramSettings(coincidence_window_ps=10_000))
        toy = Toy(seed, n_pairs=8_000)
        toy.offset[:] = 0.0
        h.add_prompts(toy.pairs())
        result = get_check("ctr_nema").function(QcInput(h, RunContext("toy"))).results[0]
        pulls.append((result.value - CTR) / result.uncertainty)
    assert abs(np.mean(pulls)) < 1.0
    assert 0.4 < np.std(pulls) < 1.6


def test_extended_source_gives_a_width_that_is_no_ctr():
    run = Toy(16).run(source="extended")
    result = run.find("ctr_fit")
    assert result.method.startswith("width_extended")
    assert result.status is Status.NO_LIMITS
    assert any("not a CTR" in note for note in run.notes)


def test_uncalibrated_energies_are_not_judged():
    toy = Toy(17)
    h = QcHistograms(TOPOLOGY, "arbitrary", HistogramSettings(energy_bin=0.5, coincidence_window_ps=10_000))
    s = toy.singles()
    h.add_singles(replace(s, energy=s.energy / 10.0, energy_unit="arbitrary"))
    run = analyse(h, RunContext("toy", live_time_s=SECONDS, has_pair_search=False))
    result = run.find("photopeak", "module:0.0.0")
    assert result.value == pytest.approx(51.1, abs=0.3)
    assert (result.unit, result.status) == ("a.u.", Status.NO_LIMITS)
    assert any("not calibrated in keV" in note for note in run.notes)
    assert run.find("window_acceptance") is None


def test_false_alarms_of_a_healthy_detector_are_rare():
    """Channels are flagged at 5 sigma: in a few thousand healthy ones none is. Source: daily-qc.md §0.5."""
    flagged = 0
    for seed in range(40, 44):
        run = Toy(seed, n_pairs=20_000, n_singles=250_000).run()
        flagged += sum(int(np.isin(c.status, ["warn", "fail"]).sum()) for c in run.columns)
        assert run.verdict in {Status.PASS, Status.WARN}
    assert flagged == 0


def test_parallax_is_fitted_along():
    toy = Toy(18, n_pairs=200_000)
    toy.randoms = 0.0
    h = QcHistograms(TOPOLOGY, "kev")
    h.add_prompts(toy.pairs())
    a, b, dt = h.pairs()
    distance = np.hypot(X, Y)
    flight = np.sqrt(X**2 + Y**2 + Z**2) / 0.299792458
    deep = 4.0 * np.clip(distance[a] - distance[b], -4.0, 4.0)  # the outer crystal of a pair was hit deeper
    dt = dt - (flight[a] - flight[b]) - deep
    start, window = np.zeros(N), 10_000.0
    blind = solve_offsets(a, b, dt, N, window_ps=window, start_ps=start, sigma_ps=93.0)
    further = distance[a] - distance[b]
    depths = Depths(np.minimum(np.abs(further) / 0.5, 15).astype(np.int16), np.sign(further).astype(np.int8), 16)
    solution = solve_offsets(a, b, dt, N, window_ps=window, start_ps=start, sigma_ps=93.0, depths=depths)
    seeing = solution.with_errors()
    truth = toy.offset - toy.offset.mean()
    assert (blind.offset_ps - truth).std() > 2.0 * (seeing.offset_ps - truth).std()
    assert ((seeing.offset_ps - truth) / seeing.error_ps).std() < 1.5


def test_single_modules_from_pairs_name_the_bad_one():
    """Source: daily-qc.md §2c, module-pair CTR by non-negative least squares."""
    rng = np.random.default_rng(6)
    channels = (np.arange(4) * 256).astype(np.int32)
    h = QcHistograms(Topology.from_channels(channels), "kev", HistogramSettings(coincidence_window_ps=10_000))
    sigma = np.array([60.0, 60.0, 60.0, 110.0])
    for i in range(4):
        for j in range(i):
            n = 20_000
            dt = np.rint(rng.normal(0.0, np.hypot(sigma[i], sigma[j]), n)).astype(np.int64)
            zero, one, e = np.zeros(n, np.int64), np.ones(n, np.uint8), np.full(n, 511.0, np.float32)
            a, b = np.full(n, channels[i]), np.full(n, channels[j])
            h.add_prompts(Coincidences(dt, zero, e, e, a, b, one, one, "kev"))
    output = get_check("ctr_fit").function(QcInput(h, RunContext("toy")))
    modules = [r for r in output.results if r.node.startswith("module:") and " - " not in r.node]
    assert len(modules) == 4
    for result, s in zip(modules, sigma, strict=True):
        assert abs(result.value - 2.35482 * s) < 4 * result.uncertainty
    assert max(modules, key=lambda r: r.value).node == "module:0.0.3"


def test_a_run_with_too_few_counts_says_how_long_would_do():
    run = Toy(seed=9, n_pairs=1500, n_singles=20_000).run()
    assert run.verdict is Status.INVALID
    found = re.search(r"Counts are too few: measure ([0-9.]+) times as long, ([0-9.e+]+) s\.$", run.sentence)
    assert found is not None, run.sentence
    assert 1.0 < float(found[1]) < 50.0
    assert float(found[2]) == pytest.approx(SECONDS * float(found[1]), rel=0.06)


def windows_of(**context):
    settings = HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=10_000)
    q = QcInput(QcHistograms(TOPOLOGY, "kev", settings), RunContext("toy", **context))
    return {c.id: c for c in get_check("windows").function(q).results}


def test_windows_in_use_are_held_against_the_baseline_and_said_without_one():
    alone = windows_of(account=ACCOUNT)
    assert {id_: (c.value, c.unit) for id_, c in alone.items()} == {
        "windows.coincidence": (10.0, "ns"),
        "windows.energy_low": (425.0, "keV"),
        "windows.energy_high": (650.0, "keV"),
    }  # fmt: skip
    assert all(c.status is Status.NO_LIMITS and "nothing to compare with" in c.reason for c in alone.values())
    accepted = {"windows.coincidence": {"scanner": 5.0}, "windows.energy_low": {"scanner": 430.0}}
    held = windows_of(account=ACCOUNT, baselines={**accepted, "windows.energy_high": {"scanner": 650.0}})
    status = {id_.partition(".")[2]: c.status for id_, c in held.items()}
    assert status == {"coincidence": Status.FAIL, "energy_low": Status.WARN, "energy_high": Status.PASS}
    assert held["windows.coincidence"].baseline == 5.0
    assert windows_of() == {}, "files of sorted events have no windows"


def test_windows_of_a_known_kind_of_scanner_are_held_against_the_published_ones_without_failing():
    from petqc.scanners import load_scanner

    status = {id_: c.status for id_, c in windows_of(account=ACCOUNT, reference=load_scanner("ge-signa-petmr")).items()}
    assert status == {
        "windows.coincidence": Status.WARN, "windows.energy_low": Status.PASS, "windows.energy_high": Status.PASS,
    }  # fmt: skip


def test_a_crystal_with_counts_and_without_a_photopeak_is_no_pass(healthy):
    toy, _ = healthy
    h = toy.histograms()
    h.energy_counts[77] = np.where(h.energy_edges[:-1] < 400.0, 12, 1)
    output = get_check("photopeak").function(QcInput(h, RunContext("toy", account=ACCOUNT)))
    found = next(c for c in output.results if c.id == "photopeak.channels_without")
    assert (found.value, found.status) == (1.0, Status.WARN)
    assert "channel 0.0.1.13" in found.reason
    assert output.column.status[77] == str(Status.WARN)
    assert np.isnan(output.column.value[77])


@pytest.mark.parametrize(
    ("dropped", "value", "status", "why"),
    [
        ({}, 0.0, Status.PASS, None),
        ({"saturated": 900, "not_mapped": 100}, 10.0, Status.WARN, "most of them: at or above the saturation of the"),
        ({"no_tdc_calibration": 7000}, 70.0, Status.FAIL, "most of them: no TDC calibration of their channels"),
        ({"trigger_record": 5000, "outside_tdc_curve": 100}, 2.0, Status.PASS, "most of them: their fine times lie"),
    ],
)
def test_hits_that_are_not_used_are_told_with_the_commonest_reason(dropped, value, status, why):
    account = {**ACCOUNT, "hits": 10_000, **{f"hits_dropped.{name}": n for name, n in dropped.items()}}
    run = Toy(n_pairs=2000, n_singles=2000).run(account=account)
    found = run.find("unused_hits")
    assert (found.value, found.status) == (pytest.approx(value), status)
    assert (found.reason or "").startswith(why or "")
    assert (found.reason is None) is (why is None)
    assert any(h.cause.startswith("F27") for h in run.diagnosis) is (status is not Status.PASS)


def test_without_hits_there_is_no_share_of_them():
    assert Toy(n_pairs=2000, n_singles=2000).run().find("unused_hits") is None
    assert Toy(n_pairs=2000, n_singles=2000).run(account={**ACCOUNT, "hits": 0}).find("unused_hits") is None


def test_every_reason_to_drop_a_hit_has_words():
    assert set(unused_hits._WHY) | {"kept", unused_hits._NOT_OF_THE_DETECTOR} == set(DROP_REASONS)


def test_a_check_that_breaks_has_no_number_and_the_others_go_on(caplog):
    def breaks(_):
        raise ZeroDivisionError("division by zero")

    shared = QcInput(Toy().histograms(), RunContext("toy", elapsed_s=SECONDS, live_time_s=SECONDS, account=ACCOUNT))
    whole = checks_of("source")
    well = {one.id: output.results for one, output in run_checks(whole, shared)}
    for broken in whole:
        asked = [replace(c, function=breaks) if c.id == broken.id else c for c in whole]
        for one, output in run_checks(asked, shared):
            if one.id != broken.id:
                assert output.results == well[one.id]
                continue
            (result,) = output.results
            assert (result.id, result.value, result.status) == (broken.id, None, Status.INVALID)
            assert result.reason is not None
            assert "did not work (ZeroDivisionError: division by zero)" in result.reason
    assert "the check photopeak of run toy" in caplog.text
    assert "division by zero" in caplog.text


@pytest.mark.parametrize("broken", ["photopeak", "dead_channels"])
def test_a_run_with_a_check_that_breaks_is_not_passed_and_keeps_its_numbers(monkeypatch, tmp_path, broken):
    def breaks(_):
        raise IndexError("index 7 is out of bounds")

    monkeypatch.setitem(checks_folder._REGISTRY, broken, replace(get_check(broken), function=breaks))
    run = Toy().run()
    assert run.verdict is Status.INVALID
    assert "did not work (IndexError: index 7 is out of bounds)" in run.sentence
    assert run.find("ctr_fit").status is Status.PASS
    run.save(tmp_path)
    assert "did not work" in render_html(run)


def test_a_diagnosis_that_breaks_loses_nothing(monkeypatch):
    def breaks(*_):
        raise ValueError("no such place")

    toy = Toy()
    toy.gain[:256] = 1.2
    monkeypatch.setattr(diagnosis, "deviations", breaks)
    run = toy.run()
    assert run.verdict is Status.FAIL
    assert not run.diagnosis
    assert any(n.startswith("Diagnosis: it did not work (ValueError: no such place)") for n in run.notes)
