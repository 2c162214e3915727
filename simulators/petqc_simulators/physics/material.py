"""How radioactive scintillators are by themselves: Lu-176 in the lutetium that they are made of."""

from __future__ import annotations

import math

LUTETIUM_SHARE = {"none": 0.0, "bgo": 0.0, "lyso": 0.7145, "lso": 0.7642, "lbs": 0.74}
"""Share of lutetium in the mass: Lu1.8Y0.2SiO5, Lu2SiO5, and a class between the two. `none` is a crystal like LYSO in
all but that."""
_HALF_LIFE_S = 3.76e10 * 365.25 * 86400.0
_ABUNDANCE = 0.026
_ATOMS_PER_G = 6.02214e23 / 174.967


def lu176_bq_per_cm3(material: str, density_g_cm3: float) -> float:
    """Decays of Lu-176 per second in a cubic centimetre, rounded to what the data allow.

    Source: daily-qc physics notes, section 2g (2.6 % of lutetium, 3.76e10 years; LSO 295, LYSO 265 Bq/cm3).
    """
    per_gram = math.log(2.0) / _HALF_LIFE_S * _ABUNDANCE * _ATOMS_PER_G * LUTETIUM_SHARE[material]
    return float(round(per_gram * density_g_cm3))
