"""The driver against a simulated board of every kind, over a real socket: every base board, module, chip, mezzanine.

One board a kind, in this process, and one session with it; afterwards the board's own record says what its outputs were
told and had.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.contract.simulated_kinds import (
    ABOVE_V,
    ALL,
    ENOUGH_S,
    STEP_V,
    WORKING_V,
    Kind,
    Served,
    compile_kernels,
    served,
)

from petqc.formats.petsys_config import load_config
from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import LimitError, StateError, WrongIdentityError
from petqc_drivers.limits import Volts
from petqc_drivers.petsys import supply
from petqc_drivers.petsys.bias import BiasChannel
from petqc_drivers.petsys.mezzanines import KINDS as MEZZANINES
from petqc_drivers.petsys.settings import AsicSettings
from petqc_simulators.boards.witness import judge
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.physics import draw
from petqc_simulators.profile import MODULE_CHIPS
from petqcd.interlocks.bias_limits import BiasLimits
from petqcd.readout.petsys_board import PetsysBoard
from petqcd.readout.supervisor import BiasState, Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from petqc_simulators.boards.petsys_febd import PetsysFebd

N_SENSORS = {0x0: 0, 0x1: 4, 0x11: 4, 0x2: 0, 0x12: 4, 0x111: 8, 0x211: 0}
"""Of each kind of module without EEPROM. Source: interface reference, section 4.8."""
N_LISTED = {**N_SENSORS, 0x211: 16}
"""As the simulated EEPROMs list them."""


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """No board is silent while kernels are compiled."""
    compile_kernels()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is seen what is done, not that a busy machine does it in time."""
    for name in ("LOWER_FIRST_DEADLINE_S", "FIRST_SETTING_DEADLINE_S", "ZERO_DEADLINE_S"):
        monkeypatch.setattr(supply, name, ENOUGH_S)
    # Calibrations of fewer points: reading all of a PROM, two bytes at a time, is the longest part of switching on.
    monkeypatch.setattr(draw, "_POINT_EVERY_V", 15)


async def identified(it: Served) -> None:
    identity = await it.device.connect()
    assert set(identity.boards) == set(it.boards)
    for found in identity.boards.values():
        assert found.kind.base_pcb == it.kind.base_pcb
        assert found.kind.module == it.kind.module
        assert found.kind.asics_per_module == MODULE_CHIPS[it.kind.module]
        assert found.mezzanines == it.kind.bias or (not it.kind.bias and set(found.mezzanines) <= {"BIAS_64P"})
    assert it.device.bias_state is OutputState.OFF
    if it.targets:
        with pytest.raises(StateError, match="configure first"):
            await it.device.bias_on(it.targets)


async def powered_and_configured(it: Served) -> None:
    done = await it.device.configure({board: AsicSettings() for board in it.boards})
    per_module = MODULE_CHIPS[it.kind.module]
    assert done.chips == [(*board, per_module * place) for board in it.boards for place in it.kind.places]
    for board in it.boards.values():
        assert board.registers.value("power") == 1
        assert not [line for line in board.witness.lines if line["event"] in {"over_voltage", "set", "flash"}]
    supplies = {(r.node, r.name): r.value for r in await it.device.read_supplies()}
    if it.kind.base_pcb == 5:
        for place in it.kind.places:
            found = {rail: supplies[f"module:0.0.{place}", f"supply_{rail}"] for rail in ("vdd1", "vdd2", "vdd3")}
            assert found == pytest.approx({"vdd1": 1.38, "vdd2": 2.8, "vdd3": 3.3}, abs=0.06)
        assert supplies["module:0.0.8", "supply_vdd1"] is None
    else:
        assert set(supplies.values()) == {1.0}


async def warm_where_it_should_be(it: Served) -> None:
    n_sensors = (N_LISTED if it.kind.eeprom else N_SENSORS)[it.kind.module]
    for board in it.boards.values():
        for module in board.modules[1:]:
            module.broken = {sensor.channel: "open" for sensor in module.sensors[:1]}
    readings = await it.device.read_temperatures()
    n_modules = len(it.kind.places) * len(it.boards)
    if not n_sensors:
        assert [r.quality for r in readings] == [Quality.ABSENT] * n_modules
        return
    assert len(readings) == n_sensors * n_modules
    good = [r for r in readings if r.quality is Quality.GOOD]
    assert len(readings) - len(good) == n_modules - len(it.boards)
    assert all("open or shorted" in str(r.reason) for r in readings if r.quality is Quality.BAD)
    expected = it.scanner.profile.environment.calibration_degc
    for reading in good:
        # Sensors of chips sit in the warmth of the chips, and 12 bits of an LMT86 are 0.06 K.
        low, high = (-1.0, 2.0) if reading.name == "temperature_sipm" else (0.5, 16.0)
        assert reading.value is not None
        assert expected + low < reading.value < expected + high
    if it.kind.eeprom:
        serials = [found.serial for found in it.device.module_eeproms.values()]
        assert serials == [1000 + k for k in range(n_modules)]


async def biased_within_limits(it: Served) -> None:
    board = it.boards[0, 0]

    def told() -> int:
        return sum(line["event"] in {"set", "converter"} for line in board.witness.lines)

    for channel in it.targets:
        with pytest.raises(LimitError):
            await it.device.bias_on({**it.targets, channel: Volts(it.limit_v(channel) + 0.01)})
    with pytest.raises(LimitError):
        await it.device.bias_on({**it.targets, BiasChannel(0, 0, 7, 0): Volts(30.0)})
    assert told() == 0
    assert not board.registers.value("power") & 2

    await it.device.bias_on(it.targets)
    assert it.device.bias_state is OutputState.ON
    truth = {(mezzanine.slot, n): v for mezzanine in board.mezzanines for n, v in enumerate(mezzanine.volts())}
    commanded = {r.node: r for r in it.device.bias_readings() if r.name == "bias_commanded"}
    assert len(commanded) == len(truth), "every output is accounted for, also those that stay lowest"
    for (slot, number), volts in truth.items():
        channel = BiasChannel(0, 0, slot, number)
        mezzanine = board.mezzanines[slot].kind
        reading = commanded[str(channel)]
        assert not reading.measured
        if channel not in it.targets:
            assert reading.value is None
            assert volts < 1.1
            continue
        step_v = mezzanine.nominal_volts(1)
        assert reading.quality is (Quality.GOOD if mezzanine.shows_code else Quality.UNCERTAIN)
        assert it.targets[channel].value - 1.1 * step_v < reading.value <= it.targets[channel].value
        assert volts == pytest.approx(reading.value, abs=1e-4)
    lower = {channel: Volts(volts.value - 10.0) for channel, volts in list(it.targets.items())[:1]}
    await it.device.bias_on(lower)
    ((channel, volts),) = lower.items()
    assert board.mezzanines[channel.slot].volts()[channel.channel] == pytest.approx(volts.value, abs=0.02)


async def really_off(it: Served) -> None:
    board = it.boards[0, 0]
    report = await it.device.bias_off()
    assert report.state is OutputState.OFF
    assert not report.failures
    assert board.registers.value("power") == 1
    assert max(volts for mezzanine in board.mezzanines for volts in mezzanine.volts()) < 1.1


def verdict_of_the_board(it: Served) -> None:
    """Nothing is left at any output, and nothing ever was beyond its limit; slot by slot, for limits differ."""
    board = it.boards[0, 0]
    until_s = time.monotonic() + ENOUGH_S
    while max(it.scanner.detector.bias_v) > 0 and time.monotonic() < until_s:
        time.sleep(0.01)
    assert max(it.scanner.detector.bias_v) == 0.0
    for slot, name in enumerate(it.kind.bias):
        lines = [line for line in board.witness.lines if line.get("slot", slot) == slot and line["event"] != "output"]
        sets = [line for line in lines if line["event"] == "set"]
        assert len({(line["dac"], line["output"]) for line in sets}) == MEZZANINES[name].n_channels
        highest_v, lowest = WORKING_V[name] + ABOVE_V, MEZZANINES[name].lowest_code
        assert judge(lines, highest_v=highest_v, lowest_code=lowest, largest_step_v=STEP_V + 0.001) == []
        converters = [line["volts"] for line in lines if line["event"] == "converter"]
        assert max(converters, default=0.0) <= WORKING_V[name] + 2.0
    assert not [line for line in board.witness.lines if line["event"] in {"over_voltage", "flash"}]


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_a_session_with_a_board_of_each_kind(kind: Kind, tmp_path: Path) -> None:
    async def session(it: Served) -> None:
        try:
            await identified(it)
            await powered_and_configured(it)
            await warm_where_it_should_be(it)
            if it.targets:
                await biased_within_limits(it)
                await really_off(it)
        finally:
            await it.device.aclose()

    with served(kind, tmp_path) as it:
        asyncio.run(session(it))
        if it.targets:
            verdict_of_the_board(it)


def switched_off_at(board: PetsysFebd) -> int:
    """Place of the line in its record that says that the bias supply went off for the last time."""
    lines = board.witness.lines
    switches = [at for at, line in enumerate(lines) if line["event"] == "supply"]
    assert not lines[switches[-1]]["on"]
    return next(at for at, before in zip(switches[:0:-1], switches[-2::-1], strict=True) if lines[before]["on"])


@pytest.mark.parametrize("bias", ["BIAS_16P", "BIAS_32P_AG"])
def test_a_process_that_knows_nothing_lowers_the_set_points_and_removes_the_voltage(bias: str, tmp_path: Path) -> None:
    """As `petqc off` does with the daemon down. A BIAS_16P can only be told before, all others are told after."""

    async def session(it: Served) -> None:
        stranger = PetsysBoard.for_off(Endpoint(it.address, tmp_path))
        try:
            await it.device.connect()
            await it.device.configure(AsicSettings())
            await it.device.bias_on(it.targets)
            assert await stranger.bias_off() is BiasState.OFF_CONFIRMED
        finally:
            await stranger.aclose()
            await it.device.aclose()

    with served(Kind(2, 0x0001, (bias,)), tmp_path) as it:
        asyncio.run(session(it))
        board = it.boards[0, 0]
        off = switched_off_at(board)
        sides = board.witness.lines[:off], board.witness.lines[off:]
        told = [[line["code"] for line in side if line["event"] == "set"] for side in sides]
        n, lowest = MEZZANINES[bias].n_channels, MEZZANINES[bias].lowest_code
        before_off, after_off = told
        assert set((before_off if bias == "BIAS_16P" else after_off)[-n:]) == {lowest}
        assert max(before_off) > lowest
        assert bias != "BIAS_16P" or not after_off


@pytest.mark.parametrize("bias", ["BIAS_16P", "BIAS_64P"])
def test_the_service_uses_mezzanines_that_go_higher_than_all_others(bias: str, tmp_path: Path) -> None:
    limits = {"v_min": 1.2, "v_max": 70.0, "max_step_v": 20.0, "slew_v_per_s": 100.0, "mezzanine": bias}
    if bias == "BIAS_16P":
        limits["starts_with_v"] = 1.0

    async def session(it: Served) -> None:
        config = load_config(write_config_folder(tmp_path / "config", it.scanner.profile, it.scanner.detector.draw))
        config.tables["bias_settings"]["overvoltage"] = 65.0 - config.tables["bias_settings"]["breakdown"]
        endpoint = Endpoint(it.address, config.path)
        other = "BIAS_64P" if bias == "BIAS_16P" else "BIAS_32P"
        stranger = PetsysBoard(
            endpoint, config, BiasLimits(**{**limits, "v_max": 50.0, "starts_with_v": None, "mezzanine": other})
        )
        board = PetsysBoard(endpoint, config, BiasLimits(**limits))
        try:
            with pytest.raises(
                WrongIdentityError, match=f"bias slot 0: {bias}, and the limits are made out for a {other}"
            ):
                await stranger.connect()
            assert bias in await board.connect()
            await board.configure()
            await board.bias_on()
            used = [volts for volts in it.boards[0, 0].mezzanines[0].volts() if volts > 1.1]
            assert used == pytest.approx([65.0] * it.scanner.profile.outputs_per_board, abs=0.02)
            assert await board.bias_off() is BiasState.OFF_CONFIRMED
        finally:
            await stranger.aclose()
            await board.aclose()

    with served(Kind(2, 0x0001, (bias,)), tmp_path, is_whole=True) as it:
        asyncio.run(session(it))
        lines, lowest = it.boards[0, 0].witness.lines, MEZZANINES[bias].lowest_code
        assert judge(lines, highest_v=65.001, lowest_code=lowest, largest_step_v=20.001) == []
