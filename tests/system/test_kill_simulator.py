"""The board dies in mid-run: an invalid verdict with the reason within ten seconds, and everything told truthfully."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.served_instruments import served

from petqc.formats.bundle_check import check_bundle
from petqc.formats.petsys_raw import RawReader
from petqc.formats.wire_log import WireEvent, WireLogReader
from petqc.reanalyse import reanalyse
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.witness import judge
from petqcd import small_file
from petqcd.app import Daemon
from petqcd.client import Client
from petqcd.config import load_config
from petqcd.errors import DaemonError
from petqcd.places import TRIPPED
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqcd.config import PetqcConfig

VERDICT_WITHIN_S = 10.0


def follow_until(
    client: Any, stop: Callable[[str, dict[str, Any]], bool], **parameters: Any
) -> tuple[str, dict[str, Any]]:
    """Start a run and follow its events until one is the wanted one."""
    with closing(client.events()) as events:
        next(events)
        client.post("/api/v1/runs", {"kind": "source", "parameters": parameters})
        for name, data in events:
            if stop(name, data):
                return name, data
    raise AssertionError("the daemon closed the stream of events")


def next_event(client: Any, wanted: str, deadline_s: float) -> dict[str, Any]:
    end_s = time.monotonic() + deadline_s
    with closing(client.events()) as events:
        for name, data in events:
            if name == wanted:
                return data
            if name == "state" and data["run"] is None:
                return {}
            assert time.monotonic() < end_s, f"no {wanted} within {deadline_s} s"
    raise AssertionError("the daemon closed the stream of events")


def test_sigkill_in_mid_run(tmp_path: Path, serve: Callable[..., Any]) -> None:
    with serve(tmp_path, seconds=120) as daemon:
        _, seen = follow_until(
            daemon.client, lambda name, data: name == "progress" and data["counts"].get("prompts", 0) > 10_000
        )
        os.kill(daemon.simulator_pid(), signal.SIGKILL)
        killed_s = time.monotonic()
        next_event(daemon.client, "finished", VERDICT_WITHIN_S)
        took_s = time.monotonic() - killed_s
        document = daemon.client.get(f"/api/v1/runs/{seen['run_id']}")
        assert took_s < VERDICT_WITHIN_S
        assert document["verdict"] == "invalid"
        assert document["checks"] == []
        assert "no frame for" in document["sentence"]
        assert "UNKNOWN" in document["sentence"]
        assert "hardware switch" in document["sentence"]
        assert document["account"]["prompts"] > 10_000
        status = daemon.client.get("/api/v1/status")
        assert status["device"]["bias"] == "unknown"

        folder = daemon.state_dir / "runs" / seen["run_id"]
        with RawReader(folder / "recording.rawf") as reader:
            (step,) = reader.steps
            assert sum(block.size for block in reader.blocks()) > 20_000
            assert reader.damage is None
        assert step.frames == document["account"]["frames_recorded"]
        last = json.loads((folder / "recording.manifest.jsonl").read_text().splitlines()[-1])
        assert last["state"] == "truncated"
        assert "no frame for" in last["reason"]
        assert (folder / "report.html").is_file()

        shown = daemon.petqc("show", seen["run_id"])
        assert shown.code == 4
        assert "invalid" in shown.out


TRIPPING = """\
[[device]]
[device.simulator]
profile = "bench"
seed = 1
[device.bias]
v_min = 0.0
v_max = 50.0
max_step_v = 20.0
slew_v_per_s = 100.0
[[device]]
name = "chiller"
kind = "julabo"
address = "{chiller}"
model = "FL"
cooling_permit = false
simulated = true
poll_s = 0.2
reply_timeout_s = 5
[[permit]]
name = "cooling"
device = "chiller"
reading = "temperature_coolant"
high = 22
doubt_s = 60
[qc.source]
seconds = 120
settle_s = 0.0
[api]
listen = "127.0.0.1:0"
"""


@pytest.mark.timeout(600)
def test_a_trip_of_the_readout_outlives_the_daemon_and_its_simulator(tmp_path: Path) -> None:
    """Lost in mid-run: bias off, record invalid. Started again: tripped, until acknowledged and then reset."""

    async def until(holds: Callable[[], Any], what: str) -> None:
        async with asyncio.timeout(150.0):
            while not holds():  # noqa: ASYNC110 - what is waited for is another program's
                await asyncio.sleep(0.02)
        assert holds(), what

    async def refused(daemon: Daemon, path: str) -> str:
        with pytest.raises(DaemonError) as caught:
            await asyncio.to_thread(Client(daemon.state_dir).post, path, {}, 30.0)
        return str(caught.value)

    async def energised(daemon: Daemon) -> str:
        run_id = await daemon.runs.start("source", source="test")
        await until(
            lambda: daemon.device.state.bias is BiasState.ON or daemon.runs.progress is None,
            "the run energises, or ends",
        )
        return run_id

    async def verdict(daemon: Daemon, run_id: str) -> dict[str, Any]:
        await until(lambda: daemon.runs.progress is None, "the run ends")
        document = await asyncio.to_thread(Client(daemon.state_dir).get, f"/api/v1/runs/{run_id}")
        assert document["verdict"] == "invalid"
        return dict(document)

    async def story(config: PetqcConfig, chiller: JulaboBoard) -> None:
        state_dir = tmp_path / "state"
        async with Daemon(config, state_dir) as daemon:
            await until(lambda: daemon.readout_watch.against() == (), "the coolant is cold")
            run_id = await energised(daemon)
            assert daemon.device.state.bias is BiasState.ON
            chiller.bath_degc = 25.0
            assert "permit lost: cooling is not given" in (await verdict(daemon, run_id))["sentence"]
            assert daemon.device.state.bias is BiasState.OFF_CONFIRMED
            chiller.bath_degc = 18.0
            await until(lambda: daemon.readout_watch.document()["trip"]["causes"], "it is told")
        async with Daemon(config, state_dir) as daemon:
            (cause,) = daemon.readout_watch.document()["trip"]["causes"]
            assert cause["cause"].startswith("before petqc was started: permit lost: cooling")
            assert "acknowledge it first" in await refused(daemon, "/api/v1/bias/board/reset")
            await until(lambda: len(daemon.readout_watch.against()) == 1, "only the trip is against it")
            told = len(lines())
            assert "no latched trip" in (await verdict(daemon, await energised(daemon)))["sentence"]
            assert not [line for line in lines()[told:] if line["event"] == "supply" and line["on"]]
            post = Client(daemon.state_dir).post
            await asyncio.to_thread(post, "/api/v1/bias/board/acknowledge", {}, 30.0)
            assert "no latched trip" in str(daemon.readout_watch.against())  # seen is not reset
            chiller.bath_degc = 25.0
            await until(lambda: len(daemon.readout_watch.against()) == 2, "the coolant is warm")
            assert "the cause is still there" in await refused(daemon, "/api/v1/bias/board/reset")
            chiller.bath_degc = 18.0
            await until(lambda: len(daemon.readout_watch.against()) == 1, "the coolant is cold")
            await asyncio.to_thread(post, "/api/v1/bias/board/reset", {}, 30.0)
            assert daemon.device.state.bias is not BiasState.ON  # reset is not energised
            run_id = await energised(daemon)
            assert daemon.device.state.bias is BiasState.ON
            daemon.runs.abort("seen enough")
            await verdict(daemon, run_id)
        assert small_file.read_newest(state_dir / TRIPPED, "petqc-tripped/1")["tripped"] == {}

    def lines() -> list[dict[str, Any]]:
        path = tmp_path / "state" / "simulator" / "board" / "bias.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    chiller = JulaboBoard(bath_degc=18.0, room_degc=3.0)
    with served(chiller, speed=10.0) as address:
        (tmp_path / "petqc.toml").write_text(TRIPPING.format(chiller=address))
        asyncio.run(story(load_config(tmp_path / "petqc.toml"), chiller))
    assert judge(lines(), highest_v=50.0, lowest_code=0x0445, largest_step_v=20.0) == []


@pytest.mark.slow
def test_the_daemon_itself_killed_leaves_a_record_and_a_readable_recording(
    tmp_path: Path, serve: Callable[..., Any]
) -> None:
    """Its bias comes from supplies that the simulator serves beside the readout."""
    with serve(tmp_path, seconds=120, profile="bench-c11204") as daemon:
        _, seen = follow_until(
            daemon.client,
            lambda name, data: name == "progress" and data["counts"].get("prompts", 0) > 50_000,
            record="everything",
        )
        instruments = daemon.client.get("/api/v1/devices")["instruments"]
        assert {one["name"]: one["state"] for one in instruments} == {
            "bias-0": "on", "bias-1": "on", "chiller": "answers",
        }  # fmt: skip
        simulator = daemon.simulator_pid()
        daemon.process.kill()
        daemon.process.wait()
        end_s = time.monotonic() + 10
        while Path(f"/proc/{simulator}").exists() and time.monotonic() < end_s:  # it ends with its daemon
            time.sleep(0.05)
        assert not Path(f"/proc/{simulator}").exists()
    with serve(tmp_path, seconds=120, profile="bench-c11204") as daemon:
        document = daemon.client.get(f"/api/v1/runs/{seen['run_id']}")
        assert document["verdict"] == "invalid"
        assert "interrupted" in document["sentence"]
        folder = daemon.state_dir / "runs" / seen["run_id"]
        with RawReader(folder / "recording.rawf") as reader:
            assert sum(block.size for block in reader.blocks()) > 20_000
        assert not list(folder.glob("*.partial"))
        # Every wire up to the second before it died: the supplies, the chiller, and the readout's commands.
        found = check_bundle(folder)
        assert not found.problems
        assert found.bundle.state == "truncated"
        wires = {(wire.device, wire.transport) for wire in found.bundle.wires}
        assert wires >= {("bias-0", "serial"), ("bias-1", "serial"), ("chiller", "serial"), ("board", "udp")}
        for wire in found.bundle.wires:
            with WireLogReader(folder / wire.file) as log:
                assert sum(r.event is WireEvent.RECEIVED for r in log.records()) > 5, wire.name
                assert not log.end.is_closed
                assert len(log.damages) <= 1  # the record that was being written
        again = reanalyse(folder)
        assert again.reanalysis_of == seen["run_id"]
        assert again.sentence.startswith("Re-analysis of a truncated recording: ")
        assert again.account["prompts"] > 1000
