"""What is told to the broker: topics below PREFIX/SCANNER, and contents as plain types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.results import Run

STATUS = "status"
COMMANDS = "command/#"
ANSWER = "command/answer"
ALARM = "alarm/"
AUDIT = "audit"


def result(run: Run, sequence: int) -> tuple[str, dict[str, Any]]:
    """Topic and content of a run that is stored: verdict, and the values of the whole scanner."""
    checks = [
        {"id": c.id, "value": c.value, "unit": c.unit, "uncertainty": c.uncertainty, "status": str(c.status)}
        for c in run.checks
        if c.node == "scanner"
    ]
    content = {
        "sequence": sequence,
        "run_id": run.run_id,
        "kind": run.kind,
        "scanner": run.scanner,
        "simulated": run.simulated,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "verdict": str(run.verdict),
        "sentence": run.sentence,
        "checks": checks,
    }
    return f"run/{run.kind}/result", content


def alarm(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Topic and content of an alarm that changed."""
    return f"{ALARM}{document['id']}", dict(document)


def audit(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Topic and content of how far the audit log goes: number and hash of its newest row."""
    return AUDIT, dict(document)


def progress(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Topic and content of where a run is."""
    return f"run/{document['kind']}/progress", dict(document)


def is_retained(topic: str) -> bool:
    """Whether the broker keeps the last message for those who come later: what is, not what happened."""
    return topic in {STATUS, AUDIT} or topic.startswith(ALARM)
