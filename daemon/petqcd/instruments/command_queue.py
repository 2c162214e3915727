"""What waits for one instrument: bounded, and served by rank. Off and stop never wait here."""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqcd.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_WAITING = 32


class Priority(enum.IntEnum):
    """Who is served first; `off`, then `stop` come before all of them and act at once."""

    PERMIT = 0
    """A fresh reading that a permit hangs on."""
    COMMAND = 1
    POLL = 2
    """The supervisor's own, at the period of the device."""
    DIAGNOSTICS = 3


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be done with an instrument, in one go.

    Attributes:
        what: In words, for logs and refusals.
        work: Is given the driver.
        deadline_s: After which it is cancelled, and counts as failed.
    """

    what: str
    work: Callable[[Any], Awaitable[Any]]
    deadline_s: float = 10.0


@dataclass(slots=True)
class Request:
    """One command that somebody waits for."""

    command: Command
    priority: Priority
    done: asyncio.Future[Any]

    def refuse(self, error: Exception) -> None:
        """It will not be done."""
        if not self.done.done():
            self.done.set_exception(error)

    def finish(self, result: Any) -> None:
        """It was done."""
        if not self.done.done():
            self.done.set_result(result)


class CommandQueue:
    """Requests by priority, and those of one priority in their order."""

    def __init__(self) -> None:
        self._heap: list[tuple[Priority, int, Request]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._heap)

    @property
    def first(self) -> Priority | None:
        """Of the one that is served next."""
        return self._heap[0][0] if self._heap else None

    def put(self, command: Command, priority: Priority) -> Request:
        """Let it wait; a full queue sends away the last of the lowest rank, which may be this one.

        Raises:
            BusyError: this one.
        """
        request = Request(command, priority, asyncio.get_running_loop().create_future())
        if len(self._heap) >= MOST_WAITING:
            last = max(self._heap)
            if last[0] <= priority:
                raise BusyError(f"{command.what}: {MOST_WAITING} requests wait for this device already")
            self._heap.remove(last)
            heapq.heapify(self._heap)
            last[2].refuse(BusyError(f"{last[2].command.what}: sent away by {command.what}, {MOST_WAITING} wait"))
        heapq.heappush(self._heap, (priority, next(self._number), request))
        return request

    def get(self) -> Request | None:
        """The next one that somebody still waits for; None if there is none."""
        while self._heap:
            request = heapq.heappop(self._heap)[2]
            if not request.done.done():
                return request
        return None

    def refuse_all(self, why: Exception) -> None:
        """Nobody is served any more."""
        waiting, self._heap = self._heap, []
        for _, _, request in waiting:
            request.refuse(why)
