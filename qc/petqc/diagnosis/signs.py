"""What moved, at which place and by how much: signs of trouble from the channel columns and results of a run.

For each quantity the places are found that explain the most of its deviations: a step that a whole node makes
gives that node the largest gain in chi-square, more than any node above it (diluted) or below it (incomplete).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from petqc.channel_map import SCANNER
from petqc.diagnosis.places import Place, channel, compared, patches
from petqc.limits import Status
from petqc.statistics import FWHM_OF_SIGMA, channel_sigmas, robust_spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.results import ChannelColumn, Run

Quantity: TypeAlias = Literal[
    "energy", "resolution", "offset", "width", "onset", "temperature", "dead", "hot", "side_peak", "scatter", "frames",
    "source", "singles", "prompts", "pairs", "dead_time", "dark", "shape", "mr_peak",
    "interval", "clock", "reference", "window", "mixed", "tdc_scale", "unused",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity that every channel has.

    column: where it comes from. checks: whose flags make a deviation of it worth a word. unit: of deviations. alone,
    together: least deviation of one channel, and of the mean of a group. scatter: what healthy channels differ by.
    """

    quantity: Quantity
    column: str
    checks: tuple[str, ...]
    unit: str
    alone: float
    together: float
    scatter: float


MEASURES = (
    Measure("energy", "photopeak", ("photopeak", "bias_peak", "window_acceptance"), "%", 3.0, 1.0, 0.3),
    Measure("energy", "lu_energy_scale", ("lu_energy_scale",), "%", 3.0, 1.0, 0.3),
    Measure("resolution", "energy_resolution", ("energy_resolution",), "%", 15.0, 5.0, 2.0),
    Measure("offset", "module_time_offset", ("module_time_offset",), "ps", 40.0, 20.0, 4.0),
    Measure("offset", "lu_time_offset", ("lu_time_offset",), "ps", 40.0, 20.0, 4.0),
    Measure("width", "timing_width", ("timing_width", "ctr_fit", "ctr_nema", "time_tails"), "%", 20.0, 5.0, 2.0),
    Measure("onset", "energy_onset", ("energy_onset",), "keV", 25.0, 15.0, 1.5),
)
"""Least deviations: warn limits of daily-qc.md §5.2 where there are any, else those of the check."""
TEMPERATURE = Measure("temperature", "temperature", ("temperature",), "K", 0.5, 0.3, 0.1)
"""Of modules; only ever evidence beside something else that moved."""
_SHARED = 0.5
"""A place that deviates by at least this share of what one inside it does has made most of that."""
_MOST = 8
_FLAGGED = (str(Status.WARN), str(Status.FAIL))
_SCATTERED = 0.2
"""Share of an ASIC's channels outside their limits, to both sides, from which on the ASIC as a whole is scattered."""
_BOTH_SIDES = 0.2


@dataclass(frozen=True, slots=True)
class Sign:
    """One deviation. value, error in `unit`; channels: how many of the place's channels have a number of their own."""

    quantity: Quantity
    place: Place
    value: float
    error: float
    unit: str
    channels: int
    told: str = ""


@dataclass(frozen=True, slots=True)
class Deviations:
    """Deviation of every channel in one quantity, NaN where there is no number; (n,) each.

    is_of_asics: single channels have too few counts, so each has what its ASIC has.
    """

    measure: Measure
    value: NDArray[np.float64]
    error: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    is_of_asics: bool = False

    def mean(self, members: NDArray[np.int64]) -> tuple[float, float, int]:
        """Weighted mean over channels, its standard deviation and how many there are; NaN without any."""
        mine = members[np.isfinite(self.value[members])]
        if not mine.size:
            return math.nan, math.nan, 0
        weight = 1.0 / (self.error[mine] ** 2 + self.measure.scatter**2)
        mean = float(np.average(self.value[mine], weights=weight))
        return mean, 1.0 / math.sqrt(float(weight.sum())), int(mine.size)

    def least(self, place: Place) -> float:
        """What a deviation of a place must reach to count."""
        return self.measure.alone if place.members.size == 1 else self.measure.together


def deviations(topology: Topology, run: Run) -> dict[Quantity, Deviations]:
    """Deviation of every channel from its baseline, or from what its neighbours have."""
    columns = {column.id: column for column in run.columns}
    found: dict[Quantity, Deviations] = {}
    for measure in MEASURES:
        column = columns.get(measure.column)
        if column is None or column.value.size != len(topology):
            continue
        summed = _of_asics(topology, run, column)
        column = summed or column
        reference = _reference(topology, run, measure, column)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = 100.0 / reference if measure.unit == "%" else np.ones(len(topology))
            value, error = (column.value - reference) * scale, np.abs(column.uncertainty * scale)
        flagged = np.isin(column.status.astype(str), _FLAGGED)
        if np.isfinite(value).any():
            found[measure.quantity] = Deviations(measure, value, np.nan_to_num(error), flagged, summed is not None)
    warmth = _warmth(topology, run)
    if np.isfinite(warmth.value).any():
        found["temperature"] = warmth
    return found


def _of_asics(topology: Topology, run: Run, column: ChannelColumn) -> ChannelColumn | None:
    """Every channel with what its ASIC has, where fewer than half of all channels have a number of their own.

    Errors are such that the mean of an ASIC's channels has the ASIC's, and at least what ASICs differ by. None where
    the channels, or no results of ASICs, are there to speak.
    """
    if 2 * int(np.isfinite(column.value).sum()) >= len(topology):
        return None
    at = {name: i for i, name in enumerate(topology.asic_nodes)}
    sums = np.full((2, len(at)), math.nan)
    for c in run.checks:
        if c.id == column.id and c.node in at and c.value is not None:
            sums[:, at[c.node]] = c.value, c.uncertainty or 0.0
    known = np.isfinite(sums[0])
    if not known.any():
        return None
    error = np.maximum(sums[1], robust_spread(sums[0][known]))
    error *= np.sqrt(np.bincount(topology.asic, minlength=len(at)))
    return replace(column, value=sums[0][topology.asic], uncertainty=error[topology.asic])


def _warmth(topology: Topology, run: Run) -> Deviations:
    """How much warmer each channel's module is than in the baseline."""
    value = np.full(len(topology), math.nan)
    at = {name: i for i, name in enumerate(topology.module_nodes)}
    for c in run.checks:
        if c.id == TEMPERATURE.column and c.node in at and c.value is not None and c.baseline is not None:
            value[topology.module == at[c.node]] = c.value - c.baseline
    n = value.size
    return Deviations(TEMPERATURE, value, np.full(n, 0.1), np.zeros(n, np.bool_))


def module_medians(topology: Topology, column: ChannelColumn) -> dict[int, float]:
    """Median channel of each module that has any."""
    found = {}
    for module in range(len(topology.module_nodes)):
        mine = (topology.module == module) & np.isfinite(column.value)
        if mine.any():
            found[module] = float(np.median(column.value[mine]))
    return found


def _reference(topology: Topology, run: Run, measure: Measure, column: ChannelColumn) -> NDArray[np.float64]:
    """What each channel should have: the baseline of its smallest node with one, else 511 keV, 0 ps, or a median."""
    n = len(topology)
    if measure.quantity == "offset":
        # Against the median of the module: an ASIC that is late makes its module's mean late, and the others early.
        reference = np.zeros(n)
        for module, middle in module_medians(topology, column).items():
            reference[topology.module == module] = middle
        return reference
    if measure.quantity == "onset":
        seen = column.value[np.isfinite(column.value)]
        return np.full(n, float(np.median(seen)) if seen.size else math.nan)
    reference = np.full(n, math.nan)
    baselines: dict[str, float] = {
        c.node: c.baseline for c in run.checks if c.id in {measure.column, "bias_peak"} and c.baseline is not None
        and (c.id == measure.column or measure.quantity == "energy")
    }  # fmt: skip
    for index, names in (
        (topology.module, topology.module_nodes),
        (topology.asic, topology.asic_nodes),
        (topology.bias, topology.bias_nodes),
    ):
        for i, name in enumerate(names):
            if name in baselines:
                reference[index == i] = baselines[name]
    missing = np.isnan(reference)
    if measure.quantity == "energy":
        reference[missing] = 511.0
    else:
        # What is usual in the scanner: the median module's median channel, less what the scanner as a whole has moved.
        medians = list(module_medians(topology, column).values())
        reference[missing] = float(np.median(medians)) / _of_scanner(run, measure) if medians else math.nan
    return reference


def _of_scanner(run: Run, measure: Measure) -> float:
    """A quantity of the whole scanner over its baseline; 1 where it has none, or where offsets have widened its CTR."""
    for c in run.checks:
        if c.id in measure.checks and c.node == SCANNER and c.value and c.baseline:
            excess = c.value**2 - c.baseline**2
            by_offsets = measure.quantity == "width" and _width_of_offsets(run) ** 2 > _SHARED * excess > 0.0
            return 1.0 if by_offsets else c.value / c.baseline
    return 1.0


def _width_of_offsets(run: Run) -> float:
    """FWHM in ps that offsets of single channels add to a coincidence of two of them; 0 where they are not known."""
    offset = next((column.value for column in run.columns if column.id == "module_time_offset"), np.empty(0))
    known = offset[np.isfinite(offset)]
    return FWHM_OF_SIGMA * math.sqrt(2.0) * float(np.std(known)) if known.size else 0.0


def scattered(found: dict[Quantity, Deviations], nodes: Sequence[Place]) -> list[Sign]:
    """ASICs whose photopeaks or offsets are off to both sides: not a drift of the ASIC but of who is who."""
    signs: list[Sign] = []
    for place in nodes:
        if place.level != "asic":
            continue
        for quantity in ("offset", "energy"):
            one = found.get(quantity)
            if one is None:
                continue
            mine = place.members[np.isfinite(one.value[place.members])]
            out = mine[one.flagged[mine]]
            above = int((one.value[out] > 0).sum())
            if mine.size < 8 or out.size < _SCATTERED * mine.size:
                continue
            if min(above, out.size - above) >= _BOTH_SIDES * out.size:
                rms = float(np.sqrt(np.mean(one.value[mine] ** 2)))
                told = (
                    f"{'photopeaks' if quantity == 'energy' else 'time offsets'} of {out.size} of its {mine.size} "
                    f"channels are outside their limits, {above} above and {out.size - above} below: "
                    f"{rms:.3g} {one.measure.unit} rms"
                )
                error = rms / math.sqrt(2.0 * mine.size)
                signs.append(Sign("scatter", place, rms, error, one.measure.unit, mine.size, told))
                break
    return signs


def steps(topology: Topology, one: Deviations, nodes: Sequence[Place], left_out: NDArray[np.bool_]) -> list[Sign]:
    """Places that moved as a whole, the one that explains the most first.

    Args:
        topology: the channels.
        one: the quantity.
        nodes: places above channels.
        left_out: (n,) channels that are explained otherwise.

    Source: daily-qc.md §3, root-cause logic.
    """
    value = np.where(left_out, np.nan, one.value)
    known = np.isfinite(value)
    if not known.any():
        return []
    scatter = max(one.measure.scatter, _usual_scatter(one, nodes, known))
    weight = np.where(known, 1.0 / (one.error**2 + scatter**2), 0.0)
    candidates = [*nodes, *patches(topology, one.flagged & known, nodes)]
    candidates += [channel(topology, int(i)) for i in np.flatnonzero(known & (np.abs(value) >= one.measure.alone))]
    needed = channel_sigmas(len(topology)) ** 2
    left = np.where(known, value, 0.0)
    found: list[Sign] = []
    while len(found) < _MOST:
        gains: list[tuple[float, float, Place]] = []
        for place in candidates:
            w, d = weight[place.members], left[place.members]
            total = float(w.sum())
            if total <= 0.0:
                continue
            mean = float(w @ d) / total
            gain = mean * mean * total
            if gain < needed:
                continue
            middle = float(np.median(d[w > 0]))
            if middle * mean <= 0 or abs(middle) < 0.5 * abs(mean):
                continue
            gains.append((gain, mean, place))
        best: tuple[float, float, Place] | None = None
        for gain, mean, place in gains:
            if abs(mean) >= one.least(place) and (best is None or gain > best[0] * (1.0 + 1e-9)):
                best = gain, mean, place
        if best is None:
            break
        _, mean, place = _common(one, best, gains)
        total = float(weight[place.members].sum())
        count = 0 if one.is_of_asics else int(known[place.members].sum())
        where = compared(topology) if place.level == "scanner" and one.measure.quantity == "width" else place
        found.append(Sign(one.measure.quantity, where, mean, 1.0 / math.sqrt(total), one.measure.unit, count))
        left[place.members] -= mean
        candidates = [c for c in candidates if c is not place]
    return found


def _common(
    one: Deviations, best: tuple[float, float, Place], gains: Sequence[tuple[float, float, Place]]
) -> tuple[float, float, Place]:
    """The place around the best one of which it only has its share, or itself.

    Where everything moves by a little less than counts, those that count by chance are no places of their own. Not of
    offsets: a time is one of two channels, so that what is late makes all of its partners look early.
    """
    _, mean, place = best
    if one.measure.quantity not in {"energy", "width"}:
        return best
    around = [
        g for g in gains
        if g[2].members.size > place.members.size and g[1] * mean > 0 and abs(g[1]) >= _SHARED * abs(mean)
        and g[0] > best[0] and np.isin(place.members, g[2].members).all()
    ]  # fmt: skip
    return max(around, key=lambda g: g[0], default=best)


def _usual_scatter(one: Deviations, nodes: Sequence[Place], known: NDArray[np.bool_]) -> float:
    """Spread of channels beyond their errors inside small groups, which no step of a whole group makes larger."""
    spreads = []
    for place in nodes:
        if place.level not in {"bias", "asic"}:
            continue
        mine = place.members[known[place.members]]
        if mine.size >= 8:
            spread = robust_spread(one.value[mine])
            spreads.append(math.sqrt(max(spread**2 - float(np.median(one.error[mine])) ** 2, 0.0)))
    return float(np.median(spreads)) if spreads else 0.0
