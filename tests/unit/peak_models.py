"""Spectra as the fits' models have them, to draw counts from."""

from __future__ import annotations

import numpy as np

from petqc.fits import kernels as fk
from petqc.statistics import FWHM_OF_SIGMA

KEV = np.arange(401) * 4.0
PS = np.arange(-500, 501) * 10.0 - 0.5
NO_SHAPE = np.zeros(fk.N_CONSTANTS)


def model(edges, shape=NO_SHAPE, **parameters):
    p = np.zeros(fk.N_PARAMETERS)
    for name, value in parameters.items():
        p[getattr(fk, name)] = value
    mu, jac = np.empty(edges.size - 1), np.empty((fk.N_PARAMETERS, edges.size - 1))
    fk.expected(p, shape, edges, mu, jac)
    return mu


def photopeak(n, resolution=0.105, peak=511.0):
    """A photopeak of n counts on a step and a falling line."""
    per_kev = n / 250.0
    return model(
        KEV, A1=n, MU1=peak, S1=peak * resolution / FWHM_OF_SIGMA, STEP=0.3 * per_kev, LOW=0.3 * per_kev,
        HIGH=0.2 * per_kev,
    )  # fmt: skip


def time_peak(n, fwhm=218.0, share=0.0, wider=1.8, flat=0.1):
    s = fwhm / FWHM_OF_SIGMA
    level = flat * n / 10_000
    more = {"A2": n * share, "MU2": 30.0, "S2": s * wider} if share else {}
    return model(PS, A1=n * (1 - share), MU1=30.0, S1=s, LOW=level, HIGH=level, **more)
