"""Finding petqc.toml, reading it, and saying what is wrong with it, with the line of every wrong key."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from petqc_drivers.registry import KINDS
from petqcd.config.readout import DeviceConfig, bench_baseline, simulated_device
from petqcd.config.whole import TABLES, PetqcConfig
from petqcd.errors import ConfigError, message_of


def state_directory(config: PetqcConfig | None = None) -> Path:
    """Where state is kept: $PETQC_STATE_DIR, then [store] directory, then what the service manager or the user has."""
    given = os.environ.get("PETQC_STATE_DIR")
    if given:
        return Path(given).absolute()
    if config is not None and config.store.directory is not None:
        return config.store.directory
    service = os.environ.get("STATE_DIRECTORY")
    if service:
        return Path(service.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "petqc"


def find_config(given: Path | None) -> Path | None:
    """The file to read: the given one, $PETQC_CONFIG, ./petqc.toml, /etc/petqc/petqc.toml, or None."""
    named = given or (Path(os.environ["PETQC_CONFIG"]) if os.environ.get("PETQC_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such file (give the path of a petqc.toml)")
        return named
    return next((p for p in (Path("petqc.toml"), Path("/etc/petqc/petqc.toml")) if p.is_file()), None)


def load_config(path: Path | None) -> PetqcConfig:
    """Read and check a configuration; None is the simulated bench.

    Raises:
        ConfigError: naming every wrong key with its file, line and path.
    """
    if path is None:
        device = simulated_device()
        return PetqcConfig(device=(device,), baseline=bench_baseline(device))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    if "source_file" in raw:
        raise ConfigError(f"{path}: source_file: unknown key")
    try:
        config = PetqcConfig.model_validate({**raw, "source_file": path})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, text, e) for e in error.errors())) from error
    return _absolute(config, path.absolute().parent)


def _absolute_device(device: DeviceConfig, folder: Path) -> DeviceConfig:
    simulator = device.simulator
    if simulator is not None and simulator.profile.endswith(".toml"):
        simulator = simulator.model_copy(update={"profile": str(folder / simulator.profile)})
    if simulator is not None and simulator.scenario.endswith(".toml"):
        simulator = simulator.model_copy(update={"scenario": str(folder / simulator.scenario)})
    configuration = device.configuration and folder / device.configuration
    return device.model_copy(update={"simulator": simulator, "configuration": configuration})


def _absolute(config: PetqcConfig, folder: Path) -> PetqcConfig:
    devices = tuple(
        _absolute_device(device, folder) if isinstance(device, DeviceConfig) else device for device in config.device
    )
    paths = {"directory": config.store.directory, "backups": config.store.backups}
    absolute = {name: folder / path for name, path in paths.items() if path is not None}
    store = config.store.model_copy(update=absolute)
    api = config.api
    if api.tls_certificate is not None and api.tls_key is not None:
        tls = {"tls_certificate": folder / api.tls_certificate, "tls_key": folder / api.tls_key}
        api = api.model_copy(update=tls)
    mqtt = config.mqtt
    if mqtt is not None:
        mqtt = mqtt.model_copy(update={name: folder / path for name, path in mqtt.files.items()})
    qatrack = config.qatrack
    if qatrack is not None:
        files = {"token_file": folder / qatrack.token_file, "ca_file": qatrack.ca_file and folder / qatrack.ca_file}
        qatrack = qatrack.model_copy(update=files)
    return config.model_copy(update={"device": devices, "store": store, "api": api, "mqtt": mqtt, "qatrack": qatrack})


def _keys(loc: tuple[Any, ...]) -> list[Any]:
    """The keys of a place, without what only says which of several kinds of table it is."""
    keys = [k for k in loc if k != "*"]
    if keys[:1] == ["device"]:
        while len(keys) > 2 and keys[2] in {*TABLES, *KINDS}:
            del keys[2]
    return keys


def _explain(path: Path, text: str, error: Any) -> str:
    keys = _keys(error["loc"])
    dotted = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")
    line = _line_of(text, keys)
    where = f"{path}:{line}" if line else str(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: {dotted}: unknown key (look for a misspelling, or remove it)"
    return f"{where}: {dotted or 'whole file'}: {message_of(error)}"


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")


def _line_of(text: str, keys: list[Any]) -> int | None:
    """Line of a key, or of the table it is missing from. Best effort on TOML written in the usual way."""
    wanted = [str(k) for k in keys if not isinstance(k, int)]
    index = next((k for k in keys if isinstance(k, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
            path = table
        else:
            key = line.split("=", 1)[0].strip().strip("\"'")
            if "=" not in line or not key or key.startswith("#"):
                continue
            path = table + [part.strip() for part in key.split(".")]
        if seen.get(table[0] if table else "", index) != index:
            continue
        depth = len(path) if wanted[: len(path)] == path else 0
        if depth and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None
