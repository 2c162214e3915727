"""From the integrator's unit to energy: the vendor's linearisation, and our calibration in keV with saturation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def linearised(
    energy: NDArray[np.float32],
    p0: NDArray[np.float32],
    p1: NDArray[np.float32],
    p2: NDArray[np.float32],
    p3: NDArray[np.float32],
) -> NDArray[np.float32]:
    """E' = p0 p1^(E^p2) + p3 E - p0; below zero, where E^p2 is not a number, E' = p3 E, which joins it at E = 0.

    Source: PETsys `energy_calibration_table`, charge mode only.
    """
    e = np.asarray(energy, np.float64)
    with np.errstate(over="ignore"):  # far above any photopeak the curve leaves single precision: infinite
        power = np.maximum(e, 0.0) ** np.asarray(p2, np.float64)
        curved = np.asarray(p0, np.float64) * (np.asarray(p1, np.float64) ** power - 1.0)
        return (np.where(e > 0, curved, 0.0) + np.asarray(p3, np.float64) * e).astype(np.float32)


def kev_of_charge(
    charge: NDArray[np.float32], kev_per_unit: NDArray[np.float32], saturation_unit: NDArray[np.float32]
) -> NDArray[np.float32]:
    """E = -k s ln(1 - Q/s) in keV; s = inf means linear, E = k Q. NaN at and above saturation.

    One parameter of saturation per channel undoes Q = N (1 - exp(-n/N)) of a photosensor with N cells.
    """
    q, k, s = (np.asarray(x, np.float64) for x in (charge, kev_per_unit, saturation_unit))
    with np.errstate(invalid="ignore", divide="ignore"):
        bent = -k * s * np.log1p(-q / s)
    return np.where(np.isinf(s), k * q, np.where(q < s, bent, np.nan)).astype(np.float32)


def charge_of_kev(
    energy_kev: NDArray[np.float32], kev_per_unit: NDArray[np.float32], saturation_unit: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Forward model of `kev_of_charge`: Q = s (1 - exp(-E / (k s)))."""
    e, k, s = (np.asarray(x, np.float64) for x in (energy_kev, kev_per_unit, saturation_unit))
    with np.errstate(invalid="ignore", divide="ignore"):
        bent = -s * np.expm1(-e / (k * s))
    return np.where(np.isinf(s), e / k, bent).astype(np.float32)
