"""Source meters and the interval counter: their drivers against the simulated ones over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.served_instruments import of, served

from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import LimitError, ReplyTimeoutError, StateError, VerifyError, WrongIdentityError
from petqc_drivers.keithley_smu.meter import KeithleySmu, KeithleySmuSettings
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.sr620.counter import Sr620, Sr620Settings
from petqc_drivers.transport import threaded
from petqc_drivers.transport.tcp import SocketPort
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.sr620 import ClockPair
from petqc_simulators.boards.sr620 import Sr620 as Sr620Board
from petqc_simulators.physics.leakage import SipmLoad

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_V = 58.0
LIMIT = HardLimit(channel="smu", v_min=Volts(0.0), v_max=Volts(MOST_V), max_step_v=20.0, slew_v_per_s=2000.0)


@contextlib.asynccontextmanager
async def meter(board: KeithleyBoard, **changed: Any) -> AsyncIterator[KeithleySmu]:
    with served(board) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        given = {"name": "smu", "address": f"TCPIP::{host}::{port}::SOCKET", "model": board.model}
        given |= {"serial": "04425111", "limit": LIMIT, "most_current_a": 2e-5, "settle_timeout_s": 0.5}
        device = KeithleySmu(KeithleySmuSettings(**{**given, **changed}))
        try:
            await device.connect()
            yield device
        finally:
            await device.aclose()
    assert max(board.told_v, default=0.0) <= MOST_V
    assert board.highest_v <= MOST_V


@pytest.mark.parametrize("model", ["2450", "2400"])
def test_a_curve_shows_the_breakdown(model: Any) -> None:
    board = KeithleyBoard(SipmLoad(breakdown_v=53.0), model=model)
    points = [Volts(v) for v in (20.0, 52.0, 52.8, 53.5, 54.5, 56.0, 58.0)]

    async def session() -> None:
        async with meter(board) as device:
            curve = await device.iv_curve(points, settle_s=0.01)
            assert [point.volts for point in curve] == pytest.approx([p.value for p in points], abs=0.01)
            assert [point.amps for point in curve] == pytest.approx(
                [board.load.current_a(p.value) for p in points], rel=0.02, abs=2e-10
            )
            assert not any(point.is_limiting for point in curve)
            assert device.output is OutputState.OFF
            assert not board.is_on
            assert board.limit_a == pytest.approx(2e-5)
            limited = await device.iv_curve([Volts(40.0), Volts(57.0)])
            assert len(limited) == 2

    asyncio.run(session())


def test_a_library_that_does_not_come_back_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is over then; that there is none is not what happened."""
    monkeypatch.setattr(threaded, "_GRACE_S", 0.05)
    comes_back = threading.Event()

    async def session() -> None:
        async with meter(KeithleyBoard(SipmLoad()), reply_timeout_s=0.1) as device:
            monkeypatch.setattr(SocketPort, "write", lambda *_: comes_back.wait(60.0))
            try:
                with pytest.raises(ReplyTimeoutError, match="did not come back"):
                    await device.poll()
            finally:
                comes_back.set()

    asyncio.run(session())


def test_a_curve_ends_at_the_current_limit() -> None:
    board = KeithleyBoard(SipmLoad(breakdown_v=53.0))

    async def session() -> None:
        async with meter(board, most_current_a=1e-6) as device:
            curve = await device.iv_curve([Volts(v) for v in (50.0, 53.5, 57.0, 58.0)], settle_s=0.01)
            assert [point.is_limiting for point in curve] == [False, False, True]
            assert curve[-1].volts < 56.0
            assert curve[-1].amps == pytest.approx(1e-6, rel=0.01)
            assert not board.is_on

    asyncio.run(session())


def test_refused_before_anything_is_sent() -> None:
    board = KeithleyBoard(SipmLoad())

    async def session() -> None:
        async with meter(board) as device:
            with pytest.raises(LimitError):
                await device.iv_curve([Volts(50.0), Volts(58.01)])
            assert board.told_v == []
            await device.on(Volts(30.0))
            with pytest.raises(StateError):
                await device.iv_curve([Volts(50.0)])
            with pytest.raises(LimitError):
                await device.ramp(Volts(-1.0))
            readings = {r.name: r for r in await device.poll()}
            assert readings["bias_voltage"].value == pytest.approx(30.0, abs=0.01)
            assert readings["bias_current"].value == pytest.approx(1e3 * board.load.current_a(30.0), abs=2e-7)
            await device.off()
            readings = {r.name: r for r in await device.poll()}
            assert readings["bias_voltage"].quality is Quality.ABSENT  # nothing is measured while it is off
            assert board.level_v == 0.0

    asyncio.run(session())


def test_a_current_limit_that_was_not_taken_refuses_switching_on(monkeypatch: pytest.MonkeyPatch) -> None:
    board = KeithleyBoard(SipmLoad())
    monkeypatch.setattr(KeithleyBoard, "_set_limit", lambda _self, _text: None)
    board = KeithleyBoard(SipmLoad())

    async def session() -> None:
        async with meter(board) as device:
            with pytest.raises(VerifyError, match="ILIM"):
                await device.on(Volts(30.0))
            assert not board.is_on
            assert board.told_v == []

    asyncio.run(session())


def test_its_interlock_is_read_where_it_has_one_that_counts() -> None:
    async def session(board: KeithleyBoard, **changed: Any) -> None:
        async with meter(board, **changed) as device:
            board.interlock_is_closed = False
            found = [one for one in await device.poll() if one.name == "interlock_closed"]
            if board.model == "2400" and not changed:
                assert found == []  # not every firmware of it knows the question
                return
            if board.model == "2400":
                assert (found[0].value, found[0].quality) == (None, Quality.ABSENT)
                assert "switched off at the instrument" in (found[0].reason or "")
                board.receive(b":OUTP:INT:STAT ON\n")
            reading = of(await device.poll(), "interlock_closed")
            assert (reading.value, reading.quality, reading.measured) == (0.0, Quality.GOOD, True)
            assert reading.reason == "its interlock is open"
            with pytest.raises(VerifyError):  # as the instrument itself sees to it
                await device.on(Volts(50.0))
            assert board.highest_v < 43.0
            assert device.output is OutputState.OFF
            board.interlock_is_closed = True
            board.receive(b"*CLS\n")
            await device.on(Volts(50.0))
            assert of(await device.poll(), "interlock_closed").value == 1.0

    asyncio.run(session(KeithleyBoard(SipmLoad())))
    asyncio.run(session(KeithleyBoard(SipmLoad(), model="2400")))
    asyncio.run(session(KeithleyBoard(SipmLoad(), model="2400"), reads_interlock=True))


def test_an_excess_trips() -> None:
    board = KeithleyBoard(SipmLoad())

    async def session() -> None:
        async with meter(board) as device:
            await device.on(Volts(55.0))
            board.level_v = board._volts = 59.5  # by itself
            await device.poll()
            assert device.trip.state == "tripped"
            assert device.output is OutputState.OFF
            assert not board.is_on
            with pytest.raises(StateError):
                await device.on(Volts(30.0))
            device.trip.acknowledge()
            await device.reset_trip()
            board.highest_v = 0.0  # that was the fault itself
            await device.on(Volts(30.0))
            await device.off()

    asyncio.run(session())


async def fallen(board: KeithleyBoard) -> None:
    """Wait until its output has fallen."""
    async with asyncio.timeout(20.0):
        while board.volts:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("v_min", "v_max"), [(-58.0, 0.0), (-58.0, -2.0)])
def test_a_negative_output_has_the_same_ramps_and_trips(v_min: float, v_max: float) -> None:
    board = KeithleyBoard(SipmLoad(is_open=True))
    limit = HardLimit(channel="smu", v_min=Volts(v_min), v_max=Volts(v_max), max_step_v=20.0, slew_v_per_s=2000.0)

    async def session() -> None:
        async with meter(board, limit=limit) as device:
            await device.on(Volts(-55.0))
            assert board.told_v[-1] == -55.0
            assert max(abs(b - a) for a, b in itertools.pairwise([0.0, *board.told_v])) <= 20.0
            with pytest.raises(LimitError, match=r"-58\.1"):
                await device.ramp(Volts(-58.1))
            await device.ramp(Volts(-30.0))
            board.level_v = board._volts = -59.5  # by itself
            await device.poll()
            assert device.trip.causes[0].cause.startswith("measured -59.500 V, the hard limit is -58.0000 V to ")
            assert device.output is OutputState.OFF
            assert not board.is_on
            await fallen(board)
            board.highest_v = 0.0  # that was the fault itself

    asyncio.run(session())


def test_a_negative_output_that_is_found_beyond_its_limit_trips_and_is_not_taken_over() -> None:
    board = KeithleyBoard(SipmLoad(is_open=True))
    board.is_on, board.level_v, board._volts = True, -90.0, -90.0
    limit = HardLimit(channel="smu", v_min=Volts(-58.0), v_max=Volts(0.0), max_step_v=20.0, slew_v_per_s=2000.0)

    async def session() -> None:
        async with meter(board, limit=limit) as device:
            assert device.trip.state == "tripped"
            assert not board.is_on
            with pytest.raises(StateError):
                await device.confirm_adopted()
            await fallen(board)
            board.highest_v = 0.0

    asyncio.run(session())


@contextlib.asynccontextmanager
async def counter(board: Sr620Board, **changed: Any) -> AsyncIterator[Sr620]:
    with served(board) as address:
        given = {"name": "skew", "address": address, "serial": "05203", "reply_timeout_s": 0.3}
        device = Sr620(Sr620Settings(**{**given, "seconds_per_sample": 1e-4, **changed}))
        try:
            await device.connect()
            yield device
        finally:
            await device.aclose()


def test_skew_with_its_uncertainty_and_a_missing_reference() -> None:
    clocks = ClockPair(skew_ps=1234.0, jitter_ps=10.0)
    board = Sr620Board(clocks)

    async def session() -> None:
        async with counter(board) as device:
            await device.stage()
            assert board.values["SIZE"] == 1000
            readings = await device.poll()
            skew, sigma = of(readings, "clock_skew"), of(readings, "clock_skew_uncertainty")
            assert sigma.value == pytest.approx(27.0 / 1000**0.5, rel=0.15)
            assert skew.value == pytest.approx(1234.0, abs=5 * (sigma.value or 0.0))
            assert of(readings, "clock_jitter").value == pytest.approx(27.0, rel=0.15)
            assert of(readings, "clock_reference").value == 1.0
            board.reference_lost = True
            readings = await device.poll()
            assert of(readings, "clock_reference").reason == "no 10 MHz reference"
            assert of(readings, "clock_skew").quality is Quality.UNCERTAIN
            board.reference_lost = False
            clocks.is_there = (True, False)
            readings = await device.poll()
            assert of(readings, "clock_skew").value is None
            assert of(readings, "clock_skew").reason == "no edges at A or B"
            clocks.is_there = (True, True)
            board.values["CLCK"] = 0.0
            assert of(await device.poll(), "clock_reference").quality is Quality.BAD
            board.values["MODE"] = 3.0
            with pytest.raises(VerifyError, match="frequency"):
                await device.poll()

    asyncio.run(session())


def test_another_counter_is_refused() -> None:
    async def session() -> None:
        with pytest.raises(WrongIdentityError):
            async with counter(Sr620Board(ClockPair(), serial="11111")):
                pass

    asyncio.run(session())
