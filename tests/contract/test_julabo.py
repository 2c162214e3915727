"""The circulator's driver against the simulated one over a socket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.served_instruments import of, served

from petqc_drivers.device import Quality
from petqc_drivers.errors import DeviceFaultError, LimitError, StateError, VerifyError, WrongIdentityError
from petqc_drivers.julabo import wire
from petqc_drivers.julabo.circulator import JulaboCirculator, JulaboSettings
from petqc_simulators.boards.julabo import JulaboBoard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated one needs no quarter of a second after a command."""
    monkeypatch.setattr(wire, "AFTER_OUT_S", 0.01)


@contextlib.asynccontextmanager
async def connected(board: JulaboBoard, *, speed: float = 1.0, **changed: Any) -> AsyncIterator[JulaboCirculator]:
    with served(board, speed=speed) as address:
        settings = {"name": "chiller", "address": address, "model": "FL", "reply_timeout_s": 0.5, **changed}
        device = JulaboCirculator(JulaboSettings(**settings))
        try:
            await device.connect()
            yield device
        finally:
            await device.aclose()


def test_a_session() -> None:
    board = JulaboBoard(bath_degc=22.0)
    board.interleaves = True

    async def session() -> None:
        async with connected(board, speed=3000.0, tells_unit=True) as device:
            assert device.identity is not None
            assert device.identity.firmware == "4.0"
            assert board.told == []  # connecting changed nothing
            await device.set_temperature(18.25)
            await device.start()
            await device.set_warnings(5.0, 45.0)
            await device.set_control(xp=1.2, tn_s=90, tv_s=20)
            assert board.told == [
                ("out_sp_00", 18.25),
                ("out_mode_05", 1.0),
                ("out_sp_04", 5.0),
                ("out_sp_03", 45.0),
                ("out_par_06", 1.2),
                ("out_par_07", 90.0),
                ("out_par_08", 20.0),
            ]
            async with asyncio.timeout(10):
                while abs(board.bath_degc - 18.25) > 0.4:
                    await device.poll()
            readings = await device.poll()
            assert of(readings, "temperature_coolant").value == pytest.approx(18.25, abs=0.5)
            assert of(readings, "temperature_coolant_set").value == 18.25
            assert not of(readings, "temperature_coolant_set").measured
            assert of(readings, "temperature_coolant_external").quality is Quality.ABSENT
            assert of(readings, "coolant_running").value == 1.0
            assert of(readings, "coolant_status").value == 3.0
            await device.use_set_point(2)
            assert board.set_degc == 20.0
            await device.stop()
            assert not board.is_running

    asyncio.run(session())


def test_refused_not_clamped() -> None:
    board = JulaboBoard()

    async def session() -> None:
        async with connected(board, lowest_degc=10.0, highest_degc=25.0) as device:
            for bad in (9.99, 25.01, float("nan"), float("inf")):
                with pytest.raises(LimitError):
                    await device.set_temperature(bad)
            with pytest.raises(LimitError):
                await device.set_warnings(30.0, 20.0)
            board.values["in_sp_00"] = 60.0
            with pytest.raises(LimitError, match="starting at 60"):
                await device.start()
            assert board.told == []

    asyncio.run(session())


def test_what_it_refuses_or_does_not_do_is_told() -> None:
    board = JulaboBoard()

    async def session() -> None:
        async with connected(board, lowest_degc=-40.0) as device:
            with pytest.raises(StateError, match="-10 VALUE TOO SMALL"):
                await device.set_temperature(-30.0)
            board.is_remote = False
            with pytest.raises(StateError, match="not in remote mode"):
                await device.set_temperature(18.0)
            board.is_remote = True
            board.values = _Stubborn(board.values)
            with pytest.raises(VerifyError, match=r"20\.0 came back"):
                await device.set_temperature(18.0)

    asyncio.run(session())


class _Stubborn(dict[str, float]):
    """Set values that do not change."""

    def __setitem__(self, key: str, value: float) -> None:
        """Keep what was there."""


def test_an_alarm_makes_its_temperature_doubtful() -> None:
    board = JulaboBoard(bath_degc=18.0)
    board.values["in_mode_05"] = 1.0

    async def session() -> None:
        async with connected(board, speed=100.0) as device:
            assert of(await device.poll(), "temperature_coolant").quality is Quality.GOOD
            board.alarm = -1
            readings = await device.poll()
            assert of(readings, "coolant_status").quality is Quality.BAD
            assert of(readings, "temperature_coolant").quality is Quality.UNCERTAIN
            assert of(readings, "temperature_coolant").reason == "-01 LOW LEVEL ALARM"
            assert of(await device.poll(), "coolant_running").value == 0.0

    asyncio.run(session())


def test_another_circulator_or_another_unit_is_refused() -> None:
    async def session() -> None:
        with pytest.raises(WrongIdentityError, match="is no F38"):
            async with connected(JulaboBoard(), model="F38"):
                pass
        fahrenheit = JulaboBoard()
        fahrenheit.values["in_sp_06"] = 1.0
        with pytest.raises(DeviceFaultError, match="Fahrenheit"):
            async with connected(fahrenheit, tells_unit=True):
                pass

    asyncio.run(session())
