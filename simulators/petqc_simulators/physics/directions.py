"""Directions in space: any direction around an axis, and one that is turned away from another by an angle."""

from __future__ import annotations

import math

from petqc.jit import kernel_inlined


@kernel_inlined
def turned(share: float) -> tuple[float, float]:
    """Cosine and sine of a share of a full turn, 0 to 1, to 1e-15.

    Of an angle in turns the quarter is known at once; the two series are those of fdlibm, within an eighth of a turn.
    """
    quarters = int(4.0 * share + 0.5)
    x = (share - 0.25 * quarters) * (2.0 * math.pi)
    z = x * x
    zz = z * z
    low = -1.66666666666666324348e-01 + z * 8.33333333332248946124e-03
    middle = -1.98412698298579493134e-04 + z * 2.75573137070700676789e-06
    high = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10
    sine = x + x * z * (low + zz * (middle + zz * high))
    low = 4.16666666666666019037e-02 + z * -1.38888888888741095749e-03
    middle = 2.48015872894767294178e-05 + z * -2.75573143513906633035e-07
    high = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11
    cosine = 1.0 - 0.5 * z + zz * (low + zz * (middle + zz * high))
    is_odd = quarters & 1 == 1
    a = sine if is_odd else cosine
    b = cosine if is_odd else sine
    return -a if quarters + 1 & 2 else a, -b if quarters & 2 else b


@kernel_inlined
def around(axis_cosine: float, share: float) -> tuple[float, float, float]:
    """Unit vector with this cosine to an axis, turned around it by a share of a turn: along both others, the axis."""
    sine = math.sqrt(max(0.0, 1.0 - axis_cosine * axis_cosine))
    cos_turn, sin_turn = turned(share)
    return sine * cos_turn, sine * sin_turn, axis_cosine


@kernel_inlined
def deflected(ux: float, uy: float, uz: float, cosine: float, share: float) -> tuple[float, float, float]:
    """Unit vector with this cosine to a unit vector u, turned around it by a share of a turn from the z axis on."""
    forward, across, _ = around(cosine, share)
    side = math.sqrt(max(0.0, 1.0 - uz * uz))
    if side < 1e-6:
        return forward, across, cosine * (1.0 if uz > 0.0 else -1.0)
    inverse = 1.0 / side
    return (
        ux * cosine + (ux * uz * forward - uy * across) * inverse,
        uy * cosine + (uy * uz * forward + ux * across) * inverse,
        uz * cosine - side * forward,
    )
