"""Gammas in LYSO: attenuation, photoelectric absorption, Compton scatter from crystal to crystal, light transport."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel_of_given_arrays
from petqc_simulators.physics.source import ELECTRON_KEV

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Crystal

CLOCK_PS = 5000.0
LIGHT_MM_PER_CLK = 299.792458e-3 * CLOCK_PS
"""Distance that light travels in one clock of 5 ns, in mm."""

TABLE_KEV = 1501
_ABSORB_KEV = 12.0
_K_EDGE_KEV = 63.3
_ELECTRONS_PER_G = 2.60e23
"""Electrons per gram of LYSO, from its composition (Z/A = 0.432)."""
_PHOTO_CM2_PER_G_511 = 0.037
"""Photoelectric coefficient at 511 keV: a third of the total of 0.83 /cm at 7.1 g/cm3 that LYSO is known for."""

# Columns of the deposit array (see detector.py): time in clocks, energy in keV, two normal deviates that make the
# energy and the time of a hit, the number of the decay, the channel.
T, E, ZE, ZT, DECAY, CHANNEL = 0, 1, 2, 3, 4, 5
DEPOSIT_COLUMNS = 6


def klein_nishina_cm2(energy_kev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compton cross-section per electron. Source: Klein-Nishina formula."""
    k = energy_kev / ELECTRON_KEV
    a = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - np.log1p(2 * k) / k)
    return np.asarray(2 * np.pi * 2.8179403e-13**2 * (a + np.log1p(2 * k) / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2))


def attenuation_tables(crystal: Crystal) -> NDArray[np.float64]:
    """Attenuation of a block of crystals, (TABLE_KEV, 2): 1/mm, and the share of photoelectric absorption.

    Row i is for a photon of i keV. The photoelectric part is a power law through its value at 511 keV with the drop
    of lutetium's K edge; coherent scatter is left out, as it changes neither energy nor, much, direction.
    """
    energy = np.maximum(np.arange(TABLE_KEV, dtype=np.float64), 5.0)
    compton = klein_nishina_cm2(energy) * _ELECTRONS_PER_G
    photo = _PHOTO_CM2_PER_G_511 * (511.0 / energy) ** 2.7
    photo[energy < _K_EDGE_KEV] /= 5.0
    total = compton + photo
    per_mm = total * crystal.density_g_cm3 * crystal.fill_factor / 10.0
    return np.ascontiguousarray(np.stack([per_mm, photo / total], axis=1))


@kernel_of_given_arrays
def _enter(low: float, high: float, position: float, direction: float) -> tuple[float, float]:
    """Distances at which a ray enters and leaves a slab."""
    if direction == 0.0:
        if low <= position <= high:
            return -1e30, 1e30
        return 1e30, -1e30
    a = (low - position) / direction
    b = (high - position) / direction
    return min(a, b), max(a, b)


@kernel_of_given_arrays
def _deposit(
    deposits: NDArray[np.float64],
    first: int,
    n: int,
    clk: float,
    energy_kev: float,
    decay: float,
    channel: int,
) -> int:
    """Add energy to a crystal; what one decay leaves in one crystal within 1 ns is one deposit at its mean time."""
    for i in range(first, n):
        if deposits[i, CHANNEL] == channel and abs(deposits[i, T] - clk) < 0.2:
            total = deposits[i, E] + energy_kev
            deposits[i, T] += (clk - deposits[i, T]) * energy_kev / total
            deposits[i, E] = total
            return n
    deposits[n, T] = clk
    deposits[n, E] = energy_kev
    deposits[n, DECAY] = decay
    deposits[n, CHANNEL] = channel
    return n + 1


@kernel_of_given_arrays
def deposit_at(
    deposits: NDArray[np.float64],
    first: int,
    n: int,
    u: float,
    v: float,
    w: float,
    clk: float,
    energy_kev: float,
    decay: float,
    module: int,
    geometry: NDArray[np.float64],
) -> int:
    """Leave energy at a point of a module; the light then travels to the SiPM on the crystal's outer end.

    u, v, w: the point in the module's own axes (see placement.py), w outwards from the scanner's middle. geometry: half
    width x, half width y, pitch x, face distance, length (mm), columns, rows, light index, square of the distance from
    a module's middle to its corners (mm2), pitch y, columns and rows of an ASIC's crystals.
    """
    columns = int(geometry[5])
    rows = int(geometry[6])
    column = min(max(int((u + geometry[0]) / geometry[2]), 0), columns - 1)
    row = min(max(int((v + geometry[1]) / geometry[9]), 0), rows - 1)
    to_sensor_mm = geometry[3] + geometry[4] - w
    block_columns = int(geometry[10])
    block_rows = int(geometry[11])
    block = row // block_rows * (columns // block_columns) + column // block_columns
    inside = row % block_rows * block_columns + column % block_columns
    channel = module * rows * columns + block * block_rows * block_columns + inside
    light_clk = to_sensor_mm * geometry[7] / LIGHT_MM_PER_CLK
    return _deposit(deposits, first, n, clk + light_clk, energy_kev, decay, channel)


@kernel_of_given_arrays
def _deposit_in(
    deposits: NDArray[np.float64],
    first: int,
    n: int,
    x: float,
    y: float,
    z: float,
    clk: float,
    energy_kev: float,
    decay: float,
    module: int,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
) -> int:
    m = modules[module]
    u = x * m[3] + y * m[4] + z * m[5] - m[9]
    v = x * m[6] + y * m[7] + z * m[8] - m[10]
    w = x * m[0] + y * m[1] + z * m[2]
    return deposit_at(deposits, first, n, u, v, w, clk, energy_kev, decay, module, geometry)


@kernel_of_given_arrays
def track(
    rng: np.random.Generator,
    deposits: NDArray[np.float64],
    first: int,
    n: int,
    x: float,
    y: float,
    z: float,
    ux: float,
    uy: float,
    uz: float,
    energy_kev: float,
    clk: float,
    decay: float,
    inside: int,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    attenuation: NDArray[np.float64],
) -> int:
    """Follow one photon until it is absorbed or gone; the deposits of this decay are rows first .. n of `deposits`.

    inside: the module in which it begins, -1 if in none. Compton angles by Kahn's rejection method. Returns the new
    number of deposits.
    """
    face = geometry[3]
    back = geometry[3] + geometry[4]
    for _ in range(32):
        entry = 1e30
        leave = 1e30
        # A photon that is in a module meets no other one first.
        begin = max(inside, 0)
        end = inside + 1 if inside >= 0 else modules.shape[0]
        inside = -1
        for module in range(begin, end):
            m = modules[module]
            # A ray that misses the sphere around a module, or has it behind itself, misses the module.
            cx = m[11] - x
            cy = m[12] - y
            cz = m[13] - z
            along = cx * ux + cy * uy + cz * uz
            square = cx * cx + cy * cy + cz * cz
            if square > geometry[8] and (along < 0.0 or square - along * along > geometry[8]):
                continue
            near_w, far_w = _enter(face, back, x * m[0] + y * m[1] + z * m[2], ux * m[0] + uy * m[1] + uz * m[2])
            near_u, far_u = _enter(
                -geometry[0], geometry[0], x * m[3] + y * m[4] + z * m[5] - m[9], ux * m[3] + uy * m[4] + uz * m[5]
            )
            near_v, far_v = _enter(
                -geometry[1], geometry[1], x * m[6] + y * m[7] + z * m[8] - m[10], ux * m[6] + uy * m[7] + uz * m[8]
            )
            near = max(near_u, near_v, near_w, 0.0)
            far = min(far_u, far_v, far_w)
            if far > near + 1e-9 and near < entry:
                entry = near
                leave = far
                inside = module
        if inside < 0:
            if end - begin == modules.shape[0]:
                return n
            continue  # it was on the very edge of the module
        row = min(int(energy_kev), TABLE_KEV - 1)
        path = entry + rng.standard_exponential() / attenuation[row, 0]
        if path >= leave:
            step = leave + 1e-6
            x += ux * step
            y += uy * step
            z += uz * step
            clk += step / LIGHT_MM_PER_CLK
            m = modules[inside]
            if x * m[0] + y * m[1] + z * m[2] > back:
                return n  # out at the back: all modules are on the other side of that plane
            inside = -1
            continue
        x += ux * path
        y += uy * path
        z += uz * path
        clk += path / LIGHT_MM_PER_CLK
        if energy_kev < _ABSORB_KEV or rng.random() < attenuation[row, 1]:
            return _deposit_in(deposits, first, n, x, y, z, clk, energy_kev, decay, inside, geometry, modules)
        k = energy_kev / ELECTRON_KEV
        split = (1.0 + 2.0 * k) / (9.0 + 2.0 * k)
        while True:
            if rng.random() <= split:
                ratio = 1.0 + 2.0 * k * rng.random()
                accept = 4.0 * (1.0 / ratio - 1.0 / (ratio * ratio))
            else:
                ratio = (1.0 + 2.0 * k) / (1.0 + 2.0 * k * rng.random())
                cosine = 1.0 - (ratio - 1.0) / k
                accept = 0.5 * (cosine * cosine + 1.0 / ratio)
            if rng.random() <= accept:
                break
        after = energy_kev / ratio
        cosine = 1.0 - (ratio - 1.0) / k
        n = _deposit_in(deposits, first, n, x, y, z, clk, energy_kev - after, decay, inside, geometry, modules)
        energy_kev = after
        sine = math.sqrt(max(0.0, 1.0 - cosine * cosine))
        azimuth = 2.0 * math.pi * rng.random()
        forward = sine * math.cos(azimuth)
        across = sine * math.sin(azimuth)
        side_length = math.sqrt(max(0.0, 1.0 - uz * uz))
        if side_length < 1e-6:
            ux, uy, uz = forward, across, cosine * (1.0 if uz > 0.0 else -1.0)
        else:
            vx = ux * cosine + (ux * uz * forward - uy * across) / side_length
            vy = uy * cosine + (uy * uz * forward + ux * across) / side_length
            uz = uz * cosine - side_length * forward
            ux = vx
            uy = vy
    return n
