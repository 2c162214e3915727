"""Long work of the event loop in turns: whoever waits is not kept by thousands of readings."""

from __future__ import annotations

import asyncio
import time
from typing import Final

TURN_S: Final = 0.002
"""Processor time of one turn. Each turn ends with a look of the loop at all that may have come, where threads that
wait for the interpreter take it: a turn for each of many devices would make the whole last much longer."""


class Turns:
    """Those of one piece of work, from now on."""

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = time.thread_time()

    async def next(self) -> None:
        """Between two steps of the work: let others have their turn, if this one was long enough."""
        if time.thread_time() - self._began_s >= TURN_S:
            await asyncio.sleep(0)
            self._began_s = time.thread_time()
