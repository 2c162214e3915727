"""Other laboratories' files to histograms: list text, spectra, time tags, Janus lists.

Each detector of such a file becomes a module of one channel, so that the checks, made for scanners, say something for
each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import Topology
from petqc.errors import BadInputError
from petqc.events import Coincidences, Singles
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.recorded import Filled
from petqc.recorded.axes import energy_axis
from petqc.recorded.pair_search import PairSearch
from petqc.results import Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.fits import PeakFit
    from petqc.formats.list_text import ListColumn, ListDescriptor
    from petqc.recorded import Asked

_CHANNELS_PER_MODULE = 256
_TIME_UNITS_PS = {"ps": 1.0, "ns": 1e3, "us": 1e6, "s": 1e12}
_WINDOW_PS = 20_000


def one_channel_modules(n: int) -> Topology:
    """N detectors as modules of one channel."""
    return Topology.from_channels(np.arange(n, dtype=np.int32) * _CHANNELS_PER_MODULE)


def list_text(files: list[Path], asked: Asked) -> Filled:
    """List text as its descriptor says: energies of each detector, and the time difference of two of them."""
    from petqc.formats.list_text import ListDescriptor, ListTextReader

    if asked.descriptor is None:
        raise BadInputError("list text means nothing without a descriptor", where=str(files[0]), do="give one")
    is_file = asked.descriptor.is_file() or asked.descriptor.suffix == ".toml"
    descriptor = ListDescriptor.load(asked.descriptor) if is_file else ListDescriptor.shipped(str(asked.descriptor))
    energies = [c for c in descriptor.columns if c.quantity == "energy"]
    if not energies:
        raise BadInputError("no column with quantity energy", where=str(asked.descriptor), do="name at least one")
    notes = [
        f"module 0.0.{i} is detector {c.detector or c.name} ({c.name}{f', {c.unit}' if c.unit else ''})"
        for i, c in enumerate(energies)
    ]
    total = 2 * sum(p.stat().st_size for p in files)  # read twice: for the axis and the peaks, then for the times
    before, events, lines = 0, 0, 0
    histograms: QcHistograms | None = None
    for path in files:
        with ListTextReader(path, descriptor) as reader:
            for block in reader.blocks():
                if histograms is None:
                    histograms = _for_list(energies, [block[c.name] for c in energies])
                for i, column in enumerate(energies):
                    histograms.add_singles(_singles(i, block[column.name], histograms))
                events += block[energies[0].name].size
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, total)
            lines += reader.lines_read
            notes += [f"{path.name}: {damage}" for damage in reader.damages]
        before += path.stat().st_size
    if histograms is None:
        raise BadInputError("no events", where=str(files[0]))
    account: dict[str, int | float] = {"lines": lines, "events": events}
    spectra, paired = _times(files, asked, descriptor, energies, histograms, account, notes)
    return Filled(
        histograms,
        {"account": account, "has_pair_search": bool(paired), "coincident_modules": paired},
        spectra,
        notes,
    )


def _for_list(energies: list[ListColumn], samples: list[NDArray[np.float64]]) -> QcHistograms:
    width, bins = energy_axis(samples)
    is_kev = all(c.unit.lower() == "kev" for c in energies)
    settings = HistogramSettings(energy_bin=width, energy_bins=bins, coincidence_window_ps=200_000, tof_bin_ps=50)
    return QcHistograms(one_channel_modules(len(energies)), "kev" if is_kev else "arbitrary", settings)


def _singles(detector: int, energy: NDArray[np.float64], histograms: QcHistograms) -> Singles:
    measured = energy[np.isfinite(energy)]
    n = measured.size
    channel = np.full(n, detector * _CHANNELS_PER_MODULE, np.int32)
    return Singles(
        np.zeros(n, np.int64), measured.astype(np.float32), channel, np.ones(n, np.uint8), histograms.energy_unit
    )


def _times(
    files: list[Path],
    asked: Asked,
    descriptor: ListDescriptor,
    energies: list[ListColumn],
    histograms: QcHistograms,
    account: dict[str, int | float],
    notes: list[str],
) -> tuple[list[Spectrum], tuple[str, ...]]:
    """Second reading: time differences of events whose two detectors both show the photopeak (within one FWHM)."""
    from petqc.fits.energy_fits import Refusal
    from petqc.formats.list_text import ListTextReader
    from petqc.qc_input import QcInput, RunContext

    differences = [c for c in descriptor.columns if c.quantity == "time_difference"]
    if not differences:
        return [], ()
    column = differences[0]
    named = [part.strip() for part in column.detector.split(" - ")]
    chosen = [i for name in named for i, c in enumerate(energies) if c.detector == name]
    if len(chosen) != 2 and len(energies) == 2:
        chosen = [0, 1]
    if len(chosen) != 2:
        notes.append(f"Which two detectors {column.name} is the difference of is not said: no coincidence timing.")
        return [], ()
    view = QcInput(histograms, RunContext("peaks"))
    fits: list[PeakFit | None] = []
    for node in view.nodes("module"):
        fit = view.energy_fit(node)
        fits.append(None if isinstance(fit, Refusal) else fit)
    windows = [_window(fits[i]) for i in chosen]
    kept: list[NDArray[np.float64]] = []
    inside = 0
    half = sum(p.stat().st_size for p in files)
    before = half
    for path in files:
        with ListTextReader(path, descriptor) as reader:
            for block in reader.blocks():
                good = np.ones(block[column.name].size, np.bool_)
                for i, (low, high) in zip(chosen, windows, strict=True):
                    energy = block[energies[i].name]
                    good &= (energy >= low) & (energy <= high)
                inside += int(good.sum())
                value = block[column.name][good]
                kept.append(value[np.isfinite(value)])
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, 2 * half)
        before += path.stat().st_size
    values = np.concatenate(kept) if kept else np.empty(0)
    account |= {"events_in_both_photopeaks": inside, "time_differences": int(values.size)}
    for i, (low, high) in zip(chosen, windows, strict=True):
        notes.append(f"Time differences are of events with module 0.0.{i} between {low:.4g} and {high:.4g}.")
    if values.size:
        account["time_difference_median"] = float(np.median(values))
    unit_ps = _TIME_UNITS_PS.get(column.unit)
    if unit_ps is None:
        notes.append(f"Time differences are in {column.unit or 'no unit'}, not in ns: they are shown, not fitted.")
        return _raw_times(values, column.unit), ()
    a, b = chosen
    dt = np.rint(values * unit_ps).astype(np.int64)
    n = dt.size
    zeros, ones, none = np.zeros(n, np.int64), np.ones(n, np.uint8), np.zeros(n, np.float32)
    channel_a, channel_b = (np.full(n, i * _CHANNELS_PER_MODULE, np.int32) for i in (a, b))
    histograms.add_prompts(
        Coincidences(dt, zeros, none, none, channel_a, channel_b, ones, ones, histograms.energy_unit)
    )
    return [], tuple(histograms.topology.module_nodes[i] for i in chosen)


def _window(fit: PeakFit | None) -> tuple[float, float]:
    return (-np.inf, np.inf) if fit is None else (fit.mu - fit.fwhm, fit.mu + fit.fwhm)


def _raw_times(values: NDArray[np.float64], unit: str) -> list[Spectrum]:
    if values.size < 2:
        return []
    low, high = float(values.min()), float(values.max())
    width = max((high - low) / 256, 1e-9)
    edges: NDArray[np.float64] = low + width * np.arange(258, dtype=np.float64)
    counts = np.histogram(values, edges)[0].astype(np.float64)
    return [Spectrum("time", "scanner", "time difference", unit or "a.u.", edges, counts)]


def spe(files: list[Path], asked: Asked) -> Filled:
    """A spectrum in the .spe form: its channels are the energy axis; several files add up as detectors."""
    from petqc.formats.spe import read_spe

    read = [read_spe(path) for path in files]
    size = max(s.first_channel + s.counts.size for s in read)
    histograms = QcHistograms(
        one_channel_modules(len(read)), "arbitrary", HistogramSettings(energy_bin=1.0, energy_bins=max(size, 16))
    )
    notes, live = [], [s.live_s for s in read]
    for i, (path, one) in enumerate(zip(files, read, strict=True)):
        counts = one.counts
        if counts.size and int(counts.max()) > np.iinfo(np.uint32).max:
            raise BadInputError(f"a channel holds {int(counts.max())} counts", where=str(path))
        histograms.energy_counts[i, one.first_channel : one.first_channel + counts.size] = counts
        histograms.singles[i] = histograms.singles_in_window[i] = int(counts.sum())
        notes += [f"module 0.0.{i} is {path.name}, energies in its channels"]
        notes += [f"{path.name}: {damage}" for damage in one.damages]
        if asked.progress is not None:
            asked.progress(i + 1, len(files))
    known = [s for s in live if s is not None]
    context = {
        "account": {"channels": int(read[0].counts.size), "counts": int(histograms.singles.sum())},
        "live_time_s": known[0] if len(known) == 1 else None,
        "elapsed_s": read[0].real_s if len(read) == 1 else None,
        "has_pair_search": False,
    }
    return Filled(histograms, context, notes=notes)


def time_tags(files: list[Path], asked: Asked) -> Filled:
    """PicoQuant time tags: each input channel is a module; rates, gaps, and pairs of different inputs."""
    from petqc.formats.picoquant import PicoquantReader

    notes: list[str] = []
    total, before = sum(p.stat().st_size for p in files), 0
    histograms: QcHistograms | None = None
    search: PairSearch | None = None
    gaps, slices = _Gaps(), _Slices()
    account: dict[str, int | float] = {"photons": 0, "overflows": 0, "markers": 0, "syncs": 0}
    span_ps = 0
    for path in files:
        with PicoquantReader(path) as reader:
            inputs = reader.header.tags.get("HW_InpChannels", 0)
            for tags in reader.blocks():
                if histograms is None:
                    n = max(int(inputs or 0), int(tags.channel.max(initial=0)) + 1)
                    settings = HistogramSettings(coincidence_window_ps=_WINDOW_PS)
                    histograms = QcHistograms(one_channel_modules(n), "arbitrary", settings)
                    search = PairSearch(histograms.topology, _WINDOW_PS)
                channel = tags.channel.astype(np.int32) * _CHANNELS_PER_MODULE
                missing = np.full(len(tags), np.nan, np.float32)  # a time tag has no energy
                photons = Singles(tags.time_ps, missing, channel, np.ones(len(tags), np.uint8))
                histograms.add_singles(photons)
                if search is not None:
                    prompts, delayed = search.feed(photons)
                    histograms.add_prompts(prompts)
                    histograms.add_delayed(delayed)
                gaps.add(tags.time_ps)
                slices.add(tags.time_ps)
                span_ps = max(span_ps, int(tags.time_ps.max(initial=0)))
                account["photons"] += len(tags)
                account["overflows"] += tags.overflows
                account["markers"] += int(tags.marker.size)
                account["syncs"] += int(tags.sync_ps.size)
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, total)
            notes += [f"{path.name}: {damage}" for damage in reader.damages]
        before += path.stat().st_size
    if histograms is None or search is None:
        raise BadInputError("no time tags", where=str(files[0]))
    prompts, delayed = search.finish()
    histograms.add_prompts(prompts)
    histograms.add_delayed(delayed)
    silent = [i for i in range(len(histograms.topology)) if histograms.singles[i] == 0]
    notes += [f"input channel {i} (module 0.0.{i}) is silent: no photon at all" for i in silent]
    account |= gaps.account() | slices.account() | {"span_s": span_ps * 1e-12}
    both = len(histograms.topology) - len(silent) >= 2
    if not both:
        notes.append("Fewer than two channels speak: there is nothing to look for coincidences in.")
    context = {
        "account": account,
        "live_time_s": span_ps * 1e-12 or None,
        "has_pair_search": both,
        "has_energies": False,
    }
    return Filled(histograms, context, notes=notes)


class _Gaps:
    """Gaps between neighbouring tags: the smallest, the median (to 0.1 %), and steps back."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._smallest = np.iinfo(np.int64).max
        self._back = 0
        # Logarithmic bins of 0.1 %, from 1 ps to 10^12 ps.
        self._counts = np.zeros(28_000, np.int64)

    def add(self, time_ps: NDArray[np.int64]) -> None:
        if not time_ps.size:
            return
        start = time_ps[:1] if self._last is None else np.array([self._last])
        gap = np.diff(np.concatenate([start, time_ps]))
        gap = gap[1:] if self._last is None else gap
        self._last = int(time_ps[-1])
        self._back += int((gap < 0).sum())
        gap = gap[gap >= 0]
        if gap.size:
            self._smallest = min(self._smallest, int(gap.min()))
            place = (np.log(np.maximum(gap, 1)) / 1e-3).astype(np.int64)
            self._counts += np.bincount(np.minimum(place, 27_999), minlength=28_000)

    def account(self) -> dict[str, int | float]:
        n = int(self._counts.sum())
        if not n:
            return {}
        median = float(np.exp((np.searchsorted(np.cumsum(self._counts), 0.5 * n) + 0.5) * 1e-3))
        return {"smallest_gap_ps": self._smallest, "median_gap_ps": round(median), "steps_back": self._back}


class _Slices:
    """Counts of slices of 100 ms: is the rate steady beyond Poisson?"""

    _SLICE_PS = 100_000_000_000
    _MOST = 1 << 20

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)

    def add(self, time_ps: NDArray[np.int64]) -> None:
        place = time_ps // self._SLICE_PS
        place = place[(place >= 0) & (place < self._MOST)]
        if not place.size:
            return
        counts = np.bincount(place)
        size = max(counts.size, self._counts.size)
        self._counts = np.pad(self._counts, (0, size - self._counts.size))
        self._counts[: counts.size] += counts

    def account(self) -> dict[str, int | float]:
        if self._counts.size < 2:
            return {}
        return {
            "slice_100ms_lowest": int(self._counts.min()),
            "slice_100ms_highest": int(self._counts.max()),
            "slice_100ms_sd": float(self._counts.std()),
            "slice_100ms_poisson_sd": float(np.sqrt(self._counts.mean())),
        }


def janus(files: list[Path], asked: Asked) -> Filled:
    """CAEN Janus lists: high-gain values of each channel of each board."""
    from petqc.formats.janus_list import JanusReader

    notes: list[str] = []
    total, before = sum(p.stat().st_size for p in files), 0
    account: dict[str, int | float] = {"events": 0, "lines": 0}
    parts: list[tuple[NDArray[np.int32], NDArray[np.float64]]] = []
    histograms: QcHistograms | None = None
    times: list[NDArray[np.float64]] = []
    for path in files:
        with JanusReader(path) as reader:
            name = next((c for c in ("hg", "lg", "tot_ns", "energy") if c in reader.columns), None)
            for events in reader.blocks():
                account["events"] += events.n_events
                account["lines"] += len(events)
                for column, values in events.values.items():
                    known = values[np.isfinite(values)]
                    if known.size:
                        key = f"{column}_highest"
                        account[key] = max(account.get(key, -np.inf), float(known.max()))
                        account[f"{column}_zeros"] = account.get(f"{column}_zeros", 0) + int((known == 0).sum())
                times.append(events.time_us)
                channel = (events.board.astype(np.int32) << 12) | events.channel.astype(np.int32)
                energy = events.values[name] if name is not None else np.full(len(events), np.nan)
                parts.append((channel, energy))
                if histograms is None:
                    histograms = _for_janus(channel, [energy])
                for c, e in parts:
                    histograms.add_singles(
                        Singles(np.zeros(c.size, np.int64), e.astype(np.float32), c, np.ones(c.size, np.uint8))
                    )
                parts = []
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, total)
            heading = dict(reader.heading)
            notes += [f"{path.name}: {damage}" for damage in reader.damages]
        before += path.stat().st_size
        told = ", ".join(f"{k} {v}" for k, v in heading.items() if k in {"Board", "Acquisition Mode", "Run start time"})
        if told:
            notes.append(f"{path.name}: {told}.")
    if histograms is None:
        raise BadInputError("no events", where=str(files[0]))
    stamps = np.concatenate(times)
    stamps = stamps[np.isfinite(stamps)]
    span_s = float(np.ptp(stamps)) * 1e-6 if stamps.size > 1 else 0.0
    if stamps.size:
        account |= {"first_us": float(stamps.min()), "last_us": float(stamps.max())}
    notes.append("Energies are high-gain ADC values where the list has them.")
    context = {
        "account": account,
        "live_time_s": span_s or None,
        "has_pair_search": False,
        "expected_channels": False,
    }
    return Filled(histograms, context, notes=notes)


def _for_janus(channel: NDArray[np.int32], energies: Sequence[NDArray[np.float64]]) -> QcHistograms:
    width, bins = energy_axis(energies)
    settings = HistogramSettings(energy_bin=width, energy_bins=bins)
    return QcHistograms(Topology.from_channels(np.unique(channel), asics_per_module=1), "arbitrary", settings)
