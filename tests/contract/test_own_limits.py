"""Whether the limits that a bias source has itself are those that petqc may rely on: asked, not assumed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.contract.every_instrument import CASES
from tests.contract.served_instruments import of, served

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.caen_a7585d import Register
from petqc_drivers.device import Quality
from petqc_drivers.hamamatsu_c11204.wire import Function
from petqc_drivers.limits import Volts


def _wider(board: Any) -> None:
    board.values[Register.MOST_MA] = 10.0


def _restoring(board: Any) -> None:
    board.functions |= Function.AUTO_RESTORE


def _more_current(board: Any) -> None:
    board.limit_a = 1e-3


def _right_a7585d(board: Any) -> None:
    board.values |= {Register.MOST_V: 57.0, Register.MOST_MA: 1.0}


def _right_keithley(board: Any) -> None:
    board.limit_a = 1e-5


def _as_it_is(board: Any) -> None:
    del board


@pytest.mark.parametrize(
    ("name", "right", "wrong", "said"),
    [
        ("caen-a7585d", _right_a7585d, _wider, "its own limit is 10 mA"),
        ("hamamatsu-c11204", _as_it_is, _restoring, "restore its output by itself"),
        ("keithley-smu", _right_keithley, _more_current, "its own current limit is 0.001 A"),
    ],
)
def test_its_own_limits_are_read(name: str, right: Any, wrong: Any, said: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    board = case.board()
    right(board)

    async def session(address: str) -> None:
        device = case.device(address)
        assert isinstance(device, BiasSource)
        try:
            await device.connect()
            assert device.limits_checked_s is None
            await device.check_own_limits()
            assert device.limits_checked_s is not None
            assert device.limits_wrong is None
            wrong(board)
            await device.check_own_limits()
            assert said in str(device.limits_wrong)
        finally:
            await device.aclose()

    with served(board) as address:
        asyncio.run(session(address))


@pytest.mark.parametrize("name", ["caen-a7585d", "hamamatsu-c11204"])
def test_a_voltage_on_what_says_that_it_is_off_is_not_believed_to_be_nothing(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    board = case.board()

    async def session(address: str) -> None:
        device = case.device(address)
        assert isinstance(device, BiasSource)
        try:
            await device.connect()
            await device.off()
            await asyncio.sleep(0.5)  # its output falls
            assert of(await device.poll(), "bias_voltage").quality is Quality.GOOD
            board.reads_above = 54.0
            volts = of(await device.poll(), "bias_voltage")
            assert (volts.quality, volts.value) == (Quality.UNCERTAIN, pytest.approx(54.0, abs=0.1))
            assert "treat it as live" in str(volts.reason)
        finally:
            await device.aclose()

    with served(board) as address:
        asyncio.run(session(address))


def test_a_measured_current_trips_although_the_supplys_own_limit_is_gone() -> None:
    (case,) = [case for case in CASES if case.name == "caen-a7585d"]
    board = case.board()
    drawn_ma = [0.4]
    board.load_ma = lambda _volts: drawn_ma[0]

    async def session(address: str) -> None:
        device = case.device(address)
        assert isinstance(device, BiasSource)
        try:
            await device.connect()
            await device.off()
            await device.on(Volts(50.0))
            _wider(board)
            drawn_ma[0] = 3.0
            await device.poll()
            assert [one.cause for one in device.trip.causes] == ["measured 3.000 mA, allowed are 1 mA"]
            assert not board.is_on
        finally:
            await device.aclose()

    with served(board) as address:
        asyncio.run(session(address))
