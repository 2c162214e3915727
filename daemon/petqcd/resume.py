"""Continuing a calibration that was interrupted: only where board, configuration and plan are the same.

A run that is stored is never changed: the one that continues it begins with a copy of its points. `plan.json` in the
run's folder says what the points are points of.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqc.file_hash import sha256_of
from petqc.output_files import write_text
from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from petqc.results import RawFile
    from petqcd.procedure import Job

PLAN = "plan.json"
RECORDING = "points"
"""Name of the recording of points in a run's folder, without suffix."""
SUFFIXES = (".rawf", ".idxf", ".jsonl")
"""Files that points are in: counted events with their index, or channel counters."""
SCHEMA = "petqc-plan/1"
LAST = "last"


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that is continued. points: how many it took. document: its plan.json."""

    run_id: str
    folder: Path
    points: int
    document: Mapping[str, Any]


def continued(job: Job, plan: Mapping[str, Any]) -> Kept | None:
    """The run that this one continues, as the command says; None: it begins afresh.

    Raises:
        RefusedError: there is none, or it was not the same; the message says what differs.
    """
    wanted = getattr(job.settings, "resume", "")
    if not wanted:
        return None
    kept = find(job.state_dir, job.kind, wanted)
    differences = _differences(kept.document, _document(job, plan, None))
    if differences:
        raise RefusedError(f"run {kept.run_id} cannot be continued: {'; '.join(differences)}")
    return kept


def find(state_dir: Path, kind: str, wanted: str) -> Kept:
    """A run of a kind that has points and did not come to its end; `last`: the newest.

    Raises:
        RefusedError: there is none.
    """
    runs = state_dir / "runs"
    if wanted != LAST:
        kept = _kept(runs / wanted, kind) if "/" not in wanted and not wanted.startswith(".") else None
        if kept is None:
            raise RefusedError(f"there is no interrupted {kind} run {wanted!r} that could be continued")
        return kept
    # The names of runs begin with their time to the second; two of one kind never begin in the same second unless a
    # clock stepped back, and then either can be named.
    for folder in sorted(runs.glob(f"*-{kind}-*"), reverse=True):
        kept = _kept(folder, kind)
        if kept is not None:
            return kept
    raise RefusedError(f"there is no interrupted {kind} run that could be continued")


def begin(job: Job, plan: Mapping[str, Any], identity: str, kept: Kept | None) -> None:
    """Say what the points will be points of, and bring those of the run that is continued.

    Raises:
        RefusedError: that run was taken with another board.
    """
    document = _document(job, plan, identity)
    if kept is not None:
        differences = _differences(kept.document, document)
        if differences:
            raise RefusedError(f"run {kept.run_id} cannot be continued: {'; '.join(differences)}")
        for suffix in SUFFIXES:
            source = kept.folder / f"{RECORDING}{suffix}"
            if source.is_file():
                shutil.copyfile(source, job.folder / source.name)
    write_text(job.folder / PLAN, json.dumps(document, indent=1, allow_nan=False))


def can_be_continued(kind: str) -> bool:
    """Whether runs of a kind are continued; those that judge a scanner are not: they are about one moment."""
    return kind.startswith("calibrate-")


def how_to_continue(kind: str, run_id: str, points: int, planned: int) -> str:
    """What people are told who look at an interrupted run."""
    what = kind.removeprefix("calibrate-")
    return f"{points:,} of {planned:,} points were taken; continue with: petqc calibrate {what} --resume {run_id}"


def left_behind(folder: Path) -> list[str]:
    """What a dead daemon's calibration left in its run's folder, for the record."""
    try:
        document = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        kept = _kept(folder, str(document["kind"]))
        planned = int(document["planned"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if kept is None or not can_be_continued(kept.document["kind"]):
        return []
    return [how_to_continue(str(document["kind"]), kept.run_id, kept.points, planned)]


def hashed(folder: Path, name: str) -> tuple[RawFile, ...]:
    """The files of a recording of points with their hashes."""
    from petqc.results import RawFile

    paths = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return tuple(RawFile(path.name, sha256_of(path)) for path in paths if path.is_file())


def _document(job: Job, plan: Mapping[str, Any], identity: str | None) -> dict[str, Any]:
    n_channels = plan["channels"][1] - plan["channels"][0] + 1
    n_groups = -(-n_channels // plan["channels_at_once"])
    return {
        "schema": SCHEMA,
        "kind": job.kind,
        "run_id": job.run_id,
        "device": job.config.board.name,
        "address": job.config.board.address,
        "simulated": job.config.is_simulated,
        "identity": identity,
        "configuration": job.board_config.config_hash,
        "calibration_set": job.set_id,
        "planned": n_groups * len(plan["points"]),
        "plan": dict(plan),
    }


_NAMES = {
    "device": "the device is called",
    "address": "the board's address is",
    "simulated": "simulated is",
    "identity": "the board is",
    "configuration": "the configuration's hash is",
    "calibration_set": "the calibration set in use is",
}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, for a person; what is not known now is not compared."""
    told = [
        f"{said} {now[key]} now and was {then.get(key)}"
        for key, said in _NAMES.items()
        if not (key == "identity" and now[key] is None) and then.get(key) != now[key]
    ]
    plan_then, plan_now = then.get("plan", {}), now["plan"]
    told += [
        f"the plan has other {key.replace('_', ' ')}"
        for key in plan_now
        if plan_then.get(key) != json.loads(json.dumps(plan_now[key]))
    ]
    return told


def _kept(folder: Path, kind: str) -> Kept | None:
    from petqc.errors import BadInputError

    try:
        document = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or document["kind"] != kind:
            return None
        points = _points(folder)
    except (OSError, ValueError, KeyError, TypeError, BadInputError):
        return None
    return Kept(folder.name, folder, points, document) if points and not _is_measured(folder) else None


def _points(folder: Path) -> int:
    """How many whole points a recording has.

    Raises:
        BadInputError: there is none.
    """
    from petqc.formats.counter_points import CounterReader
    from petqc.formats.petsys_calibration_raw import CalibrationReader

    counters = folder / f"{RECORDING}.jsonl"
    if counters.is_file():
        return len(CounterReader(counters).points)
    return len(CalibrationReader(folder / f"{RECORDING}.rawf").steps)


def _is_measured(folder: Path) -> bool:
    """Whether the run came to a verdict on what it took; then there is nothing to continue."""
    try:
        verdict = json.loads((folder / "run.json").read_text(encoding="utf-8"))["verdict"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(verdict != "invalid")
