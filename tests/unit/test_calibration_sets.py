"""Calibration sets: whole or not there, never overwritten, damage found; and the record of which one is used."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.calibrate import sets
from petqc.calibrate.accepted import RECORD, accept, acceptances, accepted
from petqc.errors import BadInputError
from petqc.formats.petsys_config import load_config, rewrite_tables
from petqc.limits import Limits, Status
from petqc.results import CheckResult, RawFile
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.formats.petsys_config import PetsysConfig

QUALITY = (CheckResult.measured("tdc_residual", "scanner", 4.2, "ps", 0.1, 9, Limits(warn_high=10, fail_high=20)),)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> PetsysConfig:
    folder = tmp_path_factory.mktemp("bench")
    return load_config(folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"])


def origin(parent: PetsysConfig, **changed: object) -> sets.Origin:
    made = sets.Origin(
        run_id="20260302T060000Z-calibrate-tdc-abcdef",
        created_at="2026-03-02T06:01:00.000+00:00",
        device="board",
        scanner="bench",
        simulated=True,
        software={"petqc": "0.1.0"},
        root_hash=parent.config_hash,
        verdict=Status.PASS,
        sentence="512 of 512 channels calibrated.",
        quality=QUALITY,
        raw_files=(RawFile("points.rawf", "ab" * 32),),
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def tdc_tables(parent: PetsysConfig, shift: float = 0.5) -> dict[str, np.ndarray]:
    table = parent.require("tdc").copy()
    table["t0"] += shift
    return {"tdc": table}


def use(root: Path, set_id: str | None, parent: PetsysConfig, **changed: object) -> object:
    settings = {"device": "board", "is_simulated": True, "root_hash": parent.config_hash, "who": "ana", "at": "now"}
    return accept(root, set_id, **{**settings, **changed})


def test_a_set_is_a_configuration_with_the_new_table_and_all_others_of_its_parent(
    tmp_path: Path, parent: PetsysConfig
) -> None:
    info = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent))
    assert info.id == "0001-tdc"
    assert sets.read_set(tmp_path / info.id) == info
    made = load_config(sets.set_config(tmp_path / info.id))
    assert not made.warnings
    assert set(made.tables) == set(parent.tables)
    np.testing.assert_array_equal(made.tables["tdc"]["t0"], parent.tables["tdc"]["t0"] + 0.5)
    for kind in set(parent.tables) - {"tdc"}:
        assert made.file_hashes[kind] == parent.file_hashes[kind]
    assert (made.sw_trigger, made.hw_trigger, made.petqc) == (parent.sw_trigger, parent.hw_trigger, parent.petqc)
    assert made.asic_parameters == parent.asic_parameters
    assert info.parent_set is None
    assert info.parent_hash == parent.config_hash
    child = sets.create_set(tmp_path, "charge", made, {"qdc": made.require("qdc")}, origin(parent, parent_set=info.id))
    assert child.id == "0002-charge"
    assert child.parent_hash == made.config_hash
    assert child.files["tdc.tsv"] == info.files["tdc.tsv"]
    assert [s.id for s in sets.list_sets(tmp_path).sets] == ["0001-tdc", "0002-charge"]


def test_a_number_is_never_given_twice_and_nothing_that_exists_is_touched(tmp_path: Path, parent: PetsysConfig) -> None:
    first = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent))
    before = {p.name: p.read_bytes() for p in (tmp_path / first.id).iterdir()}
    (tmp_path / "0007-bias").mkdir()
    second = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent, 1.0), origin(parent))
    assert second.number == 8
    assert {p.name: p.read_bytes() for p in (tmp_path / first.id).iterdir()} == before
    assert not (tmp_path / first.id / "tdc.tsv").stat().st_mode & 0o222
    with pytest.raises(BadInputError, match="without a new table"):
        sets.create_set(tmp_path, "tdc", parent, {}, origin(parent))


def test_a_set_that_could_not_be_written_leaves_nothing(
    tmp_path: Path, parent: PetsysConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent))
    assert sets.list_sets(tmp_path) == sets.Listing()
    assert sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent)).number == 1


def test_damage_is_named_and_junk_stops_nobody(tmp_path: Path, parent: PetsysConfig) -> None:
    info = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent))
    folder = tmp_path / info.id
    assert sets.verify_set(folder) == []
    (folder / "tdc.tsv").chmod(0o644)
    with (folder / "tdc.tsv").open("a") as file:
        file.write("# a note\n")
    (folder / "channel_map.tsv").unlink()
    (folder / "mine.txt").write_text("x")
    assert sets.verify_set(folder) == [
        "channel_map.tsv is missing", "tdc.tsv was changed", "mine.txt does not belong to it",
    ]  # fmt: skip
    with pytest.raises(BadInputError, match="damaged: channel_map"):
        sets.set_config(folder)
    (tmp_path / ".new-x1").mkdir()
    (tmp_path / "0003-tdc").mkdir()
    (tmp_path / "0004-tdc").mkdir()
    (tmp_path / "0004-tdc" / "set.json").write_text("[1")
    (tmp_path / "0005-tdc").mkdir()
    (tmp_path / "0005-tdc" / "set.json").write_text(json.dumps({"schema": sets.SCHEMA}))
    (tmp_path / "notes.txt").write_text("x")
    listing = sets.list_sets(tmp_path)
    assert [s.id for s in listing.sets] == [info.id]
    assert set(listing.junk) == {".new-x1", "0003-tdc", "0004-tdc", "0005-tdc", "notes.txt"}
    with pytest.raises(BadInputError, match="no calibration set"):
        sets.find_set(tmp_path, "../etc")


def test_config_lines_that_name_no_table_stay(tmp_path: Path) -> None:
    text = (
        "[Main]\n; by hand\nCHANNEL_MAP = /a/b.tsv ; old\nodd = %cdir%/x\nqdc_calibration_table=/q\n[hw_trigger]\nx = 1"
    )
    made = rewrite_tables(text, {"channel_map", "tdc", "energy_kev"}, folder=tmp_path)
    assert made.splitlines() == [
        "[Main]",
        "; by hand",
        "channel_map = %CDIR%/channel_map.tsv",
        f"odd = {tmp_path}/x",
        "tdc_calibration_table = %CDIR%/tdc.tsv",
        "[hw_trigger]",
        "x = 1",
        "[petqc]",
        "energy_kev_table = %CDIR%/energy_kev.tsv",
    ]


def test_accepting_is_an_act_with_a_record(tmp_path: Path, parent: PetsysConfig) -> None:
    assert accepted(tmp_path, "board") is None
    first = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent))
    second = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent, 1.0), origin(parent))
    use(tmp_path, first.id, parent)
    use(tmp_path, second.id, parent, who="ben")
    last = accepted(tmp_path, "board")
    assert last is not None
    assert (last.set_id, last.previous, last.who) == (second.id, first.id, "ben")
    use(tmp_path, None, parent)
    assert [a.set_id for a in acceptances(tmp_path)] == [first.id, second.id, None]
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"at": "cut o')
    assert len(acceptances(tmp_path)) == 3
    use(tmp_path, first.id, parent)
    assert [a.previous for a in acceptances(tmp_path)] == [None, first.id, second.id, None]
    (tmp_path / RECORD).write_text("nonsense\n")
    with pytest.raises(BadInputError, match="line 1 is damaged"):
        accepted(tmp_path, "board")


def test_sets_that_must_not_be_used_are_refused(tmp_path: Path, parent: PetsysConfig) -> None:
    good = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent)).id
    bad = sets.create_set(tmp_path, "tdc", parent, tdc_tables(parent), origin(parent, verdict=Status.FAIL)).id
    with pytest.raises(BadInputError, match="verdict of its run is fail"):
        use(tmp_path, bad, parent)
    with pytest.raises(BadInputError, match="not with 'other'"):
        use(tmp_path, good, parent, device="other", reason="I insist")
    with pytest.raises(BadInputError, match="simulated device"):
        use(tmp_path, good, parent, is_simulated=False, reason="I insist")
    with pytest.raises(BadInputError, match="another configuration"):
        use(tmp_path, good, parent, root_hash="00", reason="I insist")
    with pytest.raises(BadInputError, match="no calibration set"):
        use(tmp_path, "0009-tdc", parent)
    assert acceptances(tmp_path) == []
    use(tmp_path, bad, parent, reason="only the module on slot 2 failed, it is not in the scanner")
    (tmp_path / good / "tdc.tsv").unlink()
    with pytest.raises(BadInputError, match=r"tdc\.tsv is missing"):
        use(tmp_path, good, parent, reason="I insist")
    assert [a.set_id for a in acceptances(tmp_path)] == [bad]
