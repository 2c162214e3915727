"""CTR by the NEMA rule (parabola and linear interpolation), only where there are counts enough for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits.peaks import nema_width
from petqc.fits.time_peaks import rebinned, rough_time_peak
from petqc.limits import Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.checks import Level
    from petqc.qc_input import QcInput

MIN_EVENTS = 3_000
"""In bins of a tenth of the FWHM the rule reads 2 % too small here and scatters by 5 %; below it is of no use.
Source: daily-qc.md §0.4 and §2c, table of the NEMA rule's bias."""
GAUSSIAN_RATIO = 1.823
"""FWTM over FWHM of a Gaussian. Source: daily-qc.md §2c."""
_TOO_FEW = "{:.0f} coincidences in the peak; below {} this rule reads too small"
_TOYS = 200
_SITE = Limits(warn_high=650.0, fail_high=750.0)
_METHOD = "NEMA NU 2-2018 style: background subtracted, parabola, linear interpolation"


@check(
    "ctr_nema",
    title="CTR (NEMA style)",
    unit="ps",
    levels=("scanner",),
    order=50,
    limits={"scanner": _SITE},
    relative={"scanner": Limits(warn_high=3.0, fail_high=10.0)},
    source="formula: daily-qc.md §2c (rule and its bias); limits: daily-qc.md §5.2 (CTR, FWTM/FWHM 1.95 and 2.2)",
)
def ctr_nema(q: QcInput) -> CheckOutput:
    """FWHM of the system's time histogram, and FWTM over FWHM (1.823 for a Gaussian).

    The uncertainty is what the rule does to 200 histograms drawn from this one: spread and bias together.
    """
    h = q.histograms
    if q.without_tof:
        return q.not_applicable("ctr_nema", "ps", q.without_tof)
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    edges, counts = q.time_spectrum(-1 if h.n_pairs > 1 else 0)
    total = int(counts.sum())
    try:
        edges, counts, background = _prepared(edges, counts)
        value = np.array(_widths(edges, counts, background))
        toys = _toys(edges, counts, background)
    except (FitFailedError, TooFewCountsError) as problem:
        where: tuple[Level, str] = ("scanner", SCANNER)
        return CheckOutput([q.missing("ctr_nema", where, "ps", total, str(problem), method=_METHOD, needed=False)])
    net = float((counts - background).sum())
    errors = np.hypot(toys.std(axis=0, ddof=1), toys.mean(axis=0) - value)
    bin_ps = float(edges[1] - edges[0])
    limits = Limits() if q.context.source in {"extended", "none"} else None
    return CheckOutput(
        [
            q.judge(
                "ctr_nema", ("scanner", SCANNER), value[0], "ps", errors[0], net, limits=limits,
                method=f"{_METHOD}, bins of {bin_ps:.0f} ps",
            ),
            q.judge(
                "ctr_nema", ("scanner", SCANNER), value[1], "", errors[1], net,
                limits=Limits(warn_high=1.95, fail_high=2.2) if q.is_kev else Limits(), part="fwtm_over_fwhm",
                centre=GAUSSIAN_RATIO, method=_METHOD,
            ),
        ]
    )  # fmt: skip


def _prepared(
    edges: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Bins of about a tenth of the FWHM, and the background per bin from what lies far from the peak."""
    if counts.sum() < MIN_EVENTS:
        raise TooFewCountsError(_TOO_FEW.format(counts.sum(), MIN_EVENTS))
    position, fwhm, _ = rough_time_peak(edges, counts)
    width = float(edges[1] - edges[0])
    every = max(1, math.floor(fwhm / 10.0 / width + 0.5))
    counts = rebinned(counts, every)
    edges = edges[::every][: counts.size + 1]
    centres = 0.5 * (edges[:-1] + edges[1:])
    far = np.abs(centres - position) > 3.0 * fwhm
    if far.sum() < 4:
        raise FitFailedError("the time axis ends too near the peak to know the background")
    background = float(counts[far].mean())
    net = float((counts - background).sum())
    if net < MIN_EVENTS:
        raise TooFewCountsError(_TOO_FEW.format(net, MIN_EVENTS))
    return edges, counts, background


def _widths(edges: NDArray[np.float64], counts: NDArray[np.float64], background: float) -> tuple[float, float]:
    half = nema_width(edges, counts, background).width
    return half, nema_width(edges, counts, background, 0.1).width / half


def _toys(edges: NDArray[np.float64], counts: NDArray[np.float64], background: float) -> NDArray[np.float64]:
    """The same histogram with fresh Poisson noise, many times: the rule's scatter, and which way noise pulls it."""
    rng = np.random.default_rng(2018)  # the same run must give the same document
    found = []
    for _ in range(_TOYS):
        try:
            found.append(_widths(edges, rng.poisson(counts).astype(np.float64), background))
        except FitFailedError:
            continue
    if len(found) < _TOYS // 2:
        raise FitFailedError("the rule finds no peak in half of the histograms drawn from this one")
    return np.array(found)
