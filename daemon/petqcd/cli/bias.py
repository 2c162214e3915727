"""bias: what is on, why or why not, and the commands that energise; each of them is one step and implies no other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable
from petqcd.errors import EXIT_UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ON_DEADLINE_S = 300.0
"""Longest answer to a command that ramps; the daemon has a deadline of its own."""
COMMAND_DEADLINE_S = 60.0

Device = Annotated[str, typer.Argument(help="Name of the bias source.")]
Volts = Annotated[float, typer.Argument(help="Volts, inside the operating limits.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Bias sources: what is on, and switching.", no_args_is_help=True)
    group.command("status")(status)
    group.command("on")(on)
    group.command("set")(set_)
    for name, path, told in (
        ("off", "off", "Switch one output off, now (all of them: petqc off)."),
        ("stop", "stop", "End a ramp where it is, and say what is measured there; on stays on."),
        ("confirm", "confirm", "Take over an output that was found on; nothing is sent to it."),
        ("acknowledge", "acknowledge", "Say that you saw a trip; nothing else changes."),
        ("reset", "reset", "Reset an acknowledged trip whose cause is gone; energises nothing."),
    ):
        group.command(name, help=told)(_simple(path))
    group.command("limits")(limits)
    group.command("bypass")(bypass)
    app.add_typer(group, name="bias")


def status(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every bias source: its output, its trip, and what stands in the way of energising it."""
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    found = Client(folder).get("/api/v1/bias")
    sources = found["sources"]
    if as_json:
        give_json(found)
        return
    sys.stdout.write(_readout(found["readout"]))
    for one in sources:
        sys.stdout.write(_shown(one))
    if not sources:
        sys.stdout.write("no bias source is configured\n")


def _readout(one: Mapping[str, Any]) -> str:
    """The readout's own bias, which runs switch."""
    lines = [f"{one['name']}: bias {one['bias']}, switched by runs", *_trip_and_permits(one)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _trip_and_permits(one: Mapping[str, Any]) -> list[str]:
    trip = one["trip"]
    causes = trip["causes"] if trip["state"] != "armed" else []
    found = [f"  trip, {trip['state']}: {cause['cause']} (at {cause['at']})" for cause in causes]
    return found + [f"  not allowed: {reason}" for reason in one["against"]]


def on(
    device: Device,
    volts: Volts,
    *,
    reason: Reason = "",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Switch on at the lowest output and ramp to a voltage, if every permit is given."""
    _command(device, "on", {"volts": volts, "reason": reason}, config, state_dir, as_json=as_json)


def set_(
    device: Device,
    volts: Volts,
    *,
    reason: Reason = "",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Ramp what is on to another voltage."""
    _command(device, "set", {"volts": volts, "reason": reason}, config, state_dir, as_json=as_json)


def limits(
    device: Device,
    v_min: Annotated[float, typer.Argument(help="Lowest volts that commands may ask for.")],
    v_max: Annotated[float, typer.Argument(help="Highest.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)],
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Change the operating limits, inside the hard limit; they are kept."""
    _command(device, "limits", {"v_min": v_min, "v_max": v_max, "reason": reason}, config, state_dir, as_json=as_json)


def bypass(
    device: Device,
    permit: Annotated[str, typer.Argument(help="Name of the permit, as petqc bias status shows it.")],
    *,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=8, help="For how long, at most 8.")] = 1.0,
    reason: Annotated[str, typer.Option("--reason", help="Why; needed unless --end.", show_default=False)] = "",
    end: Annotated[bool, typer.Option("--end", help="End the bypass now.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Let one permit count as given for a time; limits, identity and trips have no bypass."""
    if end:
        _command(device, "bypass/end", {"permit": permit}, config, state_dir, as_json=as_json)
    else:
        body = {"permit": permit, "seconds": 3600 * hours, "reason": reason}
        _command(device, "bypass", body, config, state_dir, as_json=as_json)


def _simple(path: str) -> Callable[..., None]:
    def command(
        device: Device, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False
    ) -> None:
        _command(device, path, {}, config, state_dir, as_json=as_json)

    return command


def _command(device: str, path: str, body: Mapping[str, Any], config: Any, state_dir: Any, *, as_json: bool) -> None:
    from urllib.parse import quote

    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    deadline_s = ON_DEADLINE_S if path in ("on", "set") else COMMAND_DEADLINE_S
    told = Client(folder).post(f"/api/v1/bias/{quote(device, safe='')}/{path}", dict(body), deadline_s)
    if as_json:
        give_json(told)
    elif path == "off":
        sys.stdout.write(f"{told['device']}: {told['state']}: {told['told']}\n")
    elif path.startswith("bypass"):
        left = "ended" if path.endswith("end") else f"bypassed for {told['left_s'] / 3600:.2f} h"
        sys.stdout.write(f"{told['device']}: {told['permit']} {left}\n")
    elif "hard_limit" not in told:
        sys.stdout.write(_readout(told))
    else:
        sys.stdout.write(_shown(told))
    if path == "off" and told["state"] != "IN_SAFE_STATE":
        raise typer.Exit(EXIT_UNREACHABLE)


def _shown(one: Mapping[str, Any]) -> str:
    readings = {r["name"]: r for r in one["readings"]}
    volts, current = _value(readings.get("bias_voltage")), _value(readings.get("bias_current"))
    lines = [f"{one['name']}: {one['state']}, {volts}, {current}" + (" (simulated)" if one["simulated"] else "")]
    if one["detail"]:
        lines.append(f"  {one['detail']}")
    trip = one["trip"]
    if trip["state"] != "armed":
        lines += [f"  trip, {trip['state']}: {cause['cause']} (at {cause['at']})" for cause in trip["causes"]]
    hard, operating = one["hard_limit"], one["operating_limits"]
    if hard is None:
        lines.append("  no hard limit is configured: it is never switched on")
    elif operating is None:
        lines.append(f"  limits: hard {hard['v_min']:g} to {hard['v_max']:g} V, operating not known any more")
    else:
        lines.append(
            f"  limits: hard {hard['v_min']:g} to {hard['v_max']:g} V, operating {operating['v_min']:g} to "
            f"{operating['v_max']:g} V"
        )
    lines += [f"  BYPASSED: {b['permit']}, {b['left_s'] / 3600:.2f} h left: {b['reason']}" for b in one["bypasses"]]
    lines += [f"  not allowed: {reason}" for reason in one["against"]]
    return "".join(f"{printable(line)}\n" for line in lines)


def _value(reading: Mapping[str, Any] | None) -> str:
    if reading is None or reading["value"] is None:
        return "no reading" if reading is None else f"no {reading['name']} ({reading['reason']})"
    return f"{reading['value']:.4g} {reading['unit']}"
