"""A session of real drivers is recorded on the wire, and the same session with what was recorded reads the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contract.served_instruments import served

from petqc_drivers.errors import DriverError
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.julabo.circulator import JulaboCirculator, JulaboSettings
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.transport.recording import recorded
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.instruments import make_instrument
from petqc_simulators.recorded_instrument import RecordedInstrument
from petqcd.recording.wires import WireLogs

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = HardLimit(channel="hv", v_min=Volts(41.0), v_max=Volts(57.0), max_step_v=8.0, slew_v_per_s=500.0)
RUN_V = Volts(55.5)


def session(hv_at: str, chiller_at: str, volts: Volts, polls: int) -> list[tuple[str, float | None, bool]]:
    """Connect, on, off, and what both say: off, on and off again."""
    supply = HamamatsuC11204(
        HamamatsuC11204Settings(name="hv", address=hv_at, model="C11204-02", serial="SIM00001", limit=LIMIT)
    )
    chiller = JulaboCirculator(JulaboSettings(name="chiller", address=chiller_at, model="FL"))
    said: list[tuple[str, float | None, bool]] = []

    async def look() -> None:
        for device in (supply, chiller):
            for _ in range(polls):
                await device.poll()
            said.extend((r.name, r.value, r.measured) for r in device.readings())

    async def work() -> None:
        try:
            for device in (supply, chiller):
                await device.connect()
            await look()
            await supply.on(volts)
            await look()
            await supply.off()
            await look()
        finally:
            for device in (supply, chiller):
                await device.aclose()

    asyncio.run(work())
    return said


def test_the_same_session_reads_the_same_and_another_voltage_gets_no_answer(tmp_path: Path) -> None:
    kinds = {"hv": "hamamatsu-c11204", "chiller": "julabo"}
    logs = WireLogs(tmp_path, lambda tap: {"device": tap.name, "kind": kinds[tap.name]})
    hv = make_instrument(kinds["hv"])
    chiller = JulaboBoard(bath_degc=17.25, room_degc=17.25 - 15.0)  # an idle bath that stays where it is
    with served(hv) as hv_at, served(chiller) as chiller_at, recorded(logs):
        try:
            then = session(hv_at, chiller_at, RUN_V, polls=2)
        finally:
            logs.close()
    assert [value for name, value, _ in then if name == "bias_on"] == [0.0, 1.0, 0.0]

    def again(volts: Volts) -> tuple[list[tuple[str, float | None, bool]], list[int]]:
        sides = [RecordedInstrument(name, tmp_path / "wire" / f"{name}.wire", kind) for name, kind in kinds.items()]
        with served(sides[0]) as hv_at, served(sides[1]) as chiller_at:
            # Asked more often than then, the answers stay those of the same state.
            return session(hv_at, chiller_at, volts, polls=3), [side.unknown for side in sides]

    found, unknown = again(RUN_V)
    assert found == then
    assert unknown == [0, 0]
    with pytest.raises(DriverError):
        again(Volts(54.0))
