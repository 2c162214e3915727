"""CTR by the NEMA rule (parabola and linear interpolation), only where there are counts enough for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.errors import FitFailedError
from petqc.limits import Limits
from petqc.peaks import nema_width
from petqc.qc_input import Refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.fits import PeakFit
    from petqc.qc_input import QcInput

MIN_EVENTS = 10_000
"""Below it the rule reads too small by more than 1 % and scatters by more than 3 %. Source: daily-qc.md §0.4, §2c."""
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

    The uncertainty is what the rule does to 200 histograms drawn from the fit: spread and bias together.
    """
    h = q.histograms
    if not q.context.has_pair_search or h.n_pairs == 0:
        return CheckOutput()
    fit = q.time_fit(-1 if h.n_pairs > 1 else 0)
    if isinstance(fit, Refusal):
        result = q.missing("ctr_nema", ("scanner", SCANNER), "ps", fit.n, fit.reason, method=_METHOD, needed=False)
        return CheckOutput([result])
    if fit.area < MIN_EVENTS:
        reason = f"{fit.area:.0f} coincidences in the peak; below {MIN_EVENTS} this rule reads too small"
        result = q.missing("ctr_nema", ("scanner", SCANNER), "ps", fit.area, reason, method=_METHOD, needed=False)
        return CheckOutput([result])
    edges, counts, model, background = _rebinned(fit)
    try:
        width, ratio = _widths(edges, counts, background)
        toys = _toys(edges, model, background)
    except FitFailedError as error:
        result = q.missing("ctr_nema", ("scanner", SCANNER), "ps", fit.area, str(error), method=_METHOD, needed=False)
        return CheckOutput([result])
    bias = toys.mean(axis=0) - np.array([fit.fwhm, fit.fwtm / fit.fwhm])
    spread = toys.std(axis=0, ddof=1)
    errors = np.hypot(spread, bias)
    bin_ps = float(edges[1] - edges[0])
    limits = Limits() if q.context.source in {"extended", "none"} else None
    return CheckOutput(
        [
            q.judge(
                "ctr_nema", ("scanner", SCANNER), width, "ps", float(errors[0]), fit.area, limits=limits,
                method=f"{_METHOD}, bins of {bin_ps:.0f} ps",
            ),
            q.judge(
                "ctr_nema", ("scanner", SCANNER), ratio, "", float(errors[1]), fit.area,
                limits=Limits(warn_high=1.95, fail_high=2.2), part="fwtm_over_fwhm", method=_METHOD,
            ),
        ]
    )  # fmt: skip


def _rebinned(
    fit: PeakFit,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Bins of about a tenth of the FWHM, by joining neighbours; model and background with them."""
    width = float(fit.edges[1] - fit.edges[0])
    every = max(1, math.floor(fit.fwhm / 10.0 / width + 0.5))
    n = fit.counts.size // every
    parts = [a[: n * every].reshape(n, every).sum(axis=1) for a in (fit.counts, fit.model, fit.background)]
    return fit.edges[: n * every + 1 : every], parts[0], parts[1], parts[2]


def _widths(
    edges: NDArray[np.float64], counts: NDArray[np.float64], background: NDArray[np.float64]
) -> tuple[float, float]:
    half = nema_width(edges, counts, background).width
    return half, nema_width(edges, counts, background, 0.1).width / half


def _toys(
    edges: NDArray[np.float64], model: NDArray[np.float64], background: NDArray[np.float64]
) -> NDArray[np.float64]:
    rng = np.random.default_rng(2018)  # the same run must give the same document
    return np.array([_widths(edges, rng.poisson(model).astype(np.float64), background) for _ in range(_TOYS)])
