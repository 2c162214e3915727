"""The energy calibration against channels whose gain and saturation are known."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.calibrate.energy import LINES, ChargeSpectra, fit
from petqc.calibrate.energy_bends import bend_of_ratio
from petqc.calibration.energy import charge_of_kev
from petqc.errors import BadInputError
from petqc.events import Singles
from petqc.limits import Status

NA22 = LINES["na22"]


def planted(
    n: int, first: int, second: int, seed: int, kinds: tuple[float, ...] = NA22
) -> tuple[ChargeSpectra, np.ndarray, np.ndarray]:
    """Spectra of n channels with so many counts in each line over a Compton continuum; true k and a."""
    rng = np.random.default_rng(seed)
    k = 7.2 * (1.0 + rng.normal(0.0, 0.05, n))
    a = 2100.0 * (1.0 + rng.normal(0.0, 0.06, n))
    spectra = ChargeSpectra(np.arange(n, dtype=np.int32))
    for i in range(n):
        parts = [rng.uniform(30.0, 340.0, 2 * first)]
        for line, counts in zip(kinds, (first, second), strict=False):
            width = 0.042 * np.sqrt(511.0 / line)
            parts.append(line * (1.0 + width * rng.standard_normal(counts)))
        if len(kinds) > 1:
            parts.append(rng.uniform(340.0, 1062.0, 4 * second))
        kev = np.concatenate(parts).astype(np.float32)
        charge = charge_of_kev(kev, np.full(kev.size, k[i], np.float32), np.full(kev.size, a[i] / k[i], np.float32))
        spectra.add(singles(charge, i))
    return spectra, k, a


def singles(charge: np.ndarray, channel: int, n_hits: int = 1, unit: str = "clock") -> Singles:
    n = charge.size
    return Singles(
        np.arange(n), charge.astype(np.float32), np.full(n, channel, np.int32), np.full(n, n_hits, np.uint8), unit
    )


def named(found, name):
    return next(c for c in found.columns if c.id == name)


def test_gain_and_saturation_are_found_within_their_errors():
    spectra, k, a = planted(96, 6000, 700, seed=1)
    found = fit(spectra, "na22")
    table = found.tables["energy_kev"]
    assert table.size == 96
    assert (table["chip"] == np.arange(96) // 64).all()
    scale, bend = named(found, "energy_scale"), named(found, "energy_bend")
    for value, true, error in ((scale.value, k, scale.uncertainty), (bend.value, a, bend.uncertainty)):
        pulls = (value - true) / error
        assert abs(pulls.mean()) < 0.7  # where there is no step at all, the bound of the step pulls a little
        assert 0.75 < pulls.std() < 1.25
    assert np.abs(table["kev_per_unit"] / k - 1.0).max() < 0.015
    assert np.allclose(table["saturation_unit"], bend.value / scale.value)
    assert 5000 < spectra.first_line_counts(2) < 7500
    status = {r.id: r.status for r in found.results if r.node == "scanner"}
    assert set(status.values()) <= {Status.PASS, Status.NO_LIMITS}, status
    assert np.median(named(found, "energy_resolution").value) == pytest.approx(4.2 * 2.355, rel=0.03)


def test_a_third_line_is_fitted_along_and_tests_the_curve():
    spectra, k, a = planted(64, 6000, 700, seed=7)
    rng = np.random.default_rng(7)
    for i in range(64):
        kev = (661.657 * (1.0 + 0.037 * rng.standard_normal(4000))).astype(np.float32)
        kev *= np.float32(1.02 if i == 3 else 1.0)  # a channel whose charge does not bend as it should
        charge = charge_of_kev(kev, np.full(4000, k[i], np.float32), np.full(4000, a[i] / k[i], np.float32))
        spectra.add(singles(charge, i))
    found = fit(spectra, "na22-cs137")
    p_value = named(found, "energy_curve_p").value
    assert "do not lie on one curve" in named(found, "energy_scale").reason[3]
    good = np.arange(64) != 3
    assert np.isfinite(p_value[good]).all()
    assert abs(np.mean(p_value[good]) - 0.5) < 0.15
    scale, bend = named(found, "energy_scale"), named(found, "energy_bend")
    for value, true, error in ((scale.value, k, scale.uncertainty), (bend.value, a, bend.uncertainty)):
        pulls = ((value - true) / error)[good]
        assert abs(pulls.mean()) < 0.7
        assert 0.75 < pulls.std() < 1.25
    two = fit(planted(64, 6000, 700, seed=7)[0], "na22")
    assert "energy_curve_p" not in {c.id for c in two.columns}
    assert np.nanmedian(named(two, "energy_bend").uncertainty / bend.uncertainty) > 1.0


def test_a_channel_with_a_weak_second_line_takes_the_bend_of_its_asic_and_says_so():
    spectra, k, a = planted(64, 1500, 60, seed=2)
    found = fit(spectra, "na22")
    assert found.tables["energy_kev"].size == 64
    taken = next(r for r in found.results if r.id == "energy_channels_bend_of_asic")
    assert taken.value > 30
    assert taken.status is Status.WARN
    assert any("from their ASIC" in note for note in found.notes)
    bend = named(found, "energy_bend")
    pulls = (bend.value - a) / bend.uncertainty
    assert 0.6 < pulls.std() < 1.4
    assert 0.7 < np.std((named(found, "energy_scale").value - k) / named(found, "energy_scale").uncertainty) < 1.4


def test_channels_without_counts_are_left_out_with_their_reason():
    spectra, _, _ = planted(64, 3000, 300, seed=3)
    spectra.counts[5] = 0
    spectra.counts[6] //= 100
    found = fit(spectra, "na22")
    assert set(found.tables["energy_kev"]["channel"]) == set(range(64)) - {5, 6}
    assert "counts" in str(named(found, "energy_scale").reason[5])
    assert np.isnan(named(found, "energy_scale").value[6])
    refused = next(r for r in found.results if r.id == "energy_channels_refused")
    assert refused.value == 2
    assert refused.status is Status.WARN


def test_one_line_keeps_the_former_bend():
    spectra, k, _ = planted(64, 3000, 0, seed=4, kinds=LINES["ge68"])
    with pytest.raises(BadInputError, match="one line"):
        fit(spectra, "ge68")
    former = fit(planted(64, 6000, 700, seed=4)[0], "na22").tables["energy_kev"]
    former["kev_per_unit"] *= 1.1  # another gain before, the same bend
    former["saturation_unit"] /= 1.1
    found = fit(spectra, "ge68", previous=former)
    assert np.abs(found.tables["energy_kev"]["kev_per_unit"] / k - 1.0).std() < 0.01
    assert np.allclose(named(found, "energy_bend").value, former["kev_per_unit"] * former["saturation_unit"])
    assert any("kept" in note for note in found.notes)
    only_some = fit(spectra, "ge68", previous=former[:60])
    assert only_some.tables["energy_kev"].size == 60


def test_what_cannot_be_used_is_refused():
    spectra = ChargeSpectra(np.arange(4, dtype=np.int32))
    with pytest.raises(BadInputError, match="no singles"):
        fit(spectra, "na22")
    with pytest.raises(BadInputError, match="kev"):
        spectra.add(singles(np.ones(3), 0, unit="kev"))
    spectra.add(singles(np.array([50.0]), 0, n_hits=2))
    spectra.add(singles(np.array([-1.0, 400.0, np.nan]), 0))
    spectra.add(singles(np.array([50.0]), 9))
    assert not spectra.counts.any()
    assert spectra.first_line_counts(2) == 0.0
    spectra.add(singles(np.random.default_rng(5).exponential(40.0, 5000), 0))
    with pytest.raises(BadInputError, match="no line"):
        fit(spectra, "na22")


def test_bend_and_ratio_belong_together():
    a = np.array([900.0, 2000.0, 20000.0])
    ratio = np.expm1(-NA22[1] / a) / np.expm1(-NA22[0] / a)
    assert bend_of_ratio(ratio, *NA22) == pytest.approx(a, rel=1e-6)
    assert np.isinf(bend_of_ratio(np.array([2.6]), *NA22)).all()
    assert np.isnan(bend_of_ratio(np.array([0.9]), *NA22)).all()
