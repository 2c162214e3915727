"""A run in the style of a WAD-QC 2 module: a list of named results, and the description of each with its limits.

WAD-QC is the platform of the Dutch hospital physicists. Source: results of published WAD-QC 2 modules (category, name,
val) and their meta files (display_name, units, constraint_minlowhighmax). Its modules take the time of acquisition from
DICOM headers, where it is the scanner's local time, nearly always without an offset: so it is here. Not tried against a
WAD-QC server.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from petqc.limits import Limits

if TYPE_CHECKING:
    from datetime import tzinfo

    from petqc.results import CheckResult, Run

LEVELS: Final = ("scanner", "module", "block", "pair")
"""Nodes whose values are exported; ASICs and channels would be thousands of results a day."""
_SCANNER_LEVEL, _DETAIL_LEVEL = 1, 2


def results(run: Run, zone: tzinfo | None = None) -> list[dict[str, Any]]:
    """The list of results: the verdict first, then every value, or in its place the reason why there is none.

    zone: of the scanner; None: that of this computer.
    """
    local = datetime.fromisoformat(run.started_at).astimezone(zone)
    found: list[dict[str, Any]] = [
        {"category": "datetime", "name": "AcquisitionDateTime", "val": f"{local:%Y-%m-%d %H:%M:%S}"},
        {"category": "string", "name": "verdict", "val": str(run.verdict)},
        {"category": "string", "name": "sentence", "val": run.sentence},
        {"category": "bool", "name": "simulated", "val": run.simulated},
    ]
    for check in exported(run):
        if check.value is None:
            found.append({"category": "string", "name": f"{name_of(check)} reason", "val": str(check.reason)})
        else:
            found.append({"category": "float", "name": name_of(check), "val": check.value})
    return found


def meta(run: Run) -> dict[str, Any]:
    """What each result is: name for people, unit and limits (fail low, warn low, warn high, fail high)."""
    described: dict[str, Any] = {}
    for check in exported(run):
        entry: dict[str, Any] = {
            "display_name": name_of(check),
            "units": check.unit,
            "display_level": _SCANNER_LEVEL if check.node == "scanner" else _DETAIL_LEVEL,
        }
        if check.limits != Limits():
            limits = check.limits
            entry["constraint_minlowhighmax"] = [
                limits.fail_low,
                limits.warn_low if limits.warn_low is not None else limits.fail_low,
                limits.warn_high if limits.warn_high is not None else limits.fail_high,
                limits.fail_high,
            ]
        described[name_of(check)] = entry
    return {"results": described}


def exported(run: Run) -> list[CheckResult]:
    """The results that are exported."""
    return [check for check in run.checks if _level(check.node) in LEVELS]


def name_of(check: CheckResult) -> str:
    """`photopeak`, `photopeak module:0.0.1`."""
    return check.id if check.node == "scanner" else f"{check.id} {check.node}"


def _level(node: str) -> str:
    return "pair" if " - " in node else node.partition(":")[0]
