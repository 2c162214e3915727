"""Test pulses of the readout itself, through every channel, to a run with a verdict: the electronics without a SiPM.

Pulses at known phases of the clock test the time interpolators (scale, linearity, buffers) and pulses of known length
the charge integrators, both against the calibration in use. A pulse that does not come back is a dead channel or dead
time. What fails here is not the SiPM, its bond or its crystal; what fails with a source and passes here is.

Source: daily-qc.md §5.1, P1, and §2f (survival of test pulses at a known rate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.calibrate.charge import LONGEST_CLK, integrated_clk, interval_clk, lines_of
from petqc.calibrate.event_groups import group_events
from petqc.calibrate.tdc import CLOCK_PS, FRAME_CLK
from petqc.calibration.charge import code_of_time, slope_at_time
from petqc.calibration.charge_kernels import N_COEFFICIENTS
from petqc.check_input import CheckInput
from petqc.errors import BadInputError
from petqc.formats.petsys_tables import BRANCH_T
from petqc.limits import Status
from petqc.results import ChannelColumn
from petqc.verdict import Words, conclude

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import EventPoint
    from petqc.channel_map import Topology
    from petqc.checks import CheckOutput
    from petqc.qc_input import RunContext
    from petqc.results import CheckResult, Run

_HIGHEST_CODE = 1011.0
"""Codes from here on are saturated."""
_ROUNDING_VARIANCE = 1.0 / 12.0
_LEAST_POINTS = 4
_EDGE_SHARE = 0.05
"""A group with fewer hits than this share of its point's largest is of early or late pulses, or of none."""

WORDS: Final = Words(
    opening={
        Status.FAIL: "Test pulses out of limits: ",
        Status.WARN: "Look at ",
        Status.INVALID: "Test pulses not measured: ",
    },
    passing="Electronics as they should be: ",
    headlines=("pulses_seen", "pulse_tdc_scale", "pulse_charge_gain"),
    essential="pulses_seen",
    without_essential="no module's pulses were counted",
)


@dataclass(frozen=True, slots=True)
class Pulse:
    """A train of pulses: length, time between two, and phase, in clocks. is_fast: its hits only count, for the rate."""

    length_clk: int
    interval_clk: int
    phase_clk: float
    is_fast: bool = False

    @property
    def per_frame(self) -> float:
        """Pulses in a frame."""
        return FRAME_CLK / self.interval_clk


@dataclass(frozen=True, slots=True)
class PulsePlan:
    """Which pulses to take: phases over one clock, lengths over the integrator's range, and one train at a higher rate.

    hits_per_tac: wanted at each point; a channel uses its four TACs in turn.
    """

    phases: int = 9
    length_clk: int = 100
    lengths: tuple[int, ...] = (20, 60, 100, 140, 180, 220, 260)
    hits_per_tac: int = 32
    interval_clk: int = FRAME_CLK
    fast_interval_clk: int = FRAME_CLK // 2

    def __post_init__(self) -> None:
        if self.phases < _LEAST_POINTS or len(self.lengths) < _LEAST_POINTS or max(self.lengths) > LONGEST_CLK:
            raise BadInputError(
                f"plan of {self.phases} phases and lengths {self.lengths}",
                do=f"take {_LEAST_POINTS} of each or more, lengths up to {LONGEST_CLK} clocks",
            )

    def pulses(self) -> list[Pulse]:
        """In the order in which they are taken."""
        phases = [Pulse(self.length_clk, self.interval_clk, (k + 0.5) / self.phases) for k in range(self.phases)]
        lengths = [Pulse(length, self.interval_clk, 0.5) for length in self.lengths]
        return [*phases, *lengths, Pulse(self.lengths[0], self.fast_interval_clk, 0.5, is_fast=True)]

    @property
    def frames_per_point(self) -> int:
        """Frames to take at a point."""
        return 4 * self.hits_per_tac * self.interval_clk // FRAME_CLK


@dataclass(frozen=True, slots=True)
class PulsedPoint:
    """What came of one train in the channels that were on: (m,) absolute numbers. frames: that came of it."""

    pulse: Pulse
    channels: NDArray[np.int32]
    frames: int
    events: EventPoint


@dataclass(frozen=True, slots=True)
class PulseTest:
    """What the pulses say of n channels, (n,) each, NaN where there is no number, and `reason` says why.

    scale: how much longer the interpolator measures an interval than it is, in per cent. inl_ps: rms of what is left of
    a straight line. tac_ps: largest distance of one buffer's times from the median of the four. gain: how much more
    charge the integrator measures, in per cent. hits: that came at the ordinary rate, of `sent`; fast_hits: of
    fast_sent.
    """

    scale: NDArray[np.float64]
    scale_error: NDArray[np.float64]
    inl_ps: NDArray[np.float64]
    inl_error: NDArray[np.float64]
    tac_ps: NDArray[np.float64]
    tac_error: NDArray[np.float64]
    gain: NDArray[np.float64]
    gain_error: NDArray[np.float64]
    hits: NDArray[np.int64]
    sent: NDArray[np.float64]
    fast_hits: NDArray[np.int64]
    fast_sent: NDArray[np.float64]
    reason: NDArray[np.object_]


@dataclass(slots=True)
class PulseInput(CheckInput):
    """Test pulses and context, handed to every check of test pulses."""

    test: PulseTest
    of: Topology
    context: RunContext

    @property
    def topology(self) -> Topology:
        """The channels of the board, pulsed or not."""
        return self.of

    def medians(self, check_id: str, unit: str, value: NDArray[np.float64], *, method: str) -> list[CheckResult]:
        """Medians of values of all channels, see `CheckInput.medians_of`."""
        return self.medians_of(check_id, unit, value, self.test.hits, self.test.reason, method=method)

    def measured(
        self, check_id: str, unit: str, value: NDArray[np.float64], error: NDArray[np.float64], *, method: str
    ) -> CheckOutput:
        """A check of one number a channel, 0 where all is well: medians, channels further out than noise, all values.

        Args:
            check_id: the check.
            unit: of the values.
            value: (n,) values, NaN where there is none.
            error: (n,) their standard deviations.
            method: how they were measured.
        """
        from petqc.checks import CheckOutput

        results = self.medians(check_id, unit, value, method=method)
        status = self.channel_status(check_id, value, error, 0.0)
        results.append(self.channels_outside(check_id, status))
        return CheckOutput(results, self.column(check_id, unit, value, error, status))

    def column(
        self,
        check_id: str,
        unit: str,
        value: NDArray[np.float64],
        error: NDArray[np.float64],
        status: NDArray[np.object_],
    ) -> ChannelColumn:
        """Values of all channels."""
        reason = np.where(np.isfinite(value), "", np.where(self.test.reason == "", "no number", self.test.reason))
        return ChannelColumn(check_id, unit, value, error, self.test.hits, status, reason.astype(object))


def analyse_test_pulse(
    points: Sequence[PulsedPoint], tdc: NDArray[Any], qdc: NDArray[Any], topology: Topology, context: RunContext
) -> Run:
    """Every check of test pulses, and the verdict.

    Args:
        points: of the scan, taken in charge mode.
        tdc: time calibration in use, table as in `petqc.formats.petsys_tables`.
        qdc: charge calibration in use.
        topology: all channels of the board.
        context: everything else that is known about the run.
    """
    from petqc.checks import checks_of, run_checks

    shared = PulseInput(measure_pulses(points, tdc, qdc, topology), topology, context)
    return conclude(topology, context, run_checks(checks_of("test-pulse"), shared), WORDS)


def measure_pulses(
    points: Sequence[PulsedPoint], tdc: NDArray[Any], qdc: NDArray[Any], topology: Topology
) -> PulseTest:
    """Hold what came against what was sent and against the calibrations.

    Raises:
        BadInputError: no points, or points of channels that the board does not have.
    """
    if not points:
        raise BadInputError("there are no points", do="take the points first")
    n = len(topology)
    hits, fast_hits = np.zeros(n, np.int64), np.zeros(n, np.int64)
    sent, fast_sent = np.zeros(n), np.zeros(n)
    for p in points:
        at = topology.index_of(p.channels)
        if (at < 0).any():
            raise BadInputError("there are points of channels that the board does not have")
        came = topology.index_of((p.events.words >> np.uint64(42)).astype(np.int32))
        mine = np.bincount(came[came >= 0], p.events.counts[came >= 0], n).astype(np.int64)
        (fast_hits if p.pulse.is_fast else hits)[:] += mine
        (fast_sent if p.pulse.is_fast else sent)[at] += p.frames * p.pulse.per_frame
    reason = np.where(sent == 0.0, "not in the plan", np.where(hits == 0, "no hits", "")).astype(object)
    ordinary = [p for p in points if not p.pulse.is_fast]
    times = _times([p.events for p in ordinary], tdc, topology)
    gain, gain_error, charged = _charges([p.events for p in ordinary], tdc, qdc, topology)
    reason[(reason == "") & ~times[6]] = "no time calibration"
    reason[(reason == "") & ~charged] = "no charge calibration"
    return PulseTest(*times[:6], gain, gain_error, hits, sent, fast_hits, fast_sent, reason)


def _times(
    points: Sequence[EventPoint], tdc: NDArray[Any], topology: Topology
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.bool_],
]:
    """Scale and its error, INL and its error, largest distance of a buffer and its error; and whether it is calibrated.

    A pulse at phase p is a hit at coarse count c minus the interval: what that misses p by, beyond a delay of the
    channel's own, is the calibration's error at that interval.
    """
    n = len(topology)
    groups = group_events(points, "T", both_coarse=False)
    early = interval_clk(groups.row, groups.mean, tdc)
    channel = topology.index_of((groups.row >> 2).astype(np.int32))
    calibrated = np.bincount(channel[channel >= 0], np.isfinite(early)[channel >= 0], n) > 0
    use = np.isfinite(early) & (channel >= 0) & _is_main(groups.row, groups.step1, groups.step2, groups.n)
    groups, early, channel = groups.take(use), early[use], channel[use]
    off = groups.t_coarse - early - groups.step2
    centre = _medians(channel, off, n)
    off -= FRAME_CLK * np.round((off - centre[channel]) / FRAME_CLK)  # a frame's end and its beginning are neighbours
    row = 4 * channel.astype(np.int64) + (groups.row & 3)
    slope, _ = lines_of(groups.row, tdc[(tdc["branch"] == BRANCH_T) & (tdc["a1"] != 0)])
    variance = (_scatter(row, groups.m2, groups.n, 4 * n)[row] / groups.n + _ROUNDING_VARIANCE) / slope["a1"] ** 2
    # Longer intervals mean earlier hits: an interpolator that measures too long makes `off` fall with the interval.
    line = _lines(row, early, off, 1.0 / variance, 4 * n)
    scale, scale_error = _of_channels(-100.0 * line.slope, 100.0 * line.slope_error)
    inl = CLOCK_PS * np.sqrt(_mean_of_four(line.left_over))
    inl_error = inl / np.sqrt(2.0 * np.maximum(np.bincount(channel, minlength=n) - 8.0, 1.0))
    middle = line.middle.reshape(n, 4)
    at = CLOCK_PS * np.abs(middle - np.median(middle, axis=1, keepdims=True))
    tac_error = CLOCK_PS * line.middle_error.reshape(n, 4).max(axis=1)
    return scale, scale_error, inl, inl_error, at.max(axis=1), tac_error, calibrated


def _charges(
    points: Sequence[EventPoint], tdc: NDArray[Any], qdc: NDArray[Any], topology: Topology
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Gain in per cent, its error, and whether the channel is calibrated."""
    n = len(topology)
    groups = group_events(points, "E", both_coarse=True)
    time_clk, _ = integrated_clk(groups, tdc)
    lines, known = lines_of(groups.row, qdc[qdc["p1"] > 0])
    channel = topology.index_of((groups.row >> 2).astype(np.int32))
    calibrated = np.bincount(channel[channel >= 0], known[channel >= 0], n) > 0
    use = known & np.isfinite(time_clk) & (channel >= 0) & (groups.mean < _HIGHEST_CODE)
    use &= _is_main(groups.row, groups.step1, groups.step2, groups.n)
    groups, time_clk, channel, lines = groups.take(use), time_clk[use], channel[use], lines[use]
    p = np.stack([lines[f"p{k}"].astype(np.float64) for k in range(N_COEFFICIENTS)], axis=-1)
    slope = slope_at_time(time_clk, p)
    more = (groups.mean - code_of_time(time_clk, p)) / slope
    row = 4 * channel.astype(np.int64) + (groups.row & 3)
    variance = (_scatter(row, groups.m2, groups.n, 4 * n)[row] / groups.n + _ROUNDING_VARIANCE) / slope**2
    line = _lines(row, time_clk, more, 1.0 / variance, 4 * n)
    return (*_of_channels(100.0 * line.slope, 100.0 * line.slope_error), calibrated)


@dataclass(frozen=True, slots=True)
class _Line:
    """Straight lines of rows, NaN where points are too few. left_over: mean square of what is left of the line."""

    middle: NDArray[np.float64]
    middle_error: NDArray[np.float64]
    slope: NDArray[np.float64]
    slope_error: NDArray[np.float64]
    left_over: NDArray[np.float64]


def _lines(
    row: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], n_rows: int
) -> _Line:
    """Weighted least squares of y = middle + slope (x - mean of x), row by row; errors grow with chi²."""
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.bincount(row, w, n_rows)
        points = np.bincount(row, minlength=n_rows)
        x0 = np.bincount(row, w * x, n_rows) / total
        middle = np.bincount(row, w * y, n_rows) / total
        u = x - x0[row]
        spread = np.bincount(row, w * u * u, n_rows)
        slope = np.bincount(row, w * u * y, n_rows) / spread
        left = y - middle[row] - slope[row] * u
        free = np.maximum(points - 2, 1)
        grow = np.sqrt(np.maximum(np.bincount(row, w * left**2, n_rows) / free, 1.0))
        left_over = np.bincount(row, left**2, n_rows) / free
        found = [middle, grow / np.sqrt(total), slope, grow / np.sqrt(spread), left_over]
    few = (points < _LEAST_POINTS) | ~(spread > 0.0)
    return _Line(*(np.where(few, np.nan, values) for values in found))


def _is_main(
    row: NDArray[np.int64], step1: NDArray[np.float64], step2: NDArray[np.float64], n: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which groups are not of stray hits: they have a share of what their row's largest group of the point has."""
    _, cell = np.unique(np.stack([row.astype(np.float64), step1, step2]), axis=1, return_inverse=True)
    largest = np.zeros(int(cell.max(initial=-1)) + 1, np.int64)
    np.maximum.at(largest, cell, n)
    return np.asarray(n >= _EDGE_SHARE * largest[cell])


def _medians(place: NDArray[np.int32], value: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    order = np.lexsort((value, place))
    begin = np.searchsorted(place[order], np.arange(n + 1))
    found, there = np.zeros(n), begin[1:] > begin[:-1]
    found[there] = value[order][(begin[:-1] + begin[1:])[there] // 2]
    return found


def _scatter(row: NDArray[np.int64], m2: NDArray[np.float64], n: NDArray[np.int64], n_rows: int) -> NDArray[np.float64]:
    """Variance of single codes of each row."""
    found: NDArray[np.float64] = np.bincount(row, m2, n_rows) / np.maximum(np.bincount(row, n - 1.0, n_rows), 1.0)
    return found


def _of_channels(
    value: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of a channel's four buffers; NaN where one of them has no number."""
    return value.reshape(-1, 4).mean(axis=1), np.sqrt((error.reshape(-1, 4) ** 2).sum(axis=1)) / 4.0


def _mean_of_four(value: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = value.reshape(-1, 4).mean(axis=1)
    return found
