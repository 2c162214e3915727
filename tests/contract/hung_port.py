"""A port whose library sleeps: what is written does not come back before somebody lets it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading


class HungPort:
    """A `BlockingPort`. comes_back: lets those that wait go on. closed: when it was closed, on the monotonic clock."""

    longest_wait_s = 60.0

    def __init__(self, comes_back: threading.Event, closed: list[float]) -> None:
        self._comes_back, self._closed = comes_back, closed

    def write(self, _data: bytes, _timeout_s: float) -> None:
        self._comes_back.wait(60.0)

    def read(self, _timeout_s: float) -> bytes:
        return b""

    def clear(self) -> bytes:
        return b""

    def device_clear(self) -> bool:
        return False

    def close(self) -> None:
        self._closed.append(time.monotonic())
