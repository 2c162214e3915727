"""The instruments that a simulator serves beside the readout: taken from its word where that can do no harm."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.served_instruments import served
from tests.contract.supervised import BY_KIND, supervising, table, until

from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.profile import load_profile
from petqcd.config import BiasSourceConfig, SimulatorConfig, instrument_config
from petqcd.errors import SimulatorError
from petqcd.instruments.collection import Instruments
from petqcd.metrics import Metrics
from petqcd.progress import Bus
from petqcd.readout import simulator_process
from petqcd.readout.simulator_process import SimulatorProcess

if TYPE_CHECKING:
    from pathlib import Path

READY = {"ready": True, "address": "udp://127.0.0.1:5", "config": "/c", "profile": "p", "seed": 1}
CHILLER = {"name": "chiller", "kind": "julabo", "model": "FL"}


def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *devices: dict[str, Any]) -> list[Any]:
    """What is made of a simulator's word."""
    line = json.dumps({**READY, "devices": devices})
    program = f"import sys; print({line!r}, flush=True); sys.stdin.read()"
    monkeypatch.setattr(simulator_process, "command", lambda *_: [sys.executable, "-c", program])

    async def work() -> list[Any]:
        process = SimulatorProcess(SimulatorConfig(), tmp_path)
        try:
            return list((await process.start()).instruments)
        finally:
            await process.stop()

    return asyncio.run(work())


def test_they_are_simulated_whatever_it_says_and_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = told(tmp_path, monkeypatch, {**CHILLER, "address": "socket://127.0.0.1:4000", "simulated": False})
    assert found.simulated
    for address in ("/dev/ttyUSB0", "socket://192.168.1.9:4000", "socket://127.0.0.10:4000"):
        with pytest.raises(SimulatorError, match="where its ready line belongs"):
            told(tmp_path, monkeypatch, {**CHILLER, "address": address})
    with pytest.raises(SimulatorError, match="where its ready line belongs"):
        told(tmp_path, monkeypatch, {**CHILLER, "address": "socket://127.0.0.1:4000", "colour": "red"})


@pytest.mark.parametrize("profile", ["bench-c11204", "bench-timing"])
def test_what_a_profile_tells_can_be_supervised(profile: str, tmp_path: Path) -> None:
    scanner = Scanner(load_profile(profile), seed=1, witness_folder=tmp_path)
    sides = scanner.instruments.wire_sides()
    addresses = {name: f"socket://127.0.0.1:{4000 + number}" for number, name in enumerate(sides)}
    found = [instrument_config(one) for one in scanner.instruments.device_tables(addresses)]
    scanner.close()
    assert all(one.simulated and one.address.startswith(simulator_process.SIMULATED_PLACES) for one in found)
    supplies = [one for one in found if isinstance(one, BiasSourceConfig)]
    assert len(supplies) == (2 if profile == "bench-c11204" else 0)
    for one in supplies:
        assert one.bias is not None
        assert one.run_v == pytest.approx(56.0, abs=0.5)
        assert 1.0 < one.bias.v_max - one.run_v < 4.0


def test_those_of_the_last_simulator_take_the_place_of_the_ones_before() -> None:
    async def work() -> None:
        with served(BY_KIND["julabo"].board()) as first, served(BY_KIND["julabo"].board()) as second:
            named = instrument_config(table("julabo", first, name="mine"))
            instruments = Instruments([named], Bus(), Metrics("bench", "board", simulated=True))
            rig = type("Rig", (), {"instruments": instruments})()
            async with supervising(rig):
                for address in (first, second):
                    said = [instrument_config(table("julabo", address, name=name)) for name in ("mine", "its")]
                    instruments.told(said)
                    assert [one.name for one in instruments] == ["mine", "its"]
                    assert instruments["mine"].config is named  # what petqc.toml says goes first
                    assert instruments["its"].config.address == address
                    await until(lambda: all(one.answers for one in instruments))

    asyncio.run(work())
