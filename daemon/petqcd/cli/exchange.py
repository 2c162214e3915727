"""import, export, upload: what other systems measured comes in, what petqc measured goes out."""

from __future__ import annotations

import enum
import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, say
from petqcd.cli.importing import import_runs
from petqcd.errors import EXIT_USAGE, ConfigError

if TYPE_CHECKING:
    from petqc.results import Run as Document


class Form(enum.StrEnum):
    """Forms that a run is exported in."""

    CSV = "csv"
    PARQUET = "parquet"
    WAD_QC = "wad-qc"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("import")(import_reports)
    app.command("export")(export)
    app.command("upload")(upload)


def import_reports(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="siemens-daily-qc.")],
    files: Annotated[list[Path], typer.Argument(help="Reports, in any order.")],
    *,
    scanner: Annotated[str | None, typer.Option(help="Name of the scanner in the history.")] = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Put the daily QC reports of the scanner's own software into the history, oldest first; none twice.

    A report that cannot be read is told and left out; the others come in, and the exit code is that of wrong use.
    """
    from petqc.errors import BadInputError
    from petqc.software import software
    from petqc.vendor_reports import READERS

    if kind not in READERS:
        raise ConfigError(f"reports of kind {kind!r} are not known; known are {', '.join(READERS)}")
    loaded, folder = configuration(config, state_dir)
    runs, refused = [], []
    for path in files:
        try:
            runs.append(READERS[kind](path))
        except (BadInputError, OSError) as error:
            say(f"petqc: {error}; left out")
            refused.append(str(path))
    runs.sort(key=lambda run: run.started_at)
    for run in runs:
        run.scanner = scanner or run.scanner
        run.software = software() | run.software
    told = import_runs(loaded, folder, runs)
    if as_json:
        give_json({"runs": [{"run_id": run_id, "imported": new} for run_id, new in told], "refused": refused})
    else:
        new = [run_id for run_id, is_new in told if is_new]
        first_last = f": {new[0]} to {new[-1]}" if new else ""
        left_out = f"; {len(refused)} could not be read" if refused else ""
        there = f"{len(told) - len(new)} were there already"
        typer.echo(f"{len(new)} of {len(files)} reports imported{first_last}; {there}{left_out}")
    if refused:
        raise typer.Exit(EXIT_USAGE)


def export(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids, or `last`.")] = None,
    *,
    to: Annotated[Form, typer.Option("--to", help="Form of the export.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; for wad-qc a folder that exists.")],
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Write runs in the form of another tool: csv and parquet (one row a check and node), or wad-qc."""
    from petqc.exports import tables, wad_qc

    runs = _documents(run_ids or ["last"], config, state_dir)
    if to is Form.WAD_QC:
        if len(runs) != 1:
            raise ConfigError("wad-qc is one run at a time: results.json and meta.json of it")
        if not out.is_dir():
            raise ConfigError(f"{out}: no such folder; wad-qc is two files, results.json and meta.json")
        zone = _zone_of(config, state_dir)
        for name, content in (("results.json", wad_qc.results(runs[0], zone)), ("meta.json", wad_qc.meta(runs[0]))):
            text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
            (out / name).write_text(text, encoding="utf-8")
        typer.echo(f"{out}: results.json and meta.json of run {runs[0].run_id}")
        return
    write = tables.write_csv if to is Form.CSV else tables.write_parquet
    count = write(runs, out)
    typer.echo(f"{out}: {count} values of {len(runs)} run{'s' if len(runs) != 1 else ''}")


def upload(
    run_id: Annotated[str, typer.Argument(help="Run id, or `last`.")] = "last",
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Perform the unit's test list on a QATrack+ server with the values of a run; [qatrack] says where."""
    from petqcd.qatrack import post

    loaded, _ = configuration(config, state_dir)
    if loaded.qatrack is None:
        raise ConfigError("[qatrack] is missing in petqc.toml: url, token_file, unit_test_collection and tests")
    (run,) = _documents([run_id], config, state_dir)
    answer = post(loaded.qatrack, run)
    if as_json:
        give_json(answer)
    else:
        typer.echo(f"run {run.run_id}: {answer['told']}")


def _zone_of(config: Path | None, state_dir: Path | None) -> ZoneInfo | None:
    """The zone of the schedule, where one is configured: that of the scanner."""
    schedule = configuration(config, state_dir)[0].schedule
    return ZoneInfo(schedule.timezone) if "timezone" in schedule.model_fields_set else None


def _documents(run_ids: list[str], config: Path | None, state_dir: Path | None) -> list[Document]:
    from petqc.results import Run as Document
    from petqcd.cli.history import stored_document

    loaded, folder = configuration(config, state_dir)
    return [Document.from_document(stored_document(loaded, folder, run_id)) for run_id in run_ids]
