"""Processed events of the readout vendor's converters (.ldat or text) to histograms, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.channel_map import Topology
from petqc.events import Coincidences, Singles
from petqc.formats.petsys_ldat import open_events
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.recorded import Filled
from petqc.recorded.axes import energy_axis
from petqc.recorded.pair_search import PairSearch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.recorded import Asked
    from petqc.recorded.channel_roles import ChannelRoles

WINDOW_PS = 20_000
"""Full width of the coincidence window for groups and singles: wide enough for detectors without skew calibration."""
_LOOK_AT = 200_000
"""Photons that are read before the energy axis is chosen."""


@dataclass(slots=True)
class _Counts:
    """What a file holds, counted while it is read."""

    records: int = 0
    photons: int = 0
    hits: int = 0
    negative: int = 0
    lowest: float = np.inf
    first_ps: int = np.iinfo(np.int64).max
    last_ps: int = np.iinfo(np.int64).min
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def note(self, time_ps: NDArray[np.int64], energy: NDArray[np.float32], n_hits: NDArray[np.uint8]) -> None:
        """Count photons and the energies of their hits."""
        self.photons += time_ps.size
        self.hits += energy.size
        self.negative += int((energy < 0).sum())
        if energy.size:
            self.lowest = min(self.lowest, float(energy.min()))
        if time_ps.size:
            self.first_ps = min(self.first_ps, int(time_ps.min()))
            self.last_ps = max(self.last_ps, int(time_ps.max()))
        self.sizes += np.bincount(n_hits, minlength=256)

    @property
    def span_s(self) -> float:
        """Time from the first photon to the last."""
        return max(self.last_ps - self.first_ps, 0) * 1e-12

    def account(self) -> dict[str, int | float]:
        """For the run document."""
        found: dict[str, int | float] = {"records": self.records, "photons": self.photons, "hits": self.hits}
        if self.photons:
            running = np.cumsum(self.sizes)
            found |= {
                "hits_per_photon_mean": float(np.arange(256) @ self.sizes) / self.photons,
                "hits_per_photon_median": int(np.searchsorted(running, 0.5 * self.photons)),
                "negative_energies": self.negative,
                "lowest_energy": self.lowest,
                "span_s": self.span_s,
            }
        return found


def processed_events(files: list[Path], asked: Asked) -> Filled:
    """Histograms of singles, groups or coincidences."""
    notes: list[str] = []
    counts = _Counts()
    first = open_events(files[0])
    kind = first.kind
    first.close()
    total = sum(p.stat().st_size for p in files)
    records = _records(files, kind, asked, total, counts, notes)
    if kind.startswith("coincidences"):
        histograms = _coincidences(records, asked, counts)
    else:
        histograms = _photons(records, kind, asked, counts)
    summed = "energy channels" if asked.roles else "all channels"
    notes.append(f"Energies are in the file's own unit; a photon's is the sum over {summed} of its hits.")
    if asked.min_hits > 1:
        notes.append(f"Energy spectra hold photons of at least {asked.min_hits} hits.")
    return Filled(
        histograms,
        {
            "account": counts.account(),
            "live_time_s": counts.span_s or None,
            "has_singles": not kind.startswith("coincidences"),
            "expected_channels": asked.roles is not None or asked.config is not None,
        },
        notes=notes,
    )


def _records(
    files: list[Path], kind: Any, asked: Asked, total: int, counts: _Counts, notes: list[str]
) -> Iterator[NDArray[Any]]:
    before = 0
    for path in files:
        with open_events(path, kind) as reader:
            for block in reader.blocks():
                counts.records += block.size
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, total)
                yield block
            notes += [f"{path.name}: {damage}" for damage in reader.damages]
        before += path.stat().st_size


def _photons(records: Iterator[NDArray[Any]], kind: str, asked: Asked, counts: _Counts) -> QcHistograms:
    """Singles or groups: one photon each, then pairs of photons of different modules."""
    parts: list[tuple[Singles, NDArray[np.int32]]] = []
    seen = 0
    histograms: QcHistograms | None = None
    search: PairSearch | None = None
    for block in records:
        photons, hit_channels = _from_singles(block) if kind == "singles" else _from_groups(block, asked)
        counts.note(photons.time_ps, block["energy"], photons.n_hits)
        parts.append((photons, hit_channels))
        seen += len(photons)
        if histograms is None and seen < _LOOK_AT:
            continue
        if histograms is None:
            histograms = _histograms(parts, asked)
            search = PairSearch(histograms.topology, WINDOW_PS)
        if search is not None:
            _fill(histograms, search, parts)
        parts = []
    if histograms is None:
        histograms = _histograms(parts, asked)
    if search is None:
        search = PairSearch(histograms.topology, WINDOW_PS)
    _fill(histograms, search, parts)
    prompts, delayed = search.finish()
    histograms.add_prompts(prompts)
    histograms.add_delayed(delayed)
    return histograms


def _fill(histograms: QcHistograms, search: PairSearch, parts: list[tuple[Singles, NDArray[np.int32]]]) -> None:
    for photons, hit_channels in parts:
        histograms.add_singles(photons)
        histograms.add_hits(hit_channels)
        prompts, delayed = search.feed(photons)
        histograms.add_prompts(prompts)
        histograms.add_delayed(delayed)


def _histograms(parts: list[tuple[Singles, NDArray[np.int32]]], asked: Asked) -> QcHistograms:
    channels = np.concatenate([p[1] for p in parts]) if parts else np.empty(0, np.int32)
    energies = np.concatenate([p[0].energy for p in parts]) if parts else np.empty(0, np.float32)
    return _empty(channels, energies, asked)


def _empty(channels: NDArray[np.int32], energies: NDArray[np.float32], asked: Asked) -> QcHistograms:
    width, bins = energy_axis([energies])
    settings = HistogramSettings(energy_bin=width, energy_bins=bins, coincidence_window_ps=WINDOW_PS)
    return QcHistograms(_topology(channels, asked), "arbitrary", settings)


def _topology(channels: NDArray[np.int32], asked: Asked) -> Topology:
    """The channels there should be: of the configuration, of the mapping, or those that were seen."""
    if asked.config is not None:
        from petqc.calibration import CalibrationSet
        from petqc.formats.petsys_config import load_config

        return CalibrationSet.from_config(load_config(asked.config)).topology
    seen = np.unique(channels)
    if asked.roles is None:
        return Topology.from_channels(seen)
    n = asked.roles.n
    used = np.flatnonzero(asked.roles.is_time | asked.roles.is_energy)
    modules = np.unique(seen // n)
    return Topology.from_channels((modules[:, None] * n + used).ravel().astype(np.int32), asics_per_module=n // 64)


def _from_singles(block: NDArray[Any]) -> tuple[Singles, NDArray[np.int32]]:
    channel = block["channel"].astype(np.int32)
    time_ps, energy = block["time_ps"].astype(np.int64), block["energy"].astype(np.float32)
    return Singles(time_ps, energy, channel, np.ones(block.size, np.uint8)), channel


def _from_groups(block: NDArray[Any], asked: Asked) -> tuple[Singles, NDArray[np.int32]]:
    starts = np.flatnonzero(block["index"] == 0)
    if starts.size and starts[0] > 0:  # hits before the first group belong to one that is not here
        block = block[starts[0] :]
        starts = starts - starts[0]
    photon = _photon(starts, block["time_ps"], block["energy"], block["channel"], asked.roles)
    n_hits = np.diff(np.append(starts, block.size))
    few = n_hits < asked.min_hits
    energy = photon[1].copy()
    energy[few] = np.nan
    singles = Singles(photon[0], energy, photon[2], np.minimum(n_hits, 255).astype(np.uint8))
    return singles, block["channel"].astype(np.int32)


def _photon(
    starts: NDArray[np.int64],
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    roles: ChannelRoles | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """Time, energy and channel of photons from their hits: the strongest hit's, or by the roles of channels."""
    if not starts.size:
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32)
    number = np.zeros(channel.size, np.int64)
    number[starts[1:]] = 1
    number = np.cumsum(number)
    order = np.lexsort((-energy, number))
    strongest = order[np.searchsorted(number[order], np.arange(starts.size))]
    if roles is None:
        summed = np.add.reduceat(energy.astype(np.float64), starts)
        times = time_ps[strongest]
    else:
        counted = np.where(roles.is_energy[channel % roles.n], energy, 0.0).astype(np.float64)
        summed = np.add.reduceat(counted, starts)
        times = np.minimum.reduceat(time_ps, starts)
    return times.astype(np.int64), summed.astype(np.float32), channel[strongest].astype(np.int32)


def _coincidences(records: Iterator[NDArray[Any]], asked: Asked, counts: _Counts) -> QcHistograms:
    histograms: QcHistograms | None = None
    for block in records:
        pairs, hits, channels = _pairs(block, asked)
        counts.note(np.minimum(pairs.time_a_ps, pairs.time_b_ps), hits, np.zeros(0, np.uint8))
        counts.sizes += np.bincount(pairs.n_hits_a, minlength=256) + np.bincount(pairs.n_hits_b, minlength=256)
        counts.photons += len(pairs)
        if histograms is None:
            histograms = _empty(channels, np.concatenate([pairs.energy_a, pairs.energy_b]), asked)
        histograms.add_hits(channels)
        histograms.add_prompts(pairs)
    return histograms if histograms is not None else _empty(np.empty(0, np.int32), np.empty(0, np.float32), asked)


def _pairs(block: NDArray[Any], asked: Asked) -> tuple[Coincidences, NDArray[np.float32], NDArray[np.int32]]:
    """Pairs from records that repeat hits: each hit of side a once with the first of b, and the other way round."""
    sides = []
    energies, channels = [], []
    for side, other in (("a", "b"), ("b", "a")):
        mine = block[block[f"index_{other}"] == 0]
        # Side b's first hit stands beside every hit of side a, side a's first beside every hit of b.
        starts = np.flatnonzero(mine[f"index_{side}"] == 0)
        photon = _photon(starts, mine[f"time_{side}_ps"], mine[f"energy_{side}"], mine[f"channel_{side}"], asked.roles)
        sides.append((*photon, np.minimum(np.diff(np.append(starts, mine.size)), 255).astype(np.uint8)))
        energies.append(mine[f"energy_{side}"])
        channels.append(mine[f"channel_{side}"])
    a, b = sides
    pairs = Coincidences(a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3])
    return pairs, np.concatenate(energies).astype(np.float32), np.concatenate(channels).astype(np.int32)
