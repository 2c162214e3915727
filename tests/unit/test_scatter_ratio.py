"""The scatter ratio, on energies of pairs whose share of scatter is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from petqc import pair_energies
from petqc.channel_map import Topology
from petqc.checks import get_check
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.events import Coincidences
from petqc.fits.scatter import scatter_share
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.qc_input import QcInput, RunContext

KEV = np.arange(401) * 4.0
WINDOW = (424.0, 652.0)
PEAK = (511.0, 22.8)


def spectra(rng, share, n=40_000, randoms=0.2):
    """Prompt and delayed energies in the window, a share of the trues scattered."""
    inside = (KEV[:-1] >= 424.0) & (KEV[1:] <= 652.0)
    peak = np.where(inside, np.diff(norm.cdf(KEV, *PEAK)), 0.0)
    step = np.where(inside, norm.sf(0.5 * (KEV[1:] + KEV[:-1]), *PEAK), 0.0)
    flat = inside / inside.sum()
    trues = n * ((1.0 - share) * peak / peak.sum() + share * step / step.sum())
    delayed = rng.poisson(2.0 * randoms * n * flat).astype(float)
    return rng.poisson(trues + randoms * n * flat).astype(float), delayed


@pytest.mark.parametrize("share", [0.0, 0.05, 0.32])
def test_share_is_found_within_its_error(share):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        prompt, delayed = spectra(rng, share)
        found.append(scatter_share(KEV, prompt, delayed / 2.0, delayed / 4.0, WINDOW, PEAK))
    pulls = np.array([(f.share - share) / f.error for f in found])
    assert abs(pulls.mean()) < 0.3
    assert pulls.std() == pytest.approx(1.0, abs=0.15)
    assert all(f.error < 0.01 for f in found)


def test_what_cannot_be_told():
    rng = np.random.default_rng(2)
    prompt, delayed = spectra(rng, 0.1)
    with pytest.raises(FitFailedError, match="too near the peak"):
        scatter_share(KEV, prompt, delayed / 2.0, delayed / 4.0, (460.0, 652.0), PEAK)
    with pytest.raises(TooFewCountsError):
        scatter_share(KEV, prompt / 50.0, delayed / 100.0, delayed / 200.0, WINDOW, PEAK)
    with pytest.raises(FitFailedError, match="do not describe"):
        scatter_share(KEV, prompt, delayed / 2.0, delayed / 4.0, WINDOW, (530.0, 22.8))


def test_of_a_run():
    rng = np.random.default_rng(3)
    channels = np.concatenate([np.arange(64), np.arange(256, 320)]).astype(np.int32)
    h = QcHistograms(Topology.from_channels(channels), "kev", HistogramSettings(energy_window=WINDOW))
    n = 60_000
    everything = np.concatenate([rng.normal(*PEAK, n), rng.uniform(40.0, 511.0, n)])
    np.add.at(h.energy_counts, (rng.integers(0, 128, 2 * n), (everything / 4.0).astype(int)), np.uint32(1))
    energy = rng.choice(everything[(everything > 424.0) & (everything < 652.0)], (2, 20_000)).astype(np.float32)
    side, one = rng.integers(0, 64, (2, 20_000)).astype(np.int32), np.ones(20_000, np.uint8)
    time = np.zeros(20_000, np.int64)
    h.add_prompts(Coincidences(time, time, *energy, side[0] + 256, side[1], one, one, "kev"))
    plain = np.zeros_like(h.pair_energies.prompt)
    pair_energies.fill_pair_energies.py_func(side[0] + 256, side[1], *energy, h._index, h.topology.module, 4.0, plain)
    np.testing.assert_array_equal(plain, h.pair_energies.prompt)
    results = get_check("scatter_ratio").function(QcInput(h, RunContext("r", source="extended"))).results
    assert [r.node.partition(":")[0] for r in results] == ["scanner", "module", "module"]
    flat = 87.0 / 471.0  # of the continuum, what lies in the window
    for r in results:
        assert r.value == pytest.approx(100.0 * flat / (1.0 + flat), abs=4.0 * r.uncertainty + 1.0)
    (point,) = get_check("scatter_ratio").function(QcInput(h, RunContext("r", source="point"))).results
    assert point.status is Status.NO_LIMITS
    assert point.reason.startswith("not applicable: a point source in air")
