"""What a process that runs for months does about its memory: what a run needed goes back to the system after it.

Three things made the daemon grow. Each thread that allocates has a heap of its own in the C library, and the analysis
of a run comes by whichever thread is free: each heap grew to the largest run it ever saw, and kept it. Free memory in
the middle of a heap is not given back by itself. And what refers to itself waited for Python's own collection, which
comes ever more seldom the more there is, and then looks at everything while everybody waits.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import TYPE_CHECKING

from petqc.loading import collect_as_usual

if TYPE_CHECKING:
    from collections.abc import Callable

HEAPS = 2
"""Of the C library, for all threads: one for the event loop's, one for the others."""
_M_ARENA_MAX = -8
"""Source: malloc.h of glibc, mallopt(3)."""
LOAD_AFTER_S = 15.0
"""Seconds after its start in which a daemon has better things to do than to load what runs need."""
SWITCH_S = 0.001
"""How long a thread may keep the interpreter when another one wants it; the event loop waits for it so long."""


def prepare() -> None:
    """Bound the number of heaps, and how long the event loop waits for other threads; before any thread begins.

    A C library without heaps for threads needs no bound, and is left as it is.
    """
    sys.setswitchinterval(SWITCH_S)
    if (bound := _of_c_library("mallopt")) is not None:
        bound(_M_ARENA_MAX, HEAPS)


def settle() -> None:
    """Collect, and take what is left for what will be there to the end: modules, configuration, compiled code.

    Python then looks at it no more: a full collection costs a few milliseconds instead of a fifth of a second, in
    which no thread goes on. What refers to itself and dies later stays, so this is called a few times at most.
    """
    gc.collect()
    gc.freeze()
    collect_as_usual()


def give_back() -> None:
    """Collect what refers to itself, and give free memory back to the system."""
    gc.collect()
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None:
        pyarrow.default_memory_pool().release_unused()
    if (trim := _of_c_library("malloc_trim")) is not None:
        trim(0)


class Housekeeping:
    """Settles at the start and after the first run of each kind, which imports what it needs; gives back after each.

    Args:
        is_idle: whether no run is going on: what one holds would be taken for what stays, and never be freed.
        load: loads what runs need; in a thread of its own, some time after the start.
    """

    def __init__(self, is_idle: Callable[[], bool], load: Callable[[], None]) -> None:
        self._is_idle = is_idle
        self._load: Callable[[], None] | None = load
        self._ended = asyncio.Event()
        self._known: set[str] = set()
        self._is_new = True

    def run_ended(self, kind: str) -> None:
        """A run of a kind is over."""
        self._is_new |= kind not in self._known
        self._known.add(kind)
        self._ended.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(give_back)
            if self._is_new and self._is_idle():
                self._is_new = False
                settle()  # not in a thread: a run could begin meanwhile, and everybody waits for it either way
            await self._something_new()

    async def _something_new(self) -> None:
        """Until a run has ended, or what runs need was loaded ahead of the first."""
        try:
            async with asyncio.timeout(LOAD_AFTER_S if self._load is not None else None):
                await self._ended.wait()
        except TimeoutError:
            if self._load is not None and self._is_idle():
                await asyncio.to_thread(self._load)
                self._is_new = True
            self._load = None
        self._ended.clear()


def _of_c_library(name: str) -> ctypes._NamedFuncPointer | None:
    """Of the C library that this process has; None: it has no such function."""
    try:
        found: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found
