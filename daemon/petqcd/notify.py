"""What the service manager is told: ready, alive, stopping. Without one, nothing is told and nothing changes.

Source: sd_notify(3), sd_watchdog_enabled(3): one datagram of lines NAME=VALUE to the socket named by NOTIFY_SOCKET.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
MOST_LAG_S = 1.0
"""The event loop may be late by this much; while it is later, nothing is fed."""


def tell(*lines: str) -> bool:
    """Send lines to the service manager; False: there is none, or it did not take them, which harms nobody else."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("the service manager was not told %s: %s", lines[0], error)
        return False
    return True


def watchdog_s() -> float | None:
    """Within which time the service manager wants a sign of life; None: it does not ask this process for one."""
    try:
        asked_us = int(os.environ["WATCHDOG_USEC"])
        process = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return asked_us / 1e6 if asked_us > 0 and process == os.getpid() else None


@asynccontextmanager
async def serving(status: str, stuck: Callable[[], str]) -> AsyncIterator[None]:
    """Ready from here on, alive as long as `stuck` has nothing to say, stopping at the end.

    Args:
        status: what a person reads in `systemctl status`.
        stuck: why the process should be ended and started again; empty: all is well. It must not wait for anything, and
            must not depend on what devices answer.
    """
    tell("READY=1", f"STATUS={status}")
    within_s = watchdog_s()
    feeder = None if within_s is None else asyncio.create_task(_feed(within_s / 3.0, stuck), name="watchdog")
    try:
        yield
    finally:
        tell("STOPPING=1", "STATUS=stopping: bias goes off first")
        if feeder is not None:
            feeder.cancel()
            await asyncio.wait({feeder})


async def _feed(every_s: float, stuck: Callable[[], str]) -> None:
    loop = asyncio.get_running_loop()
    look_s = min(LOOK_EVERY_S, every_s)
    fed_s, told = loop.time() - every_s, ""
    while True:
        before_s = loop.time()
        await asyncio.sleep(look_s)
        now_s = loop.time()
        if now_s - fed_s < every_s:
            continue
        late_s = now_s - before_s - look_s
        why = stuck() or ("the event loop is late" if late_s > MOST_LAG_S else "")
        if why:  # looked at again at once: what only was slow is fed as soon as it is not
            if why != told:
                log.error("no sign of life to the service manager: %s", why)
            told = why
            continue
        tell("WATCHDOG=1")
        fed_s, told = now_s, ""
