"""Each interlock of the daemon is taken out, and a short story with simulated supplies must then end badly."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.interlocked_bench import STEP_V, Bench, Supplies, bench

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.trip import Trip
from petqcd.errors import DaemonError
from petqcd.instruments.command_queue import Command
from petqcd.instruments.supervisor import InstrumentSupervisor
from petqcd.interlocks import permit_sources, permits
from petqcd.interlocks.bias_control import BiasControl
from petqcd.interlocks.maintenance import InMaintenance
from petqcd.interlocks.operating_limits import OperatingLimits
from petqcd.interlocks.permits import Permits, Ruling
from petqcd.off import outputs
from petqcd.off.kept_outputs import KeptOutputs
from petqcd.off.safe_state import SafeOutcome, SafeState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

WARM, COLD = 25.0, 18.0


async def tried(b: Bench, volts: float) -> bool:
    """Try to energise; whether the supply was told to."""
    lines = b.supplies.hv.witness.lines
    told = len(lines)
    with contextlib.suppress(DaemonError):
        await b.post("/api/v1/bias/hv/on", volts=volts)
    return any(line["event"] == "supply" and line["on"] for line in lines[told:])


async def is_refused(b: Bench) -> list[str]:
    """What must be refused is."""
    b.supplies.chiller.bath_degc = WARM
    await b.until(lambda: any("cooling is not" in one for one in b.daemon.watch.against("hv")), "it is warm")
    if await tried(b, 54.0):
        return ["energised without cooling"]
    b.supplies.chiller.bath_degc = COLD
    await b.until(lambda: not any("cooling" in one for one in b.daemon.watch.against("hv")), "it is cold")
    await b.post("/api/v1/devices/hv/maintenance", seconds=60.0, reason="a cable is changed")
    if await tried(b, 54.0):
        return ["energised while somebody works there"]
    await b.post("/api/v1/devices/hv/maintenance/end")
    return ["energised above the operating limit"] if await tried(b, 56.5) else []


async def is_written(b: Bench) -> list[str]:
    """It is on the disk that it may be on, before it is."""
    hv, found = b.supplies.hv, []
    switch = hv._switch

    def seen(*, is_on: bool) -> None:
        (known,) = [one for one in outputs.read(b.daemon.state_dir).outputs if one.name == "hv"]
        if is_on and not known.may_be_on:
            found.append("it went on and was not written down")
        switch(is_on=is_on)

    hv._switch = seen  # type: ignore[method-assign]
    assert await tried(b, 54.0)
    return found


async def is_tripped(b: Bench) -> list[str]:
    """What is lost switches off, and stays off."""
    assert await tried(b, 54.0)
    b.supplies.chiller.bath_degc = WARM
    for _ in range(60):
        if not b.supplies.hv.is_on:
            break
        await asyncio.sleep(0.05)
    else:
        return ["on without cooling"]
    b.supplies.chiller.bath_degc = COLD
    await b.until(lambda: not any("cooling is" in one for one in b.daemon.watch.against("hv")), "it is cold")
    return ["energised while tripped"] if await tried(b, 54.0) else []


async def is_overtaken(b: Bench) -> list[str]:
    """Off waits for nothing."""
    hv = b.supplies.hv
    ramp = asyncio.create_task(tried(b, 56.0))
    await b.until(lambda: hv.is_on and hv.output_v > 42.0, "it is on its way")
    at_v = hv.output_v
    await b.post("/api/v1/bias/hv/off")
    await ramp
    highest_v = float(hv.witness.highest_output_v[0])
    return ["it went on rising"] if highest_v > at_v + 2 * STEP_V else ["it is on"] if hv.is_on else []


async def is_held(b: Bench) -> list[str]:
    """A ramp ends where it is."""
    hv = b.supplies.hv
    ramp = asyncio.create_task(tried(b, 56.0))
    await b.until(lambda: hv.is_on and hv.output_v > 42.0, "it is on its way")
    at_v = hv.output_v
    with contextlib.suppress(DaemonError):
        await b.post("/api/v1/bias/hv/stop")
    await ramp
    return ["it was not held"] if hv.output_v > at_v + 2 * STEP_V else [] if hv.is_on else ["it is off"]


# -- each interlock, taken out ------------------------------------------------------------------------------------


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch


def no_permit_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiasControl, "_require", lambda _self, _name: None)


def no_operating_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OperatingLimits, "require", lambda _self, _name, _volts: None)


def nobody_works_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMaintenance, "of", lambda _self, _device: None)


def not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiasSource, "hold", lambda _self: None)


def not_written_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def later(_self: Any, _name: str) -> None:
        return None

    monkeypatch.setattr(KeptOutputs, "may_be_on", later)


def no_permit_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Permits, "rule", lambda *_, **__: Ruling())


def no_latch(monkeypatch: pytest.MonkeyPatch) -> None:
    of_device = permit_sources.of_device

    def never_tripped(*args: Any, **how: Any) -> list[permits.Permit]:
        return [replace(one, value=True) if one.name == permits.NO_TRIP else one for one in of_device(*args, **how)]

    monkeypatch.setattr(permit_sources, "of_device", never_tripped)
    monkeypatch.setattr(Trip, "check_armed", lambda _self: None)


def off_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def queued(self: Any) -> SafeOutcome:
        await self.submit(Command("off", lambda driver: driver.off()))
        return SafeOutcome(self.name, SafeState.IN_SAFE_STATE, "")

    monkeypatch.setattr(InstrumentSupervisor, "off", queued)


@pytest.mark.parametrize(
    ("remove", "story", "said"),
    [
        (nothing, is_overtaken, ""),
        (no_permit_is_required, is_refused, "without cooling"),
        (no_operating_limit, is_refused, "above the operating limit"),
        (nobody_works_anywhere, is_refused, "somebody works there"),
        (not_held, is_held, "was not held"),
        (not_written_first, is_written, "not written down"),
        (no_permit_trips, is_tripped, "on without cooling"),
        (no_latch, is_tripped, "while tripped"),
        (off_waits_its_turn, is_overtaken, "went on rising"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_a_story_notices_an_interlock_that_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
    story: Callable[[Bench], Awaitable[list[str]]],
    said: str,
) -> None:
    async def told() -> list[str]:
        async with bench(tmp_path, monkeypatch, Supplies()) as b:
            remove(monkeypatch)
            return await story(b)

    found = asyncio.run(told())
    assert (said in str(found)) if said else not found
