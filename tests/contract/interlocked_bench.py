"""A daemon with two simulated bias supplies and a chiller around a readout that nobody answers for."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.contract.served_instruments import served

from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.witness import judge
from petqcd.app import Daemon
from petqcd.client import Client
from petqcd.config import load_config
from petqcd.errors import DaemonError
from petqcd.interlocks import bias_following, bias_watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

FASTER = 10.0
MOST_V, STEP_V = 57.0, 4.0

CONFIG = """\
[[device]]
name = "board"
address = "udp://127.0.0.1:9"
configuration = "config.ini"
simulated = true

[[device]]
name = "hv"
kind = "hamamatsu-c11204"
address = "{hv}"
model = "C11204-02"
serial = "SIM00001"
simulated = true
poll_s = 0.2
reply_timeout_s = 0.5
settle_s = 0.3
on_stop = "{on_stop}"
[device.bias]
v_min = 41
v_max = 57
max_step_v = 4
slew_v_per_s = 100
most_current_ma = 2
[device.operating]
v_min = 45
v_max = 56

[[device]]
name = "caen"
kind = "caen-a7585d"
address = "{caen}"
serial = 10234
simulated = true
poll_s = 0.2
reply_timeout_s = 0.5
settle_s = 0.3
on_daemon_loss = "off"
[device.bias]
v_min = 21
v_max = 57
max_step_v = 4
slew_v_per_s = 100
most_current_ma = 1
[device.following]
reference_degc = 25
mv_per_k = 50
v_per_min = 60
every_s = 1

[[device]]
name = "chiller"
kind = "julabo"
address = "{chiller}"
model = "FL"
cooling_permit = false
simulated = true
poll_s = 0.2

[[permit]]
name = "cooling"
device = "chiller"
reading = "temperature_coolant"
high = 22
doubt_s = 1.5
of = ["hv"]

[api]
listen = "127.0.0.1:0"
"""


class Supplies:
    """What is on the wire: two supplies and a chiller, each with its address once it is served."""

    def __init__(self) -> None:
        self.degc = 25.0
        self.hv, self.caen = HamamatsuC11204Board(), CaenA7585dBoard(10234, sensor_degc=lambda: self.degc)
        self.chiller = JulaboBoard(bath_degc=18.0, room_degc=3.0)

    def serve(self, stack: ExitStack) -> dict[str, str]:
        """Serve them; the addresses by name."""
        boards = {"hv": self.hv, "caen": self.caen, "chiller": self.chiller}
        return {name: stack.enter_context(served(board, speed=FASTER)) for name, board in boards.items()}

    def energise(self) -> None:
        """As somebody left them."""
        self.hv.reference, self.hv.is_on, self.hv.output_v = 30_000, True, 30_000 * 1.812e-3
        self.caen.receive(b"AT+SET,2,54.000\r\nAT+SET,0,1.000\r\n")
        self.caen.output_v = 54.0
        for board in (self.hv, self.caen):
            board.witness.lines.clear()
            board.witness.note(0.0, "supply", on=True)

    def judged(self) -> list[str]:
        """What must never have happened."""
        found = []
        for board, lowest in ((self.hv, self.hv.model.lowest_code), (self.caen, 20_000)):
            found += judge(board.witness.lines, highest_v=MOST_V, lowest_code=lowest, largest_step_v=None)
        return found

    def raised(self) -> list[float]:
        """Every voltage that either was told while it was on."""
        return [
            float(line["volts"])
            for board in (self.hv, self.caen)
            for line in board.witness.lines
            if line["event"] == "set" and line["supply"]
        ]


def write_config(folder: Path, addresses: dict[str, str], *, on_stop: str = "hold") -> Path:
    """petqc.toml for them."""
    path = folder / "petqc.toml"
    path.write_text(CONFIG.format(**addresses, on_stop=on_stop))
    return path


@dataclass
class Bench:
    """A daemon that runs, and what it talks to."""

    daemon: Daemon
    supplies: Supplies
    client: Client

    async def post(self, path: str, **body: Any) -> Any:
        """A command on the UNIX socket."""
        return await asyncio.to_thread(self.client.post, path, body, 30.0)

    async def refused(self, path: str, **body: Any) -> str:
        """What is said of a command that must be refused."""
        try:
            told = await self.post(path, **body)
        except DaemonError as error:
            return f"{error.code}: {error}"
        raise AssertionError(f"{path} was not refused: {told}")

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        for _ in range(1200):
            if holds():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"never: {what}")

    def alarms(self) -> dict[str, str]:
        """Those that are not normal: severity and state by id."""
        return {one["id"]: f"{one['severity']} {one['state']}" for one in self.daemon.alarms.documents()}


@asynccontextmanager
async def bench(
    folder: Path, monkeypatch: pytest.MonkeyPatch, supplies: Supplies | None = None, *, on_stop: str = "hold"
) -> AsyncIterator[Bench]:
    """A daemon that has seen all its devices."""
    monkeypatch.setattr(bias_watch, "TICK_S", 0.05)
    monkeypatch.setattr(bias_following, "TICK_S", 0.1)
    supplies = supplies or Supplies()
    with ExitStack() as stack:
        config = load_config(write_config(folder, supplies.serve(stack), on_stop=on_stop))
        async with Daemon(config, folder / "state") as daemon:
            found = Bench(daemon, supplies, Client(daemon.state_dir))
            await found.until(lambda: all(one.answers for one in daemon.instruments), "all devices answer")
            yield found
        assert supplies.judged() == []
