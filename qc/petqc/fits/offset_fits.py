"""Time offsets of a run: what geometry explains is taken out of the pairs, the rest is solved for; shared by checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import TooFewCountsError
from petqc.fits import MIN_NET_COUNTS
from petqc.fits.depth import USUAL_CRYSTAL_MM, depth_classes
from petqc.fits.energy_fits import Refusal
from petqc.fits.offsets import Depths, Solution, solve_offsets
from petqc.fits.time_peaks import rough_time_peak
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import QcInput

_C_MM_PER_PS = 0.299792458
MISPLACED_MM = 2.0
"""A source that is found this far from the middle, and surely, is taken to be there; nearer it is the middle."""
_SURELY = 5.0


@dataclass(frozen=True, slots=True)
class TimeOffsets:
    """Offsets solved from the kept pairs of a run.

    solved: offsets of channels. a, b: (m,) positions of the pairs' channels in the topology. residual_ps: (m,)
    dt = t_a - t_b without flight and offsets, NaN where a channel has none. is_moved: whether flight was reckoned from
    a source off the middle.
    """

    solved: Solution
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    residual_ps: NDArray[np.float32]
    is_moved: bool


def solve_run(q: QcInput) -> TimeOffsets | Refusal:
    """Solve for the offsets of all channels."""
    h = q.histograms
    fit = q.time_fit(-1 if h.n_pairs > 1 else 0)
    a, b, dt = h.pairs()
    if isinstance(fit, Refusal) and fit.n < MIN_NET_COUNTS:
        return Refusal(fit.reason, int(dt.size))
    # Offsets need a width to start from only; a peak of odd shape will do.
    sigma = rough_time_peak(*q.time_spectrum(-1))[1] / FWHM_OF_SIGMA if isinstance(fit, Refusal) else fit.sigma
    source, is_moved = _source(q)
    left = dt.astype(np.float32) - _flight_ps(q, a, b, source)
    try:
        solved = solve_offsets(
            a, b, left, len(h.topology),
            window_ps=float(h.settings.coincidence_window_ps), start_ps=_module_start(q), sigma_ps=sigma,
            depths=_depths(q, a, b, source), module=h.topology.module, group=h.topology.asic,
        )  # fmt: skip
    except TooFewCountsError as error:
        return Refusal(str(error), int(dt.size))
    offset = solved.offset_ps.astype(np.float32)
    left -= offset[a] - offset[b]
    return TimeOffsets(solved, a, b, left, is_moved)


def _source(q: QcInput) -> tuple[NDArray[np.float64], bool]:
    """Where flight is reckoned from, and whether that is not where the source is meant to be."""
    meant = np.array(q.context.source_mm if q.context.source_mm is not None else (0.0, 0.0, 0.0))
    if q.context.source != "point":
        return meant, False
    try:
        place = q.source_place()
    except TooFewCountsError:
        return meant, False
    found = np.array(place.xyz_mm)
    distance = float(np.linalg.norm(found - meant))
    is_moved = distance > MISPLACED_MM and distance > _SURELY * float(np.linalg.norm(place.error_mm))
    return (found, True) if is_moved else (meant, False)


def _flight_ps(
    q: QcInput, a: NDArray[np.int32], b: NDArray[np.int32], source: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Expected dt of a point source. Source: daily-qc.md §2d, g_k."""
    xyz = q.histograms.topology.xyz_mm.astype(np.float64)
    if q.context.source != "point" or not np.isfinite(xyz).all():
        return np.zeros(a.size, np.float32)
    flight = (np.sqrt(((xyz - source) ** 2).sum(axis=1)) / _C_MM_PER_PS).astype(np.float32)
    return np.asarray(flight[a] - flight[b])


def _depths(q: QcInput, a: NDArray[np.int32], b: NDArray[np.int32], source: NDArray[np.float64]) -> Depths:
    topology = q.histograms.topology
    xyz = topology.xyz_mm.astype(np.float64)
    if q.context.source != "point" or not np.isfinite(xyz).all():
        return Depths.none()
    length = q.context.crystal_mm[2] if q.context.crystal_mm else USUAL_CRYSTAL_MM
    return depth_classes(topology, xyz - source, a, b, length)


def _module_start(q: QcInput) -> NDArray[np.float64]:
    """Module offsets from the fits of pairs, so that the robust solution starts near the peaks."""
    h = q.histograms
    n_modules = len(h.topology.module_nodes)
    rows, right = [np.ones(n_modules) / n_modules], [0.0]
    for pair, fit in zip(h.searched_pairs, q.time_fits(h.searched_pairs), strict=True):
        if not isinstance(fit, Refusal):
            row = np.zeros(n_modules)
            x, y = h.pair_modules(pair)
            row[x], row[y] = 1.0 / fit.mu_error, -1.0 / fit.mu_error
            rows.append(row)
            right.append(fit.mu / fit.mu_error)
    modules, *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    start: NDArray[np.float64] = modules[h.topology.module]
    return start
