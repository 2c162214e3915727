"""baseline: what was signed as this scanner in good order, and what later runs are judged against."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, say
from petqcd.errors import NotFoundError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.config import PetqcConfig

_CHARTS_NEED = 20

Kind = Annotated[str, typer.Argument(metavar="KIND", help="Kind of run, such as source.")]
Acceptance = Annotated[
    bool,
    typer.Option("--acceptance", help="The scanner as it was accepted: stays through calibrations, beside the other."),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; written down with who and when.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(
        help="Baselines: what later runs are judged against, accepted by a person.", no_args_is_help=True
    )
    group.command("list")(list_baselines)
    group.command("show")(show)
    group.command("accept")(accept)
    group.command("end")(end)
    app.add_typer(group, name="baseline")


def list_baselines(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every accepted baseline and every end of one, oldest first."""
    found = _all(*configuration(config, state_dir))
    if as_json:
        give_json({"baselines": found})
        return
    if not found:
        sys.stdout.write("no baseline was accepted yet: petqc baseline accept source --reason ...\n")
    for b in found:
        what = f"{_role(b)} of {len(b['runs'])} runs" if b["runs"] else f"{_role(b)} ended"
        mark = " (simulated)" if b["simulated"] else ""
        sys.stdout.write(f"{b['number']:4}  {b['at'][:16]}  {b['kind']}{mark}: {what}, by {b['who']}: {b['reason']}\n")


def show(
    number: Annotated[int, typer.Argument(help="Number of the baseline, as `list` gives it.")],
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """One baseline: its runs, its calibration, its values with their standard errors."""
    found = {b["number"]: b for b in _all(*configuration(config, state_dir))}
    if number not in found:
        raise NotFoundError(f"there is no baseline {number}")
    b = found[number]
    if as_json:
        give_json(b)
        return
    sys.stdout.write(
        f"{_role(b)} baseline {number} of {b['kind']} runs, accepted {b['at']} by {b['who']}: {b['reason']}\n"
    )
    sys.stdout.write(f"runs: {', '.join(b['runs']) or 'none: it ends the one before'}\n")
    for check, nodes in b["values"].items():
        for node, (value, error) in nodes.items():
            if node == "scanner" or node.startswith("module:"):
                sys.stdout.write(f"  {check:32}{node:18}{value:14.6g} ± {error:.2g}\n")


def accept(
    kind: Kind,
    *,
    reason: Reason,
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="A run of it; may be repeated. Default: the last.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, max=200, help="How many of the last runs with one calibration.")] = 60,
    acceptance: Acceptance = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Sign runs as this scanner in good order: relative limits and control charts use them from now on."""
    body = {"kind": kind, "run_ids": runs or [], "last": last, "is_acceptance": acceptance}
    found = _command(config, state_dir, "accept", body, reason)
    if as_json:
        give_json(found)
        return
    is_few = not acceptance and len(found["runs"]) < _CHARTS_NEED
    charts = f"; control charts need {_CHARTS_NEED} runs and use the first ones until then" if is_few else ""
    sys.stdout.write(
        f"{_role(found)} baseline {found['number']} of {len(found['runs'])} {kind} runs holds from now on{charts}\n"
    )


def end(
    kind: Kind,
    *,
    reason: Reason,
    acceptance: Acceptance = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """End the baseline of a kind of run."""
    found = _command(config, state_dir, "end", {"kind": kind, "is_acceptance": acceptance}, reason)
    if as_json:
        give_json(found)
    else:
        sys.stdout.write(f"the {_role(found)} baseline of {kind} runs has ended\n")


def _role(document: dict[str, Any]) -> str:
    return "acceptance" if document["is_acceptance"] else "reference"


def _command(config: Path | None, state_dir: Path | None, what: str, body: dict[str, Any], reason: str) -> Any:
    from petqcd.client import Client

    _, folder = configuration(config, state_dir)
    signed = {**body, "who": getpass.getuser(), "reason": reason}
    return Client(folder).post(f"/api/v1/baselines/{what}", signed)


def _all(config: PetqcConfig, folder: Path) -> list[dict[str, Any]]:
    from petqcd.client import Client

    try:
        found: list[dict[str, Any]] = Client(folder).get("/api/v1/baselines")["baselines"]
    except UnreachableError as error:
        from petqcd.store import database_of, read_only

        database = database_of(config.store, folder)
        if not database.exists:
            raise
        say(f"petqc: {error}; reading the history itself")
        with read_only(database) as reader:
            return [b.document() for b in reader.baselines()]
    return found
