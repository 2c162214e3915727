"""A run as a performed test list of QATrack+ (0.3 and newer).

Source: QATrack+ documentation, "Using the QATrack+ API", Uploading data; and as observed on a server: 201 when created;
400 for a user_key that is there already, for a test that is missing and for text in place of a number; times without
an offset are read in the server's zone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petqc.errors import BadInputError
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.results import CheckResult, Run

PATH = "qa/testlistinstances/"
"""Where a performed test list is posted, below the address of the API."""


def performed_test_list(run: Run, *, unit_test_collection: str, tests: Mapping[str, str]) -> dict[str, Any]:
    """The body to post.

    Args:
        run: what was measured.
        unit_test_collection: address of the unit's test list on the server.
        tests: macro name of each of the list's tests -> the check it shows, `photopeak` (of the scanner) or
            `photopeak@module:0.0.1`; `verdict` and `sentence` are texts.

    A check without a value is marked as skipped, with the reason as its comment; it is never a number. So is one that a
    run does not have because it could not be measured to its end, or never happened: the server hears of such a day.

    Raises:
        BadInputError: a test asks for a check that this run does not have.
    """
    return {
        "unit_test_collection": unit_test_collection,
        "in_progress": False,
        "work_started": run.started_at,
        "work_completed": run.finished_at,
        "user_key": run.run_id,
        "comment": ("SIMULATED. " if run.simulated else "") + run.sentence,
        "tests": {macro: _test(run, check) for macro, check in tests.items()},
    }


def _test(run: Run, asked: str) -> dict[str, Any]:
    if asked == "verdict":
        return {"value": str(run.verdict)}
    if asked == "sentence":
        return {"value": run.sentence}
    id_, _, node = asked.partition("@")
    check = run.find(id_, node or "scanner")
    if check is None and run.verdict in (Status.INVALID, Status.MISSED):
        return {"skipped": True, "comment": run.sentence}
    if check is None:
        known = sorted({c.id for c in run.checks if c.node == "scanner"})
        raise BadInputError(
            f"run {run.run_id} has no check {asked!r}", do=f"of the scanner it has {', '.join(known) or 'none'}"
        )
    if check.value is None:
        return {"skipped": True, "comment": check.reason}
    return {"value": check.value, "comment": _remark(check)}


def _remark(check: CheckResult) -> str:
    uncertainty = "" if check.uncertainty is None else f"± {check.uncertainty:.3g} {check.unit}, "
    return f"{uncertainty}{check.status}{f', {check.reason}' if check.reason else ''}"
