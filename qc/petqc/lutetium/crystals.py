"""Crystals that hold lutetium: how active they are, and how far the gammas of Lu-176 come in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINES_KEV = (201.83, 306.84)
"""The two gammas that leave a crystal. Source: decay scheme of Lu-176, evaluated decay data; daily-qc.md §2g."""
LOW_GAMMA_KEV = 88.34
"""The third transition of the cascade, which hardly ever leaves the crystal (mean free path 0.5 mm)."""
ENDPOINT_KEV = 593.0
"""End point of the beta spectrum. Source: daily-qc.md §2g (Alva 2018; another paper has 589 keV)."""

_HALF_LIFE_S = 3.76e10 * 365.25 * 86400.0
_ABUNDANCE = 0.026
_AVOGADRO_PER_G = 6.02214e23 / 174.967


@dataclass(frozen=True, slots=True)
class Material:
    """A scintillator.

    density_g_cm3; lutetium: share of the mass; attenuation_cm2_g: of the gammas of LINES_KEV.
    """

    name: str
    density_g_cm3: float
    lutetium: float
    attenuation_cm2_g: tuple[float, float]

    @property
    def activity_bq_per_cm3(self) -> float:
        """Decays of Lu-176. Source: daily-qc.md §2g (LSO 295, LYSO with 10 % yttrium 265 Bq/cm3)."""
        per_gram = math.log(2.0) / _HALF_LIFE_S * _ABUNDANCE * _AVOGADRO_PER_G * self.lutetium
        return per_gram * self.density_g_cm3


MATERIALS = {
    "lso": Material("LSO", 7.4, 0.7642, (0.535, 0.235)),
    "lyso": Material("LYSO", 7.1, 0.7145, (0.520, 0.230)),
    "lbs": Material("LBS", 7.1, 0.7400, (0.528, 0.233)),
}
"""Lu2SiO5, Lu1.8Y0.2SiO5, and a class between the two. Attenuation from that of the elements, trusted to 10 %."""


def mean_depth_mm(per_mm: NDArray[np.float64], length_mm: float) -> NDArray[np.float64]:
    """Mean depth of interactions in a crystal of that length behind its entrance face, by attenuation per mm.

    By reciprocity it is also the mean depth of the decays whose gamma leaves through that face.
    """
    return np.asarray(1.0 / per_mm - length_mm / np.expm1(per_mm * length_mm))


def beta_density(energy_kev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spectrum of the electrons, per keV, integral 1: the allowed shape with a Fermi function for hafnium.

    The decay is first-forbidden; its measured spectrum differs from the allowed shape by a smooth factor of some per
    cent over the range, which moves no edge. Its mean, 182 keV, is the published one.
    Source: p W (Q - T)^2 F(72, W), F non-relativistic with the correction of Bethe and Bacher; daily-qc.md §2g.
    """
    electron = 510.999
    z = 72 / 137.036
    kinetic = np.clip(energy_kev, 1e-3, ENDPOINT_KEV)
    total = kinetic + electron
    momentum = np.sqrt(total**2 - electron**2)
    eta = 2.0 * np.pi * z * total / momentum
    fermi = eta / -np.expm1(-eta)
    fermi *= ((total / electron) ** 2 * (1.0 + 4.0 * z**2) - 1.0) ** (math.sqrt(1.0 - z**2) - 1.0)
    density = fermi * momentum * total * (ENDPOINT_KEV - kinetic) ** 2
    density[(energy_kev <= 0.0) | (energy_kev >= ENDPOINT_KEV)] = 0.0
    return np.asarray(density / _BETA_NORM)


_BETA_NORM = 1.0
_BETA_NORM = float(beta_density(np.arange(0.5, ENDPOINT_KEV, 1.0)).sum())
