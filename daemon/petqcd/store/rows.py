"""What is read from the history: lines of runs, their values, days of the schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from petqc.results import Run

DAILY, SOURCE = "daily", "source"
IMPORTED = "imported"
"""In place of the daemon that made a run: it was measured by something else, and only its results are here."""
AGAIN = "-again"
"""At the end of the kind that a re-analysis is listed as: whoever asks for runs of a kind, for the verdict of today, a
chart or a baseline, is never given what was made later of an old recording."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One line of the history; verdict, sentence and finished_at are None while it runs.

    part_of: sequence of the run that it is a part of; None: it was started by itself.
    """

    sequence: int
    run_id: str
    kind: str
    scanner: str
    simulated: bool
    state: str
    started_at: str
    folder: str
    finished_at: str | None
    verdict: str | None
    sentence: str | None
    part_of: int | None = None


@dataclass(frozen=True, slots=True)
class StoredValues:
    """Results of one run by check and node: value with standard error, and status."""

    run_id: str
    started_at: str
    calibration_ids: dict[str, str]
    values: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occasion:
    """The last attempt of a job of the schedule on a local day; verdict and sentence are None while it runs."""

    day: date
    attempt: int
    run_id: str
    verdict: str | None
    sentence: str | None


def listed_kind(run: Run) -> str:
    """The kind that a run is listed as."""
    return f"{run.kind}{AGAIN}" if run.reanalysis_of else run.kind


def kind_of(document: Mapping[str, Any]) -> str:
    """The kind of a stored run: daily runs without parts were what source runs are."""
    is_older = document["kind"] == DAILY and not document.get("parts")
    return SOURCE if is_older else str(document["kind"])
