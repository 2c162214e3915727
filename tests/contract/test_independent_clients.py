"""Other people's programs, unmodified, with our simulated instruments on a pseudo-terminal or a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.client_environment import run_client
from tests.contract.served_instruments import served

from petqc_drivers.hamamatsu_c11204 import wire
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.keithley_smu import KeithleySmu
from petqc_simulators.boards.sr620 import ClockPair, Sr620
from petqc_simulators.instruments import JULABO_VERSIONS
from petqc_simulators.physics.leakage import SipmLoad

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

SPEED = 20.0


@pytest.mark.slow
def test_c11204ps(tmp_path: Path) -> None:
    board = HamamatsuC11204Board("C11204-02", load_ma=lambda volts: volts / 100.0)
    with served(board, f"pty:{tmp_path}/hv", speed=SPEED) as address:
        found = run_client("serial", "c11204ps_session.py", address)
    assert found["on"][0] == pytest.approx(54.0, abs=0.01)
    assert found["lower"] == pytest.approx(52.0, abs=0.01)
    assert found["off"] == pytest.approx(0.0, abs=0.01)
    told = [line["volts"] for line in board.witness.lines if line["event"] == "set"]
    assert told == [pytest.approx(54.0, abs=0.002), pytest.approx(52.0, abs=0.002)]
    assert not any(name.startswith("error") for name in board.counters)


def test_hamamatsu_c11204_01(tmp_path: Path) -> None:
    board = HamamatsuC11204Board("C11204-01")
    with served(board, f"pty:{tmp_path}/hv", speed=SPEED) as address:
        found = run_client("serial", "hamamatsu_c11204_01_session.py", address)
    assert found["stored"].startswith("OK")
    assert found["read"] == pytest.approx([0.0, 0.0, 54.0, 54.0, 55.0, 25.0], abs=0.06)
    assert found["set"].startswith("Successfully")
    assert found["too_high"] == "Reference voltage out of operating limits."
    assert (found["on"], found["off"], found["reset"]) == ("", "Power turned off.", "")
    status, setting_v, monitor_v, _, t_degc = found["poll"]
    assert setting_v == pytest.approx(56.0, abs=0.002)
    assert monitor_v == pytest.approx(56.0, abs=0.005)
    assert found["volts"] == pytest.approx(56.0, abs=0.005)
    assert t_degc == pytest.approx(25.0, abs=0.01)
    assert status["mppc_temp_sensor_status_3"] != "Disconnect"
    assert wire.volts(board.stored.voltage) == pytest.approx(55.0, abs=0.002)
    assert not board.is_on


def test_dvg_devices(tmp_path: Path) -> None:
    board = JulaboBoard()
    with served(board, f"pty:{tmp_path}/chiller") as address:
        found = run_client("serial", "dvg_julabo_session.py", address)
    assert found["connected"]
    assert found["began"]
    assert found["set"] == [True, True, True]
    assert found["turned_on"]
    assert found["turned_off"]
    assert ("out_sp_00", 18.5) in board.told
    assert board.told[-2:] == [("out_mode_05", 1.0), ("out_mode_05", 0.0)]
    assert found["state"]["bath_temp"] == pytest.approx(board.bath_degc, abs=0.1)


def test_julabo(tmp_path: Path) -> None:
    board = JulaboBoard(JULABO_VERSIONS["CF31"])
    with served(board, f"pty:{tmp_path}/chiller") as address:
        found = run_client("serial", "julabo_session.py", address)
    assert found["identification"] == board.version
    assert found["status"] == "02 REMOTE STOP"
    assert found["set_point_1"] == 19.25
    assert found["is_started"] is True
    assert found["bath"] == pytest.approx(board.bath_degc, abs=0.1)
    assert found["channel"] == 1
    assert found["status_then"] == "02 REMOTE STOP"


def test_a7585d(tmp_path: Path) -> None:
    board = CaenA7585dBoard(4711)
    with served(board, f"pty:{tmp_path}/hv", speed=SPEED) as address:
        found = run_client("serial", "a7585d_session.py", address)
    assert found == {"on": pytest.approx(54.5, abs=0.01), "serial": 4711.0, "off": pytest.approx(0.0, abs=0.01)}
    assert not board.is_on


def of_source_meter(board: KeithleySmu, script: str, *arguments: str) -> dict[str, Any]:
    """What a program found out that measured the array's current at 30 V and at 55 V, and switched off."""
    with served(board) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        found = run_client("visa", script, f"TCPIP::{host}::{port}::SOCKET", *arguments)
    assert found["set"] == 30.0
    assert 0.0 < found["below"] < 1e-3 * found["above"]
    assert found["above"] == pytest.approx(board.load.current_a(55.0), rel=0.02)
    assert board.told_v == [30.0, 55.0, 0.0]
    assert board.limit_a == pytest.approx(1e-5)
    assert not board.is_on
    assert not board.parser.errors
    return found


@pytest.mark.parametrize("model", ["2450", "2400"])
def test_pymeasure(model: Literal["2450", "2400"]) -> None:
    found = of_source_meter(KeithleySmu(SipmLoad(), model=model), "pymeasure_session.py", model)
    assert f"MODEL {model}" in found["id"]
    assert found["limit"] == pytest.approx(1e-5)
    assert found["errors"] == []


def test_qcodes() -> None:
    found = of_source_meter(KeithleySmu(SipmLoad()), "qcodes_session.py")
    assert found["idn"] == {
        "vendor": "KEITHLEY INSTRUMENTS", "model": "2450", "serial": "04425111", "firmware": "1.7.12b",
    }  # fmt: skip
    assert (found["on"], found["off"]) == (True, False)


def test_sr620py(tmp_path: Path) -> None:
    board = Sr620(ClockPair(skew_ps=1200.0, jitter_ps=8.0))
    with served(board, f"pty:{tmp_path}/counter") as address:
        found = run_client("visa", "sr620py_session.py", address)
    assert (found["was"], found["is"]) == (["time", 1], ["time", 1000.0, "ext"])
    assert found["mean"] == pytest.approx(1200e-12, abs=5e-12)
    assert found["jitter"] == pytest.approx(26e-12, rel=0.2)
    assert board.values["CLCK"] == 1.0
