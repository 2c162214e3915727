"""How wide the photopeak is: FWHM over position in per cent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits, Status
from petqc.qc_input import resolution_percent
from petqc.results import ChannelColumn
from petqc.siblings import Siblings

if TYPE_CHECKING:
    from petqc.qc_input import QcInput

_METHOD = "Poisson likelihood, FWHM of the summed spectrum's photopeak over its position"
_SITE = Limits(warn_high=14.0, fail_high=16.0)
_DRIFT = Limits(warn_high=5.0, fail_high=15.0)


@check(
    "energy_resolution",
    title="Energy resolution",
    unit="%",
    levels=("scanner", "module", "asic", "channel"),
    order=20,
    limits={"scanner": _SITE, "module": _SITE, "asic": _SITE},
    relative={"scanner": _DRIFT, "module": _DRIFT, "asic": _DRIFT},
    source="formula: daily-qc.md §2a; limits: daily-qc.md §5.2 (+5 %, +15 % of the baseline); without a baseline "
    "relative to the published value, modules and ASICs to their median; without either those of one site for its LYSO "
    "scanner, daily-qc.md §1.3",
)
def energy_resolution(q: QcInput) -> CheckOutput:
    """FWHM at the photopeak in per cent of its position; of a module: of all its channels together.

    Without a baseline the scanner is held against what is published, modules and ASICs against the median of theirs.
    """
    if not q.context.has_singles or not q.context.has_energies:
        return CheckOutput()
    results = []
    # Uncalibrated modules do not add up, and one module alone is the scanner.
    single = len(q.histograms.topology.module_nodes) == 1 or not q.is_kev
    nodes = [n for n in q.nodes("scanner", "module", "asic") if not (n.level == "scanner" and single)]
    fits = [(node, q.energy_fit(node)) for node in nodes]
    siblings = {
        level: Siblings.of(
            resolution_percent(fit)[0] for n, fit in fits if n.level == level and not isinstance(fit, Refusal)
        )
        for level in (("module", "asic") if q.is_kev else ())
    }
    for node, fit in fits:
        if isinstance(fit, Refusal):
            if not (node.level == "asic" and fit.n == 0):
                needed = node.level != "scanner" and (q.is_kev or node.members.size > 1)
                results.append(
                    q.missing("energy_resolution", node, "%", fit.n, fit.reason, method=_METHOD, needed=needed)
                )
            continue
        value, error = resolution_percent(fit)
        results.append(
            q.judge(
                "energy_resolution",
                node,
                value,
                "%",
                error,
                fit.area,
                method=_METHOD,
                siblings=siblings.get(node.level),
            )
        )
    channels = q.channel_fits()
    with np.errstate(invalid="ignore", divide="ignore"):
        percent = 100.0 * channels.fwhm / channels.mu
        errors = percent * np.hypot(channels.fwhm_error / channels.fwhm, channels.mu_error / channels.mu)
    status = np.where(np.isfinite(percent), str(Status.NO_LIMITS), str(Status.INVALID)).astype(object)
    column = ChannelColumn(
        "energy_resolution",
        "%",
        percent,
        errors,
        np.nan_to_num(channels.area).astype(np.int64),
        status,
        channels.reason,
    )
    return CheckOutput(results, column)
