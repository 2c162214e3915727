"""Time offsets of channels from the coincidences of a point source: what is left of each is added to the table in use.

dt = t_a - t_b minus the flight from the source holds o_a - o_b, noise, randoms, and depth: of two crystals that face
each other, the one further out was hit deeper, and what is absorbed deeper arrives earlier (light is slower in the
crystal than the gamma). The place of the source comes from the lines between the crystals alone: a shift of it changes
every dt exactly as some set of offsets does, so times cannot show it.

Source: daily-qc.md §2d; TOFPET2 interface reference, section 7.1 (time offset table).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibrate import Calibration
from petqc.calibrate.outcome import column, refusal_notes, refused, summary
from petqc.channel_map import SCANNER
from petqc.errors import BadInputError, FitFailedError, TooFewCountsError
from petqc.fits import MIN_NET_COUNTS
from petqc.fits.depth import USUAL_CRYSTAL_MM, depth_classes
from petqc.fits.offsets import MIN_PAIRS, Offsets, solve_offsets
from petqc.fits.source_place import SourcePlace, find_source
from petqc.fits.time_peaks import fit_time_peak, rough_time_peak
from petqc.formats.petsys_tables import TABLES, absolute_of, set_address
from petqc.limits import Limits
from petqc.results import CheckResult, Spectrum
from petqc.statistics import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.events import Coincidences

C_MM_PER_PS: Final = 0.299792458
MOST_PAIRS: Final = 20_000_000
DEPTH_PS: Final = 1.7
"""What the classes of depth leave to a single channel, rms, on simulated 20 mm crystals; part of its error."""
_FIRST_BIN_PS = 50.0

MOVED = Limits(warn_low=-75.0, warn_high=75.0)
"""Of a module's mean against the table in use. Beyond, something was changed or broke: worth a look, no reason not to
calibrate. Source: fail limit of the daily check, daily-qc.md §5.2."""
PLACE = Limits(warn_high=5.0, fail_high=20.0)
"""Distance of the source from where it was said to be, mm. Source: daily-qc.md §5.2."""
ERROR = Limits(warn_high=10.0, fail_high=40.0)
"""Standard deviation of a channel's offset, ps; the fail limit is the daily check's warn limit of a channel."""
METHOD = "offset of dt = t_a - t_b, robust least squares on the graph of coincidences, source fitted from their lines"


class PairList:
    """Coincidences of a run, bounded: the first MOST_PAIRS are kept, all are counted."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.seen = 0
        self.per_channel = np.zeros(len(topology), np.int64)
        self._kept = 0
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []

    def add(self, pairs: Coincidences) -> None:
        """Take coincidences; those of channels without a place in the topology are not used."""
        a, b = self.topology.index_of(pairs.channel_a), self.topology.index_of(pairs.channel_b)
        known = (a >= 0) & (b >= 0)
        a, b = a[known], b[known]
        self.seen += int(a.size)
        self.per_channel += np.bincount(a, minlength=self.per_channel.size)
        self.per_channel += np.bincount(b, minlength=self.per_channel.size)
        room = MOST_PAIRS - self._kept
        if room > 0 and a.size:
            dt = (pairs.time_a_ps[known] - pairs.time_b_ps[known]).astype(np.float32)
            self._parts.append((a[:room], b[:room], dt[:room]))
            self._kept += int(min(room, a.size))

    def nearly_all_have(self) -> float:
        """Coincidences that 95 % of the channels with any have."""
        some = self.per_channel[self.per_channel > 0]
        return float(np.quantile(some, 0.05)) if some.size else 0.0

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Positions of both channels in the topology, and t_a - t_b in ps."""
        if not self._parts:
            return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)
        a, b, dt = (np.concatenate([part[k] for part in self._parts]) for k in range(3))
        return a, b, dt.astype(np.float64)


def fit(
    pairs: PairList,
    previous: NDArray[np.void] | None,
    *,
    window_ps: float,
    source_mm: tuple[float, float, float] | None = None,
    crystal_mm: float = USUAL_CRYSTAL_MM,
) -> Calibration:
    """New time offsets of all channels that coincidences connect.

    Args:
        pairs: of a run with a point source, taken with the previous table applied.
        previous: time_offset table in use, None: none.
        window_ps: full width of the coincidence window.
        source_mm: place of the source; None: found from the coincidences.
        crystal_mm: length of the crystals, which sorts pairs by depth.

    Raises:
        BadInputError: no positions of crystals, or hardly any coincidences.
    """
    topology = pairs.topology
    xyz = topology.xyz_mm.astype(np.float64)
    if not np.isfinite(xyz).all() or not len(topology):
        raise BadInputError("the configuration has no channel map", do="time offsets need the places of the crystals")
    a, b, dt = pairs.columns()
    try:
        place = (
            find_source(topology, a, b, crystal_mm=crystal_mm)
            if source_mm is None
            else SourcePlace(source_mm, (0.0, 0.0, 0.0), 0)
        )
        source = np.array(place.xyz_mm)
        flight = np.linalg.norm(xyz - source, axis=1) / C_MM_PER_PS
        left = dt - (flight[a] - flight[b])
        start, sigma = _module_start(topology, a, b, left, window_ps)
        solved = solve_offsets(
            a, b, left, len(topology), window_ps=window_ps, start_ps=start, sigma_ps=sigma,
            without_pattern=False,
            depths=depth_classes(topology, xyz - source, a, b, crystal_mm), module=topology.module, group=topology.asic,
        ).with_errors()  # fmt: skip
    except TooFewCountsError as error:
        raise BadInputError(str(error), do="check the source, its place and the coincidence window") from error
    return _outcome(pairs, previous, solved, place, left, window_ps)


def _module_start(
    topology: Topology, a: NDArray[np.int32], b: NDArray[np.int32], left: NDArray[np.float64], window_ps: float
) -> tuple[NDArray[np.float64], float]:
    """Module offsets from the peaks of pairs of modules, at each channel, and a width to start from."""
    n = len(topology.module_nodes)
    pair = topology.module[a].astype(np.int64) * n + topology.module[b]
    edges = np.arange(-window_ps / 2.0, window_ps / 2.0 + 1.0, _FIRST_BIN_PS)
    rows, right, widths = [np.ones(n) / n], [0.0], [math.inf]
    numbers, counts = np.unique(pair, return_counts=True)
    for number in numbers[counts >= MIN_NET_COUNTS]:
        histogram, _ = np.histogram(left[pair == number], bins=edges)
        mu, fwhm, _ = rough_time_peak(edges, histogram.astype(np.float64))
        row = np.zeros(n)
        row[number // n] += 1.0
        row[number % n] -= 1.0
        rows.append(row)
        right.append(mu)
        widths.append(fwhm / FWHM_OF_SIGMA)
    modules, *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    start: NDArray[np.float64] = modules[topology.module]
    return start, min(*widths, 1000.0)


def _outcome(
    pairs: PairList,
    previous: NDArray[np.void] | None,
    solved: Offsets,
    place: SourcePlace,
    left: NDArray[np.float64],
    window_ps: float,
) -> Calibration:
    topology = pairs.topology
    main = solved.component == 0
    reasons: dict[int, str] = {}
    for i in np.flatnonzero(~main):
        few = solved.component[i] < 0
        reasons[int(i)] = (
            f"fewer than {MIN_PAIRS} coincidences" if few else "no coincidences connect it with most of the scanner"
        )
    n_pairs = np.rint(solved.pairs).astype(np.int64)
    change = np.where(main, solved.offset_ps, np.nan)
    error = np.where(main, np.hypot(solved.error_ps, DEPTH_PS), np.nan)
    columns = [
        column("time_offset_change", "ps", change, error, n_pairs, Limits(), reasons),
        column("time_offset_error", "ps", error, np.zeros(error.size), n_pairs, ERROR, reasons),
    ]
    results = [refused("time_offset", topology.channels, reasons)]
    # Groups without a connection are a matter of what coincides with what, not of a limit of time.
    results.append(
        CheckResult.measured(
            "time_offset_groups", SCANNER, solved.n_components, "groups", 0.0, int(main.sum()),
            Limits(warn_high=1.0), method=METHOD,
        )
    )  # fmt: skip
    distance = math.dist(place.xyz_mm, (0.0, 0.0, 0.0))
    if place.pairs:
        spread = math.sqrt(sum(e**2 for e in place.error_mm))
        results.append(
            CheckResult.measured("time_offset_source_place", SCANNER, distance, "mm", spread, place.pairs, PLACE)
        )
    results += summary(columns[1], topology.channels, limits=ERROR, asic_limits=Limits(), method=METHOD)
    for number, node in enumerate(topology.module_nodes):
        inside = np.flatnonzero((topology.module == number) & main)
        if not inside.size:
            why = "no channel of this module is connected with the rest"
            results.append(CheckResult.missing("time_offset_change", node, "ps", 0, MOVED, why, method=METHOD))
            continue
        results.append(
            CheckResult.measured(
                "time_offset_change", node, float(solved.offset_ps[inside].mean()), "ps",
                solved.mean_error(inside, np.flatnonzero(main)), int(n_pairs[inside].sum()),
                MOVED if previous is not None and previous.size else Limits(), method=METHOD,
            )
        )  # fmt: skip
    width, picture = _after(pairs, solved, left, window_ps)
    results.append(width)
    notes = refusal_notes("time_offset", reasons)
    x, y, z = place.xyz_mm
    notes.append(f"time_offset: source {'found' if place.pairs else 'given'} at {x:.2f}, {y:.2f}, {z:.2f} mm.")
    if pairs.seen > left.size:
        notes.append(f"time_offset: the first {left.size} of {pairs.seen} coincidences were used.")
    return Calibration(
        "time-offsets",
        {"time_offset": _table(topology.channels, main, solved.offset_ps, previous)},
        topology.channels, results, columns, [picture], notes,
    )  # fmt: skip


def _after(
    pairs: PairList, solved: Offsets, left: NDArray[np.float64], window_ps: float
) -> tuple[CheckResult, Spectrum]:
    """Time differences with the new offsets, and their width."""
    a, b, _ = pairs.columns()
    offset = np.where(solved.component == 0, solved.offset_ps, np.nan)
    corrected = left - (offset[a] - offset[b])
    corrected = corrected[np.isfinite(corrected)]
    half = min(window_ps / 2.0, 2000.0)
    edges = np.arange(-half, half + 1.0, 10.0)
    counts = np.histogram(corrected, bins=edges)[0].astype(np.float64)
    method = "likelihood fit of the time differences with the new offsets, flight times of the source taken out"
    model: NDArray[np.float64] | None = None
    try:
        # A million pairs show that depth is not Gaussian; the width is wanted all the same.
        peak = fit_time_peak(edges, counts, min_p_value=0.0)
        model, _ = peak.on(edges)
        width = CheckResult.measured(
            "time_offset_pair_fwhm", SCANNER, peak.fwhm, "ps", peak.fwhm_error, int(peak.area), Limits(), method=method
        )
    except (TooFewCountsError, FitFailedError) as why:
        width = CheckResult.missing(
            "time_offset_pair_fwhm", SCANNER, "ps", corrected.size, Limits(), str(why), method=method
        )
    return width, Spectrum("time_offsets", SCANNER, "dt", "ps", edges, counts, model)


def _table(
    channels: NDArray[np.int32],
    main: NDArray[np.bool_],
    offset_ps: NDArray[np.float64],
    previous: NDArray[np.void] | None,
) -> NDArray[np.void]:
    """The table in use with what was solved added: T - t0 is then right. Other channels stay as they were."""
    old: dict[int, float] = {}
    if previous is not None:
        old = dict(zip(absolute_of(previous).tolist(), previous["t0_ps"].tolist(), strict=True))
    new = dict(old)
    for i in np.flatnonzero(main):
        channel = int(channels[i])
        new[channel] = round(old.get(channel, 0.0) + float(offset_ps[i]), 2)
    number = np.array(sorted(new), np.int64)
    table = np.zeros(number.size, TABLES["time_offset"].dtype)
    set_address(table, number)
    table["t0_ps"] = [new[int(i)] for i in number]
    return table
