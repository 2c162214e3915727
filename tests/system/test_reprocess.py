"""`petqc reprocess` with real worker processes, one of which is killed in the middle of a recording."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.system.conftest import petqc_command
from tests.unit.recorded_bundles import bundle_of

from petqc.formats.bundle import read_bundle
from petqc.run_names import expected_id
from petqcd.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 150.0


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from descendants(child)


def has_open(pid: int, path: Path) -> bool:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if entry.readlink() == path:
                return True
    return False


def stop_reader(pid: int, path: Path) -> int:
    """Stop the process below another one that has a file open; it still has, when this returns."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        for one in descendants(pid):
            with suppress(OSError):
                if has_open(one, path):
                    os.kill(one, signal.SIGSTOP)
                    if has_open(one, path):
                        return one
                    os.kill(one, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("nobody read the recording")


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE_S + 60)
def test_a_worker_killed_in_the_middle_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "runs" / "r1")
    broken = tmp_path / "runs" / "r2"
    broken.mkdir()
    (broken / "bundle.json").write_text((bundle / "bundle.json").read_text())
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PETQC_")}
    command = [*petqc_command(), "reprocess", str(tmp_path / "runs"), "--json", "--workers", "1"]
    campaign = subprocess.Popen(
        [*command, "--state-dir", str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean,
    )
    try:
        worker = stop_reader(campaign.pid, bundle / "recording.rawf")
        assert worker != campaign.pid
        os.kill(worker, signal.SIGKILL)
        out, err = campaign.communicate(timeout=DEADLINE_S)
    finally:
        campaign.kill()
        campaign.wait()
    assert campaign.returncode == 4, err  # for r2
    said = {Path(one["bundle"]).name: one for one in json.loads(out)["bundles"]}
    assert {name: one["state"] for name, one in said.items()} == {"r1": "analysed", "r2": "not analysed"}, err
    assert "is not there" in said["r2"]["why"]
    run_id = expected_id(read_bundle(bundle))
    assert said["r1"]["run_id"] == run_id
    with closing(Store(tmp_path / "state")) as store:
        assert [line.run_id for line in store.history()] == [run_id]
        document = store.document(str(run_id))
        assert document["reanalysis_of"] == "r1"
        assert document["account"]["frames"] > 0
        assert document["verdict"] == said["r1"]["verdict"]
