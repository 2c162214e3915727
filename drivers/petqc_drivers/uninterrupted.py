"""Waiting for work that must not be left half done, whoever stops waiting for it: the way off, above all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T] | asyncio.Task[T], *, name: str = "uninterrupted work") -> T:
    """Finish `work` even if the waiting task is cancelled meanwhile; the cancellation follows afterwards.

    If the work fails after a cancellation, the cancellation is what the caller gets, with the failure as its cause.

    Args:
        work: What must be finished; it must have a deadline of its own. A task may be waited for by several.
        name: Of the task that is made of a coroutine.
    """
    task = work if isinstance(work, asyncio.Task) else asyncio.create_task(work, name=name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from None if task.cancelled() else task.exception()
    return task.result()
