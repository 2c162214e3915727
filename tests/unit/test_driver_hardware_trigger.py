"""The hardware trigger: numbers that do not fit are refused, and what is written, in which order."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError
from petqc_drivers.petsys import tmp104
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.hardware_trigger import (
    UNCALIBRATED,
    EnergyCalibration,
    TriggerSettings,
    region_rows,
    switch,
    write_febd,
    write_trigger_unit,
)
from petqc_drivers.petsys.link import CommandGate
from petqc_drivers.petsys.wire import WireError


class Model(CommandGate):
    """Link and board: keeps what is written, and says how many regions it has."""

    name = "board"
    last_good_s = None

    def __init__(self, n_regions: int = 3) -> None:
        self.n_regions = n_regions
        self.written: list[tuple[int, int, bytes]] = []
        self.answers: list[bytes] = []

    async def _exchange(self, function: int, payload: bytes, *_: Any) -> bytes:
        if function == 4:
            return self.answers.pop(0)
        address = int.from_bytes(payload[3:5], "little")
        if payload[0] == 0:
            assert address == 0x0600
            return b"\0" + self.n_regions.to_bytes(2, "little") + b"\0"
        self.written.append((function, address, payload[5:]))
        return b"\0"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"group_min_energy": -0.1}, "group_min_energy -0.1 is outside 0 to 127.969"),
        ({"group_min_energy": 128.0}, "group_min_energy 128.0 is outside"),
        ({"group_max_energy": 128.1}, "group_max_energy 128.1 is outside"),
        ({"group_max_energy": math.nan}, "nan is outside"),
        ({"group_max_energy": math.inf}, "inf is outside"),
        ({"group_min_energy": 50.0, "group_max_energy": 40.0}, "group_min_energy is above"),
        ({"group_min_multiplicity": 5, "group_max_multiplicity": 4}, "group_min_multiplicity is above"),
        ({"group_max_multiplicity": 65536}, "0 to 65535"),
        ({"before_clk": 4}, "before_clk 4 is not a whole number from 0 to 3"),
        ({"after_clk": 16}, "after_clk 16"),
        ({"coincidence_window_clk": 8}, "coincidence_window_clk 8"),
        ({"coincidence_window_clk": 2.0}, r"coincidence_window_clk 2\.0"),
        ({"singles_period": 65536}, "singles_period"),
        ({"singles_length": -1}, "singles_length"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, words):
    with pytest.raises(WireError, match=words):
        TriggerSettings(**wrong)


@given(st.floats(0, 127.96875))
def test_energies_are_cut_off_below_a_32nd(value):
    found = TriggerSettings(group_min_energy=value, group_max_energy=128.0).febd_registers()
    assert 0 <= value - found["group_min_energy"] / 32 < 1 / 32
    assert found["group_max_energy"] == 0x0FFF


@pytest.mark.parametrize(
    ("coefficients", "words"),
    [
        ((128.0, 0, 0, 0), "c0"),
        ((-0.2, 0, 0, 0), "c0"),
        ((0, 1.0, 0, 0), "c1"),
        ((0, -1e-6, 0, 0), "c1"),
        ((0, 0, 0.0079, 0), "c2"),
        ((0, 0, -0.00783, 0), "c2"),
        ((0, 0, 0, 4.0), "k0"),
        ((0, 0, 0, -0.1), "k0"),
        ((math.nan, 0, 0, 0), "c0"),
    ],
)
def test_calibrations_that_do_not_fit_are_refused(coefficients, words):
    with pytest.raises(WireError, match=words):
        EnergyCalibration(*coefficients)


@given(st.floats(0, 127.8), st.floats(0, 0.999), st.floats(-0.0078, 0.0077), st.floats(0, 3.93))
def test_a_calibration_means_what_was_asked_to_a_step_and_no_field_reaches_into_another(c0, c1, c2, k0):
    word = EnergyCalibration(c0, c1, c2, k0).to_word()
    assert word >> 36 == 0
    assert 0 <= c0 - (word & 0x3FF) / 8 < 1 / 8
    assert 0 <= c1 - (word >> 10 & 0x3FF) / 1024 < 1 / 1024
    raw = word >> 20 & 0x3FF
    assert abs(c2 - (raw - 1024 * (raw >> 9)) / 65536) < 1 / 65536
    assert 0 <= k0 - (word >> 30) / 16 < 1 / 16


def test_a_trigger_unit_is_off_until_it_knows_everything():
    model = Model(9)
    board = Board(model)  # type: ignore[arg-type]
    assert asyncio.run(write_trigger_unit(board, TriggerSettings(), [(0, 8), (3, 4)])) == 9
    assert model.written[0] == (0, 0x0602, b"\0\0")
    registers = [(address, data) for function, address, data in model.written[1:] if function == 0]
    assert (0x0606, b"\x02") in registers
    assert (0x060C, b"\xe8\x03\0\0") in registers
    assert not any(address == 0x0602 for address, _ in registers)
    rows = {address: data for function, address, data in model.written if function == 6}
    assert rows == {
        2 * region: {0: b"\0\x01", 8: b"\x01\0", 3: b"\x10\0", 4: b"\x08\0"}.get(region, b"\0\0") for region in range(9)
    }
    asyncio.run(switch(board, is_febd=False, is_on=True))
    assert model.written[-1] == (0, 0x0602, b"\x01\0")


def test_a_febd_gets_every_buffer_and_is_off_until_then():
    model = Model()
    board = Board(model)  # type: ignore[arg-type]
    table = {(chip, k // 4, k % 4): EnergyCalibration(chip, 0, 0, 0) for chip in (1, 5) for k in range(256)}
    asyncio.run(write_febd(board, TriggerSettings(), [1, 5], table))
    words = {address: int.from_bytes(data, "little") for function, address, data in model.written if function == 7}
    assert words == {chip << 8 | k: 8 * chip for chip in (1, 5) for k in range(256)}
    assert [data for function, address, data in model.written if (function, address) == (0, 0x0602)] == [b"\0\0"]
    asyncio.run(switch(board, is_febd=True, is_on=True))
    asyncio.run(switch(board, is_febd=True, is_on=False))
    assert [data for _, _, data in model.written[-2:]] == [b"\x13\x07", b"\0\0"]


def test_without_a_table_every_hit_has_energy_one_and_with_one_it_must_be_whole():
    model = Model()
    board = Board(model)  # type: ignore[arg-type]
    asyncio.run(write_febd(board, TriggerSettings(), [0], None))
    assert {data for function, _, data in model.written if function == 7} == {
        UNCALIBRATED.to_word().to_bytes(5, "little")
    }
    model.written.clear()
    with pytest.raises(
        LocalProtocolError, match="no energy calibration of 255 buffers, the first is ASIC 0 channel 0 buffer 1"
    ):
        asyncio.run(write_febd(board, TriggerSettings(), [0], {(0, 0, 0): UNCALIBRATED}))
    assert model.written == []


def test_regions_that_the_unit_does_not_have_are_refused():
    model = Model(3)
    with pytest.raises(LocalProtocolError, match=r"regions 0 and 3, the trigger unit has 0\.\.2"):
        asyncio.run(write_trigger_unit(Board(model), TriggerSettings(), [(0, 3)]))  # type: ignore[arg-type]
    assert model.written == [(0, 0x0602, b"\0\0")]
    assert region_rows(0, []) == []


def test_a_chain_of_sensors_is_read_and_what_is_wrong_with_it_is_said():
    def read(*answers: bytes) -> list[float]:
        model = Model()
        model.answers = list(answers)
        return asyncio.run(tmp104.read_chain(Board(model)))  # type: ignore[arg-type]

    enumerated = bytes.fromhex("03558c92")
    assert read(enumerated, b"\0", b"\0", bytes.fromhex("0455f119f6")) == [25.0, -10.0]
    with pytest.raises(RemoteProtocolError, match="chain of sensors is open: 1 bytes"):
        read(b"\0")
    with pytest.raises(RemoteProtocolError, match="a sensor of the chain is broken: 03558c82"):
        read(bytes.fromhex("03558c82"))
    with pytest.raises(RemoteProtocolError, match="2 sensors answered with 4 bytes instead of 5"):
        read(enumerated, b"\0", b"\0", bytes.fromhex("0455f119"))
