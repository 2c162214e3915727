"""The check of two lines against each other, on spectra whose bend is known."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.channel_map import Topology
from petqc.checks import get_check
from petqc.checks.linearity import _Bend, _known
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.limits import Status
from petqc.qc_input import QcInput, RunContext

CHANNELS = np.concatenate([np.arange(64), np.arange(256, 320)]).astype(np.int32)


def asked(bend=0.0, gain=1.0, *, has_second=True, n=60_000):
    """Spectra of lines at 511 and 1275 keV over a continuum; bend: what is missing at 1275 keV beyond 511."""
    h = QcHistograms(Topology.from_channels(CHANNELS), "kev", HistogramSettings(energy_window=(425.0, 650.0)))
    rng = np.random.default_rng(1)
    kev = [rng.normal(511.0, 22.0, n), rng.uniform(40.0, 1060.0, n)]
    if has_second:
        kev.append(rng.normal(1274.5, 36.0, n // 4))
    true = gain * np.concatenate(kev)
    measured = true * (1.0 - bend * (true - 511.0) / (1274.5 - 511.0))
    np.add.at(h.energy_counts, (rng.integers(0, 128, true.size), (measured / 4.0).astype(int)), np.uint32(1))
    return get_check("linearity").function(QcInput(h, RunContext("r"))).results


def test_a_gain_is_no_bend_and_a_bend_is_found():
    for bend, gain in ((0.0, 1.0), (0.0, 0.96), (0.02, 1.0)):
        results = asked(bend, gain)
        assert [r.node.partition(":")[0] for r in results] == ["scanner", "module", "module", "asic", "asic"]
        for r in results:
            assert r.value == pytest.approx(-100.0 * bend * gain**2, abs=4.0 * r.uncertainty + 0.05)
            assert r.status is (Status.WARN if bend else Status.PASS)


def test_one_line_says_nothing():
    (only,) = asked(has_second=False)
    assert only.value is None
    assert only.status is Status.NO_LIMITS
    assert only.reason.startswith("not applicable: no second line")


def test_one_of_many_states_no_less_than_its_like_and_is_left_out_where_that_is_not_enough():
    def of(errors, counts):
        return [(k, _Bend(0.1, e, n, "")) for k, (e, n) in enumerate(zip(errors, counts, strict=True))]

    usual, n = [0.1] * 30, [4000] * 30
    few = _known(of([*usual, 0.04, 0.15, 0.1], [*n, 4000, 4000, 500]))
    errors = {node: bend.error for node, bend in few}
    assert errors[30] == pytest.approx(0.1)  # it stated less than the same counts mean to the others
    assert errors[31] == pytest.approx(0.15)
    assert 32 not in errors  # 500 counts mean 0.28 %
    lone = of([0.3, 0.05], [500, 500])
    assert _known(lone) == lone
