"""How much deeper one crystal of a pair was hit than the other, from where crystals and source are.

Of two gammas that fly apart on one line, the one whose crystal is further out from the foot of the source on its module
was absorbed deeper. What is absorbed deeper arrives earlier: light is slower in the crystal than the gamma.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.channel_map import square_to
from petqc.fits.offset_kernels import number_lines
from petqc.fits.offsets import Depths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology

LYSO_PER_MM: Final = 0.083
"""Attenuation of LYSO at 511 keV. Source: 0.083 /mm, density 7.1 g/cm³."""
USUAL_CRYSTAL_MM: Final = 20.0
"""Length of crystals where nobody said it; half as long or twice changes little."""
_CLASSES = 16
_NEAR_MM = 0.6
_SLOPES = 100
_AT_ONCE = 20_000


def depth_classes(
    topology: Topology, from_source: NDArray[np.float64], a: NDArray[np.int32], b: NDArray[np.int32], crystal_mm: float
) -> Depths:
    """Pairs sorted by how much deeper one of the crystals was hit than the other.

    Args:
        topology: the channels.
        from_source: (n, 3) places of crystals, from the source, mm.
        a: (m,) positions of the pairs' channels.
        b: (m,).
        crystal_mm: length of the crystals.
    """
    n = len(topology)
    out, near = np.zeros(n), np.zeros(n)
    pitch = math.inf
    for number in range(len(topology.module_nodes)):
        mine = np.flatnonzero(topology.module == number)
        deep = np.abs(from_source[mine] @ square_to(from_source[mine], from_source[mine].mean(axis=0)))
        out[mine] = np.sqrt(np.maximum((from_source[mine] ** 2).sum(axis=1) - deep**2, 0.0))
        near[mine] = deep - crystal_mm / 2.0
        if mine.size > 1:
            pitch = min(pitch, float(np.linalg.norm(from_source[mine[1:]] - from_source[mine[0]], axis=1).min()))
    if not math.isfinite(pitch) or (near <= 0.0).any():
        return Depths.none()
    # Of pairs on one line once.
    order, first, begin = (np.empty(a.size + k, np.int32) for k in (0, 0, 1))
    nothing = Depths.none()
    count = number_lines(a, b, nothing.group, nothing.sign, n, order, first, begin)
    first = first[:count]
    i, j = a[first], b[first]
    deeper = depth_difference(out[i], out[j], near[i], near[j], crystal_mm, pitch)
    size = np.abs(deeper)
    group = (size / crystal_mm * _CLASSES).astype(np.int16)  # no line: the whole length, a class of its own
    # A deeper hit is an earlier one; the sign is left to the fit.
    sign = np.where(size < _NEAR_MM, 0, np.sign(deeper)).astype(np.int8)
    pairs = np.diff(begin[: count + 1])
    of_pairs = Depths(np.empty(a.size, np.int16), np.empty(a.size, np.int8), _CLASSES + 1)
    of_pairs.group[order] = np.repeat(np.minimum(group, np.int16(_CLASSES)), pairs)
    of_pairs.sign[order] = np.repeat(sign, pairs)
    return of_pairs


def depth_difference(
    out_a: NDArray[np.float64],
    out_b: NDArray[np.float64],
    near_a: NDArray[np.float64],
    near_b: NDArray[np.float64],
    crystal_mm: float,
    pitch_mm: float,
) -> NDArray[np.float64]:
    """Mean depth of the hit in crystal a minus that in crystal b, of pairs of gammas that fly apart on one line, mm.

    Over all slopes of that line which meet both crystals, each absorbing exponentially; in the plane of line and axis.

    Args:
        out_a: (m,) distance of crystal a's axis from the foot of the source on the module.
        out_b: (m,) the same of crystal b.
        near_a: (m,) distance of the source from the module's face.
        near_b: (m,) the same on side b.
        crystal_mm: length of the crystals.
        pitch_mm: their width.
    """
    # Many pairs are alike: to a hundredth of a millimetre, 20 bits each.
    crystals = [
        np.round(np.stack([out, near]) * 100.0).astype(np.int64) for out, near in ((out_a, near_a), (out_b, near_b))
    ]
    packed = [out << 20 | near for out, near in crystals]
    places, index = np.unique(np.concatenate(packed), return_inverse=True)
    first, second = index[: out_a.size], index[out_a.size :]
    pairs, where = np.unique(first * places.size + second, return_inverse=True)
    out, near = (places >> 20) / 100.0, (places & 0xFFFFF) / 100.0
    i, j = np.divmod(pairs, places.size)
    found = np.empty(pairs.size)
    for start in range(0, pairs.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = _difference(out[i[part]], out[j[part]], near[i[part]], near[j[part]], crystal_mm, pitch_mm / 2.0)
    return np.asarray(found[where.reshape(-1)])


def _difference(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    face_a: NDArray[np.float64],
    face_b: NDArray[np.float64],
    crystal_mm: float,
    half: float,
) -> NDArray[np.float64]:
    # Slopes of lines that meet both crystals.
    low = np.maximum(
        np.maximum(a - half, 0.0) / (face_a + crystal_mm), np.maximum(b - half, 0.0) / (face_b + crystal_mm)
    )
    high = np.minimum((a + half) / face_a, (b + half) / face_b)
    # No line meets both, and yet they were paired (scatter, randoms): the outer one counts as hit at its end.
    found = np.where(a < b, -crystal_mm, crystal_mm)
    meets = high > low * (1.0 + 1e-9)
    low, high = low[meets], high[meets]
    slope = low[:, None] + (high - low)[:, None] * (np.arange(_SLOPES) + 0.5) / _SLOPES

    def absorbed(out: NDArray[np.float64], face: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        first = np.clip((out[meets, None] - half) / slope - face[meets, None], 0.0, crystal_mm)
        last = np.clip((out[meets, None] + half) / slope - face[meets, None], 0.0, crystal_mm)
        before, after = np.exp(-LYSO_PER_MM * first), np.exp(-LYSO_PER_MM * last)
        return before - after, (first + 1.0 / LYSO_PER_MM) * before - (last + 1.0 / LYSO_PER_MM) * after

    share_a, depth_a = absorbed(a, face_a)
    share_b, depth_b = absorbed(b, face_b)
    both = (share_a * share_b).sum(axis=1)
    difference = (depth_a * share_b - depth_b * share_a).sum(axis=1) / np.maximum(both, 1e-12)
    found[meets] = np.where(both > 1e-9, difference, found[meets])
    return np.asarray(found)
