"""The driver behind the simulated daemon, in its own process: a UNIX socket and a ring of frames in shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.bench_session import HIGHEST_V, Sink, acquire, asic_settings, bias_settings, bias_targets

from petqc.formats.petsys_config import PetsysConfig, load_config
from petqc_drivers.device import OutputState
from petqc_drivers.errors import ConnectError, DriverError, LinkLostError
from petqc_drivers.petsys.daqd_readout import PetsysDaqdReadout
from petqc_drivers.petsys.settings import AsicSettings, PetsysDaqdSettings
from petqc_simulators.boards.witness import judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from petqc_drivers.limits import Volts
    from petqc_drivers.petsys.bias import BiasChannel
    from petqc_drivers.petsys.receive import ReceiveAccount


@dataclass
class DaemonProcess:
    """A simulator process that said it is ready."""

    process: asyncio.subprocess.Process
    socket: Path
    shared_memory: Path
    config: PetsysConfig
    truth: dict[str, Any]
    folder: Path

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())


@contextlib.asynccontextmanager
async def daemon_process(folder: Path, *arguments: str) -> AsyncIterator[DaemonProcess]:
    name = f"/petqc-test-{os.getpid()}-{time.monotonic_ns()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "petqc_simulators", "serve", "--state-dir", str(folder), "--until-stdin-closes"),
        *("--json", "--listen", f"unix:{folder / 'd.sock'}", "--shared-memory", name, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    memory = Path("/dev/shm") / name[1:]
    try:
        async with asyncio.timeout(120):
            ready = json.loads(await process.stdout.readline())
        assert ready["address"] == f"unix:{folder / 'd.sock'}"
        assert ready["shared_memory"] == name
        config = load_config(Path(ready["config"]))
        truth = json.loads(Path(ready["truth"]).read_text()) if ready["truth"] else {}
        yield DaemonProcess(process, folder / "d.sock", memory, config, truth, folder)
    finally:
        process.stdin.close()
        async with asyncio.timeout(10):
            await process.wait()
        await process.stdout.read()
        memory.unlink(missing_ok=True)  # what a killed daemon leaves


def readout(daemon: DaemonProcess) -> tuple[PetsysDaqdReadout, AsicSettings, dict[BiasChannel, Volts]]:
    settings = PetsysDaqdSettings(socket=str(daemon.socket), bias=bias_settings(daemon.config), settle_s=0.05)
    return PetsysDaqdReadout(settings), asic_settings(daemon.config), bias_targets(daemon.config)


def assert_received_is_sent(sink: Sink, account: ReceiveAccount, sent: dict[str, Any]) -> None:
    """Frame by frame, event by event and bit by bit."""
    rejected = dict(account.frames_rejected)
    before_start = rejected.pop("before-start", 0)
    assert rejected == {}
    assert account.datagrams_rejected == {}
    assert account.failure is None
    assert account.frames_received == sent["frames_released"]
    assert account.frames_delivered == sent["frames_released_valid"]
    assert before_start == sent["frames_released"] - sent["frames_released_valid"]
    assert account.events == sent["events_released"]
    assert sink.crc32 == sent["crc32"]
    # What a busy machine drops because the ring is full is missing by its ids, but for the ends of the acquisition.
    assert account.frames_missing <= sent["frames_dropped"]


def test_a_whole_session(tmp_path: Path) -> None:
    async def session() -> None:
        sinks: list[tuple[Sink, ReceiveAccount]] = []
        async with daemon_process(tmp_path, "--seed", "5", "--truth") as daemon:
            assert daemon.shared_memory.stat().st_size == 1_074_266_112
            device, asics, targets = readout(daemon)
            try:
                identity = await device.connect()
                assert identity.board.mezzanines == ("BIAS_32P",)
                done = await device.configure(asics)
                assert done.chips == [(0, 0, chip) for chip in range(8)]

                sinks.append(await acquire(device, 0.5))
                energy, _, _ = sinks[-1][0].process(daemon.config)
                assert sinks[-1][1].frames_received > 20_000
                assert energy.size == 0, "no bias, no light"

                await device.bias_on(targets)
                assert len(await device.read_temperatures()) == 16
                sinks.append(await acquire(device, 2.0))
                energy, dt, processed = sinks[-1][0].process(daemon.config)
                scanner, got = daemon.truth["scanner"], sinks[-1][1]
                live_s = processed.live_time_s * got.frames_delivered / (got.frames_delivered + got.frames_missing)
                assert energy.size / live_s == pytest.approx(scanner["singles_hz"], rel=0.02)
                assert dt.size / live_s == pytest.approx(scanner["prompts_hz"], rel=0.03)

                report = await device.bias_off()
                assert report.state is OutputState.OFF
                assert report.set_points_lowered == 32
                assert device.link_account.replies_malformed == 0
            finally:
                await device.aclose()
            lines = [json.loads(line) for line in (tmp_path / "bias.jsonl").read_text().splitlines()]
            assert judge(lines, highest_v=HIGHEST_V, lowest_code=0x0445, largest_step_v=3.1) == []
        sent = daemon.state()["daqd"]["acquisitions"]
        for (sink, account), one in zip(sinks, sent, strict=True):
            assert_received_is_sent(sink, account, one)
        assert not daemon.socket.exists()
        assert not daemon.shared_memory.exists()

    asyncio.run(session())


def test_a_daemon_that_is_killed_is_told_by_name_and_nothing_is_removed(tmp_path: Path) -> None:
    """SHM-01."""

    async def session() -> None:
        async with daemon_process(tmp_path, "--seed", "6", "--source", "none") as daemon:
            device, asics, _ = readout(daemon)
            try:
                await device.connect()
                await device.configure(asics)
                await device.start(Sink())
                daemon.process.kill()
                killed_s = time.monotonic()
                with pytest.raises(LinkLostError, match=f"{daemon.socket}.*daemon"):
                    await device.wait_failed(10.0)
                assert time.monotonic() - killed_s < 10.0
                account = await device.stop()
                assert account.frames_received > 0
                assert account.failure is not None
                await daemon.process.wait()
                with pytest.raises(ConnectError, match=f"stale.*{daemon.socket}"):
                    await device.connect()
            finally:
                with contextlib.suppress(DriverError):
                    await device.aclose()
            assert daemon.socket.exists()
            assert daemon.shared_memory.exists()

    asyncio.run(session())


def test_a_daemon_that_stops_answering_ends_the_acquisition(tmp_path: Path) -> None:
    async def session() -> None:
        async with daemon_process(tmp_path, "--seed", "6", "--source", "none") as daemon:
            device, asics, _ = readout(daemon)
            try:
                await device.connect()
                await device.configure(asics)
                await device.start(Sink())
                daemon.process.send_signal(signal.SIGSTOP)
                try:
                    with pytest.raises(LinkLostError, match="no frame for 4"):
                        await device.wait_failed(10.0)
                    account = await device.stop()
                    assert account.frames_received == account.frames_delivered + sum(account.frames_rejected.values())
                finally:
                    daemon.process.send_signal(signal.SIGCONT)
            finally:
                with contextlib.suppress(DriverError):
                    await device.aclose()

    asyncio.run(session())


def test_a_second_daemon_is_refused_what_the_first_has(tmp_path: Path) -> None:
    async def session() -> None:
        async with daemon_process(tmp_path, "--seed", "6", "--source", "none") as daemon:
            second = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "petqc_simulators", "serve", "--state-dir", str(tmp_path / "second")),
                *("--listen", f"unix:{tmp_path / 'second.sock'}", "--shared-memory", f"/{daemon.shared_memory.name}"),
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                _, complaint = await second.communicate()
            assert second.returncode == 2
            assert str(daemon.shared_memory) in complaint.decode()
            assert not (tmp_path / "second.sock").exists()
            assert daemon.shared_memory.exists()

    asyncio.run(session())
