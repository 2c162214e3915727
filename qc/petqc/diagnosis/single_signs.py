"""Signs that checks state outright: dead and hot channels, side peaks, modules out of step, readings, frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.diagnosis.places import Place, channel, compared, scanner
from petqc.diagnosis.rate_signs import rate_signs
from petqc.diagnosis.signs import Sign, module_medians
from petqc.diagnosis.witnesses import clock_signs
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.diagnosis.signs import Quantity
    from petqc.results import ChannelColumn, CheckResult, Run

SIGMAS = "σ"
"""Unit of signs that come from a chart: how far a quantity moved against its own scatter from run to run."""
_CHARTS = {"ewma", "step", "shewhart", "cusum"}
_CHARTED: dict[str, Quantity] = {
    "photopeak": "energy",
    "energy_resolution": "resolution",
    "ctr_fit": "width",
    "module_time_offset": "offset",
    "lu_energy_scale": "energy",
    "lu_time_offset": "offset",
    "lu_tdc_scale": "tdc_scale",
    "dark_count_rate": "dark",
}
"""What the quantity of a chart is to the diagnosis; charts of efficiency, tails and randoms say where, and not what."""
_WINDOWS = {
    "coincidence": "coincidence window",
    "energy_low": "lower edge of the energy window",
    "energy_high": "upper edge of the energy window",
}
_NAMES = {"energy": "photopeak", "resolution": "energy resolution", "width": "CTR", "offset": "time offset",
          "dark": "dark count rate", "tdc_scale": "time scale"}  # fmt: skip
_FLAGGED = {Status.WARN, Status.FAIL}
_SHAPED = ("photopeak", "energy_resolution")
_NO_SHAPE = "does not describe"
_SEVERAL = 2
_MANY = 3
_OF_MIXED = frozenset({"width", "side_peak", "resolution"})
"""What hits under a neighbour's name do to single channels."""
_MOST_OF = 0.8
"""A node with this share of dead channels is dead itself. Source: daily-qc.md §3, root-cause logic."""


def single_signs(topology: Topology, run: Run, nodes: Sequence[Place]) -> list[Sign]:
    """All of them; the whole run's first."""
    by_name = {place.node: place for place in nodes}
    columns = {column.id: column for column in run.columns if column.status.size == len(topology)}
    dead = _dead(topology, columns.get("dead_channels"), nodes)
    hot = _marked(topology, columns.get("hot_channels"), "hot")
    return [
        *_of_all(topology, run),
        *dead,
        *rate_signs(topology, run, by_name, hot=hot, has_dead=any(s.place.members.size > 1 for s in dead)),
        *hot,
        *_shapes(topology, run, columns.get("photopeak"), nodes, by_name),
        *_side_peaks(topology, columns.get("time_tails"), nodes),
        *_modules(topology, run, columns.get("module_time_offset"), by_name),
        *_temperatures(run, by_name),
        *_time_scales(run, by_name),
        *clock_signs(topology, run, by_name),
    ]


def chart_signs(topology: Topology, run: Run, nodes: Sequence[Place], known: Sequence[Sign]) -> list[Sign]:
    """What only a control chart sees: inside the absolute limits, and not among the signs that are known already."""
    by_name = {place.node: place for place in nodes}
    signs: list[Sign] = []
    for c in run.checks:
        check, _, chart = c.id.partition(".")
        quantity, place = _CHARTED.get(check), by_name.get(c.node)
        if chart not in _CHARTS or quantity is None or place is None or c.value is None or c.status not in _FLAGGED:
            continue
        if quantity in {"width", "offset"} and (place.level == "scanner" or len(topology.module_nodes) == 2):
            place = compared(topology)
        if any(s.quantity == quantity and s.place.overlap(place) > 0.0 for s in (*known, *signs)):
            continue
        told = f"{_NAMES[quantity]} has moved by {c.value:+.1f} σ of what is usual from run to run ({c.reason})"
        signs.append(Sign(quantity, place, c.value, 1.0, SIGMAS, 0, told))
    return signs


def _flagged(run: Run, check_id: str) -> list[CheckResult]:
    return [c for c in run.checks if c.id == check_id and c.status in _FLAGGED and c.value is not None]


def _of_all(topology: Topology, run: Run) -> list[Sign]:
    place = scanner(topology)
    signs = _windows(place, run)
    lost = next(iter(_flagged(run, "lost_frames")), None)
    if lost is not None and lost.value is not None:
        signs.append(Sign("frames", place, lost.value, 0.0, "%", 0, f"{lost.value:.2f} % of {lost.n} frames were lost"))
    elif (live := next(iter(_flagged(run, "live_time")), None)) is not None and live.value is not None:
        told = f"only {live.value:.1f} % of the time of the run was live"
        signs.append(Sign("frames", place, 100.0 - live.value, 0.0, "%", 0, told))
    for unused in _flagged(run, "unused_hits"):
        told = f"{unused.value:.1f} % of {unused.n} hits were not used, {unused.reason}"
        signs.append(Sign("unused", place, unused.value or 0.0, 0.0, "%", 0, told))
    source = run.find("source_position")
    if source is not None and source.value is not None and source.status not in {Status.PASS, Status.NO_LIMITS}:
        parts = [run.find(f"source_position.{axis}") for axis in "xyz"]
        where = ", ".join(
            f"{axis} {part.value:+.1f}" for axis, part in zip("xyz", parts, strict=True)
            if part is not None and part.value is not None
        )  # fmt: skip
        told = f"the source was found {source.value:.1f} ± {source.uncertainty or 0:.1f} mm off its place ({where} mm)"
        signs.append(Sign("source", place, source.value, source.uncertainty or 0.0, "mm", 0, told))
    return signs


def _windows(place: Place, run: Run) -> list[Sign]:
    """Settings that are others than those of the baseline, the one that differs most first."""
    found = []
    for c in run.checks:
        low, high = c.limits.warn_low, c.limits.warn_high
        if not c.id.startswith("windows.") or c.status not in _FLAGGED:
            continue
        if c.value is not None and low is not None and high is not None:
            usual = 0.5 * (low + high)
            name = _WINDOWS[c.id.partition(".")[2]]
            found.append(
                (100.0 * (c.value - usual) / usual, f"{name} {c.value:g} {c.unit} instead of {usual:g} {c.unit}")
            )
    if not found:
        return []
    found.sort(key=lambda one: -abs(one[0]))
    return [Sign("window", place, found[0][0], 0.0, "%", 0, "; ".join(told for _, told in found))]


def _dead(topology: Topology, column: ChannelColumn | None, nodes: Sequence[Place]) -> list[Sign]:
    if column is None:
        return []
    dead: NDArray[np.bool_] = column.status.astype(str) == str(Status.FAIL)
    signs = []
    for place in sorted(nodes, key=lambda p: -p.members.size):
        share = float(dead[place.members].mean())
        if place.level != "scanner" and share >= _MOST_OF:
            told = f"{int(dead[place.members].sum())} of its {place.members.size} channels are silent"
            signs.append(Sign("dead", place, -100.0, 0.0, "%", place.members.size, told))
            dead = dead.copy()
            dead[place.members] = False
    for i in np.flatnonzero(dead):
        told = str(column.reason[i]) or "no counts"
        signs.append(Sign("dead", channel(topology, int(i)), -100.0, 0.0, "%", 1, told))
    return signs


def _marked(topology: Topology, column: ChannelColumn | None, quantity: str) -> list[Sign]:
    if column is None:
        return []
    out = np.flatnonzero(np.isin(column.status.astype(str), [str(s) for s in _FLAGGED]))
    order = out[np.argsort(-column.value[out], kind="stable")]
    return [
        Sign(
            quantity, channel(topology, int(i)), float(column.value[i]), float(column.uncertainty[i]), column.unit, 1,  # type: ignore[arg-type]
            str(column.reason[i]),
        )
        for i in order
    ]  # fmt: skip


def _shapes(
    topology: Topology, run: Run, column: ChannelColumn | None, nodes: Sequence[Place], by_name: dict[str, Place]
) -> list[Sign]:
    """ASICs with enough counts whose summed spectrum is no photopeak any more; single channels of which this is so.

    Several channels of one ASIC are the ASIC's, unless they are all of one bias output: names that leak go to
    neighbours, whatever feeds them.
    """
    found = {}
    for c in run.checks:
        place = by_name.get(c.node)
        is_other = c.status is Status.INVALID and c.value is None and _NO_SHAPE in (c.reason or "")
        if place is not None and place.level == "asic" and c.id in _SHAPED and is_other:
            found[c.node] = Sign("shape", place, 1.0, 0.0, "", 0, f"its spectrum has another shape: {c.reason}")
    if column is None:
        return list(found.values())
    is_flagged = np.isin(column.status.astype(str), [str(s) for s in _FLAGGED])
    other = np.isnan(column.value) & is_flagged
    signs: list[Sign] = []
    for output in _outputs(topology, other | (column.status.astype(str) == str(Status.FAIL)), nodes):
        inside = int(other[output.members].sum())
        other[output.members] = False
        modules = np.unique(topology.module[output.members])
        # Two gains in one sum are no photopeak, and gammas that scatter on are added up from both.
        for node, s in list(found.items()):
            if np.isin(topology.module[s.place.members], modules).all() and not other[s.place.members].any():
                del found[node]
        if inside:
            told = f"{inside} of its {output.members.size} channels have spectra of another shape, others are far off"
            signs.append(Sign("shape", output, 1.0, 0.0, "", inside, told))
    single = []
    for i in np.flatnonzero(other):
        told = f"it has counts enough, and not the shape of a photopeak: {column.reason[i]}"
        single.append(Sign("shape", channel(topology, int(i)), 1.0, 0.0, "", 1, told))
    for place in (p for p in nodes if p.level == "asic"):
        mine = [s for s in single if place.overlap(s.place) > 0.0]
        if len(mine) >= _MANY or (mine and place.node in found):
            told = f"{len(mine)} of its channels have spectra of another shape"
            found.setdefault(place.node, Sign("shape", place, 1.0, 0.0, "", len(mine), told))
            single = [s for s in single if s not in mine]
    return [*signs, *found.values(), *single]


def _outputs(topology: Topology, out: NDArray[np.bool_], nodes: Sequence[Place]) -> list[Place]:
    """Bias outputs nearly all of whose channels are far off or without a photopeak, and hardly any other around them.

    Names that leak go to neighbours, whatever feeds these. An output that is all of its ASICs is told by them.
    """
    found = []
    for place in nodes:
        if place.level != "bias" or out[place.members].mean() < _MOST_OF:
            continue
        around = np.isin(topology.asic, np.unique(topology.asic[place.members]))
        mine = int(out[place.members].sum())
        if place.members.size < int(around.sum()) and mine >= max(_MOST_OF * int(out[around].sum()), _MANY):
            found.append(place)
    return found


def _side_peaks(topology: Topology, column: ChannelColumn | None, nodes: Sequence[Place]) -> list[Sign]:
    """Channels with a side peak; several of one ASIC are the ASIC's, as one bad buffer is one channel's."""
    single = _marked(topology, column, "side_peak")
    found = []
    for place in nodes:
        mine = [s for s in single if place.level == "asic" and place.overlap(s.place) > 0.0]
        if len(mine) >= _SEVERAL:
            told = f"{len(mine)} of its channels have side peaks: {mine[0].told}"
            found.append(Sign("side_peak", place, float(len(mine)), 0.0, "channels", len(mine), told))
            single = [s for s in single if s not in mine]
    return [*found, *single]


def mixed(signs: Sequence[Sign], nodes: Sequence[Place]) -> list[Sign]:
    """Several channels of one ASIC that are wide one by one are the ASIC's: each has times of more than one channel.

    Channels that something else is the matter with are left as they are.
    """
    found = list(signs)
    for place in nodes:
        inside = [s for s in found if place.level == "asic" and np.isin(s.place.members, place.members).all()]
        others = [s for s in inside if s.quantity not in _OF_MIXED and s.place is not place]
        wide = [
            s for s in inside
            if s.quantity == "width" and s.value > 0.0 and s.place.level in {"channel", "patch"}
            and not any(s.place.overlap(o.place) > 0.0 for o in others)
        ]  # fmt: skip
        wide.sort(key=lambda s: -s.value)
        count = sum(s.place.members.size for s in wide)
        if count < _MANY:
            continue
        peaks = [s for s in inside if s.quantity == "side_peak"]
        lone = [s for s in peaks if s.place.level == "channel"]
        told = f"{count} of its channels are too wide in time, each by itself, the worst by {wide[0].value:.0f} %"
        told += f", and one has a {lone[0].told}" if lone else ""
        gone = {id(s) for s in (*wide, *lone)}
        found = [s for s in found if id(s) not in gone]
        found.append(Sign("mixed", place, float(count), 0.0, "channels", count, told))
    return found


def _modules(topology: Topology, run: Run, column: ChannelColumn | None, by_name: dict[str, Place]) -> list[Sign]:
    """Modules that are early or late, by their median channel. Of two, only their difference is known."""
    of_modules = {c.node: c for c in run.checks if c.id == "module_time_offset" and c.node in topology.module_nodes}
    at: dict[str, float] = {node: c.value for node, c in of_modules.items() if c.value is not None}
    if not any(of_modules[node].status in _FLAGGED for node in at):
        return []
    # The mean of a module moves with one late ASIC; its median channel does not.
    for module, middle in ({} if column is None else module_medians(topology, column)).items():
        node = topology.module_nodes[module]
        if node in at:
            at[node] += middle
    if len(topology.module_nodes) == 2:
        first, second = (at.get(node, 0.0) for node in topology.module_nodes)
        one = of_modules[next(iter(at))]
        if abs(second - first) <= 2.0 * _warn(one):
            return []
        told = f"the two modules are {second - first:+.0f} ps out of step; which of them moved, two cannot tell"
        place = compared(topology)
        return [Sign("offset", place, abs(second - first), 2.0 * (one.uncertainty or 0.0), "ps", 0, told)]
    # One module that is late makes the mean of all, and so every other, early: against the median the others stay.
    middle = float(np.median(list(at.values())))
    signs = []
    for node in sorted(at, key=lambda n: -abs(at[n] - middle)):
        off, error = at[node] - middle, of_modules[node].uncertainty or 0.0
        if node in by_name and abs(off) > _warn(of_modules[node]):
            told = f"time offset {off:+.0f} ± {error:.1f} ps against the median module"
            signs.append(Sign("offset", by_name[node], off, error, "ps", by_name[node].members.size, told))
    return signs


def _warn(result: CheckResult) -> float:
    return max(abs(v) for v in (result.limits.warn_low, result.limits.warn_high, 0.0) if v is not None)


def _temperatures(run: Run, by_name: dict[str, Place]) -> list[Sign]:
    signs = []
    for c in _flagged(run, "temperature"):
        low, high = c.limits.warn_low, c.limits.warn_high
        if c.node in by_name and c.value is not None and low is not None and high is not None:
            off = c.value - 0.5 * (low + high)
            told = f"{c.value:.1f} °C at the SiPMs, {off:+.1f} K from what it should be"
            signs.append(Sign("temperature", by_name[c.node], off, 0.0, "K", 0, told))
    return sorted(signs, key=lambda s: -abs(s.value))


def _time_scales(run: Run, by_name: dict[str, Place]) -> list[Sign]:
    """Modules whose picoseconds are not picoseconds; pairs share the error, so the one that is off most comes alone."""
    off = [c for c in _flagged(run, "lu_tdc_scale") if c.node in by_name and by_name[c.node].level == "module"]
    if not off:
        return []
    worst = max(off, key=lambda c: abs((c.value or 100.0) - 100.0))
    change, error = (worst.value or 100.0) - 100.0, worst.uncertainty or 0.0
    told = f"flight times are measured {change:+.2f} ± {error:.2f} % from what light needs"
    return [Sign("tdc_scale", by_name[worst.node], change, error, "%", by_name[worst.node].members.size, told)]
