"""What every driver of an instrument must bear: late, doubled, damaged, missing, endless replies; nobody; another."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract import fault_line as faults
from tests.contract.every_instrument import CASES, REPLY_TIMEOUT_S, Case
from tests.contract.fault_line import FaultyLine

from petqc_drivers import bias_source, instrument, registry
from petqc_drivers.bias_source import BiasSource
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, OutputState, Quality
from petqc_drivers.errors import (
    ConnectError,
    DriverError,
    LinkLostError,
    OffUnconfirmedError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)
from petqc_drivers.instrument import BackOff, Instrument, LinkedInstrument
from petqc_drivers.julabo import wire as julabo_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

each = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet comes sooner; what is late is later than that."""
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)
    monkeypatch.setattr(julabo_wire, "AFTER_IN_S", 0.0)


class Bench:
    """A simulated instrument behind a faulty line, and its driver."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.board = case.board()
        self.line = FaultyLine(self.board, has_sessions=case.data is not None)
        self.told_before = len(case.told(self.board))

    def right(self, device: Instrument) -> None:
        """What the readings say is true."""
        found = {reading.name: reading for reading in device.readings()}
        for name, (value, tolerance) in self.case.truth(self.board).items():
            assert found[name].value == pytest.approx(value, abs=tolerance), name

    async def right_or_connected_again(self, device: Instrument) -> bool:
        """Poll: what is read is true, or it fails and is connected again; whether it was read."""
        try:
            await device.poll()
        except DriverError:
            if not device.is_open:
                await device.connect()
            return False
        self.right(device)
        return True

    def untouched(self) -> None:
        """Nobody told it anything."""
        assert len(self.case.told(self.board)) == self.told_before


@contextlib.asynccontextmanager
async def connected(
    case: Case, listen: str = "tcp://127.0.0.1:0", reply_s: float = REPLY_TIMEOUT_S
) -> AsyncIterator[tuple[Bench, Instrument]]:
    bench = Bench(case)
    with case.served(bench.board, bench.line, listen) as address:
        device = case.device(address, reply_s)
        try:
            await device.connect()
            yield bench, device
        finally:
            bench.line.fault, bench.line.is_frozen = None, False
            await device.aclose()


@each
@pytest.mark.parametrize("listen", ["tcp", "pty"])
def test_connects_and_polls_and_changes_nothing(case: Case, listen: str, tmp_path: Path) -> None:
    if listen == "pty" and not case.is_serial:
        listen = "tcp"
    place = f"pty:{tmp_path}/port" if listen == "pty" else "tcp://127.0.0.1:0"

    async def session() -> None:
        async with connected(case, place) as (bench, device):
            assert device.state is DeviceState.IDENTIFIED
            assert device.identity is not None
            await device.poll()
            bench.right(device)
            assert all(reading.node.partition(":")[0] == device.name for reading in device.readings())
            bench.line.fault = faults.split(0.001)
            await device.poll()
            bench.right(device)
            await device.connect()  # again, in any state
            await device.poll()
            bench.right(device)
            bench.untouched()

    asyncio.run(session())


FAULTS = {
    "dropped": faults.dropped(),
    "late": faults.late(REPLY_TIMEOUT_S + 0.1),
    "doubled": faults.doubled(0.0),
    "doubled-later": faults.doubled(0.03),
    "truncated": faults.truncated(3),
    "babbled": faults.babbled(200),
    "flipped": faults.flipped(2, 0),
    "flipped-at-the-end": faults.flipped(-2, 3),
}


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        pytest.param(case, fault, id=f"{case}-{name}")
        for case in CASES
        for name, fault in FAULTS.items()
        if case.has_parity or "flipped" not in name
    ],
)
def test_a_reply_that_is_not_as_it_should_be(case: Case, fault: Any) -> None:
    """Of each fault: the right values or an error, never another value; and the next poll is right."""

    async def session() -> None:
        async with connected(case) as (bench, device):
            for n in case.replies:
                bench.line.fault = faults.nth(n, fault)
                await bench.right_or_connected_again(device)
                bench.line.fault = None
                await device.poll()
                bench.right(device)
            bench.untouched()

    asyncio.run(session())


def _noticed(device: Instrument) -> int:
    return sum(device.link_counters.get(name, 0) for name in ("unasked_bytes", "resynchronised"))


@each
def test_a_reply_that_comes_again_in_place_of_the_next(case: Case) -> None:
    """Whichever it is: the right values or an error; nothing trips, and nothing is switched."""

    async def session() -> None:
        async with connected(case, reply_s=2.0) as (bench, device):  # no reply is lost, a busy machine takes its time
            for n in range(9):
                replies, noticed = bench.line.replies, _noticed(device)
                bench.line.fault = faults.again_instead(n, 0.01)
                if await bench.right_or_connected_again(device) and isinstance(device, LinkedInstrument):
                    assert bench.line.replies <= replies + n + 1 or _noticed(device) > noticed
                await asyncio.sleep(0.05)  # what is late still comes
                bench.line.fault = None
                await device.poll()
                bench.right(device)
                if isinstance(device, BiasSource):
                    assert not device.trip.causes
            bench.untouched()

    asyncio.run(session())


@pytest.mark.parametrize(
    "fault",
    [None, faults.dropped(), faults.doubled(0.0), faults.babbled(99)],
    ids=["none", "dropped", "doubled", "babbled"],
)
def test_what_trips_it_does_so_although_the_reply_that_makes_sure_is_lost(fault: Any) -> None:
    case = next(case for case in CASES if case.name == "caen-a7585d")

    async def session() -> None:
        async with connected(case) as (bench, device):
            bench.board.load_ma = lambda _volts: 1.5
            sure = 6  # after the six that it asks for
            bench.line.fault = None if fault is None else faults.nth(sure, fault)
            await device.poll()
            assert [one.cause for one in device.trip.causes] == ["measured 1.500 mA, allowed are 1 mA"]
            assert device.output is OutputState.OFF
            assert not bench.board.is_on

    asyncio.run(session())


@each
def test_replies_that_come_together(case: Case) -> None:
    async def session() -> None:
        async with connected(case) as (bench, device):
            bench.line.fault = faults.merged()
            with contextlib.suppress(DriverError):
                await device.poll()
            bench.line.fault = None
            with contextlib.suppress(DriverError):  # the last one of them is still on its way
                await device.poll()
            if not device.is_open:
                await device.connect()
            await device.poll()
            bench.right(device)
            bench.untouched()

    asyncio.run(session())


@each
def test_babble_without_an_end_is_bounded(case: Case) -> None:
    async def session() -> None:
        async with connected(case) as (bench, device):
            bench.line.fault = faults.babbled(1 << 20)
            started = time.monotonic()
            with pytest.raises(DriverError):
                await device.poll()
            assert time.monotonic() - started < 10.0
            bench.line.fault = None
            if not device.is_open:
                await device.connect()
            await device.poll()
            bench.right(device)

    asyncio.run(session())


@each
def test_a_hung_device_is_noticed_and_its_flood_discarded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "STALE_AFTER_S", 0.2)

    async def session() -> None:
        async with connected(case) as (bench, device):
            await device.poll()
            bench.line.is_frozen = True
            with pytest.raises(DriverError):
                await device.poll()
            assert device.state is DeviceState.FAULTED
            await asyncio.sleep(0.25)
            known = [reading for reading in device.readings() if reading.quality is not Quality.ABSENT]
            assert known
            assert all(r.quality is Quality.BAD and r.value is None and "stale" in (r.reason or "") for r in known)
            with pytest.raises(StateError):
                await device.poll()
            bench.line.is_frozen = False
            await device.connect()
            await device.poll()
            bench.right(device)
            bench.untouched()

    asyncio.run(session())


@each
def test_another_device_at_the_same_address(case: Case) -> None:
    async def session() -> None:
        async with connected(case) as (bench, device):
            other = case.another()
            told = len(case.told(other))
            bench.line.inner = other
            await device.aclose()
            with pytest.raises(WrongIdentityError):
                await device.connect()
            assert device.state is DeviceState.FAULTED
            assert len(case.told(other)) == told
            bench.line.inner = bench.board
            await device.connect()
            await device.poll()
            bench.right(device)

    asyncio.run(session())


@each
def test_the_other_end_goes_and_comes_back(case: Case) -> None:
    async def session() -> None:
        board = case.board()
        with case.served(board, board) as address:
            device = case.device(address)
            await device.connect()
        with pytest.raises((LinkLostError, ReplyTimeoutError, StateError)):
            await device.poll()
        with pytest.raises(ConnectError):
            await device.connect()
        with case.served(board, board, "tcp" + address.removeprefix("socket")):
            await device.connect()
            await device.poll()
        await device.aclose()
        await device.aclose()

    asyncio.run(session())


@each
def test_cancelled_anywhere_the_next_poll_is_right(case: Case) -> None:
    """Cancellations swept over a poll in time and over turns of the event loop; each must come through."""

    async def session() -> None:
        async with connected(case) as (bench, device):
            started = time.monotonic()
            await device.poll()
            poll_s = time.monotonic() - started
            for n in range(12):
                task = asyncio.create_task(device.poll())
                if n < 4:
                    for _ in range(n):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(poll_s * (n - 4) / 8)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):  # or it had ended before
                    await task
                await device.poll()
                bench.right(device)
            connecting = asyncio.create_task(device.connect())
            await asyncio.sleep(0.02)
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
            await device.connect()
            await device.poll()
            bench.right(device)
            bench.untouched()

    asyncio.run(session())


@each
def test_off_of_what_can_be_on_always_ends_in_a_named_state(case: Case) -> None:
    async def session() -> None:
        async with connected(case) as (bench, device):
            if not isinstance(device, BiasSource):
                assert not hasattr(device, "off")
                return
            for fault in (faults.late(0.1), faults.nth(0, faults.dropped()), faults.babbled(99)):
                bench.line.fault = fault
                started = time.monotonic()
                with contextlib.suppress(OffUnconfirmedError):
                    await device.off()
                assert time.monotonic() - started < 10.0
                assert device.output in {OutputState.OFF, OutputState.UNKNOWN}
                assert not bench.board.is_on  # whatever its replies were
            bench.line.is_frozen = True
            with pytest.raises(OffUnconfirmedError, match="treat the output as live"):
                await device.off()
            assert device.output is OutputState.UNKNOWN

    asyncio.run(session())


@each
def test_off_ends_within_its_time_however_long_replies_are_waited_for(case: Case, monkeypatch: Any) -> None:
    monkeypatch.setattr(bias_source, "OFF_WITHIN_S", 0.5)

    async def session() -> None:
        async with connected(case) as (bench, device):
            if not isinstance(device, BiasSource):
                return
            device._reply_timeout_s = 30.0
            bench.line.is_frozen = True
            async with asyncio.timeout(5.0):
                with pytest.raises(OffUnconfirmedError, match=r"0\.5 s were over"):
                    await device.off()
            assert device.output is OutputState.UNKNOWN

    asyncio.run(session())


def test_every_kind_behind_a_link_is_in_this_suite() -> None:
    kinds = {name for name, kind in registry.KINDS.items() if issubclass(kind.load()[1], Instrument)}
    assert kinds == {case.name for case in CASES}


def test_back_off() -> None:
    clock = BackOff(random.Random(3))
    waits = [clock.failed() for _ in range(9)]
    for wait_s, nominal_s in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.8 * nominal_s <= wait_s <= 1.2 * nominal_s
    clock.connected()
    assert clock.failed() > 20.0  # a short success is none


def test_back_off_begins_again_after_good_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = BackOff(random.Random(3))
    for _ in range(9):
        clock.failed()
    clock.connected()
    now = monotonic_s()
    monkeypatch.setattr(instrument, "monotonic_s", lambda: now + 11.0)
    assert clock.failed() < 1.0
