"""Rates under the MR's stress against those with it idle: radio frequency makes bursts of triggers and dead time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.fits.energy_fits import Refusal
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import Node
    from petqc.mr_delta import MrDeltaInput
    from petqc.qc_input import QcInput

_SCANNER = Limits(-2.0, -0.5, 0.5, 2.0)


@check(
    "mr_rate",
    title="Rate change under MR stress",
    unit="%",
    levels=("scanner", "module"),
    order=230,
    data=("mr-delta",),
    limits={"scanner": _SCANNER, "module": Limits(-5.0, -1.0, 1.0, 5.0)},
    source="faults F23 and F25: daily-qc.md §3; formula: singles over live time, stress against the mean of two "
    "idles, daily-qc.md §2i; limits: daily-qc.md §5.2, row MR delta, rate (scanner 0.5 % and 2 %, module 1 % and 5 %)",
)
def mr_rate(q: MrDeltaInput) -> CheckOutput:
    """Change of the rate of singles; of the whole scanner also that of prompts."""
    results = []
    for node in q.nodes("scanner", "module"):
        results += q.compared("mr_rate", node, _singles)
        if node.level == "scanner":
            results += q.compared("mr_rate", node, _prompts, part="prompts", limits=_SCANNER)
    return CheckOutput(results)


def _singles(q: QcInput, node: Node) -> tuple[float, float, int] | Refusal:
    return _rate(q, int(q.histograms.singles[node.members].sum()), "singles")


def _prompts(q: QcInput, _node: Node) -> tuple[float, float, int] | Refusal:
    return _rate(q, int(q.histograms.prompts.sum()), "prompts")


def _rate(q: QcInput, n: int, what: str) -> tuple[float, float, int] | Refusal:
    live_s = q.live_time_s
    if live_s is None or n == 0:
        return Refusal(f"no {what}" if live_s is not None else "the live time is not known", n)
    return n / live_s, n**0.5 / live_s, n
