"""A real daemon with a real simulator, as processes, and what tests ask of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from petqc_simulators.profile import load_profile
from petqc_simulators.truth import compute_truth
from petqcd.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READY_DEADLINE_S = 120.0
STOP_DEADLINE_S = 40.0

CONFIG = """\
[[device]]
[device.simulator]
profile = "{profile}"
seed = {seed}
faults = {faults}
[device.bias]
v_min = 0.0
v_max = 50.0
max_step_v = 5.0
slew_v_per_s = 50.0
[qc.source]
seconds = {seconds}
[qc.housekeeping]
seconds = 0.5
[api]
listen = "127.0.0.1:0"
"""


def petqc_command() -> list[str]:
    return [sys.executable, "-c", "from petqcd.cli import main; main()"]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run_petqc(*arguments: str, timeout_s: float = 150.0, env: dict[str, str] | None = None) -> Done:
    """Run the petqc command to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PETQC_")}
    done = subprocess.run(
        [*petqc_command(), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def petqc() -> Callable[..., Done]:
    return run_petqc


@pytest.fixture
def command() -> list[str]:
    """The petqc command without arguments."""
    return petqc_command()


@dataclass(slots=True)
class Serving:
    """A daemon that serves."""

    process: subprocess.Popen[str]
    state_dir: Path
    config: Path
    http: str
    client: Client
    log: list[str] = field(default_factory=list)

    def petqc(self, *arguments: str, timeout_s: float = 150.0) -> Done:
        """Run a command against this daemon."""
        return run_petqc(
            *arguments, "--config", str(self.config), "--state-dir", str(self.state_dir), timeout_s=timeout_s
        )

    def simulator_pid(self) -> int:
        """Process id of the simulator, a child of the daemon."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid and b"petqc_simulators" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        raise AssertionError("the daemon has no simulator process: " + "".join(self.log[-20:]))


@contextmanager
def serving(
    folder: Path,
    *,
    seconds: float,
    seed: int = 1,
    faults: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    profile: str = "bench",
    extra: str = "",
) -> Iterator[Serving]:
    """Start `petqc serve`, and end it in order; extra: further tables of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "petqc.toml"
    config.write_text(
        CONFIG.format(profile=profile, seed=seed, faults=json.dumps(list(faults)), seconds=seconds) + extra
    )
    state_dir = folder / "state"
    process = subprocess.Popen(
        [*petqc_command(), "serve", "--json", "-v", "--config", str(config), "--state-dir", str(state_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PETQC_")}, **(env or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    stderr = process.stderr
    drain = threading.Thread(target=lambda: log.extend(stderr), name="daemon log")
    drain.start()
    killer = threading.Timer(READY_DEADLINE_S, process.kill)
    killer.start()
    try:
        line = process.stdout.readline()
        killer.cancel()
        assert line, "the daemon did not start: " + "".join(log[-20:])
        ready = json.loads(line)
        yield Serving(process, state_dir, config, ready["http"], Client(state_dir), log)
    finally:
        killer.cancel()
        killer.join()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail("the daemon did not stop in time: " + "".join(log[-20:]))
        finally:
            drain.join()
            process.stdout.close()
            process.stderr.close()


@pytest.fixture
def serve() -> Callable[..., Any]:
    """The context manager `serving`."""
    return serving


@dataclass(frozen=True, slots=True)
class Demo:
    """What one `petqc demo --once --json` left behind."""

    done: Done
    document: dict[str, Any]
    state_dir: Path
    truth: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return self.state_dir / "runs" / self.document["run_id"]

    @property
    def source(self) -> Path:
        """The folder of the part with a source."""
        (part,) = [p for p in self.document["parts"] if p["kind"] == "source"]
        return self.state_dir / "runs" / str(part["run_id"])


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One healthy demo for all tests that look at its result."""
    state_dir = tmp_path_factory.mktemp("demo") / "state"
    done = run_petqc("demo", "--once", "--seconds", "8", "--record", "--json", "--state-dir", str(state_dir))
    assert done.out, done.err
    document = done.json()
    truth = compute_truth(load_profile("bench", source="na22"), 1)
    return Demo(done, document, state_dir, truth)
