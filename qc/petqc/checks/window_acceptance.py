"""How much of the photopeak the energy window lets through, and how strongly the rate depends on its edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import ANNIHILATION_KEV, Refusal
from petqc.fits.kernels import MU1, S1
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.fits import PeakFit
    from petqc.qc_input import Node, QcInput
    from petqc.results import CheckResult

_METHOD = "fitted photopeak integral inside the window over its total"


@check(
    "window_acceptance",
    title="Energy-window acceptance",
    unit="%",
    levels=("scanner", "module"),
    order=30,
    relative={"scanner": Limits(-2.0, -0.5), "module": Limits(-2.0, -0.5)},
    source="formula: daily-qc.md §2b; limits: daily-qc.md §5.2 (-0.5 %, -2 % of the baseline); without a baseline: of "
    "a peak of the measured width at 511 keV",
)
def window_acceptance(q: QcInput) -> CheckOutput:
    """Acceptance with its limits; peak to window centre and edge rate sensitivities as remarks without limits."""
    window = q.histograms.settings.energy_window
    if not q.context.has_singles or not q.context.has_energies or not q.is_kev:
        return CheckOutput()
    if window is None:
        return CheckOutput(notes=["No energy window is configured: nothing is said about its acceptance."])
    results: list[CheckResult] = []
    for node in q.nodes("scanner", "module"):
        fit = q.energy_fit(node)
        if isinstance(fit, Refusal):
            needed = node.level != "scanner"
            results.append(q.missing("window_acceptance", node, "%", fit.n, fit.reason, method=_METHOD, needed=needed))
        else:
            results += _of_node(q, node, fit, window)
    return CheckOutput(results)


def _of_node(q: QcInput, node: Node, fit: PeakFit, window: tuple[float, float]) -> list[CheckResult]:
    low, high = window
    mu, sigma = fit.mu, fit.sigma
    value = 100.0 * _inside(low, high, mu, sigma)
    slope_mu, slope_sigma = (
        (100.0 * _inside(low, high, mu + 1e-3 * sigma, sigma) - value) / (1e-3 * sigma),
        (100.0 * _inside(low, high, mu, sigma * 1.001) - value) / (1e-3 * sigma),
    )
    gradient = np.array([slope_mu, slope_sigma])
    covariance = fit.covariance[np.ix_([MU1, S1], [MU1, S1])] * fit.scale**2
    error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    limits, centred = None, None
    if node.name not in q.context.baselines.get("window_acceptance", {}):
        centred = 100.0 * _inside(low, high, ANNIHILATION_KEV, sigma)
        limits = Limits(fail_low=0.98 * centred, warn_low=0.995 * centred)
    results = [
        q.judge("window_acceptance", node, value, "%", error, fit.area, limits=limits, centre=centred, method=_METHOD),
        q.judge(
            "window_acceptance", node, mu - 0.5 * (low + high), "keV", fit.mu_error, fit.area,
            limits=Limits(), part="peak_to_centre", method="peak position minus middle of the window",
        ),
    ]  # fmt: skip
    edges, counts = q.histograms.energy_edges, q.spectrum(node.members)
    within = _between(edges, counts, low, high)
    for part, edge in (("low_edge", low), ("high_edge", high)):
        reach = 0.25 * fit.fwhm
        if edge - reach < edges[0] or edge + reach > edges[-1]:
            continue
        near = _between(edges, counts, edge - reach, edge + reach)
        rate = 100.0 * near / (2 * reach) / within if within else 0.0
        error = 100.0 * math.sqrt(max(near, 1.0)) / (2 * reach) / within if within else 0.0
        results.append(
            q.judge(
                "window_acceptance", node, rate, "%/keV", error, near,
                limits=Limits(), part=part, method="counts per keV at the edge over counts in the window",
            )
        )  # fmt: skip
    return results


def _inside(low: float, high: float, mu: float, sigma: float) -> float:
    root = sigma * math.sqrt(2.0)
    return 0.5 * (math.erf((high - mu) / root) - math.erf((low - mu) / root))


def _between(edges: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    """Counts between two energies, bins at the ends in proportion."""
    running = np.concatenate([[0.0], np.cumsum(counts)])
    ends = np.interp([low, high], edges, running)
    return float(ends[1] - ends[0])
