"""Radioactive sources: what decays emit, how often, and which part of it can reach the modules at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Geometry, SourceSettings

ELECTRON_KEV = 510.999
FINE_STRUCTURE = 1.0 / 137.036

HALF_LIFE_DAYS = {"na22": 2.602 * 365.25, "ge68": 270.9, "none": math.inf}
"""Source: scanner reference data, constants."""

LU176_ENDPOINT_KEV = 593.0
"""Source: daily-QC physics notes, section 2g (Alva 2018)."""
LU176_GAMMAS_KEV = (306.8, 201.8, 88.3)
LU176_GAMMA_YIELD = (0.936, 0.780, 0.145)
"""Photons per decay; the rest of each transition is converted and stays in the crystal. Source: decay scheme of
Lu-176 (88.3, 201.8 and 306.8 keV in cascade), yields rounded from the evaluated decay data."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """Rates and directions of a source between the modules.

    activity_bq: today. radius_mm: of a sphere, or with is_cylinder of a cylinder around y, hollow up to
    inner_radius_mm. pair_yield: annihilations per decay. gamma_kev, gamma_yield: the accompanying gamma (0: none).
    cos_cone: directions outside the double cone around the z axis with this cosine cannot meet a module of two panels.
    sin_band: those further from the plane of a ring than the angle with this sine cannot meet it (0: no ring).
    """

    activity_bq: float
    pair_yield: float
    gamma_kev: float
    gamma_yield: float
    radius_mm: float
    inner_radius_mm: float
    is_cylinder: bool
    length_mm: float
    cos_cone: float
    sin_band: float

    @property
    def aimed_fraction(self) -> float:
        """Share of all directions that are followed."""
        return self.sin_band or 1.0 - self.cos_cone


def source_model(settings: SourceSettings, geometry: Geometry, farthest_mm: float = 0.0) -> SourceModel:
    """The source of a profile; farthest_mm: how far off its place it may be.

    Source: Na-22 emits a positron in 90.4 % and a 1274.5 keV gamma in 99.9 % of decays; Ga-68 in equilibrium with
    Ge-68 a positron in 88.9 % and a 1077 keV gamma in 3.2 % (evaluated decay data).
    """
    kinds = {
        "na22": (0.904, 1274.5, 0.999, settings.length_mm),
        "ge68": (0.889, 1077.3, 0.032, settings.ge68_length_mm),
        "none": (0.0, 0.0, 0.0, 0.0),
    }
    pair_yield, gamma_kev, gamma_yield, length_mm = kinds[settings.kind]
    is_cylinder = settings.is_cylinder
    radius_mm = settings.ge68_radius_mm if is_cylinder else settings.radius_mm
    activity_bq = settings.ge68_activity_bq if is_cylinder else settings.activity_bq
    width_mm, height_mm = geometry.extent_mm
    reach_mm = radius_mm + farthest_mm
    half_x = width_mm / 2 + reach_mm
    half_y = height_mm / 2 + reach_mm + length_mm / 2
    # Both photons of a pair share one line, so half of the extent of the source counts on either side.
    distance = geometry.face_distance_mm - reach_mm
    if distance <= 0.0:
        raise ProfileError(f"a source of {radius_mm} mm radius, up to {farthest_mm:.0f} mm off, is not in the scanner")
    cos_cone = distance / math.sqrt(distance**2 + half_x**2 + half_y**2)
    return SourceModel(
        activity_bq=0.0
        if settings.kind == "none"
        else activity_bq * 2.0 ** (-settings.age_days / HALF_LIFE_DAYS[settings.kind]),
        pair_yield=pair_yield,
        gamma_kev=gamma_kev,
        gamma_yield=gamma_yield,
        radius_mm=radius_mm,
        inner_radius_mm=settings.ge68_inner_radius_mm if is_cylinder else 0.0,
        is_cylinder=is_cylinder,
        length_mm=length_mm,
        cos_cone=cos_cone,
        sin_band=half_y / math.hypot(distance, half_y) if geometry.arrangement == "ring" else 0.0,
    )


def beta_quantiles(
    endpoint_kev: float = LU176_ENDPOINT_KEV, daughter_z: int = 72, n: int = 4096
) -> NDArray[np.float64]:
    """Quantiles of a beta spectrum: entry i is the energy below which (i + 0.5) / n of all electrons lie.

    Allowed shape p W (Q - T)^2 with the Fermi function in the approximation of Bethe and Bacher: the non-relativistic
    one times (W^2 (1 + 4 (aZ)^2) - 1)^S with S = sqrt(1 - (aZ)^2) - 1, W in electron masses.
    """
    kinetic = np.linspace(0.0, endpoint_kev, 20001)[1:-1]
    total = kinetic + ELECTRON_KEV
    momentum = np.sqrt(total**2 - ELECTRON_KEV**2)
    eta = 2 * np.pi * FINE_STRUCTURE * daughter_z * total / momentum
    coupling = FINE_STRUCTURE * daughter_z
    relativistic = (total / ELECTRON_KEV) ** 2 * (1.0 + 4.0 * coupling**2) - 1.0
    fermi = eta / (1.0 - np.exp(-eta)) * relativistic ** (math.sqrt(1.0 - coupling**2) - 1.0)
    density = fermi * momentum * total * (endpoint_kev - kinetic) ** 2
    cumulative = np.cumsum(density)
    cumulative /= cumulative[-1]
    return np.interp((np.arange(n) + 0.5) / n, cumulative, kinetic)
