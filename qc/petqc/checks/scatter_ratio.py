"""How many photons of pairs in the energy window were scattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits.energy_fits import Refusal
from petqc.fits.kernels import MU1, S1
from petqc.fits.randoms import BOTH_WAYS
from petqc.fits.scatter import WindowError, scatter_share
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.qc_input import Node, QcInput
    from petqc.results import CheckResult

_DRIFT = Limits(fail_low=-10.0, fail_high=10.0)
_METHOD = "step below the photopeak over peak and step, energies of pairs in the window without randoms"


@check(
    "scatter_ratio",
    title="Scatter ratio",
    unit="%",
    levels=("scanner", "module"),
    order=105,
    relative={"scanner": _DRIFT, "module": _DRIFT},
    source="formula: daily-qc.md §2a (the erfc step carries what scatters), randoms subtracted §2e; limits: as wide as "
    "one maker's for its cylinder, 28.8 to 35.2 % (±10 %), daily-qc.md §1.2, around the baseline",
)
def scatter_ratio(q: QcInput) -> CheckOutput:
    """Photons that lost energy on their way, of those in the window; it rises when the energy scale does.

    What scatters in the source or phantom and what leaves a crystal with part of its energy look alike. So the number
    is one to compare with its own baseline, for the same source at the same place; a point in air has only the second.
    """
    h, window = q.histograms, q.histograms.settings.energy_window
    if not q.context.has_pair_search or not q.context.has_energies or not q.is_kev or h.n_pairs == 0:
        return CheckOutput()
    if q.context.source == "point":
        return q.not_applicable("scatter_ratio", "%", "a point source in air scatters nothing but in the crystals")
    if q.context.source == "none" or window is None or not h.pair_energies.prompt.any():
        return CheckOutput()
    results: list[CheckResult] = []
    few = 0
    for node in q.nodes("scanner", "module"):
        try:
            results.append(_of_node(q, node, window))
        except WindowError as why:
            return q.not_applicable("scatter_ratio", "%", str(why))
        except TooFewCountsError as why:
            if node.level == "scanner":
                results.append(q.missing("scatter_ratio", node, "%", 0, str(why), method=_METHOD, needed=False))
            few += node.level == "module"
    modules = len(h.topology.module_nodes)
    told = f"Scatter ratio: {few} of {modules} modules have too few pairs for a number of their own."
    return CheckOutput(results, notes=[told] if few else [])


def _of_node(q: QcInput, node: Node, window: tuple[float, float]) -> CheckResult:
    fit = q.energy_fit(node)
    h = q.histograms
    mine = np.unique(h.topology.module[node.members])
    prompt, delayed = (x[mine].sum(axis=0, dtype=np.float64) for x in (h.pair_energies.prompt, h.pair_energies.delayed))
    if isinstance(fit, Refusal):
        return q.missing("scatter_ratio", node, "%", int(prompt.sum()), fit.reason, method=_METHOD, needed=False)
    tail, _, missing = q.energy_tail()
    peak = (float(fit.parameters[MU1]), float(fit.parameters[S1]))
    randoms = delayed / BOTH_WAYS
    try:
        found = scatter_share(h.energy_edges, prompt, randoms, randoms / BOTH_WAYS, window, peak, (tail, missing))
    except (WindowError, TooFewCountsError):
        raise
    except FitFailedError as why:
        return q.missing("scatter_ratio", node, "%", int(prompt.sum()), str(why), method=_METHOD, needed=False)
    return q.judge("scatter_ratio", node, 100.0 * found.share, "%", 100.0 * found.error, found.n, method=_METHOD)
