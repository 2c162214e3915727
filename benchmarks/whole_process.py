"""One command as a whole process: how long it took and what it needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

PETQC = [sys.executable, "-c", "from petqcd.cli import main; main()"]


class Took(NamedTuple):
    """Wall and processor seconds, and peak memory in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def timed(command: list[str], output: Path, accept: tuple[int, ...] = (0,)) -> Took:
    """Run it to its end, its output into a file; another exit code than accepted ends the measurement."""
    started = time.perf_counter()
    with output.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in accept:
        sys.exit(f"exit code {child.returncode}: {' '.join(command)}")
    return Took(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
