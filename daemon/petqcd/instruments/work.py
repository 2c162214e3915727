"""What an instrument is doing now: one thing, with a deadline, that `stop` and `off` can end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import DriverError

if TYPE_CHECKING:
    from petqc_drivers.instrument import Instrument
    from petqcd.instruments.command_queue import Command, Priority


class EndedForOthersError(Exception):
    """`stop` or `off` ended what was being done; the words say which."""


class Work:
    """One command at a time, each in a task of its own.

    Attributes:
        priority: Of what is being done; None: nothing, or what the supervisor does to connect.
    """

    def __init__(self, driver: Instrument) -> None:
        self.priority: Priority | None = None
        self._driver = driver
        self._task: asyncio.Task[Any] | None = None
        self._ended_by = ""

    async def do(self, command: Command, priority: Priority | None = None) -> Any:
        """Do it, to its end or its deadline; what it returned.

        Raises:
            EndedForOthersError: `end` was called meanwhile.
            TimeoutError: Its deadline passed, and it was cancelled.
        """
        self._ended_by, self.priority = "", priority
        task = self._task = asyncio.create_task(self._awaited(command), name=f"{self._driver.name}: {command.what}")
        try:
            async with asyncio.timeout(command.deadline_s):
                return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if self._ended_by and me is not None and not me.cancelling():
                raise EndedForOthersError(self._ended_by) from None
            raise
        except DriverError:
            if self._ended_by:
                raise EndedForOthersError(self._ended_by) from None
            raise
        finally:
            await _over(task)
            self._task, self.priority = None, None

    def end(self, why: str) -> None:
        """End what is being done, if anything is; waits for nothing."""
        if self._task is not None and not self._task.done():
            self._ended_by = why
            self._task.cancel()

    async def _awaited(self, command: Command) -> Any:
        return await command.work(self._driver)


async def _over(task: asyncio.Task[Any]) -> None:
    """Make sure that it is; what it came to was told already."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
