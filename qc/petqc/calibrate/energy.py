"""Energy calibration: keV of charge for every channel, from the lines of a source.

Charge bends: Q = (a / k) (1 - exp(-E / a)), where k is keV per unit at low energy and a the energy at which a
photosensor with all cells fired would stand if it went on as it began. The table's saturation_unit is a / k. Two lines
give both numbers; a channel whose second line is too weak takes `a` from its ASIC, which varies little from channel to
channel (light yield over cells), and says so. With more than two lines both numbers are fitted to all of them, and
the goodness of that fit says whether they lie on one curve; with two there is nothing left to test.

Only gammas that met one channel alone are looked at: what two channels
share cannot be added up before both are calibrated.

Source: daily-qc.md §2a; TOFPET2 interface reference, section 7.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from petqc.calibrate import Calibration
from petqc.calibrate.energy_bends import MODEL_POSITION, Bends, bends_of_two, kept_bends, on_all_lines
from petqc.calibrate.outcome import column, refusal_notes, refused, summary
from petqc.calibration.energy import charge_of_kev
from petqc.channel_map import SCANNER, asic_node
from petqc.errors import BadInputError, FitFailedError, TooFewCountsError
from petqc.fits import MIN_NET_COUNTS, MIN_P_VALUE
from petqc.fits.energy_fits import ANNIHILATION_KEV
from petqc.fits.peaks import candidates
from petqc.fits.photopeaks import fit_photopeak, fit_photopeaks
from petqc.formats.petsys_tables import TABLES, set_address
from petqc.limits import Limits
from petqc.results import CheckResult, Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.events import Singles
    from petqc.fits import PeakFit
    from petqc.fits.photopeaks import PeakFits

EnergySource: TypeAlias = Literal["na22", "na22-cs137", "ge68"]

SODIUM_KEV: Final = 1274.537
"""Source: evaluated nuclear data, decay of Na-22."""

CAESIUM_KEV: Final = 661.657
"""Source: evaluated nuclear data, decay of Cs-137."""

LINES: Final[dict[EnergySource, tuple[float, ...]]] = {
    "na22": (ANNIHILATION_KEV, SODIUM_KEV),
    "na22-cs137": (ANNIHILATION_KEV, SODIUM_KEV, CAESIUM_KEV),
    "ge68": (ANNIHILATION_KEV,),
}
"""Lines of a source, in keV: the first that is looked for, the one that shows the bend, and any that test it."""

TOP_UNIT: Final = 320.0
"""End of the axis: no charge converter of the readout reaches further."""
BIN_UNIT: Final = 0.5
MIN_SECOND: Final = 80
"""Fewest counts of a channel's second line."""
_RATIO = (1.5, 2.55)
"""Where the second line of Na-22 stands as a multiple of the first: 2.49 without any saturation, less with it."""
_THIRD_RATIO = (1.18, 1.32)
"""Where that of Cs-137 stands: 1.29 without saturation."""
_FIRST_RANGE = (0.79, 1.125)
"""Fit range of the first line, as multiples: up to where Lu-176 begins (597 keV), bent as it may be."""
_SECOND_RANGE = (0.90, 1.12)
"""Of the second: the Compton edge of 1275 keV lies at 0.83 of its energy, 0.88 of its charge."""
_THIRD_RANGE = (0.93, 1.12)
"""Of a line that tests the curve, beside that of 511 keV."""
_ALIGNED = np.arange(0.0, 3.0, 0.01)

RESIDUAL = Limits(-8.0, -3.0, 3.0, 8.0)
"""Of a line of the calibrated sum of an ASIC, in keV: 0.6 % and 1.6 % of 511 keV."""
RESOLUTION = Limits(warn_high=16.0, fail_high=25.0)
METHOD = "Poisson likelihood fits of lines in the charge spectra of single-hit gammas, charge bent by saturation"


class ChargeSpectra:
    """Charge spectrum of every channel, of gammas that met one channel alone.

    counts: (channels, bins) uint32 over `edges` in units of charge.
    """

    def __init__(self, channels: NDArray[np.int32]) -> None:
        self.channels = np.unique(np.asarray(channels, np.int32))
        self.edges = np.arange(0.0, TOP_UNIT + 0.5 * BIN_UNIT, BIN_UNIT)
        self.counts = np.zeros((self.channels.size, self.edges.size - 1), np.uint32)

    def add(self, singles: Singles) -> None:
        """Count singles.

        Raises:
            BadInputError: energies are not charge before its calibration.
        """
        if singles.energy_unit != "clock":
            raise BadInputError(
                f"energies are in {singles.energy_unit}, not in clocks of charge",
                do="take the recording in charge mode and process it without a keV table",
            )
        place = np.minimum(np.searchsorted(self.channels, singles.channel), self.channels.size - 1)
        bins = np.floor(singles.energy / BIN_UNIT)
        use = (singles.n_hits == 1) & (self.channels[place] == singles.channel)
        use &= (bins >= 0) & (bins < self.counts.shape[1])
        flat = place[use] * self.counts.shape[1] + bins[use].astype(np.int64)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape).astype(np.uint32)

    def first_line_counts(self, lines: int) -> float:
        """Counts around the first line that 95 % of the channels with any counts have; 0 while there is no line.

        lines: how many lines the source has: a second one tells the first apart.
        """
        alive = self.counts.any(axis=1)
        try:
            centre, _ = _where(self.edges, self.counts, np.zeros(self.channels.size, np.int32), lines=lines)
        except BadInputError:
            return 0.0
        first, last = np.searchsorted(self.edges, centre[0] * np.array(_FIRST_RANGE))
        return float(np.quantile(self.counts[alive, first:last].sum(axis=1), 0.05))


def fit(spectra: ChargeSpectra, source: EnergySource, previous: NDArray[np.void] | None = None) -> Calibration:
    """Calibrate all channels in keV.

    Args:
        spectra: of a run with the source.
        source: which one.
        previous: energy_kev table in use. With a source of one line the bend cannot be measured: it is kept from there.

    Raises:
        BadInputError: there is nothing at all, or one line and no previous table.
    """
    channels, edges, counts = spectra.channels, spectra.edges, spectra.counts
    if not counts.any():
        raise BadInputError("there are no singles of one hit", do="check the source and the bias")
    lines = LINES[source]
    if len(lines) == 1 and (previous is None or not previous.size):
        raise BadInputError(
            f"{source} has one line, which cannot show how charge bends, and there is no former energy calibration",
            do="calibrate with na22 first",
        )
    asic = channels >> 6
    centre, sigma = _where(edges, counts, asic, lines=len(lines))
    first = _lines(edges, counts, centre, sigma, _FIRST_RANGE, search=0.3, min_counts=MIN_NET_COUNTS)
    found = [first]
    notes: list[str] = []
    if len(lines) > 1:
        ratio = _ratios(edges, counts, first.mu, asic)
        at = np.nan_to_num(first.mu * ratio[:, 0], nan=0.5 * TOP_UNIT)
        second = _lines(edges, counts, at, 0.03 * at, _SECOND_RANGE, search=0.08, min_counts=MIN_SECOND)
        found.append(second)
        bends = bends_of_two(first, second, ratio, asic, lines)
        for line in lines[2:]:
            at = np.nan_to_num(bends.charge(line), nan=0.5 * TOP_UNIT)
            found.append(_lines(edges, counts, at, 0.035 * at, _THIRD_RANGE, search=0.06, min_counts=MIN_NET_COUNTS))
        if len(lines) > 2:
            bends = on_all_lines(bends, found, lines)
    else:
        bends = kept_bends(first, channels, previous, lines[0])
        notes.append(f"energy: {source} shows one line; how charge bends is kept from the former calibration.")
    reasons = {int(i): str(first.reason[i]) for i in np.flatnonzero(first.reason != "")}
    for i in np.flatnonzero(~np.isfinite(bends.k) | ~np.isfinite(bends.a)):
        reasons.setdefault(int(i), "nothing shows how its charge bends, neither its own lines nor those of its ASIC")
    for i in np.flatnonzero(bends.p_value < MIN_P_VALUE):
        reasons.setdefault(int(i), f"its lines do not lie on one curve of saturation: p = {bends.p_value[i]:.0e}")
    good = np.ones(channels.size, bool)
    good[list(reasons)] = False
    table = _table(channels[good], bends.k[good], bends.a[good])
    fallback = good & ~bends.own
    if len(lines) > 1 and fallback.any():
        notes.append(f"energy: {int(fallback.sum())} channels take the bend of their charge from their ASIC.")
    return _outcome(spectra, lines, found, bends, table, good, reasons, notes)


def _where(
    edges: NDArray[np.float64], counts: NDArray[np.uint32], asic: NDArray[np.int32], *, lines: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each ASIC's first line stands, and its width, at each of its channels; of all channels if it shows none."""

    def of(part: NDArray[np.uint32]) -> tuple[float, float] | None:
        peaks = [
            p
            for p in candidates(edges, part.sum(axis=0).astype(np.float64), min_significance=6.0)
            if 0.015 < p.sigma / p.position < 0.15
        ]
        if lines > 1:
            companions = (_RATIO, _THIRD_RATIO)[: lines - 1]
            confirmed = [
                p
                for p in peaks
                if all(any(low < q.position / p.position < high for q in peaks) for low, high in companions)
            ]
            peaks = confirmed or peaks
        return (peaks[0].position, peaks[0].sigma) if peaks else None

    whole = of(counts)
    if whole is None:
        raise BadInputError("no line stands out of the sum of all channels", do="check the source and the bias")
    centre, sigma = np.empty(asic.size), np.empty(asic.size)
    for a in np.unique(asic):
        mine = asic == a
        own = of(counts[mine])
        # An ASIC whose strongest peak is far from everybody's shows something else.
        use = own if own is not None and 0.6 < own[0] / whole[0] < 1.6 else whole
        centre[mine], sigma[mine] = use
    return centre, np.minimum(sigma, 0.05 * centre)


def _lines(
    edges: NDArray[np.float64],
    counts: NDArray[np.uint32],
    centre: NDArray[np.float64],
    sigma: NDArray[np.float64],
    relative_range: tuple[float, float],
    *,
    search: float,
    min_counts: int,
) -> PeakFits:
    """One line of every channel; a fit that runs away from a start too wide is begun again from narrower ones."""
    found = fit_photopeaks(
        edges, counts, centre, sigma, search=search, relative_range=relative_range, min_counts=min_counts
    )
    for narrower in (0.6, 0.35):
        again = np.flatnonzero((found.reason != "") & (counts.sum(axis=1) >= min_counts))
        if not again.size:
            break
        more = fit_photopeaks(
            edges, counts[again], centre[again], narrower * sigma[again],
            search=search, relative_range=relative_range, min_counts=min_counts,
        )  # fmt: skip
        better = more.reason == ""
        for name in ("mu", "mu_error", "fwhm", "fwhm_error", "area", "reason"):
            getattr(found, name)[again[better]] = getattr(more, name)[better]
    return found


def _aligned(edges: NDArray[np.float64], counts: NDArray[np.uint32], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of spectra, each on the scale of its own unit, over _ALIGNED; bins are shared out by overlap."""
    total = np.zeros(_ALIGNED.size - 1)
    for i in np.flatnonzero(np.isfinite(unit)):
        below = np.concatenate([[0.0], np.cumsum(counts[i], dtype=np.float64)])
        total += np.diff(np.interp(_ALIGNED * unit[i], edges, below))
    return total


def _ratios(
    edges: NDArray[np.float64], counts: NDArray[np.uint32], gauss: NDArray[np.float64], asic: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(channels, 2): second line over first and its error, of the channel's ASIC; NaN where the ASIC shows none."""
    ratio = np.full((asic.size, 2), np.nan)

    def of(mine: NDArray[np.bool_]) -> tuple[float, float] | None:
        aligned = _aligned(edges, counts[mine], gauss[mine])
        first = int(np.searchsorted(_ALIGNED, _RATIO[0]))
        last = int(np.searchsorted(_ALIGNED, _RATIO[1] * 1.1))
        peaks = candidates(_ALIGNED[first : last + 1], aligned[first:last], min_significance=5.0)
        for peak in peaks:
            try:
                line: PeakFit = fit_photopeak(
                    _ALIGNED, aligned, peak.position, relative_range=_SECOND_RANGE, relative_sigma=0.03,
                    min_counts=MIN_SECOND, min_p_value=0.0,
                )  # fmt: skip
            except (TooFewCountsError, FitFailedError):
                continue
            if _RATIO[0] < line.mu < _RATIO[1]:
                return line.mu, line.mu_error
        return None

    everybody = of(np.isfinite(gauss))
    for a in np.unique(asic):
        mine = asic == a
        own = of(mine & np.isfinite(gauss)) or everybody
        if own is not None:
            ratio[mine] = own
    return ratio


def _table(channels: NDArray[np.int32], k: NDArray[np.float64], a: NDArray[np.float64]) -> NDArray[np.void]:
    table = np.zeros(channels.size, TABLES["energy_kev"].dtype)
    set_address(table, channels)
    table["kev_per_unit"], table["saturation_unit"] = k, a / k
    return table


def _outcome(
    spectra: ChargeSpectra,
    lines: tuple[float, ...],
    found: list[PeakFits],
    bends: Bends,
    table: NDArray[np.void],
    good: NDArray[np.bool_],
    reasons: dict[int, str],
    notes: list[str],
) -> Calibration:
    channels, first = spectra.channels, found[0]
    n = np.nan_to_num(first.area, nan=0.0).astype(np.int64)
    with np.errstate(invalid="ignore"):
        slope = np.exp(-lines[0] / np.where(np.isfinite(bends.a), bends.a, np.inf))  # dQ / (dE / k) at the line
        resolution = 100.0 * first.fwhm * bends.k / slope / lines[0]
        scale_error = 100.0 * bends.k_error / bends.k
        at_line = 100.0 * first.mu_error / first.mu / slope
    columns = [
        column("energy_scale", "keV/unit", bends.k, bends.k_error, n, Limits(), reasons),
        column("energy_scale_error", "%", scale_error, np.zeros(n.size), n, Limits(), reasons),
        column("energy_error_511", "%", at_line, np.zeros(n.size), n, Limits(warn_high=0.5, fail_high=2.0), reasons),
        column("energy_bend", "keV", bends.a, bends.a_error, n, Limits(), reasons),
        column(
            "energy_resolution", "%", resolution, resolution * first.fwhm_error / first.fwhm, n, RESOLUTION, reasons
        ),
    ]
    if len(found) > 1:
        second = found[1]
        k, a = (np.where(good, x, np.nan) for x in (bends.k, bends.a))
        expected = charge_of_kev(
            np.full(k.size, lines[1], np.float32), k.astype(np.float32), (a / k).astype(np.float32)
        )
        slope = np.exp(-lines[1] / a)
        residual = (second.mu - expected) * k / slope
        missing = {int(i): str(second.reason[i]) for i in np.flatnonzero(second.reason != "")} | reasons
        columns.append(
            column(
                "energy_residual_1275",
                "keV",
                residual,
                second.mu_error * k / slope,
                np.nan_to_num(second.area, nan=0.0).astype(np.int64),
                Limits(),
                missing,
            )
        )
    if len(lines) > 2:
        tested = [found[2 + i] for i in range(len(lines) - 2)]
        counted = np.nan_to_num(np.min([t.area for t in tested], axis=0), nan=0.0).astype(np.int64)
        columns.append(column("energy_curve_p", "", bends.p_value, np.zeros(n.size), counted, Limits(), reasons))
    results = [refused("energy", channels, reasons)]
    if len(lines) > 1:
        fallback = int((good & ~bends.own).sum())
        limits = Limits(warn_high=0.1 * channels.size, fail_high=float(channels.size))
        results.append(
            CheckResult.measured(
                "energy_channels_bend_of_asic", SCANNER, fallback, "channels", 0.0, channels.size, limits, method=METHOD
            )
        )
    results += summary(
        columns[2], channels, limits=Limits(warn_high=0.5, fail_high=2.0), asic_limits=Limits(), method=METHOD
    )
    results += summary(columns[4], channels, limits=RESOLUTION, asic_limits=RESOLUTION, method=METHOD)
    checks, pictures = _calibrated_sums(spectra, lines, bends, good)
    return Calibration(
        "energy", {"energy_kev": table}, channels, [*results, *checks], columns, pictures,
        [*notes, *refusal_notes("energy", reasons)],
    )  # fmt: skip


def _calibrated_sums(
    spectra: ChargeSpectra, lines: tuple[float, ...], bends: Bends, good: NDArray[np.bool_]
) -> tuple[list[CheckResult], list[Spectrum]]:
    """Where the lines stand in the calibrated spectra of scanner and ASICs: what is left after all."""
    kev = np.arange(0.0, 1600.1, 5.0)
    asic = spectra.channels >> 6
    # The sum over an ASIC is large enough to show what the model leaves; it is not refused for that.
    per_channel = np.zeros((spectra.channels.size, kev.size - 1))
    for i in np.flatnonzero(good):
        s = bends.a[i] / bends.k[i]
        below = np.concatenate([[0.0], np.cumsum(spectra.counts[i], dtype=np.float64)])
        at = kev / bends.k[i] if np.isinf(s) else -s * np.expm1(-kev / bends.a[i])
        per_channel[i] = np.diff(np.interp(at, spectra.edges, below))
    places = [(SCANNER, good)] + [(asic_node(int(a) << 6), good & (asic == a)) for a in np.unique(asic)]
    results: list[CheckResult] = []
    pictures: list[Spectrum] = []
    for node, mine in places:
        counts = per_channel[mine].sum(axis=0)
        drawn: NDArray[np.float64] | None = None
        for line in lines:
            name = f"energy_residual_{line:.0f}"
            span, least = (_FIRST_RANGE, 200) if line == lines[0] else (_SECOND_RANGE, MIN_SECOND)
            if line in lines[2:]:
                span = _THIRD_RANGE
            try:
                peak = fit_photopeak(
                    kev, counts, line, relative_range=span, relative_sigma=0.04, min_counts=least, min_p_value=0.0,
                )  # fmt: skip
            except (TooFewCountsError, FitFailedError) as why:
                results.append(
                    CheckResult.missing(name, node, "keV", int(counts.sum()), RESIDUAL, str(why), method=METHOD)
                )
                continue
            results.append(
                CheckResult.measured(
                    name,
                    node,
                    peak.mu - line,
                    "keV",
                    float(np.hypot(peak.mu_error, MODEL_POSITION * line)),
                    int(peak.area),
                    RESIDUAL,
                    method=METHOD,
                )
            )
            model, _ = peak.on(kev)
            drawn = model if drawn is None else np.where(np.isfinite(model), model, drawn)
        pictures.append(Spectrum("energy", node, "energy", "keV", kev, counts, drawn))
    return results, pictures
