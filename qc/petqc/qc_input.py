"""What a check may look at: the histograms, the context of the run, and fits that several checks share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from petqc.channel_map import SCANNER
from petqc.errors import QcError, TooFewCountsError
from petqc.fits import PeakFit, fit_time_peak
from petqc.fits.energy_fits import ANNIHILATION_KEV, LYSO_RANGE, Refusal, bulk, find_tail, fit_energy
from petqc.fits.kernels import EDGE
from petqc.fits.offset_fits import TimeOffsets, solve_run
from petqc.fits.peaks import TwoHumps, find_peaks, two_humps
from petqc.fits.photopeaks import (
    LU_EDGE_RATIO,
    PLAIN,
    PeakFits,
    PeakShape,
    fit_lines,
    fit_photopeaks,
)
from petqc.fits.source_place import MOST_LINES, SourcePlace, find_source
from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqc.statistics import channel_sigmas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from petqc.checks import CheckOutput, Level
    from petqc.histograms import QcHistograms
    from petqc.lutetium.fits import LutetiumFits
    from petqc.results import EnvironmentReading, RawFile
    from petqc.scanners import Scanner

SourceShape = Literal["point", "line", "extended", "none"]

SCANNER_SIGMAS = 3.0
"""Warn limits of nodes that stand alone (scanner, modules, ASICs) are never tighter than this many standard deviations,
so that a short run does not raise an alarm of noise."""
FAIL_SIGMAS = 5.0
"""The same for fail limits: what keeps patients waiting must not be chance."""

_OF_LYSO = frozenset({"photopeak", "energy_resolution", "ctr_fit", "ctr_nema", "module_time_offset"})


@dataclass(frozen=True, slots=True)
class RunContext:
    """Everything about a run that is not counted events.

    started_at, finished_at: RFC 3339. limits: overrides, by check id or `id.level` (`photopeak.module`), of single
    sides of the limits. baselines: reference values by check id and node. account: counters of processing and
    receiving (`frames`, `frames_lost`, `datagrams_rejected`, …). elapsed_s and live_time_s: duration of the recording
    and the part of it that was live; None if nobody knows. source: shape of the radioactive source; CTR is only a CTR
    for a point or a line. source_mm: where its middle is meant to be; None: nobody said. reference: what kind of
    scanner it is and what is published about it, if known. crystal_material: name in petqc.lutetium.crystals;
    crystal_mm: two sides of a crystal and its length; empty and None: not known. has_singles False: only coincidences
    were recorded. has_energies False: only times were. has_pair_search False: there was nothing to pair. Checks that
    need what is missing do not apply.
    coincident_modules: those between which coincidences were looked for, if not all. expected_channels False: the
    channels are those that were seen, so that a silent one cannot be told from one that does not exist.
    """

    run_id: str
    kind: str = "daily"
    scanner: str = ""
    started_at: str = ""
    finished_at: str = ""
    simulated: bool = False
    software: Mapping[str, str] = field(default_factory=dict)
    config_hash: str = ""
    calibration_ids: Mapping[str, str] = field(default_factory=dict)
    raw_files: tuple[RawFile, ...] = ()
    environment: tuple[EnvironmentReading, ...] = ()
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    account: Mapping[str, int | float] = field(default_factory=dict)
    elapsed_s: float | None = None
    live_time_s: float | None = None
    source: SourceShape = "point"
    source_mm: tuple[float, float, float] | None = None
    reference: Scanner | None = None
    crystal_material: str = ""
    crystal_mm: tuple[float, float, float] | None = None
    has_singles: bool = True
    has_energies: bool = True
    has_pair_search: bool = True
    coincident_modules: tuple[str, ...] = ()
    expected_channels: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One place of the hardware tree: its level, its name, and the positions of its channels in the topology."""

    level: Level
    name: str
    members: NDArray[np.int64]


@dataclass(slots=True)
class QcInput:
    """Histograms and context, handed to every check; fits are made once and shared."""

    histograms: QcHistograms
    context: RunContext
    _energy: dict[str, PeakFit | Refusal] = field(default_factory=dict)
    _lines: dict[str, list[PeakFit]] = field(default_factory=dict)
    _humps: dict[str, TwoHumps | None] = field(default_factory=dict)
    by_tail: dict[str, tuple[float, float]] = field(default_factory=dict)
    _times: dict[int, PeakFit | Refusal] = field(default_factory=dict)
    _offsets: TimeOffsets | Refusal | None = None
    _channels: PeakFits | None = None
    _tail: tuple[float, float, float] | None = None
    _place: SourcePlace | None = None
    lutetium: LutetiumFits | None = None

    @property
    def is_kev(self) -> bool:
        """Whether energies are calibrated."""
        return self.histograms.energy_unit == "kev"

    @property
    def without_tof(self) -> str:
        """Why times of flight do not apply to this scanner; empty if they do."""
        reference = self.context.reference
        return "" if reference is None or reference.is_tof else f"{reference.name} does not use time of flight"

    @property
    def energy_unit(self) -> str:
        """Unit of energies as people write it."""
        return {"kev": "keV", "ns": "ns", "clock": "clk", "arbitrary": "a.u."}[self.histograms.energy_unit]

    @property
    def live_time_s(self) -> float | None:
        """Live time if it is known and not zero."""
        live = self.context.live_time_s
        return live if live is not None and live > 0 else None

    def nodes(self, *levels: Level) -> Iterator[Node]:
        """The nodes of the given levels, scanner first."""
        topology = self.histograms.topology
        if "scanner" in levels:
            yield Node("scanner", SCANNER, np.arange(len(topology)))
        if "module" in levels:
            for i, name in enumerate(topology.module_nodes):
                yield Node("module", name, np.flatnonzero(topology.module == i))
        if "asic" in levels:
            for i, name in enumerate(topology.asic_nodes):
                yield Node("asic", name, np.flatnonzero(topology.asic == i))
        if "bias" in levels:
            for i, name in enumerate(topology.bias_nodes):
                yield Node("bias", name, np.flatnonzero(topology.bias == i))

    def spectrum(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Energy spectrum of some channels together, (n bins,)."""
        summed: NDArray[np.float64] = self.histograms.energy_counts[members].sum(axis=0, dtype=np.float64)
        return summed

    def energy_fit(self, node: Node) -> PeakFit | Refusal:
        """Photopeak of a node's summed spectrum."""
        if node.name not in self._energy:
            self._energy[node.name] = fit_energy(self, node)
        return self._energy[node.name]

    def humps(self, node: Node) -> TwoHumps | None:
        """Two peaks where one photopeak is expected, if the node's spectrum has them."""
        if node.name not in self._humps:
            edges, counts = self.histograms.energy_edges, self.spectrum(node.members)
            low, high = (
                (0.6 * ANNIHILATION_KEV, 1.5 * ANNIHILATION_KEV)
                if self.is_kev
                else bulk(self.histograms.energy_edges, counts)
            )
            try:
                # One channel has one gain: a second hump there is Compton scatter or another line.
                several = node.members.size > 1
                self._humps[node.name] = two_humps(edges, counts, low, high) if several else None
            except QcError:
                self._humps[node.name] = None
        return self._humps[node.name]

    def lines(self, node: Node) -> list[PeakFit]:
        """Every line of a spectrum in a unit of its own, the most significant first."""
        if node.name not in self._lines:
            self._lines[node.name] = fit_lines(self.histograms.energy_edges, self.spectrum(node.members))
        return self._lines[node.name]

    def channel_fits(self) -> PeakFits:
        """Photopeak of every channel; it is looked for around its module's peak."""
        if self._channels is None:
            h = self.histograms
            n = len(h.topology)
            centre = np.full(n, ANNIHILATION_KEV if self.is_kev else math.nan)
            sigma, edge = centre * 0.05, np.zeros(n)
            by_tail = np.zeros((n, 2))
            for node in self.nodes("module"):
                fit = self.energy_fit(node)
                if isinstance(fit, PeakFit):
                    # The sum of many channels is wider than one, but as a width to look for it will do.
                    centre[node.members], sigma[node.members] = fit.mu, fit.sigma
                    live = max(int((h.singles[node.members] > 0).sum()), 1)
                    edge[node.members] = float(fit.parameters[EDGE]) / live
                    by_tail[node.members] = self.by_tail.get(node.name, (0.0, 0.0))
                elif not self.is_kev:
                    peaks = find_peaks(h.energy_edges, self.spectrum(node.members))
                    if peaks:
                        centre[node.members], sigma[node.members] = peaks[0].position, peaks[0].sigma
            middle = 0.5 * float(h.energy_edges[-1])
            centre, sigma = np.nan_to_num(centre, nan=middle), np.nan_to_num(sigma, nan=0.05 * middle)
            tail, _, missing = self.energy_tail()
            shape = PeakShape(missing, tail, LU_EDGE_RATIO, 0.0) if self.is_kev else PLAIN
            fits = fit_photopeaks(
                h.energy_edges,
                h.energy_counts,
                centre,
                sigma,
                shape=shape,
                tail=np.full(n, tail),
                edge=edge,
                relative_range=LYSO_RANGE if self.is_kev else (0.75, 1.25),
            )
            self._channels = replace(
                fits,
                mu_error=np.hypot(fits.mu_error, by_tail[:, 0]),
                fwhm_error=np.hypot(fits.fwhm_error, by_tail[:, 1]),
            )
        return self._channels

    def energy_tail(self) -> tuple[float, float, float]:
        """Share of full-energy events that lack light below the hit threshold, its error, and that threshold.

        A gamma that scatters leaves part of its energy next door; what stays below the threshold there is missing from
        the sum. The threshold is where the spectrum begins; the share is fitted to the summed spectrum of each module
        and averaged, since a single module, ASIC or channel has not the counts to tell it from a shift of the peak.
        """
        if self._tail is None:
            self._tail = find_tail(self)
        return self._tail

    def time_fit(self, pair: int) -> PeakFit | Refusal:
        """Coincidence peak of a pair of modules, or of all pairs together (-1)."""
        if pair not in self._times:
            edges, counts = self.time_spectrum(pair)
            try:
                self._times[pair] = fit_time_peak(edges, counts)
            except QcError as error:
                self._times[pair] = Refusal(str(error), int(counts.sum()))
        return self._times[pair]

    def source_place(self) -> SourcePlace:
        """Where the source is, from the lines of coincidences.

        Raises:
            TooFewCountsError: too few lines, lines that do not cross, or no map of the crystals.
        """
        if self._place is None:
            xyz = self.histograms.topology.xyz_mm.astype(np.float64)
            if not np.isfinite(xyz).all():
                raise TooFewCountsError("there is no map that says where the crystals are")
            a, b, _ = self.histograms.pairs()
            self._place = find_source(xyz, a, b, step=max(1, a.size // MOST_LINES))
        return self._place

    def time_offsets(self) -> TimeOffsets | Refusal:
        """Offsets of all channels, and what they leave of each kept pair."""
        if self._offsets is None:
            self._offsets = solve_run(self)
        return self._offsets

    def time_spectrum(self, pair: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges and counts of prompt time differences, only the bins that lie wholly inside the window."""
        h = self.histograms
        counts = h.tof_prompt.sum(axis=0, dtype=np.int64) if pair < 0 else h.tof_prompt[pair]
        half = 0.5 * h.settings.coincidence_window_ps
        inside = np.flatnonzero((h.tof_edges[:-1] >= -half - 0.5) & (h.tof_edges[1:] <= half + 0.5))
        return h.tof_edges[inside[0] : inside[-1] + 2], counts[inside].astype(np.float64)

    def limits(self, check_id: str, level: Level, node: str) -> tuple[Limits, float | None]:
        """Limits of a check at a node as configured, and the node's baseline."""
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
        if not self.is_kev and check_id in _OF_LYSO:
            # Times and energies as recorded: the limits are those of calibrated LYSO scanners.
            check = replace(check, limits={})
        anchor = self.published(check_id, level) if baseline is None else baseline
        return check.limits_at(level, anchor, override), baseline

    def published(self, check_id: str, level: Level) -> float | None:
        """What this kind of scanner is published to have, which stands in for a baseline until there is one."""
        reference = self.context.reference
        return reference.published(check_id, level) if reference is not None and self.is_kev else None

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
        sigmas: float = SCANNER_SIGMAS,
        method: str | None = None,
        reason: str | None = None,
        part: str = "",
    ) -> CheckResult:
        """A measured value against its limits.

        Limits are never tighter than the value's noise around `centre` (see `widened`): what was used stands in the
        result.

        Args:
            check_id: the check.
            node: where; or level and name.
            value: the number.
            unit: its unit.
            uncertainty: one standard deviation.
            n: counts behind it.
            limits: instead of the check's own.
            centre: what a good node has; default: the baseline, or the middle between the warn limits.
            sigmas: least distance of warn limits from the centre.
            method: how it was measured.
            reason: a remark.
            part: name of a secondary number of the check, becomes `id.part`.
        """
        level, name = (node.level, node.name) if isinstance(node, Node) else node
        found, baseline = self.limits(check_id, level, name)
        if part:
            baseline = None
        if limits is not None:
            override = self.context.limits.get(f"{check_id}.{part}" if part else f"{check_id}.{level}", {})
            found = replace(limits, **override) if override else limits
        if centre is None:
            centre = baseline if baseline is not None or part else self.published(check_id, level)
        used = widened(found, uncertainty, centre, sigmas)
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

    def channels_outside(self, check_id: str, status: NDArray[np.object_]) -> CheckResult:
        """How many channels are outside their limits, judged like dead ones. Source: daily-qc.md §5.2."""
        topology = self.histograms.topology
        flagged = np.flatnonzero((status == str(Status.WARN)) | (status == str(Status.FAIL)))
        measured = int((status != str(Status.INVALID)).sum())
        limits = Limits(warn_high=0.002 * len(topology), fail_high=0.01 * len(topology))
        reason = None
        if flagged.size:
            names = ", ".join(channel_name(int(topology.channels[i])) for i in flagged[:5])
            reason = names + (f" and {flagged.size - 5} more" if flagged.size > 5 else "")
        return self.judge(
            check_id, ("scanner", SCANNER), float(flagged.size), "channels", 0.0, measured,
            limits=limits, reason=reason, part="channels_outside",
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


def channel_name(absolute: int) -> str:
    """A channel as people say it."""
    from petqc.channel_map import channel_node

    return channel_node(absolute).replace(":", " ")


def resolution_percent(fit: PeakFit) -> tuple[float, float]:
    """Energy resolution, FWHM over position in per cent, and its error."""
    value = 100.0 * fit.fwhm / fit.mu
    return value, value * math.hypot(fit.fwhm_error / fit.fwhm, fit.mu_error / fit.mu)
