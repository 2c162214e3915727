"""How many gammas each module of a scanner should count of a point source, from where source and crystals are.

A module counts gammas of the source, in proportion to its solid angle and to what its depth of crystal absorbs, and
the decays of its own crystals, in proportion to their number. How much there is of either is fitted to all modules,
robustly, so that a few bad modules do not move it. Where all modules see the source alike, as in a ring, the mean
module is what is expected; of several rings, with a line or an extended source that need not reach all of them alike,
the mean module of the ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import square_to
from petqc.fits.depth import LYSO_PER_MM
from petqc.fits.source_place import axis_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology

_SLICES = 8
_ALIKE = 0.02
"""Relative differences between modules up to which they see the source alike: what efficiencies warn of."""
_ROUNDS = 30
_SAME_RING_MM = 10.0
"""Modules whose middles are no further apart along the axis stand in one ring."""
_FEWEST_OF_RING = 3


def seen_shares(topology: Topology, source_mm: NDArray[np.float64], crystal_mm: float) -> NDArray[np.float64] | None:
    """First interactions of gammas of a point source in each module, (n_modules,), mean 1; None without a map.

    The integral of exp(-path in crystal) / distance² over the crystals, in slices of their depth; each module as if its
    crystals went on beside it, since its neighbours take what comes from the side.

    Args:
        topology: the channels.
        source_mm: (3,) where the source is.
        crystal_mm: length of the crystals.
    """
    xyz = topology.xyz_mm.astype(np.float64) - source_mm
    if not np.isfinite(xyz).all():
        return None
    found = np.zeros(len(topology.module_nodes))
    for number in range(found.size):
        mine = xyz[topology.module == number]
        deep = np.abs(mine @ square_to(mine, mine.mean(axis=0)))
        out = np.sqrt(np.maximum((mine**2).sum(axis=1) - deep**2, 0.0))
        for depth in (np.arange(_SLICES) + 0.5) / _SLICES * crystal_mm:
            at = deep - crystal_mm / 2.0 + depth
            if (at <= 0.0).any():
                return None
            distance = np.hypot(out, at)
            found[number] += float((np.exp(-LYSO_PER_MM * depth * distance / at) / distance**2).sum())
    return np.asarray(found / found.mean())


def rings_of(topology: Topology) -> NDArray[np.int64]:
    """Number of the ring that each module stands in, (n_modules,); 0 for all where they make no rings.

    Args:
        topology: the channels.
    """
    n, xyz = len(topology.module_nodes), topology.xyz_mm.astype(np.float64)
    axis = axis_of(xyz) if np.isfinite(xyz).all() else None
    if axis is None:
        return np.zeros(n, np.int64)
    along = np.bincount(topology.module, weights=xyz @ axis, minlength=n) / np.bincount(topology.module, minlength=n)
    order = np.argsort(along, kind="stable")
    ring = np.empty(n, np.int64)
    ring[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > _SAME_RING_MM)])
    return ring if np.bincount(ring).min() >= _FEWEST_OF_RING else np.zeros(n, np.int64)


def expected_counts(
    counts: NDArray[np.float64],
    channels: NDArray[np.int64],
    share: NDArray[np.float64] | None,
    ring: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Counts that each module should have, (n_modules,).

    Args:
        counts: (n_modules,) what they have.
        channels: (n_modules,) how many channels they have.
        share: see seen_shares; None: the modules of a ring see the source alike.
        ring: (n_modules,) number of each module's ring; default: one of all.
    """
    from scipy.optimize import nnls

    if share is None and ring is not None:
        return np.asarray((np.bincount(ring, weights=counts) / np.bincount(ring))[ring])
    if share is None or np.ptp(share) < _ALIKE or counts.size < 3:
        return np.full(counts.size, counts.mean())
    design = np.column_stack([share, channels / channels.mean()])
    weight, expected = np.ones(counts.size), counts
    for _ in range(_ROUNDS):  # the least sum of absolute deviations
        parts, _ = nnls(design * weight[:, None], counts * weight)
        expected = design @ parts
        weight = 1.0 / np.sqrt(np.maximum(np.abs(counts - expected), 1e-3 * counts.mean()))
    return np.asarray(expected)
