"""Handing bytes over to something that takes only as many as it can."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def send_all(descriptor: int, send: Callable[[memoryview], int], data: bytes, timeout_s: float) -> bool:
    """Send until all of it is taken, or the time is over; whether all was.

    Args:
        descriptor: That does not block.
        send: Takes some of it, and says how many bytes.
        data: To send.
        timeout_s: For all of it.

    Raises:
        OSError: As `send` does.
    """
    left, until = memoryview(data), time.monotonic() + timeout_s
    while left and (wait_s := until - time.monotonic()) > 0:
        if not select.select([], [descriptor], [], wait_s)[1]:
            break
        with contextlib.suppress(BlockingIOError):
            left = left[send(left) :]
    return not left
