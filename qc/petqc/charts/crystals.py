"""Charts of single crystals: which of thousands moved by itself, two runs running, with few false alarms for them all.

Three standard deviations on each of 20 160 crystals would flag 54 healthy ones a day. The limit is therefore that of
all of them together, and a crystal must be outside it, on the same side, in this run and the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqc.statistics import SIGMA_OF_MAD, family_sigmas
from petqc.verdict import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CHARTED_CRYSTALS: Final[Mapping[str, str]] = {"photopeak": "keV", "module_time_offset": "ps"}
"""Checks with a value for each crystal, and its unit. Source: daily-qc.md §5.2, rows with 5.0 σ and two days."""
LEAST_RUNS: Final = 10
"""Fewest runs of the baseline in which a crystal must have had a value."""
_NAMED: Final = 3
_LIMITS: Final = Limits(warn_high=0.5)


@dataclass(frozen=True, slots=True)
class CrystalValues:
    """One check of one run by crystal; arrays (n channels,), NaN where there is no number.

    channel: absolute numbers. module: index of the module of each. value, uncertainty: in the check's unit.
    """

    channel: NDArray[np.int64]
    module: NDArray[np.int64]
    value: NDArray[np.float64]
    uncertainty: NDArray[np.float64]


def crystals_outside(
    check: str, learned: Sequence[CrystalValues], before: CrystalValues | None, now: CrystalValues
) -> CheckResult | None:
    """`CHECK.crystals`: how many crystals have moved against their module, in this run and the one before.

    Args:
        check: one of `CHARTED_CRYSTALS`.
        learned: the runs of the baseline. Runs with other channels than `now` are passed over.
        before: the last run before this one that is not part of the baseline; None: there is none, so that nothing
            can have been outside twice.
        now: this run.

    A crystal is compared with its own mean over the baseline, after what its whole module did is taken out. Its
    spread is the larger of its own and of that of all crystals: the fit's error, and what the crystals scatter beyond.
    None: too few runs.
    """
    unit = CHARTED_CRYSTALS[check]
    usable = _usable(learned, now)
    if usable is None:
        return None
    n, centre = _centre(usable)
    has = n >= LEAST_RUNS
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.array([_by_itself(of_run.value - centre, now.module) for of_run in usable])
        errors = np.array([of_run.uncertainty for of_run in usable])
        beyond = _beyond(away[:, has], errors[:, has])
        own = np.sqrt(np.nansum(away**2, axis=0) / np.maximum(n - 1, 1))
    today = _sigmas(now, centre, own, beyond, n)
    limit = family_sigmas(int(np.isfinite(today).sum()))
    outside = np.zeros(today.size, dtype=bool)
    is_twice = before is not None and np.array_equal(before.channel, now.channel)
    if before is not None and is_twice:
        earlier = _sigmas(before, centre, own, beyond, n)
        outside = (np.abs(today) > limit) & (np.abs(earlier) > limit) & (np.sign(today) == np.sign(earlier))
    once = int((np.abs(today) > limit).sum())
    count = int(outside.sum())
    where = np.flatnonzero(outside)
    where = where[np.argsort(-np.abs(today[where]))]
    moved = _by_itself(now.value - centre, now.module)
    named = [
        f"channel {now.channel[k]} by {say(float(moved[k]), float(now.uncertainty[k]), unit)} ({today[k]:+.1f} σ)"
        for k in where[:_NAMED]
    ]
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    if named:
        reason = f"moved against their module in two runs: {', '.join(named)}{more}"
    else:
        reason = f"{once} beyond {limit:.1f} σ in this run alone" if once else ""
    status = _LIMITS.judge(float(count)) if is_twice else Status.NO_LIMITS
    method = f"{limit:.2f} σ of {int(np.isfinite(today).sum())} crystals, two runs, {len(usable)} runs of baseline"
    return CheckResult(
        f"{check}.crystals", "scanner", float(count), "channels", None, int(np.isfinite(today).sum()), _LIMITS, status,
        reason or None, None, method,
    )  # fmt: skip


def crystal_centre(learned: Sequence[CrystalValues], now: CrystalValues) -> NDArray[np.float64] | None:
    """What each crystal had over the baseline, (n channels,), NaN where it had too few values; None: too few runs."""
    usable = _usable(learned, now)
    return None if usable is None else _centre(usable)[1]


def _usable(learned: Sequence[CrystalValues], now: CrystalValues) -> list[CrystalValues] | None:
    """The runs that have the same channels; None: too few."""
    usable = [of_run for of_run in learned if np.array_equal(of_run.channel, now.channel)]
    return usable if len(usable) >= LEAST_RUNS else None


def _centre(usable: Sequence[CrystalValues]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number of values and mean of each crystal, (n channels,) each; NaN where there are too few."""
    values = np.array([of_run.value for of_run in usable])
    n = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return n, np.where(n >= LEAST_RUNS, np.nansum(values, axis=0) / n, np.nan)


def _by_itself(away: NDArray[np.float64], module: NDArray[np.int64]) -> NDArray[np.float64]:
    """Deviations less the median of each module's."""
    found = away.copy()
    order = np.argsort(module, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(module[order])) + 1):
        there = away[members][np.isfinite(away[members])]
        if there.size:
            found[members] -= np.median(there)
    return found


def _beyond(away: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """Spread of all crystals beyond what their fits say, robust."""
    known = np.isfinite(away) & np.isfinite(errors)
    if not known.any():
        return 0.0
    n = len(away)
    square = (SIGMA_OF_MAD * np.median(np.abs(away[known]))) ** 2 * n / (n - 1.0)
    return float(np.sqrt(max(square - np.median(errors[known]) ** 2, 0.0)))


def _sigmas(
    run: CrystalValues, centre: NDArray[np.float64], own: NDArray[np.float64], beyond: float, n: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far each crystal is, in standard deviations of one run against the mean of n; NaN: not known."""
    one = np.maximum(np.hypot(run.uncertainty, beyond), own)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = one * np.sqrt(1.0 + 1.0 / n)
        return np.where(spread > 0.0, _by_itself(run.value - centre, run.module) / spread, np.nan)
