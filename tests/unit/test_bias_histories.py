"""Some generated histories of operator, device and time; `benchmarks/bias_histories.py` runs ten thousand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.errors import DriverError, LinkLostError

if TYPE_CHECKING:
    from collections.abc import Coroutine

SPEC = spec_from_file_location("bias_histories", Path(__file__).parents[2] / "benchmarks" / "bias_histories.py")
assert SPEC is not None
assert SPEC.loader is not None
HISTORIES = module_from_spec(SPEC)
SPEC.loader.exec_module(HISTORIES)


def test_no_output_above_its_limit() -> None:
    happened, wrong = HISTORIES.campaign(100, 1)
    assert happened == 100 * HISTORIES.THINGS
    assert wrong == []


def test_a_step_counts_from_what_a_device_wakes_with() -> None:
    """A supply that swallowed the lowest set-point has it by itself, and is read back; a step too large is one."""
    assert HISTORIES.campaign(1, 9133)[1] == []
    board = HISTORIES.CaenA7585dBoard()
    board.receive(b"AT+SET,0,1\r\n")
    board.receive(b"AT+SET,2,23.5\r\n")
    told = HISTORIES.judge(board.witness.lines, highest_v=57.0, lowest_code=20_000, largest_step_v=3.0)
    assert told == ["at 0.000 s output 0 was raised by 3.500 V at once, allowed are 3.0 V"]


async def at_once(self: Any, target: Any, since: int, _held: int) -> None:
    await self._set(self._guarded(target), since)


def test_a_source_meter_that_was_restarted_is_told_no_voltage_by_a_ramp() -> None:
    _, wrong = HISTORIES.campaign(1, 21158)
    assert wrong == []


class LateLink(HISTORIES.DirectLink):  # type: ignore[name-defined,misc]
    """One whose device gets requests late, in their order, where `lag_s` says so."""

    lag_s = 0.0

    def __init__(self, loop: Any, board: Any) -> None:
        super().__init__(loop, board)
        self._held: list[tuple[float, bytes]] = []

    def _hand_over(self, data: bytes) -> None:
        if not (self._held or self.lag_s) or not self.is_open or not self.is_plugged:
            super()._hand_over(data)
            return
        last_s = self._held[-1][0] if self._held else 0.0
        self._held.append((max(last_s, self.loop.now_s + self.lag_s), data))

    def _arrived(self) -> bytes:
        while self._held and self._held[0][0] <= self.loop.now_s:
            _, data = self._held.pop(0)
            with contextlib.suppress(LinkLostError):
                super()._hand_over(data)
        return bytes(super()._arrived())


class Longer(HISTORIES.History):  # type: ignore[name-defined,misc]
    """A history with two more things that happen, which those of the campaign by seed do without."""

    def __init__(self, loop: Any, seed: int) -> None:
        super().__init__(loop, seed)
        self.link = LateLink(loop, self.board)
        self.device = self._driver()

    async def do_lag(self) -> None:
        """What it is told is carried out after the time-out."""
        self.link.lag_s = 0.0 if self.link.lag_s else 0.25

    async def do_interlock(self) -> None:
        """Opened, or closed again."""
        if self.kind == "keithley":
            self.board.interlock_is_closed = not self.board.interlock_is_closed


THINGS = sorted(name for name in dir(Longer) if name.startswith("do_"))


class Machine(RuleBasedStateMachine):
    """Operator, device and time as Hypothesis draws them: what is wrong is told by the shortest way to it."""

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        """A driver and a device."""
        self.loop = HISTORIES.JumpingLoop()
        self.history = Longer(self.loop, seed)

    def _let(self, work: Coroutine[Any, Any, None]) -> None:
        original = time.monotonic, time.time
        time.monotonic, time.time = self.loop.time, self.loop.wall
        try:
            self.loop.run_until_complete(work)
        finally:
            time.monotonic, time.time = original

    @rule(name=st.sampled_from(THINGS))
    def happens(self, name: str) -> None:
        """One thing."""

        async def one() -> None:
            with contextlib.suppress(DriverError, asyncio.CancelledError):
                await getattr(self.history, name)()

        self._let(one())

    @invariant()
    def nothing_wrong(self) -> None:
        """By the device's own record."""
        if hasattr(self, "history"):
            assert self.history.wrong() == []

    def teardown(self) -> None:
        """Off at the end."""
        if hasattr(self, "history"):
            self.history.link.lag_s = 0.0
            self._let(self.history.ended())
            self.loop.close()
            assert self.history.wrong() == []


def machine(*phases: Phase) -> None:
    """Let it run."""
    how = settings(
        max_examples=60,
        stateful_step_count=14,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=how)


def test_hypothesis_finds_no_way_to_a_wrong_output() -> None:
    machine(Phase.generate, Phase.shrink)


def test_hypothesis_finds_the_way_where_a_guard_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiasSource, "_ramp_to", at_once)
    with pytest.raises(AssertionError, match="at once"):
        machine(Phase.generate)
