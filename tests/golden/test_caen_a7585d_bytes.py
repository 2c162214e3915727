"""Lines of the A7585D against literal text, its guard, and a session with the simulated one."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest
from tests.contract.served_instruments import served

from petqc_drivers import caen_a7585d as a7585d
from petqc_drivers.caen_a7585d import CaenA7585d, CaenA7585dSettings, Register
from petqc_drivers.device import OutputState
from petqc_drivers.errors import LimitError, RemoteProtocolError
from petqc_drivers.limits import HardLimit, Volts
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.witness import judge

GOLDEN = tomllib.loads(Path(__file__).with_name("caen_a7585d.toml").read_text("utf-8"))
LIMIT = HardLimit(channel="hv", v_min=Volts(21.0), v_max=Volts(57.0), max_step_v=8.0, slew_v_per_s=400.0)


def test_lines() -> None:
    for entry in GOLDEN["get"]:
        assert a7585d.get(Register(entry["register"])) == entry["text"].encode()
    for entry in GOLDEN["set"]:
        raw = entry["text"].encode()
        assert a7585d.put(Register(entry["register"]), entry["thousandths"]) == raw
        assert a7585d.parse_put(raw, Register(entry["register"])) == entry["thousandths"]
        assert CaenA7585dBoard().receive(raw) == b"OK\r\n"
    for entry in GOLDEN["reply"]:
        assert a7585d.number(entry["text"].encode()) == entry["value"]
    for nonsense in (b"OK\r\n", b"OK=nan\r\n", b"OK=1e999\r\n", b"OK=1,5\r\n", b"ERROR\r\n"):
        with pytest.raises(RemoteProtocolError):
            a7585d.number(nonsense)


def test_every_millivolt_against_a_limit() -> None:
    for code in range(86_000):
        is_inside = 21_000 <= code <= 57_000
        try:
            (payload,) = a7585d.set_voltage(Volts(code / 1000), LIMIT, channel="hv").payloads
        except LimitError:
            assert not is_inside, code
        else:
            assert is_inside, code
            assert a7585d.parse_put(payload, Register.VOLTAGE) == code


def test_a_session() -> None:
    board = CaenA7585dBoard()

    async def session() -> None:
        with served(board) as address:
            device = CaenA7585d(CaenA7585dSettings(name="hv", address=address, serial=10234, limit=LIMIT))
            await device.connect()
            await device.on(Volts(54.0))
            assert board.output_v == pytest.approx(54.0, abs=0.001)
            assert board.values[Register.MOST_V] == 57.0
            with pytest.raises(LimitError):
                await device.ramp(Volts(57.001))
            board.load_ma = lambda volts: volts / 10.0  # 5 mA: the supply's own limit is 1 mA
            async with asyncio.timeout(5):
                while device.trip.state == "armed":
                    await device.poll()
            assert device.output is OutputState.OFF
            assert not board.is_on
            await device.aclose()

    asyncio.run(session())
    assert judge(board.witness.lines, highest_v=57.0, lowest_code=20_000, largest_step_v=8.0) == []
