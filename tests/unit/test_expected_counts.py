"""What modules should count of a point source: by where they are, not by what a bad one counts."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.channel_map import Topology
from petqc.fits.expected_counts import expected_counts, rings_of, seen_shares

WIDE_MM, AWAY_MM, LONG_MM = 50.0, 80.0, 20.0


def panels() -> Topology:
    """Two facing panels of four modules side by side, of 64 crystals each."""
    channels = np.arange(8 * 64)
    module, k = channels // 64, channels % 64
    x = (module % 4 - 1.5) * WIDE_MM + (k % 8 - 3.5) * WIDE_MM / 8
    z = np.where(module < 4, -1.0, 1.0) * (AWAY_MM + LONG_MM / 2)
    xyz = np.stack([x, (k // 8 - 3.5) * WIDE_MM / 8, z], axis=1)
    return Topology.from_channels(channels.astype(np.int32), asics_per_module=1, xyz_mm=xyz.astype(np.float32))


def test_share_is_what_gammas_followed_one_by_one_give():
    found = seen_shares(panels(), np.zeros(3), LONG_MM)
    assert found is not None
    rng = np.random.default_rng(3)
    ray = rng.standard_normal((2_000_000, 3))
    ray /= np.linalg.norm(ray, axis=1)[:, None]
    flown = AWAY_MM / np.abs(ray[:, 2]) + rng.exponential(1.0 / 0.083, len(ray))
    at = ray * flown[:, None]
    inside = (np.abs(at[:, 2]) < AWAY_MM + LONG_MM) & (np.abs(at[:, 1]) < WIDE_MM / 2) & (np.abs(at[:, 0]) < 100.0)
    place = ((at[inside, 0] + 100.0) // WIDE_MM).astype(int) + 4 * (at[inside, 2] > 0)
    counted = np.bincount(place, minlength=8)
    np.testing.assert_allclose(found, counted / counted.mean(), rtol=0.02)


def test_a_bad_module_stands_out_and_moves_no_other():
    share = seen_shares(panels(), np.zeros(3), LONG_MM)
    assert share is not None
    counts = 40_000.0 * share + 9_000.0
    counts[2] *= 0.8
    expected = expected_counts(counts, np.full(8, 64), share)
    np.testing.assert_allclose(np.delete(counts / expected, 2), 1.0, atol=0.002)
    assert counts[2] / expected[2] == pytest.approx(0.8, abs=0.002)


def test_modules_that_see_the_source_alike_are_held_against_their_mean():
    counts = np.array([100.0, 110.0, 90.0, 120.0])
    for share in (None, np.array([1.0, 1.001, 0.999, 1.0])):
        assert expected_counts(counts, np.full(4, 64), share) == pytest.approx(105.0)


def rings(n_rings: int, per_ring: int, apart_mm: float) -> Topology:
    """Rings of modules of 2 x 8 crystals, 400 mm wide; along x."""
    channels = np.arange(n_rings * per_ring * 64)
    module, k = channels // 64, channels % 64
    angle = 2.0 * np.pi * (module % per_ring + (k % 8 - 3.5) / 8.0) / per_ring
    x = (module // per_ring - 0.5 * n_rings) * apart_mm + (k // 8 - 3.5) * apart_mm / 8.0
    xyz = np.stack([x, 400.0 * np.cos(angle), 400.0 * np.sin(angle)], axis=1)
    return Topology.from_channels(channels.astype(np.int32), asics_per_module=1, xyz_mm=xyz.astype(np.float32))


def test_rings_that_a_source_does_not_reach_are_no_bad_modules():
    ring = rings_of(rings(4, 10, 260.0))
    assert (
        ring.tolist() == np.repeat(np.arange(4), 10).tolist()
        or ring.tolist() == np.repeat(np.arange(4)[::-1], 10).tolist()
    )
    assert not rings_of(rings(1, 10, 260.0)).any()
    assert not rings_of(panels()).any()
    counts = np.repeat([26_000.0, 49_000.0, 49_000.0, 26_000.0], 10)
    counts[13] *= 0.7
    efficiency = counts / expected_counts(counts, np.full(40, 64), None, ring)
    np.testing.assert_allclose(np.delete(efficiency, 13), 1.0, atol=0.035)
    assert efficiency[13] == pytest.approx(0.7 / 0.97)
