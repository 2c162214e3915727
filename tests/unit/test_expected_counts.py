"""What modules should count of a point source: by where they are, not by what a bad one counts."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.channel_map import Topology
from petqc.fits.expected_counts import expected_counts, seen_shares

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
