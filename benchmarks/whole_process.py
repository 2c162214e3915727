"""One command as a whole process: how long it took and what it needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PETQC = [sys.executable, "-c", "from petqcd.cli import main; main()"]
_LAUNCH = """
import json, os, subprocess, sys, time
with open(sys.argv[1], "wb") as out:
    started = time.perf_counter()
    child = subprocess.Popen(sys.argv[2:], stdout=out, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - started
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""A process begins with the memory of the one that starts it, and its peak never forgets that: so a small one does."""


class Took(NamedTuple):
    """Wall and processor seconds, and peak memory in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def timed(command: list[str], output: Path = Path(os.devnull), accept: tuple[int, ...] = (0,)) -> Took:
    """Run it to its end, its output into a file; another exit code than accepted ends the measurement."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(output), *command]
    code, *took = json.loads(subprocess.run(launch, check=True, capture_output=True).stdout)
    if code not in accept:
        sys.exit(f"exit code {code}: {' '.join(command)}")
    return Took(*took)
