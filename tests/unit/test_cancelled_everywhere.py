"""Bias sources whose work is cancelled at every single await: off stays possible, nothing was ever above a limit.

In virtual time, with the link and the judge of the generated histories (`benchmarks/bias_histories.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.test_bias_histories import HISTORIES

from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import DriverError
from petqc_drivers.limits import Volts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

FIRST_V, TARGET_V = 1.0, 5.0
"""Volts above the lowest: switched on to, and ramped to, which takes two steps."""
METER = list(HISTORIES.LOWEST_V).index("keithley")


class CancelledAt:
    """Something awaited that is cancelled when it waits for the n-th time."""

    def __init__(self, work: Awaitable[Any], n: int) -> None:
        self._work, self._n = work, n
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._work.__await__()
        go_on: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waited_for = go_on()
            except StopIteration as end:
                return end.value
            if self.waits == self._n:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self.waits += 1
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs inside
                go_on = partial(steps.throw, error)
            else:
                go_on = partial(next, steps)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = HISTORIES.JumpingLoop()
    monkeypatch.setattr(time, "monotonic", made.time)
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: made.time())
    yield made
    made.close()


async def connected(history: Any) -> None:
    await history.device.connect()


def volts(history: Any, above_v: float) -> Volts:
    return Volts(HISTORIES.LOWEST_V[history.kind] + above_v)


async def switched_on(history: Any) -> None:
    await history.device.connect()
    await history.device.on(volts(history, FIRST_V))


WORK: dict[str, tuple[Callable[[Any], Awaitable[None]] | None, Callable[[Any], Awaitable[Any]]]] = {
    "connect": (None, lambda h: h.device.connect()),
    "poll": (switched_on, lambda h: h.device.poll()),
    "on": (connected, lambda h: h.device.on(volts(h, TARGET_V))),
    "ramp": (switched_on, lambda h: h.device.ramp(volts(h, TARGET_V))),
    "off": (switched_on, lambda h: h.device.off()),
    "curve": (connected, lambda h: h.device.iv_curve([volts(h, FIRST_V), volts(h, TARGET_V)])),
}
"""What goes before, and what is cancelled."""
CASES = [(kind, work) for work in WORK for kind in range(3) if work != "curve" or kind == METER]


@pytest.mark.parametrize(("kind", "work"), CASES)
def test_cancelled_at_every_await_off_is_off_and_the_next_session_is_right(loop: Any, kind: int, work: str) -> None:
    before, what = WORK[work]
    n = 0

    async def one() -> int:
        history = HISTORIES.History(loop, 3 + kind)
        if before is not None:
            await before(history)
        cancelled = CancelledAt(what(history), n)
        with contextlib.suppress(asyncio.CancelledError, DriverError):
            await cancelled
        if work in {"off", "curve"}:
            await asyncio.sleep(5.0)  # off goes on by itself, whoever waits for it
            assert not history.board.is_on
        assert await history.device.off() is OutputState.OFF
        assert not history.board.is_on
        await history.device.connect()
        await history.device.poll()
        assert (history.device.state, history.device.output) == (DeviceState.IDENTIFIED, OutputState.OFF)
        await asyncio.sleep(0.5)
        history.link.pass_time()
        assert history.wrong() == []
        return cancelled.waits

    while loop.run_until_complete(one()) > n:
        n += 1
    assert n >= 1  # of what ends before it waits that often, nothing was cancelled
