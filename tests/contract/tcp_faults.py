"""Rows of the fault matrix on TCP, each a story of instruments with their supervisors, all told at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from tests.contract import fault_line as faults
from tests.contract.every_instrument import CASES
from tests.contract.fault_relay import StreamRelay
from tests.contract.hung_port import HungPort
from tests.contract.served_instruments import served
from tests.contract.supervised import Rig, supervising, table, until

from petqcd.instruments.state import InstrumentState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from petqcd.instruments.supervisor import InstrumentSupervisor

    Story = Callable[[str, Path], Awaitable[None]]

WITHIN_S: Final = 10.0
"""From the fault to the named state. Source: reliability design, section 12."""
SMU = "keithley-smu"
_CASE = next(case for case in CASES if case.name == SMU)
_GIVEN: dict[str, Any] = {"poll_s": 0.3, "reply_timeout_s": 1.0}


async def ends(device: InstrumentSupervisor, *states: InstrumentState) -> None:
    """Wait for its named state."""
    try:
        await until(lambda: device.state in states, WITHIN_S)
    except AssertionError as error:
        raise AssertionError(f"{device.name}: {device.state}, {device.detail}") from error


@contextlib.asynccontextmanager
async def behind_relay(name: str) -> AsyncIterator[tuple[InstrumentSupervisor, StreamRelay]]:
    """A source meter that was found on, behind a relay; in the end nobody told it anything."""
    board = _CASE.board()
    with contextlib.ExitStack() as stack:
        host, _, port = stack.enter_context(served(board)).removeprefix("socket://").rpartition(":")
        relay = StreamRelay((host, int(port)))
        stack.enter_context(relay.running())
        address = "socket://{}:{}".format(*relay.address)
        rig = Rig([table(SMU, address, name=name, **_GIVEN)], {})
        async with supervising(rig):
            await ends(rig[name], InstrumentState.ADOPTED)
            yield rig[name], relay
            await ends(rig[name], InstrumentState.ADOPTED)
    assert _CASE.told(board) == []


async def reset_in_each_phase(name: str, _folder: Path) -> None:
    """While nothing is asked, while it is asked, and in the middle of a reply."""
    async with behind_relay(name) as (device, relay):
        for fault in (None, faults.dropped(), faults.truncated(3)):
            relay.fault = fault
            if fault is not None:
                replies = relay.replies
                await until(lambda before=replies: relay.replies > before)  # type: ignore[misc]
            relay.reset()
            await ends(device, InstrumentState.UNKNOWN)
            relay.fault = None
            await ends(device, InstrumentState.ADOPTED)


async def half_closed(name: str, _folder: Path) -> None:
    """It says that nothing more comes, and still takes what is sent: it is lost."""
    async with behind_relay(name) as (device, relay):
        relay.half_close()
        await ends(device, InstrumentState.UNKNOWN)
        assert "closed the connection" in device.detail, device.detail


async def slow_line(name: str, _folder: Path) -> None:
    """200 ms ± 100 ms, 1 kB/s: polls come later, and nothing is lost."""
    async with behind_relay(name) as (device, relay):
        relay.fault = faults.slow(random.Random(7), latency_s=0.2, jitter_s=0.1, bytes_per_s=1000.0)
        last_s = device.driver.last_good_s
        assert last_s is not None
        await asyncio.sleep(2.5)
        assert device.state is InstrumentState.ADOPTED
        assert (device.driver.last_good_s or 0.0) > last_s
        assert not device._was_lost


async def nobody_to_reach(name: str, _folder: Path) -> None:
    """A port where nobody listens, a network to which no way leads, a name that nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    places = {"refused": f"127.0.0.1:{port}", "unreachable": "192.0.2.1:5025", "unknown": "nobody.invalid:5025"}
    tables = [table(SMU, f"socket://{place}", name=f"{name}-{why}", **_GIVEN) for why, place in places.items()]
    rig = Rig(tables, {})
    async with supervising(rig):
        for one in rig.instruments:
            await ends(one, InstrumentState.UNKNOWN)  # it has an output, and nobody knows


async def library_never_back(name: str, _folder: Path) -> None:
    """A call into a library that sleeps: its thread is left behind, another device goes on, the daemon can stop."""
    comes_back = threading.Event()

    board = _CASE.board()
    with served(board) as address:
        rig = Rig([table(SMU, address, name=f"{name}-{one}", **_GIVEN) for one in ("hung", "well")], {})
        hung, well = (rig[f"{name}-{one}"] for one in ("hung", "well"))
        link: Any = hung.driver._link  # type: ignore[attr-defined]
        link._open_port = lambda _timeout_s: HungPort(comes_back, [])
        try:
            async with supervising(rig):
                await ends(well, InstrumentState.ADOPTED)
                await until(lambda: "never came back" in hung.detail, WITHIN_S)
                assert hung.state is InstrumentState.UNKNOWN
                assert link.counters["abandoned"] == 2
                assert well.state is InstrumentState.ADOPTED
                last_s = well.driver.last_good_s or 0.0
                await until(lambda: (well.driver.last_good_s or 0.0) > last_s)
        finally:
            comes_back.set()
            await asyncio.to_thread(_join, link)


def _join(link: Any) -> None:
    for worker in link._abandoned:
        worker.thread.join(WITHIN_S)


async def one_place_taken(name: str, _folder: Path) -> None:
    """It takes one client, and there is one: said so, not tried over and over."""
    board = _CASE.board()
    with served(board, has_one_place=True) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        rig = Rig([table(SMU, address, name=name, **_GIVEN)], {})
        device = rig[name]
        tries: list[int] = []
        link: Any = device.driver._link  # type: ignore[attr-defined]
        original = link._open_port
        link._open_port = lambda timeout_s: (tries.append(1), original(timeout_s))[1]
        with socket.create_connection((host, int(port))) as first:
            first.sendall(b"*IDN?\n")
            assert await asyncio.to_thread(first.recv, 100)
            async with supervising(rig):
                await until(lambda: "many instruments take one client" in device.detail, WITHIN_S)
                assert device.state is InstrumentState.UNKNOWN
                await asyncio.sleep(0.5)
                assert len(tries) < 10  # twice as long each time, from 50 ms on
                first.close()
                await ends(device, InstrumentState.ADOPTED)
    assert _CASE.told(board) == []


STORIES: dict[str, Story] = {
    "TCP-01": nobody_to_reach,
    "TCP-04": reset_in_each_phase,
    "TCP-05": half_closed,
    "TCP-07": slow_line,
    "TCP-09": library_never_back,
    "TCP-11": one_place_taken,
}
