"""`petqc replay … --compare RUN`: the recording is played, a daemon measures it, and what differs is told."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petqcd.errors import ConfigError, DaemonError, SimulatorError, SimulatorRefusedError
from petqcd.readout.simulator_process import READY_DEADLINE_S, end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from petqc.results import Run
    from petqcd.config import PetqcConfig

LINE_LIMIT = 1 << 20
KINDS = ("source", "lutetium")
"""Runs whose frames are one recording."""
PASSED_ON = (
    "--fault", "--config", "--profile", "--listen", "--address", "--instruments-at", "--shared-memory", "--speed",
    "--write-config", "--for", "--status-every",
)  # fmt: skip
"""Options of the replay that have a value, which is not the recording."""
OWN = "recorded"
"""Name of the run that a bundle is of."""


def compare_replay(arguments: Sequence[str]) -> int:
    """Play, measure, compare; 0, or 1 if anything moved by more than its errors explain.

    Raises:
        DaemonError: what stands in the way.
    """
    given, rest = read_arguments(arguments)
    folder = Path(given.path)
    bundle_run = folder / "run.json" if folder.is_dir() else folder.parent / "run.json"
    before = _run(bundle_run.parent if given.compare == OWN else Path(given.compare), given)
    if before.kind not in KINDS:
        raise ConfigError(f"a run of kind {before.kind} is no single recording: petqc analyse makes it again")
    with contextlib.ExitStack() as stack:
        if given.state_dir is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="petqc-replay-"))
            state = Path(name)
        else:
            state = given.state_dir.absolute()
            state.mkdir(parents=True, exist_ok=True)
        after = asyncio.run(_measured(given.path, rest, state, before.kind))
    return _tell(before, after, as_json=given.json, everything=given.all)


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is asked of the comparison, and what goes to the replay; in any order, as of every command."""
    parser = argparse.ArgumentParser(prog="petqc replay", add_help=False, allow_abbrev=False)
    parser.add_argument("path")
    parser.add_argument("--compare", required=True)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--all", action="store_true")
    for name in PASSED_ON:
        parser.add_argument(name, dest=name, action="append", default=[])
    given, rest = parser.parse_known_args(list(arguments))
    return given, [*rest, *(word for name in PASSED_ON for value in vars(given)[name] for word in (name, value))]


def _run(folder: Path, given: argparse.Namespace) -> Run:
    from petqc.results import Run

    if folder.is_dir() and (folder / "run.json").is_file():
        return Run.load(folder)
    if given.compare == OWN:
        raise ConfigError(f"{folder}: no run belongs to this recording: name one, --compare RUN")
    from petqcd.cli.common import configuration
    from petqcd.cli.history import stored_document

    loaded, state_dir = configuration(None, None)
    return Run.from_document(stored_document(loaded, state_dir, given.compare))


async def _measured(path: str, rest: Sequence[str], state: Path, kind: str) -> Run:
    """The run of a daemon that measures the replay."""
    from petqcd.app import Daemon
    from petqcd.cli.foreground import run_inside

    async with _replayed(path, rest, state / "replay") as ready:
        config = _configured(Path(path), ready, kind)
        async with Daemon(config, state) as daemon:
            run = await run_inside(daemon, kind, f"{kind}, replayed", source="petqc replay")
            if run is None:
                raise DaemonError("the replayed run could not be stored")
            return run


@contextlib.asynccontextmanager
async def _replayed(path: str, rest: Sequence[str], state: Path) -> AsyncIterator[dict[str, Any]]:
    """The replay as a process of its own, which ends with this one; its first line."""
    listen = () if {"--listen", "--address"} & set(rest) else ("--listen", "udp://127.0.0.1:0")
    command = [sys.executable, "-m", "petqc_simulators", "replay", path, *rest, *listen, "--state-dir", str(state)]
    process = await asyncio.create_subprocess_exec(
        *command, "--json", "--status-every", "0", "--until-stdin-closes",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_LIMIT, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above; for the type checker
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise SimulatorError(f"the replay was not ready after {READY_DEADLINE_S:g} s") from error
        said = json.loads(line or b"{}")
        if not said.get("ready"):
            raise SimulatorRefusedError(str(said.get("error", "the replay ended before it was ready")))
        yield said
    finally:
        await end(process)


def _configured(path: Path, ready: dict[str, Any], kind: str) -> PetqcConfig:
    """The configuration of the day, as far as the bundle has it, with the replay in the place of the hardware."""
    from pydantic import ValidationError

    from petqcd.config import PetqcConfig

    told = tomllib.loads(ready["petqc_toml"])
    folder = path if path.is_dir() else path.parent
    of_day: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        of_day = json.loads((folder / "petqc.json").read_bytes())
    with contextlib.suppress(OSError, ValueError):
        baselines = json.loads((folder / "context.json").read_bytes()).get("baselines")
        of_config: dict[str, Any] = of_day.get("baseline", {})
        of_day["baseline"] = of_config | (baselines or {})
    of_kind: dict[str, Any] = of_day.get("qc", {}).get(kind, {})
    seconds = min(float(of_kind.get("seconds", 1e9)), float(told["qc"]["source"]["seconds"]))
    document: dict[str, Any] = {
        **{key: of_day[key] for key in ("scanner", "limits", "baseline") if key in of_day},
        "qc": {kind: {**of_kind, "seconds": seconds, "settle_s": 0.0}},
        "device": told["device"],
        "api": {"listen": "127.0.0.1:0"},
    }
    try:
        return PetqcConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"the configuration of the recorded run does not fit this version: {error}") from error


def _tell(before: Run, after: Run, *, as_json: bool, everything: bool) -> int:
    from petqc.compare import compare
    from petqcd.cli.history import tell_comparison

    found = compare(before, after)
    tell_comparison(before, after, found, as_json=as_json, everything=everything)
    return int(any(difference.has_moved for difference in found.differences))
