"""Environments of independent programs, from their locks in requirements/clients/, made once and kept in .petqc/."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).with_name("clients")
ENOUGH_S = 200


def client_python(group: str) -> Path:
    """The interpreter of a group; its environment is made now if it is missing or of an older lock."""
    lock = ROOT / "requirements" / "clients" / f"{group}.txt"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    folder = ROOT / ".petqc" / f"clients-{group}"
    stamp, python = folder / "ready", folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "clients.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted and os.access(python, os.X_OK)):
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, python, lock)
            stamp.write_text(wanted)
    return python


def _make(folder: Path, python: Path, lock: Path) -> None:
    loader = SourceFileLoader("petqc_script", str(ROOT / "petqc"))
    spec = spec_from_loader("petqc_script", loader)
    assert spec is not None
    script = module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(script)
    finally:
        sys.dont_write_bytecode = before
    uv = script.find_uv()
    if uv is not None:
        env = script.uv_environment()
        _run([uv, "venv", "--quiet", "--python", sys.executable, folder], env)
        _run([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes", "-r", lock], env)
    else:
        venv.create(folder, with_pip=True)
        _run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", lock], None)


def _run(command: list[Any], env: dict[str, str] | None) -> None:
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_client(group: str, script: str, *arguments: str) -> dict[str, Any]:
    """What a script in clients/ found out with an unmodified program: the JSON of its last line."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(client_python(group)), str(SCRIPTS / script), *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENOUGH_S,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
