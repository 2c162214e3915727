"""Options that commands share, and where their daemon is."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petqcd.errors import EXIT_FAIL, EXIT_INVALID, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from petqcd.config import PetqcConfig

Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="petqc.toml. Default: $PETQC_CONFIG, ./petqc.toml, /etc/petqc/petqc.toml, else simulated.",
    ),
]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="State directory. Default: $PETQC_STATE_DIR, [store] directory, …")
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the kind, as in petqc.toml; may be repeated."),
]

VERDICT_EXIT = {"pass": EXIT_OK, "warn": EXIT_OK, "fail": EXIT_FAIL, "invalid": EXIT_INVALID, "missed": EXIT_INVALID}


def configuration(config: Path | None, state_dir: Path | None) -> tuple[PetqcConfig, Path]:
    """The configuration and the state directory that belong together."""
    from petqcd.config import find_config, load_config, state_directory

    loaded = load_config(find_config(config))
    return loaded, state_dir.absolute() if state_dir else state_directory(loaded)


def settings(given: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE as in petqc.toml; a value that is no TOML is text."""
    found: dict[str, Any] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {text!r} is not KEY=VALUE")
        try:
            found[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value
    return found


def sets_folder(state_dir: Path | None, config: Path | None = None) -> Path:
    """Where the calibration sets are."""
    return configuration(config, state_dir)[1] / "sets"


def printable(text: str) -> str:
    """What devices and people wrote, with nothing in it that a terminal would obey."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def say(text: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def give_json(document: Any) -> None:
    """A document on stdout."""
    try:
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()


def nobody_reads() -> None:
    """Let the rest go nowhere: whoever read has seen enough, as `head` does; exit codes stay."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
