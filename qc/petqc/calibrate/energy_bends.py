"""How charge bends: scale and saturation of every channel from the places of lines of known energy.

Q(E) = (a / k) (1 - exp(-E / a)); k is keV per unit at low energy, a the energy at which all cells have fired, were
charge to go on as it began. Two lines give both exactly; more are fitted by least squares with the errors of their
places.

Source: daily-qc.md §2a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.formats.petsys_tables import absolute_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.fits.photopeaks import PeakFits

OWN_BEND: Final = 0.08
"""Largest relative error of a channel's own `a`; with more, that of its ASIC is closer (its channels differ by 6 %)."""
SPREAD_OF_BEND: Final = 0.06
"""How much `a` differs among the channels of an ASIC, where too few of them have their own: 5 % of light yield and 3 %
of cells."""
MODEL_POSITION: Final = 3e-4
"""Relative systematic uncertainty of a line's place: what Gauss, step and line leave of the gammas that lost some light
below the threshold next door, on simulated LYSO blocks (0.15 keV at 511 keV)."""


@dataclass(frozen=True, slots=True)
class Bends:
    """k and a of every channel with their errors; NaN where there is none.

    own: from the channel's own lines, else a is its ASIC's. p_value: of all lines on one curve; NaN where no line is
    left to test it.
    """

    k: NDArray[np.float64]
    a: NDArray[np.float64]
    k_error: NDArray[np.float64]
    a_error: NDArray[np.float64]
    own: NDArray[np.bool_]
    p_value: NDArray[np.float64]

    def charge(self, kev: float) -> NDArray[np.float64]:
        """Charge of an energy."""
        return np.asarray(_bent(1.0 / self.k, 1.0 / self.a, kev)[0])


def _bent(
    c: NDArray[np.float64], b: NDArray[np.float64], kev: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Charge c (1 - exp(-b E)) / b, with c = 1 / k and b = 1 / a, and its derivatives by c and b."""
    x = np.maximum(b * kev, 1e-9)
    shape = -np.expm1(-x) / x * kev
    return c * shape, shape, c * kev**2 * ((1.0 + x) * np.exp(-x) - 1.0) / x**2


def on_all_lines(start: Bends, found: Sequence[PeakFits], lines: Sequence[float]) -> Bends:
    """Both numbers of every channel from all of its lines, and how well these lie on the curve.

    Least squares with the errors of the lines' places (that of the model included), from where two lines put it. A
    channel that takes `a` from its ASIC has that as one more point, with its error.

    Args:
        start: from the first two lines.
        found: fits of all lines, (channels,) each.
        lines: their energies.
    """
    from scipy.special import chdtrc

    c, b = 1.0 / start.k, 1.0 / start.a
    before = b.copy()
    prior = np.where(start.own | ~np.isfinite(start.a_error), 0.0, (start.a**2 / start.a_error) ** 2)
    variance = [np.hypot(f.mu_error, MODEL_POSITION * f.mu) ** 2 for f in found]
    chi2, covariance = np.full(c.size, np.nan), np.full((c.size, 2, 2), np.nan)
    usable = np.zeros(c.size, np.bool_)
    points = np.sum([np.isfinite(f.mu) for f in found], axis=0) + (prior > 0.0)
    for _ in range(8):
        normal, right = np.zeros((c.size, 2, 2)), np.zeros((c.size, 2))
        normal[:, 1, 1], right[:, 1] = prior, prior * (before - b)
        chi2 = prior * (before - b) ** 2
        for f, spread, kev in zip(found, variance, lines, strict=True):
            charge, by_c, by_b = _bent(c, b, kev)
            known = np.isfinite(f.mu) & np.isfinite(charge)
            left, weight = np.where(known, f.mu - charge, 0.0), np.where(known, 1.0 / spread, 0.0)
            slope = np.where(known[:, None], np.stack([by_c, by_b], axis=1), 0.0)
            normal += weight[:, None, None] * slope[:, :, None] * slope[:, None, :]
            right += (weight * left)[:, None] * slope
            chi2 = chi2 + weight * left**2
        usable = np.isfinite(c) & np.isfinite(b) & (points >= 2) & (np.linalg.det(normal) > 0.0)
        safe = np.where(usable[:, None, None], normal, np.eye(2))
        covariance = np.linalg.inv(safe)
        step = np.where(usable[:, None], np.einsum("cij,cj->ci", covariance, right), 0.0)
        c, b = c + step[:, 0], np.maximum(b + step[:, 1], 0.0)
    k, a = np.where(usable, 1.0 / c, start.k), np.where(usable & (b > 0.0), 1.0 / np.maximum(b, 1e-12), start.a)
    free = points - 2
    return replace(
        start,
        k=k,
        a=a,
        k_error=np.where(usable, k**2 * np.sqrt(covariance[:, 0, 0]), start.k_error),
        a_error=np.where(usable, a**2 * np.sqrt(covariance[:, 1, 1]), start.a_error),
        p_value=np.where(usable & (free > 0), chdtrc(np.maximum(free, 1), chi2), np.nan),
    )


def bend_of_ratio(ratio: NDArray[np.float64], low_kev: float, high_kev: float) -> NDArray[np.float64]:
    """`a` in keV for which charge at high_kev over charge at low_kev is `ratio`; inf: no saturation at all.

    The ratio falls from high_kev / low_kev (no saturation) towards 1; NaN outside.
    """
    ratio = np.asarray(ratio, np.float64)
    straight = high_kev / low_kev
    inside = (ratio > 1.02) & (ratio < straight)
    r = np.where(inside, ratio, 0.5 * (1.0 + straight))
    low, high = np.full(r.shape, 1e-6), np.full(r.shape, 0.3)  # in 1 / keV
    for _ in range(60):
        middle = 0.5 * (low + high)
        is_less = np.expm1(-high_kev * middle) / np.expm1(-low_kev * middle) > r
        low, high = np.where(is_less, middle, low), np.where(is_less, high, middle)
    a = 1.0 / (0.5 * (low + high))
    return np.where(inside, a, np.where(ratio >= straight, np.inf, np.nan))


def _slope_of_bend(a: NDArray[np.float64], low_kev: float, high_kev: float) -> NDArray[np.float64]:
    """How `a` moves with the ratio."""
    step = 1e-4 * a
    up, down = (np.expm1(-high_kev / x) / np.expm1(-low_kev / x) for x in (a + step, a - step))
    return np.asarray(2.0 * step / (up - down))


def bends_of_two(
    first: PeakFits,
    second: PeakFits,
    asic_ratio: NDArray[np.float64],
    asic: NDArray[np.int32],
    lines: tuple[float, ...],
) -> Bends:
    """From a channel's first two lines, or the first and the bend of its ASIC.

    Args:
        first: fits of the first line, (channels,).
        second: of the second.
        asic_ratio: (channels, 2), second over first line of the channel's ASIC and its error.
        asic: (channels,).
        lines: energies.
    """
    low, high = lines[:2]
    q1, q2 = first.mu, second.mu
    e1, e2 = np.hypot(first.mu_error, MODEL_POSITION * q1), np.hypot(second.mu_error, MODEL_POSITION * q2)
    ratio = q2 / q1
    a = bend_of_ratio(ratio, low, high)
    with np.errstate(invalid="ignore"):
        slope = _slope_of_bend(np.where(np.isfinite(a), a, 1000.0), low, high)
        a_error = np.abs(slope) * ratio * np.hypot(e1 / q1, e2 / q2)
        own = np.isfinite(a) & (a_error < OWN_BEND * a) & (np.abs(ratio / asic_ratio[:, 0] - 1.0) < 0.1)
    shared = bend_of_ratio(asic_ratio[:, 0], low, high)
    straight = np.isinf(shared)
    safe = np.where(np.isfinite(shared), shared, 1000.0)
    shared_error = np.abs(_slope_of_bend(safe, low, high)) * asic_ratio[:, 1]
    spread = np.full(a.size, SPREAD_OF_BEND)
    for number in np.unique(asic):
        mine = (asic == number) & own
        if mine.sum() >= 8:
            excess = np.var(np.log(a[mine])) - np.mean((a_error[mine] / a[mine]) ** 2)
            spread[asic == number] = np.sqrt(max(float(excess), 0.01**2))
    shared_error = np.hypot(shared_error, spread * safe)
    used = np.where(own, a, shared)
    used_error = np.where(own, a_error, np.where(straight, np.nan, shared_error))
    # q1 = (a / k) (1 - exp(-E / a)): k falls with q1 and moves with a, both of which know q1.
    x = low / np.where(np.isfinite(used), used, 1e9)
    k = np.where(np.isfinite(used), used * -np.expm1(-x), low) / q1
    k[~np.isfinite(q1) | ~(used > 0)] = np.nan
    moves = 1.0 - x * np.exp(-x) / np.maximum(-np.expm1(-x), 1e-12)  # d ln k / d ln a at fixed q1
    with np.errstate(invalid="ignore"):
        relative_a = np.where(np.isfinite(used_error), used_error / used, 0.0)
        # A channel's own a falls by slope * ratio per relative rise of q1: the two parts of k's error add up.
        along = np.where(own, -1.0 - moves * slope * ratio / a, -1.0)
        rest = np.where(own, moves * slope * ratio / a * (e2 / q2), moves * relative_a)
        k_error = k * np.hypot(along * e1 / q1, rest)
    return Bends(k, used, k_error, used_error, own & np.isfinite(k), np.full(a.size, np.nan))


def kept_bends(first: PeakFits, channels: NDArray[np.int32], previous: NDArray[np.void] | None, kev: float) -> Bends:
    """Bend of a former energy_kev table, scale from one line at kev."""
    assert previous is not None  # noqa: S101 - fit has refused before
    number = absolute_of(previous)
    order = np.argsort(number)
    place = np.minimum(np.searchsorted(number, channels, sorter=order), number.size - 1)
    row = order[place]
    has = number[row] == channels
    a = np.where(has, previous["kev_per_unit"][row] * previous["saturation_unit"][row], np.nan)
    x = kev / np.where(np.isfinite(a), a, 1e9)
    k = np.where(np.isinf(a), kev, np.where(np.isfinite(a), a * -np.expm1(-x), np.nan)) / first.mu
    return Bends(
        k,
        a,
        k * np.hypot(first.mu_error / first.mu, MODEL_POSITION),
        np.full(a.size, np.nan),
        np.zeros(a.size, bool),
        np.full(a.size, np.nan),
    )
