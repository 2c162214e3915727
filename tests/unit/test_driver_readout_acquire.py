"""A readout against a scripted board: readings, acquisitions, and the states of its life."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import numpy as np
import pytest
from tests.unit.scripted_board import (
    bench,
    run,
    staged,
)

from petqc_drivers.device import DeviceState, OutputState, Quality
from petqc_drivers.errors import (
    DriverError,
    LinkLostError,
    LocalProtocolError,
    StateError,
)
from petqc_drivers.petsys import frames
from petqc_drivers.petsys.settings import AsicSettings, PetsysUdpSettings
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqc_drivers.registry import KINDS, device_kind


def test_temperatures_and_counters():
    async def main():
        async with staged() as (board, readout):
            readings = await readout.read_temperatures()
            assert {(r.name, r.node) for r in readings} == {
                (f"temperature_{place}", f"asic:0.0.{i}") for place in ("asic", "sipm") for i in range(4)
            }
            asic = next(r for r in readings if r.name == "temperature_asic")
            # 0x900 is 1406.25 mV, 371 mV less than at 30 degC, at 10.9 mV per kelvin there and a little more above
            assert asic.value == pytest.approx(63.5, abs=1.0)
            assert asic.measured
            assert asic.quality is Quality.GOOD
            for code, words in ((0, "open or shorted"), (0xFFF, "open or shorted"), (0x020, "outside")):
                board.adc_code = code
                bad = await readout.read_temperatures()
                assert all(r.value is None and r.quality is Quality.BAD and words in r.reason for r in bad)
            board.put(0x338, 17, 4)
            board.put(0x328, 4, 4)
            counters = {(r.name, r.node): r.value for r in await readout.read_counters()}
            assert counters["asic_word_errors", "asic:0.0.0"] == 17
            assert counters["asic_code_errors", "lane:0.0.0.0"] == 4
            assert [(r.node, r.value) for r in await readout.read_supplies()] == [
                ("supply:0.0.lower", 1.0),
                ("supply:0.0.upper", 1.0),
            ]

    run(main)


def test_modules_of_the_older_kind_are_found_and_the_others_left_as_they_are():
    async def main():
        async with bench(n_chips=2) as (board, readout):
            board.put(0x0008, 0x0001_0011_0000_0000, 8)
            board.put(0x02B8, 0b0100_0000, 1)
            board.legacy_module = 3
            await readout.connect()
            assert (await readout.configure(AsicSettings())).chips == [(0, 0, 0), (0, 0, 1)]
            assert board.memory[0x2B8] == 0b0100_1000

    run(main)


def test_temperatures_of_a_module_that_does_not_answer_have_no_value():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.n_chips = 0
            readings = await readout.read_temperatures()
            assert len(readings) == 8 * 8
            assert all(r.value is None and r.reason == "the module's ADC does not answer" for r in readings)

    run(main)


def test_an_acquisition_from_start_to_stop():
    async def main():
        async with staged(streaming=True) as (board, readout):
            blocks: list[np.ndarray] = []
            await readout.start(blocks.append)
            assert readout.state is DeviceState.RUNNING
            with pytest.raises(StateError, match="running"):
                await readout.start(blocks.append)
            while board.next_frame < 150_000 or len(blocks) < 5:
                assert await readout.read_time_tag() > 0
                await asyncio.sleep(0.01)
            account = await readout.stop()
            assert readout.state is DeviceState.STAGED
            assert await readout.stop() is account
            assert await readout.account() is account
            assert account.failure is None
            words = np.concatenate(blocks)
            scan = frames.scan_frames(words)
            ids = frames.frame_ids(words, scan.starts)
            assert (
                len(ids) == account.frames_delivered == account.frames_received - sum(account.frames_rejected.values())
            )
            assert ids[0] == account.first_frame
            assert ids[-1] == account.last_frame
            assert account.last_frame - account.first_frame + 1 == account.frames_delivered + account.frames_missing
            assert await readout.wait_failed(0.01) is None
            blocks.clear()
            await readout.start(blocks.append)
            assert (await readout.stop()).first_frame > account.last_frame

    run(main)


def test_a_board_that_falls_silent_ends_the_acquisition_in_the_time_given():
    async def main():
        async with staged(streaming=True, no_data_timeout_s=1.0) as (board, readout):
            await readout.start(lambda _: None)
            board.streams = False
            began_s = time.monotonic()
            with pytest.raises(LinkLostError, match=r"no frame for 1\.\d s; last good answer .* last frame"):
                await readout.wait_failed(10)
            assert time.monotonic() - began_s > 0.9
            assert readout.state is DeviceState.FAULTED
            account = await readout.stop()
            assert isinstance(account.failure, LinkLostError)
            assert account.frames_delivered > 0
            assert (await readout.bias_off()).state is OutputState.OFF
            board.streams = True
            await readout.connect()
            await readout.configure(AsicSettings())
            await readout.start(lambda _: None)
            assert (await readout.stop()).failure is None

    run(main)


def test_a_board_that_never_streams_does_not_start():
    async def main():
        async with staged(no_data_timeout_s=0.2) as (_, readout):
            with pytest.raises(LinkLostError, match="no frame for"):
                await readout.start(lambda _: None)
            assert readout.state is DeviceState.FAULTED

    run(main)


def test_a_start_that_is_cancelled_leaves_nothing_running():
    async def main():
        async with staged(streaming=True) as (board, readout):
            board.streams = False
            task = asyncio.create_task(readout.start(lambda _: None))
            while readout.state is not DeviceState.RUNNING:  # noqa: ASYNC110 - the driver tells nobody at this point
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            board.streams = True
            await readout.start(lambda _: None)
            assert (await readout.stop()).failure is None

    run(main)


def test_a_consumer_that_fails_ends_the_acquisition_with_the_reason():
    async def main():
        async with staged(streaming=True) as (_, readout):

            def sink(_: np.ndarray) -> None:
                raise OSError("disk full")

            await readout.start(sink)
            with pytest.raises(DriverError, match="disk full"):
                await readout.wait_failed(10)
            account = await readout.stop()
            assert "disk full" in str(account.failure)
            assert account.frames_rejected["sink-failed"] > 0

    run(main)


@pytest.mark.parametrize("after", range(0, 700, 99))
def test_configuring_that_is_cancelled_leaves_the_link_in_order(after):
    async def main():
        async with bench(n_chips=1) as (board, readout):
            await readout.connect()
            count = itertools.count()
            task: asyncio.Task[Any] | None = None

            def silent(_: bytes) -> bool:
                if next(count) == after and task is not None:
                    task.cancel()
                return False

            board.silent = silent
            task = asyncio.create_task(readout.configure(AsicSettings()))
            result = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result[0], asyncio.CancelledError):
                assert readout.configured is None
            board.silent = lambda _: False
            assert (await readout.configure(AsicSettings())).chips
            assert readout.link_account.replies_late <= 1

    run(main)


def test_states_are_kept():
    async def main():
        async with bench() as (_, readout):
            for call in (
                lambda: readout.configure(AsicSettings()),
                lambda: readout.start(lambda _: None),
                lambda: readout.bias_on({}),
                readout.read_temperatures,
                readout.read_counters,
                readout.read_time_tag,
                readout.stop,
                readout.account,
            ):
                with pytest.raises(StateError):
                    await call()

    run(main)


def test_the_registry_finds_the_driver_and_says_what_it_can():
    kind = device_kind("petsys-udp")
    assert kind.load() == (PetsysUdpSettings, PetsysUdpReadout)
    assert kind.readback == "commanded"
    assert all(k.load() for k in KINDS.values())
    with pytest.raises(LocalProtocolError, match="petsys-udp"):
        device_kind("toaster")
