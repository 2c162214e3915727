"""Dark counts at one voltage, against the threshold: from channel counters to a run with a verdict.

A channel's counts fall in steps, one for each photoelectron (`petqc.calibrate.staircase`): the first is the dark count
rate, the second tells crosstalk, where they begin is the baseline and how sharp they are the noise. Where no steps can
be fitted, the rate is what was counted over half the amplitude that the module's other channels have, and is marked.

Source: daily-qc.md §2h (dark rate, crosstalk).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibrate.bias import t1_baseline
from petqc.calibrate.staircase import Staircases, fit_staircases
from petqc.check_input import CheckInput
from petqc.errors import BadInputError
from petqc.limits import Status
from petqc.results import ChannelColumn
from petqc.verdict import Words, conclude

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import CounterPoint
    from petqc.channel_map import Topology
    from petqc.qc_input import RunContext
    from petqc.results import CheckResult, Run, Spectrum

CLOCK_S: Final = 5e-9
"""Length of a clock. Source: TOFPET2 interface reference, section 2 (200 MHz)."""
REFERENCE_DEGC: Final = 20.0
"""Temperature that dark count rates are given at. Source: daily-qc.md §2h (30-100 kcps/mm2 at 20 C)."""
DOUBLING_K: Final = 9.0
DOUBLING_RANGE_K: Final = (8.0, 10.0)
"""Warming that doubles the dark rate. Source: daily-qc.md §2h."""
FALLBACK: Final = "no steps: counts over half the amplitude of the module's other channels"
_FARTHEST = 0.45
"""Share of an amplitude that the baseline may have moved by; from a half on, steps would be taken for one another."""

WORDS: Final = Words(
    opening={
        Status.FAIL: "Dark counts out of limits: ",
        Status.WARN: "Look at ",
        Status.INVALID: "Dark counts not measured: ",
    },
    passing="Dark counts as they should be: ",
    headlines=("dark_count_rate", "dark_crosstalk"),
    essential="dark_hot_channels",
    without_essential="no module has channels enough with a dark count rate",
)


@dataclass(frozen=True, slots=True)
class DarkCounts:
    """What the counters say of n channels; NaN where there is no number, and `reason` says why.

    rate_hz and its error: dark counts of one cell and more, at the temperature of the run. is_fallback: (n,) whether
    rate_hz is that of the fallback. second: share of them that fire two cells and more. shift: codes that the baseline
    of T1 lies above its calibration; noise: width of it, codes. over_highest, highest_s: counts over the highest
    threshold, and how long they were counted. counts: all of the channel.
    """

    rate_hz: NDArray[np.float64]
    rate_error_hz: NDArray[np.float64]
    is_fallback: NDArray[np.bool_]
    second: NDArray[np.float64]
    second_error: NDArray[np.float64]
    shift: NDArray[np.float64]
    shift_error: NDArray[np.float64]
    noise: NDArray[np.float64]
    noise_error: NDArray[np.float64]
    over_highest: NDArray[np.float64]
    highest_s: float
    counts: NDArray[np.int64]
    reason: NDArray[np.object_]
    picture: Spectrum | None


@dataclass(slots=True)
class DarkInput(CheckInput):
    """Dark counts and context, handed to every check of dark counts."""

    dark: DarkCounts
    of: Topology
    context: RunContext

    @property
    def topology(self) -> Topology:
        """The channels of the board, scanned or not."""
        return self.of

    def to_reference(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor that brings a channel's rate to REFERENCE_DEGC, and its error; NaN without a temperature."""
        sensors = self.sipm_temperatures()
        warmer = np.full(len(self.of), np.nan)
        for node in self.nodes("module"):
            if node.name in sensors:
                warmer[node.members] = float(np.median([v for _, v in sensors[node.name]])) - REFERENCE_DEGC
        factor = np.exp2(-warmer / DOUBLING_K)
        low, high = DOUBLING_RANGE_K
        relative = np.abs(warmer) * math.log(2.0) * (1.0 / low - 1.0 / high) / math.sqrt(12.0)
        return factor, factor * relative

    def medians(
        self, check_id: str, unit: str, value: NDArray[np.float64], *, common: float = 0.0, method: str | None = None
    ) -> list[CheckResult]:
        """Medians of values of all channels, see `CheckInput.medians_of`."""
        return self.medians_of(
            check_id, unit, value, self.dark.counts, self.dark.reason, common=common, method=method
        )  # fmt: skip

    def column(
        self, check_id: str, unit: str, value: NDArray[np.float64], error: NDArray[np.float64],
        status: NDArray[np.object_] | None = None, reason: NDArray[np.object_] | None = None,
    ) -> ChannelColumn:  # fmt: skip
        """Values of all channels; status: default, no limits."""
        if status is None:
            status = np.where(np.isfinite(value), str(Status.NO_LIMITS), str(Status.INVALID)).astype(object)
        if reason is None:
            reason = np.where(np.isfinite(value), "", self.dark.reason).astype(object)
        return ChannelColumn(check_id, unit, value, error, self.dark.counts, status, reason)


def analyse_dark(
    points: Sequence[CounterPoint], disc_calibration: NDArray[np.void], topology: Topology, context: RunContext
) -> Run:
    """Every check of dark counts, and the verdict.

    Args:
        points: as for `count_dark`.
        disc_calibration: table in use; where the baseline of T1 is, and its noise.
        topology: all channels of the board.
        context: everything else that is known about the run.
    """
    from petqc.checks import checks_of, run_checks

    shared = DarkInput(count_dark(points, disc_calibration, topology), topology, context)
    return conclude(topology, context, run_checks(checks_of("dark"), shared), WORDS)


def count_dark(points: Sequence[CounterPoint], disc_calibration: NDArray[np.void], topology: Topology) -> DarkCounts:
    """Fit the staircases of all channels.

    Args:
        points: channel counters of T1 in mode 0xC at one voltage. Setting of each: `below`, how many codes the
            threshold stood below the whole code of the baseline of each channel.
        disc_calibration: table in use.
        topology: channels that there are; those without points get no number.

    Raises:
        BadInputError: no points, or points that do not belong together.
    """
    if not points:
        raise BadInputError("there are no points", do="take the points first")
    every = points[0].channels
    below = np.array(sorted({p.settings["below"] for p in points}))
    counts, seconds = np.zeros((every.size, 1, below.size), np.int64), np.zeros((1, below.size))
    for p in points:
        if p.channels.size != every.size or (p.channels != every).any():
            raise BadInputError("the points are not all of the same channels")
        at = int(np.searchsorted(below, p.settings["below"]))
        counts[:, 0, at] += p.counts
        seconds[0, at] += p.window_clk * CLOCK_S
    zero, noise = t1_baseline(disc_calibration, every)
    scanned = np.isfinite(zero) & (noise > 0) & (zero >= below[-1])
    place = topology.index_of(every)
    if (place < 0).any():
        raise BadInputError("there are points of channels that the board does not have")
    n = len(topology)
    reason = np.full(n, "not in the plan", object)
    reason[place] = "the T1 threshold of this channel is not calibrated, or leaves no room"
    place, counts, zero, noise = place[scanned], counts[scanned], zero[scanned], noise[scanned]
    steps = below[None, None, :] + (zero - np.floor(zero))[:, None, None]
    if not place.size:
        raise BadInputError("no channel has a T1 baseline that leaves room", do="calibrate the thresholds")
    stairs = fit_staircases(steps, counts, seconds, np.ones((place.size, 1)), noise)
    # Steps alone do not tell which of them is the first: it is the one next to the baseline.
    far = np.abs(stairs.zero) > _FARTHEST * stairs.amplitude[:, 0]
    stairs = stairs.without(far, "the steps do not begin where the baseline was calibrated")
    rate, rate_error, is_fallback = _rates(stairs, steps[:, 0], counts[:, 0], seconds[0], topology.module[place])
    reason[place] = stairs.reason

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        over = np.full(n, np.nan)
        over[place] = values
        return over

    total, fallback = np.zeros(n, np.int64), np.zeros(n, bool)
    total[place], fallback[place] = counts.sum(axis=(1, 2)), is_fallback
    return DarkCounts(
        rate_hz=spread(rate),
        rate_error_hz=spread(rate_error),
        is_fallback=fallback,
        second=spread(stairs.second[:, 0]),
        second_error=spread(stairs.second_error[:, 0]),
        shift=spread(stairs.zero),
        shift_error=spread(stairs.zero_error),
        noise=spread(stairs.noise),
        noise_error=spread(stairs.noise_error),
        over_highest=spread(counts[:, 0, -1].astype(np.float64)),
        highest_s=float(seconds[0, -1]),
        counts=total,
        reason=reason,
        picture=stairs.picture(counts),
    )


def _rates(
    stairs: Staircases,
    steps: NDArray[np.float64],
    counts: NDArray[np.int64],
    seconds: NDArray[np.float64],
    module: NDArray[np.int32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Dark count rates, their errors, and where they are those of the fallback."""
    rate, error = stairs.rate[:, 0].copy(), stairs.rate_error[:, 0].copy()
    fitted = np.isfinite(rate)
    for one in np.unique(module):
        of_module = module == one
        good = of_module & fitted
        if not good.any():
            continue
        half = 0.5 * float(np.median(stairs.amplitude[good, 0]))
        for c in np.flatnonzero(of_module & ~fitted):
            at = int(np.argmin(np.abs(steps[c] - half)))
            rate[c] = counts[c, at] / seconds[at]
            error[c] = math.sqrt(max(int(counts[c, at]), 1)) / seconds[at]
    return rate, error, ~fitted & np.isfinite(rate)
