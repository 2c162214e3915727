"""What every check can rely on, whatever it looks at: places, limits, and how a number is held against them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER, channel_node
from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqc.statistics import channel_sigmas, family_sigmas, robust_spread

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.checks import CheckOutput, Level
    from petqc.qc_input import RunContext
    from petqc.results import EnvironmentReading
    from petqc.siblings import Siblings

SCANNER_SIGMAS = 3.0
"""Warn limits of nodes (scanner, modules, ASICs) are never tighter than this many standard deviations, so that a short
run does not raise an alarm of noise; where there are many of a level, as many as keep all of them together quiet."""
FAIL_SIGMAS = 5.0
"""The same for fail limits: what keeps patients waiting must not be chance."""
_LEAST_SHARE = 0.5
"""A module's median is given where so many of its channels have a value."""
_MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for Gaussian spread."""

SIPM_TEMPERATURE = "temperature_sipm"
ASIC_TEMPERATURE = "temperature_asic"
"""Names of the readings of sensors at the SiPMs and at the ASICs; their nodes are ASICs."""
INSTRUMENT_ANSWERS = "instrument_answers"
"""Name of the reading that every configured instrument has: 1 while it answers, with the reason where it does not."""
CLOCK_LOCKS = ("clock_locked", "clock_reference")
"""Names of the readings that are 1 where a timing board is locked, and where a counter has its 10 MHz reference."""
_OF_LYSO = frozenset({"photopeak", "energy_resolution", "ctr_fit", "ctr_nema", "module_time_offset"})


@dataclass(frozen=True, slots=True)
class Node:
    """One place of the hardware tree: its level, its name, and the positions of its channels in the topology."""

    level: Level
    name: str
    members: NDArray[np.int64]


class CheckInput(ABC):
    """Base of what checks are handed; says what there is to look at."""

    __slots__ = ()
    context: RunContext

    @property
    @abstractmethod
    def topology(self) -> Topology:
        """The channels and the places they belong to."""

    @property
    def is_calibrated(self) -> bool:
        """Whether values have the units that default limits and published values are for."""
        return True

    def nodes(self, *levels: Level) -> Iterator[Node]:
        """The nodes of the given levels, scanner first."""
        topology = self.topology
        if "scanner" in levels:
            yield Node("scanner", SCANNER, np.arange(len(topology)))
        places: tuple[tuple[Level, tuple[str, ...], NDArray[np.int32]], ...] = (
            ("module", topology.module_nodes, topology.module),
            ("asic", topology.asic_nodes, topology.asic),
            ("bias", topology.bias_nodes, topology.bias),
        )
        for level, names, place in places:
            if level in levels:
                order = np.argsort(place, kind="stable")  # once for all: there may be ten thousand nodes
                first = np.searchsorted(place[order], np.arange(len(names) + 1))
                for i, name in enumerate(names):
                    yield Node(level, name, order[first[i] : first[i + 1]])

    def read(self, name: str) -> dict[str, EnvironmentReading]:
        """Readings of a name taken with the run, by node, whatever their quality."""
        return {r.node: r for r in self.context.environment if r.name == name}

    def intervals(self, check_id: str, known: Collection[str], *, warn_ps: float, method: str) -> list[CheckResult]:
        """Mean intervals that an instrument read for pairs of places, in ps, each against its baseline.

        Without a baseline a pair has no limits: cables differ. A pair with a place that is not known is left out.

        Args:
            check_id: the check, and the name of the readings; `NAME_uncertainty` and `NAME_pairs` stand beside them.
            known: nodes that may be members of a pair.
            warn_ps: warn limits, so far to both sides of the baseline.
            method: how it was measured.
        """
        errors, counts = self.read(f"{check_id}_uncertainty"), self.read(f"{check_id}_pairs")
        results = []
        for node, r in self.read(check_id).items():
            if not set(node.split(" - ")) <= set(known):
                continue
            where: tuple[Level, str] = ("pair", node)
            if r.value is None or r.quality != "good":
                why = r.reason or f"the reading is {r.quality}"
                results.append(self.missing(check_id, where, "ps", 0, why, needed=False))
                continue
            error, n = (found.get(node) for found in (errors, counts))
            _, baseline = self.limits(check_id, *where)
            limits = Limits() if baseline is None else Limits(warn_low=baseline - warn_ps, warn_high=baseline + warn_ps)
            results.append(
                self.judge(
                    check_id, where, r.value, "ps", 0.0 if error is None or error.value is None else error.value,
                    0 if n is None or n.value is None else n.value, limits=limits, method=method,
                )
            )  # fmt: skip
        return results

    def sipm_temperatures(self) -> dict[str, list[tuple[str, float]]]:
        """Good readings of sensors at the SiPMs, by module: names of the ASICs they sit at, and degrees Celsius."""
        return self.temperatures(SIPM_TEMPERATURE)

    def temperatures(self, name: str) -> dict[str, list[tuple[str, float]]]:
        """The same of the readings of a name."""
        read = {
            r.node: r.value
            for r in self.context.environment
            if r.name == name and r.measured and r.quality == "good" and r.value is not None
        }
        topology = self.topology
        sensors: dict[str, list[tuple[str, float]]] = {}
        parents = zip(topology.asic, topology.module, strict=True)
        for asic, of in sorted({(int(a), int(m)) for a, m in parents}):
            name = topology.asic_nodes[asic]
            if name in read:
                sensors.setdefault(topology.module_nodes[of], []).append((name, read[name]))
        return sensors

    def limits(
        self, check_id: str, level: Level, node: str, anchor: float | None = None
    ) -> tuple[Limits, float | None]:
        """Limits of a check at a node as configured, and the node's baseline.

        anchor: what they are relative to where there is no baseline; default: the published value.
        """
        from petqc.checks import get_check

        baseline = self.context.baselines.get(check_id, {}).get(node)
        of_scanner = self.context.reference.limits if self.context.reference is not None else {}
        override = {
            side: value
            for limits in (of_scanner, self.context.limits)
            for key in (check_id, f"{check_id}.{level}")
            for side, value in limits.get(key, {}).items()
        }
        check = get_check(check_id)
        if not self.is_calibrated and check_id in _OF_LYSO:
            # Times and energies as recorded: the limits are those of calibrated LYSO scanners.
            check = replace(check, limits={})
        if anchor is None:
            anchor = self.published(check_id, level)
        return check.limits_at(level, anchor if baseline is None else baseline, override), baseline

    def published(self, check_id: str, level: Level) -> float | None:
        """What this kind of scanner is published to have, which stands in for a baseline until there is one."""
        reference = self.context.reference
        return reference.published(check_id, level) if reference is not None and self.is_calibrated else None

    def node_sigmas(self, level: Level) -> float:
        """Standard deviations that one node of a level may be off by noise: 560 ASICs at 3 would warn every day.

        Source: daily-qc.md §0.5 (1 % a day for all of a family together).
        """
        topology = self.topology
        modules = len(topology.module_nodes)
        n = {
            "module": modules,
            "pair": modules * (modules - 1) // 2,
            "asic": len(topology.asic_nodes),
            "bias": len(topology.bias_nodes),
        }.get(level, 1)
        return max(SCANNER_SIGMAS, family_sigmas(n))

    def judge(
        self,
        check_id: str,
        node: Node | tuple[Level, str],
        value: float,
        unit: str,
        uncertainty: float,
        n: float,
        *,
        limits: Limits | None = None,
        centre: float | None = None,
        method: str | None = None,
        reason: str | None = None,
        part: str = "",
        siblings: Siblings | None = None,
        noise: float = 0.0,
        spread: float = 0.0,
    ) -> CheckResult:
        """A measured value against its limits.

        Limits are never tighter than the noise around `centre` (see `widened`), that of the value and, against a
        baseline, that of the baseline: what was used stands in the result.

        Args:
            check_id: the check.
            node: where; or level and name.
            value: the number.
            unit: its unit.
            uncertainty: one standard deviation.
            n: counts behind it.
            limits: instead of the check's own.
            centre: what a good node has; default: the baseline, or the middle between the warn limits.
            method: how it was measured.
            reason: a remark.
            part: name of a secondary number of the check, becomes `id.part`.
            siblings: the nodes of its level: without a baseline, a node is compared with them.
            noise: one standard deviation that limits are widened by if the uncertainty is smaller.
            spread: one standard deviation of good nodes around `centre` where there is no baseline. It adds to the
                uncertainty, as far as the warn limits would allow for it alone: a difference that is no fault is not
                called one for the noise on top of it.
        """
        level, name = (node.level, node.name) if isinstance(node, Node) else node
        found, baseline = self.limits(check_id, level, name, None if siblings is None else siblings.median)
        if part:
            baseline = None
        noise = max(uncertainty, noise)
        if siblings is not None and baseline is None:
            centre = siblings.median if centre is None else centre
            noise = max(noise, siblings.spread)
        if limits is not None:
            override = self.context.limits.get(f"{check_id}.{part}" if part else f"{check_id}.{level}", {})
            found = replace(limits, **override) if override else limits
        if centre is None:
            centre = baseline if baseline is not None or part else self.published(check_id, level)
            if baseline is not None:
                noise = math.hypot(noise, self.context.baseline_errors.get(check_id, {}).get(name, 0.0))
        sigmas = self.node_sigmas(level)
        if spread > 0.0 and baseline is None and found.warn_low is not None and found.warn_high is not None:
            noise = max(noise, math.hypot(uncertainty, min(spread, 0.5 * (found.warn_high - found.warn_low) / sigmas)))
        used = widened(found, noise, centre, sigmas)
        full_id = f"{check_id}.{part}" if part else check_id
        result = CheckResult.measured(
            full_id, name, value, unit, uncertainty, int(n), used, method=method, reason=reason
        )
        return replace(result, baseline=baseline) if baseline is not None else result

    def missing(
        self,
        check_id: str,
        node: Node | tuple[Level, str],
        unit: str,
        n: float,
        reason: str,
        *,
        method: str | None = None,
        needed: bool = True,
    ) -> CheckResult:
        """No number and why; needed False: the run is not invalid for it."""
        level, name = (node.level, node.name) if isinstance(node, Node) else node
        found, baseline = self.limits(check_id, level, name)
        result = CheckResult.missing(check_id, name, unit, int(n), found, reason, method=method)
        return replace(result, baseline=baseline, status=Status.INVALID if needed else Status.NO_LIMITS)

    def medians_of(
        self,
        check_id: str,
        unit: str,
        value: NDArray[np.float64],
        counts: NDArray[np.int64],
        reason: NDArray[np.object_],
        *,
        common: float = 0.0,
        method: str | None = None,
    ) -> list[CheckResult]:
        """Median of the channels of the scanner and of each module, held against the limits of a check.

        Args:
            check_id: the check.
            unit: of the values.
            value: (n,) values, NaN where there is none.
            counts: (n,) what is behind them.
            reason: (n,) why a channel has none; "" where it has.
            common: relative error that all channels share.
            method: how they were measured.
        """
        results = []
        for node in self.nodes("scanner", "module"):
            mine = value[node.members]
            mine = mine[np.isfinite(mine)]
            n = int(counts[node.members].sum())
            if mine.size < max(_LEAST_SHARE * node.members.size, 1):
                why = f"{mine.size} of {node.members.size} channels have a number{_most_common(reason[node.members])}"
                results.append(self.missing(check_id, node, unit, n, why, needed=node.level != "scanner"))
                continue
            median = float(np.median(mine))
            spread = robust_spread(mine)
            error = math.hypot(_MEDIAN_ERROR * spread / math.sqrt(mine.size), common * median)
            results.append(self.judge(check_id, node, median, unit, error, n, method=method))
        return results

    def not_applicable(self, check_id: str, unit: str, reason: str) -> CheckOutput:
        """The output of a check that this kind of scanner has nothing for: no number, no limits, the reason."""
        from petqc.checks import CheckOutput

        told = f"not applicable: {reason}"
        return CheckOutput([self.missing(check_id, ("scanner", SCANNER), unit, 0, told, needed=False)])

    def channel_status(
        self,
        check_id: str,
        value: NDArray[np.float64],
        uncertainty: NDArray[np.float64],
        centre: float | NDArray[np.float64],
    ) -> NDArray[np.object_]:
        """Status of every channel: outside its limits, and further from the centre than noise can bring it.

        Args:
            check_id: the check whose channel limits (deviations from the centre) hold.
            value: (n,) values.
            uncertainty: (n,) standard deviations.
            centre: what a good channel has.

        Source: daily-qc.md §0.5 and §5.2 (5 sigma for crystals).
        """
        limits, _ = self.limits(check_id, "channel", "")
        status = np.full(value.size, str(Status.INVALID), dtype=object)
        known = np.isfinite(value)
        off = np.where(known, value - centre, 0.0)
        noise = channel_sigmas(int(known.sum())) * np.where(known, uncertainty, 0.0)
        status[known] = str(Status.PASS)
        for kind, low, high in (
            (Status.WARN, limits.warn_low, limits.warn_high),
            (Status.FAIL, limits.fail_low, limits.fail_high),
        ):
            if low is not None:
                status[known & (off < np.minimum(low, -noise))] = str(kind)
            if high is not None:
                status[known & (off > np.maximum(high, noise))] = str(kind)
        return status

    def channels_outside(self, check_id: str, status: NDArray[np.object_], told: str | None = None) -> CheckResult:
        """How many channels are outside their limits, judged like dead ones; no number where none could be measured.

        Args:
            check_id: the check.
            status: (n,) of every channel.
            told: what is said of those outside; default: their names.

        Source: daily-qc.md §5.2.
        """
        topology = self.topology
        flagged = np.flatnonzero((status == str(Status.WARN)) | (status == str(Status.FAIL)))
        measured = int((status != str(Status.INVALID)).sum())
        limits = Limits(warn_high=0.002 * len(topology), fail_high=0.01 * len(topology))
        if not measured:
            full_id = f"{check_id}.channels_outside"
            none = CheckResult.missing(full_id, SCANNER, "channels", 0, limits, "no channel has a number")
            return replace(none, status=Status.NO_LIMITS)  # why there is none is what the check itself says
        if flagged.size and told is None:
            names = ", ".join(channel_name(int(topology.channels[i])) for i in flagged[:5])
            told = names + (f" and {flagged.size - 5} more" if flagged.size > 5 else "")
        return self.judge(
            check_id, ("scanner", SCANNER), float(flagged.size), "channels", 0.0, measured,
            limits=limits, reason=told, part="channels_outside",
        )  # fmt: skip


def widened(limits: Limits, sigma: float, centre: float | None = None, sigmas: float = SCANNER_SIGMAS) -> Limits:
    """Limits that the value's own noise does not cross.

    Warn limits are at least `sigmas` standard deviations from the centre, fail limits FAIL_SIGMAS; one-sided limits
    without a centre stay as they are.
    """
    if sigma <= 0.0:
        return limits
    if centre is None:
        low, high = limits.warn_low, limits.warn_high
        if low is None or high is None:
            low, high = limits.fail_low, limits.fail_high
        if low is None or high is None:
            return limits
        centre = 0.5 * (low + high)
    warn, fail = sigmas * sigma, max(sigmas, FAIL_SIGMAS) * sigma
    return Limits(
        None if limits.fail_low is None else min(limits.fail_low, centre - fail),
        None if limits.warn_low is None else min(limits.warn_low, centre - warn),
        None if limits.warn_high is None else max(limits.warn_high, centre + warn),
        None if limits.fail_high is None else max(limits.fail_high, centre + fail),
    )


def _most_common(reason: NDArray[np.object_]) -> str:
    reasons = [r for r in reason if r]
    return f": {max(sorted(set(reasons)), key=reasons.count)}" if reasons else ""


def channel_name(absolute: int) -> str:
    """A channel as people say it."""
    return channel_node(absolute).replace(":", " ")
