"""Scanners of many modules: where they stand, which can meet, and that opposite ones see the same annihilations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.placement import crystal_middles_mm, in_coincidence
from petqc_simulators.profile import PROFILES, ProfileError, load_profile
from petqc_simulators.server import ServeSettings, serve

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
    quiet = replace(RING, crystal=replace(RING.crystal, lu176_bq_per_cm3=0.0))
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


def test_several_boards_are_not_served_on_one_wire(tmp_path):
    with pytest.raises(ProfileError, match="16 boards"):
        serve(ServeSettings("ring-small", 1, "udp://127.0.0.1:0", tmp_path))
