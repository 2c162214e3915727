"""What a process does about its memory, tried in processes of their own: it concerns all of one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from petqcd import process_memory

if TYPE_CHECKING:
    import pytest

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


def said(script: str) -> tuple[Any, str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
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
        house = process_memory.Housekeeping(lambda: idle)
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
