"""Decays on a time line, and the energy that each leaves in the crystals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel_inlined, kernel_of_given_arrays
from petqc_simulators.physics.crystal import (
    CHANNEL,
    CLOCK_PS,
    DECAY,
    LIGHT_MM_PER_CLK,
    ZE,
    ZT,
    E,
    T,
    deposit_at,
    free_paths,
    track,
)
from petqc_simulators.physics.directions import around, turned
from petqc_simulators.physics.pcg64 import exponential, move_on, normal, uniform, words_of
from petqc_simulators.physics.placement import ALONG_X, OUT, SHIFT_X, SHIFT_Y, placements
from petqc_simulators.physics.rays import FACE, HALF_HEIGHT, HALF_WIDTH, LENGTH, Vector, meet
from petqc_simulators.physics.source import (
    ELECTRON_KEV,
    LU176_GAMMA_YIELD,
    LU176_GAMMAS_KEV,
    beta_quantiles,
    source_model,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Profile

CLOCK_S = CLOCK_PS * 1e-12
_ROOM = 128  # most deposits that one decay can leave behind

# Indices of the emission numbers.
(
    _SOURCE_RATE, _LU_RATE, _EXTRA_RATE, _PAIR_SHARE, _GAMMA_SHARE, _GAMMA_KEV, _RADIUS, _LENGTH, _COS_CONE, _SIN_BAND,
    _IS_CYLINDER, _INNER_RADIUS, _X, _Y, _Z,
) = range(15)  # fmt: skip


def geometry_numbers(profile: Profile) -> NDArray[np.float64]:
    """The geometry as the kernels read it; the indices are those of rays.py and crystal.py."""
    g = profile.geometry
    column, row = (place[: g.crystals_per_module] for place in g.places)
    places = np.empty((g.columns, g.rows))
    places[column, row] = np.arange(g.crystals_per_module)
    numbers = [
        g.width_mm / 2,
        g.height_mm / 2,
        g.face_distance_mm,
        g.crystal_length_mm,
        (g.width_mm / 2) ** 2 + (g.crystal_length_mm / 2) ** 2 + 1e-3,
        1.0 / g.pitches_mm[0],
        1.0 / g.pitches_mm[1],
        g.columns,
        g.rows,
        profile.crystal.light_speed_index / LIGHT_MM_PER_CLK,
    ]
    return np.concatenate([numbers, places.ravel()])


def crystal_volume_mm3(profile: Profile) -> float:
    """Volume of one crystal, without what is between them."""
    geometry = profile.geometry
    return math.prod(geometry.pitches_mm) * geometry.crystal_length_mm * profile.crystal.fill_factor


class Emission:
    """All decays of a profile as one Poisson process; `generate` fills the deposits of a stretch of time.

    The random stream is consumed decay by decay, so that the result does not depend on how time is cut up.
    """

    def __init__(self, profile: Profile, rng: np.random.Generator, farthest_mm: float = 0.0) -> None:
        """farthest_mm: how far off its place `move_source` will ever bring the source."""
        geometry = profile.geometry
        model = source_model(profile.source, geometry, farthest_mm)
        pair = model.pair_yield * model.aimed_fraction
        gamma = model.gamma_yield * model.aimed_fraction
        reach = 1.0 - (1.0 - pair) * (1.0 - gamma)
        volume_cm3 = geometry.channels * crystal_volume_mm3(profile) / 1000.0
        self.source_hz = model.activity_bq * reach
        self.lutetium_hz = volume_cm3 * profile.crystal.lu176_bq_per_cm3
        self.numbers = np.array(
            [
                self.source_hz * CLOCK_S,
                self.lutetium_hz * CLOCK_S,
                0.0,
                pair * (1.0 - gamma) / reach if reach else 0.0,
                pair * gamma / reach if reach else 0.0,
                model.gamma_kev,
                model.radius_mm,
                model.length_mm,
                model.cos_cone,
                model.sin_band,
                model.is_cylinder,
                model.inner_radius_mm,
                0.0,
                0.0,
                0.0,
            ]
        )
        self.geometry = geometry_numbers(profile)
        self.modules = np.ascontiguousarray(placements(geometry).T)
        self.paths = free_paths(profile.crystal)
        self.beta = beta_quantiles()
        self.lines = np.array([LU176_GAMMAS_KEV, LU176_GAMMA_YIELD])
        self.extra = np.zeros((geometry.channels, 2))
        self.clock = np.zeros(2)  # time of the next decay in clocks, and its number
        self.rng = rng
        self.clock[0] = -1.0

    def set_extra(self, rate_hz: NDArray[np.float64], floor_kev: NDArray[np.float64]) -> None:
        """Pulses that no decay makes (dark counts over threshold, light leaks): rate and least energy per channel."""
        cumulative = np.cumsum(rate_hz * CLOCK_S)
        self.extra[:, 0] = cumulative
        self.extra[:, 1] = floor_kev
        self.numbers[_EXTRA_RATE] = cumulative[-1]

    def generate(self, until_clk: float, deposits: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], int]:
        """Add the deposits of every decay before until_clk to rows n .. of the array, which grows as needed."""
        words = words_of(self.rng)
        while True:
            n, done = _generate(
                words,
                until_clk,
                self.numbers,
                self.geometry,
                self.modules,
                self.paths,
                self.beta,
                self.lines,
                self.extra,
                self.clock,
                deposits,
                n,
            )
            if done:
                move_on(self.rng, words)
                return deposits, n
            larger = np.empty((2 * deposits.shape[0] + 4 * _ROOM, deposits.shape[1]))
            larger[:n] = deposits[:n]
            deposits = larger

    def pass_over(self, until_clk: float) -> None:
        """Nobody looks before until_clk. Decays have no memory, so that the next one is drawn from there."""
        self.clock[0] = max(self.clock[0], until_clk)

    def move_source(self, shift_mm: NDArray[np.float64]) -> None:
        """Put the source that far from its place, (3,)."""
        self.numbers[[_X, _Y, _Z]] = shift_mm

    def shift(self, clk: float) -> None:
        """Move the origin of time forward."""
        self.clock[0] -= clk


@kernel_inlined
def _place(words: NDArray[np.uint64], numbers: NDArray[np.float64]) -> Vector:
    """A point of the source, in mm."""
    radius = numbers[_RADIUS]
    if numbers[_IS_CYLINDER] > 0.0:
        inner = numbers[_INNER_RADIUS]
        out = math.sqrt(inner * inner + (radius * radius - inner * inner) * uniform(words))
        cosine, sine = turned(uniform(words))
        x, y, z = out * cosine, 0.0, out * sine
    else:
        while True:
            x = 2.0 * uniform(words) - 1.0
            y = 2.0 * uniform(words) - 1.0
            z = 2.0 * uniform(words) - 1.0
            if x * x + y * y + z * z <= 1.0:
                break
        x, y, z = x * radius, y * radius, z * radius
    y += numbers[_LENGTH] * (uniform(words) - 0.5) + numbers[_Y]
    return x + numbers[_X], y, z + numbers[_Z]


@kernel_inlined
def _aimed(words: NDArray[np.uint64], numbers: NDArray[np.float64]) -> Vector:
    """A direction of those that can meet the modules: close to the plane of a ring, or to the axis of panels."""
    if numbers[_SIN_BAND] > 0.0:
        uy = numbers[_SIN_BAND] * (2.0 * uniform(words) - 1.0)
        ux, uz, _ = around(uy, uniform(words))
        return ux, uy, uz
    return around(numbers[_COS_CONE] + (1.0 - numbers[_COS_CONE]) * uniform(words), uniform(words))


@kernel_inlined
def _source_decay(
    words: NDArray[np.uint64],
    deposits: NDArray[np.float64],
    n: int,
    clk: float,
    decay: float,
    numbers: NDArray[np.float64],
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    paths: NDArray[np.float64],
) -> int:
    """The two photons of an annihilation, on one line, and the gamma, as far as they are there and aimed."""
    first = n
    at = _place(words, numbers)
    kind = uniform(words)
    has_pair = kind < numbers[_PAIR_SHARE] + numbers[_GAMMA_SHARE]
    has_gamma = kind >= numbers[_PAIR_SHARE]
    along = 0.0, 0.0, 0.0
    ahead = behind = -1, 0.0, 0.0
    for photon in range(3):
        if not (has_gamma if photon == 2 else has_pair):
            continue
        energy_kev = ELECTRON_KEV
        if photon == 1:
            along, ahead = (-along[0], -along[1], -along[2]), behind
        else:
            along = _aimed(words, numbers)
            if photon == 2:
                energy_kev = numbers[_GAMMA_KEV]
                if uniform(words) < 0.5:
                    along = along[0], along[1], -along[2]
            ahead, behind = meet(at, along, -1, 2 if photon == 0 else 1, geometry, modules)
        n = track(words, deposits, first, n, at, along, energy_kev, clk, decay, -1, ahead, geometry, modules, paths)
    return n


@kernel_inlined
def _lutetium_decay(
    words: NDArray[np.uint64],
    deposits: NDArray[np.float64],
    n: int,
    clk: float,
    decay: float,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    paths: NDArray[np.float64],
    beta: NDArray[np.float64],
    lines: NDArray[np.float64],
) -> int:
    """A decay somewhere in the crystals: its electron stays, each of its gammas is followed or stays as well."""
    first = n
    u = geometry[HALF_WIDTH] * (2.0 * uniform(words) - 1.0)
    v = geometry[HALF_HEIGHT] * (2.0 * uniform(words) - 1.0)
    w = geometry[FACE] + geometry[LENGTH] * uniform(words)
    module = int(uniform(words) * modules.shape[1])
    side = u + modules[SHIFT_X, module]
    at = (
        modules[OUT, module] * w + modules[ALONG_X, module] * side,
        v + modules[SHIFT_Y, module],
        modules[OUT + 2, module] * w + modules[ALONG_X + 2, module] * side,
    )
    local = beta[int(uniform(words) * beta.shape[0])]
    for line in range(lines.shape[1]):
        energy_kev = lines[0, line]
        if uniform(words) >= lines[1, line]:
            local += energy_kev
            continue
        along = around(2.0 * uniform(words) - 1.0, uniform(words))
        ahead, _ = meet(at, along, module, 1, geometry, modules)
        n = track(words, deposits, first, n, at, along, energy_kev, clk, decay, module, ahead, geometry, modules, paths)
    return deposit_at(deposits, first, n, u, v, w, clk, local, decay, module, geometry)


@kernel_of_given_arrays
def _generate(
    words: NDArray[np.uint64],
    until_clk: float,
    numbers: NDArray[np.float64],
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    paths: NDArray[np.float64],
    beta: NDArray[np.float64],
    lines: NDArray[np.float64],
    extra: NDArray[np.float64],
    clock: NDArray[np.float64],
    deposits: NDArray[np.float64],
    n: int,
) -> tuple[int, bool]:
    total = numbers[_SOURCE_RATE] + numbers[_LU_RATE] + numbers[_EXTRA_RATE]
    if total <= 0.0:
        clock[0] = max(clock[0], until_clk)
        return n, True
    if clock[0] < 0.0:
        clock[0] = exponential(words) / total
    while clock[0] < until_clk:
        if n + _ROOM > deposits.shape[0]:
            return n, False
        clk = clock[0]
        decay = clock[1]
        first = n
        kind = uniform(words) * total
        if kind < numbers[_SOURCE_RATE]:
            n = _source_decay(words, deposits, n, clk, decay, numbers, geometry, modules, paths)
        elif kind < numbers[_SOURCE_RATE] + numbers[_LU_RATE]:
            n = _lutetium_decay(words, deposits, n, clk, decay, geometry, modules, paths, beta, lines)
        else:
            channel = np.searchsorted(extra[:, 0], uniform(words) * numbers[_EXTRA_RATE])
            channel = min(channel, extra.shape[0] - 1)
            deposits[n, T] = clk
            deposits[n, E] = extra[channel, 1] + 30.0 * exponential(words)
            deposits[n, DECAY] = decay
            deposits[n, CHANNEL] = channel
            n += 1
        for i in range(first, n):
            deposits[i, ZE] = normal(words)
            deposits[i, ZT] = normal(words)
        clock[0] += exponential(words) / total
        clock[1] += 1.0
    return n, True
