"""A readout against a scripted board: bias up by guarded steps."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tests.unit.scripted_board import (
    bench,
    bias_settings,
    outputs,
    run,
    staged,
    steps,
)

from petqc_drivers.device import OutputState
from petqc_drivers.errors import (
    LimitError,
    StateError,
)
from petqc_drivers.limits import Volts
from petqc_drivers.petsys.bias import BiasChannel
from petqc_drivers.petsys.settings import AsicSettings


def test_the_bias_comes_up_in_steps_behind_all_outputs_at_their_lowest():
    async def main():
        async with staged() as (board, readout):
            await readout.bias_on({channel: Volts(33.3) for channel in outputs(31)})
            first_power = next(i for i, entry in enumerate(board.log) if entry[0] == "power")
            assert {entry[1] for entry in board.log[:first_power]} == set(range(32))
            assert {entry[2] for entry in board.log[:first_power]} == {0x0445}
            assert board.log[first_power] == ("power", 3, 0)
            ramp = steps(board, 5)
            assert ramp == sorted(ramp)
            assert max(np.diff(ramp)) <= 10.0
            assert 33.3 - 60 / 65536 <= ramp[-1] <= 33.3
            assert board.volts[31] == pytest.approx(1.0006, abs=1e-3)
            assert readout.bias_state is OutputState.ON
            readings = {r.node: r for r in readout.bias_readings()}
            assert readings["bias:0.0.0.5"].value == pytest.approx(ramp[-1])
            assert not any(r.measured for r in readings.values())
            assert readings["bias:0.0.0.31"].value is None
            board.log.clear()
            await readout.bias_on({outputs()[5]: Volts(12.0)})
            down = steps(board, 5)
            assert down == sorted(down, reverse=True)
            assert min(np.diff([ramp[-1], *down])) >= -10.0
            assert board.volts[4] == pytest.approx(33.3, abs=1e-3)

    run(main)


def test_the_ramp_keeps_the_slew():
    async def main():
        async with staged(bias=bias_settings(max_step_v=5.0, slew_v_per_s=100.0)) as (_, readout):
            began_s = time.monotonic()
            await readout.bias_on({outputs()[0]: Volts(21.0)})
            assert time.monotonic() - began_s >= 0.2

    run(main)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({outputs()[0]: Volts(30), outputs()[1]: Volts(40.1)}, "40.1000 V refused: outside the hard limit"),
        ({BiasChannel(0, 0, 1, 0): Volts(30)}, "no such output"),
        ({BiasChannel(0, 0, 0, 32): Volts(30)}, "not configured"),
        ({outputs()[0]: Volts(0.5)}, "switch off instead"),
        ({outputs()[0]: 30.0}, "not in Volts|has no attribute"),
    ],
)
def test_a_request_with_one_refused_target_sends_nothing(targets, words):
    async def main():
        async with staged() as (board, readout):
            before = board.n_commands
            with pytest.raises((LimitError, AttributeError), match=words):
                await readout.bias_on(targets)
            assert board.n_commands == before
            assert readout.bias_state is OutputState.OFF

    run(main)


def test_a_step_too_small_for_the_dac_is_refused_and_not_tried_for_ever():
    async def main():
        async with staged(bias=bias_settings(max_step_v=1e-4)) as (board, readout):
            before = board.n_commands
            with pytest.raises(LimitError, match="does not move"):
                await readout.bias_on({outputs()[0]: Volts(30)})
            assert board.n_commands == before

    run(main)


def test_outputs_found_on_are_adopted_and_not_touched():
    async def main():
        async with bench() as (board, readout):
            board.put(0x213, 3, 1)
            await readout.connect()
            assert readout.bias_state is OutputState.ADOPTED
            with pytest.raises(StateError):
                await readout.bias_on({outputs()[0]: Volts(30)})
            with pytest.raises(StateError, match="switch the bias off first"):
                await readout.configure(AsicSettings())
            await readout.aclose()
            assert board.memory[0x213] == 3
            assert not board.log

    run(main)
