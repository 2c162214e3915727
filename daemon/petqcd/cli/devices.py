"""devices: what is known of each, setting a circulator, and forgetting a device that is gone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable
from petqcd.errors import ConfigError

COOL_DEADLINE_S = 30.0
FORGET_DEADLINE_S = 30.0
"""It is switched off once more first, which takes up to ten seconds."""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Devices: what is known of each.", invoke_without_command=True)
    group.callback()(devices)
    group.command("list")(list_)
    group.command("cool")(cool)
    group.command("forget")(forget)
    app.add_typer(group, name="devices")


def devices(context: typer.Context) -> None:
    """Without a command: all of them."""
    if context.invoked_subcommand is None:
        list_()


def list_(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every instrument with its state and readings, and outputs that are configured no more and may be on."""
    from petqcd.cli.device_table import print_devices
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    client = Client(folder)
    found = {**client.get("/api/v1/devices"), **client.get("/api/v1/retired")}
    if as_json:
        give_json(found)
        return
    print_devices(found["instruments"])
    for one in found["retired"]:
        line = f"{one['name']} ({one['kind']}): not configured any more, last known {one['state']} at {one['at']}"
        sys.stdout.write(printable(f"{line}; once it is off: petqc devices forget {one['name']}") + "\n")


def cool(
    device: Annotated[str, typer.Argument(help="Name of a circulator.")],
    *,
    degc: Annotated[float | None, typer.Option("--set", help="Set point, in °C.")] = None,
    start: Annotated[bool | None, typer.Option("--start/--stop", help="Pump and control.", show_default=False)] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Set a circulator within its configured range, start or stop it; what it cools trips if its permits say so."""
    from urllib.parse import quote

    from petqcd.cli.device_table import print_devices
    from petqcd.client import Client

    if degc is None and start is None:
        raise ConfigError("say what: --set DEGC, --start or --stop")
    _, folder = configuration(config, state_dir)
    body = {"set_degc": degc, "is_running": start, "reason": reason}
    told = Client(folder).post(f"/api/v1/devices/{quote(device, safe='')}/cool", body, COOL_DEADLINE_S)
    if as_json:
        give_json(told)
    else:
        print_devices([told])


def forget(
    device: Annotated[str, typer.Argument(help="Name of a device that is configured no more.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)],
    disconnected: Annotated[
        bool, typer.Option("--disconnected", help="You have seen that its output is off by its own switch or plug.")
    ] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Forget an output that is gone, so that off asks it no more; refused while it may be on."""
    from urllib.parse import quote

    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    body = {"reason": reason, "is_disconnected": disconnected}
    path = f"/api/v1/devices/{quote(device, safe='')}/forget"
    told = Client(folder).post(path, body, FORGET_DEADLINE_S)
    if as_json:
        give_json(told)
    else:
        sys.stdout.write(printable(f"{device}: forgotten ({told['told']})") + "\n")
