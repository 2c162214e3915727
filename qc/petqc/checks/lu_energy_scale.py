"""Energy scale without a source: lines and edges of the crystals' own Lu-176 against where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits
from petqc.lutetium.lines import gamma_edges_kev
from petqc.results import ChannelColumn, Spectrum

if TYPE_CHECKING:
    from petqc.lutetium.fits import LutetiumFits
    from petqc.qc_input import Node, QcInput
    from petqc.results import CheckResult

_LINES = "202 and 307 keV lines of beta-gamma pairs between modules, Poisson likelihood"
_EDGES = "fallback: template of the beta continuum with its edges at 290, 395 and 597 keV"
_CHANNELS = "template of the beta continuum with its edges, shapes of the module"
_AROUND = Limits(97.0, 99.0, 101.0, 103.0)


@check(
    "lu_energy_scale",
    title="Energy scale (Lu-176)",
    unit="%",
    levels=("module", "asic", "channel"),
    order=14,
    data=("lutetium",),
    limits={"module": _AROUND, "asic": _AROUND, "channel": Limits(-8.0, -3.0, 3.0, 8.0)},
    relative={"module": Limits(-3.0, -1.0, 1.0, 3.0), "asic": Limits(-3.0, -1.0, 1.0, 3.0)},
    source="formula: daily-qc.md §2g (lines of pairs, template of singles); limits: daily-qc.md §5.2, rows photopeak "
    "of block and crystal",
)
def lu_energy_scale(q: QcInput) -> CheckOutput:
    """Measured over true energy in per cent, at 202 to 307 keV (modules, ASICs) or 240 to 1100 keV (channels).

    It is not the scale at 511 keV: between the two lies how linear energies are, which the ratio of the lines shows and
    a weekly run with a source ties down. Where the lines have too few counts the edges of the continuum stand in.
    """
    lu = q.lutetium
    if lu is None:
        return CheckOutput()
    results: list[CheckResult] = []
    spectra: list[Spectrum] = []
    for node in q.nodes("module", "asic"):
        results += _node(q, lu, node)
        if node.level == "module":
            spectra.append(_spectrum(q, lu, node))
    found = lu.channels(q)
    value, error = 100.0 * found.scale, 100.0 * found.scale_error
    status = q.channel_status("lu_energy_scale", value, error, 100.0)
    results.append(q.channels_outside("lu_energy_scale", status))
    column = ChannelColumn("lu_energy_scale", "%", value, error, found.n, status, found.reason)
    notes = ["Energies are those of the lines of Lu-176; between 307 and 511 keV only a source shows them."]
    return CheckOutput(results, column, spectra, notes)


def _node(q: QcInput, lu: LutetiumFits, node: Node) -> list[CheckResult]:
    lines, edges = lu.lines(q, node), lu.continuum(q, node)
    if not isinstance(lines, Refusal):
        value, error, n, method, reason = lines.scale, lines.scale_error, lines.n, _LINES, None
    elif not isinstance(edges, Refusal):
        value, error, n, method = edges.scale, edges.scale_error, edges.n, _EDGES
        reason = f"quality=fallback; the lines: {lines.reason}"
    elif node.level == "asic" and not q.histograms.singles[node.members].any():
        return []  # a silent ASIC is the dead channels' business
    else:
        why = lines.reason if lines.reason == edges.reason else f"lines: {lines.reason}; continuum: {edges.reason}"
        return [q.missing("lu_energy_scale", node, "%", edges.n, why, method=_LINES)]
    scale = q.judge(
        "lu_energy_scale", node, 100.0 * value, "%", 100.0 * error, n, centre=100.0, method=method, reason=reason
    )
    parts = [scale]
    if node.level == "module" and not isinstance(lines, Refusal):
        for part, number, uncertainty in (
            ("linearity", 100.0 * lines.ratio, 100.0 * lines.ratio_error),
            ("resolution_307", lines.resolution, lines.resolution_error),
        ):
            parts.append(
                q.judge(
                    "lu_energy_scale", node, number, "%", uncertainty, lines.n, limits=Limits(), part=part,
                    method=_LINES,
                )
            )  # fmt: skip
    if node.level == "module" and not isinstance(edges, Refusal):
        parts.append(
            q.judge(
                "lu_energy_scale", node, 100.0 * edges.scale, "%", 100.0 * edges.scale_error, edges.n,
                limits=Limits(), part="continuum", method=_CHANNELS,
            )
        )  # fmt: skip
    return parts


def _spectrum(q: QcInput, lu: LutetiumFits, node: Node) -> Spectrum:
    lines, edges = lu.lines(q, node), gamma_edges_kev()
    counts = lu.counts.gamma_counts[node.members].sum(axis=0, dtype=np.float64)
    fit, background = (None, None) if isinstance(lines, Refusal) else lines.fit.on(edges)
    return Spectrum(
        "energy", node.name, "gammas of beta-gamma pairs", "keV", edges, counts, fit=fit, background=background,
        text=lines.reason if isinstance(lines, Refusal) else "",
    )  # fmt: skip
