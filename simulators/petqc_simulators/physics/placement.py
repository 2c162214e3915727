"""Where the modules stand: facing panels or a ring around the y axis, each module with its own axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Geometry

# Columns of the placement of a module: unit vectors outwards, along its columns and along its rows, how far its middle
# is shifted along the latter two, in mm, and where that middle is. Its entrance face is geometry.face_distance_mm from
# the y axis (ring) or from the middle plane (panels).
OUT, ALONG_X, ALONG_Y, SHIFT_X, SHIFT_Y, MIDDLE = 0, 3, 6, 9, 10, 11
PLACEMENT_COLUMNS = 14

_LEAST_ANGLE_RAD = math.radians(100.0)
"""Modules of a ring closer to each other than this, as seen from the axis, are not in coincidence."""


def placements(geometry: Geometry) -> NDArray[np.float64]:
    """Placement of every module, (modules, PLACEMENT_COLUMNS)."""
    found = np.zeros((geometry.modules, PLACEMENT_COLUMNS))
    found[:, ALONG_Y + 1] = 1.0
    step_x, step_y = geometry.width_mm + geometry.gap_mm, geometry.height_mm + geometry.gap_mm
    index = np.arange(geometry.modules)
    if geometry.arrangement == "ring":
        angle = 2.0 * np.pi * (index % geometry.across) / geometry.across
        found[:, OUT], found[:, OUT + 2] = np.sin(angle), np.cos(angle)
        found[:, ALONG_X], found[:, ALONG_X + 2] = np.cos(angle), -np.sin(angle)
        place_y, n_y = index // geometry.across, geometry.modules // geometry.across
    else:
        side = geometry.modules // 2
        found[:, OUT + 2] = np.where(index < side, -1.0, 1.0)
        found[:, ALONG_X] = 1.0
        place = index % side
        found[:, SHIFT_X] = (place % geometry.across - (geometry.across - 1) / 2) * step_x
        place_y, n_y = place // geometry.across, side // geometry.across
    found[:, SHIFT_Y] = (place_y - (n_y - 1) / 2) * step_y
    found[:, MIDDLE : MIDDLE + 3] = (
        found[:, OUT : OUT + 3] * (geometry.face_distance_mm + geometry.crystal_length_mm / 2)
        + found[:, ALONG_X : ALONG_X + 3] * found[:, SHIFT_X, None]
        + found[:, ALONG_Y : ALONG_Y + 3] * found[:, SHIFT_Y, None]
    )
    return found


def crystal_middles_mm(geometry: Geometry) -> NDArray[np.float64]:
    """Middle of every crystal, (channels, 3), in the detector's order."""
    at = placements(geometry)
    column, row = geometry.places
    module = np.arange(geometry.channels) // geometry.crystals_per_module
    x = (column - (geometry.columns - 1) / 2) * geometry.pitches_mm[0] + at[module, SHIFT_X]
    y = (row - (geometry.rows - 1) / 2) * geometry.pitches_mm[1] + at[module, SHIFT_Y]
    depth = geometry.face_distance_mm + geometry.crystal_length_mm / 2
    return np.asarray(
        at[module, OUT : OUT + 3] * depth
        + at[module, ALONG_X : ALONG_X + 3] * x[:, None]
        + at[module, ALONG_Y : ALONG_Y + 3] * y[:, None]
    )


def in_coincidence(geometry: Geometry) -> NDArray[np.bool_]:
    """Which modules may be in coincidence with which, (modules, modules)."""
    out = placements(geometry)[:, OUT : OUT + 3]
    return np.asarray(out @ out.T <= math.cos(_LEAST_ANGLE_RAD) + 1e-9)
