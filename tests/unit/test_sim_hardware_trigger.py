"""The simulated hardware trigger against its definition, clock by clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.formats.petsys_tables import COINCIDENCE, SAME_PHOTON
from petqc_drivers.petsys.frames import pack_frames, scan_frames
from petqc_drivers.petsys.hardware_trigger import (
    ENABLE_FEBD,
    EnergyCalibration,
    TriggerSettings,
    calibration_write,
    region_rows,
    region_write,
)
from petqc_simulators.boards.hardware_trigger import BoardTrigger, HardwareTrigger
from petqc_simulators.boards.registers import RegisterFile, WordMemory
from petqc_simulators.config_files import regions_of_modules, tables
from petqc_simulators.physics.blocks import Block
from petqc_simulators.physics.draw import draw_detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

CHIPS = 32
BOARDS = [(0, 0), (1, 2)]
PAIRS = [(0, 5), (1, 4), (2, 2), (3, 7)]
CALIBRATIONS = (EnergyCalibration(3.0, 0.03125, 0.0, 0.5), EnergyCalibration(2.0, 0.0625, -(2**-15), 3.5))
N_FRAMES = 6


class Scanner:
    """A trigger unit and two boards that were told everything as the driver does."""

    def __init__(self, settings: TriggerSettings) -> None:
        self.settings = settings
        self.unit, self.matrix = RegisterFile(), WordMemory(1)
        self.unit.preset("trigger_regions", 4 * len(BOARDS))
        for name, value in settings.trigger_unit_registers().items():
            self.unit.preset(name, value)
        for region, row in enumerate(region_rows(4 * len(BOARDS), PAIRS)):
            self.matrix.answer(region_write(region, row).to_bytes())
        self.unit.preset("hardware_trigger", 1)
        self.boards: list[RegisterFile] = []
        triggers = []
        for number, address in enumerate(BOARDS):
            board, memory = RegisterFile(), WordMemory(5)
            for name, value in settings.febd_registers().items():
                board.preset(name, value)
            board.preset("hardware_trigger", ENABLE_FEBD)
            for chip in range(CHIPS):
                for channel in range(64):
                    for tac in range(4):
                        memory.answer(calibration_write(chip, channel, tac, CALIBRATIONS[number]).to_bytes())
            self.boards.append(board)
            triggers.append((address, BoardTrigger(board, memory, CHIPS)))
        self.trigger = HardwareTrigger(self.unit, self.matrix, triggers)


def hits(rng: np.random.Generator, n: int) -> tuple[Block, np.ndarray, np.ndarray]:
    """Bursts of hits; the block, and the words and clocks of its events."""
    at = np.sort((rng.integers(20, 1000 * N_FRAMES, n // 4)[:, None] + rng.integers(0, 9, 4)).ravel())
    board = rng.integers(0, len(BOARDS), at.size)
    port, slave = np.array(BOARDS)[board].T
    gid = port << 17 | slave << 12 | rng.integers(0, CHIPS, at.size) << 6 | rng.integers(0, 64, at.size)
    words = (
        gid.astype(np.uint64) << np.uint64(42)
        | rng.integers(0, 4, at.size).astype(np.uint64) << np.uint64(40)
        | (at % 1024).astype(np.uint64) << np.uint64(30)
        | rng.integers(0, 1024, at.size).astype(np.uint64)
    )
    counts = np.bincount(at // 1024, minlength=N_FRAMES)
    frames = pack_frames(np.arange(N_FRAMES), counts, words, np.arange(N_FRAMES) % 2 == 1)
    return Block(0, frames, np.concatenate(([0], np.cumsum(counts + 2)))), words, at


def kept(scanner: Scanner, words: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sections 4.2 and 9 (7), word for word."""
    settings = scanner.settings
    span = 1024 * N_FRAMES + 100
    energy_at, hits_at = np.zeros((8, span)), np.zeros((8, span), int)
    clock, region = np.zeros(words.size, int), np.zeros(words.size, int)
    for i, word in enumerate(map(int, words)):
        gid = word >> 42
        number = BOARDS.index((gid >> 17, gid >> 12 & 31))
        c = CALIBRATIONS[number]
        efine = ((word & 0x3FF) + 27) % 1024
        energy = max(c.c0 + c.c1 * efine + c.c2 * efine**2, 0.1875)
        clock[i] = at[i] - int(0.06 + c.k0 / energy)
        region[i] = 4 * number + (gid >> 6 & 63) // (CHIPS // 4)
        energy_at[region[i], clock[i]] += energy
        hits_at[region[i], clock[i]] += 1
    requests: list[list[int]] = []
    for r in range(8):
        requests.append([])
        for t in range(2, span - 2):
            n, e = hits_at[r, t - 2 : t + 3].sum(), min(energy_at[r, t - 2 : t + 3].sum(), 127.96875)
            is_energy = settings.group_min_energy <= e <= min(settings.group_max_energy, 127.96875)
            if n and is_energy and settings.group_min_multiplicity <= n <= settings.group_max_multiplicity:
                requests[r].append(t)
    partners = {r: [b if a == r else a for a, b in PAIRS if r in {a, b}] for r in range(8)}
    window = settings.coincidence_window_clk
    accepted = [
        [
            t
            for t in requests[r]
            if any(abs(t - u) <= window for p in partners[r] for u in requests[p])
            or t % settings.singles_period < settings.singles_length
        ]
        for r in range(8)
    ]
    held = [
        [t for t in requests[r] if any(abs(t - u) <= window for b in range(4) for u in accepted[r // 4 * 4 + b])]
        for r in range(8)
    ]
    return np.array(
        [
            any(-settings.before_clk <= clock[i] - t <= settings.after_clk for t in held[region[i]])
            for i in range(words.size)
        ]
    )


@pytest.mark.parametrize(
    "settings",
    [
        TriggerSettings(),
        TriggerSettings(group_min_energy=8.0, coincidence_window_clk=1, before_clk=1, after_clk=7),
        TriggerSettings(group_max_energy=40.0, group_min_multiplicity=2, group_max_multiplicity=3),
        TriggerSettings(group_min_energy=20.0, singles_length=60, singles_period=1000, coincidence_window_clk=0),
    ],
)
def test_what_passes_is_what_the_definition_says(settings: TriggerSettings) -> None:
    scanner = Scanner(settings)
    block, words, at = hits(np.random.default_rng(5), 400)
    expected = kept(scanner, words, at)
    assert 0.01 < expected.mean() < 0.99
    found = scanner.trigger.pass_on(block)
    index = scan_frames(found.words)
    assert np.array_equal(index.starts, found.starts[:-1])
    assert np.array_equal(_events(found), words[expected])
    lost = found.words[found.starts[:-1] + 1] >> np.uint64(16) & np.uint64(1)
    assert lost.tolist() == [0, 1] * (N_FRAMES // 2)


def _events(block: Block) -> np.ndarray:
    is_event = np.ones(block.words.size, np.bool_)
    heads = block.starts[:-1]
    is_event[heads] = is_event[heads + 1] = False
    return block.words[is_event]


def test_a_trigger_that_is_off_lets_everything_pass() -> None:
    scanner = Scanner(TriggerSettings())
    block, words, _ = hits(np.random.default_rng(6), 200)
    unit = words >> np.uint64(54)
    scanner.boards[0].preset("hardware_trigger", 0)
    passed = _events(scanner.trigger.pass_on(block))
    assert (passed >> np.uint64(54) == 0).sum() == (unit == 0).sum(), "of a board that holds nothing back"
    assert passed.size < words.size
    scanner.unit.preset("hardware_trigger", 0)
    assert scanner.trigger.pass_on(block) is block


PAIR = 'base = "bench"\n[hardware]\nbase_pcb = 4\nbias_slots = []\n'
"""A board with two places, so that each module has two regions."""


@pytest.mark.parametrize(
    ("name", "regions", "pairs"),
    [
        ("bench-trigger", {0: {0}, 2: {1}}, {(0, 1)}),
        ("bench", {0: {0}, 1: {1}}, {(0, 1)}),
        ("pair.toml", {0: {0, 1}, 1: {2, 3}}, {(0, 2), (0, 3), (1, 2), (1, 3)}),
    ],
)
def test_regions_of_the_tables_are_those_of_the_hardware_where_modules_have_their_own(
    name: str, regions: dict[int, set[int]], pairs: set[tuple[int, int]], tmp_path: Path
) -> None:
    (tmp_path / "pair.toml").write_text(PAIR, "utf-8")
    profile = load_profile(str(tmp_path / name) if name.endswith(".toml") else name)
    written = tables(profile, draw_detector(profile, 1))
    found: dict[int, set[int]] = {}
    for row in written["channel_map"]:
        found.setdefault(int(row["chip"]) // 4, set()).add(int(row["region"]))
    assert found == regions
    of_kind: dict[int, set[tuple[int, int]]] = {SAME_PHOTON: set(), COINCIDENCE: set()}
    for row in written["trigger_map"]:
        of_kind[int(row["kind"])].add((int(row["region1"]), int(row["region2"])))
    assert of_kind[COINCIDENCE] == pairs
    assert of_kind[SAME_PHOTON] == {(a, b) for one in regions.values() for a in one for b in one if a <= b}


@pytest.mark.parametrize("name", ["ring-small", "mmr"])
def test_modules_that_share_a_region_of_the_hardware_or_have_none_are_regions_of_their_own(name: str) -> None:
    profile = load_profile(name)
    assert np.array_equal(regions_of_modules(profile)[:, 0], np.arange(profile.geometry.modules))
