"""Where the source is, from the lines of coincidences alone: that needs no times of flight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import TooFewCountsError
from petqc.fits import MIN_NET_COUNTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LINES = 500_000
"""More lines are thinned: the place is then long known better than crystals are placed."""


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
    point, scale, covariance = np.zeros(3), 50.0, np.zeros((3, 3))
    for _ in range(25):
        away = point - start
        away -= (away * along).sum(axis=1)[:, None] * along
        squares = (away**2).sum(axis=1)
        weight = np.where(squares < (3.0 * scale) ** 2, (1.0 - squares / (3.0 * scale) ** 2) ** 2, 0.0)
        normal = weight.sum() * np.eye(3) - np.einsum("k,ki,kj->ij", weight, along, along)
        if weight.sum() < MIN_NET_COUNTS or np.linalg.cond(normal) > 1e6:
            raise TooFewCountsError("the lines of the coincidences do not cross at one point")
        across = start - (start * along).sum(axis=1)[:, None] * along
        new = np.linalg.solve(normal, (weight[:, None] * across).sum(axis=0))
        spread = math.sqrt(max(float((weight * squares).sum() / weight.sum()) / 2.0, 0.01))
        moved = float(np.linalg.norm(new - point))
        point, scale = new, max(min(scale, 1.5 * spread), 1.0)
        covariance = spread**2 * np.linalg.inv(normal)
        if moved < 1e-3 and scale <= max(1.5 * spread, 1.0):
            break
    error = np.sqrt(np.diag(covariance))
    return SourcePlace(
        (float(point[0]), float(point[1]), float(point[2])),
        (float(error[0]), float(error[1]), float(error[2])),
        int(a.size),
    )


_THIN = 1e-9
"""Rings narrower than 6 thousandths of their radius (its fourth power) have no extent along their axis."""


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
