"""Our driver of the timing board against its simulated wire side, over real sockets, beside a simulated detector."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc_drivers.caen_a5203.board import CaenA5203, CaenA5203Settings
from petqc_drivers.caen_a5203.control import Control
from petqc_drivers.caen_a5203.events import ListEvents
from petqc_drivers.caen_a5203.intervals import Intervals
from petqc_drivers.caen_a5203.registers import Register
from petqc_drivers.device import DeviceState, Quality
from petqc_drivers.errors import (
    ConnectError,
    DeviceFaultError,
    LinkLostError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)
from petqc_simulators.boards.caen_a5203 import CaenA5203Board
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.fast_outputs import FastOutputs
from petqc_simulators.profile import load_profile
from petqc_simulators.timing_board_server import TimingBoardServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERIAL = 52_030_001


@pytest.fixture(scope="module")
def detector() -> Detector:
    found = Detector(load_profile("bench"), 3)
    found.settle()
    return found


@contextlib.asynccontextmanager
async def served(detector: Detector | None, *, channels: int = 64) -> AsyncIterator[TimingBoardServer]:
    """A board whose inputs 3 and 40 are the two modules' fast outputs; the second cable is 500 ps longer."""
    looked_at = detector or Detector(load_profile("bench"), 3)
    outputs = FastOutputs(looked_at, {0: 3, 1: 40}, delay_ps={40: 500.0})
    board = CaenA5203Board(SERIAL, channels)
    async with TimingBoardServer(board, outputs, detector).serving("127.0.0.1") as server:
        yield server


def client(server: TimingBoardServer, **more: object) -> CaenA5203:
    settings = {"name": "timing", "host": "127.0.0.1", "serial": SERIAL, "inputs": (3, 40), **more}
    return CaenA5203(
        CaenA5203Settings(control_port=server.control_port, data_port=server.data_port, **settings)  # type: ignore[arg-type]
    )


def test_it_times_the_coincidences_of_the_photons_that_the_readout_sees(detector: Detector) -> None:
    async def work() -> None:
        async with served(detector) as server:
            device = client(server)
            identity = await device.connect()
            assert (identity.model, identity.serial, identity.firmware) == ("A5203", str(SERIAL), "1.6")
            assert device.card is not None
            assert (device.card.serial, device.card.code, device.card.channels) == (SERIAL, 5203, 64)
            assert device.firmware == (1, 6)
            await device.configure()
            assert device.state is DeviceState.STAGED
            found = Intervals([(3, 40)], 10_000.0)
            hits: set[int] = set()

            def sink(event: ListEvents) -> None:
                hits.update(event.channel.tolist())
                found(event)

            await device.start(sink)
            async with asyncio.timeout(60.0):
                while device.account.windows < 2000 or device.account.service < 2:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.05)
            readings = {r.name: r for r in await device.poll()}
            await device.stop()
            account = device.account
            await device.close()
        assert hits == {3, 40}
        assert readings["clock_locked"].value == 1.0
        assert readings["clock_locked"].quality is Quality.GOOD
        assert readings["temperature_board"].value == pytest.approx(37.0, abs=0.3)
        assert readings["temperature_fpga"].value == pytest.approx(53.0, abs=0.3)
        assert readings["triggers"].value > 1000
        assert account.windows > 1000
        assert account.service >= 2
        assert (account.bytes_skipped, account.events_damaged, account.refused) == (0, 0, 0)
        (pair,) = found.found()
        assert pair.n > 300
        assert pair.error_ps is not None
        assert pair.mean_ps is not None
        assert pair.sigma_ps is not None
        # The source is in the middle: what is left is the longer cable, and the scatter of the photons' times.
        assert abs(pair.mean_ps + 500.0) < 5.0 * pair.error_ps + 25.0
        assert 50.0 < pair.sigma_ps < 130.0

    asyncio.run(work())


def test_another_board_or_one_that_is_not_there_is_told_by_name() -> None:
    async def work() -> None:
        async with served(None) as server:
            with pytest.raises(WrongIdentityError, match=r"timing: has the serial number 52030001, not 7 "):
                await client(server, serial=7).connect()
            with pytest.raises(WrongIdentityError, match=r"has 64 channels, and inputs \[70\] are asked for"):
                await client(server, inputs=(3, 70)).connect()
            with pytest.raises(StateError, match="cannot configure while disconnected"):
                await client(server).configure()
        with pytest.raises(ConnectError, match="cannot be reached"):
            await client(server).connect()

    asyncio.run(work())


def test_a_lost_reference_clock_is_told_and_its_readings_are_bad() -> None:
    async def work() -> None:
        async with served(None) as server:
            device = client(server, external_clock=True)
            await device.connect()
            await device.configure()
            server.board.environment.reference_lost = True
            readings = {r.name: r for r in await device.poll()}
            assert readings["clock_locked"].value == 0.0
            assert readings["clock_locked"].quality is Quality.BAD
            assert readings["clock_locked"].reason == "the reference clock is not locked"
            with pytest.raises(DeviceFaultError, match="the reference clock is not locked"):
                await device.configure()
            await device.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("ambient_degc", "hot"),
    [
        (53.0, ["the FPGA is too hot"]),
        (62.5, ["the FPGA is too hot", "TDC 1 is too hot"]),
        (69.0, ["the FPGA is too hot", "TDC 0 is too hot", "TDC 1 is too hot", "the board is too hot"]),
    ],
)
def test_what_is_too_hot_is_told_and_its_readings_are_bad(ambient_degc: float, hot: list[str]) -> None:
    async def work() -> None:
        async with served(None, channels=128) as server:
            device = client(server)
            await device.connect()
            await device.configure()
            server.board.environment.ambient_degc = ambient_degc
            readings = {(r.name, r.node): r for r in await device.poll()}
            faults = readings["status_faults", "timing"]
            assert faults.quality is Quality.BAD
            assert faults.reason == "; ".join(hot)
            assert readings["temperature_tdc", "timing:tdc1"].value == ambient_degc + 18.0
            with pytest.raises(DeviceFaultError, match="the FPGA is too hot"):
                await device.configure()
            await device.close()

    asyncio.run(work())


def test_intervals_of_a_board_that_is_too_hot_are_not_believed_from_the_same_poll_on() -> None:
    async def work() -> None:
        async with served(None) as server:
            device = client(server, modules=("module:0.0.0", "module:0.0.1"))
            await device.connect()
            await device.stage()
            await device.poll()
            server.board.environment.ambient_degc = 55.0
            readings = {r.name: r for r in await device.poll()}
            await device.close()
        assert readings["clock_locked"].value == 1.0
        pairs = readings["time_interval_pairs"]
        assert (pairs.quality, pairs.reason) == (Quality.BAD, "the FPGA is too hot")

    asyncio.run(work())


def test_a_board_of_128_channels_has_both_tdcs_set_up(detector: Detector) -> None:
    async def work() -> None:
        async with served(None, channels=128) as server:
            outputs = FastOutputs(detector, {0: 3, 1: 100})
            server._outputs = outputs
            device = client(server, inputs=(3, 100))
            await device.connect()
            await device.configure()
            seen: set[int] = set()
            await device.start(lambda event: seen.update(event.channel.tolist()))
            for _ in range(40):
                detector.advance()
                server.block(0.00524288)
                await asyncio.sleep(0)
            await device.stop()
            await device.close()
            assert seen == {3, 100}

    asyncio.run(work())


def test_a_board_that_falls_silent_is_lost_by_name_and_stop_still_ends() -> None:
    async def work() -> None:
        async with served(None) as server:
            device = client(server, silence_s=1.1)
            await device.connect()
            await device.configure()
            await device.start(lambda _: None)
            await asyncio.sleep(1.2)
            with pytest.raises(LinkLostError, match=r"running, and no service event for 1\.\d s"):
                await device.poll()
            assert device.state is DeviceState.FAULTED
            await device.close()
            assert device.state is DeviceState.DISCONNECTED

    asyncio.run(work())


@contextlib.asynccontextmanager
async def late() -> AsyncIterator[int]:
    """A board that answers the first question after 0.2 s, with a value that would be believed; its port."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await asyncio.sleep(0.2)
        with contextlib.suppress(OSError):
            writer.write(b"\x11\x00\x00\x00")
            writer.close()
            await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    await done.wait()
    server.close()
    await server.wait_closed()


def test_a_late_answer_never_answers_the_next_question() -> None:
    async def work() -> None:
        async with late() as port:
            control = await Control.open("timing", "127.0.0.1", port, 0.05)
            told = r"reading STATUS: no answer within 0\.05 s; last good answer never"
            with pytest.raises(ReplyTimeoutError, match=told):
                await control.read(Register.STATUS)
            await asyncio.sleep(0.3)
            with pytest.raises(LinkLostError, match="the connection is closed"):
                await control.read(Register.STATUS)
            await control.close()

    asyncio.run(work())


def test_a_question_that_is_cancelled_closes_the_connection() -> None:
    async def work() -> None:
        async with late() as port:
            control = await Control.open("timing", "127.0.0.1", port, 5.0)
            question = asyncio.create_task(control.read(Register.STATUS))
            await asyncio.sleep(0.02)
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question
            assert not control.is_open
            await control.close()

    asyncio.run(work())


def test_a_consumer_that_fails_is_counted_and_the_stream_goes_on(detector: Detector) -> None:
    def bad(_: ListEvents) -> None:
        raise ValueError("of the consumer")

    async def work() -> None:
        async with served(None) as server:
            server._outputs = FastOutputs(detector, {0: 3, 1: 40})
            device = client(server)
            await device.connect()
            await device.configure()
            await device.start(bad)
            for _ in range(20):
                detector.advance()
                server.block(0.00524288)
                await asyncio.sleep(0)
            await device.stop()
            account = device.account
            await device.close()
            assert account.refused == account.windows > 10

    asyncio.run(work())


def test_intervals_of_inputs_without_coincidences_have_no_number() -> None:
    found = Intervals([(0, 1)], 5_000.0)
    rng = np.random.default_rng(2)
    n = np.arange(200)
    toa = rng.integers(0, 6_000_000, 400)
    found(ListEvents(n, n * 1562, 2 * np.arange(201), np.tile([0, 1], 200), toa, np.ones(400, bool)))
    (pair,) = found.found()
    assert (pair.mean_ps, pair.sigma_ps, pair.error_ps) == (None, None, None)
