"""What a scenario is, told by the simulators: which detector it is for, and how many days pass from run to run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from petqcd.errors import ConfigError

DEADLINE_S = 60.0


def told_scenario(name: str, seed: int | None = None) -> dict[str, Any]:
    """The document of a scenario.

    Raises:
        ConfigError: it cannot be used; the simulators say why.
    """
    of_seed = [] if seed is None else ["--seed", str(seed)]
    command = [sys.executable, "-m", "petqc_simulators", "scenarios", name, *of_seed, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        raise ConfigError(
            done.stderr.strip().removeprefix("petqc_simulators: ") or f"--scenario {name}: cannot be read"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
