"""Densities of mixtures of Gaussians, and their peak and width, without any random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FWHM_PER_SIGMA = 2.3548200450309493
_CLASSES = 64
_PER_CLASS = 40


def mixture_density(
    grid: NDArray[np.float64],
    mean: NDArray[np.float64],
    sigma: NDArray[np.float64],
    weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Sum of Gaussians on an even grid, per unit of the grid.

    Means are spread over the two nearest grid points and sigmas gathered in classes of equal population, at most 64,
    each with its root mean square; the variance that the spreading adds is taken off again.

    Args:
        grid: (g,) evenly spaced points; components outside are left out.
        mean: (n,) of each component.
        sigma: (n,) standard deviation of each component.
        weight: (n,) of each component; None: 1 each.

    Returns:
        (g,) density; its integral is the sum of the weights inside the grid.
    """
    step = float(grid[1] - grid[0])
    place = (mean - grid[0]) / step
    inside = (place >= 0) & (place < grid.size - 1)
    place, sigma = place[inside], sigma[inside]
    weights = np.ones(place.size) if weight is None else weight[inside]
    density = np.zeros(grid.size)
    if not place.size:
        return density
    n_classes = min(_CLASSES, 1 + place.size // _PER_CLASS)
    edges = np.unique(np.quantile(sigma, np.linspace(0, 1, n_classes + 1)))
    group = np.clip(np.searchsorted(edges, sigma, side="right") - 1, 0, max(edges.size - 2, 0))
    low = place.astype(np.int64)
    part = place - low
    for k in range(max(edges.size - 1, 1)):
        mine = group == k
        if not mine.any():
            continue
        counts = np.bincount(low[mine], weights[mine] * (1 - part[mine]), grid.size)
        counts += np.bincount(low[mine] + 1, weights[mine] * part[mine], grid.size)
        spread = np.average(part[mine] * (1 - part[mine]), weights=weights[mine]) * step**2
        variance = max(float(np.average(sigma[mine] ** 2, weights=weights[mine]) - spread), 1e-12)
        width = np.sqrt(variance)
        half = min(int(np.ceil(6 * width / step)), grid.size)
        shape = np.exp(-0.5 * (np.arange(-half, half + 1) * step / width) ** 2)
        full = np.convolve(counts, shape / shape.sum())
        density += full[half : half + grid.size]
    return density / step


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
