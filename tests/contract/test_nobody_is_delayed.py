"""Hung, babbling and lying devices on every carrier at once: the polls of a healthy one come as often as before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from tests.contract import fault_line as faults
from tests.contract.fault_line import FaultyLine
from tests.contract.fault_matrix import ROWS, ReadoutSubject
from tests.contract.supervised import BY_KIND, Rig, supervising, table, until

from petqc_drivers import instrument
from petqc_drivers.errors import DriverError
from petqc_drivers.julabo import wire as julabo_wire
from petqc_drivers.petsys.units import look
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.profile import load_profile
from petqcd.instruments.state import InstrumentState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

HV, CHILLER = "hamamatsu-c11204", "julabo"
PHASE_S = 2.0
WAYS = ("hung", "babbling", "lying")


def misbehave(way: str, line: Any) -> None:
    """From now on."""
    line.is_frozen = way == "hung"
    line.fault = {"hung": None, "babbling": faults.babbled(1 << 15), "lying": faults.flipped(1, 0)}[way]


async def asked_for_ever(link: Any) -> None:
    """As a readout's supervisor does: again, whatever came of it."""
    while True:
        with contextlib.suppress(DriverError):
            if not link.is_open:
                await link.open()
            await look(link, 0, 0)
        await asyncio.sleep(0.05)


def test_on_every_carrier_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)
    monkeypatch.setattr(instrument, "_FIRST_BACK_OFF_S", 0.05)
    monkeypatch.setattr(julabo_wire, "AFTER_IN_S", 0.0)
    polled_s: list[float] = []

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        def polled(*, failed: bool) -> None:
            original(failed=failed)
            if not failed:
                polled_s.append(time.monotonic())

        return polled

    async def during() -> int:
        begun_s = time.monotonic()
        await asyncio.sleep(PHASE_S)
        return sum(at_s >= begun_s for at_s in polled_s)

    async def session() -> None:
        with contextlib.ExitStack() as stack:
            lines: list[tuple[str, Any]] = []
            tables = []
            for carrier in ("pty", "tcp"):
                for way in WAYS:
                    line = FaultyLine(BY_KIND[CHILLER].board())
                    lines.append((way, line))
                    listen = f"pty:{tmp_path}/{way}" if carrier == "pty" else "tcp://127.0.0.1:0"
                    address = stack.enter_context(BY_KIND[CHILLER].served(line.inner, line, listen))
                    tables.append(table(CHILLER, address, name=f"{carrier}-{way}"))
            board = BY_KIND[HV].board()
            tables.append(table(HV, stack.enter_context(BY_KIND[HV].served(board, board)), name="healthy"))
            links = []
            for name, carrier in (("petsys-udp", "UDP"), ("petsys-daqd", "UNIX")):
                for row, way in zip(ROWS, WAYS, strict=False):  # a row is but a name for its files here
                    scanner = Scanner(load_profile("bench"), seed=3)
                    subject = ReadoutSubject(name, carrier)
                    relay, make, _stop = stack.enter_context(subject._served(tmp_path, row, scanner))
                    lines.append((way, relay))
                    links.append(make(0.2))
            rig = Rig(tables, {})
            healthy = rig["healthy"]
            healthy._metrics.polled = noting(healthy._metrics.polled)  # type: ignore[method-assign]
            asking = [asyncio.create_task(asked_for_ever(link)) for link in links]
            try:
                async with supervising(rig):
                    await until(lambda: all(one.answers for one in rig.instruments))
                    before = await during()
                    for way, line in lines:
                        misbehave(way, line)
                    beside = await during()
                    # 100 ms more on each poll would make a third fewer of them.
                    assert before >= 4
                    assert beside >= 0.75 * before, (beside, before)
                    bad = [one for one in rig.instruments if one is not healthy]
                    await until(lambda: all(one.state is InstrumentState.FAULT for one in bad))
                    assert healthy.answers
                    for _, line in lines:
                        line.fault, line.is_frozen = None, False
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.wait(asking)
                for link in links:
                    await link.aclose()

    asyncio.run(session())
