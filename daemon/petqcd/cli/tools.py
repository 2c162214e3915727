"""simulate, replay, faults, bench, check-config, version."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petqcd.cli.common import Json, configuration, give_json
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from petqcd.config import PetqcConfig


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("check-config")(check_config)
    for command in (simulate, replay, faults, scenarios, bench):
        app.command(
            command.__name__,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(command)
    app.command("version")(version)


def check_config(
    *,
    file: Annotated[
        Path | None, typer.Argument(help="petqc.toml. Default: the one that petqc serve would read.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a configuration and the files it names, and say what it means."""
    from petqc.formats.petsys_config import load_config as load_board
    from petqcd.config import BiasSourceConfig
    from petqcd.interlocks.conditions import left_out
    from petqcd.schedule import jobs, unusual_days

    loaded, folder = configuration(file, None)
    board = loaded.board
    warnings: list[str] = []
    if board.configuration is not None:
        warnings += load_board(board.configuration).warnings
    warnings += _files(loaded)
    today = datetime.now(UTC).date()
    warnings += [told for job in jobs(loaded.schedule) for told in unusual_days(job, today)]
    warnings += left_out(loaded.instruments)
    if board.temperature is None and board.simulator is None:
        warnings.append(f"{board.name}: no [device.temperature]: its bias needs no temperature to be within limits")
    if board.bias is None:
        warnings.append(f"{board.name}: no [device.bias]: bias will be refused")
    warnings += [
        f"{one.name}: no [device.bias]: it is watched, and never switched on"
        for one in loaded.instruments
        if isinstance(one, BiasSourceConfig) and not one.can_energise
    ]
    document = {
        "configuration": str(loaded.source_file) if loaded.source_file else None,
        "config_hash": loaded.hash,
        "scanner": loaded.scanner.name,
        "simulated": loaded.is_simulated,
        "state_dir": str(folder),
        "warnings": warnings,
        "settings": loaded.model_dump(mode="json"),
    }
    if as_json:
        give_json(document)
        return
    source = loaded.source_file or "no petqc.toml"
    what = (
        f"a simulated {board.simulator.profile}"
        if board.simulator is not None
        else f"a {board.kind} at {board.address}"
    )
    what = ", ".join([what, *(f"{one.name} ({one.kind} at {one.address})" for one in loaded.instruments)])
    sys.stdout.write(f"{source}: fine: scanner {loaded.scanner.name}, {what}, state in {folder}\n")
    sys.stdout.writelines(f"warning: {warning}\n" for warning in warnings)


def _files(loaded: PetqcConfig) -> list[str]:
    """Open every file that the service needs to start; what only the service's own user may read is a warning.

    Raises:
        ConfigError: one is not there, or no file.
    """
    named: dict[str, Path] = {}
    if loaded.mqtt is not None:
        named |= {f"[mqtt] {name}": path for name, path in loaded.mqtt.files.items()}
    if loaded.api.tls_certificate is not None and loaded.api.tls_key is not None:
        named |= {"[api] tls_certificate": loaded.api.tls_certificate, "[api] tls_key": loaded.api.tls_key}
    if loaded.qatrack is not None:
        named["[qatrack] token_file"] = loaded.qatrack.token_file
    warnings = []
    for name, path in named.items():
        try:
            with path.open("rb") as file:
                file.read(1)
        except PermissionError:
            warnings.append(f"{name}: {path}: you may not read it; the service's user must")
        except OSError as error:
            raise ConfigError(f"{name}: {path}: {error.strerror or error}") from error
    return warnings


def simulate(context: typer.Context) -> None:
    """A simulated board on the wire, for this daemon or any other client (arguments: see simulate --help)."""
    _simulators("serve", context.args)


def replay(context: typer.Context) -> None:
    """A recording or a bundle played back as hardware on the wire (arguments: see replay --help).

    With --compare RUN it is measured, too, and what differs from that run is told.
    """
    if any(word.partition("=")[0] == "--compare" for word in context.args):
        from petqcd.cli.replaying import compare_replay

        raise typer.Exit(compare_replay(context.args))
    _simulators("replay", context.args)


def faults(context: typer.Context) -> None:
    """What can break in a simulated detector, how it is written, and what should notice it."""
    _simulators("faults", context.args)


def bench(context: typer.Context) -> None:
    """How fast petqc is on this machine, against its goals (arguments: see bench --help)."""
    import petqcd
    from petqcd.errors import InvalidRequestError

    folder = Path(petqcd.__file__).resolve().parents[2] / "benchmarks" / "speed_goals"
    if not folder.is_dir():
        raise InvalidRequestError(
            "the benchmarks are in petqc's source folder, not in the package: run ./petqc bench there"
        )
    os.execv(sys.executable, [sys.executable, str(folder), *context.args])  # noqa: S606 - our own interpreter and module


def scenarios(context: typer.Context) -> None:
    """Stories of faults that a simulator can play, and what is in one."""
    _simulators("scenarios", context.args)


def _simulators(command: str, arguments: list[str]) -> None:
    """Hand over to the simulators, which the daemon's package must not import."""
    words = [sys.executable, "-m", "petqc_simulators", command, *arguments]
    os.execv(sys.executable, words)  # noqa: S606 - our own interpreter and module


def version(*, as_json: Json = False) -> None:
    """Version of petqc and of python."""
    tell_version(as_json=as_json)


def tell_version(*, as_json: bool) -> None:
    """What `version` says."""
    import platform
    from importlib import metadata

    found = {"petqc": metadata.version("petqcd"), "python": platform.python_version()}
    if as_json:
        give_json(found)
    else:
        sys.stdout.write(f"petqc {found['petqc']} (python {found['python']})\n")
