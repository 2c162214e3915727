"""Our processing against what the readout vendor's own converters gave for the same raw frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.calibration import CalibrationSet
from petqc.convert import convert
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_ldat import open_events
from petqc.formats.petsys_raw import RawReader
from petqc.processing import Processed, ProcessingAccount, ProcessingSettings, Processor, joined

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MODES = ("tot", "qdc")
FILES = {"singles": "vendor_singles", "groups": "vendor_group", "coincidences": "vendor_coincidence"}
COUNTS = {
    ("tot", "singles"): 72148,
    ("tot", "groups"): 55733,
    ("tot", "coincidences"): 11328,
    ("qdc", "singles"): 72606,
    ("qdc", "groups"): 55846,
    ("qdc", "coincidences"): 11358,
}


def events(path: Path, kind: Any) -> NDArray[Any]:
    with open_events(path, kind) as reader:
        blocks = list(reader.blocks())
        assert not reader.damages
    return np.concatenate(blocks)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("text", [False, True])
def test_vendor_mode_gives_the_vendors_records(
    shared_data: Path, tmp_path: Path, mode: str, kind: Any, *, text: bool
) -> None:
    folder = shared_data / "petsys-golden" / mode
    summary = convert(
        folder / "run.rawf", kind, config=folder, out=tmp_path / "ours", vendor_compatible=True, text=text
    )
    wanted = events(folder / f"{FILES[kind]}.ldat", kind)
    ours = events(summary.path, kind)
    assert summary.records == ours.size == wanted.size == COUNTS[mode, kind]
    for name in wanted.dtype.names or ():
        if name.startswith("time"):
            assert np.abs(ours[name] - wanted[name]).max() <= 1, name
        elif name.startswith("energy"):
            np.testing.assert_allclose(ours[name], wanted[name], rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(ours[name], wanted[name], err_msg=name)
    if not text:
        ours_index = summary.path.with_suffix(".lidx").read_text()
        assert ours_index == (folder / f"{FILES[kind]}.lidx").read_text()


def processed(folder: Path, mode: Any, **changes: Any) -> tuple[Processed, ProcessingAccount]:
    config = load_config(folder)
    settings = replace(ProcessingSettings.from_config(config), **changes)
    with RawReader(folder / "run.rawf") as reader:
        processor = Processor(
            CalibrationSet.from_config(config, acquisition=mode),
            settings,
            trigger_id=reader.header.trigger_id,
            keep_hits=True,
        )
        parts = [processor.feed(words) for words in reader.blocks()]
        parts.append(processor.finish(reader.steps[-1].last_frame))
    return joined(parts), processor.account


@pytest.mark.parametrize("mode", MODES)
def test_petqc_mode_has_the_vendors_hits_in_order_of_time(shared_data: Path, mode: str) -> None:
    folder = shared_data / "petsys-golden" / mode
    hits = processed(folder, mode)[0].hits
    assert hits is not None
    wanted = events(folder / "vendor_singles.ldat", "singles")
    assert (np.diff(hits.time_ps) >= 0).all()
    # The same channel has no two hits within a few ps, so sorting by channel and time pairs the lists up.
    ours, theirs = np.lexsort((hits.time_ps, hits.channel)), np.lexsort((wanted["time_ps"], wanted["channel"]))
    np.testing.assert_array_equal(hits.channel[ours], wanted["channel"][theirs])
    assert np.abs(hits.time_ps[ours] - wanted["time_ps"][theirs]).max() <= 2
    # Newton stops at 0.05 clocks, so the vendor's charges are a little off; ours are the curve's.
    np.testing.assert_allclose(hits.energy[ours], wanted["energy"][theirs], rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_petqc_mode_loses_no_coincidence_that_the_vendor_finds(shared_data: Path, mode: str) -> None:
    folder = shared_data / "petsys-golden" / mode
    prompts = processed(folder, mode, multiples="all")[0].prompts
    wanted = events(folder / "vendor_coincidence.ldat", "coincidences")
    ours = {
        (a, b, t // 1000)
        for a, b, t in zip(
            prompts.channel_a.tolist(), prompts.channel_b.tolist(), prompts.time_a_ps.tolist(), strict=True
        )
    }
    missing = [
        row
        for row in wanted
        if not any(
            (int(row["channel_a"]), int(row["channel_b"]), int(row["time_a_ps"]) // 1000 + near) in ours
            for near in (-1, 0, 1)
        )
    ]
    # Hits are taken in order of calibrated time here and of coarse time there: a few groups have another seed.
    assert len(missing) <= 0.0005 * wanted.size
    assert len(prompts) >= wanted.size - len(missing)


@pytest.mark.parametrize(("mode", "hits", "first"), [("tot", 73195, 3), ("qdc", 73440, 2)])
def test_the_account_adds_up(shared_data: Path, mode: str, hits: int, first: int) -> None:
    events_, account = processed(shared_data / "petsys-golden" / mode, mode)
    assert account.hits == hits
    assert account.hits_kept == COUNTS[mode, "singles"]  # type: ignore[index]
    assert account.hits == account.hits_kept + sum(account.hits_dropped.values())
    assert (account.first_frame, account.last_frame) == (first, 7616)
    assert account.frames == 7616 - first + 1
    assert account.frames_lost == 457  # 400 in the gap, 57 with a flag of their own
    assert account.frames_empty == 18
    assert account.out_of_order == 0
    assert account.live_time_s == pytest.approx((account.frames - 457) * 5.12e-6)
    hits_in_singles = int(events_.singles.n_hits.astype(int).sum())
    assert account.hits_kept == hits_in_singles + account.hits_in_rejected_groups
    assert account.singles == len(events_.singles)
    assert account.prompts == len(events_.prompts)
