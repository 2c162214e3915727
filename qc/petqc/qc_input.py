"""What a check may look at: the histograms, the context of the run, and fits that several checks share."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.check_input import SCANNER_SIGMAS, CheckInput, Node, channel_name, widened
from petqc.errors import QcError, TooFewCountsError
from petqc.fits import PeakFit, times_to_reach
from petqc.fits.depth import USUAL_CRYSTAL_MM
from petqc.fits.energy_fits import ANNIHILATION_KEV, LYSO_RANGE, Refusal, bulk, find_tail, fit_energy, fit_plain
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
from petqc.fits.source_place import SourcePlace, SourceShape, find_source
from petqc.fits.time_peaks import fit_time_peaks
from petqc.made_once import MadeOnce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.histograms import QcHistograms
    from petqc.lutetium.fits import LutetiumFits
    from petqc.results import EnvironmentReading, RawFile
    from petqc.scanners import Scanner

__all__ = [
    "SCANNER_SIGMAS",
    "Node",
    "QcInput",
    "RunContext",
    "SourceShape",
    "channel_name",
    "resolution_percent",
    "widened",
]

_OWN_LEADS = 2.0
"""Singles for each decay in the crystals below which most are the crystals' own."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """Everything about a run that is not counted events.

    started_at, finished_at: RFC 3339. limits: overrides, by check id or `id.level` (`photopeak.module`), of single
    sides of the limits. baselines: reference values by check id and node. baseline_errors: standard errors of those
    that have one. account: counters of processing and receiving (`frames`, `frames_lost`, `datagrams_rejected`, …).
    elapsed_s and live_time_s: duration of the recording and the part of it that was live; None if nobody knows.
    source: shape of the radioactive source; CTR is only a CTR for a point or a line. source_mm: where its middle is
    meant to be; None: nobody said. reference: what kind of scanner it is and what is published about it, if known.
    crystal_material: name in petqc.lutetium.crystals; crystal_mm: two sides of a crystal and its length; empty and
    None: not known. has_singles False: only coincidences were recorded. has_energies False: only times were.
    has_pair_search False: there was nothing to pair. Checks that need what is missing do not apply.
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
    baseline_errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
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


@dataclass(slots=True)
class QcInput(CheckInput):
    """Histograms and context, handed to every check; fits are made once and shared, between threads, too."""

    histograms: QcHistograms
    context: RunContext
    by_tail: dict[str, tuple[float, float]] = field(default_factory=dict)
    lutetium: LutetiumFits | None = None
    _made: MadeOnce = field(default_factory=MadeOnce)
    _times: dict[int, PeakFit | Refusal] = field(default_factory=dict)
    _fitting_times: threading.Lock = field(default_factory=threading.Lock)
    _wanted: list[float] = field(default_factory=lambda: [1.0])

    @property
    def topology(self) -> Topology:
        """The channels of the histograms."""
        return self.histograms.topology

    @property
    def is_kev(self) -> bool:
        """Whether energies are calibrated."""
        return self.histograms.energy_unit == "kev"

    @property
    def is_calibrated(self) -> bool:
        """Default limits of energies and times are those of calibrated scanners."""
        return self.is_kev

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

    def own_decays(self) -> float | None:
        """Decays of Lu-176 in all crystals; None: not known, or nothing of a source to compare with them."""
        from petqc.lutetium.fits import decays_per_channel

        context = self.context
        if context.source == "none" or not (context.has_singles and context.has_pair_search):
            return None
        try:
            return decays_per_channel(self) * len(self.topology)
        except TooFewCountsError:
            return None

    @property
    def is_mostly_own(self) -> bool:
        """Most singles are of the crystals' own lutetium, whose lines are as high as the source's, or higher.

        Each of its decays gives about one.
        """
        return self._made.get("is_mostly_own", self._compare_with_own)

    def _compare_with_own(self) -> bool:
        decays = self.own_decays()
        return decays is not None and bool(self.histograms.singles.sum() < _OWN_LEADS * decays)

    def counts_wanted(self, wanted: float, found: float, error: float) -> str:
        """Ask for a longer run: words for a reason, with how long, where that is known."""
        if found <= 0.0:
            return ""
        times = times_to_reach(wanted, found, error)
        self.want(times)
        elapsed_s = self.context.elapsed_s
        return f"; measure for at least {times * elapsed_s:.2g} s" if elapsed_s else ""

    def want(self, times_as_long: float) -> None:
        """A number that is missing would be there after so many times as long."""
        self._wanted.append(times_as_long)

    @property
    def times_as_long(self) -> float:
        """So many times as long, and every number that was missing would be there."""
        return max(self._wanted)

    def spectrum(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Energy spectrum of some channels together, (n bins,)."""
        summed: NDArray[np.float64] = self.histograms.energy_counts[members].sum(axis=0, dtype=np.float64)
        return summed

    def energy_fit(self, node: Node) -> PeakFit | Refusal:
        """Photopeak of a node's summed spectrum."""
        return self._made.get(("energy", node.name), lambda: self._fit_energy(node))

    def _fit_energy(self, node: Node) -> PeakFit | Refusal:
        found = fit_energy(self, node)
        if isinstance(found, Refusal):
            self.want(found.times_as_long)
        return found

    def plain_fit(self, node: Node) -> PeakFit | Refusal:
        """The same with nothing that belongs to the peak but step and line, which such a fit starts from."""
        return self._made.get(("plain", node.name), lambda: fit_plain(self, node))

    def humps(self, node: Node) -> TwoHumps | None:
        """Two peaks where one photopeak is expected, if the node's spectrum has them."""
        if self.is_mostly_own:
            return None  # lutetium and source have a hump each
        return self._made.get(("humps", node.name), lambda: self._find_humps(node))

    def _find_humps(self, node: Node) -> TwoHumps | None:
        if node.members.size < 2:
            return None  # one channel has one gain: a second hump there is Compton scatter or another line
        edges, counts = self.histograms.energy_edges, self.spectrum(node.members)
        try:
            if not self.is_kev:
                return two_humps(edges, counts, *bulk(edges, counts))
            low, high = 0.6 * ANNIHILATION_KEV, 1.5 * ANNIHILATION_KEV
            return two_humps(edges, counts, low, high, edge_ratio=LU_EDGE_RATIO)
        except QcError:
            return None

    def lines(self, node: Node) -> list[PeakFit]:
        """Every line of a spectrum in a unit of its own, the most significant first."""
        return self._made.get(
            ("lines", node.name), lambda: fit_lines(self.histograms.energy_edges, self.spectrum(node.members))
        )

    def channel_fits(self) -> PeakFits:
        """Photopeak of every channel; it is looked for around its module's peak."""
        return self._made.get("channel_fits", self._fit_channels)

    def _fit_channels(self) -> PeakFits:
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
        return replace(
            fits,
            mu_error=np.hypot(fits.mu_error, by_tail[:, 0]),
            fwhm_error=np.hypot(fits.fwhm_error, by_tail[:, 1]),
        )

    @property
    def fitted(self) -> PeakFits | None:
        """Photopeaks of every channel, if a check asked for them and they could be fitted."""
        found: PeakFits | None = self._made.found("channel_fits")
        return found

    def energy_tail(self) -> tuple[float, float, float]:
        """Share of full-energy events that lack light below the hit threshold, its error, and that threshold.

        A gamma that scatters leaves part of its energy next door; what stays below the threshold there is missing from
        the sum. The threshold is where the spectrum begins; the share is fitted to the summed spectrum of each module
        and averaged, since a single module, ASIC or channel has not the counts to tell it from a shift of the peak.
        """
        return self._made.get("energy_tail", lambda: find_tail(self))

    def assume_tail(self, tail: tuple[float, float, float]) -> None:
        """Take the share of missing light as given (as `energy_tail` gives it) in place of looking for it."""
        self._made.give("energy_tail", tail)

    def time_fit(self, pair: int) -> PeakFit | Refusal:
        """Coincidence peak of a pair of modules, or of all pairs together (-1)."""
        return self.time_fits([pair])[0]

    def time_fits(self, pairs: list[int]) -> list[PeakFit | Refusal]:
        """The same of many pairs at once.

        Those of two modules have one shape, and so are fitted all together; that of a single one, or of all, is fitted.
        """
        with self._fitting_times:
            wanted = [pair for pair in pairs if pair not in self._times]
            if max(wanted, default=-1) >= 0:
                wanted = sorted({*wanted, *self.histograms.searched_pairs} - self._times.keys())
            for some in ([pair for pair in wanted if pair < 0], [pair for pair in wanted if pair >= 0]):
                spectra = [self.time_spectrum(pair) for pair in some]
                if not spectra:
                    continue
                counts = np.stack([counts for _, counts in spectra])
                fits = fit_time_peaks(spectra[0][0], counts, of_one_kind=True)
                for pair, row, found in zip(some, counts, fits, strict=True):
                    self._times[pair] = found if isinstance(found, PeakFit) else Refusal(str(found), int(row.sum()))
        return [self._times[pair] for pair in pairs]

    def source_place(self) -> SourcePlace:
        """Where the source is, from the lines of coincidences.

        Raises:
            TooFewCountsError: too few lines, lines that do not cross, or no map of the crystals.
        """
        return self._made.get("source_place", self._find_source)

    def _find_source(self) -> SourcePlace:
        topology, about = self.histograms.topology, self.context
        if not np.isfinite(topology.xyz_mm).all():
            raise TooFewCountsError("there is no map that says where the crystals are")
        a, b, _ = self.histograms.pairs()
        length = about.crystal_mm[2] if about.crystal_mm else USUAL_CRYSTAL_MM
        return find_source(topology, a, b, crystal_mm=length, shape=about.source)

    def time_offsets(self) -> TimeOffsets | Refusal:
        """Offsets of all channels, and what they leave of each kept pair."""
        return self._made.get("time_offsets", lambda: solve_run(self))

    def time_spectrum(self, pair: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges and counts of prompt time differences, only the bins that lie wholly inside the window."""
        h = self.histograms
        counts = h.tof_prompt.sum(axis=0, dtype=np.int64) if pair < 0 else h.tof_prompt[pair]
        half = 0.5 * h.settings.coincidence_window_ps
        inside = np.flatnonzero((h.tof_edges[:-1] >= -half - 0.5) & (h.tof_edges[1:] <= half + 0.5))
        return h.tof_edges[inside[0] : inside[-1] + 2], counts[inside].astype(np.float64)


def resolution_percent(fit: PeakFit) -> tuple[float, float]:
    """Energy resolution, FWHM over position in per cent, and its error."""
    value = 100.0 * fit.fwhm / fit.mu
    return value, value * math.hypot(fit.fwhm_error / fit.fwhm, fit.mu_error / fit.mu)
