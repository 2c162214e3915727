"""Gammas in LYSO: attenuation, photoelectric absorption, Compton scatter from crystal to crystal, light transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel_inlined
from petqc_simulators.physics.directions import deflected
from petqc_simulators.physics.pcg64 import exponential, uniform
from petqc_simulators.physics.placement import ALONG_X, OUT, SHIFT_X, SHIFT_Y
from petqc_simulators.physics.rays import FACE, HALF_HEIGHT, HALF_WIDTH, LENGTH, Meeting, Vector, meet
from petqc_simulators.physics.source import ELECTRON_KEV

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Crystal

CLOCK_PS = 5000.0
LIGHT_MM_PER_CLK = 299.792458e-3 * CLOCK_PS
"""Distance that light travels in one clock of 5 ns, in mm."""

_CLK_PER_MM = 1.0 / LIGHT_MM_PER_CLK

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

# Indices of the geometry numbers beyond those of rays.py: crystals per mm along x and y, columns, rows, clocks that
# light takes for one mm of crystal; then the place of each crystal among its module's channels, column by column.
PER_MM_X, PER_MM_Y, COLUMNS, ROWS, LIGHT_CLK_PER_MM, PLACES = range(5, 11)


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


def free_paths(crystal: Crystal) -> NDArray[np.float64]:
    """As attenuation_tables, but with the mean free path in mm, (TABLE_KEV, 2)."""
    table = attenuation_tables(crystal)
    table[:, 0] = 1.0 / table[:, 0]
    return table


@kernel_inlined
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


@kernel_inlined
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

    u, v, w: the point in the module's own axes (see placement.py), w outwards from the scanner's middle. geometry: see
    emission.geometry_numbers.
    """
    columns = int(geometry[COLUMNS])
    rows = int(geometry[ROWS])
    column = min(max(int((u + geometry[HALF_WIDTH]) * geometry[PER_MM_X]), 0), columns - 1)
    row = min(max(int((v + geometry[HALF_HEIGHT]) * geometry[PER_MM_Y]), 0), rows - 1)
    channel = module * columns * rows + int(geometry[PLACES + column * rows + row])
    light_clk = (geometry[FACE] + geometry[LENGTH] - w) * geometry[LIGHT_CLK_PER_MM]
    return _deposit(deposits, first, n, clk + light_clk, energy_kev, decay, channel)


@kernel_inlined
def _compton(words: NDArray[np.uint64], energy_kev: float) -> tuple[float, float]:
    """By how much less energy a scattered photon has, and cosine of its angle. By Kahn's rejection method.

    Both branches of the method draw as many numbers: values are chosen, not ways, so that nothing is guessed wrong.
    """
    k = energy_kev / ELECTRON_KEV
    whole = 1.0 + 2.0 * k
    split = whole / (9.0 + 2.0 * k)
    per_whole, per_k = 1.0 / whole, 1.0 / k
    while True:
        is_low = uniform(words) <= split
        part = 1.0 + 2.0 * k * uniform(words)
        high, kept_low, kept_high = whole / part, 1.0 / part, part * per_whole
        ratio = part if is_low else high
        kept = kept_low if is_low else kept_high
        cosine = 1.0 - (ratio - 1.0) * per_k
        low_accept, high_accept = 4.0 * (kept - kept * kept), 0.5 * (cosine * cosine + kept)
        accept = low_accept if is_low else high_accept
        if uniform(words) <= accept:
            return ratio, cosine


@kernel_inlined
def track(
    words: NDArray[np.uint64],
    deposits: NDArray[np.float64],
    first: int,
    n: int,
    at: Vector,
    along: Vector,
    energy_kev: float,
    clk: float,
    decay: float,
    inside: int,
    meeting: Meeting,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    paths: NDArray[np.float64],
) -> int:
    """Follow one photon until it is absorbed or gone; the deposits of this decay are rows first .. n of `deposits`.

    words: of the random stream. at, along: where it begins (mm) and whither. inside: the module in which it begins, -1
    if in none. meeting: its first one, as `meet` finds it. modules: placements, (PLACEMENT_COLUMNS, modules). paths:
    see free_paths. Returns the new number of deposits.
    """
    x, y, z = at
    ux, uy, uz = along
    met, entry, leave = meeting
    for turn in range(32):
        if turn:
            met, entry, leave = meet((x, y, z), (ux, uy, uz), inside, 1, geometry, modules)[0]
        if met < 0:
            if inside < 0:
                return n
            inside = -1
            continue  # it was on the very edge of the module
        inside = met
        out_x, out_z = modules[OUT, inside], modules[OUT + 2, inside]
        row = min(int(energy_kev), TABLE_KEV - 1)
        path = entry + exponential(words) * paths[row, 0]
        is_out = path >= leave
        if is_out:
            path = leave + 1e-6
        x += ux * path
        y += uy * path
        z += uz * path
        clk += path * _CLK_PER_MM
        w = x * out_x + z * out_z
        if is_out:
            if w > geometry[FACE] + geometry[LENGTH]:
                return n  # out at the back: all modules are on the other side of that plane
            inside = -1
            continue
        u = x * modules[ALONG_X, inside] + z * modules[ALONG_X + 2, inside] - modules[SHIFT_X, inside]
        v = y - modules[SHIFT_Y, inside]
        if energy_kev < _ABSORB_KEV or uniform(words) < paths[row, 1]:
            return deposit_at(deposits, first, n, u, v, w, clk, energy_kev, decay, inside, geometry)
        ratio, cosine = _compton(words, energy_kev)
        after = energy_kev / ratio
        n = deposit_at(deposits, first, n, u, v, w, clk, energy_kev - after, decay, inside, geometry)
        energy_kev = after
        ux, uy, uz = deflected(ux, uy, uz, cosine, uniform(words))
    return n
