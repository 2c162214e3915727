"""Rows of the fault matrix on a serial line, each a story of one supply with its supervisor on a pseudo-terminal.

Each waits for the named state of its row. All are told at the same time, for most of it is waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.contract.pluggable import LIMITS, STEP_V, Plugged, plugged
from tests.contract.served_instruments import of
from tests.contract.supervised import until

from petqc_drivers.caen_a7585d import Register
from petqc_drivers.device import Quality
from petqc_drivers.errors import ConnectError, DriverError
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.hamamatsu_c11204.supply import LINE
from petqc_drivers.limits import Volts
from petqc_drivers.transport.serial import serial_link
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqcd.instruments.command_queue import Command
from petqcd.instruments.state import InstrumentState
from petqcd.off.safe_state import SafeState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Story = Callable[[str, Path], Awaitable[None]]

HV, CAEN = "hamamatsu-c11204", "caen-a7585d"
STEPS: Final = 4
"""Of the ramp from 41 V to 57 V."""


def _board() -> HamamatsuC11204Board:
    return HamamatsuC11204Board(sensor_degc=lambda: 31.0, load_ma=lambda volts: volts / 50.0)


@contextlib.asynccontextmanager
async def supply(
    name: str, folder: Path, kind: str = HV, *, volts: float | None = 41.0, drifts: bool = False, **given: Any
) -> AsyncIterator[Plugged]:
    """One that answers and is on at some voltage (None: off); judged in the end."""
    board: Any = _board() if kind == HV else CaenA7585dBoard()
    async with plugged(name, kind, board, folder, **given) as one:
        await one.ends(InstrumentState.OFF)
        if volts is not None:
            await one.device.submit(Command("on", lambda driver: driver.on(Volts(volts)), 60.0))
            await one.ends(InstrumentState.ON)
        yield one
    one.judged(drifts=drifts)


async def _ramp_fails(one: Plugged, volts: float) -> str:
    """What a ramp says that must fail."""
    try:
        await one.device.submit(Command("ramp", lambda driver: driver.ramp(Volts(volts)), 60.0))
    except (DriverError, OSError) as error:
        return str(error)
    raise AssertionError("the ramp went through")


async def unplugged_while_idle(name: str, folder: Path) -> None:
    """Off when it was last heard of; few tries to connect while it is gone."""
    async with supply(name, folder, volts=None) as one:
        await one.unplug()
        await one.ends(InstrumentState.FAULT)
        link: Any = one.driver._link
        tries: list[int] = []
        original = link._open_port
        link._open_port = lambda timeout_s: (tries.append(1), original(timeout_s))[1]
        await asyncio.sleep(0.5)
        assert len(tries) < 10  # twice as long each time, from 50 ms on
        one.plug()
        await one.ends(InstrumentState.OFF)


async def unplugged_after_step(name: str, folder: Path, n: int) -> None:
    """The n-th step of a ramp reached the supply; the word of it did not come back."""
    async with supply(name, folder) as one:
        board, before = one.board, one.sets
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()

        def gone(reply: bytes) -> list[tuple[float, bytes]]:
            if sum(line["event"] == "set" for line in board.witness.lines[:]) < before_sets + n:
                return [(0.0, reply)]
            loop.call_soon_threadsafe(reached.set)
            return []

        before_sets = sum(line["event"] == "set" for line in board.witness.lines)
        one.line.fault = gone
        ramp = asyncio.create_task(_ramp_fails(one, 57.0))
        async with asyncio.timeout(10.0):
            await reached.wait()
        await one.unplug()
        one.line.fault = None
        told = await ramp
        confirmed = re.search(r"the last confirmed step is ([\d.]+) V", told)
        assert confirmed is not None, told
        assert abs(float(confirmed[1]) - (41.0 + STEP_V * (n - 1))) < 0.01
        await one.ends(InstrumentState.UNKNOWN)
        assert one.sets == before + n
        one.plug()
        await one.ends(InstrumentState.ADOPTED)
        await asyncio.sleep(0.5)
        assert one.sets == before + n  # no ramp goes on
        assert (await one.device.off()).state is SafeState.IN_SAFE_STATE


async def plugged_in_again(name: str, folder: Path) -> None:
    """The same supply under the same name."""
    async with supply(name, folder, volts=54.0) as one:
        sets, output_v = one.sets, one.board.output_v
        await one.unplug()
        await one.ends(InstrumentState.UNKNOWN)
        one.plug()
        await one.ends(InstrumentState.ADOPTED)
        assert one.driver.identity is not None
        assert one.driver.identity.serial == "SIM00001"
        assert (one.sets, one.board.output_v) == (sets, output_v)


async def another_plugged_in(name: str, folder: Path) -> None:
    """Another one of its kind under the same name."""
    async with supply(name, folder, volts=54.0) as one:
        other = HamamatsuC11204Board(serial="SIM00002")
        lines = len(other.witness.lines)
        await one.unplug()
        await one.ends(InstrumentState.UNKNOWN)
        one.plug(other)
        await until(lambda: "SIM00002" in one.device.detail)
        assert one.device.state is InstrumentState.UNKNOWN  # nobody knows what the right one does
        assert len(other.witness.lines) == lines
        assert one.board.is_on


async def bytes_that_changed_places(name: str, folder: Path) -> None:
    """A frame whose checksum is right and two of whose digits are not where they were."""
    async with supply(name, folder, volts=50.0) as one:
        truth_v = one.board.output_v
        wrong = [0]

        def swap(reply: bytes) -> list[tuple[float, bytes]]:
            begin = 4 + 8  # of the measured voltage, behind status and setting
            if reply[1:4] != b"hpo" or wrong[0]:
                return [(0.0, reply)]
            wrong[0] += 1
            a, b, c, d = (reply[begin + n : begin + n + 1] for n in range(4))
            swapped = reply[:begin] + a + d + c + b + reply[begin + 4 :]
            assert wire.checksum(swapped[:-3]) == swapped[-3:-1]
            assert swapped != reply
            return [(0.0, swapped)]

        seen: list[tuple[float | None, Quality]] = []
        original = one.driver._keep

        def keep(readings: Any) -> None:
            original(readings)
            found = of(readings, "bias_voltage")
            seen.append((found.value, found.quality))

        one.driver._keep = keep  # type: ignore[method-assign]
        one.line.fault = swap
        await until(lambda: any(quality is Quality.UNCERTAIN for _, quality in seen))
        await until(lambda: seen[-1][1] is Quality.GOOD)
        assert all(value is not None and abs(value - truth_v) < 0.2 for value, _ in seen), seen
        assert one.device.state is InstrumentState.ON


async def restarted(name: str, folder: Path) -> None:
    """It comes up with its own limits as from the shelf."""
    async with supply(name, folder, CAEN, volts=41.0, bias={**LIMITS, "v_min": 21.0}) as one:
        own = one.board.values[Register.MOST_V]
        one.board.power_cycle()
        await one.ends(InstrumentState.TRIPPED)
        assert "went off by itself" in one.device.detail
        await asyncio.sleep(0.5)
        assert one.board.values[Register.MOST_V] != own  # as from the shelf, and only switching on would program it
        assert not one.board.is_on
        with contextlib.suppress(DriverError):
            await one.device.submit(Command("on", lambda driver: driver.on(Volts(41.0)), 60.0))
        assert not one.board.is_on  # a trip is reset by people


async def acknowledged_and_not_done(name: str, folder: Path) -> None:
    """It says yes to a set-point and stays where it was, on the way up."""
    async with supply(name, folder, volts=None) as one:
        one.board.ignores.add("HBV")
        one.driver._settle_timeout_s = 0.5
        with contextlib.suppress(DriverError):
            await one.device.submit(Command("on", lambda driver: driver.on(Volts(50.0)), 60.0))
        await one.ends(InstrumentState.OFF)
        assert not one.board.is_on


async def refused(name: str, folder: Path) -> None:
    """It answers a step with an error; the ramp stays at the step before, and says what the supply said."""
    async with supply(name, folder, volts=45.0) as one:
        one.board.refuses["HBV"] = 6
        told = await _ramp_fails(one, 57.0)
        assert "error 6" in told, told
        assert "the last confirmed step is 4" in told, told
        await one.ends(InstrumentState.ON)
        assert abs(one.board.output_v - 45.0) < 0.05


async def drifted(name: str, folder: Path) -> None:
    """Its output goes above the limit by itself."""
    async with supply(name, folder, volts=56.0, drifts=True) as one:
        one.board.drift_v = 4.0
        await one.ends(InstrumentState.TRIPPED)
        assert not one.board.is_on
        (cause,) = one.driver.trip.causes
        assert "hard limit ends at" in cause.cause
        assert of(list(cause.snapshot), "bias_voltage").value > 57.0  # type: ignore[operator]


async def off_ignored(name: str, folder: Path) -> None:
    """Three tries, and the advice to use the switch."""
    async with supply(name, folder, volts=50.0) as one:
        one.board.ignores.add("HOF")
        tried = one.board.counters["HOF"]
        outcome = await one.device.off()
        assert outcome.state is SafeState.UNKNOWN
        assert "use the switch" in outcome.told
        assert one.board.counters["HOF"] == tried + 3
        await one.ends(InstrumentState.UNKNOWN, InstrumentState.ADOPTED)
        one.board.ignores.clear()
        assert (await one.device.off()).state is SafeState.IN_SAFE_STATE


async def opened_twice(name: str, folder: Path) -> None:
    """A second petqc is kept out; a thief who is not (root is let in) takes bytes away, which is a fault."""
    async with supply(name, folder, volts=None) as one:
        link = serial_link("second", str(folder / name), LINE)
        with pytest.raises(ConnectError, match="cannot be opened"):
            await link.open(2.0)
        await link.aclose()
        try:
            thief = os.open(folder / name, os.O_RDWR | os.O_NOCTTY)
        except OSError:
            return  # nobody but root gets this far
        is_at_work = threading.Event()
        is_at_work.set()
        stealing = asyncio.create_task(asyncio.to_thread(_steal, thief, is_at_work))
        try:
            await until(lambda: one.device.state is InstrumentState.FAULT)
        finally:
            is_at_work.clear()  # it goes with what it takes last
        await one.ends(InstrumentState.OFF)
        await stealing


def _steal(thief: int, is_at_work: threading.Event) -> None:
    """Wait for bytes where the driver waits for them, and be the first as often as not."""
    try:
        while is_at_work.is_set():
            os.read(thief, 4096)
    finally:
        os.close(thief)


async def stopped_up(name: str, folder: Path) -> None:
    """Nobody takes what is sent and the buffer before it is full; off opens the line anew each time.

    The buffer is filled by root, whom an exclusive port lets in; others find it as it is, and this row is not tried.
    """
    async with supply(name, folder, volts=50.0, reply_timeout_s=0.3) as one:
        if os.geteuid() != 0:
            return
        one.line.takes.clear()
        filler = os.open(folder / name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            for size in (512, 512, 64, 8, 1, 1):  # its other end takes one more piece before it stops
                with contextlib.suppress(BlockingIOError):
                    while os.write(filler, b"\x00" * size):
                        pass
                await asyncio.sleep(0.02)
            await one.ends(InstrumentState.UNKNOWN)
            assert "does not take what is sent" in one.device.detail, one.device.detail
            assert (await one.device.off()).state is SafeState.UNKNOWN
        finally:
            os.close(filler)
        one.line.takes.set()
        assert (await one.device.off()).state is SafeState.IN_SAFE_STATE
        assert not one.board.is_on


def _after_step(n: int) -> Story:
    return lambda name, folder: unplugged_after_step(name, folder, n)


STORIES: dict[str, Story] = {
    "SER-01": unplugged_while_idle,
    **{f"SER-02-{n}": _after_step(n) for n in range(1, STEPS + 1)},
    "SER-03": plugged_in_again,
    "SER-04": another_plugged_in,
    "SER-10": bytes_that_changed_places,
    "SER-14": restarted,
    "SER-15": acknowledged_and_not_done,
    "SER-16": refused,
    "SER-17": drifted,
    "SER-18": off_ignored,
    "SER-19": opened_twice,
    "SER-20": stopped_up,
}
