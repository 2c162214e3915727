"""Handing bytes over to something that takes only as many as it can."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from petqc_drivers.clock import monotonic_s

if TYPE_CHECKING:
    from collections.abc import Callable


def send_all(descriptor: int, send: Callable[[memoryview], int], data: bytes, timeout_s: float) -> bool:
    """Send until all of it is taken, or the time is over; whether all was.

    Args:
        descriptor: Of what takes it.
        send: Takes some of it, and says how many bytes; does not block.
        data: To send.
        timeout_s: For all of it.

    Raises:
        OSError: As `send` does.
    """
    left, until = memoryview(data), monotonic_s() + timeout_s
    while left and (wait_s := until - monotonic_s()) > 0:
        try:  # it nearly always takes all at once
            left = left[send(left) :]
        except BlockingIOError:
            select.select([], [descriptor], [], wait_s)
    return not left
