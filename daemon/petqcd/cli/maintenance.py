"""maintenance: somebody works at a device, so nothing energises it until somebody says that the work is over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

Device = Annotated[str, typer.Argument(help="Name of the device; `scanner`: all of them.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Work at devices: nothing energises them meanwhile.", invoke_without_command=True)
    group.callback()(maintenance)
    group.command("list")(list_)
    group.command("begin")(begin)
    group.command("end")(end)
    app.add_typer(group, name="maintenance")


def maintenance(context: typer.Context) -> None:
    """Without a command: who works where."""
    if context.invoked_subcommand is None:
        list_()


def list_(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every device that somebody works at."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    found = Client(folder).get("/api/v1/maintenance")
    if as_json:
        give_json(found)
        return
    sys.stdout.writelines(_shown(one) for one in found["maintenance"])
    if not found["maintenance"]:
        sys.stdout.write("no device is in maintenance\n")


def begin(
    device: Device,
    *,
    reason: Annotated[str, typer.Option("--reason", help="What is done there.", show_default=False)],
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=168, help="When it should be over.")] = 4.0,
    disconnected: Annotated[
        bool,
        typer.Option("--disconnected", help="You have seen that its output is off by its own switch or plug."),
    ] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Begin: refused while its output is on. When the time is over people are called, and it still holds."""
    body = {"seconds": 3600 * hours, "reason": reason, "is_disconnected": disconnected}
    _command(device, "maintenance", body, config, state_dir, as_json=as_json)


def end(device: Device, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """The work is over; energises nothing."""
    _command(device, "maintenance/end", {}, config, state_dir, as_json=as_json)


def _command(device: str, path: str, body: Mapping[str, Any], config: Any, state_dir: Any, *, as_json: bool) -> None:
    from urllib.parse import quote

    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    told = Client(folder).post(f"/api/v1/devices/{quote(device, safe='')}/{path}", dict(body))
    if as_json:
        give_json(told)
    else:
        sys.stdout.write(f"{device}: maintenance ended\n" if path.endswith("end") else _shown(told))


def _shown(one: Mapping[str, Any]) -> str:
    late = " (that is over: end it, or begin it again)" if one["is_overdue"] else ""
    return (
        printable(f"{one['device']}: in maintenance until {one['due']}{late}, by {one['by']}: {one['reason']}") + "\n"
    )
