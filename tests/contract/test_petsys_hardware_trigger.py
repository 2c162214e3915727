"""The driver sets the hardware trigger of a simulated board over a real socket: coincidences pass, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.simulated_kinds import Kind, Served, compile_kernels, served

from petqc_drivers.petsys.frames import scan_frames
from petqc_drivers.petsys.hardware_trigger import TriggerSettings
from petqc_drivers.petsys.settings import AsicSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SECONDS = 0.4
ENOUGH_FRAMES = 2000
CLOSE_CLK, FAR_CLK = 2, 12
"""Clocks between hits of a coincidence; and those that windows and sums of the trigger reach at most."""


def thresholds(it: Served) -> AsicSettings:
    """As the calibration day found them: well above the noise, below the lines of the source."""
    board = it.boards[0, 0]
    codes = np.trunc(board.detector.draw.zero - np.array([20, 20, 15])).astype(int)
    names = ("vth_t1", "vth_t2", "vth_e")
    baseline = board.detector.draw.baseline
    return AsicSettings(
        per_channel={
            (chip, channel): {
                **dict(zip(names, map(int, codes[64 * place + channel]), strict=True)),
                "baseline_t": int(baseline[64 * place + channel, 0]),
                "baseline_e": int(baseline[64 * place + channel, 1]),
            }
            for place, chip in enumerate(board.asics.chips)
            if chip not in board.asics.absent
            for channel in range(64)
        }
    )


async def hits(it: Served) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Rising clocks of the hits of either module, and how many frames these are of: a busy machine slips."""
    parts: list[NDArray[np.uint64]] = []
    await it.device.start(parts.append)
    await it.device.wait_failed(SECONDS)
    account = await it.device.stop()
    assert account.failure is None
    assert account.frames_received > ENOUGH_FRAMES, "frames keep coming, with or without hits"
    words = np.concatenate(parts)
    index = scan_frames(words)
    is_event = np.ones(words.size, np.bool_)
    is_event[index.starts] = is_event[index.starts + 1] = False
    counts = np.diff(np.append(index.starts, words.size)) - 2
    frames = (words[index.starts] & np.uint64((1 << 36) - 1)).astype(np.int64)
    events = words[is_event]
    clocks = 1024 * np.repeat(frames, counts) + (events >> np.uint64(30) & np.uint64(0x3FF)).astype(np.int64)
    chip = events >> np.uint64(48) & np.uint64(0x3F)
    return np.sort(clocks[chip < 4]), np.sort(clocks[chip >= 4]), index.starts.size


def near(times: NDArray[np.int64], others: NDArray[np.int64], clocks: int) -> NDArray[np.bool_]:
    """Which of them have another one near."""
    return np.searchsorted(others, times + clocks, side="right") > np.searchsorted(others, times - clocks)


def test_coincidences_of_allowed_regions_pass_and_nothing_else(tmp_path: Path) -> None:
    async def session(it: Served) -> None:
        try:
            await it.device.connect()
            await it.device.configure(thresholds(it))
            before = {r.name: r.value for r in await it.device.read_counters()}
            all_one, all_other, n_frames = await hits(it)
            after = {r.name: r.value for r in await it.device.read_counters()}
            assert after["upstream_tx"] - before["upstream_tx"] > n_frames, "the link's frames are counted"
            assert after["upstream_rx"] > before["upstream_rx"]
            # Two places for modules of four chips: a quarter is two chips, and the modules' first ones are 0 and 2.
            await it.device.set_hardware_trigger(TriggerSettings(), [(0, 2)])
            one, other, n_frames_kept = await hits(it)
            assert near(one, other, FAR_CLK).all()
            assert near(other, one, FAR_CLK).all()
            expected = near(all_one, all_other, CLOSE_CLK).sum() * n_frames_kept / n_frames
            noise = np.sqrt(expected * (1.0 + n_frames_kept / n_frames))
            assert near(one, other, CLOSE_CLK).sum() == pytest.approx(expected, abs=6 * noise)
            n_all = (all_one.size + all_other.size) * n_frames_kept / n_frames
            assert one.size + other.size < 0.8 * n_all
            await it.device.set_hardware_trigger(TriggerSettings(), [(0, 1), (1, 2)])
            one, other, _ = await hits(it)
            assert one.size + other.size == 0
            await it.device.set_hardware_trigger(None)
            one, other, n_frames_again = await hits(it)
            assert (one.size + other.size) / n_frames_again == pytest.approx(n_all / n_frames_kept, rel=0.1)
        finally:
            await it.device.aclose()

    compile_kernels()
    with served(Kind(4, 0x0111), tmp_path, source="na22") as it:
        asyncio.run(session(it))
