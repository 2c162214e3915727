"""QC without a source: what is planted in pairs, lines and continua is found; what cannot be trusted has no number."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from petqc.analysis import RunContext, analyse
from petqc.channel_map import Topology
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.events import Coincidences
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.lutetium import GAMMA_BINS, WINDOW_PS, LutetiumCounts
from petqc.lutetium import spectra as s
from petqc.lutetium.crystals import ENDPOINT_KEV, LINES_KEV, MATERIALS, beta_density, mean_depth_mm
from petqc.lutetium.lines import fit_lines, gamma_edges_kev
from petqc.lutetium.times import C_MM_PER_PS, fit_flight

LENGTH_MM = 20.0
LYSO = MATERIALS["lyso"]


def ring(modules: int, radius_mm: float) -> Topology:
    """Modules of 2 x 2 crystals, two facing (panels) or in a ring."""
    n = 4 * modules
    angle = 2 * np.pi * (np.arange(n) // 4) / modules
    out = np.stack([np.sin(angle), np.zeros(n), np.cos(angle)], axis=1)
    across = np.stack([np.cos(angle), np.zeros(n), -np.sin(angle)], axis=1)
    u, v = np.array([-2.0, 2.0])[np.arange(n) % 2], np.array([-2.0, 2.0])[np.arange(n) // 2 % 2]
    xyz = out * (radius_mm + LENGTH_MM / 2) + across * u[:, None] + np.array([0.0, 1.0, 0.0]) * v[:, None]
    channels = (np.arange(n) // 4 * 4 * 64 + np.arange(n) % 4).astype(np.int32)
    return Topology.from_channels(channels, xyz_mm=xyz.astype(np.float32))


def planted(topology, n, rng, *, scale=1.0, offset_ps=None, walk_ps=8.0, randoms=0.02, sigma_ps=120.0, scattered=0.2):
    """Beta-gamma pairs of different modules, as deep as attenuation says; if scattered, as the upper line says."""
    xyz = topology.xyz_mm.astype(np.float64)
    out = xyz * np.array([1.0, 0.0, 1.0])
    out /= np.linalg.norm(out, axis=1)[:, None]
    middle = np.array([out[topology.module == m].mean(axis=0) for m in topology.module])
    out = middle / np.linalg.norm(middle, axis=1)[:, None]
    beta, gamma = rng.integers(0, len(topology), (2, 4 * n))
    facing = (topology.module[beta] != topology.module[gamma]) & (np.sum(out[beta] * out[gamma], axis=1) < -0.4)
    beta, gamma = beta[facing][:n].astype(np.int32), gamma[facing][:n].astype(np.int32)
    upper = rng.random(beta.size) < 0.6
    deep = upper | (rng.random(beta.size) < scattered)
    per_mm = np.where(deep, LYSO.attenuation_cm2_g[1], LYSO.attenuation_cm2_g[0]) * LYSO.density_g_cm3 / 10.0
    way = xyz[gamma] - xyz[beta]
    way /= np.linalg.norm(way, axis=1)[:, None]
    ends = []
    for index in (beta, gamma):
        slope = np.abs(np.sum(way * out[index], axis=1))
        along = per_mm / slope
        depth = -np.log1p(rng.random(index.size) * np.expm1(-along * LENGTH_MM)) / along
        ends.append(xyz[index] + out[index] * (depth - LENGTH_MM / 2)[:, None])
    offset = np.zeros(len(topology)) if offset_ps is None else offset_ps
    gamma_kev = np.where(upper, rng.normal(306.8, 15.0, beta.size), rng.normal(201.8, 12.0, beta.size))
    beta_kev = rng.uniform(405.0, 900.0, beta.size)
    dt = scale * np.linalg.norm(ends[1] - ends[0], axis=1) / C_MM_PER_PS + offset[gamma] - offset[beta]
    dt += walk_ps * (511.0 / gamma_kev - 511.0 / beta_kev) + rng.normal(0.0, sigma_ps, beta.size)
    is_random = rng.random(beta.size) < randoms
    dt[is_random] = rng.uniform(-WINDOW_PS / 2, WINDOW_PS / 2, int(is_random.sum()))
    return beta, gamma, dt, beta_kev, gamma_kev


def fed(topology, pairs, rng) -> LutetiumCounts:
    """The pairs as coincidences, the sides at random."""
    beta, gamma, dt, beta_kev, gamma_kev = pairs
    first = rng.random(beta.size) < 0.5
    t0 = np.arange(beta.size) * 10_000_000
    t1 = t0 + np.rint(dt).astype(np.int64)
    side = [np.where(first, *ab) for ab in ((t0, t1), (t1, t0), (beta_kev, gamma_kev), (gamma_kev, beta_kev))]
    channel = [topology.channels[np.where(first, *ab)] for ab in ((beta, gamma), (gamma, beta))]
    one = np.ones(beta.size, np.uint8)
    prompts = Coincidences(
        time_a_ps=side[0], time_b_ps=side[1], energy_a=side[2].astype(np.float32), energy_b=side[3].astype(np.float32),
        channel_a=channel[0], channel_b=channel[1], n_hits_a=one, n_hits_b=one, energy_unit="kev",
    )  # fmt: skip
    counts = LutetiumCounts(topology)
    counts.add(SimpleNamespace(prompts=prompts, delayed=Coincidences.empty("kev")))
    return counts


# --- crystals --------------------------------------------------------------------------------------------------------


def test_activity_and_beta_spectrum_are_the_published_ones():
    assert MATERIALS["lso"].activity_bq_per_cm3 == pytest.approx(295, abs=3)
    assert MATERIALS["lyso"].activity_bq_per_cm3 == pytest.approx(265, abs=3)
    grid = np.arange(0.5, ENDPOINT_KEV)
    density = beta_density(grid)
    assert density.sum() == pytest.approx(1.0)
    assert density @ grid == pytest.approx(182.0, abs=2.0)
    thin = mean_depth_mm(np.array([1e-4]), LENGTH_MM)
    assert thin[0] == pytest.approx(LENGTH_MM / 2, rel=1e-3)


# --- lines -----------------------------------------------------------------------------------------------------------


def line_counts(rng, n, scale=1.0):
    low = rng.normal(LINES_KEV[0] * scale, 13.0, int(0.32 * n))
    high = rng.normal(LINES_KEV[1] * scale, 17.5, int(0.68 * n))
    flat = rng.uniform(100.0, 380.0, n // 20)
    return np.histogram(np.concatenate([low, high, flat]), gamma_edges_kev())[0].astype(float)


@pytest.mark.parametrize("scale", [0.95, 1.0, 1.04])
def test_lines_give_the_scale(scale):
    found = fit_lines(line_counts(np.random.default_rng(1), 40_000, scale))
    # Nothing is missing from these lines; the model's share of missing light is its stated uncertainty.
    assert found.scale == pytest.approx(scale, abs=2.5 * found.scale_error)
    assert 0.0018 < found.scale_error < 0.004
    assert found.ratio == pytest.approx(1.0, abs=0.005)


def test_lines_refuse_what_is_none():
    with pytest.raises(TooFewCountsError, match="at least 400 wanted"):
        fit_lines(np.zeros(GAMMA_BINS))
    flat = np.full(GAMMA_BINS, 200.0)
    with pytest.raises((TooFewCountsError, FitFailedError)):
        fit_lines(flat)


# --- continuum -------------------------------------------------------------------------------------------------------

PARTS = np.array([0.01, 0.2, 0.06, 0.64, 0.05, 0.025, 0.0, 0.015])
EDGES = np.arange(401) * 4.0


def continuum_counts(rng, n, scale=1.0, resolution=11.5):
    expected = s.in_bins(resolution, EDGES, scale) @ (PARTS * n)
    return rng.poisson(expected)


def test_continuum_gives_scale_resolution_and_decays():
    found = s.fit_continuum(EDGES, continuum_counts(np.random.default_rng(2), 400_000, 0.97).astype(float))
    assert found.scale == pytest.approx(0.97, abs=0.0012)
    assert found.resolution == pytest.approx(11.5, abs=0.5)
    assert found.decays == pytest.approx(400_000 * PARTS[s.BETA_PARTS].sum(), rel=0.01)
    assert found.p_value > 1e-3


def test_channels_are_pulls_of_their_scale():
    rng = np.random.default_rng(3)
    planted_scale = rng.normal(1.0, 0.02, 60)
    counts = np.array([continuum_counts(rng, 9000, scale) for scale in planted_scale]).astype(np.uint32)
    counts[0] = 0
    module = s.fit_continuum(EDGES, continuum_counts(rng, 400_000).astype(float))
    found = s.fit_channels(EDGES, counts, module)
    assert found.reason[0].startswith("fewer than 500")
    assert np.isnan(found.scale[0])
    pulls = ((found.scale - planted_scale) / found.scale_error)[1:]
    assert np.isfinite(pulls).all()
    assert abs(pulls.mean()) < 0.5
    assert 0.75 < pulls.std() < 1.3
    assert found.decays[1:].mean() == pytest.approx(9000 * PARTS[s.BETA_PARTS].sum(), rel=0.02)


def test_continuum_refuses_another_spectrum():
    peak = 1e6 * np.exp(-0.5 * ((EDGES[:-1] - 511.0) / 25.0) ** 2)
    with pytest.raises(FitFailedError):
        s.fit_continuum(EDGES, np.rint(peak))
    with pytest.raises(TooFewCountsError):
        s.fit_continuum(EDGES, np.ones(400))


# --- times -----------------------------------------------------------------------------------------------------------


def test_a_ring_finds_scale_walk_and_offsets():
    rng = np.random.default_rng(4)
    topology = ring(12, 250.0)
    true_ps = rng.normal(0.0, 60.0, 12)
    true_ps -= true_ps.mean()
    counts = fed(topology, planted(topology, 60_000, rng, scale=1.006, offset_ps=true_ps[topology.module]), rng)
    found = fit_flight(counts.pairs(), topology, window_ps=WINDOW_PS, material=LYSO, length_mm=LENGTH_MM)
    assert found.scale == pytest.approx(1.006, abs=4 * found.scale_error)
    assert found.scale_error < 0.003
    assert abs(found.walk_ps - 8.0) < 4 * found.walk_error
    pulls = (found.module_ps - true_ps) / found.module_error
    assert np.abs(pulls).max() < 4.0
    assert 0.5 < pulls.std() < 1.6
    assert found.share == pytest.approx(0.98, abs=0.01)
    assert len(found.by_module) == 12


def test_scattered_gammas_of_the_upper_line_do_not_look_like_flight():
    """They are a fifth of the pairs in the lower line, and fly further: the scale came out 0.09 % too large."""
    topology = ring(12, 250.0)
    found = []
    for seed in range(8):
        rng = np.random.default_rng([9, seed])
        pairs = fed(topology, planted(topology, 60_000, rng, sigma_ps=30.0), rng).pairs()
        found.append(fit_flight(pairs, topology, window_ps=WINDOW_PS, material=LYSO, length_mm=LENGTH_MM))
    assert np.mean([f.scale for f in found]) == pytest.approx(1.0, abs=5e-4)
    assert np.mean([f.walk_ps for f in found]) == pytest.approx(8.0, abs=0.6)
    assert all(f.walk_error > 4.0 for f in found), "with what a model of depth leaves"


def test_only_single_hits_are_timed():
    topology = ring(2, 50.0)
    hits = np.array([[1, 1], [2, 1], [1, 2]], np.uint8)
    one = np.arange(3, dtype=np.int64) * 10_000_000
    prompts = Coincidences(
        time_a_ps=one, time_b_ps=one + 300, energy_a=np.full(3, 500.0, np.float32),
        energy_b=np.full(3, 307.0, np.float32), channel_a=topology.channels[[0, 0, 0]],
        channel_b=topology.channels[[4, 4, 4]], n_hits_a=hits[:, 0], n_hits_b=hits[:, 1], energy_unit="kev",
    )  # fmt: skip
    counts = LutetiumCounts(topology)
    counts.add(SimpleNamespace(prompts=prompts, delayed=Coincidences.empty("kev")))
    assert counts.pairs().alone.tolist() == [True, False, False]


def test_unknown_depth_is_in_the_uncertainty():
    rng = np.random.default_rng(5)
    topology = ring(2, 50.0)
    pairs = fed(topology, planted(topology, 8000, rng), rng).pairs()
    known = fit_flight(pairs, topology, window_ps=WINDOW_PS, material=LYSO, length_mm=LENGTH_MM)
    unknown = fit_flight(pairs, topology, window_ps=WINDOW_PS, material=None, length_mm=None)
    assert known.scale == pytest.approx(1.0, abs=4 * known.scale_error)
    assert known.scale_error < 0.03
    assert unknown.scale_error > 0.1


def test_times_refuse_randoms_and_one_way_pairs():
    rng = np.random.default_rng(6)
    topology = ring(2, 50.0)
    noise = fed(topology, planted(topology, 3000, rng, randoms=0.9), rng).pairs()
    with pytest.raises(FitFailedError):
        fit_flight(noise, topology, window_ps=WINDOW_PS, material=LYSO, length_mm=LENGTH_MM)
    beta, gamma, *rest = planted(topology, 3000, rng)
    one_way = topology.module[beta] == 0
    pairs = fed(topology, (beta[one_way], gamma[one_way], *(r[one_way] for r in rest)), rng).pairs()
    with pytest.raises(TooFewCountsError, match="both ways"):
        fit_flight(pairs, topology, window_ps=WINDOW_PS, material=LYSO, length_mm=LENGTH_MM)


# --- the whole run ---------------------------------------------------------------------------------------------------


def run_of(counts, topology, **context):
    rng = np.random.default_rng(8)
    histograms = QcHistograms(topology, "kev", HistogramSettings(coincidence_window_ps=8000))
    for i in range(len(topology)):
        histograms.energy_counts[i] = continuum_counts(rng, 8000)
    histograms.singles[:] = histograms.energy_counts.sum(axis=1)
    known = {"run_id": "r", "kind": "lutetium", "source": "none", "live_time_s": 100.0, "elapsed_s": 100.0}
    return analyse(histograms, RunContext(**{**known, **context}), counts)


def test_checks_of_a_run_without_a_source():
    rng = np.random.default_rng(7)
    topology = ring(2, 50.0)
    counts = fed(topology, planted(topology, 9000, rng), rng)
    seen = 8000 * PARTS[s.BETA_PARTS].sum() / 100.0 / LYSO.activity_bq_per_cm3 * 1000.0  # mm3 that these decays fill
    run = run_of(counts, topology, crystal_material="lyso", crystal_mm=(1.0, seen / LENGTH_MM, LENGTH_MM))
    assert run.verdict is Status.PASS, run.sentence
    assert re.match(r"Scan: energy scale \(Lu-176\) of modules [0-9.]+ to [0-9.]+%, efficiency", run.sentence), (
        run.sentence
    )
    assert not any(c.id == "photopeak" for c in run.checks)
    efficiency = run.find("lu_efficiency", topology.module_nodes[0])
    assert efficiency is not None
    assert efficiency.value == pytest.approx(100.0, abs=3.0)
    scale = next(c for c in run.checks if c.id == "lu_tdc_scale")
    assert scale.value is None
    assert "wanted" in (scale.reason or "")
    unknown = run_of(counts, topology)
    assert any("relative to the mean module" in note for note in unknown.notes)


def test_a_source_in_the_scanner_makes_the_run_invalid():
    rng = np.random.default_rng(9)
    topology = ring(2, 50.0)
    beta, gamma, dt, beta_kev, _ = planted(topology, 3000, rng)
    counts = fed(topology, (beta, gamma, dt, beta_kev, np.full(beta.size, 511.0)), rng)
    run = run_of(counts, topology)
    assert run.verdict is Status.INVALID
    assert run.sentence.count("take it out") == 1, run.sentence
    outside = run.find("lu_energy_scale.channels_outside")
    assert outside is not None
    assert (outside.value, outside.status) == (None, Status.NO_LIMITS), "what no channel has is inside no limits"
