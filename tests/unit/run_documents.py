"""A run as tests need one: a passing, simulated daily run, in which each test changes what it is about."""

from __future__ import annotations

from typing import Any

from petqc.limits import Status
from petqc.results import Run


def usual_run(**changes: Any) -> Run:
    """The run, with some of its fields."""
    usual: dict[str, Any] = {
        "run_id": "r1",
        "kind": "daily",
        "started_at": "2026-03-02T06:00:00+00:00",
        "finished_at": "2026-03-02T06:01:00+00:00",
        "simulated": True,
        "verdict": Status.PASS,
        "sentence": "Scan: all fine.",
        "software": {},
        "config_hash": "",
        "calibration_ids": {},
        "scanner": "bench",
    }
    return Run(**{**usual, **changes})
