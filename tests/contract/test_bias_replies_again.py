"""Supplies whose replies come once more, each in turn: whatever is said of an output while or after that is true."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract import fault_line as faults
from tests.contract.every_instrument import CASES, Case
from tests.contract.fault_line import FaultyLine

from petqc_drivers import instrument
from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError
from petqc_drivers.limits import Volts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.contract.fault_line import Fault

TARGET_V, HIGHEST_V, TOLERANCE_V = 50.0, 57.0, 0.15
REPLIES = 16
AT_ONCE = 12
AGAIN: dict[str, Callable[[int], Fault]] = {
    "in-place-of-the-next": lambda n: faults.again_instead(n, 0.01),
    "a-moment-later": lambda n: faults.nth(n, faults.doubled(0.004)),
    "much-later": lambda n: faults.nth(n, faults.doubled(0.015)),
}
SUPPLIES = [case for case in CASES if case.name in {"caen-a7585d", "hamamatsu-c11204", "keithley-smu"}]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet comes sooner."""
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("act", ["on", "ramp"])
@pytest.mark.parametrize("case", SUPPLIES, ids=str)
def test_what_is_claimed_is_so(case: Case, act: str, again: str) -> None:
    async def session(n: int) -> list[str]:
        async with supply(case) as (board, line, device):
            await device.connect()
            await (device.off() if act == "on" else device.confirm_adopted())
            line.fault = AGAIN[again](n)
            is_done = True
            try:
                await (device.on if act == "on" else device.ramp)(Volts(TARGET_V))
            except DriverError:
                is_done = False
            found = []
            if is_done and (not board.is_on or abs(_volts(board) - TARGET_V) > TOLERANCE_V):
                found.append(f"done, with {_volts(board):.2f} V")
            if board.is_on and device.output is OutputState.OFF:
                found.append("off, and it is on")
            if not board.is_on and device.output is OutputState.ON:
                found.append("on, and it is off")
            if _volts(board) > HIGHEST_V:
                found.append(f"{_volts(board):.2f} V")
            return found + [f"tripped: {one.cause}" for one in device.trip.causes]

    assert untrue(session) == []


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("case", SUPPLIES, ids=str)
def test_an_output_is_found_as_it_is(case: Case, is_on: bool) -> None:  # noqa: FBT001
    async def session(n: int) -> list[str]:
        async with supply(case) as (_, line, device):
            if not is_on:
                await device.connect()
                await device.off()
                await device.aclose()
            line.fault = AGAIN["in-place-of-the-next"](n)
            right = OutputState.ADOPTED if is_on else OutputState.OFF
            try:
                await device.connect()
            except DriverError:  # it is tried again by whoever supervises
                found = [] if device.output in {right, OutputState.UNKNOWN} else [f"failed, {device.output}"]
            else:
                found = [] if device.output is right else [f"found {device.output}"]
            return found + [f"tripped: {one.cause}" for one in device.trip.causes]

    assert untrue(session) == []


@contextlib.asynccontextmanager
async def supply(case: Case) -> AsyncIterator[tuple[Any, FaultyLine, BiasSource]]:
    """One that is on, its line, and its driver, which waits for late replies."""
    board = case.board()
    line = FaultyLine(board)
    with case.served(board, line) as address:
        device = case.device(address, 2.0)
        assert isinstance(device, BiasSource)
        try:
            yield board, line, device
        finally:
            line.fault = None
            await device.aclose()


def untrue(session: Callable[[int], Awaitable[list[str]]]) -> list[tuple[int, list[str]]]:
    """Of every reply that comes again: what was said then that is not so; some sessions at once."""
    some = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> tuple[int, list[str]]:
        async with some:
            return n, await session(n)

    async def each() -> list[tuple[int, list[str]]]:
        return await asyncio.gather(*(one(n) for n in range(REPLIES)))

    return [found for found in asyncio.run(each()) if found[1]]


def _volts(board: Any) -> float:
    return float(board.volts if hasattr(board, "volts") else board.output_v)


def test_every_supply_is_tried() -> None:
    names = set()
    for case in CASES:
        with case.served(board := case.board(), board) as address:
            if isinstance(case.device(address), BiasSource):
                names.add(case.name)
    assert names == {case.name for case in SUPPLIES}
