"""Where the source is, from the lines of coincidences alone: that needs no times of flight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import TooFewCountsError
from petqc.fits import MIN_NET_COUNTS
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LINES = 500_000
"""More lines are thinned: the place is then long known better than crystals are placed."""
_THIN = 1e-9
"""Rings narrower than 6 thousandths of their radius (its fourth power) have no extent along their axis."""


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Where the source is, mm, with one standard deviation each; pairs: lines it was found from (0: given)."""

    xyz_mm: tuple[float, float, float]
    error_mm: tuple[float, float, float]
    pairs: int


def find_source(
    xyz_mm: NDArray[np.float64], a: NDArray[np.int32], b: NDArray[np.int32], *, step: int = 1
) -> SourcePlace:
    """The point nearest to the lines between the crystals of all pairs; lines far from it count less and less.

    Args:
        xyz_mm: (n, 3) places of crystals.
        a: (m,) positions of one side.
        b: (m,) of the other.
        step: use every so-manieth pair.

    Raises:
        TooFewCountsError: fewer than MIN_NET_COUNTS pairs, or their lines do not cross at one point.
    """
    a, b = a[::step], b[::step]
    if a.size < MIN_NET_COUNTS:
        raise TooFewCountsError(f"{a.size} pairs, at least {MIN_NET_COUNTS} wanted")
    start, along = xyz_mm[a], xyz_mm[b] - xyz_mm[a]
    along = along / np.linalg.norm(along, axis=1)[:, None]
    point: NDArray[np.float64] = np.zeros(3)
    covariance: NDArray[np.float64] = np.zeros((3, 3))
    scale = 50.0
    for _ in range(25):
        outer, right = np.zeros((3, 3)), np.zeros(3)
        total, squares = weigh_lines(start, along, point, 3.0 * scale, outer, right)
        normal = total * np.eye(3) - outer
        if total < MIN_NET_COUNTS or np.linalg.cond(normal) > 1e6:
            raise TooFewCountsError("the lines of the coincidences do not cross at one point")
        new = np.asarray(np.linalg.solve(normal, right), np.float64)
        spread = math.sqrt(max(squares / total / 2.0, 0.01))
        moved = float(np.linalg.norm(new - point))
        point, scale = new, max(min(scale, 1.5 * spread), 1.0)
        covariance = np.asarray(spread**2 * np.linalg.inv(normal), np.float64)
        if moved < 1e-3 and scale <= max(1.5 * spread, 1.0):
            break
    error = np.sqrt(np.diag(covariance))
    return SourcePlace(
        (float(point[0]), float(point[1]), float(point[2])),
        (float(error[0]), float(error[1]), float(error[2])),
        int(a.size),
    )


@kernel
def weigh_lines(
    start: NDArray[np.float64],
    along: NDArray[np.float64],
    point: NDArray[np.float64],
    reach: float,
    outer: NDArray[np.float64],
    right: NDArray[np.float64],
) -> tuple[float, float]:
    """Sums over lines, each with a weight that falls from 1 at the point to 0 at a distance of `reach`.

    Args:
        start: (m, 3) a place on each line.
        along: (m, 3) its direction, of unit length.
        point: (3,) from where distances are.
        reach: lines farther off do not count.
        outer: (3, 3) sum of weight times direction times direction, added to.
        right: (3,) sum of weight times the part of the place that is across the line, added to.

    Returns:
        Sum of the weights, and of weight times squared distance.
    """
    total, squares = 0.0, 0.0
    for m in range(start.shape[0]):
        x, y, z = start[m, 0], start[m, 1], start[m, 2]
        u, v, w = along[m, 0], along[m, 1], along[m, 2]
        dx, dy, dz = point[0] - x, point[1] - y, point[2] - z
        there = dx * u + dy * v + dz * w
        dx, dy, dz = dx - there * u, dy - there * v, dz - there * w
        square = dx * dx + dy * dy + dz * dz
        if not square < reach * reach:
            continue
        weight = (1.0 - square / (reach * reach)) ** 2
        total += weight
        squares += weight * square
        along_it = x * u + y * v + z * w
        right[0] += weight * (x - along_it * u)
        right[1] += weight * (y - along_it * v)
        right[2] += weight * (z - along_it * w)
        outer[0, 0] += weight * u * u
        outer[0, 1] += weight * u * v
        outer[0, 2] += weight * u * w
        outer[1, 1] += weight * v * v
        outer[1, 2] += weight * v * w
        outer[2, 2] += weight * w * w
    outer[1, 0], outer[2, 0], outer[2, 1] = outer[0, 1], outer[0, 2], outer[1, 2]
    return total, squares


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
