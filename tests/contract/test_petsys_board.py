"""The driver of the TOFPET2 readout against the simulated board, in its own process, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.bench_session import HIGHEST_V, Sink, acquire, asic_settings, bias_settings, bias_targets

from petqc.formats.petsys_config import PetsysConfig, load_config
from petqc_drivers.errors import DriverError, LimitError, LinkLostError
from petqc_drivers.limits import Volts
from petqc_drivers.petsys.counters import WINDOW_CLK, CounterMode, Discriminator
from petqc_drivers.petsys.frames import scan_frames
from petqc_drivers.petsys.settings import AsicSettings, PetsysUdpSettings
from petqc_drivers.petsys.test_pulse import TestPulse
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqc_simulators.boards.witness import judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from petqc_drivers.petsys.bias import BiasChannel


@dataclass
class BoardProcess:
    """A simulator process that said it is ready."""

    process: asyncio.subprocess.Process
    port: int
    config: PetsysConfig
    truth: dict[str, Any]
    folder: Path

    def bias_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "bias.jsonl").read_text().splitlines()]


@contextlib.asynccontextmanager
async def board_process(folder: Path, *arguments: str) -> AsyncIterator[BoardProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "petqc_simulators",
        "serve",
        "--state-dir",
        str(folder),
        "--json",
        "--listen",
        "udp://127.0.0.1:0",
        "--until-stdin-closes",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            ready = json.loads(await process.stdout.readline())
        yield BoardProcess(
            process,
            int(ready["address"].rsplit(":", 1)[1]),
            load_config(Path(ready["config"])),
            json.loads(Path(ready["truth"]).read_text()) if ready["truth"] else {},
            folder,
        )
    finally:
        process.stdin.close()
        async with asyncio.timeout(10):
            await process.wait()
        await process.stdout.read()


def readout(board: BoardProcess) -> tuple[PetsysUdpReadout, AsicSettings, dict[BiasChannel, Volts]]:
    settings = PetsysUdpSettings(host="127.0.0.1", udp_port=board.port, bias=bias_settings(board.config), settle_s=0.05)
    return PetsysUdpReadout(settings), asic_settings(board.config), bias_targets(board.config)


def test_a_whole_session(tmp_path: Path) -> None:
    async def session() -> None:
        async with board_process(tmp_path, "--seed", "5", "--truth") as board:
            device, asics, targets = readout(board)
            try:
                identity = await device.connect()
                assert identity.board.kind.asics_per_module == 4
                assert identity.board.mezzanines == ("BIAS_32P",)

                done = await device.configure(asics)
                assert done.chips == [(0, 0, chip) for chip in range(8)]
                assert done.tries == 1

                dark, account = await acquire(device, 0.5)
                energy, _, _ = dark.process(board.config)
                assert account.frames_received > 60_000
                assert energy.size == 0, "no bias, no light"

                with pytest.raises(LimitError):
                    await device.bias_on({next(iter(targets)): Volts(HIGHEST_V + 0.1)})
                await device.bias_on(targets)
                readings = await device.read_temperatures()
                sipm_degc = [r.value for r in readings if "sipm" in r.name]
                assert len(readings) == 16
                assert np.mean(sipm_degc) == pytest.approx(np.mean(board.truth["sipm_temperature_degc"]), abs=0.2)

                lit, account = await acquire(device, 2.0)
                assert account.failure is None
                energy, dt, processed = lit.process(board.config)
                live_s = processed.live_time_s
                scanner = board.truth["scanner"]
                assert energy.size / live_s == pytest.approx(scanner["singles_hz"], rel=0.02)
                assert dt.size / live_s == pytest.approx(scanner["prompts_hz"], rel=0.03)
                in_peak = energy[np.abs(energy - 511) < 40]
                assert np.median(in_peak) == pytest.approx(scanner["photopeak_kev"], abs=1.5)
                near = dt[np.abs(dt) < 600]
                assert 2.3548 * near.std() == pytest.approx(scanner["ctr_rms_fwhm_ps"], rel=0.03)

                await device.bias_off()
                after, _ = await acquire(device, 0.3)
                energy, _, _ = after.process(board.config)
                assert energy.size == 0, "light is gone with the bias"
            finally:
                await device.aclose()
            lines = board.bias_lines()
            sets = [line for line in lines if line["event"] == "set"]
            assert judge(lines, highest_v=HIGHEST_V, lowest_code=0x0445, largest_step_v=3.1) == []
            assert {line["channel"] for line in sets} == set(range(32))
            assert [line["on"] for line in lines if line["event"] == "supply"][-1] is False

    asyncio.run(session())


def test_a_board_that_dies_ends_the_acquisition(tmp_path: Path) -> None:
    async def session() -> None:
        async with board_process(tmp_path, "--seed", "6", "--source", "none") as board:
            device, asics, _ = readout(board)
            try:
                await device.connect()
                await device.configure(asics)
                await device.start(Sink())
                board.process.kill()
                killed_s = time.monotonic()
                with pytest.raises(LinkLostError):
                    await device.wait_failed(10.0)
                assert time.monotonic() - killed_s < 10.0
                account = await device.stop()
                assert account.frames_received > 0
                assert account.failure is not None
            finally:
                with contextlib.suppress(DriverError):
                    await device.aclose()

    asyncio.run(session())


def test_pulses_in_chosen_channels_and_their_counters(tmp_path):
    """Test pulses reach the channels that listen to them and no others, and move with their phase."""

    async def main() -> None:
        async with board_process(tmp_path, "--source", "none") as board:
            device = PetsysUdpReadout(PetsysUdpSettings(host="127.0.0.1", udp_port=board.port))
            await device.connect()
            await device.configure(AsicSettings(mode="tot", channel_fields={"trigger_mode_1": 3}))
            chosen = [(0, 0, 0, 5), (0, 0, 7, 63)]
            assert await device.reconfigure(channels={place: {"trigger_mode_1": 1} for place in chosen}) == 2
            assert await device.reconfigure(channels={place: {"trigger_mode_1": 1} for place in chosen}) == 0
            with pytest.raises(DriverError, match="no channel field 'nonsense'"):
                await device.reconfigure(channels={(0, 0, 0, 5): {"nonsense": 1}})

            async def pulsed(phase_clk: float) -> NDArray[np.uint64]:
                await device.set_test_pulse(TestPulse(100, 1024, phase_clk))
                parts: list[NDArray[np.uint64]] = []
                await device.start(parts.append)
                await device.wait_failed(0.1)
                await device.stop()
                words = np.concatenate(parts)
                starts = scan_frames(words).starts
                is_event = np.ones(words.size, np.bool_)
                is_event[starts] = is_event[starts + 1] = False
                return words[is_event]

            early, late = await pulsed(0.25), await pulsed(3.25)
            assert set((early >> np.uint64(42)).tolist()) == {5, 7 << 6 | 63}
            n_each = np.unique(early >> np.uint64(42), return_counts=True)[1]
            assert n_each[0] == pytest.approx(n_each[1], abs=2)
            coarse = [np.unique(w >> np.uint64(30) & np.uint64(1023)).astype(int) for w in (early, late)]
            assert len(coarse[0]) <= 2
            assert coarse[1].mean() - coarse[0].mean() == pytest.approx(3, abs=0.51)
            await device.set_test_pulse(None)

            counting = {
                "counter_mode": CounterMode.ACTIVE_CLOCKS,
                "trigger_mode_2_b": Discriminator.T1,
                "trigger_mode_1": 0,
                "baseline_t": 20,
            }
            await device.reconfigure(
                global_fields={"counter_en": 1, "counter_period": 6},
                channels={(0, 0, c, k): {**counting, "vth_t1": 63 * (c == 0)} for c in range(8) for k in range(64)},
            )
            reading = await device.read_channel_counters(7)
            assert reading[0, 0, 0].min() > 0.99 * WINDOW_CLK - 2
            assert reading[0, 0, 1].max() < 0.01 * WINDOW_CLK
            await device.aclose()

    asyncio.run(main())
