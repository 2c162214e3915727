"""Decays on a time line, and the energy that each leaves in the crystals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel_of_given_arrays
from petqc_simulators.physics.crystal import (
    CHANNEL,
    CLOCK_PS,
    DECAY,
    ZE,
    ZT,
    E,
    T,
    attenuation_tables,
    deposit_at,
    track,
)
from petqc_simulators.physics.placement import placements
from petqc_simulators.physics.source import LU176_GAMMA_YIELD, LU176_GAMMAS_KEV, beta_quantiles, source_model

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
    """The geometry as the kernels read it; see crystal.deposit_at."""
    g = profile.geometry
    return np.array(
        [
            g.width_mm / 2,
            g.height_mm / 2,
            g.pitches_mm[0],
            g.face_distance_mm,
            g.crystal_length_mm,
            g.columns,
            g.rows,
            profile.crystal.light_speed_index,
            (g.width_mm / 2) ** 2 + (g.height_mm / 2) ** 2 + (g.crystal_length_mm / 2) ** 2 + 1e-3,
            g.pitches_mm[1],
            *g.block,
        ],
        np.float64,
    )


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
        self.modules = placements(geometry)
        self.attenuation = attenuation_tables(profile.crystal)
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
        while True:
            n, done = _generate(
                self.rng,
                until_clk,
                self.numbers,
                self.geometry,
                self.modules,
                self.attenuation,
                self.beta,
                self.lines,
                self.extra,
                self.clock,
                deposits,
                n,
            )
            if done:
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


@kernel_of_given_arrays
def _source_decay(
    rng: np.random.Generator,
    deposits: NDArray[np.float64],
    n: int,
    clk: float,
    decay: float,
    numbers: NDArray[np.float64],
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    attenuation: NDArray[np.float64],
) -> int:
    first = n
    radius = numbers[_RADIUS]
    if numbers[_IS_CYLINDER] > 0.0:
        inner = numbers[_INNER_RADIUS]
        out = math.sqrt(inner * inner + (radius * radius - inner * inner) * rng.random())
        around = 2.0 * math.pi * rng.random()
        x = out * math.cos(around)
        y = 0.0
        z = out * math.sin(around)
    else:
        while True:
            x = 2.0 * rng.random() - 1.0
            y = 2.0 * rng.random() - 1.0
            z = 2.0 * rng.random() - 1.0
            if x * x + y * y + z * z <= 1.0:
                break
        x *= radius
        y *= radius
        z *= radius
    x += numbers[_X]
    y += numbers[_LENGTH] * (rng.random() - 0.5) + numbers[_Y]
    z += numbers[_Z]
    kind = rng.random()
    pair_only = numbers[_PAIR_SHARE]
    both = numbers[_PAIR_SHARE] + numbers[_GAMMA_SHARE]
    for photon in range(2):
        if (photon == 0 and kind >= both) or (photon == 1 and kind < pair_only):
            continue
        if numbers[_SIN_BAND] > 0.0:
            uy = numbers[_SIN_BAND] * (2.0 * rng.random() - 1.0)
            sine = math.sqrt(1.0 - uy * uy)
            azimuth = 2.0 * math.pi * rng.random()
            ux = sine * math.cos(azimuth)
            uz = sine * math.sin(azimuth)
        else:
            uz = numbers[_COS_CONE] + (1.0 - numbers[_COS_CONE]) * rng.random()
            sine = math.sqrt(1.0 - uz * uz)
            azimuth = 2.0 * math.pi * rng.random()
            ux = sine * math.cos(azimuth)
            uy = sine * math.sin(azimuth)
        if photon == 0:
            n = track(
                rng, deposits, first, n, x, y, z, ux, uy, uz, 510.999, clk, decay, -1, geometry, modules, attenuation
            )
            n = track(
                rng, deposits, first, n, x, y, z, -ux, -uy, -uz, 510.999, clk, decay, -1, geometry, modules, attenuation
            )
        else:
            if rng.random() < 0.5:
                uz = -uz
            n = track(
                rng,
                deposits,
                first,
                n,
                x,
                y,
                z,
                ux,
                uy,
                uz,
                numbers[_GAMMA_KEV],
                clk,
                decay,
                -1,
                geometry,
                modules,
                attenuation,
            )
    return n


@kernel_of_given_arrays
def _lutetium_decay(
    rng: np.random.Generator,
    deposits: NDArray[np.float64],
    n: int,
    clk: float,
    decay: float,
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    attenuation: NDArray[np.float64],
    beta: NDArray[np.float64],
    lines: NDArray[np.float64],
) -> int:
    first = n
    u = geometry[0] * (2.0 * rng.random() - 1.0)
    v = geometry[1] * (2.0 * rng.random() - 1.0)
    w = geometry[3] + geometry[4] * rng.random()
    module = int(rng.random() * modules.shape[0])
    m = modules[module]
    x = m[0] * w + m[3] * (u + m[9]) + m[6] * (v + m[10])
    y = m[1] * w + m[4] * (u + m[9]) + m[7] * (v + m[10])
    z = m[2] * w + m[5] * (u + m[9]) + m[8] * (v + m[10])
    local = beta[int(rng.random() * beta.shape[0])]
    for line in range(lines.shape[1]):
        if rng.random() >= lines[1, line]:
            local += lines[0, line]
            continue
        uz = 2.0 * rng.random() - 1.0
        sine = math.sqrt(1.0 - uz * uz)
        azimuth = 2.0 * math.pi * rng.random()
        n = track(
            rng,
            deposits,
            first,
            n,
            x,
            y,
            z,
            sine * math.cos(azimuth),
            sine * math.sin(azimuth),
            uz,
            lines[0, line],
            clk,
            decay,
            module,
            geometry,
            modules,
            attenuation,
        )
    return deposit_at(deposits, first, n, u, v, w, clk, local, decay, module, geometry)


@kernel_of_given_arrays
def _generate(
    rng: np.random.Generator,
    until_clk: float,
    numbers: NDArray[np.float64],
    geometry: NDArray[np.float64],
    modules: NDArray[np.float64],
    attenuation: NDArray[np.float64],
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
        clock[0] = rng.standard_exponential() / total
    while clock[0] < until_clk:
        if n + _ROOM > deposits.shape[0]:
            return n, False
        clk = clock[0]
        decay = clock[1]
        first = n
        kind = rng.random() * total
        if kind < numbers[_SOURCE_RATE]:
            n = _source_decay(rng, deposits, n, clk, decay, numbers, geometry, modules, attenuation)
        elif kind < numbers[_SOURCE_RATE] + numbers[_LU_RATE]:
            n = _lutetium_decay(rng, deposits, n, clk, decay, geometry, modules, attenuation, beta, lines)
        else:
            channel = np.searchsorted(extra[:, 0], rng.random() * numbers[_EXTRA_RATE])
            channel = min(channel, extra.shape[0] - 1)
            deposits[n, T] = clk
            deposits[n, E] = extra[channel, 1] + 30.0 * rng.standard_exponential()
            deposits[n, DECAY] = decay
            deposits[n, CHANNEL] = channel
            n += 1
        for i in range(first, n):
            deposits[i, ZE] = rng.standard_normal()
            deposits[i, ZT] = rng.standard_normal()
        clock[0] += rng.standard_exponential() / total
        clock[1] += 1.0
    return n, True
