"""The simulator's configuration folder is one that the vendor's tools read, field by field."""

from __future__ import annotations

import configparser
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_tables import parse_table
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.config_files import tables, write_config_folder
from petqc_simulators.physics.draw import draw_detector
from petqc_simulators.profile import ProfileError, load_profile

GOLDEN: list[dict[str, Any]] = tomllib.loads((Path(__file__).parents[1] / "golden" / "petsys.toml").read_text("utf-8"))[
    "table"
]
READ = {"i": int, "f": float, "w": str}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = load_profile("bench")
    return write_config_folder(tmp_path_factory.mktemp("config"), bench, draw_detector(bench, 7))


@pytest.mark.parametrize("v", GOLDEN, ids=lambda v: v["kind"])
def test_every_field_is_what_the_vendor_reads(v: dict[str, Any], config: Path) -> None:
    types = [READ[letter] for letter in v["fields"].split()]
    golden = v["line"].split()
    assert [t(f) for t, f in zip(types, golden, strict=True)]
    assert parse_table(v["kind"], v["line"])[1] == ()
    lines = [line.split() for line in (config.parent / f"{v['kind']}.tsv").read_text().splitlines() if line[0] != "#"]
    assert lines
    for fields in lines:
        for read, field in zip(types, fields, strict=True):
            read(field)


def test_the_keys_that_the_vendor_asks_for_are_there(config: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read(config)
    for key in ("bias_calibration", "bias_settings", "tdc_calibration", "qdc_calibration", "disc_calibration"):
        assert parser.get("main", key + "_table").startswith("%CDIR%/"), key
    for key in ("disc_settings_table", "acquisition_mode_table", "channel_map", "trigger_map"):
        assert parser.get("main", key).startswith("%CDIR%/"), key
    trigger = dict(parser["hw_trigger"])
    assert trigger.pop("hwtrigger_empirical_calibration_table") == "%CDIR%/hwtrigger.tsv"
    assert float(trigger.pop("group_min_energy")) == 0.0
    assert float(trigger.pop("group_max_energy")) == 128.0
    assert {name: int(value) for name, value in trigger.items()} == {
        "group_min_multiplicity": 1,
        "group_max_multiplicity": 1024,
        "pre_window": 2,
        "post_window": 3,
        "coincidence_window": 2,
        "single_acceptance_period": 1000,
        "single_acceptance_length": 0,
    }


def test_it_reads_back_without_a_warning(config: Path) -> None:
    assert load_config(config).warnings == ()


def test_a_profile_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    path = tmp_path / "wide.toml"
    path.write_text('base = "bench"\n[hardware]\nbias_slots = ["BIAS_64P"]\n', "utf-8")
    bench, wide = load_profile("bench"), load_profile(str(path))
    assert wide.name == "wide"
    assert wide.hardware == replace(bench.hardware, bias_slots=("BIAS_64P",))
    assert (wide.geometry, wide.sipm) == (bench.geometry, bench.sipm)
    for words, text in (
        ("base: 'bank' is none of bench", 'base = "bank"'),
        ("hardware: unknown key 'bias'", 'base = "bench"\n[hardware]\nbias = 1'),
        ("hardware.supplies", 'base = "bench"\n[hardware]\nsupplies = ["TI"]'),
        ("hardware.legacy_places: 5", 'base = "bench"\n[hardware]\nlegacy_places = [5]'),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(ProfileError, match=words):
            load_profile(str(path))


def test_boards_without_a_bias_slot_get_their_bias_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    path.write_text('base = "bench"\n[hardware]\nbase_pcb = 4\nbias_slots = []\n', "utf-8")
    profile = load_profile(str(path))
    board = PetsysFebd(profile, 3)
    board.hand_over()
    assert board.detector.controls.bias_v == pytest.approx(board.detector.draw.output_v(board.detector.draw.bias_code))
    assert "bias_settings" not in tables(profile, board.detector.draw)
