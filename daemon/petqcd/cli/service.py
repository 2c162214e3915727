"""demo, serve, run: the daemon, and runs through it."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd import journal
from petqcd.cli.common import VERDICT_EXIT, ConfigFile, Json, Setting, StateDir, configuration, give_json, say, settings
from petqcd.cli.progress import Bar
from petqcd.errors import DaemonError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from petqc.results import Run

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log everything to stderr.")]


RUNS: Mapping[str, str] = {
    "daily": "daily QC",
    "housekeeping": "housekeeping, without source and bias",
    "test-pulse": "test pulses of the readout, without source and bias",
    "dark": "dark counts",
    "lutetium": "source-free QC, by the crystals' own Lu-176",
    "source": "QC with a source",
    "mr-delta": "influence of the MR, with a source",
}
"""Kinds that judge the scanner, and their titles."""
DEMO_HOUSEKEEPING_S = 1.0
START_DEADLINE_S = 20.0
"""For the claim of a run; whether another one can be continued is asked of the files first."""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)
    app.command("serve")(serve)
    group = typer.Typer(help="Start a run.", no_args_is_help=True)
    for kind, title in RUNS.items():
        group.command(kind, help=f"Start a run on the daemon: {title}.")(_run_command(kind, title))
    app.add_typer(group, name="run")
    app.command("abort")(abort)
    app.command("confirm")(confirm)


def demo(
    *,
    profile: Annotated[str | None, typer.Option(help="Detector to simulate; default: bench.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the run, with the verdict's exit code.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the simulated detector; default: 1.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=86_400, help="Acquisition time.")] = 15.0,
    source: Annotated[str | None, typer.Option(help="na22, ge68 or none; default: na22.")] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Fault, ID[=size][:place][@begin[-end]][~ramp]; may be repeated.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record everything: every byte on every wire, and all readings.")
    ] = False,
    scenario: Annotated[
        str, typer.Option(help="Story of faults: one of `petqc scenarios`, or the path of a .toml file.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of console and metrics, 0: any.")] = 0,
    state_dir: StateDir = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the daily QC of a simulated scanner: simulator and daemon on loopback, the whole way over the wire."""
    from pydantic import ValidationError

    from petqcd.config import (
        ApiConfig,
        DailyConfig,
        HousekeepingConfig,
        PetqcConfig,
        QcConfig,
        ScannerConfig,
        SourceConfig,
        bench_baseline,
        simulated_device,
        state_directory,
    )
    from petqcd.errors import ConfigError, message_of
    from petqcd.readout.scenarios import told_scenario

    journal.set_up(verbose=verbose)
    try:
        story = told_scenario(scenario, seed) if scenario else {}
        given = {"profile": profile, "seed": seed, "source": source}
        chosen = {key: one if one is not None else story.get(key) for key, one in given.items()}
        device = simulated_device(
            **{key: one for key, one in chosen.items() if one is not None},
            faults=tuple(fault or ()),
            scenario=os.path.abspath(scenario) if scenario.endswith(".toml") else scenario,  # noqa: PTH100
        )
        detector = str(chosen["profile"] or ScannerConfig().name)
        config = PetqcConfig(
            scanner=ScannerConfig(name=detector) if not detector.endswith(".toml") else ScannerConfig(),
            device=(device,),
            baseline=bench_baseline(device),
            qc=QcConfig(
                daily=DailyConfig(record="everything" if record else None),
                source=SourceConfig(seconds=seconds),
                housekeeping=HousekeepingConfig(seconds=min(seconds, DEMO_HOUSEKEEPING_S)),
            ),
            api=ApiConfig(listen=f"127.0.0.1:{port}"),
        )
    except ValidationError as error:
        told = (f"--{str(e['loc'][0]).removesuffix('s')} {e['input']!r}: {message_of(e)}" for e in error.errors())
        raise ConfigError("; ".join(told)) from error
    folder = state_dir.absolute() if state_dir else state_directory() / "demo"
    from petqcd.cli import foreground

    if story.get("days_per_run"):
        raise typer.Exit(foreground.demo_of_days(config, folder, story, once=once, as_json=as_json))
    raise typer.Exit(foreground.demo(config, folder, once=once, as_json=as_json))


def serve(
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the daemon until it is told to stop (Ctrl-C or SIGTERM)."""
    journal.set_up(verbose=verbose)
    loaded, folder = configuration(config, state_dir)
    if loaded.source_file is None:
        say("no petqc.toml: the simulated bench")
    faulthandler.enable()  # a watchdog that ends a process that hangs leaves where every thread stood
    from petqcd.cli import foreground

    foreground.serve(loaded, folder, as_json=as_json)


def _run_command(kind: str, title: str) -> Callable[..., None]:
    def run(
        *,
        seconds: Annotated[
            float | None, typer.Option(min=0.5, max=86_400, help="Acquisition time, where the kind has one.")
        ] = None,
        setting: Setting = None,
        record: Annotated[
            bool, typer.Option("--record", help="Record everything: every byte on every wire, and all readings.")
        ] = False,
        wait: Annotated[bool, typer.Option("--wait", help="Wait; end with the verdict's exit code.")] = False,
        config: ConfigFile = None,
        state_dir: StateDir = None,
        as_json: Json = False,
    ) -> None:
        from petqcd.client import Client

        given = settings(setting) | ({} if seconds is None else {"seconds": seconds})
        given |= {"record": "everything"} if record else {}
        if kind == "daily":
            given = _of_parts(given)
        _, folder = configuration(config, state_dir)
        body = {"kind": kind, "parameters": given}
        start(Client(folder), folder, body, title, wait=wait, as_json=as_json)

    return run


def _of_parts(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a day: KIND.KEY is one of a part, and how long to acquire is one of the run with a source."""
    of_parts: dict[str, dict[str, Any]] = {}
    own = {}
    for key, value in given.items():
        kind, _, name = ("source." + key if key == "seconds" else key).rpartition(".")
        if kind:
            of_parts.setdefault(kind, {})[name] = value
        else:
            own[name] = value
    return own | ({"settings": of_parts} if of_parts else {})


def start(client: Any, state_dir: Path, body: dict[str, Any], title: str, *, wait: bool, as_json: bool) -> None:
    """Start a run; watch it to its end, or say its id."""
    if wait:
        follow(client, state_dir, body, title, as_json=as_json)
        return
    run_id = client.post("/api/v1/runs", body, START_DEADLINE_S)["run_id"]
    if as_json:
        give_json({"run_id": run_id})
    else:
        sys.stdout.write(f"{run_id}\n")


def follow(client: Any, state_dir: Path, body: dict[str, Any], title: str, *, as_json: bool) -> None:
    """Start a run, watch it to its end, show it, and end with its verdict's exit code."""
    try:
        run_id = _follow(client, body, title)
    except KeyboardInterrupt:
        say("the run goes on in the daemon; stop it with: petqc abort")
        raise
    _show(client, state_dir, run_id, as_json=as_json)


def _follow(client: Any, body: dict[str, Any], title: str) -> str:
    """Start a run and watch it to its end; returns its id."""
    with closing(client.events()) as events, Bar(title) as bar:
        next(events)  # `state`: from here on nothing that happens is missed
        run_id: str = client.post("/api/v1/runs", body, START_DEADLINE_S)["run_id"]
        for name, data in events:
            if name == "progress" and data["run_id"] == run_id:
                bar.document(data)
            elif name == "finished" and data["run_id"] == run_id:
                return run_id
            elif name == "lost" and data["run_id"] == run_id:
                raise StoreError(f"run {run_id} could not be stored: {data['error']}")
    raise DaemonError(f"the daemon stopped while run {run_id} was going on (its record: petqc show {run_id})")


def _show(client: Any, state_dir: Path, run_id: str, *, as_json: bool) -> None:
    from petqc.results import Run

    run = Run.from_document(client.get(f"/api/v1/runs/{run_id}"))
    http = client.get("/api/v1/status")["http"]
    give(run, where(state_dir / "runs" / run_id, run, http), as_json=as_json)
    raise typer.Exit(VERDICT_EXIT[str(run.verdict)])


def abort(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Stop the run that is going on: bias off first; it becomes an invalid record."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    answer = Client(folder).post("/api/v1/abort", {})
    if as_json:
        give_json(answer)
    else:
        sys.stdout.write(f"run {answer['run_id']} {answer['told']}\n")


def confirm(
    note: Annotated[str, typer.Argument(help="Remark for the record.")] = "",
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Tell the run that is going on that what it waits for is done: that the MR sequence runs, or has ended."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    answer = Client(folder).post("/api/v1/confirm", {"note": note})
    if as_json:
        give_json(answer)
    else:
        sys.stdout.write(f"run {answer['run_id']}: {answer['confirmed']}\n")


def where(folder: Path, run: Run, http: str) -> dict[str, str]:
    """Where people find what belongs to a run."""
    found = {"report": str(folder / "report.html")} if (folder / "report.html").is_file() else {}
    recordings = (folder / file.name for file in run.raw_files)  # those of parts are in the folders of the parts
    recording = next((path for path in recordings if path.name == "recording.rawf" and path.is_file()), None)
    if recording is not None:
        found["recording"] = str(recording.resolve())
    return {**found, "console": http, "metrics": f"{http}/metrics"}


def give(run: Run, places: dict[str, str], *, as_json: bool) -> None:
    """Show a run, and where the rest of it is."""
    if as_json:
        give_json({**run.document(), "where": places})
        return
    from petqcd.cli.show import print_run

    print_run(run, where=places)
