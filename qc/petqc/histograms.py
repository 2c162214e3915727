"""The histograms that every check reads: bounded memory whatever the length of the run.

Filled from calibrated singles and coincidences as they come; two partial fillings merge to the whole one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from petqc.channel_map import pair_node
from petqc.errors import BadInputError
from petqc.event_times import EventTimes
from petqc.jit import kernel
from petqc.pair_energies import PairEnergies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.calibration import CalibrationSet
    from petqc.channel_map import Topology
    from petqc.events import Coincidences, EnergyUnit, Singles
    from petqc.processing import ProcessingSettings

_ENERGY_AXIS: dict[str, tuple[float, int]] = {
    "kev": (4.0, 400),
    "ns": (2.5, 400),
    "clock": (0.5, 400),
    "arbitrary": (1.0, 400),
}
"""Bin width and number of bins by unit. 4 keV is below a tenth of any photopeak's FWHM that a PET detector has."""


_CHUNK = 1024
"""Singles that go through each loop of `fill_energy` before the next ones."""


class ProcessedLike(Protocol):
    """What `petqc.processing.Processor` gives for one feed."""

    @property
    def singles(self) -> Singles: ...  # noqa: D102
    @property
    def prompts(self) -> Coincidences: ...  # noqa: D102
    @property
    def delayed(self) -> Coincidences: ...  # noqa: D102


class ProcessingSettingsLike(Protocol):
    """The part of `petqc.processing.ProcessingSettings` that shapes histograms."""

    @property
    def coincidence_window_ps(self) -> float: ...  # noqa: D102
    @property
    def coincidence_energy(self) -> tuple[float, float] | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class HistogramSettings:
    """Axes of the histograms.

    energy_bin: bin width in the energy unit; the axis starts at 0 and has energy_bins bins. energy_window: low and
    high of the window that singles must be in to be counted for randoms, in the energy unit; None counts all.
    coincidence_window_ps: full width 2τ. tof_bin_ps: bin width of time differences. max_pairs: most pairs kept one
    by one for time offsets; beyond it every second one is dropped, again and again.
    """

    energy_bin: float = 4.0
    energy_bins: int = 400
    energy_window: tuple[float, float] | None = None
    coincidence_window_ps: int = 10_000
    tof_bin_ps: int = 10
    max_pairs: int = 4_000_000

    def __post_init__(self) -> None:
        if not (self.energy_bin > 0 and self.energy_bins >= 16):
            raise BadInputError(f"an energy axis of {self.energy_bins} bins of {self.energy_bin} cannot hold a peak")
        if self.coincidence_window_ps < 1 or self.tof_bin_ps < 1 or self.max_pairs < 2:
            raise BadInputError(f"time axis or pair buffer without room: {self}")
        if self.energy_window is not None and not self.energy_window[0] < self.energy_window[1]:
            raise BadInputError(f"energy window {self.energy_window} is empty", do="give low, then high")

    @classmethod
    def from_processing(cls, settings: ProcessingSettingsLike, energy_unit: EnergyUnit) -> HistogramSettings:
        """Axes that fit the way the events were processed."""
        width, bins = _ENERGY_AXIS[energy_unit]
        return cls(
            energy_bin=width,
            energy_bins=bins,
            energy_window=settings.coincidence_energy,
            coincidence_window_ps=round(settings.coincidence_window_ps),
        )


class QcHistograms:
    """Everything counted in a run.

    Attributes:
        topology: the channels and their modules and ASICs.
        energy_unit: unit of all energies.
        settings: the axes.
        energy_edges: (energy_bins + 1,) float64.
        energy_counts: (n_channels, energy_bins) uint32, one spectrum per channel, by the single's channel.
        energy_outside: (n_channels, 2) int64, singles below and above the axis.
        singles: (n_channels,) int64, all singles.
        hits: (n_channels,) int64, hits of each channel, where the source of events tells them apart from singles.
        singles_in_window: (n_channels,) int64, singles inside the energy window.
        searched: (n_pairs,) whether coincidences of that pair are looked for at all.
        tof_edges: (n_tof + 1,) float64, ps. Times are whole picoseconds, hence edges between them.
        tof_prompt, tof_delayed: (n_pairs, n_tof) uint32; the pair's later module minus its earlier one.
        prompts, delayed: (n_pairs,) int64, all pairs of two modules, on the axis or not. The delayed window is searched
            with either single as the delayed one, so delayed counts are twice those of randoms in the prompt window.
        same_module: prompts whose two sides are in one module (in no histogram).
        unknown: singles and pairs of channels that the topology does not have.
        times: rates in slices of time and gaps between singles of a channel; only of singles that came by `add`, which
            are in the order of time.
        pair_energies: energies of pairs, by module.
        pairs_seen: prompts of two modules inside the time axis; every pairs_stride-th of them is in the pair buffer.
    """

    def __init__(
        self,
        topology: Topology,
        energy_unit: EnergyUnit,
        settings: HistogramSettings | None = None,
        *,
        searched: NDArray[np.bool_] | None = None,
    ) -> None:
        """Everything at zero.

        Args:
            topology: the channels.
            energy_unit: unit of all energies.
            settings: the axes.
            searched: (n_pairs,) whether coincidences of a pair of modules are looked for; None: of every pair.
        """
        settings = HistogramSettings() if settings is None else settings
        self.topology = topology
        self.energy_unit = energy_unit
        self.settings = settings
        n, n_modules = len(topology), len(topology.module_nodes)
        self.energy_edges: NDArray[np.float64] = (
            np.arange(settings.energy_bins + 1, dtype=np.float64) * settings.energy_bin
        )
        self.energy_counts = np.zeros((n, settings.energy_bins), np.uint32)
        self.energy_outside = np.zeros((n, 2), np.int64)
        self.singles = np.zeros(n, np.int64)
        self.hits = np.zeros(n, np.int64)
        self.singles_in_window = np.zeros(n, np.int64)
        half = -(-(settings.coincidence_window_ps // 2) // settings.tof_bin_ps)
        self.tof_edges: NDArray[np.float64] = np.arange(-half, half + 1, dtype=np.float64) * settings.tof_bin_ps - 0.5
        n_pairs = n_modules * (n_modules - 1) // 2
        self.tof_prompt = np.zeros((n_pairs, 2 * half), np.uint32)
        self.tof_delayed = np.zeros((n_pairs, 2 * half), np.uint32)
        self.searched = np.ones(n_pairs, np.bool_) if searched is None else searched
        self.prompts = np.zeros(n_pairs, np.int64)
        self.delayed = np.zeros(n_pairs, np.int64)
        self.times = EventTimes(n, n_modules)
        self.pair_energies = PairEnergies(n_modules, settings.energy_bins, settings.energy_bin)
        self.same_module = 0
        self.unknown = 0
        self.pairs_seen = 0
        self.pairs_stride = 1
        self._pairs: list[NDArray[np.int32]] = []
        self._stored = 0
        # One look-up instead of a search per event; absolute channels are small numbers.
        top = int(topology.channels[-1]) + 1 if n else 0
        self._index = np.full(top, -1, np.int32)
        self._index[topology.channels] = np.arange(n, dtype=np.int32)

    @classmethod
    def of(cls, calibration: CalibrationSet, settings: ProcessingSettings) -> QcHistograms:
        """Everything at zero, for what a processor with this calibration and these settings gives."""
        axes = HistogramSettings.from_processing(settings, calibration.energy_unit)
        return cls(calibration.topology, calibration.energy_unit, axes, searched=calibration.searched_pairs())

    @property
    def n_pairs(self) -> int:
        """Number of pairs of different modules."""
        return int(self.prompts.size)

    @property
    def searched_pairs(self) -> list[int]:
        """Pairs of modules in which coincidences are looked for."""
        return [int(p) for p in np.flatnonzero(self.searched)]

    def pair_modules(self, pair: int) -> tuple[int, int]:
        """Indices (a, b) of the two modules of a pair, a > b; dt is t_a - t_b."""
        a = int((1 + np.sqrt(1 + 8 * pair)) // 2)
        return a, pair - a * (a - 1) // 2

    def pair_name(self, pair: int) -> str:
        """Node name of a pair of modules."""
        a, b = self.pair_modules(pair)
        return pair_node(self.topology.module_nodes[a], self.topology.module_nodes[b])

    def add(self, processed: ProcessedLike) -> None:
        """Count what one feed of the processor gave."""
        self.add_singles(processed.singles)
        self._add_times(processed.singles)
        self.add_prompts(processed.prompts)
        self.add_delayed(processed.delayed)

    def add_singles(self, singles: Singles) -> None:
        """Count singles."""
        if not len(singles):
            return
        self._expect(singles.energy_unit)
        low, high = self.settings.energy_window or (-np.inf, np.inf)
        self.unknown += int(
            fill_energy(
                np.ascontiguousarray(singles.channel, np.int32),
                np.ascontiguousarray(singles.energy, np.float32),
                self._index,
                float(self.settings.energy_bin),
                float(low),
                float(high),
                self.energy_counts,
                self.energy_outside,
                self.singles,
                self.singles_in_window,
            )
        )

    def _add_times(self, singles: Singles) -> None:
        low, high = self.settings.energy_window or (-np.inf, np.inf)
        self.times.add(
            np.ascontiguousarray(singles.time_ps, np.int64),
            np.ascontiguousarray(singles.channel, np.int32),
            np.ascontiguousarray(singles.energy, np.float32),
            self._index,
            self.topology.module,
            float(low),
            float(high),
        )

    def add_hits(self, channel: NDArray[np.int32]) -> None:
        """Count hits of absolute channels."""
        index = self.topology.index_of(np.asarray(channel, np.int32))
        self.hits += np.bincount(index[index >= 0], minlength=self.hits.size)

    @property
    def channel_counts(self) -> NDArray[np.int64]:
        """How often each channel spoke: hits if they were counted, else singles; (n_channels,)."""
        return self.hits if self.hits.any() else self.singles

    def add_prompts(self, pairs: Coincidences) -> None:
        """Count prompt pairs and keep some of them one by one."""
        if not len(pairs):
            return
        self._expect(pairs.energy_unit)
        a, b, dt = self._count_pairs(pairs, self.tof_prompt, self.prompts)
        self.pair_energies.add(pairs, self._index, self.topology.module, is_delayed=False)
        self._keep(a, b, dt)

    def add_delayed(self, pairs: Coincidences) -> None:
        """Count pairs of the delayed window; their dt is already free of the delay."""
        if not len(pairs):
            return
        self._expect(pairs.energy_unit)
        same = self.same_module
        self._count_pairs(pairs, self.tof_delayed, self.delayed)
        self.pair_energies.add(pairs, self._index, self.topology.module, is_delayed=True)
        self.same_module = same

    def pairs(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Kept prompt pairs: positions of channels a and b in the topology, and dt = t_a - t_b in ps; int32."""
        if not self._pairs:
            empty = np.empty(0, np.int32)
            return empty, empty, empty
        if len(self._pairs) > 1:
            self._pairs = [np.concatenate(self._pairs, axis=1)]
        a, b, dt = self._pairs[0]
        return a, b, dt

    def merge(self, other: QcHistograms) -> None:
        """Add another filling of the same histograms to this one.

        Raises:
            BadInputError: other channels, unit or axes.
        """
        if (
            other.settings != self.settings
            or other.energy_unit != self.energy_unit
            or not np.array_equal(other.topology.channels, self.topology.channels)
        ):
            raise BadInputError("histograms of other channels, units or axes do not add up")
        for name in (
            "energy_counts", "energy_outside", "singles", "hits", "singles_in_window",
            "tof_prompt", "tof_delayed", "prompts", "delayed",
        ):  # fmt: skip
            getattr(self, name)[...] += getattr(other, name)
        self.times.merge(other.times)
        self.pair_energies.merge(other.pair_energies)
        self.same_module += other.same_module
        self.unknown += other.unknown
        theirs = np.stack(other.pairs())
        stride = max(self.pairs_stride, other.pairs_stride)
        theirs = theirs[:, :: stride // other.pairs_stride]
        if stride > self.pairs_stride:
            self._pairs = [np.stack(self.pairs())[:, :: stride // self.pairs_stride]]
        self.pairs_stride = stride
        self._pairs.append(theirs)
        self._stored = sum(p.shape[1] for p in self._pairs)
        self.pairs_seen += other.pairs_seen
        self._thin()

    def summed(self) -> QcHistograms:
        """A copy of what figures of the whole scanner need, small for any scanner: one channel for each module.

        Spectra and singles are sums over modules, time differences one row of all pairs; prompts and delayed are
        those of all. Pairs are not kept one by one in it, and it cannot be filled any further.
        """
        t = self.topology
        n = len(t.module_nodes)
        order = np.argsort(t.module, kind="stable")
        begins = np.searchsorted(t.module[order], np.arange(n))
        each = np.arange(n, dtype=np.int32)
        nowhere = np.full((n, 3), np.nan, np.float32)
        none = np.full(n, -1, np.int32)
        topology = type(t)(
            each, each, each, none.astype(np.int16), none.astype(np.int16), nowhere, none, t.module_nodes,
            t.module_nodes, none, (),
        )  # fmt: skip
        found = QcHistograms(topology, self.energy_unit, self.settings, searched=self.searched)
        if n:
            found.energy_counts = np.add.reduceat(self.energy_counts[order], begins, axis=0, dtype=np.uint32)
            for name in ("singles", "singles_in_window", "hits"):
                setattr(found, name, np.add.reduceat(getattr(self, name)[order], begins))
        for name in ("tof_prompt", "tof_delayed"):
            setattr(found, name, getattr(self, name).sum(axis=0, dtype=np.uint32, keepdims=True))
        for name in ("prompts", "delayed"):
            setattr(found, name, getattr(self, name).sum(keepdims=True))
        return found

    def _expect(self, unit: EnergyUnit) -> None:
        if unit != self.energy_unit:
            raise BadInputError(f"energies in {unit}, histograms in {self.energy_unit}", do="keep one unit in a run")

    def _count_pairs(
        self, pairs: Coincidences, counts: NDArray[np.uint32], totals: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        n = len(pairs)
        a, b, dt = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
        kept, unknown, same = fill_tof(
            np.ascontiguousarray(pairs.channel_a, np.int32),
            np.ascontiguousarray(pairs.channel_b, np.int32),
            np.ascontiguousarray(pairs.time_a_ps, np.int64),
            np.ascontiguousarray(pairs.time_b_ps, np.int64),
            self._index,
            self.topology.module,
            float(self.tof_edges[0]),
            float(self.settings.tof_bin_ps),
            counts,
            totals,
            a,
            b,
            dt,
        )
        self.unknown += int(unknown)
        self.same_module += int(same)
        return a[:kept], b[:kept], dt[:kept]

    def _keep(self, a: NDArray[np.int32], b: NDArray[np.int32], dt: NDArray[np.int32]) -> None:
        # By the pair's number in the run, so that the choice does not depend on how the run was cut into feeds.
        first = -self.pairs_seen % self.pairs_stride
        self.pairs_seen += dt.size
        chosen = np.stack((a, b, dt))[:, first :: self.pairs_stride]
        if chosen.shape[1]:
            self._pairs.append(chosen)
            self._stored += chosen.shape[1]
            self._thin()

    def _thin(self) -> None:
        while self._stored > self.settings.max_pairs:
            self._pairs = [np.ascontiguousarray(np.stack(self.pairs())[:, ::2])]
            self._stored = self._pairs[0].shape[1]
            self.pairs_stride *= 2


@kernel
def fill_energy(
    channel: NDArray[np.int32],
    energy: NDArray[np.float32],
    index: NDArray[np.int32],
    width: float,
    low: float,
    high: float,
    counts: NDArray[np.uint32],
    outside: NDArray[np.int64],
    singles: NDArray[np.int64],
    in_window: NDArray[np.int64],
) -> int:
    """Count singles into spectra; returns the number of those whose channel is unknown. NaN energies are below.

    The spectra of a ring are larger than any cache: counting is a short loop of its own, which waits for many places of
    them at once.
    """
    unknown = 0
    bins = counts.shape[1]
    flat = counts.reshape(counts.size)
    places = np.empty(_CHUNK, np.uint32)
    for begin in range(0, channel.size, _CHUNK):
        m = np.uint64(0)
        for k in range(np.uint64(begin), np.uint64(min(begin + _CHUNK, channel.size))):
            c = channel[k]
            i = index[np.uint64(c)] if 0 <= c < index.size else -1
            if i < 0:
                unknown += 1
                continue
            row = np.uint64(i)  # unsigned indices spare the test for negative ones
            singles[row] += 1
            e = float(energy[k])
            in_window[row] += np.int64(low <= e) & np.int64(e <= high)
            position = e / width
            if 0.0 <= position < bins:
                places[m] = np.uint32(i * bins + int(position))
                m += np.uint64(1)
            else:
                outside[row, np.uint64(position >= bins)] += 1
        for k in range(m):
            flat[np.uint64(places[np.uint64(k)])] += np.uint32(1)
    return unknown


@kernel
def fill_tof(
    channel_a: NDArray[np.int32],
    channel_b: NDArray[np.int32],
    time_a: NDArray[np.int64],
    time_b: NDArray[np.int64],
    index: NDArray[np.int32],
    module: NDArray[np.int32],
    first_edge: float,
    width: float,
    counts: NDArray[np.uint32],
    totals: NDArray[np.int64],
    out_a: NDArray[np.int32],
    out_b: NDArray[np.int32],
    out_dt: NDArray[np.int32],
) -> tuple[int, int, int]:
    """Count pairs into the histogram of their two modules; write those on the time axis to out.

    Returns:
        Pairs written, pairs of unknown channels, pairs of one module.
    """
    kept = 0
    unknown = 0
    same = 0
    bins = counts.shape[1]
    for k in range(channel_a.size):
        ca = channel_a[k]
        cb = channel_b[k]
        i = index[ca] if 0 <= ca < index.size else -1
        j = index[cb] if 0 <= cb < index.size else -1
        if i < 0 or j < 0:
            unknown += 1
            continue
        dt = time_a[k] - time_b[k]
        if module[i] == module[j]:
            same += 1
            continue
        if module[i] < module[j]:
            i, j = j, i
            dt = -dt
        m = module[i]
        pair = m * (m - 1) // 2 + module[j]
        totals[pair] += 1
        position = (dt - first_edge) / width
        if 0.0 <= position < bins:
            counts[pair, int(position)] += np.uint32(1)
            out_a[kept] = i
            out_b[kept] = j
            out_dt[kept] = np.int32(dt)
            kept += 1
    return kept, unknown, same
