"""Bias from C11204s and a chiller: the simulated detector has what they give, and they measure what it feels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.limits import HardLimit, Volts
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.boards.witness import judge
from petqc_simulators.instrument_serving import served_beside
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.detector import BLOCK_S
from petqc_simulators.profile import ProfileError, load_profile

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
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


def test_profiles_that_cannot_be(tmp_path: Path) -> None:
    for text in (
        'base = "bench-c11204"\n[hardware]\nbias_slots = ["BIAS_32P"]\n',
        'base = "bench-c11204"\n[geometry]\ncrystals_per_bias = 16\n',
        'base = "bench-c11204"\n[environment]\nchiller = "ice"\n',
    ):
        path = tmp_path / "odd.toml"
        path.write_text(text)
        with pytest.raises(ProfileError):
            load_profile(str(path))
