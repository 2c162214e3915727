"""Densities of mixtures of Gaussians, and their peak and width, without any random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

FWHM_PER_SIGMA = 2.3548200450309493
_CLASSES = 64
_PER_CLASS = 40


def mixture_density(
    grid: NDArray[np.float64],
    mean: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum of Gaussians on an even grid, per unit of the grid.

    Means are spread over the two nearest grid points and sigmas gathered in classes of equal population, at most 64,
    each with its root mean square; the variance that the spreading adds is taken off again.

    Args:
        grid: (g,) evenly spaced points; components outside are left out.
        mean: (n,) of each component.
        sigma: (n,) standard deviation of each component.

    Returns:
        (g,) density; its integral is the number of components inside the grid.
    """
    step = float(grid[1] - grid[0])
    place = (mean - grid[0]) / step
    inside = (place >= 0) & (place < grid.size - 1)
    place, sigma = place[inside], sigma[inside]
    density = np.zeros(grid.size)
    if not place.size:
        return density
    n_classes = min(_CLASSES, 1 + place.size // _PER_CLASS)
    edges = np.unique(np.quantile(sigma, np.linspace(0, 1, n_classes + 1)))
    group = np.clip(np.searchsorted(edges, sigma, side="right") - 1, 0, max(edges.size - 2, 0))
    _add_classes(density, place, sigma / step, group, max(edges.size - 1, 1))
    return density / step


@njit(cache=True)
def _add_classes(
    density: NDArray[np.float64],
    place: NDArray[np.float64],
    sigma: NDArray[np.float64],
    group: NDArray[np.int64],
    n_classes: int,
) -> None:
    """Add every class to the density, each by the one Gaussian that stands for it; all in steps of the grid."""
    n = density.size
    counts = np.zeros((n_classes, n))
    total, spread, variance = np.zeros(n_classes), np.zeros(n_classes), np.zeros(n_classes)
    for i in range(place.size):
        k, low = group[i], int(place[i])
        part = place[i] - low
        counts[k, low] += 1.0 - part
        counts[k, low + 1] += part
        total[k] += 1.0
        spread[k] += part * (1.0 - part)
        variance[k] += sigma[i] ** 2
    for k in range(n_classes):
        if total[k] == 0.0:
            continue
        width = np.sqrt(max((variance[k] - spread[k]) / total[k], 1e-12))
        half = min(int(np.ceil(6.0 * width)), n)
        shape = np.exp(-0.5 * (np.arange(-half, half + 1) / width) ** 2)
        shape /= shape.sum()
        for j in range(n):
            if counts[k, j] != 0.0:
                for at in range(max(j - half, 0), min(j + half + 1, n)):
                    density[at] += counts[k, j] * shape[at - j + half]


def peak_and_fwhm(grid: NDArray[np.float64], density: NDArray[np.float64]) -> tuple[float, float]:
    """Place of the highest point (parabola through three points) and full width at half of it (interpolated).

    Raises:
        ValueError: the density has no peak inside the grid.
    """
    top = int(np.argmax(density))
    if not 0 < top < grid.size - 1:
        raise ValueError("the density has no peak inside the grid")
    step = float(grid[1] - grid[0])
    left, middle, right = density[top - 1 : top + 2]
    curve = left - 2 * middle + right
    shift = 0.5 * (left - right) / curve if curve else 0.0
    height = middle - 0.25 * (left - right) * shift
    half = height / 2
    below = np.flatnonzero(density[:top] < half)
    above = np.flatnonzero(density[top:] < half)
    if not below.size or not above.size:
        raise ValueError("the density does not fall to half its height inside the grid")
    i, j = int(below[-1]), top + int(above[0])
    low = grid[i] + step * (half - density[i]) / (density[i + 1] - density[i])
    high = grid[j] - step * (half - density[j]) / (density[j - 1] - density[j])
    return float(grid[top] + shift * step), float(high - low)
