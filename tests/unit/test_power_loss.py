"""Loss of power: of every file only what it held at its own last sync; `kill -9` alone would not show it.

With `synchronous` at NORMAL the same test finds runs missing that were acknowledged: it sees what it is there to see.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.histories import a_run

from petqcd.store import Store

ROOT = Path(__file__).parents[2]
WRITER = """
import asyncio, sys
from pathlib import Path
from petqcd.store import Store, sqlite, writer
from tests.unit.histories import claimed_and_stored

sqlite.SETTINGS["synchronous"] = int(sys.argv[2])
writer.CHECKPOINT_LOG_BYTES = 30 * 4096

async def work(store):
    for n in range(100_000):
        await claimed_and_stored(store, f"run-{sys.argv[3]}-{n}")
        print(f"run-{sys.argv[3]}-{n}", flush=True)

asyncio.run(work(Store(Path(sys.argv[1]))))
"""
FULL, NORMAL = 2, 1


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "last_sync.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", library, Path(__file__).with_name("last_sync.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def lived_and_lost(place: Path, image: Path, shim: Path, *, synchronous: int, life: int, runs: int) -> list[str]:
    """Write runs until it is killed; image becomes what the disk has, the answer is what was acknowledged."""
    image.mkdir(exist_ok=True)
    env = {**os.environ, "LD_PRELOAD": str(shim), "SYNC_FROM": str(place), "SYNC_TO": str(image)}
    command = [sys.executable, "-c", WRITER, str(place), str(synchronous), str(life)]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = []
        for line in process.stdout:
            acknowledged.append(line.strip())
            if len(acknowledged) == runs:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert len(acknowledged) >= runs
    return acknowledged


def test_what_was_acknowledged_survives_loss_of_power(tmp_path: Path, shim: Path) -> None:
    place, acknowledged = tmp_path / "life-0", []
    place.mkdir()
    for life in range(3):
        image = tmp_path / f"life-{life + 1}"
        if life:  # what the disk had is where the next life begins; its files are on the disk already
            shutil.copytree(place, image)
        acknowledged += lived_and_lost(place, image, shim, synchronous=FULL, life=life, runs=25)
        place = image
    with closing(Store(place)) as store:
        stored = {run.run_id: run.state for run in store.history(limit=10_000)}
        assert {stored.get(run_id) for run_id in acknowledged} == {"finished"}
        for run_id in acknowledged:
            assert store.document(run_id) == a_run(run_id).document()
        assert len(stored) <= len(acknowledged) + 3
    with closing(sqlite3.connect(place / "history.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_image_shows_what_a_careless_store_would_lose(tmp_path: Path, shim: Path) -> None:
    lost: set[str] = set()
    for life in range(4):  # a sync of something else just before the end saves what was written until then
        place, image = tmp_path / f"place-{life}", tmp_path / f"image-{life}"
        place.mkdir()
        acknowledged = lived_and_lost(place, image, shim, synchronous=NORMAL, life=life, runs=25)
        with closing(Store(image)) as store:
            lost |= set(acknowledged) - {run.run_id for run in store.history(limit=10_000) if run.state == "finished"}
        if lost:
            break
    assert lost
    with closing(Store(place)) as store:  # after SIGKILL alone nothing is missing
        assert set(acknowledged) <= {run.run_id for run in store.history(limit=10_000)}
