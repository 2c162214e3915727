"""The board dies in mid-run: an invalid verdict with the reason within ten seconds, and everything told truthfully."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from petqc.formats.bundle_check import check_bundle
from petqc.formats.petsys_raw import RawReader
from petqc.formats.wire_log import WireEvent, WireLogReader
from petqc.reanalyse import reanalyse

if TYPE_CHECKING:
    from collections.abc import Callable

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
