"""Age of the calibration in use, table by table: a calibration that nobody renewed is a slow fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.housekeeping import HousekeepingInput

_LIMITS = Limits(warn_high=180.0)


@check(
    "calibration_age",
    title="Calibration age",
    unit="d",
    levels=("scanner",),
    order=145,
    data=("housekeeping",),
    limits={"scanner": _LIMITS},
    source="daily-qc.md §5.1, P0 (calibration age), faults F12 and F27; limits: half a year, petqc's own choice, to be "
    'set to what the site\'s procedure says, for each table by `[limits."calibration_age.TABLE"]`',
)
def calibration_age(q: HousekeepingInput) -> CheckOutput:
    """Days since each table of the calibration in use was made; the scanner's own value is that of the oldest."""
    if not q.ages:
        told = "nobody says which calibration is in use"
        return CheckOutput([q.missing("calibration_age", ("scanner", SCANNER), "d", 0, told)])
    limits, _ = q.limits("calibration_age", "scanner", SCANNER)
    results = []
    for age in sorted(q.ages, key=lambda age: age.table):
        if age.days < 0.0:
            told = f"{age.table} is from the future by {-age.days:.2f} d: a clock was wrong"
            results.append(q.missing("calibration_age", ("scanner", SCANNER), "d", 0, told))
            continue
        results.append(
            q.judge(
                "calibration_age", ("scanner", SCANNER), age.days, "d", 0.0, 1, limits=limits, part=age.table,
                method=age.how,
            )
        )  # fmt: skip
    known = [age for age in q.ages if age.days >= 0.0]
    if known and len(known) == len(q.ages):
        oldest = max(known, key=lambda age: age.days)
        results.insert(
            0,
            q.judge(
                "calibration_age", ("scanner", SCANNER), oldest.days, "d", 0.0, len(known), limits=Limits(),
                method=f"oldest table: {oldest.table}",
            ),
        )  # fmt: skip
    return CheckOutput(results)
