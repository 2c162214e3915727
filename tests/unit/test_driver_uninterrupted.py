"""Work that must be finished: whoever waits for it may be cancelled, once or often, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from petqc_drivers.uninterrupted import uninterrupted


class Work:
    """Something that goes on until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.is_done = False
        self._error = error

    async def do(self) -> int:
        self.began.set()
        await self.go.wait()
        self.is_done = True
        if self._error is not None:
            raise self._error
        return 7


async def cancel_often(task: asyncio.Task[int]) -> None:
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()


def test_it_is_finished_before_the_cancellation_goes_on() -> None:
    async def session() -> None:
        work = Work()
        task = asyncio.create_task(uninterrupted(work.do()))
        await work.began.wait()
        await cancel_often(task)
        work.go.set()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert work.is_done

    asyncio.run(session())


def test_several_may_wait_for_the_same_and_only_who_is_cancelled_hears_of_it() -> None:
    async def session() -> None:
        work = Work()
        shared = asyncio.create_task(work.do())
        one, other = asyncio.create_task(uninterrupted(shared)), asyncio.create_task(uninterrupted(shared))
        await work.began.wait()
        await cancel_often(one)
        work.go.set()
        assert await other == 7
        with pytest.raises(asyncio.CancelledError):
            await one

    asyncio.run(session())


def test_a_failure_is_raised_and_after_a_cancellation_it_is_its_cause() -> None:
    async def session() -> None:
        broken = ValueError("broken")
        alone = Work(broken)
        alone.go.set()
        with pytest.raises(ValueError, match="broken"):
            await uninterrupted(alone.do())
        work = Work(broken)

        async def waiting() -> BaseException | None:
            try:
                await uninterrupted(work.do())
            except asyncio.CancelledError as error:
                return error.__cause__
            return None

        task = asyncio.create_task(waiting())
        await work.began.wait()
        task.cancel()
        await asyncio.sleep(0)
        work.go.set()
        assert await task is broken

    asyncio.run(session())


def test_work_that_is_cancelled_itself_says_so() -> None:
    async def session() -> None:
        shared = asyncio.create_task(Work().do())
        waiting = asyncio.create_task(uninterrupted(shared))
        await asyncio.sleep(0)
        shared.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(session())
