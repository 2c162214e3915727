"""Optical crosstalk: dark counts that fire a second cell; it grows with the overvoltage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.dark_counts import DarkInput


@check(
    "dark_crosstalk",
    title="Crosstalk",
    unit="%",
    levels=("scanner", "module", "channel"),
    order=210,
    data=("dark",),
    limits={"module": Limits(warn_high=30.0)},
    source="formula: second step of the dark counts over the first, daily-qc.md §2h (crosstalk as a chain); limit: §2h "
    "(5 to 30 %, grows with overvoltage); what piles up by chance is not taken out",
)
def dark_crosstalk(q: DarkInput) -> CheckOutput:
    """Median share of dark counts that fire two cells and more."""
    value, error = 100.0 * q.dark.second, 100.0 * q.dark.second_error
    return CheckOutput(q.medians("dark_crosstalk", "%", value), q.column("dark_crosstalk", "%", value, error))
