"""off: everything that can put a voltage on the detector, now, whatever else works or does not."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable, say
from petqcd.errors import EXIT_UNREACHABLE, ConfigError, DaemonError

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.off.outputs import Output
    from petqcd.off.safe_state import SafeOutcome

ALIVE_DEADLINE_S = 2.0
"""For a daemon to answer that it is there: one that hangs must not stand between a person and off."""
DAEMON_DEADLINE_S = 14.0
"""For a daemon that is alive: every device has ten seconds, all at once."""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("off")(off)


def off(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Emergency off: every bias output, now. Works with the daemon down, then straight to every device."""
    from petqcd.off.retired import told_how_to_forget
    from petqcd.off.safe_state import SafeState, worst

    outputs, in_daemon, retired, folder = _known(config, state_dir)
    try:
        outcomes = _by_daemon(folder)
    except DaemonError as error:
        say(f"petqc: {error}; switching off directly")
        outcomes = [told_how_to_forget(o) if o.device in retired else o for o in _directly(outputs, in_daemon)]
        _keep(folder, outputs, outcomes)
    state = worst(outcomes) if outcomes else SafeState.UNKNOWN
    if as_json:
        give_json({"state": str(state), "devices": [one.document() for one in outcomes]})
    else:
        sys.stdout.writelines(printable(f"{one.device}: {one.state}: {one.told}") + "\n" for one in outcomes)
    if not outcomes:
        say("petqc: no output is known: neither a configuration nor what a daemon left behind says where one is")
    if state is not SafeState.IN_SAFE_STATE:
        raise typer.Exit(EXIT_UNREACHABLE)


def _known(config: Path | None, state_dir: Path | None) -> tuple[list[Output], list[str], set[str], Path]:
    """The outputs there are, the devices that exist within the daemon only, the retired ones, the state directory.

    What the daemon last wrote of its outputs speaks for those that the configuration does not name, or if there is no
    configuration that can be read.
    """
    from petqcd.config import state_directory
    from petqcd.off import outputs as last_known

    found: dict[str, Output] = {}
    in_daemon: list[str] = []
    is_configured = False
    try:
        from petqcd.off.output_settings import configured_outputs

        loaded, folder = configuration(config, state_dir)
        found = {one.name: one for one in configured_outputs(loaded)}
        in_daemon = [] if loaded.board.name in found else [loaded.board.name]
    except ConfigError as error:
        folder = state_dir.absolute() if state_dir else state_directory()
        say(f"petqc: {error}; going by what the daemon last wrote in {folder}")
    else:
        is_configured = True
    last = last_known.read(folder)
    if last.why:
        say(f"petqc: {last.why}")
    retired = {one.name for one in last.outputs} - set(found) if is_configured else set()
    for one in last.outputs:
        known = found.get(one.name)
        found[one.name] = one if known is None else replace(known, state=one.state)
    return list(found.values()), in_daemon, retired, folder


def _keep(folder: Path, outputs: list[Output], outcomes: list[SafeOutcome]) -> None:
    """Write down what is known now, unless a daemon that hangs has the directory; off is off in any case."""
    import os
    from contextlib import suppress

    from petqcd import places
    from petqcd.off.outputs import write_after_off

    with suppress(DaemonError, OSError):
        descriptor = places.hold(folder)
        try:
            write_after_off(folder, outputs, {one.device: one.output for one in outcomes})
        finally:
            os.close(descriptor)


def _by_daemon(folder: Path) -> list[SafeOutcome]:
    from petqcd.client import Client
    from petqcd.off.safe_state import of_documents

    client = Client(folder)
    client.alive(ALIVE_DEADLINE_S)
    return of_documents(client.post("/api/v1/off", {}, DAEMON_DEADLINE_S)["devices"])


def _directly(outputs: list[Output], in_daemon: list[str]) -> list[SafeOutcome]:
    import asyncio

    from petqcd.off.safe_state import SafeOutcome, SafeState, outputs_off

    gone = "a simulator that lives with its daemon; no daemon answers, so nobody can say"
    return [
        *asyncio.run(outputs_off(outputs)),
        *(SafeOutcome(name, SafeState.UNKNOWN, gone) for name in in_daemon),
    ]
