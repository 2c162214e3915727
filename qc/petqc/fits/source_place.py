"""Where the source is, from the lines of coincidences alone: that needs no times of flight.

A line is known to the width of two crystals: it is off by up to half a crystal, in steps. So within a crystal's width
all lines count alike: a weight that falls with the distance would favour the grid of the crystals over the source. And
all lines between the same two crystals are one line, however many they are, which limits the error. A crystal stands
where it is hit in the mean, not at its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.spatial import cKDTree

from petqc.channel_map import square_to
from petqc.errors import TooFewCountsError
from petqc.fits import MIN_NET_COUNTS
from petqc.fits.depth import LYSO_PER_MM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology

SourceShape = Literal["point", "line", "extended", "none"]

MOST_LINES = 100_000
"""More lines are thinned: the place is then long known better than crystals are placed."""
DEPTH_ERROR_MM: Final = 0.5
"""How well the mean depth of a hit is known; what it does to the place is a part of its error."""
PANEL_SHARE: Final = 0.018
RING_SHARE: Final = 0.007
ACROSS_SHARE: Final = 0.004
EXTENDED_SHARE: Final = 0.05
"""The place is found nearer to the middle of the detectors than it is, since what scatters over an edge is lost and
what scatters away from it is not: by 1 to 2 % between panels, 0.5 to 0.6 % along the axis of a ring, 0.2 to 0.5 %
across it. Of a source as wide as an annulus it is 3 to 4 % further out. So much of the way from the middle is not
corrected but a part of the error. Simulated: benchmarks/source_position.py."""
PANEL_GRID: Final = 0.012
RING_GRID: Final = 0.005
NORMAL_GRID: Final = 0.05
LINE_GRID: Final = 0.12
"""Of a pitch: what the grid of crystals leaves, however many lines there are, a part of the error: between panels; in a
ring, where lines have all directions; and between panels in the direction that is known least, from one panel to the
other, for a point and for a line. Simulated, as above."""
_THIN = 1e-9
"""Rings narrower than 6 thousandths of their radius (its fourth power) have no extent along their axis."""
_CORE = 1.25
"""Lines up to so many times the median distance, but at least to a crystal's corner (_CORNER pitches), count fully, and
from twice as far on not at all."""
_CORNER = 0.75
_STANDS = 0.7
"""Cosine: how far a module's plane may lean."""
_STEPS = 60
_CLOSE_MM = 1e-3


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Where the source is, mm, with one standard deviation each; pairs: lines it was found from (0: given).

    axis: direction of a long source, along which its place is not known (0 there); None: a point.
    """

    xyz_mm: tuple[float, float, float]
    error_mm: tuple[float, float, float]
    pairs: int
    axis: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class _Lines:
    """start: (m, 3) a place on each line. along: (m, 3) of unit length. pair: (m,) number of the pair of crystals."""

    start: NDArray[np.float64]
    along: NDArray[np.float64]
    pair: NDArray[np.int64]

    @classmethod
    def between(cls, xyz: NDArray[np.float64], a: NDArray[np.int32], b: NDArray[np.int32]) -> _Lines:
        along = xyz[b] - xyz[a]
        along /= np.maximum(np.linalg.norm(along, axis=1), 1e-9)[:, None]
        return cls(xyz[a], along, np.minimum(a, b).astype(np.int64) * len(xyz) + np.maximum(a, b))

    def away(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the nearest place on each line to a point, (m, 3)."""
        apart = point - self.start
        return np.asarray(apart - np.einsum("ki,ki->k", apart, self.along)[:, None] * self.along)


@dataclass(frozen=True, slots=True)
class _Nearest:
    """The point nearest to lines, and the distance from it up to which they count fully."""

    point: NDArray[np.float64]
    core: float


def find_source(
    topology: Topology, a: NDArray[np.int32], b: NDArray[np.int32], *, crystal_mm: float, shape: SourceShape = "point"
) -> SourcePlace:
    """The point nearest to the lines between the crystals of all pairs; lines far from it do not count.

    Args:
        topology: the channels, with the places of all crystals.
        a: (m,) positions of one side.
        b: (m,) of the other.
        crystal_mm: length of the crystals.
        shape: the place of a line or of an extended source (cylinder, annulus) is that across its axis: the axis of the
            ring, or where the detectors are panels that of the line itself.

    Raises:
        TooFewCountsError: fewer than MIN_NET_COUNTS pairs, or their lines do not cross at one point.
    """
    step = max(1, a.size // MOST_LINES)
    a, b = a[::step], b[::step]
    if a.size < MIN_NET_COUNTS:
        raise TooFewCountsError(f"{a.size} pairs, at least {MIN_NET_COUNTS} wanted")
    middles = topology.xyz_mm.astype(np.float64)
    ring = axis_of(middles)
    inwards = _inwards(topology, middles, ring)
    xyz = middles + inwards * (crystal_mm / 2.0 - mean_depth_mm(crystal_mm))
    tree = cKDTree(xyz)
    pitch = float(np.median(tree.query(xyz[:: max(1, len(xyz) // 1000)], k=[2])[0]))
    axis = ring if shape != "point" else None
    if shape == "extended" and ring is None:
        raise TooFewCountsError("panels do not show where a source is that is wide in more than one direction")
    if shape == "line" and ring is None:
        axis = _longest(_Lines.between(xyz, a, b), pitch)
    across = np.eye(3) if axis is None else np.eye(3) - np.outer(axis, axis)
    lines = _Lines.between(xyz @ across, a, b)
    found = _nearest(lines, pitch)
    deeper = _Lines.between((xyz - DEPTH_ERROR_MM * inwards) @ across, a, b)
    variance = _variance(lines, deeper, found, axis)
    variance += _beyond_counts(found.point - middles.mean(axis=0) @ across, variance, pitch, ring, shape)
    error = np.sqrt(np.diag(variance))
    return SourcePlace(_three(found.point), _three(error), int(a.size), None if axis is None else _three(axis))


def _beyond_counts(
    off: NDArray[np.float64],
    variance: NDArray[np.float64],
    pitch: float,
    ring: NDArray[np.float64] | None,
    shape: SourceShape,
) -> NDArray[np.float64]:
    """(3, 3): what stays however many lines there are; off: from the middle; variance: without that."""
    more = np.eye(3) * ((PANEL_GRID if ring is None else RING_GRID) * pitch) ** 2
    if ring is None:
        least = np.linalg.eigh(variance)[1][:, 2]
        more += np.outer(least, least) * ((LINE_GRID if shape == "line" else NORMAL_GRID) * pitch) ** 2
        more += np.diag((PANEL_SHARE * off) ** 2)
    else:
        along = (off @ ring) * ring
        more += RING_SHARE**2 * np.outer(along, along) + np.diag((ACROSS_SHARE * (off - along)) ** 2)
    if shape == "extended":
        more += np.diag((EXTENDED_SHARE * off) ** 2)
    return np.asarray(more)


def mean_depth_mm(crystal_mm: float) -> float:
    """How deep a gamma of 511 keV comes in the mean, of those that a crystal stops."""
    return 1.0 / LYSO_PER_MM - crystal_mm / math.expm1(LYSO_PER_MM * crystal_mm)


def _three(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _inwards(topology: Topology, middles: NDArray[np.float64], ring: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Along each crystal towards where gammas come from, (n, 3) of unit length; ring: axis of a ring."""
    found = np.empty_like(middles)
    for number in range(len(topology.module_nodes)):
        mine = np.flatnonzero(topology.module == number)
        if not mine.size:
            continue
        out = middles[mine].mean(axis=0) - middles.mean(axis=0)
        if ring is not None:
            out -= (out @ ring) * ring
        out /= max(float(np.linalg.norm(out)), 1e-9)
        square = square_to(middles[mine], out)
        # A single row of a ring lies in a plane, too, but its crystals do not stand square to that.
        found[mine] = -(square if square @ out > _STANDS else out)
    return found


def _nearest(lines: _Lines, pitch: float) -> _Nearest:
    """Raises TooFewCountsError if the lines do not cross at one point."""
    at, core = np.zeros(3), math.inf
    for _ in range(_STEPS):
        away = lines.away(at)
        distance = np.sqrt(np.einsum("ki,ki->k", away, away))
        weight = _weights(distance, core)[0]
        total = float(weight.sum())
        normal = total * np.eye(3) - np.einsum("k,ki,kj->ij", weight, lines.along, lines.along)
        if total < MIN_NET_COUNTS or np.linalg.cond(normal) > 1e6:
            raise TooFewCountsError("the lines of the coincidences do not cross at one point")
        step = np.linalg.solve(normal, weight @ away)
        at = at - step
        moved = float(np.linalg.norm(step))
        narrower = max(_CORNER * pitch, min(core, _CORE * float(np.median(distance))))
        if moved < _CLOSE_MM and narrower > 0.999 * core:
            break
        core = narrower
    return _Nearest(at, core)


def _weights(distance: NDArray[np.float64], core: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of lines: 1 in the core, falling to 0 at twice as far; and their slope over the distance."""
    if math.isinf(core):
        return np.ones(distance.size), np.zeros(distance.size)
    out = np.clip(distance / core - 1.0, 0.0, 1.0)
    return (1.0 - out**2) ** 2, -4.0 * out * (1.0 - out**2) / core


def _variance(lines: _Lines, deeper: _Lines, found: _Nearest, axis: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(3, 3): lines between the same crystals are one line, and hits may be deeper than thought."""
    away = lines.away(found.point)
    distance = np.sqrt(np.einsum("ki,ki->k", away, away))
    weight, slope = _weights(distance, found.core)
    pull = weight[:, None] * away
    curve = weight.sum() * np.eye(3) - np.einsum("k,ki,kj->ij", weight, lines.along, lines.along)
    curve += np.einsum("k,ki,kj->ij", slope / np.maximum(distance, found.core), away, away)
    if axis is not None:
        curve += weight.sum() * np.outer(axis, axis)
    _, same = np.unique(lines.pair, return_inverse=True)
    sums = np.stack([np.bincount(same, pull[:, k]) for k in range(3)], axis=1)
    inverse = np.linalg.inv(curve)
    depth = inverse @ (weight @ deeper.away(found.point))
    return np.asarray(inverse @ (sums.T @ sums) @ inverse + np.outer(depth, depth))


def _longest(lines: _Lines, pitch: float) -> NDArray[np.float64]:
    """Direction in which lines are furthest apart where they are nearest to one point."""
    found = _nearest(lines, pitch)
    away = lines.away(found.point)
    weight, _ = _weights(np.sqrt(np.einsum("ki,ki->k", away, away)), found.core)
    return np.asarray(np.linalg.eigh(np.einsum("k,ki,kj->ij", weight, away, away))[1][:, 2])


def axis_of(xyz_mm: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Direction of the axis of a ring of crystals, (3,); None where they make no ring (panels, a single module).

    On a cylinder around the middle a quadratic form of the places is 1 everywhere. Of its three principal axes two are
    alike, across the ring, and along the third, the axis, it is nearly zero however long the ring is.
    """
    at = (xyz_mm - xyz_mm.mean(axis=0)) / max(float(np.sqrt(xyz_mm.var(axis=0).sum())), 1e-9)
    terms = (at[:, :, None] * at[:, None, :]).reshape(-1, 9)
    form = np.linalg.lstsq(terms.T @ terms, terms.sum(axis=0), rcond=_THIN)[0].reshape(3, 3)
    size, axes = np.linalg.eigh(form)
    odd = int(np.argmin(np.abs(size)))
    two = np.delete(size, odd)
    if two.min() <= 0.0 or two.max() > 1.1 * two.min() or abs(size[odd]) > 0.1 * two.mean():
        return None
    across = xyz_mm - xyz_mm.mean(axis=0)
    radius = np.sqrt(np.maximum((across**2).sum(axis=1) - (across @ axes[:, odd]) ** 2, 0.0))
    return np.asarray(axes[:, odd]) if radius.std() < 0.1 * radius.mean() else None
