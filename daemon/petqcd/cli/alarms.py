"""alarms: what is wrong, what to do about it, and saying that somebody saw it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

Id = Annotated[str, typer.Argument(help="Name of the alarm, as petqc alarms list shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Alarms: what is wrong, and what to do.", invoke_without_command=True)
    group.callback()(alarms)
    group.command("list")(list_)
    group.command("ack")(acknowledge)
    group.command("shelve")(shelve)
    group.command("service")(service)
    app.add_typer(group, name="alarms")


def alarms(context: typer.Context) -> None:
    """Without a command: those that are not normal."""
    if context.invoked_subcommand is None:
        list_()


def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are normal.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Alarms that are not normal, the worst first."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    found = Client(folder).get(f"/api/v1/alarms?every={str(every).lower()}")["alarms"]
    if as_json:
        give_json({"alarms": found})
        return
    sys.stdout.writelines(_shown(one) for one in found)
    if not found:
        sys.stdout.write("no alarm\n")


def acknowledge(alarm: Id, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Say that you saw an alarm; what is wrong stays wrong until it is put right."""
    _command(alarm, "acknowledge", {}, config, state_dir, as_json=as_json)


def shelve(
    alarm: Id,
    *,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=24, help="For how long, at most 24.")] = 1.0,
    reason: Reason,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Let an alarm be silent for a time; it goes on being shown."""
    _command(alarm, "shelve", {"seconds": 3600 * hours, "reason": reason}, config, state_dir, as_json=as_json)


def service(
    alarm: Id,
    *,
    reason: Annotated[str, typer.Option("--out", help="Out of service: why. Without it: back into service.")] = "",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Take an alarm out of service, or put it back."""
    _command(alarm, "service", {"reason": reason}, config, state_dir, as_json=as_json)


def print_attention(status: Mapping[str, Any]) -> None:
    """What of the daemon's status must not be overlooked: bypasses and alarms."""
    for one in status["bypasses"]:
        hours = one["left_s"] / 3600
        told = f"BYPASSED: {one['permit']} of {one['device']}, {hours:.2f} h left: {one['reason']}"
        sys.stdout.write(f"{printable(told)}\n")
    sys.stdout.writelines(_shown(one) for one in status["alarms"] if one["state"] != "NORMAL")


def _command(alarm: str, path: str, body: dict[str, Any], config: Any, state_dir: Any, *, as_json: bool) -> None:
    from urllib.parse import quote

    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    told = Client(folder).post(f"/api/v1/alarms/{quote(alarm, safe='')}/{path}", body)
    if as_json:
        give_json(told)
    else:
        sys.stdout.write(_shown(told))


def _shown(one: Mapping[str, Any]) -> str:
    words = [one["severity"], one["state"]]
    if one["shelved_because"]:
        words.append(f"shelved: {one['shelved_because']}")
    if one["held_because"]:
        words.append(f"held: {one['held_because']}")
    if one["out_of_service"]:
        words.append(f"out of service: {one['out_of_service']}")
    if one["acknowledged_by"]:
        words.append(f"seen by {one['acknowledged_by']}")
    detail = f": {one['detail']}" if one["detail"] else ""
    lines = [f"{one['id']} ({', '.join(words)}){detail}"]
    lines += [] if one["state"] == "NORMAL" else [f"  do: {one['guidance']}"]
    return "".join(f"{printable(line)}\n" for line in lines)
