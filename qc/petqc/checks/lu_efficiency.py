"""How many decays of the crystals' own Lu-176 are seen: a rate that stays the same for ages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.errors import TooFewCountsError
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits, Status
from petqc.lutetium.fits import decays_per_channel
from petqc.lutetium.spectra import DECAYS_ERROR
from petqc.results import ChannelColumn

if TYPE_CHECKING:
    from petqc.qc_input import QcInput

_ABSOLUTE = (
    "electrons of the fitted continuum, of the decays that the crystals' volume has in the live time; as an absolute "
    f"number within ± {100.0 * DECAYS_ERROR:.1f} % more, the same in every run (extrapolation below 240 keV)"
)
_RELATIVE = "electrons of the fitted continuum, of the mean module's (size or material of the crystals not known)"


@check(
    "lu_efficiency",
    title="Efficiency (Lu-176)",
    unit="%",
    levels=("module", "channel"),
    order=84,
    data=("lutetium",),
    limits={"module": Limits(fail_low=80.0, fail_high=120.0)},
    relative={"module": Limits(-10.0, -2.0, 2.0, 10.0)},
    source="formula: daily-qc.md §2g (constant rate per crystal: an absolute monitor); limits: daily-qc.md §5.2, row "
    "block efficiency, relative to the baseline; without one those of §1.2 (80 to 120 %)",
)
def lu_efficiency(q: QcInput) -> CheckOutput:
    """Decays whose electron made a single, in per cent of those that there were, extrapolated below 240 keV.

    The uncertainty is that of counting, which a comparison with other runs needs. The absolute number is less sure by
    the extrapolation, which the method states, and by volume, composition and half-life, always the same. A column
    gives every channel's; it has no limits, as crystals at the rim lose more.
    """
    lu = q.lutetium
    if lu is None:
        return CheckOutput()
    fits = [(node, lu.continuum(q, node)) for node in q.nodes("module")]
    notes: list[str] = []
    try:
        expected, method = decays_per_channel(q), _ABSOLUTE
    except TooFewCountsError as why:
        seen = [fit.decays / node.members.size for node, fit in fits if not isinstance(fit, Refusal)]
        expected, method = float(np.mean(seen)) if seen else np.nan, _RELATIVE
        notes.append(f"Efficiency: {why}.")
    results = []
    for node, fit in fits:
        if isinstance(fit, Refusal):
            results.append(q.missing("lu_efficiency", node, "%", fit.n, fit.reason, method=method))
            continue
        scale = 100.0 / (expected * node.members.size)
        results.append(
            q.judge("lu_efficiency", node, scale * fit.decays, "%", scale * fit.decays_error, fit.n, method=method)
        )
    found = lu.channels(q)
    value, error = 100.0 * found.decays / expected, 100.0 * found.decays_error / expected
    status = np.where(np.isfinite(value), str(Status.NO_LIMITS), str(Status.INVALID)).astype(object)
    column = ChannelColumn("lu_efficiency", "%", value, error, found.n, status, found.reason)
    return CheckOutput(results, column, notes=notes)
