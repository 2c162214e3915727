"""A readout against a scripted board: bias off, whatever happened before and whatever fails on the way."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from tests.unit.scripted_board import (
    SHORT,
    bench,
    bias_settings,
    is_off,
    outputs,
    run,
    staged,
)

from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import (
    OffUnconfirmedError,
    OvertakenError,
    ReplyTimeoutError,
    VerifyError,
)
from petqc_drivers.limits import Volts


def test_off_removes_the_voltage_with_its_first_message():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.log.clear()
            report = await readout.bias_off()
            assert board.log[0] == ("power", 1, 0)
            assert report.state is OutputState.OFF
            assert report.set_points_lowered == 32
            assert not report.failures
            assert is_off(board)
            assert {entry[2] for entry in board.log[1:]} == {0x0445}
            again = await readout.bias_off()
            assert again.state is OutputState.OFF

    run(main)


@pytest.mark.parametrize("is_connected", [False, True])
def test_off_works_before_anything_else(is_connected):
    async def main():
        async with bench() as (board, readout):
            board.put(0x213, 3, 1)
            if is_connected:
                await readout.connect()
            report = await readout.bias_off()
            assert report.state is OutputState.OFF
            assert board.log[0][0] == "power"
            assert is_off(board)

    run(main)


def test_off_with_a_board_that_ignores_everything_but_the_removal():
    """Half-broken: neither reads nor DACs answer."""

    async def main():
        async with staged(**SHORT) as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.silent = lambda c: not (c[16] == 0 and c[17] == 1)
            began_s = time.monotonic()
            report = await readout.bias_off()
            assert report.state is OutputState.OFF_COMMANDED
            assert readout.bias_state is OutputState.OFF_COMMANDED
            assert time.monotonic() - began_s < 2.5
            assert report.set_points_lowered == 0
            assert any("no reply to set bias:0.0.0.0" in failure for failure in report.failures)
            assert is_off(board)

    run(main)


def test_off_goes_on_to_the_set_points_when_the_removal_is_not_answered():
    async def main():
        async with staged(**SHORT) as (board, readout):
            await readout.bias_on({channel: Volts(30) for channel in outputs()})
            board.silent = lambda c: c[16] == 0
            with pytest.raises(OffUnconfirmedError, match="treat the outputs as live"):
                await readout.bias_off()
            assert readout.bias_state is OutputState.UNKNOWN
            assert max(board.volts) < 1.01

    run(main)


def test_off_with_a_dead_board_is_unknown_within_the_time_promised():
    async def main():
        async with staged(reply_timeout_s=0.25) as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            board.silent = lambda _: True
            began_s = time.monotonic()
            with pytest.raises(OffUnconfirmedError) as caught:
                await readout.bias_off()
            assert time.monotonic() - began_s < 2.5
            assert readout.bias_state is OutputState.UNKNOWN
            assert "power" in str(caught.value)
            board.silent = lambda _: False
            assert (await readout.bias_off()).state is OutputState.OFF

    run(main)


def test_off_that_the_board_denies_is_not_called_off():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            board.damage = lambda c, r: r[:19] + b"\x03" + r[20:] if c[17:22] == b"\x00\x00\x00\x13\x02" else r
            with pytest.raises(OffUnconfirmedError, match="still on"):
                await readout.bias_off()

    run(main)


def test_off_gets_through_after_lost_messages():
    async def main():
        async with staged(**SHORT, tries=5) as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            lost = itertools.count()
            board.silent = lambda c: c[16] == 0 and c[17] == 1 and next(lost) < 3
            report = await readout.bias_off()
            assert report.state is OutputState.OFF
            assert report.attempts == 2
            assert is_off(board)

    run(main)


def test_a_ramp_that_fails_ends_off():
    async def main():
        async with staged(**SHORT) as (board, readout):
            dacs = itertools.count()
            board.silent = lambda c: c[16] == 2 and next(dacs) > 200 and not is_off(board)
            with pytest.raises(ReplyTimeoutError):
                await readout.bias_on({channel: Volts(30) for channel in outputs()})
            assert readout.bias_state is OutputState.OFF
            assert is_off(board)

    run(main)


def test_a_dac_that_shows_another_code_ends_off():
    async def main():
        async with staged() as (board, readout):
            board.damage = lambda c, r: r[:19] + b"\x00\x00\x00\x00" if c[16] == 2 and board.memory[0x213] & 2 else r
            with pytest.raises(VerifyError, match="the DAC shows 0x000000"):
                await readout.bias_on({outputs()[3]: Volts(30)})
            assert is_off(board)
            assert readout.bias_state is OutputState.OFF

    run(main)


@pytest.mark.parametrize("after", [1, 40, 63, 66, 100, 150, 220])
def test_a_ramp_that_is_cancelled_ends_off(after):
    async def main():
        async with staged() as (board, readout):
            ramp: asyncio.Task[None] | None = None
            count = itertools.count()

            def silent(_: bytes) -> bool:
                if next(count) == after and ramp is not None:
                    ramp.cancel()
                return False

            board.silent = silent
            ramp = asyncio.create_task(readout.bias_on({channel: Volts(30) for channel in outputs()}))
            with pytest.raises(asyncio.CancelledError):
                await ramp
            assert is_off(board)
            assert readout.bias_state is OutputState.OFF
            assert await readout.read_time_tag() > 0

    run(main)


def test_off_overtakes_a_ramp_and_nothing_follows():
    async def main():
        async with staged(bias=bias_settings(max_step_v=1.0, slew_v_per_s=20.0)) as (board, readout):
            half_way = asyncio.Event()

            def silent(_: bytes) -> bool:
                if max(board.volts) > 4.0:
                    half_way.set()
                return False

            board.silent = silent
            ramp = asyncio.create_task(readout.bias_on({channel: Volts(30) for channel in outputs()}))
            await half_way.wait()
            report = await readout.bias_off()
            with pytest.raises(OvertakenError):
                await ramp
            assert report.state is OutputState.OFF
            assert is_off(board)
            highest = max(code for kind, _, code in board.log if kind == "dac")
            assert highest * 60 / 65536 < 8.0
            assert board.dacs == [[0x0445] * 16] * 2

    run(main)


def test_closing_switches_off_what_this_driver_switched_on():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            await readout.aclose()
            assert is_off(board)
            assert readout.state is DeviceState.DISCONNECTED
            await readout.aclose()
        async with staged(on_close="hold") as (board, readout):
            await readout.bias_on({outputs()[0]: Volts(30)})
            await readout.aclose()
            assert board.volts[0] == pytest.approx(30, abs=1e-3)

    run(main)
