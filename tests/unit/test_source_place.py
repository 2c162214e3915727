"""Where the source is: the sums over lines against plain numpy, and the place that they give."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.errors import TooFewCountsError
from petqc.fits.source_place import find_source, weigh_lines

POINT = np.array([3.0, -2.0, 5.0])


def ring(n: int = 200, rows: int = 20) -> np.ndarray:
    """Crystals on rings around z, (n * rows, 3)."""
    angle = 2.0 * np.pi * np.arange(n) / n
    one = np.stack([300.0 * np.cos(angle), 300.0 * np.sin(angle)], axis=1)
    return np.concatenate([np.column_stack([one, np.full(n, 8.0 * (r - rows / 2))]) for r in range(rows)])


def lines(m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crystals, and both ends of m lines: nine of ten are of photons from POINT, each end in the nearest crystal."""
    xyz = ring()
    turn, climb = rng.uniform(0.0, 2.0 * np.pi, m), rng.uniform(-0.2, 0.2, m)
    along = np.stack([np.cos(turn), np.sin(turn), climb], axis=1)
    middle = along[:, :2] @ POINT[:2]
    half = np.sqrt(middle**2 + 300.0**2 - POINT[:2] @ POINT[:2])
    a, b = (
        np.array([np.argmin(((xyz - end) ** 2).sum(axis=1)) for end in POINT + way[:, None] * along])
        for way in (half - middle, -half - middle)
    )
    random = rng.random(m) < 0.1
    b[random] = rng.integers(0, len(xyz), int(random.sum()))
    keep = a != b
    return xyz, a[keep].astype(np.int32), b[keep].astype(np.int32)


@pytest.mark.parametrize("reach", [1e-3, 20.0, 1e4])
def test_sums_over_lines_equal_plain_ones(reach):
    xyz, a, b = lines(500, np.random.default_rng(1))
    start, along = xyz[a], xyz[b] - xyz[a]
    along /= np.linalg.norm(along, axis=1)[:, None]
    results = []
    for function in (weigh_lines, weigh_lines.py_func):
        outer, right = np.zeros((3, 3)), np.zeros(3)
        results.append((*function(start, along, POINT, reach, outer, right), outer, right))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    away = POINT - start
    away -= (away * along).sum(axis=1)[:, None] * along
    squares = (away**2).sum(axis=1)
    weight = np.where(squares < reach**2, (1.0 - squares / reach**2) ** 2, 0.0)
    across = start - (start * along).sum(axis=1)[:, None] * along
    total, weighted, outer, right = results[0]
    assert total == pytest.approx(weight.sum(), rel=1e-12)
    assert weighted == pytest.approx((weight * squares).sum(), rel=1e-12)
    np.testing.assert_allclose(outer, np.einsum("k,ki,kj->ij", weight, along, along), atol=1e-12 * weight.size)
    np.testing.assert_allclose(right, weight @ across, atol=1e-9 * weight.size)


def test_the_source_is_where_most_lines_cross():
    found = find_source(*lines(1000, np.random.default_rng(2)))
    assert np.abs(np.array(found.xyz_mm) - POINT).max() < 1.0  # of crystals that are 8 and 9 mm apart
    assert found.pairs > 900


def test_parallel_lines_cross_nowhere():
    xyz = np.array([[x, 0.0, z] for x in range(20) for z in (0.0, 100.0)])
    a = np.tile(np.arange(0, 40, 2, dtype=np.int32), 50)
    with pytest.raises(TooFewCountsError, match="do not cross"):
        find_source(xyz, a, a + np.int32(1))
