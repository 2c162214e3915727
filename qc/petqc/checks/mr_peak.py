"""Photopeaks under the MR's stress against those with it idle: gradients heat SiPMs, radio frequency adds charge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits
from petqc.mr_delta import delta_of_spectra

if TYPE_CHECKING:
    from petqc.check_input import Node
    from petqc.mr_delta import MrDeltaInput
    from petqc.qc_input import QcInput

_LIMITS = Limits(-2.0, -0.5, 0.5, 2.0)


@check(
    "mr_peak",
    title="Photopeak change under MR stress",
    unit="%",
    levels=("scanner", "module"),
    order=231,
    data=("mr-delta",),
    limits={"scanner": _LIMITS, "module": _LIMITS},
    source="faults F23 and F24: daily-qc.md §3; formula: photopeak of §2a, stress against the mean of two idles, "
    "daily-qc.md §2i; fallback: the spectra of both idles stretched, widened and scaled to that under stress, "
    "weighted least squares; limits: daily-qc.md §5.2, row MR delta, peak (0.5 %, 2 %)",
)
def mr_peak(q: MrDeltaInput) -> CheckOutput:
    """Change of the position of the photopeak of each module, and of their sum, a summary, where it is calibrated.

    A photopeak that moved while it was measured is no peak of a single position. Where a phase has no fit, its spectrum
    is compared with those of the others: stretched, widened and scaled until they agree; the method says fallback.
    """
    results = []
    for node in q.nodes("scanner", "module"):
        if node.level == "scanner" and (not q.is_calibrated or len(q.topology.module_nodes) == 1):
            continue  # uncalibrated modules do not add up, and one module alone is the scanner
        results += q.compared(
            "mr_peak", node, _peak, fallback=lambda n: delta_of_spectra(q.phases, n), needed=node.level != "scanner"
        )
    return CheckOutput(results)


def _peak(q: QcInput, node: Node) -> tuple[float, float, int] | Refusal:
    fit = q.energy_fit(node)
    return fit if isinstance(fit, Refusal) else (fit.mu, fit.mu_error, int(fit.area))
