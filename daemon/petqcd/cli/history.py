"""status, history, show, compare, report: what is and what was. What was can be read without a daemon."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import VERDICT_EXIT, ConfigFile, Json, StateDir, configuration, give_json, say
from petqcd.errors import UnreachableError

if TYPE_CHECKING:
    from petqc.compare import Comparison
    from petqc.results import Run as Document
    from petqcd.client import Client
    from petqcd.config import PetqcConfig

READY_DEADLINE_S = 60.0
READY_POLL_S = 0.2

Run = Annotated[str, typer.Argument(help="Run id, or `last`.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("status")(status)
    app.command("history")(history)
    app.command("show")(show)
    app.command("compare")(compare)
    app.command("report")(report)


def status(
    *,
    wait_ready: Annotated[
        bool, typer.Option("--wait-ready", help="Wait until a run could be started, at most a minute.")
    ] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """What the daemon does now."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    client = Client(folder)
    found = _ready(client) if wait_ready else client.get("/api/v1/status")
    if as_json:
        give_json(found)
    else:
        from petqcd.cli.alarms import print_attention
        from petqcd.cli.device_table import print_devices
        from petqcd.cli.show import print_status

        print_status(found)
        print_devices(found["devices"])
        print_attention(found)


def _ready(client: Client) -> Any:
    """The status, once nothing stands in the way of a run; also waits for a daemon that is being started."""
    from petqcd import clock

    end_s = clock.monotonic_s() + READY_DEADLINE_S
    while True:
        try:
            found = client.get("/api/v1/status")
            missing = "; ".join(found["missing"])
            if not missing:
                return found
        except UnreachableError as error:
            missing = str(error)
        if clock.monotonic_s() > end_s:
            raise UnreachableError(f"not ready after {READY_DEADLINE_S:g} s: {missing}")
        time.sleep(READY_POLL_S)


def history(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many runs.")] = 20,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Runs, newest first."""
    loaded, folder = configuration(config, state_dir)
    runs = _ask(loaded, folder, f"/api/v1/runs?limit={limit}", limit=limit)["runs"]
    if as_json:
        give_json({"runs": runs})
    else:
        from petqcd.cli.show import print_history

        print_history(runs)


def show(
    run_id: Run = "last",
    *,
    everything: Annotated[bool, typer.Option("--all", help="All nodes, ASICs that pass too.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """One run: verdict, values with uncertainties and limits. Ends with the verdict's exit code."""
    loaded, folder = configuration(config, state_dir)
    document = stored_document(loaded, folder, run_id)
    run = _whole(folder, document)
    if as_json:
        give_json(document)
    else:
        from petqcd.cli.show import print_run

        report = folder / "runs" / run.run_id / "report.html"
        print_run(run, everything=everything, where={"report": str(report)} if report.is_file() else {})
    raise typer.Exit(VERDICT_EXIT[str(run.verdict)])


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Run id, `last`, or the folder of a run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="What is compared with it.")] = "last",
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also what has not moved.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """What moved from one run to another: by how much, over the uncertainties of both."""
    from petqc.compare import compare as compare_runs
    from petqc.results import Run as Document

    loaded, folder = configuration(config, state_dir)

    def document(given: str) -> Document:
        if Path(given).is_dir():
            return Document.load(Path(given))
        return Document.from_document(stored_document(loaded, folder, given))

    a, b = document(first), document(second)
    tell_comparison(a, b, compare_runs(a, b), as_json=as_json, everything=everything)


def tell_comparison(a: Document, b: Document, found: Comparison, *, as_json: bool, everything: bool) -> None:
    """Show what moved from one run to another."""
    if as_json:
        differences = [{**asdict(d), "sigmas": d.sigmas, "has_moved": d.has_moved} for d in found.differences]
        told = {"runs": [a.run_id, b.run_id], "differences": differences, "n_same": found.n_same}
        give_json({**told, "remarks": found.remarks})
    else:
        from petqcd.cli.show import print_comparison

        print_comparison(a, b, found, everything=everything)


def report(
    run_id: Run = "last",
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: HTML, or PDF where it ends in .pdf.")],
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """The report of a stored run as a file, for whoever files it."""
    from petqc.report import write_report

    loaded, folder = configuration(config, state_dir)
    run = _whole(folder, stored_document(loaded, folder, run_id))
    write_report(run, out)
    typer.echo(f"{out}: report of run {run.run_id}")


def _whole(folder: Path, document: Any) -> Document:
    """A stored run with its channels; an imported run has no files, and is made from the document alone."""
    from petqc.results import Run as Document

    files = folder / "runs" / document["run_id"]
    return Document.load(files) if (files / "run.json").is_file() else Document.from_document(document)


def stored_document(config: PetqcConfig, folder: Path, run_id: str) -> Any:
    """The document of a run, from the daemon or without one from the history itself."""
    from urllib.parse import quote

    return _ask(config, folder, f"/api/v1/runs/{quote(run_id, safe='')}", run_id=run_id)


def _ask(config: PetqcConfig, folder: Path, path: str, *, limit: int = 0, run_id: str | None = None) -> Any:
    """Ask the daemon, or without one read the history itself."""
    from petqcd.client import Client

    try:
        return Client(folder).get(path)
    except UnreachableError as error:
        from petqcd.store import database_of, read_only

        database = database_of(config.store, folder)
        if not database.exists:
            raise
        with read_only(database) as reader:
            say(f"petqc: {error}; reading the history itself")
            if run_id is not None:
                return reader.document(run_id)
            return {"runs": [asdict(line) for line in reader.history(limit)]}
