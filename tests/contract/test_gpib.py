"""Instruments on a GPIB bus behind a simulated adapter of the Prologix kind: our drivers, and pyvisa-py unmodified."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
import pyvisa
from tests.contract import fault_line as faults
from tests.contract.fault_line import FaultyLine
from tests.contract.served_instruments import of, served

from petqc_drivers import instrument
from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import ConnectError, LocalProtocolError, ReplyTimeoutError
from petqc_drivers.keithley_smu.meter import KeithleySmu, KeithleySmuSettings
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.sr620.counter import Sr620, Sr620Settings
from petqc_drivers.transport import prologix
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.prologix import PrologixAdapter
from petqc_simulators.boards.sr620 import ClockPair
from petqc_simulators.boards.sr620 import Sr620 as Sr620Board
from petqc_simulators.physics.leakage import SipmLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = HardLimit(channel="smu", v_min=Volts(0.0), v_max=Volts(57.0), max_step_v=20.0, slew_v_per_s=2000.0)


class Bus:
    """A counter at 16 whose replies can be spoiled, a source meter at 24."""

    def __init__(self) -> None:
        self.counter = Sr620Board(ClockPair(skew_ps=1234.0))
        self.meter = KeithleyBoard(SipmLoad(), model="2400")
        self.line = FaultyLine(self.counter)
        self.adapter = PrologixAdapter({16: self.line, 24: self.meter})


@pytest.fixture
def bus() -> Bus:
    return Bus()


@contextlib.contextmanager
def devices(bus: Bus, reply_s: float = 2.0) -> Iterator[tuple[Sr620, KeithleySmu]]:
    with served(bus.adapter) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        via = f" via PRLGX-TCPIP::{host}::{port}::INTFC"
        counter = Sr620(
            Sr620Settings(
                name="skew",
                address=f"GPIB0::16::INSTR{via}",
                serial="05203",
                seconds_per_sample=1e-4,
                reply_timeout_s=reply_s,
            )
        )
        meter = KeithleySmu(
            KeithleySmuSettings(
                name="smu", address=f"GPIB0::24::INSTR{via}", model="2400", serial="04425111", limit=LIMIT
            )
        )
        yield counter, meter
    assert prologix._BUSES == {}
    assert max(bus.meter.told_v, default=0.0) <= 57.0


def test_two_instruments_of_one_bus_at_the_same_time(bus: Bus) -> None:
    async def session() -> None:
        with devices(bus) as (counter, meter):
            try:
                await asyncio.gather(counter.connect(), meter.connect())
                await counter.stage()
                await meter.on(Volts(40.0))
                for _ in range(3):
                    await asyncio.gather(counter.poll(), meter.poll())
                assert of(counter.readings(), "clock_skew").value == pytest.approx(1234.0, abs=10.0)
                assert of(meter.readings(), "bias_voltage").value == pytest.approx(40.0, abs=0.01)
                await meter.off()
                assert not bus.meter.is_on
            finally:
                await counter.aclose()
                await meter.aclose()

    asyncio.run(session())


def test_one_that_says_nothing_keeps_the_other_one_from_nothing(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, too, goes through while the other's reply is waited for."""
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)

    async def session() -> None:
        with devices(bus, reply_s=1.5) as (counter, meter):
            try:
                await counter.connect()
                await counter.stage()
                await meter.connect()
                await meter.on(Volts(40.0))
                bus.line.is_frozen = True
                silent = asyncio.create_task(counter.poll())
                await asyncio.sleep(0.1)
                for _ in range(2):
                    await meter.poll()
                assert not silent.done()
                assert await meter.off() is OutputState.OFF
                assert not silent.done()
                with pytest.raises(ReplyTimeoutError):
                    await silent
                assert counter.state is DeviceState.FAULTED
                bus.line.is_frozen = False
                await counter.connect()
                await counter.poll()
            finally:
                await counter.aclose()
                await meter.aclose()

    asyncio.run(session())


def test_a_late_reply_answers_no_later_question(bus: Bus) -> None:
    async def session() -> None:
        with devices(bus, reply_s=0.3) as (counter, _meter):
            try:
                await counter.connect()
                await counter.stage()
                bus.line.fault = faults.nth(0, faults.late(0.5))
                with contextlib.suppress(ReplyTimeoutError):
                    await counter.poll()
                await asyncio.sleep(0.5)
                if not counter.is_open:
                    await counter.connect()
                await counter.poll()
                assert of(counter.readings(), "clock_skew").value == pytest.approx(1234.0, abs=10.0)
            finally:
                await counter.aclose()

    asyncio.run(session())


def test_pyvisa_py_finds_them_too(bus: Bus) -> None:
    """An independent client of the adapter, unmodified."""
    with served(bus.adapter) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        manager = pyvisa.ResourceManager("@py")
        adapter = manager.open_resource(f"PRLGX-TCPIP::{host}::{port}::INTFC")
        try:
            counter, meter = manager.open_resource("GPIB0::16::INSTR"), manager.open_resource("GPIB0::24::INSTR")
            assert "SR620" in counter.query("*IDN?")  # type: ignore[attr-defined]
            assert "2400" in meter.query("*IDN?")  # type: ignore[attr-defined]
            assert float(counter.query("MEAS?0")) == pytest.approx(1.234e-9, abs=2e-10)  # type: ignore[attr-defined]
            meter.write("*IDN?")  # type: ignore[attr-defined]
            time.sleep(0.05)
            assert meter.read_stb() == 16  # type: ignore[attr-defined]
            counter.close()
            meter.close()
        finally:
            adapter.close()


def test_addresses_and_what_is_no_adapter(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "CONNECT_S", 0.5)
    for resource in (
        "GPIB0::31::INSTR via PRLGX-TCPIP::there::1234::INTFC",
        "GPIB0::16::INSTR via there",
        "GPIB0::16 via PRLGX-TCPIP::there::1234::INTFC",
    ):
        with pytest.raises(LocalProtocolError, match="behind an adapter"):
            Sr620Settings(name="x", address=resource, serial="1")
    found = prologix.place("GPIB0::5::12::INSTR via PRLGX-ASRL::/dev/ttyUSB0::INTFC")
    assert (found.address, found.adapter) == ("5 12", "PRLGX-ASRL::/dev/ttyUSB0::INTFC")
    assert prologix.escaped(b"A+B\x1b\r\n") == b"A\x1b+B\x1b\x1b\n"

    async def session() -> None:
        with served(bus.counter) as address:  # an instrument, where an adapter should be
            host, _, port = address.removeprefix("socket://").rpartition(":")
            resource = f"GPIB0::16::INSTR via PRLGX-TCPIP::{host}::{port}::INTFC"
            counter = Sr620(Sr620Settings(name="x", address=resource, serial="1"))
            with pytest.raises(ConnectError):
                await counter.connect()
            await counter.aclose()

    asyncio.run(session())
