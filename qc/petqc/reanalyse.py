"""A recorded run analysed again: from its bundle alone, or with another calibration or configuration.

The same bundle, calibration and version give the same bytes. With the bundle's own calibration every check has the
value that it had; charts, trends and what else looks at the history are left out, since a bundle has none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.errors import BadInputError
from petqc.file_hash import sha256_of
from petqc.formats.bundle import CONTEXT_JSON, is_bundle
from petqc.formats.bundle_check import check_bundle
from petqc.qc_input import RunContext
from petqc.results import EnvironmentReading, RawFile, Run
from petqc.run_names import reanalysis_id, software_now

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from petqc.formats.bundle import Bundle
    from petqc.recorded import Progress

_USED: Final = ("frames", "frames-modes", "points", "configuration", "context", "environment")
_NOT_KEPT: Final = ("raw_files", "reference")
"""Fields of a context that files say: which there are, and what the configuration calls the scanner."""


@dataclass(frozen=True, slots=True)
class Other:
    """What takes the place of the bundle's own. config: a config.ini; set_id: of which calibration set it is."""

    config: Path | None = None
    set_id: str | None = None


def write_context(folder: Path, context: RunContext) -> None:
    """Keep what the analysis is told beside the events."""
    document = {f.name: getattr(context, f.name) for f in fields(context) if f.name not in _NOT_KEPT}
    document["environment"] = [asdict(reading) for reading in context.environment]
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False, default=dict) + "\n"
    (folder / CONTEXT_JSON).write_text(text, encoding="utf-8")


def read_context(path: Path) -> RunContext:
    """What write_context kept.

    Raises:
        BadInputError: it is missing or damaged.
    """
    try:
        document = json.loads(path.read_bytes())
        known = {f.name for f in fields(RunContext)} - set(_NOT_KEPT)
        kept = {name: value for name, value in document.items() if name in known}
        for name in ("notes", "coincident_modules", "source_mm", "crystal_mm"):
            kept[name] = tuple(kept[name]) if kept.get(name) is not None else None
        environment = tuple(EnvironmentReading(**reading) for reading in kept.pop("environment"))
        return RunContext(**kept, environment=environment)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInputError(f"is no context of a run ({type(error).__name__})", where=str(path)) from error


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
    read = _KINDS[bundle.about["kind"]](bundle, other.config or _own_config(bundle), progress)
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
    if kind not in _KINDS:
        raise BadInputError(f"runs of kind {kind} are not analysed again, only {', '.join(_KINDS)}", where=str(folder))
    return found.bundle


def _why_not(folder: Path) -> str:
    """Of a run without a bundle: what it is instead."""
    parts = [part.run_id for part in Run.load(folder).parts if part.run_id is not None]
    if parts:
        return f"is composed of other runs: analyse one of {', '.join(parts)}"
    return "is no bundle: the run came before there were any, was imported, or never began"


@dataclass(frozen=True, slots=True)
class _Read:
    """What the recordings of a bundle give. said: fields of RunContext that they and the configuration say.

    conclude: from everything that is known of the run to its checks and verdict.
    """

    files: list[Path]
    said: dict[str, Any]
    notes: list[str]
    conclude: Callable[[RunContext], Run]


def _events(bundle: Bundle, config: Path, progress: Progress | None) -> _Read:
    """Runs whose frames are decoded and paired."""
    from petqc.analysis import analyse
    from petqc.recorded import Asked, raw_frames

    files = _recordings(bundle, "frames")
    filled = raw_frames(files, Asked(config, progress=progress, lutetium=bundle.about["kind"] == "lutetium"))
    if not filled.context["account"]["frames"]:
        raise BadInputError("its recording has not one whole frame", where=str(bundle.folder))
    return _Read(
        files, filled.context, filled.notes, lambda context: analyse(filled.histograms, context, filled.lutetium)
    )


def _dark(bundle: Bundle, config: Path, progress: Progress | None) -> _Read:
    """Counts at thresholds; they are few, so that there is no progress to tell."""
    from petqc.calibrate.conclude import topology_of
    from petqc.dark_counts import analyse_dark
    from petqc.formats.counter_points import CounterReader
    from petqc.formats.petsys_config import load_config

    del progress
    files = _recordings(bundle, "points")
    loaded, reader = load_config(config), CounterReader(files[0])
    header = reader.header
    table = loaded.require("disc_calibration")
    number = table["port"] << 17 | table["slave"] << 12 | table["chip"] << 6 | table["channel"]
    scanned = table[np.isin(number, header.channels[header.of_channels["t1_baseline"] >= 0])]
    topology = topology_of(loaded, header.channels)
    said = {"calibration_ids": dict(loaded.file_hashes), "reference": loaded.petqc.scanner, "account": {}}
    return _Read(
        files,
        said,
        [f"{files[0].name}: {damage}" for damage in reader.damages],
        lambda context: analyse_dark(reader.points, scanned, topology, context),
    )


_KINDS: Final = {"source": _events, "lutetium": _events, "dark": _dark}
"""Kinds of run that are analysed again."""


def _recordings(bundle: Bundle, role: str) -> list[Path]:
    found = bundle.of_role(role)
    if not found:
        raise BadInputError("has no recording", where=str(bundle.folder))
    return found


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


def _context(bundle: Bundle, then: RunContext, read: _Read, raw_files: tuple[RawFile, ...], other: Other) -> RunContext:
    """What was known of the run, with what the recordings say now."""
    said = read.said
    ids = dict(said["calibration_ids"])
    set_id = other.set_id if other.config is not None else then.calibration_ids.get("set")
    if set_id is not None:
        ids["set"] = set_id
    software = software_now(then.software)
    is_cut = bundle.state == "recording" or then.elapsed_s is None
    notes = [f"Analysis of the recording of run {then.run_id}, {_with(then, ids)}."]
    if is_cut or bundle.state == "truncated":
        notes.append(f"The recording is truncated: {bundle.reason}.")
    own: dict[str, Any] = {
        name: said[name] for name in ("reference", "source_mm", "crystal_mm", "crystal_material") if name in said
    }
    return replace(
        then,
        run_id=reanalysis_id(then.run_id, (f.sha256 for f in raw_files), ids, software),
        software=software,
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
