"""Each interlock of the daemon is taken out, and a short story with simulated supplies must then end badly."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract import interlocked_bench
from tests.contract.interlocked_bench import STEP_V, Bench, Supplies, bench
from tests.contract.served_instruments import served

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState
from petqc_drivers.trip import Trip
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.witness import judge
from petqc_simulators.physics.leakage import SipmLoad
from petqcd import clock
from petqcd.errors import DaemonError, RefusedError
from petqcd.instruments.command_queue import Command
from petqcd.instruments.supervisor import InstrumentSupervisor
from petqcd.interlocks import conditions, permit_sources, permits
from petqcd.interlocks.bias_control import BiasControl
from petqcd.interlocks.maintenance import InMaintenance
from petqcd.interlocks.operating_limits import OperatingLimits
from petqcd.interlocks.permits import Permits, Ruling
from petqcd.off import outputs, retired, safe_state
from petqcd.off.kept_outputs import KeptOutputs
from petqcd.off.safe_state import SafeOutcome, SafeState
from petqcd.readiness import Readiness

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


async def is_taken_over(b: Bench) -> list[str]:
    """What was found on above the operating limit is not said to be petqc's own."""
    supplies = b.supplies
    await b.until(lambda: b.daemon.instruments["hv"].driver.output is OutputState.ADOPTED, "found on")
    await b.post("/api/v1/bias/hv/limits", v_min=45.0, v_max=50.0, reason="a test")
    with contextlib.suppress(DaemonError):
        await b.post("/api/v1/bias/hv/confirm")
        return ["taken over above its operating limit"]
    assert supplies.hv.is_on
    await b.post("/api/v1/off")
    await b.post("/api/v1/bias/hv/limits", v_min=45.0, v_max=56.0, reason="a test")
    return []


async def comes_along(b: Bench) -> list[str]:
    """What devices bring along by being configured is needed."""
    b.supplies.chiller.values["in_mode_05"] = 0.0
    await b.until(lambda: readings(b, "chiller", "coolant_running") == [0.0], "it stands still")
    if await tried(b, 54.0):
        return ["energised without a chiller that runs"]
    b.supplies.chiller.values["in_mode_05"] = 1.0
    await b.until(lambda: readings(b, "chiller", "coolant_running") == [1.0], "it runs")
    b.supplies.degc = 50.0
    await b.until(lambda: readings(b, "caen", "temperature_sipm") > [49.0], "it is hot")
    told = len(b.supplies.caen.witness.lines)
    with contextlib.suppress(DaemonError):
        await b.post("/api/v1/bias/caen/on", volts=50.0)
    if any(line["event"] == "supply" and line["on"] for line in b.supplies.caen.witness.lines[told:]):
        return ["energised while its detectors are hot"]
    b.supplies.degc = 25.0
    return []


async def is_closed(b: Bench) -> list[str]:
    """Where the instrument tells of an interlock, it is closed, or the output is off."""
    meter: Any = b.supplies.meter  # type: ignore[attr-defined]
    await b.until(lambda: readings(b, "smu", "interlock_closed") == [1.0], "it is closed")
    await b.post("/api/v1/bias/smu/on", volts=30.0)
    meter.interlock_is_closed = False
    await b.until(lambda: readings(b, "smu", "interlock_closed") == [0.0], "it is open")
    for _ in range(60):
        if not meter.is_on:
            break
        await asyncio.sleep(0.05)
    else:
        return ["on with its interlock open"]
    told = len(meter.witness.lines)
    said = await b.refused("/api/v1/bias/smu/on", volts=20.0)
    assert "interlock of smu is not given: its interlock is open" in said
    return ["energised with it open"] if any(line.get("on") for line in meter.witness.lines[told:]) else []


async def is_sane(b: Bench) -> list[str]:
    """Nothing is energised when nobody knows what time it is."""
    now = clock.unix_s
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "unix_s", lambda: now() - 7200.0)
        return ["energised with a clock that leapt back"] if await tried(b, 54.0) else []


async def is_configured(b: Bench) -> list[str]:
    """No run begins without the readout's own configuration."""
    with contextlib.suppress(DaemonError):
        await b.post("/api/v1/runs", kind="housekeeping", parameters={})
        return ["a run began without config.ini"]
    return []


async def everything(b: Bench) -> list[str]:
    """All of these, one after the other."""
    return [
        said for story in (is_taken_over, comes_along, is_sane, is_configured, is_closed) for said in await story(b)
    ]


def readings(b: Bench, device: str, name: str) -> list[float | None]:
    return [one.value for one in b.daemon.instruments[device].readings() if one.name == name]


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


def no_limits_at_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    no_operating_limit(monkeypatch)


def nothing_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "brought_along", lambda _config: [])


def no_temperature_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_within", lambda *_: [])


def any_clock_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    of_host = permit_sources.of_host

    def sane(*args: Any, **how: Any) -> list[permits.Permit]:
        return [replace(one, value=True) if one.name == permits.CLOCK else one for one in of_host(*args, **how)]

    monkeypatch.setattr(permit_sources, "of_host", sane)


def any_configuration_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readiness, "why_no_run", lambda _self: None)


MORE = """
[[device]]
name = "smu"
kind = "keithley-smu"
address = "TCPIP::{host}::{port}::SOCKET"
model = "2450"
serial = "04425111"
simulated = true
poll_s = 0.2
settle_s = 0.1
[device.bias]
v_min = 0
v_max = 57
max_step_v = 10
slew_v_per_s = 100
most_current_ma = 0.02
[api]"""


@pytest.mark.parametrize(
    ("remove", "story", "said"),
    [
        (nothing, everything, ""),
        (no_limits_at_confirm, is_taken_over, "taken over above"),
        (nothing_comes_along, comes_along, "without a chiller"),
        (nothing_comes_along, is_closed, "interlock open"),
        (no_temperature_comes_along, comes_along, "detectors are hot"),
        (any_clock_will_do, is_sane, "leapt back"),
        (any_configuration_will_do, is_configured, "without config.ini"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_there_by_being_configured_is_noticed_when_it_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
    story: Callable[[Bench], Awaitable[list[str]]],
    said: str,
) -> None:
    meter, supplies = KeithleyBoard(SipmLoad()), Supplies()
    supplies.meter = meter  # type: ignore[attr-defined]
    supplies.chiller.values["in_mode_05"] = 1.0
    if story in (everything, is_taken_over):  # as somebody left it
        supplies.hv.reference, supplies.hv.is_on, supplies.hv.output_v = 30_000, True, 30_000 * 1.812e-3
        supplies.hv.witness.note(0.0, "supply", on=True)
    monkeypatch.setattr(clock, "is_synchronised", lambda: False)

    async def told(config: str) -> list[str]:
        monkeypatch.setattr(interlocked_bench, "CONFIG", config)
        remove(monkeypatch)
        async with bench(tmp_path, monkeypatch, supplies) as b:
            return await story(b)

    with served(meter) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        config = interlocked_bench.CONFIG.replace("cooling_permit = false\n", "")
        before, _, after = config.partition("[[permit]]")
        config = before + after[after.index("[api]") :].replace("[api]", MORE.format(host=host, port=port), 1)
        config = config.replace(
            "[device.following]", "[device.temperature]\nlow_degc = 5\nhigh_degc = 40\n[device.following]"
        )
        found = asyncio.run(told(config))
    assert (said in str(found)) if said else not found
    assert judge(meter.witness.lines, highest_v=57.0, lowest_code=0, largest_step_v=10.0) == []


def forgets_whatever_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_output: Any) -> bool:
        return False

    monkeypatch.setattr(retired, "_answers", gone)


@pytest.mark.parametrize("remove", [nothing, forgets_whatever_is_there], ids=lambda one: one.__name__)
def test_what_may_be_on_is_not_forgotten_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A person who says that it is disconnected is believed only if nobody answers there."""
    board = CaenA7585dBoard(77)
    board.receive(b"AT+SET,2,50.000\r\nAT+SET,0,1.000\r\n")
    monkeypatch.setattr(board, "_put", lambda _register, _value: None)  # nothing switches it off
    monkeypatch.setattr(safe_state, "OFF_DEADLINE_S", 2.0)

    async def forgotten(address: str) -> bool:
        settings = {"name": "old", "address": address, "serial": 77, "reply_timeout_s": 0.3}
        outputs.write(tmp_path, [outputs.Output(name="old", kind="caen-a7585d", settings=settings, state="on")])
        kept = KeptOutputs(tmp_path, [])
        with contextlib.suppress(RefusedError):
            await retired.Retired(kept).forget("old", is_disconnected=True)
        return kept["old"] is None

    with served(board) as address:
        remove(monkeypatch)
        assert asyncio.run(forgotten(address)) is (remove is not nothing)
    assert board.is_on


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
