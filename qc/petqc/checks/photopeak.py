"""Where the 511 keV photopeak stands, per scanner, module, ASIC and channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.check_input import channel_name
from petqc.checks import CheckOutput, check
from petqc.fits import MIN_NET_COUNTS
from petqc.fits.energy_fits import ANNIHILATION_KEV, Refusal
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn, Spectrum
from petqc.siblings import spread_beyond
from petqc.statistics import channel_sigmas, robust_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.qc_input import QcInput
    from petqc.results import CheckResult

_METHOD = "Poisson likelihood: Gauss + missing light + erfc step + line + Lu-176 edge, 400-620 keV around the peak"
_NAMED = 5
_RANGE = 0.5, 1.3
"""Part of a spectrum, in multiples of the peak, in which the shapes of channels without a number are compared."""
_FEWEST = 8
"""Fewer channels do not say what is usual."""
_GONE = 0.6
"""Share of counts in the peak, relative to the usual one, above which a peak is there: crystals at the corners of a
module lose a fifth of it to gammas that scatter out, and with few counts have no number more often than others."""
_METHOD_LINE = "Poisson likelihood: Gauss + erfc step + line, around the most significant line"


def _around_511(warn_percent: float, fail_percent: float) -> Limits:
    e = ANNIHILATION_KEV / 100.0
    return Limits(
        *(ANNIHILATION_KEV + share * e for share in (-fail_percent, -warn_percent, warn_percent, fail_percent))
    )


def _deviation(warn_percent: float, fail_percent: float) -> Limits:
    e = ANNIHILATION_KEV / 100.0
    return Limits(*(share * e for share in (-fail_percent, -warn_percent, warn_percent, fail_percent)))


@check(
    "photopeak",
    title="Photopeak position",
    unit="keV",
    levels=("scanner", "module", "asic", "channel"),
    order=10,
    limits={
        "scanner": _around_511(1.0, 3.0),
        "module": _around_511(1.0, 3.0),
        "asic": _around_511(1.0, 3.0),
        "channel": _deviation(3.0, 8.0),
    },
    relative={
        "scanner": Limits(-3.0, -1.0, 1.0, 3.0),
        "module": Limits(-3.0, -1.0, 1.0, 3.0),
        "asic": Limits(-3.0, -1.0, 1.0, 3.0),
    },
    source="formula: daily-qc.md §2a; limits: daily-qc.md §5.2, rows photopeak of block and crystal; a crystal with "
    "counts and without a photopeak is a warning, a hundredth of all a fail as of dead ones: §5.2 (missing data is no "
    "pass)",
)
def photopeak(q: QcInput) -> CheckOutput:
    """Position of the photopeak in keV; without a calibration in keV it is given in the unit there is, unjudged."""
    if not q.context.has_singles:
        return CheckOutput(notes=["No singles were recorded: nothing is said about energies."])
    if not q.context.has_energies:
        return CheckOutput(notes=["No energies were recorded: nothing is said about them."])
    h = q.histograms
    results, spectra, notes = [], [], []
    method = _METHOD if q.is_kev else _METHOD_LINE
    nodes = list(q.nodes("scanner", "module", "asic"))
    asics = [fit for n in nodes if n.level == "asic" and not isinstance(fit := q.energy_fit(n), Refusal)]
    spread = spread_beyond((f.mu for f in asics), (f.mu_error for f in asics))
    for node in nodes:
        fit = q.energy_fit(node)
        counts = q.spectrum(node.members)
        # Uncalibrated modules do not add up, and one module alone is the scanner.
        lone = node.level == "scanner" and (len(h.topology.module_nodes) == 1 or not q.is_kev)
        if isinstance(fit, Refusal):
            if not lone and not (node.level == "asic" and fit.n == 0):  # a silent ASIC is the dead channels' business
                # The sum over modules is a summary: if a module speaks for itself, it need not.
                needed = node.level != "scanner" and (q.is_kev or node.members.size > 1)
                results.append(
                    q.missing("photopeak", node, q.energy_unit, fit.n, fit.reason, method=method, needed=needed)
                )
        elif not lone:
            results.append(
                q.judge(
                    "photopeak", node, fit.mu, q.energy_unit, fit.mu_error, fit.area, method=method,
                    spread=spread if node.level == "asic" else 0.0,
                )
            )  # fmt: skip
        if node.level != "asic":
            shown = None if isinstance(fit, Refusal) else fit.on(h.energy_edges)
            humps = q.humps(node)
            if shown is None and humps is not None:
                shown = humps.fit.on(h.energy_edges)
            spectra.append(
                Spectrum(
                    "energy",
                    node.name,
                    "energy",
                    q.energy_unit,
                    h.energy_edges,
                    counts,
                    fit=None if shown is None else shown[0],
                    background=None if shown is None else shown[1],
                    window=h.settings.energy_window,
                    text=fit.reason if isinstance(fit, Refusal) else "",
                )
            )
    if not q.is_kev:
        results += _lines(q)
        notes.append(f"Energies are in {q.energy_unit}, not calibrated in keV: peak positions have no limits.")
    channels = q.channel_fits()
    if q.is_kev:
        status = q.channel_status("photopeak", channels.mu, channels.mu_error, ANNIHILATION_KEV)
        results.append(q.channels_outside("photopeak", status))
        is_other = _is_other(q, ~np.isfinite(channels.mu))
        results += _without(q, is_other)
        # What has counts and no number is no pass: it is flagged like what has a wrong one.
        status[is_other] = str(Status.WARN)
    else:
        known = np.isfinite(channels.mu)
        status = np.where(known, str(Status.NO_LIMITS), str(Status.INVALID)).astype(object)
    column = ChannelColumn(
        "photopeak",
        q.energy_unit,
        channels.mu,
        channels.mu_error,
        np.nan_to_num(channels.area).astype(np.int64),
        status,
        channels.reason,
    )
    return CheckOutput(results, column, spectra, notes)


def _is_other(q: QcInput, has_none: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Channels without a number whose spectra differ from their module's: no chance of the fit.

    Of the counts of a fit's range, the share within one FWHM of the module's peak is held against that of its other
    channels: far fewer there, and the peak is gone or elsewhere.
    """
    h = q.histograms
    other = np.zeros(has_none.size, np.bool_)
    middle = 0.5 * (h.energy_edges[:-1] + h.energy_edges[1:])
    for node in q.nodes("module"):
        fit = q.energy_fit(node)
        if isinstance(fit, Refusal) or not has_none[node.members].any():
            continue
        near = np.abs(middle - fit.mu) < fit.fwhm
        wide = (middle > _RANGE[0] * fit.mu) & (middle < _RANGE[1] * fit.mu)
        counts = h.energy_counts[node.members][:, wide].sum(axis=1, dtype=np.float64)
        share = h.energy_counts[node.members][:, near].sum(axis=1, dtype=np.float64) / np.maximum(counts, 1.0)
        usual = share[~has_none[node.members] & (counts >= MIN_NET_COUNTS)]
        if usual.size < _FEWEST:
            continue
        median = float(np.median(usual))
        noise = np.hypot(robust_spread(usual), np.sqrt(median * (1.0 - median) / np.maximum(counts, 1.0)))
        lowest = np.minimum(median - channel_sigmas(has_none.size) * noise, _GONE * median)
        is_low = (counts >= MIN_NET_COUNTS) & (share < lowest)
        other[node.members] = has_none[node.members] & is_low
    return other


def _without(q: QcInput, is_other: NDArray[np.bool_]) -> list[CheckResult]:
    """How many channels have counts enough and no photopeak; nothing where there are none."""
    found = np.flatnonzero(is_other)
    if not found.size:
        return []
    names = ", ".join(channel_name(int(q.topology.channels[i])) for i in found[:_NAMED])
    more = f" and {found.size - _NAMED} more" if found.size > _NAMED else ""
    n, limits = len(q.topology), Limits(warn_high=0.0, fail_high=max(0.01 * len(q.topology), 1.0))
    return [
        q.judge(
            "photopeak", ("scanner", SCANNER), float(found.size), "channels", 0.0, n, limits=limits,
            part="channels_without", reason=f"{names}{more}: counts enough, and not the shape of a photopeak",
        )
    ]  # fmt: skip


def _lines(q: QcInput) -> list[CheckResult]:
    """Every line of detectors that are one channel each, for a calibration by hand."""
    found = []
    for node in q.nodes("module"):
        if node.members.size > 1:
            continue
        for number, fit in enumerate(q.lines(node), 1):
            found.append(
                q.judge(
                    "photopeak", node, fit.mu, q.energy_unit, fit.mu_error, fit.area, limits=Limits(),
                    part=f"line_{number}", method=f"Gauss + step + line, FWHM {fit.fwhm:.4g} {q.energy_unit}",
                )
            )  # fmt: skip
    return found
