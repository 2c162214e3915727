"""Which module a ray meets first, and how far it is through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from petqc.jit import kernel_inlined
from petqc_simulators.physics.machine import lowest_one
from petqc_simulators.physics.placement import ALONG_X, MIDDLE, OUT, SHIFT_X, SHIFT_Y

if TYPE_CHECKING:
    from numpy.typing import NDArray

Vector: TypeAlias = tuple[float, float, float]
Meeting: TypeAlias = tuple[int, float, float]
"""The module that a ray meets (-1: none), and the distances at which it enters and leaves it, in mm."""

# Indices of the geometry numbers. GROUND: square of the radius, in mm2, of the circle that holds a module as seen along
# the y axis; the others: halves of width (x) and height (y), face distance and length of the crystals, in mm.
HALF_WIDTH, HALF_HEIGHT, FACE, LENGTH, GROUND = range(5)
_FAR = 1e30
_AT_ONCE = 64


@kernel_inlined
def in_reach(
    at: Vector, along: Vector, begin: int, ways: int, geometry: NDArray[np.float64], modules: NDArray[np.float64]
) -> np.uint64:
    """Which of up to 64 modules from `begin` on a ray can meet at all, one bit each.

    Seen along the y axis, it must cross the circle around a module: arithmetic without a branch, several at a time.
    """
    x, _, z = at
    ux, _, uz = along
    limit = geometry[GROUND] * (ux * ux + uz * uz)
    found = np.uint64(0)
    for k in range(min(modules.shape[1] - begin, _AT_ONCE)):
        cx = modules[MIDDLE, begin + k] - x
        cz = modules[MIDDLE + 2, begin + k] - z
        aside = cx * uz - cz * ux
        is_ahead = (ways == 2) | (cx * ux + cz * uz >= 0.0) | (cx * cx + cz * cz <= geometry[GROUND])
        found |= np.uint64((aside * aside <= limit) & is_ahead) << np.uint64(k)
    return found


@kernel_inlined
def _inverse(direction: float) -> float:
    """A ray along a slab meets its faces very far away, before and behind."""
    return 1.0 / (direction if direction != 0.0 else 1e-300)


@kernel_inlined
def _slab(low: float, high: float, position: float, inverse: float) -> tuple[float, float]:
    """Distances at which a ray enters and leaves a slab; inverse: of its direction's part across the slab."""
    a = (low - position) * inverse
    b = (high - position) * inverse
    return min(a, b), max(a, b)


@kernel_inlined
def meet(
    at: Vector,
    along: Vector,
    inside: int,
    ways: int,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
) -> tuple[Meeting, Meeting]:
    """The meetings of a ray with the first module ahead and, if asked for 2 ways, with the first one behind.

    at, along: point in mm and unit vector. inside: the module in which it begins, -1 if in none: it meets no other one
    first. modules: placements, (PLACEMENT_COLUMNS, modules).
    """
    x, y, z = at
    ux, uy, uz = along
    inverse_y = _inverse(uy)
    met, entry, leave = -1, _FAR, _FAR
    met_behind, entry_behind, leave_behind = -1, _FAR, _FAR
    for begin in range(max(inside, 0), inside + 1 if inside >= 0 else modules.shape[1], _AT_ONCE):
        left = np.uint64(1) if inside >= 0 else in_reach(at, along, begin, ways, geometry, modules)
        while left:
            module = begin + lowest_one(left)
            left &= left - np.uint64(1)
            out_x, out_z = modules[OUT, module], modules[OUT + 2, module]
            side_x, side_z = modules[ALONG_X, module], modules[ALONG_X + 2, module]
            u0, v0 = modules[SHIFT_X, module], modules[SHIFT_Y, module]
            near_w, far_w = _slab(
                geometry[FACE],
                geometry[FACE] + geometry[LENGTH],
                x * out_x + z * out_z,
                _inverse(ux * out_x + uz * out_z),
            )
            near_u, far_u = _slab(
                u0 - geometry[HALF_WIDTH],
                u0 + geometry[HALF_WIDTH],
                x * side_x + z * side_z,
                _inverse(ux * side_x + uz * side_z),
            )
            near_v, far_v = _slab(v0 - geometry[HALF_HEIGHT], v0 + geometry[HALF_HEIGHT], y, inverse_y)
            near = max(near_u, near_v, near_w)
            far = min(far_u, far_v, far_w)
            begins = max(near, 0.0)
            if far > begins + 1e-9 and begins < entry:
                met, entry, leave = module, begins, far
            begins = max(-far, 0.0)
            if ways == 2 and -near > begins + 1e-9 and begins < entry_behind:
                met_behind, entry_behind, leave_behind = module, begins, -near
    return (met, entry, leave), (met_behind, entry_behind, leave_behind)
