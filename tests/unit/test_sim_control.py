"""Faults of a simulator that runs: planted and taken away through its control socket."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc_simulators import control
from petqc_simulators.boards.frame_clock import FrameClock
from petqc_simulators.faults import Fault
from petqc_simulators.live_faults import DetectorFaults, LiveFaults
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import ProfileError, load_profile
from petqcd.errors import RefusedError, UnreachableError
from petqcd.readout.simulator_control import SimulatorControl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BENCH = load_profile("bench", source="none")


@pytest.fixture
def detector() -> Detector:
    return Detector(BENCH, 3, [Fault.parse("F14=300")])


@pytest.fixture
def faults(detector: Detector) -> LiveFaults:
    return LiveFaults({"detector": DetectorFaults(detector)}, [Fault.parse("F14=300")])


def test_a_fault_acts_from_now_on_until_it_is_taken_away(detector: Detector, faults: LiveFaults) -> None:
    detector.advance()
    added = faults.add("F06=7:module:0.0.1")
    assert (added["number"], added["nodes"], added["is_acting"]) == (2, ["module:0.0.1"], True)
    assert detector.effects.warmer_k.tolist() == [0.0, 7.0]
    # A synchronisation is not its end, and what was there from the start is there again.
    detector.restart()
    assert detector.effects.warmer_k.tolist() == [0.0, 7.0]
    assert faults.remove(2)["id"] == "F06"
    assert detector.effects.warmer_k.tolist() == [0.0, 0.0]
    assert [one["id"] for one in faults.documents()] == ["F14"]
    faults.remove(1)
    detector.restart()
    assert not detector.effects.module_delay_ps.any()
    with pytest.raises(ProfileError, match="no fault with number 1; there is none at all"):
        faults.remove(1)


def test_times_count_from_now_on_also_over_a_synchronisation(detector: Detector, faults: LiveFaults) -> None:
    for _ in range(4):
        detector.advance()
    faults.add(f"F05=3:asic:0.0.2@{1.5 * BLOCK_S:.6f}-{5.5 * BLOCK_S:.6f}")
    there = []
    for block in range(8):
        if block == 4:
            detector.restart()
        detector.advance()
        there.append(bool(detector.effects.sensor_k[2]))
    assert there == [False, False, True, True, True, True, False, False]


def test_times_pass_while_no_frames_are_made(detector: Detector, faults: LiveFaults) -> None:
    """Between two runs, too: what was to act for four seconds is over, and listed as over; it began before."""
    clock = FrameClock(detector)
    clock.synchronise(0.0)
    clock.advance(2 * BLOCK_S)
    clock.stop()
    added = faults.add("F06=7:module:0.0.1@1-5")
    said = []
    for elapsed_s in (0.5, 2.0, 4.5, 6.0):
        clock.advance(2 * BLOCK_S + elapsed_s)
        said.append((faults.documents()[1]["is_acting"], detector.effects.warmer_k[1]))
    assert said == [(False, 0.0), (True, 7.0), (True, 7.0), (False, 0.0)]
    clock.synchronise(7.0)
    clock.advance(7.0 + 2 * BLOCK_S)
    assert not detector.effects.warmer_k.any()
    assert added["number"] == 2


def test_a_source_that_moves_farther_than_was_planned_moves(detector: Detector, faults: LiveFaults) -> None:
    detector.advance()
    faults.add("F26=20")
    assert np.linalg.norm(detector.effects.source_mm) == pytest.approx(20.0)
    detector.advance()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("F99", "not known"),
        ("F06=7:module:0.0.9", "there is no module:0.0.9"),
        ("F06=7:asic:0.0.1", "it sits at a place of the kind module, not at asic:0.0.1"),
        ("F01=2:channel:0.0.0.1", "names one channel"),
        ("F01=600", "at most 256"),
        ("F22", "in the configuration"),
    ],
)
def test_what_cannot_be_planted_changes_nothing(text: str, why: str, detector: Detector, faults: LiveFaults) -> None:
    with pytest.raises(ProfileError, match=why):
        faults.add(text)
    assert len(faults.documents()) == len(detector.plan.faults) == 1


@pytest.fixture
def served(faults: LiveFaults, tmp_path: Path) -> Iterator[Path]:
    with control.control_path(tmp_path) as path, control.serving(faults, path):
        yield path


def said(path: Path, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(line + b"\n")
        found: dict[str, Any] = json.loads(client.makefile("rb").readline())
        return found


def test_the_daemon_asks_over_the_socket_and_is_refused_with_the_reason(served: Path) -> None:
    async def ask() -> None:
        there = SimulatorControl(is_simulated=True, path=served)
        assert (await there.ask({"do": "add", "fault": "F02=500"}))["fault"]["number"] == 2
        assert [one["id"] for one in (await there.ask({"do": "list"}))["faults"]] == ["F14", "F02"]
        assert (await there.ask({"do": "kinds"}))["kinds"][0]["id"] == "F01"
        assert (await there.ask({"do": "remove", "number": 2}))["fault"]["is_acting"] is False
        with pytest.raises(RefusedError, match="F99"):
            await there.ask({"do": "add", "fault": "F99"})
        with pytest.raises(RefusedError, match="not simulated"):
            await SimulatorControl(is_simulated=False, path=served).ask({"do": "list"})
        with pytest.raises(UnreachableError):
            await SimulatorControl(is_simulated=True).ask({"do": "list"})
        with pytest.raises(UnreachableError, match="nowhere"):
            await SimulatorControl(is_simulated=True, path=served.with_name("nowhere")).ask({"do": "list"})

    asyncio.run(ask())


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b'{"do":"list","x":1}', b'{"do":"remove","number":"2"}'])
def test_what_is_no_request_is_told_so(served: Path, line: bytes) -> None:
    answer = said(served, line)
    assert answer["ok"] is False
    assert "a request is" in answer["error"]


def test_a_request_without_end_ends_the_connection(served: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(served))
        client.sendall(b"x" * (control.MOST_BYTES + 1))
        assert client.recv(1) == b""


def test_a_long_folder_gets_a_short_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with control.control_path(folder) as path:
        assert path.parent != folder
        assert path.parent.is_dir()
    assert not path.parent.exists()
