"""Bias calibration: breakdown voltage of every bias output, from current-voltage curves or from the gain.

Two ways. (a) The current of an output against its voltage, measured with a source meter: with light, the breakdown is
where ln I rises most steeply; in the dark, where the current leaves its straight leakage as a parabola. (b) The gain:
dark counts over the T1 threshold fall in steps, one for each photoelectron; the distance of the steps is the amplitude
of one photoelectron, which is proportional to the voltage above breakdown.

A breakdown further from the one in use than a limit is a finding: it is told, judged as fail, and not put in the table.

Source: daily-qc.md §2h (gain linear in overvoltage); TOFPET2 interface reference, section 7.5 (bias settings table),
4.5 (counter mode 0xC counts events).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibrate import Calibration
from petqc.calibrate.bias_outputs import output_name
from petqc.calibrate.iv_curve import iv_breakdown
from petqc.calibrate.outcome import column, refusal_notes, refused
from petqc.calibrate.staircase import fit_staircases
from petqc.channel_map import SCANNER
from petqc.errors import BadInputError, FitFailedError, TooFewCountsError
from petqc.limits import Limits
from petqc.results import CheckResult, Spectrum
from petqc.statistics import robust_spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.calibrate import CounterPoint
    from petqc.calibrate.bias_outputs import Output
    from petqc.calibrate.staircase import Staircases


SMALL_CHANGE_V: Final = 0.15
"""Warn limit of a new breakdown voltage against the one in use: 4 K of temperature at 34 mV/K."""
LARGEST_CHANGE_V: Final = 0.5
"""Fail limit: beyond it the new value is not put in the table."""

_MIN_VOLTAGES = 3
_MIN_P_VALUE = 1e-4


def fit_iv(
    curves: Mapping[Output, tuple[NDArray[np.float64], NDArray[np.float64]]],
    settings: NDArray[np.void] | None,
    *,
    largest_change_v: float = LARGEST_CHANGE_V,
) -> Calibration:
    """Breakdown voltages from current-voltage curves.

    Args:
        curves: volts and amperes by output.
        settings: bias_settings table in use; None: breakdowns are told, and there is no table.
        largest_change_v: a breakdown further from that in use is not put in the table.
    """
    found: dict[Output, tuple[float, float, int, str]] = {}
    reasons: dict[Output, str] = {}
    for output, (volts, amperes) in sorted(curves.items()):
        try:
            b = iv_breakdown(volts, amperes)
        except (TooFewCountsError, FitFailedError) as why:
            reasons[output] = str(why)
            continue
        how = "largest d(ln I)/dV" if b.method == "steepest" else "parabola of the dark current above its leakage"
        found[output] = b.volts, b.error_v, b.n, how
    table, results, notes = _judged(found, reasons, settings, largest_change_v)
    return Calibration(
        "bias", {} if table is None else {"bias_settings": table}, np.empty(0, np.int32), results, notes=notes
    )


def fit_gain(
    points: Sequence[CounterPoint],
    disc_calibration: NDArray[np.void],
    outputs: Mapping[int, Output],
    settings: NDArray[np.void],
    *,
    largest_change_v: float = LARGEST_CHANGE_V,
) -> Calibration:
    """Breakdown voltages from the amplitude of single photoelectrons at several voltages.

    Args:
        points: channel counters of T1 in mode 0xC. Settings of each point: `level`, number of the voltage, rising;
            `below`, how many codes the threshold stood below `whole_zero` of each channel; `volts.PORT.SLAVE.SLOT.N`
            for every output, the voltage it had.
        disc_calibration: table in use; where the baseline of T1 is, and its noise.
        outputs: bias output of each absolute channel.
        settings: bias_settings table in use.
        largest_change_v: as for fit_iv.

    Raises:
        BadInputError: no points, fewer than three voltages, or points that do not belong together.
    """
    if not points:
        raise BadInputError("there are no points", do="take the points first")
    every = points[0].channels
    levels = sorted({int(p.settings["level"]) for p in points})
    below = np.array(sorted({p.settings["below"] for p in points}))
    if len(levels) < _MIN_VOLTAGES:
        raise BadInputError(f"{len(levels)} voltages", do=f"take {_MIN_VOLTAGES} or more")
    counts, windows = np.zeros((every.size, len(levels), below.size), np.int64), np.zeros((len(levels), below.size))
    volts = np.full((every.size, len(levels)), np.nan)
    for p in points:
        if p.channels.size != every.size or (p.channels != every).any():
            raise BadInputError("the points are not all of the same channels")
        k, at = levels.index(int(p.settings["level"])), int(np.searchsorted(below, p.settings["below"]))
        counts[:, k, at] += p.counts
        windows[k, at] += 1.0
        volts[:, k] = [_volts_of(p, outputs.get(int(c))) for c in every]
    if (windows == 0).any():
        raise BadInputError("not every threshold was counted at every voltage")
    zero, noise = t1_baseline(disc_calibration, every)
    breakdown_in_use = _breakdown_in_use(settings, [outputs.get(int(c)) for c in every])
    reasons: dict[int, str] = {}
    usable = np.ones(every.size, bool)
    for is_bad, why in (
        (~np.isfinite(zero) | ~(noise > 0), "the T1 threshold of this channel is not calibrated"),
        (~np.isfinite(volts).all(axis=1), "no bias output in the bias map"),
        (~np.isfinite(breakdown_in_use), "its bias output is not in the bias settings"),
    ):
        reasons.update({int(c): why for c in np.flatnonzero(is_bad)})
        usable &= ~is_bad
    found = np.full((every.size, 4), np.nan)
    drawn: Spectrum | None = None
    if usable.any():
        over = volts[usable] - breakdown_in_use[usable, None]
        fraction = zero[usable] - np.floor(zero[usable])
        stairs = fit_staircases(
            below[None, None, :] + fraction[:, None, None],
            counts[usable], windows, np.maximum(over / over[:, -1:], 0.05), noise[usable],
        )  # fmt: skip
        found[usable], of_usable = _lines(volts[usable], stairs)
        at_channel = np.flatnonzero(usable)
        reasons.update({int(at_channel[c]): why for c, why in of_usable.items()})
        drawn = stairs.picture(counts[usable])
    reasons = dict(sorted(reasons.items()))
    total = counts.sum(axis=(1, 2))
    columns = [
        column("bias_channel_breakdown", "V", found[:, 0], found[:, 1], total, Limits(), reasons),
        column("bias_photoelectron_per_volt", "codes/V", found[:, 2], found[:, 3], total, Limits(), reasons),
    ]
    of_outputs, missing = _of_outputs(every, found[:, 0], found[:, 1], outputs, settings)
    table, results, notes = _judged(of_outputs, missing, settings, largest_change_v)
    results.insert(0, refused("bias", every, reasons))
    notes += refusal_notes("bias", reasons)
    return Calibration(
        "bias", {} if table is None else {"bias_settings": table}, every, results, columns,
        [] if drawn is None else [drawn], notes,
    )  # fmt: skip


def t1_baseline(
    disc_calibration: NDArray[np.void], channels: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Code of T1 at which the baseline is over the threshold half the time, and its noise; NaN: not calibrated."""
    table = disc_calibration
    number = table["port"] << 17 | table["slave"] << 12 | table["chip"] << 6 | table["channel"]
    of = {int(c): k for k, c in enumerate(number)}
    zero, noise = np.full(channels.size, np.nan), np.full(channels.size, np.nan)
    for i, channel in enumerate(channels):
        k = of.get(int(channel))
        if k is not None and table["zero_t1"][k] >= 0 and table["noise_t1"][k] > 0:
            zero[i], noise[i] = table["zero_t1"][k], table["noise_t1"][k]
    return zero, noise


def _volts_of(point: CounterPoint, output: Output | None) -> float:
    if output is None:
        return math.nan
    return point.settings.get(volts_name(output), math.nan)


def volts_name(output: Output) -> str:
    """Name of an output's voltage in the settings of a point."""
    return "volts." + ".".join(str(k) for k in output)


def _rows(settings: NDArray[np.void]) -> dict[Output, int]:
    return {
        (int(row["port"]), int(row["slave"]), int(row["slot"]), int(row["channel"])): k
        for k, row in enumerate(settings)
    }


def _breakdown_in_use(settings: NDArray[np.void], outputs: Sequence[Output | None]) -> NDArray[np.float64]:
    """On the scale of the output's voltage: its offset included."""
    rows = _rows(settings)
    found = np.full(len(outputs), np.nan)
    for i, output in enumerate(outputs):
        k = None if output is None else rows.get(output)
        if k is not None:
            found[i] = settings["offset"][k] + settings["breakdown"][k]
    return found


def _lines(volts: NDArray[np.float64], stairs: Staircases) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Straight line of amplitude against voltage of each channel: (n, 4) where it is zero, its error, slope, its error.

    And why there is none, by position.
    """
    from scipy.special import chdtrc

    n, m = volts.shape
    found = np.full((n, 4), np.nan)
    reasons: dict[int, str] = {int(c): str(stairs.reason[c]) for c in np.flatnonzero(stairs.reason != "")}
    for c in range(n):
        if c in reasons:
            continue
        middle = volts[c].mean()
        design = np.stack([np.ones(m), volts[c] - middle], axis=1)
        weight = np.linalg.inv(stairs.covariance[c])
        covariance = np.linalg.inv(design.T @ weight @ design)
        level, slope = covariance @ design.T @ weight @ stairs.amplitude[c]
        left = stairs.amplitude[c] - design @ (level, slope)
        chi2 = float(left @ weight @ left)
        if slope <= 0.0:
            reasons[c] = "the amplitude does not rise with the voltage"
            continue
        if chdtrc(m - 2, chi2) < _MIN_P_VALUE:
            reasons[c] = "the amplitude does not rise in a straight line"
            continue
        scale = max(1.0, chi2 / (m - 2))
        gradient = np.array([-1.0 / slope, level / slope**2])
        error = math.sqrt(scale * float(gradient @ covariance @ gradient))
        found[c] = middle - level / slope, error, slope, math.sqrt(scale * covariance[1, 1])
    return found, reasons


def _of_outputs(
    channels: NDArray[np.int32],
    breakdown: NDArray[np.float64],
    error: NDArray[np.float64],
    outputs: Mapping[int, Output],
    settings: NDArray[np.void],
) -> tuple[dict[Output, tuple[float, float, int, str]], dict[Output, str]]:
    """Mean over the channels of each output that is configured; those far from their neighbours are left out."""
    rows_of = _rows(settings)
    members: dict[Output, list[int]] = {}
    for c, channel in enumerate(channels):
        of = outputs.get(int(channel))
        if of is not None:
            members.setdefault(of, []).append(c)
    found: dict[Output, tuple[float, float, int, str]] = {}
    missing: dict[Output, str] = {}
    for output in sorted(set(rows_of) & set(members)):
        rows = np.array(members[output], np.int64)
        offset = float(settings["offset"][rows_of[output]])
        good = rows[np.isfinite(breakdown[rows]) & np.isfinite(error[rows])] if rows.size else rows
        if good.size:
            middle = float(np.median(breakdown[good]))
            spread = robust_spread(breakdown[good])
            near = np.abs(breakdown[good] - middle) <= 5.0 * np.hypot(max(spread, 0.01), error[good])
            good = good[near]
        if good.size * 2 < max(rows.size, 1):
            missing[output] = f"{good.size} of {rows.size} channels show their breakdown"
            continue
        values = breakdown[good]
        statistical = math.sqrt(float((error[good] ** 2).sum())) / good.size
        # What the channels that are missing could change: they differ by as much as those that are there.
        spread = float(values.std(ddof=1)) if good.size > 1 else 0.0
        unknown = spread * math.sqrt((rows.size - good.size) / (good.size * rows.size))
        found[output] = (
            float(values.mean()) - offset,
            math.hypot(statistical, unknown),
            int(good.size),
            "amplitude of a photoelectron against voltage, mean over the output's channels",
        )
    return found, missing


def _judged(
    found: Mapping[Output, tuple[float, float, int, str]],
    missing: Mapping[Output, str],
    settings: NDArray[np.void] | None,
    largest_change_v: float,
) -> tuple[NDArray[np.void] | None, list[CheckResult], list[str]]:
    """The table with new breakdowns, a result for every output, and notes."""
    results: list[CheckResult] = []
    notes: list[str] = []
    table = None if settings is None else settings.copy()
    row_of = {} if table is None else _rows(table)
    changed = []
    for output in sorted({*found, *missing}):
        node = output_name(output)
        place = row_of.get(output)
        old = None if table is None or place is None else float(table["breakdown"][place])
        limits = Limits() if old is None else _around(old, largest_change_v)
        if output in missing:
            results.append(
                CheckResult.missing(
                    "bias_breakdown", node, "V", 0, limits, f"{missing[output]}; the table keeps its value"
                )
            )
            continue
        value, error, n, method = found[output]
        reason = None
        if table is not None and place is None:
            reason = "not in the bias settings table: not put there"
        elif old is not None and abs(value - old) > largest_change_v:
            reason = (
                f"{1000 * (value - old):+.0f} mV from {old:.3f} V in use, more than {1000 * largest_change_v:.0f} mV: "
                "the table keeps its value; find out why"
            )
            notes.append(f"bias: {node}: {reason}.")
        elif table is not None and place is not None and old is not None:
            table["breakdown"][place] = round(value, 4)
            changed.append(value - old)
        results.append(
            CheckResult.measured("bias_breakdown", node, value, "V", error, n, limits, method=method, reason=reason)
        )
    if table is not None:
        results += [
            CheckResult.missing(
                "bias_breakdown", output_name(output), "V", 0,
                _around(float(table["breakdown"][row_of[output]]), largest_change_v),
                "not measured; the table keeps its value",
            )
            for output in sorted(set(row_of) - set(found) - set(missing))
        ]  # fmt: skip
    if changed:
        mean = float(np.mean(changed))
        spread = float(np.std(changed, ddof=1) / math.sqrt(len(changed))) if len(changed) > 1 else 0.0
        results.insert(
            0,
            CheckResult.measured(
                "bias_breakdown_change", SCANNER, 1000.0 * mean, "mV", 1000.0 * spread, len(changed), Limits(),
                method="mean of new minus former breakdown voltages",
            ),
        )  # fmt: skip
    return table, results, notes


def _around(old: float, largest_change_v: float) -> Limits:
    warn = min(SMALL_CHANGE_V, largest_change_v)
    return Limits(old - largest_change_v, old - warn, old + warn, old + largest_change_v)
