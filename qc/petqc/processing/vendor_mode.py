"""The vendor's own processing semantics, record by record: for comparison with the vendor's converters, not for QC.

What differs from petqc mode: hits are processed in buffers of about 3072 and nothing is paired across their edges; they
are sorted by coarse time only, by an unstable sort whose order of ties is reproduced (introsort.py); every pair in
the window is a coincidence; there is no delayed window. Source: PETsys sw_daq_tofpet2 revision 194662e, as measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.events import Coincidences, EnergyUnit, Hits, Singles
from petqc.processing import DROP_REASONS, GROUP_REASONS, Processed, ProcessingAccount
from petqc.processing import vendor_kernels as vk
from petqc.processing.pipeline import Columns, FrameWalk, chip_rows, row_states

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.calibration import CalibrationSet
    from petqc.processing import ProcessingSettings

_BUFFER_HITS = 3072
_EXPECTED_FRAME_HITS = 2048
_TOT_NS_PER_CLOCK = np.float32(5.0)

VENDOR_UNITS: dict[str, EnergyUnit] = {"tot": "ns", "qdc": "clock", "mixed": "arbitrary"}
"""Unit of the energies that the vendor writes, by kind of acquisition."""


@dataclass(frozen=True, slots=True)
class VendorEvents:
    """What a run of buffers gave: hits, photons as lists of hits, and pairs of photons.

    hits: in the order of the vendor's singles output; energy in clocks in either mode. tot: (n hits,) bool. The hits of
    photon g are member[first[g] : first[g + 1]], strongest first. energy_sum: (n photons,) float32.
    pair: (n pairs, 2) photons, the one of the higher region first.
    """

    time_ps: NDArray[np.int64]
    energy: NDArray[np.float32]
    channel: NDArray[np.int32]
    tot: NDArray[np.bool_]
    member: NDArray[np.int64]
    first: NDArray[np.int64]
    energy_sum: NDArray[np.float32]
    pair: NDArray[np.int64]

    def output_energy(self, hit: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Energies of hits as the vendor writes them: ns for time over threshold, clocks for charge."""
        energy = self.energy[hit]
        return np.where(self.tot[hit], energy * _TOT_NS_PER_CLOCK, energy).astype(np.float32, copy=False)

    def strongest(self, photon: NDArray[np.int64]) -> NDArray[np.int64]:
        """The strongest hit of each of some photons."""
        return self.member[self.first[photon]]

    def n_hits(self, photon: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many hits some photons have, as far as a byte can say."""
        n: NDArray[np.int64] = self.first[photon + 1] - self.first[photon]
        return np.minimum(n, 255, out=n)


class VendorChain:
    """Frames in, events out, in the vendor's buffers; keeps an incomplete buffer from call to call.

    The memory of events is used again: they are valid until the next call.
    """

    def __init__(self, calibration: CalibrationSet, settings: ProcessingSettings, trigger_id: int | None) -> None:
        self._calibration = calibration
        self._settings = settings
        self._walk = FrameWalk(settings, keep_late=True)
        self._chip_row = chip_rows(calibration, trigger_id)
        self._row_state = row_states(calibration, vendor=True)
        self._offset_clocks = (
            calibration.offset_ps.astype(np.float32).astype(np.float64) / 5000.0
        )  # kept as float there
        self._waiting = Columns(words=np.uint64, frames=np.int64)
        self._hits = Columns(time_ps=np.int64, energy=np.float32, channel=np.int32, tot=np.bool_, member=np.int64)
        self._photons = Columns(first=np.int64, energy_sum=np.float32)
        self._pair = np.empty((1024, 2), np.int64)
        self._tally = np.zeros(len(DROP_REASONS), np.int64)
        self._group_tally = np.zeros(6, np.int64)

    def run(self, words: NDArray[np.uint64]) -> VendorEvents:
        """Take whole frames, give the events of the buffers that they completed."""
        waiting = self._waiting
        for n_frames, n_hits in self._walk.blocks(words):
            n = waiting.n
            waiting.reserve(n + n_hits)
            vk.copy_events(words, self._walk.position, n_frames, waiting["words"][n:], waiting["frames"][n:])
            waiting.n = n + n_hits
        return self._buffers(closing=False)

    def end(self, last_frame: int | None) -> VendorEvents:
        """Close a step: give the events of the last buffer."""
        self._walk.end_step(last_frame)
        return self._buffers(closing=True)

    def account(self, **counts: int) -> ProcessingAccount:
        """Frames, hits and groups; pairs as given."""
        return self._walk.account(
            hits_dropped={name: int(self._tally[i]) for i, name in enumerate(DROP_REASONS) if i},
            hits_kept=int(self._tally[0]),
            groups_rejected={name: int(self._group_tally[i]) for i, name in enumerate(GROUP_REASONS) if i},
            hits_in_rejected_groups=int(self._group_tally[5]),
            **counts,
        )

    def _buffers(self, *, closing: bool) -> VendorEvents:
        waiting, hits, photons = self._waiting, self._hits, self._photons
        edges = vk.buffer_edges(waiting["frames"][: waiting.n], closing, _BUFFER_HITS, _EXPECTED_FRAME_HITS)
        used = int(edges[-1])
        settings, calibration = self._settings, self._calibration
        hits.reserve(used)
        photons.reserve(used + 1)
        while True:
            tally, group_tally = self._tally.copy(), self._group_tally.copy()
            n_hits, n_groups, n_pairs = vk.process_buffers(
                waiting["words"],
                waiting["frames"],
                edges,
                self._chip_row,
                self._row_state,
                calibration.rows.tdc,
                self._offset_clocks,
                calibration.rows.charge,
                calibration.rows.linearisation,
                calibration.region,
                calibration.xyz_mm,
                calibration.relation,
                settings.group_window_ps / 5000.0,
                settings.group_max_distance_mm,
                settings.group_min_hits,
                settings.group_max_hits,
                settings.group_min_energy,
                settings.group_max_energy,
                settings.coincidence_window_ps / 10000.0,
                hits["time_ps"],
                hits["energy"],
                hits["channel"],
                hits["tot"],
                hits["member"],
                photons["first"],
                photons["energy_sum"],
                self._pair,
                tally,
                group_tally,
            )
            if n_pairs <= self._pair.shape[0]:
                break
            self._pair = np.empty((n_pairs + n_pairs // 2, 2), np.int64)
        self._tally, self._group_tally = tally, group_tally
        waiting.drop_first(used)
        return VendorEvents(
            hits["time_ps"][:n_hits],
            hits["energy"][:n_hits],
            hits["channel"][:n_hits],
            hits["tot"][:n_hits],
            hits["member"][: photons["first"][n_groups]],
            photons["first"][: n_groups + 1],
            photons["energy_sum"][:n_groups],
            self._pair[:n_pairs],
        )


class VendorPipeline:
    """The vendor's chain as a `Pipeline`: photons as singles, all pairs as prompts, nothing delayed.

    Singles come in the order of their seeds. Energies are sums over the photon, in ns for time over threshold and in
    clocks for charge.
    """

    def __init__(
        self,
        calibration: CalibrationSet,
        settings: ProcessingSettings,
        trigger_id: int | None,
        *,
        keep_hits: bool,
    ) -> None:
        self._chain = VendorChain(calibration, settings, trigger_id)
        self._keep_hits = keep_hits
        self._unit: EnergyUnit = VENDOR_UNITS[calibration.acquisition]
        self._counts = {"singles": 0, "singles_in_window": 0, "prompts": 0}

    def run(self, words: NDArray[np.uint64]) -> Processed:
        """Take whole frames, give the events of the buffers that they completed."""
        return self._processed(self._chain.run(words))

    def end(self, last_frame: int | None) -> Processed:
        """Close a step: give the events of the last buffer."""
        return self._processed(self._chain.end(last_frame))

    def account(self) -> ProcessingAccount:
        """Where everything went so far."""
        return self._chain.account(**self._counts)

    def _processed(self, events: VendorEvents) -> Processed:
        strongest = events.member[events.first[:-1]]
        n_hits = np.minimum(np.diff(events.first), 255).astype(np.uint8)
        scale = np.where(events.tot[strongest], _TOT_NS_PER_CLOCK, np.float32(1))
        time, channel = events.time_ps[strongest], events.channel[strongest]
        energy = (events.energy_sum * scale).astype(np.float32)
        a, b = events.pair[:, 0], events.pair[:, 1]
        self._counts["singles"] += int(strongest.size)
        self._counts["singles_in_window"] += int(strongest.size)
        self._counts["prompts"] += int(a.size)
        return Processed(
            Singles(time, energy, channel, n_hits, self._unit),
            Coincidences(
                time[a], time[b], energy[a], energy[b], channel[a], channel[b], n_hits[a], n_hits[b], self._unit
            ),
            Coincidences.empty(self._unit),
            np.empty(0, np.bool_),
            Hits(events.time_ps, events.output_energy(slice(None)), events.channel, self._unit)
            if self._keep_hits
            else None,
        )
