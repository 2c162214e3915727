"""A supervised instrument on a line that can be unplugged, plugged in again and stopped up, and its judge."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from tests.contract.fault_line import FaultyLine
from tests.contract.served_instruments import served
from tests.contract.supervised import BY_KIND, Rig, supervising, table, until

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.caen_a7585d import LOWEST_V
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_simulators.boards.witness import judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from petqcd.instruments.state import InstrumentState
    from petqcd.instruments.supervisor import InstrumentSupervisor

WITHIN_S = 10.0
"""From the fault to the named state. Source: reliability design, section 12."""
STEP_V = 4.0
LIMITS = {"v_min": 41.0, "v_max": 57.0, "max_step_v": STEP_V, "slew_v_per_s": 100.0, "most_current_ma": 2.0}
LOWEST_CODE = {"hamamatsu-c11204": wire.MODELS["C11204-02"].lowest_code, "caen-a7585d": round(1000 * LOWEST_V)}


class StoppedUp(FaultyLine):
    """A faulty line whose other end can stop taking bytes from the port, so that the buffers before it fill up."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.takes = threading.Event()
        self.takes.set()

    def receive(self, data: bytes) -> bytes:
        self.takes.wait(WITHIN_S)
        return super().receive(data)


class Plugged:
    """One instrument with its supervisor.

    Attributes:
        device: its supervisor. board: the simulated instrument. line: what is between them.
    """

    def __init__(self, name: str, kind: str, board: Any, listen: str, **given: Any) -> None:
        self.board = board
        self.kind = kind
        self.line = StoppedUp(board)
        self._listen = listen
        self._plug = contextlib.ExitStack()
        address = self._plug.enter_context(served(self.line, listen))
        if not listen.startswith("pty:"):
            self._listen = "tcp" + address.removeprefix("socket")
        given = {"poll_s": 0.3, "reply_timeout_s": 1.0, "bias": LIMITS, **given}
        self.rig = Rig([table(kind, address, name=name, **given)], {})
        self.device: InstrumentSupervisor = self.rig[name]

    @property
    def driver(self) -> BiasSource:
        """What talks to it."""
        assert isinstance(self.device.driver, BiasSource)
        return self.device.driver

    @property
    def sets(self) -> int:
        """Everything that it was told to change so far."""
        return len(BY_KIND[self.kind].told(self.board))

    async def unplug(self) -> None:
        """Its end of the line is closed."""
        await asyncio.to_thread(self._plug.close)

    def plug(self, other: Any = None) -> None:
        """It, or another one, is at the same place again."""
        self.line.inner = self.board if other is None else other
        self._plug.enter_context(served(self.line, self._listen))

    async def ends(self, *states: InstrumentState) -> None:
        """Wait for its named state."""
        try:
            await until(lambda: self.device.state in states, WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{self.device.name}: {self.device.state}, {self.device.detail}") from error

    def judged(self, *, drifts: bool = False) -> None:
        """The simulator's record says that no limit was ever passed; drifts: its output was the fault itself."""
        lines = [line for line in self.board.witness.lines if not (drifts and line["event"] == "output")]
        lowest = LOWEST_CODE[self.kind]
        assert judge(lines, highest_v=57.1, lowest_code=lowest, largest_step_v=STEP_V + 0.01) == []


@contextlib.asynccontextmanager
async def plugged(
    name: str, kind: str, board: Any, folder: Path, *, tcp: bool = False, **given: Any
) -> AsyncIterator[Plugged]:
    """Serve it on a pseudo-terminal, or on a socket, and supervise it, until the block ends; then the judge speaks."""
    one = Plugged(name, kind, board, "tcp://127.0.0.1:0" if tcp else f"pty:{folder}/{name}", **given)
    try:
        async with supervising(one.rig):
            yield one
    finally:
        one.line.takes.set()
        await one.unplug()
