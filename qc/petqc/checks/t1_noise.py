"""Electronic noise at the T1 discriminator with bias on, by how sharp the steps of the dark counts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput


@check(
    "t1_noise",
    title="Noise of T1",
    unit="codes",
    levels=("scanner", "module", "channel"),
    order=220,
    data=("dark",),
    source="formula: Gaussian width of the steps that all photoelectrons share, daily-qc.md §2h; limits: none "
    "published",
)
def t1_noise(q: DarkInput) -> CheckOutput:
    """Median width (one standard deviation) of the baseline's noise, in codes of the threshold."""
    results = q.medians("t1_noise", "codes", q.dark.noise)
    return CheckOutput(results, q.column("t1_noise", "codes", q.dark.noise, q.dark.noise_error))
