"""What the measurements of the service share: a daemon as a process, what it uses, where this was measured."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
PETQC = [sys.executable, "-c", "from petqcd.cli import main; main()"]
READY_S = 180.0
"""Until a daemon is up; the first time on a machine, kernels are compiled."""
STOP_S = 60.0


_BENCH = """\
[[device]]
kind = "{kind}"
[device.simulator]
profile = "{profile}"
seed = 1
[device.bias]
v_min = 0.0
v_max = 50.0
max_step_v = 5.0
slew_v_per_s = 50.0
[api]
listen = "127.0.0.1:0"
"""


def simulated_bench(runs: str, profile: str = "bench") -> str:
    """A petqc.toml: the simulated bench by UDP, or another scanner behind the readout maker's daemon, and its runs."""
    kind = "petsys-udp" if profile == "bench" else "petsys-daqd"
    return _BENCH.format(kind=kind, profile=profile) + runs


def say(text: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def machine() -> dict[str, Any]:
    """Where something was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    version = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "source": version.stdout.strip() or "unknown",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@dataclass(slots=True)
class Daemon:
    """A daemon that serves, as its own process."""

    process: subprocess.Popen[str]
    state_dir: Path
    http: str
    log: list[str] = field(default_factory=list)

    def petqc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command against it."""
        return subprocess.run(
            [*PETQC, *arguments, "--state-dir", str(self.state_dir)], capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def serving(folder: Path, config: str, program: Sequence[str] = PETQC) -> Iterator[Daemon]:
    """`petqc serve` with a configuration, ended in order. program: what stands for `petqc`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "petqc.toml").write_text(config)
    state_dir = folder / "state"
    process = subprocess.Popen(
        [*program, "serve", "--json", "--config", str(folder / "petqc.toml"), "--state-dir", str(state_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe; for the type checker
    assert process.stderr is not None  # noqa: S101
    log: list[str] = []
    stderr = process.stderr
    reading = threading.Thread(target=lambda: log.extend(stderr))
    reading.start()
    give_up = threading.Timer(READY_S, process.kill)
    give_up.start()
    try:
        line = process.stdout.readline()
        give_up.cancel()
        if not line:
            raise SystemExit("the daemon did not start:\n" + "".join(log[-20:]))
        yield Daemon(process, state_dir, json.loads(line)["http"], log)
    finally:
        give_up.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reading.join()


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses at a moment."""

    rss_mb: float
    files: int
    threads: int


def use_of(pid: int) -> Use:
    """What a process uses now."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Use(int(told["VmRSS"].split()[0]) / 1024, files, int(told["Threads"]))


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many do not exceed: of 100 values, the 99th for 0.99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For a page."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def give(found: dict[str, Any], text: str, path: Path | None) -> None:
    """The table on stdout, the numbers in a file if one was asked for."""
    print(text)
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n")
