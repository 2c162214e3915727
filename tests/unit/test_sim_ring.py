"""Scanners of many modules: where they stand, which can meet, and that opposite ones see the same annihilations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc_drivers.petsys.asic import AsicConfiguration, AsicVersion
from petqc_drivers.petsys.frames import unpack_events
from petqc_drivers.petsys.registers import REGISTERS
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.config_files import tables
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.draw import draw_detector
from petqc_simulators.physics.placement import crystal_middles_mm, in_coincidence
from petqc_simulators.profile import PROFILES, ProfileError, load_profile
from petqc_simulators.serving import ServeSettings, serve

RING = load_profile("ring-small")


def test_crystals_stand_around_the_axis():
    middle = crystal_middles_mm(RING.geometry)
    assert middle.shape == (8192, 3)
    centres = middle.reshape(32, 256, 3).mean(axis=1)
    assert np.allclose(np.hypot(centres[:, 0], centres[:, 2]), 150.0)
    assert np.allclose(np.unique(np.round(centres[:, 1], 3)), [-26.6, 26.6])
    # Neighbours of one ring stand further apart than a module is wide: no two of them overlap.
    assert np.linalg.norm(centres[0] - centres[1]) > RING.geometry.width_mm


def test_a_module_can_meet_those_on_the_other_side_and_no_neighbour():
    facing = in_coincidence(RING.geometry)
    assert (facing == facing.T).all()
    assert facing[0, 8]
    assert facing[0, 16 + 8]
    assert not facing[0, [0, 1, 4, 15, 16, 17]].any()
    bench = in_coincidence(load_profile("bench").geometry)
    assert bench.tolist() == [[False, True], [True, False]]


def test_channel_numbers_carry_port_and_slave():
    absolute = RING.absolute_channels()
    assert np.unique(absolute).size == 8192
    boards = {(int(c) >> 17, int(c) >> 12 & 31) for c in absolute}
    assert boards == {(port, slave) for port in range(4) for slave in range(4)}
    assert RING.hardware.trigger_id == 32 * 4


def test_annihilations_are_seen_on_both_sides_of_the_ring():
    quiet = replace(RING, crystal=replace(RING.crystal, material="none"))
    emission = Detector(quiet, 1).emission
    rows, n = emission.generate(2e6, np.empty((1024, 6)), 0)
    decay, module = rows[:n, 4].astype(int), rows[:n, 5].astype(int) // 256
    met = np.zeros((32, 32), int)
    for number in np.unique(decay):
        hit = np.unique(module[decay == number])
        if hit.size == 2:
            met[hit[0], hit[1]] += 1
    facing = in_coincidence(RING.geometry)
    assert met.sum() > 300
    assert met[facing].sum() > 0.7 * met.sum()


@pytest.mark.parametrize(
    ("key", "value", "words"), [("arrangement", '"cube"', "neither panels nor ring"), ("boards", "5", "on 5 boards")]
)
def test_a_profile_that_cannot_be_built_is_refused(tmp_path, key, value, words):
    lines = (PROFILES / "ring-small.toml").read_text().splitlines()
    changed = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    (tmp_path / "odd.toml").write_text("\n".join(changed))
    with pytest.raises(ProfileError, match=words):
        load_profile(str(tmp_path / "odd.toml"))


def test_a_scanner_of_several_units_is_not_served_over_udp(tmp_path):
    with pytest.raises(ProfileError, match="over UDP there is exactly one"):
        serve(ServeSettings("ring-small", 1, "udp://127.0.0.1:0", tmp_path))


def test_chips_are_numbered_by_the_places_of_their_modules(tmp_path):
    text = (PROFILES / "bench.toml").read_text()
    (tmp_path / "apart.toml").write_text(text.replace("module_places = [0, 1]", "module_places = [1, 4]"))
    profile = load_profile(str(tmp_path / "apart.toml"))
    assert profile.board_chips == [4, 5, 6, 7, 16, 17, 18, 19]
    assert np.unique(profile.absolute_channels() >> 6).tolist() == profile.board_chips
    asics = PetsysFebd(profile, 1).asics
    assert [asics.chip_of(256 * module + chip) for module, chip in ((0, 0), (1, 0), (4, 3), (4, 4))] == [
        None,
        0,
        7,
        None,
    ]


def test_outputs_of_the_second_mezzanine_follow_those_of_the_first():
    profile = load_profile("febd-8k")
    assert profile.geometry.bias_channels == 64
    table = tables(profile, draw_detector(profile, 1))["bias_map"]
    assert np.unique(table["slot"] * 32 + table["bias_channel"]).tolist() == list(range(64))
    assert {(int(c) >> 12, int(c) >> 6 & 63) for c in profile.absolute_channels()} == {(0, n) for n in range(64)}


def written(unit, name, value):
    found = REGISTERS[name]
    data = bytes((1, found.n_bytes - 1, 0, *found.address.to_bytes(2, "little")))
    assert unit.handle(bytes(17) + data + value.to_bytes(found.n_bytes, "little")) is not None


def test_boards_share_one_detector_and_one_clock():
    """What a board sets changes its own channels only; one that is not synchronised with the others is not heard."""
    quiet = replace(RING, source=replace(RING.source, kind="none"))
    scanner = Scanner(quiet, 1)
    assert [scanner.units[address].registers.value("next_slave") for address in ((0, 0), (0, 3), (4, 0))] == [1, 0, 0]
    first, second = scanner.boards[:2]
    for board in (first, second):
        written(board, "power", 1)
        written(board, "receiver_enable", 0xFF)
        for chip in range(8):
            board.asics.globals[chip] = (
                AsicConfiguration.default("global", AsicVersion.V2C).replace({"tx_nlinks": 0, "tdc_clk_div": 0}).value
            )
    written(first, "sync", 2)
    written(scanner.trigger, "sync", 1)
    for unit in scanner.units.values():
        unit.let_pass(2.5 * BLOCK_S)
    blocks = scanner.advance_blocks()
    assert [block.first_frame for block in blocks] == [0, BLOCK_FRAMES]
    assert np.flatnonzero(scanner.detector.controls.is_read).tolist() == list(range(512))
    written(second, "sync", 2)
    written(scanner.trigger, "sync", 1)
    scanner.advance_blocks()
    assert np.flatnonzero(scanner.detector.controls.is_read).tolist() == list(range(1024))
    assert scanner.detector.frame == 0
    written(first, "test_pulse", 1 << 63 | (1024 - 11) << 10 | 10)
    first.asics.mode[3] = second.asics.mode[3] = 1
    for unit in scanner.units.values():
        unit.let_pass(2.5 * BLOCK_S)
    events = unpack_events(np.concatenate([hits(block) for block in scanner.advance_blocks()]))
    pulsed = events.channel
    assert np.unique(pulsed[np.bincount(pulsed)[pulsed] > BLOCK_FRAMES]).tolist() == [3], "a pulse in each frame"
    scanner.close()


def hits(block):
    is_event = np.ones(block.words.size, bool)
    is_event[block.starts[:-1]] = is_event[block.starts[:-1] + 1] = False
    return block.words[is_event]
