"""Generated histories of operator, device and time with every bias source; their own records judge each one.

  python benchmarks/bias_histories.py [--histories 10000] [--seed 1]

Time is virtual: an event loop that jumps to its next timer, and a link without threads. Each history is a driver and a
simulated C11204, A7585D or Keithley 2450 (by the seed, in turn), and twelve things that happen: set, ramp, off at once
and by a ramp, poll, cancel, unplug, restart of the driver and of the device, lost, damaged, cut, split, doubled and
late replies, commands that are acknowledged and not done, refused ones, a monitor that shows too much or too little,
warmth, another device on the line, over-current, acknowledge, reset, a compensation set, a step of the wall clock. No
set-point and no output may ever exceed the hard limit, no step of a set-point may be larger than the largest allowed,
and nothing may be set while off but the lowest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import selectors
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from petqc_drivers.caen_a7585d import CaenA7585d, CaenA7585dSettings
from petqc_drivers.errors import DriverError, LinkLostError, ReplyTimeoutError
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.hamamatsu_c11204.wire import Compensation
from petqc_drivers.keithley_smu.meter import KeithleySmu, KeithleySmuSettings
from petqc_drivers.limits import HardLimit, Volts
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.witness import judge

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_V, STEP_V = 57.0, 3.0
THINGS = 12
_TURN_S = 0.002


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall_ahead_s = 1.7e9
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now_s

    def wall(self) -> float:
        """Of the clock that people see."""
        return self.now_s + self.wall_ahead_s


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.now_s += timeout or 0.0
        return []


class DirectLink:
    """A link without thread or socket to whatever is plugged in, with the faults of `spoil`."""

    def __init__(self, loop: JumpingLoop, board: Any) -> None:
        self.loop, self.board = loop, board
        self.is_open = self.is_in_step = False
        self.is_plugged = True
        self.counters: Counter[str] = Counter()
        self.spoil: Callable[[bytes], list[tuple[float, bytes]]] = lambda reply: [(0.0, reply)]
        self.swallow: Callable[[bytes], bytes | None] = lambda _request: None
        """What is said to a request that the device never gets; None: it gets it."""
        self._came: list[tuple[float, bytes]] = []
        self._stop = False
        self._last_s = loop.now_s

    def pass_time(self) -> None:
        self.board.let_pass(self.loop.now_s - self._last_s)
        self._last_s = self.loop.now_s

    async def open(self, _timeout_s: float) -> None:
        await asyncio.sleep(0.01)
        if not self.is_plugged:
            raise LinkLostError("unplugged")
        self.is_open, self.is_in_step = True, False

    async def aclose(self) -> None:
        self.is_open = self.is_in_step = False

    def interrupt(self) -> None:
        self._stop = True

    def _hand_over(self, data: bytes) -> None:
        if not self.is_open or not self.is_plugged:
            self.is_open = False
            raise LinkLostError("unplugged")
        self.pass_time()
        instead = self.swallow(data)
        reply = self.board.receive(data) if instead is None else instead
        if reply:
            self._came += [(self.loop.now_s + after_s, part) for after_s, part in self.spoil(reply)]

    def _arrived(self) -> bytes:
        due = b"".join(part for at_s, part in self._came if at_s <= self.loop.now_s)
        self._came = [(at_s, part) for at_s, part in self._came if at_s > self.loop.now_s]
        return due

    async def send(self, message: bytes, _timeout_s: float) -> None:
        self._hand_over(message)
        await asyncio.sleep(_TURN_S)

    async def exchange(self, request: bytes, whole: Callable[[bytes], int | None], timeout_s: float) -> bytes:
        was, self.is_in_step, self._stop = self.is_in_step, False, False
        self._arrived()
        self._hand_over(request)
        until, came = self.loop.now_s + timeout_s, b""
        while self.loop.now_s < until:
            await asyncio.sleep(_TURN_S)
            if self._stop or not self.is_plugged:
                raise LinkLostError("interrupted")
            came += self._arrived()
            end = whole(came)
            if end is not None:
                self.is_in_step = was and len(came) == end
                return came[:end]
        raise ReplyTimeoutError("no reply")

    async def drain(self, quiet_s: float, _timeout_s: float) -> None:
        self.is_in_step = False
        await asyncio.sleep(quiet_s)
        self._arrived()


LOWEST_V = {"c11204": 41.0, "a7585d": 21.0, "keithley": 0.0}
LOWEST_CODE = {"a7585d": 20_000, "keithley": 0}
"""What each may be told while it is off, at most; of a C11204 its model says it."""


class Resistor:
    """What draws the current at a source meter's terminals."""

    def __init__(self, load: dict[str, float]) -> None:
        self._load = load

    def current_a(self, volts: float) -> float:
        return 1e-3 * volts * self._load["ma_per_v"]


class History:
    """One history: what happens is drawn from its seed."""

    def __init__(self, loop: JumpingLoop, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = loop
        self.kind = list(LOWEST_V)[seed % len(LOWEST_V)]
        self.is_c11204 = self.kind == "c11204"
        self.warm = {"degc": 25.0}
        self.load = {"ma_per_v": 1e-3}
        self.board: Any = self._board(12345)
        self.link = DirectLink(loop, self.board)
        self.others: list[Any] = []
        self.strangers: list[Any] = []
        self.happened: list[str] = []
        self.device: Any = self._driver()

    def _board(self, serial: int) -> Any:
        load = lambda volts: volts * self.load["ma_per_v"]  # noqa: E731
        if self.is_c11204:
            board = HamamatsuC11204Board(serial=str(serial), load_ma=load, sensor_degc=lambda: self.warm["degc"])
            board.witness.KEPT = 1_000_000
            return board
        if self.kind == "keithley":
            return KeithleyBoard(Resistor(self.load), serial=str(serial))  # type: ignore[arg-type]
        return CaenA7585dBoard(serial, load_ma=load)

    def _driver(self) -> Any:
        limit = HardLimit(
            channel="hv", v_min=Volts(LOWEST_V[self.kind]), v_max=Volts(MOST_V), max_step_v=STEP_V, slew_v_per_s=20.0
        )
        common: dict[str, Any] = {"name": "hv", "limit": limit, "settle_timeout_s": 1.0, "reply_timeout_s": 0.2}
        link: Any = self.link
        if self.kind == "keithley":
            common |= {"address": "TCPIP::none::5025::SOCKET", "model": "2450", "serial": "12345"}
            return KeithleySmu(KeithleySmuSettings(**common, most_current_a=2e-3), link)
        common |= {"address": "/dev/none"}
        if not self.is_c11204:
            return CaenA7585d(CaenA7585dSettings(**common, serial=12345), link)
        return HamamatsuC11204(
            HamamatsuC11204Settings(**common, model="C11204-02", serial="12345", compensates=self.rng.random() < 0.5),
            link,
        )

    async def run(self) -> None:
        for _ in range(THINGS):
            name = self.rng.choice([n for n in dir(self) if n.startswith("do_")])
            self.happened.append(name)
            with contextlib.suppress(DriverError, asyncio.CancelledError):
                await getattr(self, name)()
        await self.ended()

    async def ended(self) -> None:
        """The line is whole again, and everything is switched off."""
        self.link.spoil = lambda reply: [(0.0, reply)]
        self.link.swallow = lambda _request: None
        self.link.is_plugged = True
        with contextlib.suppress(DriverError):
            await self.device.off()
        await asyncio.sleep(1.0)
        self.link.pass_time()

    def wrong(self) -> list[str]:
        """What must never have happened."""
        found = []
        for board in (self.board, *self.others):
            lowest = board.model.lowest_code if self.is_c11204 else LOWEST_CODE[self.kind]
            found += judge(board.witness.lines, highest_v=MOST_V, lowest_code=lowest, largest_step_v=STEP_V + 1e-6)
        for board in self.strangers:
            found += ["another device was told something"] * any(
                line["event"] == "store" or (line["event"] == "set" and line["supply"]) or line.get("on") is True
                for line in board.witness.lines
            )
        return found

    # -- what happens -----------------------------------------------------------------------------------------------

    def _volts(self) -> Volts:
        return Volts(self.rng.choice([self.rng.uniform(35, 65), self.rng.uniform(41, MOST_V), MOST_V, float("nan")]))

    async def do_connect(self) -> None:
        await self.device.connect()

    async def do_on(self) -> None:
        if not self.link.is_open:
            await self.device.connect()
        await self.device.on(self._volts())

    async def do_on_again(self) -> None:
        await self.do_on()

    async def do_ramp(self) -> None:
        await self.device.ramp(self._volts())

    async def do_adopt(self) -> None:
        await self.device.confirm_adopted()

    async def do_off(self) -> None:
        await self.device.off()

    async def do_ramp_off(self) -> None:
        await self.device.ramp_off()

    async def do_poll(self) -> None:
        await self.device.poll()

    async def do_cancel(self) -> None:
        work = self.rng.choice([self.do_on, self.do_ramp, self.do_poll, self.do_connect])
        task = asyncio.ensure_future(work())
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()

    async def do_off_meanwhile(self) -> None:
        task = asyncio.ensure_future(self.do_on())
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        with contextlib.suppress(DriverError):
            await self.device.off()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()

    async def do_unplug(self) -> None:
        self.link.is_plugged = not self.link.is_plugged

    async def do_restart(self) -> None:
        self.device = self._driver()
        await self.device.connect()

    async def do_spoil(self) -> None:
        rng = self.rng
        kinds = ["none", "drop", "late", "flip", "double", "cut", "split"]
        kind, share = rng.choice(kinds), rng.uniform(0.05, 0.5)

        def spoil(reply: bytes) -> list[tuple[float, bytes]]:
            if kind == "none" or rng.random() > share:
                return [(0.0, reply)]
            if kind == "flip":
                at = rng.randrange(len(reply))
                return [(0.0, reply[:at] + bytes((reply[at] ^ 1 << rng.randrange(8),)) + reply[at + 1 :])]
            at = rng.randrange(len(reply))
            return {
                "drop": [],
                "late": [(0.25, reply)],
                "double": [(0.0, reply), (0.01, reply)],
                "cut": [(0.0, reply[:at])],
                "split": [(0.0, reply[:at]), (0.15, reply[at:])],
            }[kind]

        self.link.spoil = spoil

    async def do_lie(self) -> None:
        if self.is_c11204:
            self.board.ignores = set(self.rng.sample(["HBV", "HON", "HOF", "HCM", "HST"], self.rng.randrange(3)))
            return
        share, lies = self.rng.choice([0.0, 0.5, 1.0]), {"a7585d": (b"AT+SET", b"OK\r\n"), "keithley": (b":SOUR", b"")}
        begins, said = lies[self.kind]
        self.link.swallow = lambda data: said if data.startswith(begins) and self.rng.random() < share else None

    async def do_read_wrong(self) -> None:
        if self.kind != "keithley":  # its monitor is its own output
            self.board.reads_above = self.rng.choice([0.0, 0.0, -3.0, 3.0, 20.0])

    async def do_power_cycle(self) -> None:
        self.link.pass_time()
        if self.kind == "keithley":
            self.board.receive(b"*RST\n")
        else:
            self.board.power_cycle()

    async def do_clock_step(self) -> None:
        self.loop.wall_ahead_s += self.rng.choice([-1.0, 1.0]) * 10.0 ** self.rng.uniform(-1.0, 8.5)

    async def do_refuse(self) -> None:
        if self.is_c11204:
            self.board.refuses = {self.rng.choice(["HBV", "HON", "HPO"]): 5} if self.rng.random() < 0.5 else {}

    async def do_warm(self) -> None:
        self.warm["degc"] = self.rng.uniform(-25.0, 70.0)
        await asyncio.sleep(self.rng.uniform(0.0, 10.0))

    async def do_load(self) -> None:
        self.load["ma_per_v"] = self.rng.choice([1e-3, 0.03, 0.08])
        await asyncio.sleep(self.rng.uniform(0.0, 6.0))

    async def do_trip_steps(self) -> None:
        self.device.trip.acknowledge()
        await self.device.reset_trip()

    async def do_store(self) -> None:
        if self.is_c11204:
            wanted = Compensation.of(
                voltage=Volts(self.rng.uniform(40, 60)), at_degc=25.0, mv_per_k=self.rng.uniform(-80, 80)
            )
            await self.device.store_compensation(wanted)

    async def do_swap(self) -> None:
        serial = self.rng.choice([12345, 54321])
        other = self._board(serial)
        self.link.pass_time()
        self.others.append(self.board)
        if serial != 12345:
            self.strangers.append(other)
        self.link.board = self.board = other
        await self.link.aclose()


def campaign(histories: int, seed: int) -> tuple[int, list[str]]:
    """Run them; how many things happened and what was wrong, with the seed of the history."""
    loop, wrong, happened = JumpingLoop(), [], 0
    original = time.monotonic, time.clock_gettime, time.time
    time.monotonic, time.clock_gettime, time.time = loop.time, lambda _clock: loop.time(), loop.wall
    asyncio.set_event_loop(loop)
    try:
        for number in range(seed, seed + histories):
            history = History(loop, number)
            loop.run_until_complete(history.run())
            happened += len(history.happened)
            wrong += [f"history {number}: {what}; {' '.join(history.happened)}" for what in history.wrong()]
    finally:
        time.monotonic, time.clock_gettime, time.time = original
        asyncio.set_event_loop(None)
        loop.close()
    return happened, wrong


def main() -> int:
    """Run a campaign and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    started = time.monotonic()
    happened, wrong = campaign(given.histories, given.seed)
    for line in wrong[:20]:
        print(line)
    print(f"{given.histories} histories, {happened} things, {len(wrong)} wrong, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
