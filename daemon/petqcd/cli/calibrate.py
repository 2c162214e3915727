"""calibrate: runs that make calibration sets. calibration: the sets, and which of them is used."""

from __future__ import annotations

import getpass
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, Setting, StateDir, configuration, give_json, sets_folder, settings
from petqcd.errors import EXIT_FAIL, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc.calibrate.accepted import Acceptance

KINDS = Path(__file__).parents[1] / "kinds"
"""Looked through without being imported: commands start fast."""
PREFIX = "calibrate_"
NONE = "none"
"""Instead of a set: the device's own configuration."""

SetId = Annotated[str, typer.Argument(metavar="SET", help="Id of the calibration set, as 0003-tdc.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file: one for each kind of run that calibrates."""
    group = typer.Typer(help="Calibrate: acquisition, fit, report, and a new calibration set.", no_args_is_help=True)
    for module in pkgutil.iter_modules([str(KINDS)]):
        what = module.name.removeprefix(PREFIX).replace("_", "-")
        if what == "bias":
            group.command(what)(bias)
        elif module.name.startswith(PREFIX):
            group.command(what, help=f"Run the {what} calibration on the daemon and wait for it.")(_command(what))
    app.add_typer(group, name="calibrate")
    sets = typer.Typer(help="Calibration sets: what there is, and which one is used.", no_args_is_help=True)
    sets.command("list")(list_sets)
    sets.command("show")(show)
    sets.command("verify")(verify)
    sets.command("accept")(accept)
    app.add_typer(sets, name="calibration")


Plan = Annotated[str | None, typer.Option(help="Which points to take: short, or vendor.")]
Channels = Annotated[str | None, typer.Option(metavar="FIRST-LAST", help="Only these channels of each ASIC.")]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="Continue this interrupted run, or the `last` one.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait; end with the verdict's exit code.")]


def _command(what: str) -> Callable[..., None]:
    def calibrate(
        *,
        plan: Plan = None,
        channels: Channels = None,
        resume: Resume = None,
        setting: Setting = None,
        wait: Wait = True,
        config: ConfigFile = None,
        state_dir: StateDir = None,
        as_json: Json = False,
    ) -> None:
        from petqcd.cli.service import start
        from petqcd.client import Client

        given: dict[str, Any] = settings(setting)
        given |= {key: value for key, value in (("plan", plan), ("resume", resume)) if value is not None}
        if channels is not None:
            given["channels"] = _channels(channels)
        _, folder = configuration(config, state_dir)
        body = {"kind": f"calibrate-{what}", "parameters": given}
        start(Client(folder), folder, body, f"{what} calibration", wait=wait, as_json=as_json)

    return calibrate


def bias(
    *,
    iv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Current-voltage curves instead of dark counts, nothing is done at the board. CSV: "
            "output,volts,amperes in a line, or volts,amperes alone.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="PORT.SLAVE.SLOT.CHANNEL", help="Whose curve it is, where lines do not say.")
    ] = None,
    channels: Channels = None,
    resume: Resume = None,
    setting: Setting = None,
    wait: Wait = True,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Run the bias calibration on the daemon and wait for it: breakdown voltages from dark counts, or from curves."""
    common = {"wait": wait, "config": config, "state_dir": state_dir, "as_json": as_json}
    if iv is None:
        if output is not None:
            raise ConfigError("--output says whose curve it is: it needs --iv")
        _command("bias")(channels=channels, resume=resume, setting=setting, **common)
        return
    if channels is not None or resume is not None or setting:
        raise ConfigError("--iv takes curves, no points: --channels, --resume and --set have no meaning with it")
    from petqc.calibrate.bias_outputs import parse_output
    from petqc.calibrate.iv_curve import read_iv_file
    from petqcd.cli.service import start
    from petqcd.client import Client

    curves = read_iv_file(iv, None if output is None else parse_output(output))
    given = [
        {"output": ".".join(map(str, of)), "volts": volts.tolist(), "amperes": amperes.tolist()}
        for of, (volts, amperes) in curves.items()
    ]
    _, folder = configuration(config, state_dir)
    body = {"kind": "calibrate-bias-iv", "parameters": {"curves": given}}
    start(Client(folder), folder, body, "bias calibration", wait=wait, as_json=as_json)


def _channels(text: str) -> list[int]:
    first, sign, last = text.partition("-")
    if not first.isdecimal() or not (last.isdecimal() if sign else True):
        raise ConfigError(f"--channels {text!r} is not FIRST-LAST")
    return [int(first), int(last if sign else first)]


def list_sets(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every calibration set, newest first."""
    from petqc.calibrate import sets

    root = sets_folder(state_dir, config)
    listing = sets.list_sets(root)
    used = _used(root)
    if as_json:
        documents = [{**s.document(), "in_use": used.get(s.id)} for s in reversed(listing.sets)]
        give_json({"sets": documents, "junk": listing.junk})
    else:
        from petqcd.cli.show import print_sets

        print_sets(listing.sets, used, listing.junk)


def show(set_id: SetId, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """One calibration set: where it comes from, what is new in it, its quality, and when it was accepted."""
    from petqc.calibrate import sets
    from petqc.calibrate.accepted import acceptances

    root = sets_folder(state_dir, config)
    folder = sets.find_set(root, set_id)
    info, problems, acts = sets.read_set(folder), sets.verify_set(folder), acceptances(root)
    if as_json:
        mine = [a.document() for a in acts if info.id in (a.set_id, a.previous)]
        give_json({**info.document(), "problems": problems, "acts": mine, "folder": str(folder)})
    else:
        from petqcd.cli.show import print_set

        print_set(info, problems, acts)


def verify(
    set_ids: Annotated[list[str] | None, typer.Argument(metavar="SET…", help="Default: all.")] = None,
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Whether the files of calibration sets are as they were written; exit code 1 if one is not."""
    from petqc.calibrate import sets

    root = sets_folder(state_dir, config)
    listing = sets.list_sets(root)
    wanted = set_ids or [s.id for s in listing.sets]
    found = {set_id: sets.verify_set(sets.find_set(root, set_id)) for set_id in wanted}
    if set_ids is None:
        found |= {name: [why] for name, why in listing.junk.items()}
    if as_json:
        give_json({"sets": found})
    else:
        for set_id, problems in found.items():
            sys.stdout.write(f"{set_id}: {'; '.join(problems) if problems else 'as it was written'}\n")
    if any(found.values()):
        raise typer.Exit(EXIT_FAIL)


def accept(
    set_id: Annotated[
        str, typer.Argument(metavar="SET", help="Id of a set, or `none`: the device's own configuration.")
    ],
    *,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Accept a set whose run failed, for this reason.")
    ] = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a set the one that the device uses in later runs; written down with who, when and what it was before."""
    from petqcd.cli.service import START_DEADLINE_S
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    body = {"set_id": None if set_id == NONE else set_id, "who": getpass.getuser(), "reason": force or ""}
    act = Client(folder).post("/api/v1/calibrations/accept", body, START_DEADLINE_S)
    if as_json:
        give_json(act)
        return
    now, before = (name or "its own configuration" for name in (act["set_id"], act["previous"]))
    sys.stdout.write(f"{act['device']} uses {now} from the next run on; before: {before}\n")


def _used(root: Any) -> dict[str, str]:
    """Devices by the set that was accepted for them."""
    from petqc.calibrate.accepted import acceptances

    last: dict[str, Acceptance] = {act.device: act for act in acceptances(root)}
    used: dict[str, list[str]] = {}
    for device, act in last.items():
        if act.set_id is not None:
            used.setdefault(act.set_id, []).append(device)
    return {set_id: ", ".join(devices) for set_id, devices in used.items()}
