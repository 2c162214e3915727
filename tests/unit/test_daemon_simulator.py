"""The simulator as a process: ready within a deadline, restarted when it dies, ended with its daemon."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from petqcd.config import SimulatorConfig, simulated_device
from petqcd.errors import SimulatorError, SimulatorRefusedError, UnreachableError
from petqcd.metrics import Metrics
from petqcd.progress import Bus
from petqcd.readout import simulator_process, supervisor
from petqcd.readout.simulator_process import Place, SimulatorProcess, command
from petqcd.readout.supervisor import DeviceSupervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READY = {
    "ready": True,
    "address": "udp://127.0.0.1:5",
    "config": "/c/config.ini",
    "profile": "bench",
    "seed": 1,
}
SAY_READY = f"import sys; print({json.dumps(json.dumps(READY))}, flush=True); "
UNTIL_STDIN_CLOSES = "sys.stdin.read()"


def pretend(monkeypatch: pytest.MonkeyPatch, *programs: str) -> list[int]:
    """Start these programs, one after the other, where a simulator would be started; the last one again and again."""
    started: list[int] = []

    def instead(*_: object) -> list[str]:
        started.append(1)
        return [sys.executable, "-c", programs[min(len(started), len(programs)) - 1]]

    monkeypatch.setattr(simulator_process, "command", instead)
    return started


def test_it_is_ready_and_ends_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, SAY_READY + UNTIL_STDIN_CLOSES)

    async def work() -> None:
        process = SimulatorProcess(SimulatorConfig(), tmp_path / "s")
        ready = await process.start()
        assert ready.address == "udp://127.0.0.1:5"
        assert ready.config == Path("/c/config.ini")
        assert process.pid is not None
        await process.stop()
        await process.stop()
        assert process.pid is None

    asyncio.run(work())


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('no such thing')", "ended with code 1 before it was ready: no such thing"),
        ("print('hello')", "'hello.n' where its ready line belongs"),
        ("print('{\"ready\": true}')", "where its ready line belongs"),
        ("print('x' * 1_000_000)", "where its ready line belongs"),
    ],
)
def test_what_it_says_instead_of_ready_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    pretend(monkeypatch, program)
    with pytest.raises(SimulatorError, match=said):
        asyncio.run(SimulatorProcess(SimulatorConfig(), tmp_path).start())


def test_one_that_fills_its_pipe_before_it_is_told_to_end_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that it said is left unread: asyncio sees the end of a process after the end of its pipes."""
    ended = simulator_process.end

    async def late(process: asyncio.subprocess.Process) -> None:
        await asyncio.sleep(0.3)  # as on a busy machine: the pipe and the reader's buffer fill up meanwhile
        await ended(process)

    monkeypatch.setattr(simulator_process, "end", late)
    pretend(monkeypatch, "import sys\nwhile True: print('x' * 1_000_000)")
    with pytest.raises(SimulatorError, match="where its ready line belongs"):
        asyncio.run(SimulatorProcess(SimulatorConfig(), tmp_path).start())
    assert "is killed" not in caplog.text


def test_one_that_is_never_ready_is_ended_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import sys; " + UNTIL_STDIN_CLOSES)
    with pytest.raises(SimulatorError, match=r"not ready after 0.3 s"):
        asyncio.run(SimulatorProcess(SimulatorConfig(), tmp_path).start(deadline_s=0.3))


def test_one_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_process, "STOP_DEADLINE_S", 0.3)
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    pretend(monkeypatch, ignoring + SAY_READY + "time.sleep(60)")

    async def work() -> None:
        process = SimulatorProcess(SimulatorConfig(), tmp_path)
        await process.start()
        await process.stop()
        assert "signal 9" in str(await process.wait_ended())

    asyncio.run(work())


def test_one_that_babbles_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    babble = "[print('x' * 200_000, file=f, flush=True) for f in (sys.stdout, sys.stderr) for _ in range(20)]; "
    pretend(monkeypatch, SAY_READY + babble + "sys.exit(7)")

    async def work() -> str:
        process = SimulatorProcess(SimulatorConfig(), tmp_path)
        await process.start()
        async with asyncio.timeout(20):
            ended = await process.wait_ended()
        await process.stop()
        return str(ended)

    assert "ended with code 7" in asyncio.run(work())


def test_the_command_line_carries_every_setting(tmp_path: Path) -> None:
    settings = SimulatorConfig(seed=7, source="ge68", speed=0.5, faults=("F01", "F03=100@5"))
    line = command(settings, tmp_path, Place.of("petsys-udp", tmp_path))
    assert line[:4] == [sys.executable, "-m", "petqc_simulators", "serve"]
    pairs = list(itertools.pairwise(line))
    for pair in (
        ("--seed", "7"),
        ("--source", "ge68"),
        ("--speed", "0.5"),
        ("--fault", "F01"),
        ("--fault", "F03=100@5"),
        ("--state-dir", str(tmp_path)),
    ):
        assert pair in pairs
    assert line[-1] == "--until-stdin-closes"


def test_a_simulated_daemon_has_names_of_its_own_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Also when it is killed: what it left is removed before the next one starts, unless somebody answers there."""
    kind = "petsys-daqd"
    place, other = Place.of(kind, tmp_path), Place.of(kind, tmp_path / "other")
    assert place.listen == f"unix:{tmp_path / 'd.sock'}"
    assert place.shared_memory != other.shared_memory
    with pytest.raises(SimulatorRefusedError, match="at most 107 bytes"):
        Place.of(kind, tmp_path / ("x" * 120))
    memory = Path("/dev/shm") / str(place.shared_memory)[1:]

    async def work() -> None:
        memory.touch()  # left by one whose daemon was killed too
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "d.sock"))
        process = SimulatorProcess(SimulatorConfig(source="none"), tmp_path, kind)
        try:
            ready = await process.start(60)
            assert (ready.address, ready.shared_memory) == (place.listen, place.shared_memory)
            place.clear()
            assert memory.stat().st_size > 1e9
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            await process.wait_ended()
            assert memory.exists()
        finally:
            await process.stop()

    asyncio.run(work())
    assert not memory.exists()
    assert not (tmp_path / "d.sock").exists()


@asynccontextmanager
async def supervised(folder: Path) -> AsyncIterator[tuple[DeviceSupervisor, Metrics]]:
    metrics = Metrics("bench", "board", simulated=True)
    device = DeviceSupervisor(simulated_device(), folder, Bus(), metrics)
    task = asyncio.create_task(device.run())
    try:
        yield device, metrics
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_one_that_dies_is_started_again_with_a_growing_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    original = asyncio.sleep

    async def noting(seconds: float) -> None:
        pauses.append(seconds)
        await original(0)

    monkeypatch.setattr(supervisor.asyncio, "sleep", noting)
    started = pretend(monkeypatch, *["import sys; sys.exit(3)"] * 4, SAY_READY + UNTIL_STDIN_CLOSES)

    async def work() -> None:
        async with supervised(tmp_path) as (device, metrics):
            endpoint = await device.endpoint(30)
            assert endpoint.address == "udp://127.0.0.1:5"
            assert device.ready
            assert "code 3" in device.ended_because(0.0)
            assert 'petqc_simulator_restarts_total{device="board",scanner="bench"} 4.0' in metrics.text().decode()

    asyncio.run(work())
    assert len(started) == 5
    for pause, expected in zip(pauses, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert expected * 0.8 <= pause <= expected * 1.2


def test_one_that_refuses_its_settings_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = pretend(monkeypatch, "import sys; print('fault F99 is not known', file=sys.stderr); sys.exit(2)")

    async def work() -> None:
        async with supervised(tmp_path) as (device, _):
            for _again in range(2):
                with pytest.raises(SimulatorRefusedError, match="F99 is not known"):
                    await device.endpoint(30)

    asyncio.run(work())
    assert len(started) == 1


def test_waiting_for_one_that_does_not_come_has_an_end(tmp_path: Path) -> None:
    async def work() -> None:
        device = DeviceSupervisor(simulated_device(), tmp_path, Bus(), Metrics("s", "board", simulated=True))
        assert not device.ready
        with pytest.raises(UnreachableError, match="board"):
            await device.endpoint(0.05)

    asyncio.run(work())
