"""What stands beside a board: the simulated detector has what it gives, and it measures what the detector does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc_drivers.caen_a5203.board import CaenA5203, CaenA5203Settings
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.sr620.counter import Sr620, Sr620Settings
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.boards.witness import judge
from petqc_simulators.faults import Fault
from petqc_simulators.instrument_serving import served_beside
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.controls import nominal_controls
from petqc_simulators.profile import ProfileError, load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPEED = 20.0


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(load_profile("bench-c11204"), seed=5)


def see(scanner: Scanner) -> NDArray[np.float64]:
    """Channel parameters after what the instruments give has reached the detector."""
    scanner.instruments.act_on(scanner.boards)
    board = scanner.boards[0]
    board.hand_over()
    scanner.detector.settle()
    scanner.detector.refresh()
    return scanner.detector.parameters.copy()


def test_bias_makes_gain_rate_and_timing(scanner: Scanner) -> None:
    supplies = scanner.instruments.supplies
    assert len(supplies) == 2
    module = scanner.detector.draw.module_of
    operating_v = float(scanner.detector.draw.breakdown_found_v[0]) + 3.0

    async def session() -> None:
        with served_beside(scanner.instruments.wire_sides(), 0, SPEED) as addresses:
            assert set(addresses) == {"bias-0", "bias-1", "chiller"}
            device = HamamatsuC11204(
                HamamatsuC11204Settings(
                    name="hv",
                    address=addresses["bias-0"],
                    model="C11204-02",
                    serial="SIM00000",
                    limit=HardLimit(
                        channel="hv", v_min=Volts(41.0), v_max=Volts(58.0), max_step_v=4.0, slew_v_per_s=500.0
                    ),
                )
            )
            await device.connect()
            dark = see(scanner)
            assert (dark[:, el.SIGNAL] < 1e-6).all()
            await device.on(Volts(operating_v))
            light = see(scanner)
            assert (light[module == 0, el.SIGNAL] > 0.8).all()
            assert (light[module == 1, el.SIGNAL] < 1e-6).all()  # its own supply is off
            scanner.instruments.act_on(scanner.boards)
            await device.poll()
            current_ma = {r.name: r.value for r in device.readings()}["bias_current"]
            assert 0.01 < current_ma < 0.2
            await device.ramp(Volts(operating_v - 1.0))
            lower = see(scanner)
            mine = module == 0
            assert (lower[mine, el.SIGNAL] < 0.75 * light[mine, el.SIGNAL]).all()
            assert (lower[mine, el.PHOTON_VARIANCE] > 1.2 * light[mine, el.PHOTON_VARIANCE]).all()
            await device.off()
            await device.aclose()

    asyncio.run(session())
    for supply in supplies:
        found = judge(supply.witness.lines, highest_v=58.0, lowest_code=supply.model.lowest_code, largest_step_v=10.0)
        assert found == []


def test_a_chiller_that_fails_warms_the_modules(scanner: Scanner) -> None:
    chiller, detector = scanner.instruments.chiller, scanner.detector
    assert chiller is not None
    before_degc = scanner.instruments.supplies[0].sensor_degc()
    for _ in range(20):
        chiller.let_pass(60.0)
    see(scanner)
    assert detector.coolant_k == pytest.approx(0.0, abs=0.01)
    chiller.alarm = -1
    for _ in range(20):
        chiller.let_pass(60.0)
    see(scanner)
    assert detector.coolant_k > 5.0
    assert chiller.receive(b"status\r") == b"-01 LOW LEVEL ALARM\r\n"
    assert scanner.instruments.supplies[0].sensor_degc() - before_degc == pytest.approx(detector.coolant_k, abs=0.02)
    board = scanner.boards[0]
    degc = scanner.profile.environment.calibration_degc + detector.warmer_k
    assert board.detector is detector
    assert (degc > 27.0).all()


def test_when_cooling_fails_temperature_dark_rate_gain_and_timing_move_together() -> None:
    scanner = Scanner(load_profile("bench-c11204"), seed=5)
    chiller, supply = scanner.instruments.chiller, scanner.instruments.supplies[0]
    assert chiller is not None
    for one in scanner.instruments.supplies:
        one.is_on, one.output_v = True, float(scanner.detector.draw.breakdown_found_v[0]) + 3.0
    chiller.alarm = -1  # low level: pump and control stop
    minutes = []
    for minute in range(41):
        parameters, sipm = see(scanner), scanner.detector.sipm()
        if minute % 10 == 0:
            scanner.instruments.act_on(scanner.boards)
            minutes.append(
                {
                    "bath": chiller.bath_degc - 18.0,
                    "sensor": supply.sensor_degc() - 22.0,
                    "dark": float(np.log2(sipm.dark_hz.mean())),
                    "current": supply.load_ma(supply.output_v),
                    "signal": -float(parameters[:, el.SIGNAL].mean()),
                    "timing": float(parameters[:, el.PHOTON_VARIANCE].mean()),
                }
            )
        chiller.let_pass(60.0)
    for name in minutes[0]:
        values = [one[name] for one in minutes]
        assert values == sorted(values), name
    # The bath drifts towards the room and the load with half an hour, the modules follow it with three minutes.
    first, last = minutes[0], minutes[-1]
    assert last["bath"] == pytest.approx(19.0 * -np.expm1(-40.0 / 30.0), rel=0.02)
    behind = [one["bath"] - (one["sensor"] - first["sensor"]) for one in minutes[1:]]
    assert behind == pytest.approx([1.9 * float(np.exp(-t / 30.0)) for t in (10, 20, 30, 40)], rel=0.35)
    warmer_k = last["sensor"] - first["sensor"]
    doubling_k = scanner.profile.sipm.dark_doubling_k
    # Less overvoltage takes back a part of what warmth adds.
    assert 0.5 * warmer_k / doubling_k < last["dark"] - first["dark"] < warmer_k / doubling_k
    lost = scanner.profile.sipm.breakdown_v_per_k * warmer_k / scanner.profile.sipm.overvoltage_v
    assert 1.0 - last["signal"] / first["signal"] > lost  # gain, and light detection with it
    assert last["timing"] > 1.1 * first["timing"]
    scanner.close()


def test_served_with_the_board(tmp_path: Path) -> None:
    """Frames follow what the supplies give, also where a board sends them by itself."""
    scanner = Scanner(load_profile("bench-c11204"), seed=5, witness_folder=tmp_path)
    for supply in scanner.instruments.supplies:
        supply.receive(b"\x02HBV797D\x03" + b"D7" + b"\r")
    scanner.boards[0].synchronise(is_in_step=True)
    scanner.boards[0].let_pass(2 * BLOCK_S)
    assert scanner.advance_blocks()
    assert (scanner.detector.bias_v == 0.0).all()
    assert scanner.state()["bias-0"]["is_on"] is False
    scanner.close()
    assert (tmp_path / "bias-supply-1.jsonl").exists()


def test_a_timing_board_and_a_counter_beside_the_readout() -> None:
    """Their drivers find the modules' coincidences and clocks; a clock phase that stepped moves the clocks only."""
    scanner = Scanner(load_profile("bench-timing"), seed=5, faults=[Fault.parse("F14=300")])
    nodes = ("module:0.0.0", "module:0.0.1")

    async def session() -> None:
        with served_beside(scanner.instruments.wire_sides(), 0, 1.0) as addresses:
            assert set(addresses) == {"timing", "timing-data", "clocks"}
            tables = {table["name"]: table for table in scanner.instruments.device_tables(addresses)}
            assert tables["clocks"]["clocks"] == tables["timing"]["modules"] == ["0.0.0", "0.0.1"]
            board = CaenA5203(
                CaenA5203Settings(
                    name="timing",
                    host="127.0.0.1",
                    control_port=tables["timing"]["control_port"],
                    data_port=tables["timing"]["data_port"],
                    serial=tables["timing"]["serial"],
                    inputs=(0, 1),
                    modules=nodes,
                )
            )
            counter = Sr620(
                Sr620Settings(
                    name="clocks", address=addresses["clocks"], serial="05203", clocks=nodes, seconds_per_sample=1e-4
                )
            )
            for device in (board, counter):
                await device.connect()
                await device.stage()
            listed: list[int] = []
            leave = board.listen(lambda events: listed.append(events.channel.size))  # list mode beside the readings
            scanner.detector.set(nominal_controls(scanner.profile, scanner.detector.draw))
            scanner.detector.settle()
            for _ in range(120):
                await asyncio.to_thread(scanner.detector.advance)
            async with asyncio.timeout(20.0):
                while board.account.windows < 3000:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.02)
            assert sum(listed) == board.account.hits
            leave()
            scanner.instruments.act_on(scanner.boards)
            read = {(r.name, r.node): r for r in [*await board.poll(), *await counter.poll()]}
            for device in (board, counter):
                await device.aclose()
        between = " - ".join(nodes)
        assert read["clock_locked", "timing"].value == 1.0
        interval, error = (read[name, between].value for name in ("time_interval", "time_interval_uncertainty"))
        assert interval is not None
        assert abs(interval) < 5.0 * error
        skew = read["clock_skew", " - ".join(reversed(nodes))].value
        assert skew is not None
        assert abs(abs(skew - 1200.0) - 300.0) < 10.0

    asyncio.run(session())
    scanner.close()


def test_profiles_that_cannot_be(tmp_path: Path) -> None:
    for text in (
        'base = "bench-c11204"\n[hardware]\nbias_slots = ["BIAS_32P"]\n',
        'base = "bench-c11204"\n[geometry]\ncrystals_per_bias = 16\n',
        'base = "bench-c11204"\n[environment]\nchiller = "ice"\n',
        'base = "bench-timing"\n[hardware]\ntiming_board = "stopwatch"\n',
    ):
        path = tmp_path / "odd.toml"
        path.write_text(text)
        with pytest.raises(ProfileError):
            load_profile(str(path))
