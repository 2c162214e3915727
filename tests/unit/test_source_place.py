"""Where the source is: that its error is true where lines are known to a crystal's width only, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.channel_map import Topology
from petqc.errors import TooFewCountsError
from petqc.fits.source_place import find_source, mean_depth_mm

RADIUS_MM, CRYSTALS, ROWS, ROW_MM = 300.0, 200, 20, 8.0
PLACES = [(3.0, -2.0, 5.0), (0.0, 0.0, 0.0), (-7.0, 4.0, 1.0), (2.1, 9.0, -6.0), (11.0, 0.5, -3.0), (-4.7, -8.0, 8.0)]


def ring() -> Topology:
    """Crystals of no depth on rings around z, 9.4 mm by 8 mm; a module is an eighth of the ring."""
    angle = 2.0 * np.pi * np.arange(CRYSTALS) / CRYSTALS
    height = ROW_MM * (np.arange(ROWS) - (ROWS - 1) / 2)
    z, turn = (g.ravel() for g in np.meshgrid(height, angle))
    xyz = np.stack([RADIUS_MM * np.cos(turn), RADIUS_MM * np.sin(turn), z], axis=1)
    module = np.arange(CRYSTALS * ROWS) // (CRYSTALS * ROWS // 8)
    inside = np.arange(CRYSTALS * ROWS) % (CRYSTALS * ROWS // 8)
    return Topology.from_channels((module * 512 + inside).astype(np.int32), asics_per_module=8, xyz_mm=xyz)


def lines(
    topology: Topology, m: int, rng: np.random.Generator, source: tuple[float, ...], randoms: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of m lines through a point, each in the crystal that it meets."""
    x, y, z = source
    turn, climb = rng.uniform(0.0, 2.0 * np.pi, m), rng.uniform(-0.18, 0.18, m)
    u, v = np.cos(turn), np.sin(turn)
    middle = x * u + y * v
    half = np.sqrt(middle**2 + RADIUS_MM**2 - x**2 - y**2)
    ends = []
    for way in (half - middle, -half - middle):
        at = np.arctan2(y + way * v, x + way * u)
        column = np.round(at / (2.0 * np.pi) * CRYSTALS).astype(int) % CRYSTALS
        row = np.round((z + way * climb) / ROW_MM + (ROWS - 1) / 2).astype(int)
        ends.append(np.where((row >= 0) & (row < ROWS), column * ROWS + row, -1))
    a, b = ends
    b = np.where(rng.random(m) < randoms, rng.integers(0, len(topology), m), b)
    keep = (a >= 0) & (b >= 0) & (a != b)
    return a[keep].astype(np.int32), b[keep].astype(np.int32)


@pytest.mark.parametrize("m", [1_000, 20_000])
def test_the_stated_error_is_true_though_lines_are_known_to_a_crystal_only(m):
    """A weight that falls from the first millimetre on was 0.5 mm off with 1000 lines, and said 0.09 mm."""
    topology = ring()
    pulls, errors = [], []
    for place, at in enumerate(PLACES):
        for seed in range(10):
            a, b = lines(topology, m, np.random.default_rng([m, place, seed]), at)
            found = find_source(topology, a, b, crystal_mm=1e-3)
            pulls.append((np.array(found.xyz_mm) - at) / found.error_mm)
            errors.append(found.error_mm)
    spread = np.sqrt((np.array(pulls) ** 2).mean(axis=0))
    assert (spread < 1.25).all(), spread
    assert (spread > 0.23).all(), "an error too large is no truer"
    assert np.max(errors) < 0.25, "a fortieth of a crystal"


def test_more_lines_of_the_same_crystals_do_not_make_the_place_ever_surer():
    topology = ring()
    a, b = lines(topology, 20_000, np.random.default_rng(1), PLACES[0], randoms=0.0)
    once = find_source(topology, a, b, crystal_mm=1e-3)
    again = find_source(topology, np.tile(a, 5), np.tile(b, 5), crystal_mm=1e-3)
    assert again.xyz_mm == pytest.approx(once.xyz_mm, abs=1e-2)
    assert again.error_mm == pytest.approx(once.error_mm, rel=0.02)


def test_the_place_of_a_line_is_that_across_it():
    topology = ring()
    rng = np.random.default_rng(3)
    parts = [lines(topology, 40, rng, (4.0, -3.0, z), randoms=0.0) for z in np.linspace(-60.0, 75.0, 100)]
    a, b = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    found = find_source(topology, a, b, crystal_mm=1e-3, shape="line")
    assert np.abs(found.axis) == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    assert found.xyz_mm[:2] == pytest.approx((4.0, -3.0), abs=0.3)


def test_hits_are_less_deep_than_the_middle_of_a_crystal():
    assert mean_depth_mm(20.0) == pytest.approx(7.35, abs=0.01)
    assert mean_depth_mm(1e-3) == pytest.approx(0.5e-3, rel=1e-3)


def test_parallel_lines_cross_nowhere():
    topology = Topology.from_channels(
        np.arange(40, dtype=np.int32),
        xyz_mm=np.array([[x, 0.0, z] for x in range(20) for z in (0.0, 100.0)], np.float32),
    )
    a = np.tile(np.arange(0, 40, 2, dtype=np.int32), 50)
    with pytest.raises(TooFewCountsError, match="do not cross"):
        find_source(topology, a, a + np.int32(1), crystal_mm=20.0)


def test_panels_do_not_show_where_a_wide_source_is():
    topology = Topology.from_channels(
        np.arange(128, dtype=np.int32),
        xyz_mm=np.array([[x, y, z] for z in (-60.0, 60.0) for x in range(8) for y in range(8)], np.float32),
        asics_per_module=1,
    )
    a = np.tile(np.arange(64, dtype=np.int32), 10)
    with pytest.raises(TooFewCountsError, match="panels"):
        find_source(topology, a, a[::-1] + np.int32(64), crystal_mm=20.0, shape="extended")
