"""bias: what is on, why or why not, and the commands that energise; each of them is one step and implies no other."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - the signatures of commands are read at run time
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
    group.command("curve")(curve)
    for name, path, told in (
        ("off", "off", "Switch one output off, now (all of them: petqc off)."),
        ("stop", "stop", "End a ramp where it is, and say what is measured there; on stays on."),
        ("confirm", "confirm", "Take over an output that was found on; nothing is sent to it."),
        ("acknowledge", "acknowledge", "Say that you saw a trip; nothing else changes."),
        ("reset", "reset", "Reset an acknowledged trip whose cause is gone; energises nothing."),
    ):
        group.command(name, help=told)(_simple(path))
    group.command("limits")(limits)
    group.command("stored")(stored)
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


def curve(
    device: Device,
    from_v: Annotated[float, typer.Argument(help="Volts of the first point.")],
    to_v: Annotated[float, typer.Argument(help="Volts of the last one.")],
    *,
    step: Annotated[float, typer.Option("--step", min=0.001, max=100, help="Volts from one to the next.")] = 0.05,
    settle: Annotated[float, typer.Option("--settle", min=0, max=10, help="Seconds to wait at each.")] = 0.05,
    of: Annotated[
        str | None, typer.Option("--output", metavar="PORT.SLAVE.SLOT.CHANNEL", help="Whose curve it is.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-o", metavar="FILE", help="Write the points, for petqc calibrate bias --iv."),
    ] = None,
    reason: Reason = "",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Measure a current-voltage curve with a source meter, breakdown and leakage; it is off again in the end."""
    if of is not None:
        from petqc.calibrate.bias_outputs import parse_output

        parse_output(of)
    body = {"from_v": from_v, "to_v": to_v, "step_v": step, "settle_s": settle, "reason": reason}
    told = _told(device, "curve", body, config, state_dir, ON_DEADLINE_S)
    if file is not None:
        file.write_text(_csv(told, of), "utf-8")
    if as_json:
        give_json(told)
        return
    points = told["points"]
    lines = [f"{told['device']}: {len(points)} points" + (" (simulated)" if told["simulated"] else "")]
    lines += [f"  {one['volts']:9.3f} V  {one['amps']:.4e} A" for one in points]
    if points and points[-1]["is_limiting"]:
        lines.append("  ended by the current limit, which holds the last voltage back")
    if (found := told["breakdown"]) is None:
        lines.append(f"  no breakdown: {told['why_no_breakdown']}")
    else:
        other = "" if found["other_v"] is None else f"; where its slope points to: {found['other_v']:.3f} V"
        lines.append(f"  breakdown {found['volts']:.3f} ± {found['error_v']:.3f} V ({found['method']}{other})")
    if (flows := told["leakage"]) is not None:
        lines.append(f"  leakage {flows['amps']:.3e} A at {flows['at_v']:.3f} V")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def _csv(told: Mapping[str, Any], output: str | None) -> str:
    """The points that the current limit did not hold back, of reverse voltage and current, both positive."""
    simulated = "simulated " if told["simulated"] else ""
    lines = ["volts,amperes" if output is None else "output,volts,amperes"]
    lines.append(f"# {simulated}curve of {printable(told['device'])} at {told['at']}")
    first = "" if output is None else f"{output},"
    free = [one for one in told["points"] if not one["is_limiting"]]
    sign = -1.0 if sum(one["volts"] for one in free) < 0 else 1.0
    lines += [f"{first}{sign * one['volts']!r},{sign * one['amps']!r}" for one in free]
    return "\n".join(lines) + "\n"


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


def stored(
    device: Device,
    *,
    volts: Annotated[float | None, typer.Option("--volts", help="Store another set: with this voltage,")] = None,
    at: Annotated[float, typer.Option("--at", help="right at this temperature, in °C,")] = 25.0,
    mv_per_k: Annotated[float, typer.Option("--mv-per-k", help="and so much more for each K above it.")] = 0.0,
    mv_per_k2: Annotated[float, typer.Option("--mv-per-k2", help="The same for its square.")] = 0.0,
    stays_off: Annotated[bool, typer.Option("--stays-off", help="Over-current leaves it off.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "to see what it keeps",
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """What a C11204 keeps by itself: voltage, compensation, and what over-current does; stored anew if asked."""
    body = {"volts": volts, "at_degc": at, "mv_per_k": mv_per_k, "mv_per_k2": mv_per_k2, "stays_off": stays_off}
    told = _told(device, "stored", body | {"reason": reason}, config, state_dir, COMMAND_DEADLINE_S)
    if as_json:
        give_json(told)
        return
    sides = [
        f"{told[f'mv_per_k_{side}']:+.2f} mV/K {told[f'mv_per_k2_{side}']:+.3f} mV/K² {side}"
        for side in ("above", "below")
    ]
    after = "leaves it off" if told["stays_off"] else "is followed by its restoring its output itself (--stays-off)"
    lines = [
        f"{told['device']}: wakes up with {told['volts']:.3f} V",
        f"  compensating it has {' and '.join(sides)} {told['at_degc']:.1f} °C",
        f"  over-current {after}",
    ]
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


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


def _told(
    device: str, path: str, body: Mapping[str, Any], config: Any, state_dir: Any, deadline_s: float
) -> dict[str, Any]:
    """What the daemon answers to a command."""
    from urllib.parse import quote

    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    told: dict[str, Any] = Client(folder).post(f"/api/v1/bias/{quote(device, safe='')}/{path}", dict(body), deadline_s)
    return told


def _command(device: str, path: str, body: Mapping[str, Any], config: Any, state_dir: Any, *, as_json: bool) -> None:
    deadline_s = ON_DEADLINE_S if path in ("on", "set") else COMMAND_DEADLINE_S
    told = _told(device, path, body, config, state_dir, deadline_s)
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
    if (follows := one["following"]) is not None:
        how = f"{follows['mv_per_k']:g} mV/K from {follows['reference_degc']:g} °C, at most {follows['most_v']:g} V"
        added = f"{follows['correction_v']:+.3f} V"
        still = f"STANDS STILL at {added}: {follows['frozen']}"
        lines.append(f"  follows the temperature: {still if follows['frozen'] else added} ({how})")
    lines += [f"  BYPASSED: {b['permit']}, {b['left_s'] / 3600:.2f} h left: {b['reason']}" for b in one["bypasses"]]
    lines += [f"  not allowed: {reason}" for reason in one["against"]]
    return "".join(f"{printable(line)}\n" for line in lines)


def _value(reading: Mapping[str, Any] | None) -> str:
    if reading is None or reading["value"] is None:
        return "no reading" if reading is None else f"no {reading['name']} ({reading['reason']})"
    return f"{reading['value']:.4g} {reading['unit']}"
