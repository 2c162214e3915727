"""A reader that has seen enough, as `head` has, does not change what a command's exit code says."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.system.conftest import petqc_command
from tests.unit.run_documents import stored, usual_run

from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_the_exit_code_is_the_verdicts_whoever_stops_reading(tmp_path: Path, form: list[str]) -> None:
    checks = [
        CheckResult.measured("photopeak", f"module:0.0.{n}", 511.0, "keV", 0.1, 9, Limits(500.0, 505.0, 517.0, 522.0))
        for n in range(2000)  # more than a pipe holds
    ]
    run = usual_run(run_id="r1", verdict=Status.INVALID, checks=checks)
    with closing(Store(tmp_path)) as store:
        asyncio.run(stored(store, run))
    reads, writes = os.pipe()
    os.close(reads)
    command = [*petqc_command(), "show", "r1", "--all", "--state-dir", str(tmp_path), *form]
    try:
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writes)
    assert (done.returncode, "Traceback" in done.stderr) == (4, False)
