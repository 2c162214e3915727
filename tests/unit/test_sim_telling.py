"""What a simulator prints for petqc.toml is what the service takes, whatever is plugged into its boards."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from petqc.formats.petsys_config import load_config
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.physics.draw import draw_detector
from petqc_simulators.profile import load_profile
from petqc_simulators.telling import Announcement, status_words
from petqcd.config import PetqcConfig
from petqcd.readout.petsys_settings import bias_settings

if TYPE_CHECKING:
    from pathlib import Path

MIXED = """base = "febd-8k"
[geometry]
crystals_per_bias = 128
[hardware]
bias_slots = ["BIAS_16P", "BIAS_64P"]
"""
WITHOUT = """base = "bench"
[hardware]
base_pcb = 0x0004
bias_slots = []
"""


def announced(tmp_path: Path, text: str, **given: Any) -> Announcement:
    file = tmp_path / "odd.toml"
    file.write_text(text)
    profile = load_profile(str(file), source="ge68")
    config = write_config_folder(tmp_path / "config", profile, draw_detector(profile, 1))
    address = "udp://127.0.0.1:5"
    control = tmp_path / "control.sock"
    return Announcement(
        profile, 1, "petqc simulate", address, None, config, None, control, [], highest_start_v=0.04, **given
    )


def test_limits_of_every_mezzanine_in_use(tmp_path: Path) -> None:
    said = announced(tmp_path, MIXED)
    board = PetqcConfig.model_validate(tomllib.loads(said.device_table())).board
    assert board.is_simulated
    assert board.bias is not None
    assert board.configuration is not None
    bias = bias_settings(load_config(board.configuration), board.bias)
    assert len(bias.outputs) == 32
    assert bias.mezzanines == {(0, 0, 0): "BIAS_16P", (0, 0, 1): "BIAS_64P"}
    assert {slot: volts.value for slot, volts in bias.starts_with.items()} == {(0, 0, 0): 0.04}
    assert "line of Ge-68" in said.text()


def test_boards_without_a_mezzanine_get_no_limits(tmp_path: Path) -> None:
    said = announced(tmp_path, WITHOUT)
    assert PetqcConfig.model_validate(tomllib.loads(said.device_table())).board.bias is None
    assert "the boards have no mezzanine" in said.text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "not synchronised yet"),
        ({"is_streaming": True, "hits_per_s": 61_234.0}, "61,234 hits/s"),
        ({"bias_supply_on": True, "bias_v": [0.9, 36.14]}, "bias on, 0.9 to 36.1 V"),
        ({"slipped_s": 2.25}, "simulated 7.0 s (2.2 s behind)"),
        ({"clients": 2, "faults": ["F03", "F19"]}, "2 clients · bias off · faults F03, F19"),
    ],
)
def test_how_it_goes_in_words(changed: dict[str, Any], words: str) -> None:
    status = {
        "wall_s": 9.2,
        "simulated_s": 7.0,
        "slipped_s": 0.0,
        "hits_per_s": 0.0,
        "clients": 1,
        "is_streaming": False,
        "bias_supply_on": False,
        "bias_v": [0.0, 0.0],
        "faults": [],
        "blocks_repeated": 0,
    }
    assert words in status_words(status | changed)
