"""A recorded run analysed again: from its bundle alone, or with another calibration or configuration.

The same bundle, calibration and version give the same bytes. With the bundle's own calibration every check has the
value that it had; charts, trends and what else looks at the history are left out, since a bundle has none. How each
kind of run is read: `petqc.recorded.kinds`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.file_hash import sha256_of
from petqc.formats.bundle import CONTEXT_JSON, is_bundle
from petqc.formats.bundle_check import check_bundle
from petqc.recorded.kinds import KINDS
from petqc.recorded.told import read_context
from petqc.results import EnvironmentReading, RawFile, Run
from petqc.run_names import JUDGES_CALIBRATION, reanalysis_id
from petqc.software import software as versions

if TYPE_CHECKING:
    import os

    from petqc.formats.bundle import Bundle
    from petqc.qc_input import RunContext
    from petqc.recorded import Progress
    from petqc.recorded.kinds import Read

_USED: Final = (
    "frames", "frames-modes", "frames-index", "points", "configuration", "context", "inputs", "environment",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Other:
    """What takes the place of the bundle's own. config: a config.ini; set_id: of which calibration set it is."""

    config: Path | None = None
    set_id: str | None = None


def reanalyse(folder: str | os.PathLike[str], other: Other | None = None, *, progress: Progress | None = None) -> Run:
    """Analyse a recorded run again.

    Args:
        folder: of the bundle; that of a run which was cut is analysed as far as it goes.
        other: what takes the place of the bundle's own calibration.
        progress: called with bytes read so far and in all.

    Raises:
        BadInputError: it is no bundle, a file of it was changed, or its kind of run is not analysed again.
    """
    other = other or Other()
    bundle = _whole(Path(folder))
    read = KINDS[bundle.about["kind"]](bundle, other.config or _own_config(bundle), progress)
    if bundle.about["kind"] == JUDGES_CALIBRATION and other.config is not None:
        raise BadInputError(
            f"runs of kind {bundle.about['kind']} tell of the calibration that was in use: another one changes nothing",
            where=str(folder),
            do="analyse it with its own",
        )
    raw_files = tuple(_raw_file(bundle, path) for path in read.files)
    then = read_context(bundle.folder / CONTEXT_JSON)
    run = read.conclude(_context(bundle, then, read, raw_files, other))
    run.reanalysis_of = then.run_id
    cut = "" if bundle.state == "complete" else " of a truncated recording"
    run.sentence = f"Re-analysis{cut}: {run.sentence}"
    return run


def _whole(folder: Path) -> Bundle:
    """The bundle, if what is needed of it is as it was."""
    if not is_bundle(folder) and (folder / "run.json").is_file():
        raise BadInputError(_why_not(folder), where=str(folder))
    found = check_bundle(folder, roles=_USED)
    if found.problems:
        first = found.problems[0]
        raise BadInputError(
            f"{first.name} {first.problem}", where=str(folder), do="look what else with petqc bundle check"
        )
    kind = found.bundle.about.get("kind")
    if kind not in KINDS:
        raise BadInputError(f"runs of kind {kind} are not analysed again, only {', '.join(KINDS)}", where=str(folder))
    return found.bundle


def _why_not(folder: Path) -> str:
    """Of a run without a bundle: what it is instead."""
    parts = [part.run_id for part in Run.load(folder).parts if part.run_id is not None]
    if parts:
        return f"is composed of other runs: analyse one of {', '.join(parts)}"
    return "is no bundle: the run came before there were any, was imported, or never began"


def _own_config(bundle: Bundle) -> Path:
    found = [path for path in bundle.of_role("configuration") if path.suffix == ".ini"]
    if len(found) != 1:
        raise BadInputError(
            f"has {len(found)} configurations", where=str(bundle.folder), do="give the right one with --config"
        )
    return found[0]


def _raw_file(bundle: Bundle, path: Path) -> RawFile:
    known = next(file.sha256 for file in bundle.files if bundle.folder / file.name == path)
    return RawFile(path.name, known or sha256_of(path))


def _context(bundle: Bundle, then: RunContext, read: Read, raw_files: tuple[RawFile, ...], other: Other) -> RunContext:
    """What was known of the run, with what the recordings say now."""
    said = read.said
    ids = dict(said["calibration_ids"])
    set_id = other.set_id if other.config is not None else then.calibration_ids.get("set")
    if set_id is not None:
        ids["set"] = set_id
    is_cut = bundle.state == "recording" or then.elapsed_s is None
    notes = [f"Analysis of the recording of run {then.run_id}, {_with(then, ids)}."]
    if is_cut or bundle.state == "truncated":
        notes.append(f"The recording is truncated: {bundle.reason}.")
    own: dict[str, Any] = {
        name: said[name] for name in ("reference", "source_mm", "crystal_mm", "crystal_material") if name in said
    }
    return replace(
        then,
        run_id=reanalysis_id(then.run_id, (f.sha256 for f in raw_files), ids),
        software={**versions(), **{k: v for k, v in then.software.items() if k == "board"}},
        calibration_ids=ids,
        raw_files=raw_files,
        environment=_environment(bundle) if is_cut else then.environment,
        account={**then.account, **said["account"]},
        elapsed_s=said.get("elapsed_s") if is_cut else then.elapsed_s,
        live_time_s=said.get("live_time_s"),
        notes=(*notes, *read.notes, *then.notes),
        **own,
    )


def _with(then: RunContext, ids: dict[str, str]) -> str:
    """Whose calibration it is, for a person."""
    changed = sorted(k for k in then.calibration_ids.keys() | ids.keys() if then.calibration_ids.get(k) != ids.get(k))
    if not changed:
        return "with the calibration it was taken with"
    return f"with another calibration ({', '.join(changed)})"


def _environment(bundle: Bundle) -> tuple[EnvironmentReading, ...]:
    """The last readings of a run that was cut, by name and node; their ages are those at its last reading."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    end_s = 0.0
    for path in bundle.of_role("environment"):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                reading = json.loads(line) if line.endswith(b"\n") else {}
                last[reading["name"], reading["node"]] = reading
                end_s = max(end_s, float(reading["unix_s"]))
            except (ValueError, KeyError, TypeError):
                continue
    return tuple(
        EnvironmentReading(
            **{k: v for k, v in reading.items() if k != "unix_s"}, age_s=round(end_s - reading["unix_s"], 3)
        )
        for reading in last.values()
    )
