"""What a process does about its memory, tried in processes of their own: it concerns all of one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from petqc_simulators.recording import write_recording
from petqcd import process_memory

if TYPE_CHECKING:
    from pathlib import Path

MEASURE = """
import ctypes, gc, json, sys, threading
from petqcd import process_memory
from petqcd.process_health import memory_bytes

def need():
    parts = [bytes(2000) for _ in range(20_000)]
    kept.append(parts[-1])      # what stays lies above what is freed
    ready.wait()

process_memory.prepare()
kept, ready = [], threading.Barrier(7)
began = memory_bytes()
threads = [threading.Thread(target=need) for _ in range(6)]
for thread in threads: thread.start()
ready.wait()
most = memory_bytes()
for thread in threads: thread.join()
del threads
process_memory.give_back()
print(json.dumps([began, most, memory_bytes()]))
ctypes.CDLL(None).malloc_stats()
"""
SETTLE = """
import gc, json
from petqcd import process_memory

class Ring: pass

there = [[] for _ in range(50_000)]
process_memory.settle()
settled = gc.get_freeze_count()
ring = Ring()
ring.itself = ring
del ring
print(json.dumps([settled, len(gc.get_objects()), gc.collect()]))
"""
AHEAD = """
import json, sys
from pathlib import Path
from petqc.formats.petsys_config import load_config
from petqcd.rehearsing import load_for_runs
load_for_runs(Path({configuration!r}))
from petqcd.measurement import Measurement
there = set(sys.modules)
Measurement(Path({folder!r}), load_config(Path({configuration!r}))).warm_up()
print(json.dumps(sorted(set(sys.modules) - there)))
"""


TELL_WHERE_IT_HANGS = "import faulthandler; faulthandler.dump_traceback_later(180, exit=True)\n"


def said(script: str) -> tuple[Any, str]:
    done = subprocess.run(
        [sys.executable, "-c", TELL_WHERE_IT_HANGS + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_what_threads_needed_goes_back_to_the_system() -> None:
    (began, most, after), stats = said(MEASURE)
    assert most - began > 200e6
    assert after - began < 40e6
    assert stats.count("Arena") <= process_memory.HEAPS


def test_what_has_settled_is_collected_no_more_and_what_is_new_is() -> None:
    (settled, left, collected), _ = said(SETTLE)
    assert settled > 50_000
    assert left < 5_000
    assert collected > 0


def test_it_settles_once_for_each_kind_beside_no_run_and_gives_back_after_every_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(process_memory, "settle", lambda: done.append("settle"))
    monkeypatch.setattr(process_memory, "give_back", lambda: done.append("give back"))
    idle = True

    async def work() -> None:
        nonlocal idle
        house = process_memory.Housekeeping(lambda: idle, lambda: None)
        task = asyncio.create_task(house.run())
        for kind, is_idle, told in (
            ("", True, ["give back", "settle"]),
            ("source", True, ["give back", "settle"]),
            ("source", True, ["give back"]),
            ("dark", False, ["give back"]),
            ("source", True, ["give back", "settle"]),
        ):
            idle = is_idle
            done.clear()
            if kind:
                house.run_ended(kind)
            async with asyncio.timeout(20):
                while len(done) < len(told):  # noqa: ASYNC110 - a thread does it
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            assert done == told
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(work())


@pytest.mark.parametrize("is_idle", [True, False])
def test_what_runs_need_is_loaded_once_if_no_run_came_first(monkeypatch: pytest.MonkeyPatch, *, is_idle: bool) -> None:
    done: list[str] = []
    monkeypatch.setattr(process_memory, "LOAD_AFTER_S", 0.05)
    monkeypatch.setattr(process_memory, "settle", lambda: done.append("settle"))
    monkeypatch.setattr(process_memory, "give_back", lambda: None)

    async def work() -> None:
        house = process_memory.Housekeeping(lambda: is_idle, lambda: done.append("load"))
        task = asyncio.create_task(house.run())
        async with asyncio.timeout(20):
            while house._load is not None or len(done) < 3 * is_idle:  # noqa: ASYNC110 - a thread does it
                await asyncio.sleep(0.01)
        assert done == ["settle", "load", "settle"] * is_idle
        house.run_ended("source")
        await asyncio.sleep(0.2)
        assert done.count("load") == is_idle
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(work())


def test_loading_ahead_leaves_a_run_nothing_to_load(tmp_path: Path) -> None:
    made = write_recording(tmp_path / "r", "bench", 1, 0.05, truth_seconds=0)
    assert said(AHEAD.format(folder=str(tmp_path), configuration=str(tmp_path / made["config"])))[0] == []
