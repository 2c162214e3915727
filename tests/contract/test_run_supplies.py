"""A run whose detector is biased by supplies: on through every permit, off with the board, whatever the board says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contract import interlocked_bench
from tests.contract.interlocked_bench import Bench, bench

from petqc.formats.petsys_config import load_config
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.physics.draw import draw_detector
from petqc_simulators.profile import load_profile
from petqcd.errors import DaemonError, PermitError, RefusedError
from petqcd.readout.board import switch_off
from petqcd.readout.supervisor import BiasState, Endpoint
from petqcd.readout.supplied_board import RunSupplies, SuppliedBoard
from petqcd.security.audit import entries

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def with_a_voltage_for_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        interlocked_bench, "CONFIG", interlocked_bench.CONFIG.replace('name = "hv"\n', 'name = "hv"\nrun_v = 54\n')
    )


def board_of(b: Bench, folder: Path) -> SuppliedBoard:
    """A readout without bias outputs, at an address where nobody is, and the supplies of the daemon."""
    profile = load_profile("bench-c11204")
    config = write_config_folder(folder / "config", profile, draw_detector(profile, 1))
    daemon = b.daemon
    supplies = RunSupplies(daemon.instruments, daemon.bias, daemon.audit)
    return SuppliedBoard(Endpoint("udp://127.0.0.1:9", config), load_config(config), None, supplies=supplies)


def test_on_within_permits_and_off_although_the_board_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv, caen = b.supplies.hv, b.supplies.caen
            (missing,) = b.daemon.readiness.missing()  # the supplies have limits, and the board has no output
            assert "config.ini" in missing
            assert "config.ini" in await b.refused("/api/v1/runs", kind="housekeeping", parameters={})
            board = board_of(b, tmp_path)
            with pytest.raises(RefusedError, match="one voltage for runs"):
                await board.bias_on(0.8)
            assert not hv.is_on
            await board.bias_on()
            assert hv.output_v == pytest.approx(54.0, abs=0.01)
            assert caen.output_v == 0.0  # nobody said that runs may switch it
            with pytest.raises(RefusedError, match=r"while the output is on|stays as it is"):
                await board.bias_on()
            watch = asyncio.create_task(board._supplies.wait_failed())
            await b.daemon.bias.follow("hv", 53.5)  # as what follows the temperature does
            await asyncio.sleep(0.05)
            assert not watch.done()
            await b.post("/api/v1/bias/hv/set", volts=50.0)
            with pytest.raises(DaemonError, match="another voltage"):
                await watch
            await b.post("/api/v1/bias/hv/set", volts=54.0)
            watch = asyncio.create_task(board._supplies.wait_failed())
            b.supplies.chiller.bath_degc = 25.0
            with pytest.raises(DaemonError, match=r"hv is tripped: .*cooling"):
                await watch
            outcome = await switch_off(board)
            assert outcome.state is BiasState.UNKNOWN  # the board's
            assert "127.0.0.1:9" in outcome.told
            assert not hv.is_on
            said = await asyncio.to_thread(entries, b.daemon.store, limit=100)
            acts = [one["phase"] for one in said[::-1] if (one["action"], one["target"]) == ("energise", "hv")]
            assert acts[:2] == ["intent", "result"]
            await board.aclose()

    asyncio.run(story())


def test_without_a_permit_nothing_goes_on_and_a_run_that_is_stopped_leaves_nothing_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        interlocked_bench, "CONFIG", interlocked_bench.CONFIG.replace("slew_v_per_s = 100", "slew_v_per_s = 4")
    )

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            b.supplies.chiller.bath_degc = 25.0
            await b.until(lambda: bool(b.daemon.watch.against("hv")), "too warm")
            board = board_of(b, tmp_path)
            with pytest.raises(PermitError, match="cooling"):
                await board.bias_on()
            assert not hv.is_on
            b.supplies.chiller.bath_degc = 18.0
            await b.until(lambda: not b.daemon.watch.against("hv"), "cold again")
            ramp = asyncio.create_task(board.bias_on())
            await b.until(lambda: hv.is_on, "on its way up")
            ramp.cancel()
            await asyncio.wait({ramp})
            await switch_off(board)
            assert not hv.is_on
            await asyncio.sleep(0.2)
            assert not hv.is_on
            await board.aclose()

    asyncio.run(story())
