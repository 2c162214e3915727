"""Threshold calibration: where each discriminator's baseline lies on its DAC, and how wide its noise is there.

A channel counter tells for how much of a window a discriminator was over its threshold. Against the DAC code that share
is a normal distribution function: a higher code is a lower threshold. Its middle is the code `zero`, its standard
deviation `noise`, both in DAC steps. First the baseline trims are lowered until the middle lies inside the scan.

Source: TOFPET2 interface reference (vendor software revision 194662e), sections 4.5 (counter read-out) and 7.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibrate import Calibration
from petqc.calibrate.outcome import column, refusal_notes, refused, summary
from petqc.errors import BadInputError
from petqc.formats.petsys_tables import TABLES, set_address
from petqc.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import CounterPoint
    from petqc.results import ChannelColumn

DISCRIMINATORS: Final = ("t1", "t2", "e")
"""In the order of the channel field trigger_mode_2_b."""
CODES: Final = 64
BASELINE_CODE: Final = 61
BASELINE_DUTY: Final = 0.95
BASELINE_ROUNDS: Final = 20
"""A trim is right when the discriminator at code 61 is over its threshold 95 % of the time; at most 20 steps are tried.
Source: interface reference, section 7.4."""
UNUSABLE: Final = -1.0
"""What the tables hold for a discriminator without a calibration."""

_NEWTON_STEPS = 60
_CONVERGED = 1e-9
_NOISE_STEPS = (0.02, 12.0)
_MAX_MISFIT = 0.05
"""Largest difference between measured and fitted share that is still the curve of a discriminator."""

NOISE = Limits(warn_high=2.0, fail_high=6.0)
ZERO = Limits(10.0, 20.0, 62.5, 63.0)
METHOD = "binomial likelihood of the share of a window over threshold, normal distribution function of the code"


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """Which codes to scan: every `code_step` from 0 to 63, `reads` windows each."""

    code_step: int = 1
    reads: int = 1

    def __post_init__(self) -> None:
        if self.code_step not in {1, 2} or self.reads < 1:
            raise BadInputError(
                f"plan in steps of {self.code_step} codes with {self.reads} reads", do="take every code or every second"
            )

    def codes(self) -> list[int]:
        """Codes to read at, rising."""
        return list(range(0, CODES, self.code_step))


VENDOR_PLAN: Final = ThresholdPlan(reads=4)
"""As many windows as the readout maker's own acquisition reads."""


def lowered_baselines(
    duty: NDArray[np.float64], baseline: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One round of the baseline search.

    Args:
        duty: (n,) share of the window over threshold at BASELINE_CODE.
        baseline: (n,) trims it was taken with.

    Returns:
        The trims for the next round, and which channels are right already.
    """
    right = duty >= BASELINE_DUTY
    return np.where(right, baseline, np.maximum(baseline - 1, 0)), right


def fit(points: Sequence[CounterPoint], baseline_t: NDArray[np.int64], baseline_e: NDArray[np.int64]) -> Calibration:
    """Zero and noise of every discriminator.

    Args:
        points: settings `discriminator` (0 T1, 1 T2, 2 E) and `code`; counts are active clocks, without bias. All have
            the same channels in the same order. Several points with the same settings add up.
        baseline_t: (n,) trims of T1 and T2 that the scan was taken with.
        baseline_e: (n,) trims of E.

    Raises:
        BadInputError: points are missing or do not fit together.
    """
    if not points:
        raise BadInputError("there are no readings of counters", do="take the scan first")
    channels = points[0].channels
    if any(not np.array_equal(p.channels, channels) for p in points) or baseline_t.shape != channels.shape:
        raise BadInputError("readings of counters have different channels", do="take the scan again")
    zero, noise, error, noise_error, misfit = (np.full((channels.size, 3), np.nan) for _ in range(5))
    shares: list[tuple[NDArray[np.float64], float]] = []
    for k, name in enumerate(DISCRIMINATORS):
        codes, counts, total = _scan(points, k)
        if codes.size < CODES // 2:
            raise BadInputError(f"{name}: readings at {codes.size} codes", do=f"take {CODES // 2} codes or more")
        zero[:, k], noise[:, k], error[:, k], noise_error[:, k], misfit[:, k] = _fit_normal(codes, counts, total)
        shares.append((counts / total, float(total.sum())))
    reasons: dict[int, str] = {}
    judged: list[tuple[ChannelColumn, Limits]] = []
    for k, name in enumerate(DISCRIMINATORS):
        mine: dict[int, str] = {}
        for place in range(channels.size):
            why = _why_not(shares[k][0][place], zero[place, k], noise[place, k], misfit[place, k])
            if why:
                mine[place] = why
                zero[place, k] = noise[place, k] = np.nan
                reasons.setdefault(place, f"{name}: {why}")
        n = np.full(channels.size, int(shares[k][1]), np.int64)
        for what, value, its_error, limits in (
            ("zero", zero[:, k], error[:, k], ZERO),
            ("noise", noise[:, k], noise_error[:, k], NOISE),
        ):
            judged.append((column(f"threshold_{what}_{name}", "DAC steps", value, its_error, n, limits, mine), limits))
    results = [refused("threshold", channels, reasons)]
    for one, limits in judged:
        results += summary(one, channels, limits=limits, asic_limits=limits, method=METHOD)
    columns = [one for one, _ in judged]
    table = np.zeros(channels.size, TABLES["disc_calibration"].dtype)
    set_address(table, channels)
    table["baseline_t"], table["baseline_e"] = baseline_t, baseline_e
    for k, name in enumerate(DISCRIMINATORS):
        table[f"zero_{name}"] = np.where(np.isfinite(zero[:, k]), zero[:, k], UNUSABLE)
        table[f"noise_{name}"] = np.where(np.isfinite(noise[:, k]), noise[:, k], UNUSABLE)
    notes = refusal_notes("threshold", reasons)
    return Calibration("threshold", {"disc_calibration": table}, channels, results, columns, notes=notes)


def _scan(
    points: Sequence[CounterPoint], discriminator: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Codes (codes,), counts (channels, codes) and clocks looked at (codes,) of one discriminator."""
    mine = [p for p in points if p.settings["discriminator"] == discriminator]
    codes, at = np.unique(np.array([p.settings["code"] for p in mine], np.float64), return_inverse=True)
    counts = np.zeros((points[0].channels.size, codes.size))
    total = np.zeros(codes.size)
    for p, place in zip(mine, at, strict=True):
        counts[:, place] += p.counts
        total[place] += p.window_clk
    return codes, counts, total


def _why_not(share: NDArray[np.float64], zero: float, noise: float, misfit: float) -> str:
    if share.max() < 0.5:
        return "never over the threshold, whatever the code"
    if share.min() > 0.5:
        return "over the threshold at every code"
    if not (np.isfinite(zero) and _NOISE_STEPS[0] <= noise <= _NOISE_STEPS[1]):
        return "the scan has no width that can be fitted"
    if misfit > _MAX_MISFIT:
        return f"the scan is no distribution function (off by {100 * misfit:.0f} % of the window)"
    return ""


def _fit_normal(
    codes: NDArray[np.float64], counts: NDArray[np.float64], total: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Middle, width, standard errors of both and largest misfit for each row of counts, (channels,) each.

    Fisher scoring on the probit scale, eta = a + b code, from the crossing of one half. Clocks of one window are not
    independent in an amplifier with memory, so the error is that of the likelihood times the root of chi² per degree
    of freedom where that is above 1.
    """
    from scipy.special import ndtr, ndtri

    share = counts / total
    x = codes - codes.mean()
    crossing = np.argmax(share >= 0.5, axis=1)
    left = np.maximum(crossing - 1, 0)
    each = np.arange(share.shape[0])
    z = ndtri(np.clip(share, 1e-7, 1.0 - 1e-7))
    with np.errstate(divide="ignore", invalid="ignore"):
        b = (z[each, crossing] - z[each, left]) / np.maximum(x[crossing] - x[left], 1e-9)
    b = np.clip(np.where(np.isfinite(b), b, 1.0), 0.1, 10.0)
    a = z[each, crossing] - b * x[crossing]
    s0 = s1 = s2 = determinant = np.ones(share.shape[0])
    for _ in range(_NEWTON_STEPS):
        eta = np.clip(a[:, None] + b[:, None] * x, -8.0, 8.0)
        p = ndtr(eta)
        density = np.exp(-0.5 * eta**2) / np.sqrt(2.0 * np.pi)
        spread = np.maximum(p * (1.0 - p), 1e-16)
        w = total * density**2 / spread
        r = (share - p) * total * density / spread
        s0, s1, s2 = w.sum(axis=1), (w * x).sum(axis=1), (w * x * x).sum(axis=1)
        r0, r1 = r.sum(axis=1), (r * x).sum(axis=1)
        determinant = np.maximum(s0 * s2 - s1 * s1, 1e-300)
        da, db = (s2 * r0 - s1 * r1) / determinant, (s0 * r1 - s1 * r0) / determinant
        # A step never changes the width by more than a half, nor moves the middle by more than a code.
        damp = 1.0 / np.maximum(1.0, np.maximum(2.0 * np.abs(db) / b, np.abs(da + db * (-a / b)) / b))
        a, b = a + damp * da, b + damp * db
        if max(float(np.abs(da).max()), float(np.abs(db).max())) < _CONVERGED:
            break
    eta = np.clip(a[:, None] + b[:, None] * x, -8.0, 8.0)
    p = ndtr(eta)
    chi2 = (total * (share - p) ** 2 / np.maximum(p * (1.0 - p), 1.0 / total)).sum(axis=1)
    scale = np.sqrt(np.maximum(chi2 / max(codes.size - 2, 1), 1.0))
    middle = -a / b
    # Variance of -a/b by its gradient (-1/b, a/b²).
    variance = (s2 / determinant - 2 * middle * s1 / determinant + middle**2 * s0 / determinant) / b**2
    error = scale * np.sqrt(np.maximum(variance, 0.0))
    noise_error = scale * np.sqrt(np.maximum(s0 / determinant, 0.0)) / b**2  # variance of 1/b
    bad = ~(np.isfinite(middle) & (b > 0))
    for values in (middle, b, error, noise_error):
        values[bad] = np.nan
    return middle + codes.mean(), 1.0 / b, error, noise_error, np.abs(share - p).max(axis=1)
