"""How this process itself is: memory, descriptors, threads, tasks, and how late the event loop is; as metrics.

What grows from day to day is a leak, and a loop that is late answers nobody: both can be seen before they hurt.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from petqcd import clock

if TYPE_CHECKING:
    from petqcd.metrics import Metrics

LOOK_S = 0.05
"""A look at the loop's own lateness; a lateness much shorter than this is not always seen."""
PUBLISH_S = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


async def watch(metrics: Metrics) -> None:
    """Publish until cancelled."""
    while True:
        end_s = clock.awake_s() + PUBLISH_S
        latest_s = 0.0
        while (asked_s := clock.awake_s()) < end_s:
            await asyncio.sleep(LOOK_S)
            latest_s = max(latest_s, clock.awake_s() - asked_s - LOOK_S)
        metrics.set("petqc_loop_lag_max_seconds", latest_s)
        with suppress(OSError):  # no descriptor is left: what was published before shows where they went
            metrics.set("petqc_memory_bytes", memory_bytes())
            metrics.set("petqc_open_files", open_files())
        metrics.set("petqc_threads", threading.active_count())
        metrics.set("petqc_tasks", len(asyncio.all_tasks()))


def memory_bytes() -> int:
    """Resident memory of this process. Source: proc_pid_statm(5), second field, in pages."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def open_files() -> int:
    """File descriptors of this process, but for the one that lists them."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
