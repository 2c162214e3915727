"""Compiled kernels of a user without a writable home: a folder of petqc's own, that nobody else could have made."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from petqcd.cli import kernel_cache

if TYPE_CHECKING:
    import pytest


def provided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, usual: bool = False) -> tuple[str, list[str]]:
    told: list[str] = []
    monkeypatch.setattr(kernel_cache, "_can_write", lambda place: usual or str(place).startswith(str(tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(kernel_cache.VARIABLE, raising=False)
    kernel_cache.provide(told.append)
    found = os.environ.get(kernel_cache.VARIABLE, "")
    monkeypatch.delenv(kernel_cache.VARIABLE, raising=False)
    return found, told


def test_nothing_is_said_or_done_where_the_compiler_finds_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provided(monkeypatch, tmp_path, usual=True) == ("", [])


def test_the_state_directory_if_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETQC_STATE_DIR", str(tmp_path / "state"))
    found, told = provided(monkeypatch, tmp_path)
    assert found == str(tmp_path / "state" / "petqc-kernels")
    assert found in told[0]
    assert len(told) == 1


def test_a_temporary_folder_only_if_it_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETQC_STATE_DIR", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    usual = tmp_path / f"petqc-kernels-{os.getuid()}"
    assert provided(monkeypatch, tmp_path)[0] == str(usual)
    assert usual.stat().st_mode & 0o077 == 0
    assert provided(monkeypatch, tmp_path)[0] == str(usual)  # again: what was compiled is still there
    usual.chmod(0o777)
    other = provided(monkeypatch, tmp_path)[0]
    assert other != str(usual)
    assert Path(other).stat().st_mode & 0o077 == 0


def test_a_kernel_comes_without_scipy_and_blas_is_there_for_who_asks() -> None:
    script = """
import sys
import numpy as np
from petqc.calibration.charge_kernels import rising_range
low, high = np.zeros(1), np.zeros(1)
rising_range(np.array([[0.0], [1.0]] + 8 * [[0.0]]), low, high)
print(high[0], "scipy.linalg" in sys.modules)
from numba.np.linalg import ensure_blas
ensure_blas()
print("scipy.linalg" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert answer.splitlines()[0].endswith("False")
    assert float(answer.split()[0]) > 1000.0
    assert answer.split()[-1] == "True"
