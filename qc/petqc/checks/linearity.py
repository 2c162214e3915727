"""Whether energies are linear: two lines of known energy against each other."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.errors import QcError
from petqc.fits.energy_fits import ANNIHILATION_KEV, Refusal
from petqc.fits.photopeaks import fit_photopeak
from petqc.limits import Limits
from petqc.siblings import FEWEST, spread_of

if TYPE_CHECKING:
    from petqc.fits import PeakFit
    from petqc.qc_input import Node, QcInput
    from petqc.results import CheckResult

SODIUM_KEV = 1274.537
"""Gamma of Na-22. Source: evaluated nuclear data."""
RANGE = (0.92, 1.12)
"""Fit range of that line as multiples: its Compton edge lies at 0.83."""
MIN_COUNTS = 500
KNOWN_TO = 0.2
"""Per cent, of a node that is one of many: a fifth of the warn limit. Known worse, it is not judged by itself, but with
its module or the scanner."""
MODEL = 3e-4
"""Relative, of the ratio: what the shape of the upper line leaves, and light below the hit threshold, of which more
gets lost when a gamma scatters more often."""
_BLOCK = Limits(-3.0, -1.0, 1.0, 3.0)
_SODIUM = "energy of the 1275 keV line over that of 511 keV, measured over true, less one"
_LUTETIUM = "energy of the 307 keV line of beta-gamma pairs over that of 202 keV, measured over true, less one"


@dataclass(frozen=True, slots=True)
class _Bend:
    """Where the second line of a node stands off, its error, its counts, and how it was found."""

    percent: float
    error: float
    n: float
    method: str


@check(
    "linearity",
    title="Linearity of energies",
    unit="%",
    levels=("scanner", "module", "asic"),
    order=25,
    data=("source", "lutetium"),
    limits={"scanner": _BLOCK, "module": _BLOCK, "asic": _BLOCK},
    source="formula: daily-qc.md §2a (charge bends as cells saturate; at least two lines show it) and §2g (202 and 307 "
    "keV); limits: those of the photopeak of a block, daily-qc.md §5.2, as nothing is published for a second line",
)
def linearity(q: QcInput) -> CheckOutput:
    """How far a second line stands from where the first one says; a calibration that bends wrongly moves only one.

    A gain that drifts moves both and leaves 0. What an energy window sees is near 511 keV: a few per cent at 1275 keV
    are some tenths at its edges.
    """
    if not q.context.has_singles or not q.context.has_energies or not q.is_kev:
        return CheckOutput()
    of_node = _of_sodium if q.lutetium is None else _of_lutetium
    alone = len(q.histograms.topology.module_nodes) == 1
    results: list[CheckResult] = []
    for level in ("scanner", "module", "asic"):
        if alone and level == "scanner":
            continue
        found = _known([(node, bend) for node in q.nodes(level) if (bend := of_node(q, node)) is not None])
        # A second line of few counts states an error that is itself uncertain; how the nodes differ says it better.
        noise = spread_of(bend.percent for _, bend in found)
        results += [
            q.judge(
                "linearity", node, bend.percent, "%", bend.error, bend.n, centre=0.0, noise=noise, method=bend.method
            )
            for node, bend in found
        ]
    if not results:
        return q.not_applicable("linearity", "%", "no second line of known energy stands out of the spectra")
    return CheckOutput(results)


def _known(found: list[tuple[Node, _Bend]]) -> list[tuple[Node, _Bend]]:
    """Those of many alike whose second line is known well enough for its limit, with the errors of their like.

    Where a part of the model lies on its bound, a fit of few counts states less than its place scatters by: one of
    hundreds then is further off than its own error allows. What the same counts mean to the others is the better error.
    """
    if len(found) < FEWEST:
        return found
    usual = statistics.median(bend.error * math.sqrt(bend.n) for _, bend in found)
    alike = [(node, replace(bend, error=max(bend.error, usual / math.sqrt(bend.n)))) for node, bend in found]
    return [(node, bend) for node, bend in alike if bend.error <= KNOWN_TO]


def second_line(q: QcInput, node: Node, first: PeakFit) -> PeakFit | None:
    """The 1275 keV line of Na-22 in a node's spectrum; None if it does not stand out."""
    h = q.histograms
    try:
        return fit_photopeak(
            h.energy_edges,
            q.spectrum(node.members),
            SODIUM_KEV * first.mu / ANNIHILATION_KEV,
            relative_range=RANGE,
            relative_sigma=first.sigma / first.mu * math.sqrt(ANNIHILATION_KEV / SODIUM_KEV),
            min_counts=MIN_COUNTS,
        )
    except QcError:
        return None


def _of_sodium(q: QcInput, node: Node) -> _Bend | None:
    first = q.energy_fit(node)
    second = None if isinstance(first, Refusal) else second_line(q, node, first)
    if isinstance(first, Refusal) or second is None or not 0.85 < second.mu / SODIUM_KEV < 1.15:
        return None
    ratio = second.mu / SODIUM_KEV / (first.mu / ANNIHILATION_KEV)
    error = 100.0 * ratio * math.hypot(second.mu_error / second.mu, first.mu_error / first.mu, MODEL)
    return _Bend(100.0 * (ratio - 1.0), error, second.area, _SODIUM)


def _of_lutetium(q: QcInput, node: Node) -> _Bend | None:
    if q.lutetium is None or node.level == "scanner":
        return None
    lines = q.lutetium.lines(q, node)
    if isinstance(lines, Refusal):
        return None
    return _Bend(100.0 * (lines.ratio - 1.0), 100.0 * lines.ratio_error, lines.n, _LUTETIUM)
