"""Whether a nanosecond is a nanosecond: measured over true flight time of gammas from module to module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits
from petqc.lutetium.times import C_MM_PER_PS

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput

_METHOD = "half of the separation of the peaks at +d/c and -d/c over d/c; depth and walk fitted along"
LARGEST_ERROR = 0.01
"""A scale known less well than its fail limit is none."""
_AROUND = Limits(99.0, 99.7, 100.3, 101.0)


@check(
    "lu_tdc_scale",
    title="TDC scale (d/c)",
    unit="%",
    levels=("scanner", "module"),
    order=59,
    data=("lutetium",),
    limits={"scanner": _AROUND, "module": _AROUND},
    source="formula: daily-qc.md §2g (half separation = d/c); limits: daily-qc.md §5.2, row TDC scale from d/c (0.3 %, "
    "1 %)",
)
def lu_tdc_scale(q: QcInput) -> CheckOutput:
    """Measured flight time in per cent of the true one. Its uncertainty holds what depth and walk leave open.

    A module's is that of all its pairs, so a module that is off by 1 % shows 0.5 %, and its partners their share of it.
    A TDC that divides a clock shows a wrong width of its codes here only where flight is longer than that clock:
    averaged over all phases of the clock, the error cancels; `timing_width` and the test pulse see it.
    """
    lu = q.lutetium
    if lu is None or len(q.histograms.topology.module_nodes) < 2:
        return CheckOutput()
    if q.without_tof:
        return q.not_applicable("lu_tdc_scale", "%", q.without_tof)
    where: tuple[Level, str] = ("scanner", SCANNER)
    flight = lu.flight(q)
    if isinstance(flight, Refusal):
        return CheckOutput([q.missing("lu_tdc_scale", where, "%", flight.n, flight.reason, method=_METHOD)])
    walk = q.judge(
        "lu_tdc_scale", where, flight.walk_ps, "ps", flight.walk_error, flight.pairs, limits=Limits(), part="walk",
        method="delay = walk * (511 keV / E - 1), from the energies of both sides",
    )  # fmt: skip
    depth = q.judge(
        "lu_tdc_scale", where, flight.depth_mm[1], "mm", flight.depth_error[1], flight.pairs, limits=Limits(),
        part="depth", method="mean depth of 307 keV gammas beyond what attenuation says",
    )  # fmt: skip
    if flight.scale_error > LARGEST_ERROR:
        why = (
            f"known to {100.0 * flight.scale_error:.1f} % only, {100.0 * LARGEST_ERROR:.0f} % wanted: the modules are "
            f"{flight.flight_ps * C_MM_PER_PS:.0f} mm apart, counts leave {100.0 * flight.scale_noise:.1f} %, depth "
            "and walk the rest"
        )
        missing = q.missing("lu_tdc_scale", where, "%", flight.pairs, why, method=_METHOD, needed=False)
        return CheckOutput([missing, walk, depth])
    results = [
        q.judge(
            "lu_tdc_scale", where, 100.0 * flight.scale, "%", 100.0 * flight.scale_error, flight.pairs, centre=100.0,
            method=_METHOD,
        )
    ]  # fmt: skip
    notes = []
    modules = list(q.nodes("module"))
    if len(modules) > 2:
        for node, found in zip(modules, flight.by_module, strict=True):
            if found.pairs < 1.0 or not found.error <= LARGEST_ERROR:
                why = f"{found.pairs:.0f} beta-gamma pairs do not give it to {100.0 * LARGEST_ERROR:.0f} %"
                results.append(q.missing("lu_tdc_scale", node, "%", found.pairs, why, method=_METHOD, needed=False))
                continue
            results.append(
                q.judge(
                    "lu_tdc_scale", node, 100.0 * found.value, "%", 100.0 * found.error, found.pairs, centre=100.0,
                    method=_METHOD + ", all pairs of the module",
                )
            )  # fmt: skip
    else:
        notes.append("TDC scale: two modules have one pair; whose scale is off cannot be told.")
    return CheckOutput([*results, walk, depth], notes=notes)
