"""fault: what is planted in a simulated readout that runs; one more, one less."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable

Control = Annotated[
    Path | None,
    typer.Option(help="Control socket of a simulator, as it says when it begins. Default: that of the daemon's own."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Faults of a simulated readout, while it runs.", no_args_is_help=True)
    group.command("list")(list_)
    group.command("add")(add)
    group.command("remove")(remove)
    app.add_typer(group, name="fault")


def list_(
    *, control: Control = None, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False
) -> None:
    """What is planted."""
    found = _asked({"do": "list"}, "GET", "/api/v1/faults", control, config, state_dir)["faults"]
    if as_json:
        give_json({"faults": found})
        return
    sys.stdout.writelines(_shown(one) for one in found)
    if not found:
        sys.stdout.write("no fault\n")


def add(
    fault: Annotated[
        str,
        typer.Argument(
            help="ID[=size][:place][@begin[-end]][~ramp], seconds from now on; `petqc faults` lists the ids."
        ),
    ],
    *,
    control: Control = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Let something break, from now on."""
    request = {"do": "add", "fault": fault}
    _tell(_asked(request, "POST", "/api/v1/faults", control, config, state_dir, {"fault": fault}), as_json=as_json)


def remove(
    number: Annotated[int, typer.Argument(min=1, help="Number of the fault, as petqc fault list shows it.")],
    *,
    control: Control = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Let it be well again."""
    request, path = {"do": "remove", "number": number}, f"/api/v1/faults/{number}/remove"
    _tell(_asked(request, "POST", path, control, config, state_dir), as_json=as_json)


def _tell(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        give_json(answer["fault"])
    else:
        sys.stdout.write(_shown(answer["fault"]))


def _asked(
    request: dict[str, Any],
    method: str,
    path: str,
    control: Path | None,
    config: Path | None,
    state_dir: Path | None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Through the daemon, which records who did it; or of a simulator itself, where its socket is named."""
    if control is not None:
        import asyncio

        from petqcd.readout.simulator_control import SimulatorControl

        return asyncio.run(SimulatorControl(is_simulated=True, path=control).ask(request))
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    client = Client(folder)
    found: dict[str, Any] = client.get(path) if method == "GET" else client.post(path, body or {})
    return found


def _shown(one: dict[str, Any]) -> str:
    acts = "acts" if one["is_acting"] else "does not act now"
    nodes = ", ".join(one["nodes"][:4]) + (" …" if len(one["nodes"]) > 4 else "")
    where = f" at {nodes}" if nodes else ""
    told = f"{one['number']}  {one['id']} {one['title']}, {one['size_means']} {one['size']:g}{where}: {acts}"
    return f"{printable(told)}\n"
