"""Simulated instruments behind faulty lines, each with the daemon's own supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from tests.contract.every_instrument import CASES, REPLY_TIMEOUT_S
from tests.contract.fault_line import FaultyLine
from tests.contract.served_instruments import ENOUGH_S

from petqcd.config import instrument_config
from petqcd.instruments.collection import Instruments
from petqcd.metrics import Metrics
from petqcd.progress import Bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from petqcd.instruments.supervisor import InstrumentSupervisor

BY_KIND = {case.name: case for case in CASES}
LIMITS = {"v_min": 41.0, "v_max": 57.0, "max_step_v": 4.0, "slew_v_per_s": 100.0, "most_current_ma": 2.0}
TABLES: dict[str, dict[str, Any]] = {
    "hamamatsu-c11204": {"model": "C11204-02", "serial": "SIM00001", "modules": ["0.0.1"], "bias": LIMITS},
    "caen-a7585d": {"serial": 10234, "bias": {**LIMITS, "v_min": 21.0}},
    "keithley-smu": {"model": "2450", "serial": "04425111", "bias": {**LIMITS, "v_min": 0.0, "max_step_v": 10.0}},
    "julabo": {"model": "FL"},
    "caen-a5203": {"serial": 52_030_001, "inputs": [0, 1], "modules": ["0.0.0", "0.0.1"]},
    "sr620": {"serial": "05203", "samples": 1000, "seconds_per_sample": 1e-5},
}
POLL_S = 0.2


def table(kind: str, address: str, **given: Any) -> dict[str, Any]:
    """Of petqc.toml, for a simulated instrument at an address."""
    if kind == "keithley-smu":
        host, _, port = address.removeprefix("socket://").rpartition(":")
        address = f"TCPIP::{host}::{port}::SOCKET"
    if kind == "caen-a5203":
        host, _, ports = address.removeprefix("socket://").rpartition(":")
        control_port, data_port = map(int, ports.split("+"))
        address, given = f"tcp://{host}", {"control_port": control_port, "data_port": data_port, **given}
    common = {"name": kind, "kind": kind, "address": address, "poll_s": POLL_S, "reply_timeout_s": REPLY_TIMEOUT_S}
    return {**common, **TABLES[kind], "simulated": True, **given}


class Rig:
    """Instruments that run, what was published, and the lines to their boards by name."""

    def __init__(self, tables: list[dict[str, Any]], lines: dict[str, FaultyLine]) -> None:
        self.lines = lines
        self.bus = Bus()
        self.metrics = Metrics("bench", "board", simulated=True)
        self.instruments = Instruments([instrument_config(one) for one in tables], self.bus, self.metrics)

    def __getitem__(self, name: str) -> InstrumentSupervisor:
        return self.instruments[name]

    def metric(self, name: str, device: str, **labels: str) -> float | None:
        """Its value; None: there is no such series."""
        wanted = {"scanner": "bench", "device": device, **labels}
        for line in self.metrics.text().decode().splitlines():
            series, _, value = line.rpartition(" ")
            found, _, inside = series.partition("{")
            if found == name and dict(one.split("=") for one in inside.rstrip("}").split(",")) == {
                key: f'"{text}"' for key, text in wanted.items()
            }:
                return float(value)
        return None


@contextlib.asynccontextmanager
async def running(*kinds: str, **given: Any) -> AsyncIterator[Rig]:
    """Serve each, supervise all, until the block ends; given: keys of all tables."""
    with contextlib.ExitStack() as stack:
        lines, tables = {}, []
        for kind in kinds:
            board = BY_KIND[kind].board()
            lines[kind] = FaultyLine(board)
            address = stack.enter_context(BY_KIND[kind].served(board, lines[kind]))
            tables.append(table(kind, address, **given))
        rig = Rig(tables, lines)
        async with supervising(rig):
            yield rig
            for line in lines.values():
                line.fault, line.is_frozen = None, False


@contextlib.asynccontextmanager
async def supervising(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.instruments.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def until(what: Callable[[], bool], seconds: float = ENOUGH_S) -> None:
    """Wait until something is so."""
    ends_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends_s, "it never came to that"
        await asyncio.sleep(0.01)
