"""What the console shows of channels: maps, one channel beside its neighbours, a spectrum only where one is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.channel_map import asic_node, channel_node
from petqc.channel_spectra import ChannelSpectra
from petqc.limits import Status
from petqc.results import ChannelColumn, Run, RunPart
from petqcd.errors import NotFoundError
from petqcd.web import channel_view

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.store import Store

SIDE = 3
N = SIDE * SIDE


class Folders:
    """Where runs keep their files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder_of(self, run_id: str) -> Path:
        return self.root / run_id


def a_run(**changes: Any) -> Run:
    """Nine crystals in a square, one module; the middle one has a value far above the others, the last one none."""
    value = np.full(N, 510.0)
    value[4], value[8] = 540.0, np.nan
    status = np.full(N, "pass", object)
    status[4], status[8] = "fail", "invalid"
    reason = np.full(N, "", object)
    reason[8] = "fewer than 200 counts"
    numbers = np.arange(N, dtype=np.int32)
    channels = {
        "channel": numbers,
        "module": np.full(N, "module:0.0.0", object),
        "asic": np.array([asic_node(c) for c in numbers], object),
        "column": (numbers % SIDE).astype(np.int16),
        "row": (numbers // SIDE).astype(np.int16),
    }
    column = ChannelColumn("photopeak", "keV", value, np.full(N, 0.5), np.full(N, 900), status, reason)
    return usual_run(verdict=Status.FAIL, channels=channels, columns=[column], **changes)


def keep_spectra(folder: Path) -> None:
    folder.mkdir(parents=True)
    counts = np.tile(np.arange(N, dtype=np.uint32)[:, None], (1, 16))
    edges = np.arange(17) * 4.0
    outside = np.zeros((N, 2), np.int64)
    ChannelSpectra("energy", "keV", np.arange(N, dtype=np.int32), edges, counts, outside, None).save(folder)


def test_a_channel_beside_its_neighbours_with_its_own_counts(tmp_path: Path) -> None:
    store = cast("Store", Folders(tmp_path))
    keep_spectra(tmp_path / "r1")
    found = channel_view.channel(store, a_run(), channel_node(4))
    assert (found["module"], found["asic"], found["place"]) == ("module:0.0.0", "asic:0.0.0", [1, 1])
    assert [n["node"] for n in found["neighbours"]] == [channel_node(i) for i in range(N) if i != 4]
    assert found["neighbours"][-1]["value"] is None
    (value,) = found["values"]
    assert (value["value"], value["status"], value["beside"]) == (540.0, "fail", 510.0)
    assert found["spectrum"]["counts"] == [4.0] * 16
    assert found["around"] == [pytest.approx((sum(range(N)) - 4) / 8)] * 16
    assert found["why"] == ""
    corner = channel_view.channel(store, a_run(), channel_node(0))
    assert len(corner["neighbours"]) == 3


def test_a_run_that_keeps_no_spectra_shows_none_and_says_so(tmp_path: Path) -> None:
    store = cast("Store", Folders(tmp_path))
    found = channel_view.channel(store, a_run(), channel_node(4))
    assert (found["spectrum"], found["around"]) == (None, None)
    assert found["why"] == "this run keeps no spectra of single channels"
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "channel_spectra.parquet").write_bytes(b"PAR1 and then nothing")
    assert "no readable spectra" in channel_view.channel(store, a_run(), channel_node(4))["why"]
    with pytest.raises(NotFoundError, match="no channel"):
        channel_view.channel(store, a_run(), channel_node(4000))
    with pytest.raises(NotFoundError, match="no channels"):
        channel_view.channel(store, usual_run(), channel_node(4))


def test_the_day_shows_the_spectra_of_its_part(tmp_path: Path) -> None:
    keep_spectra(tmp_path / "of-source")
    parts = [RunPart(None, "dark", Status.MISSED, ""), RunPart("of-source", "source", Status.FAIL, "")]
    found = channel_view.channel(cast("Store", Folders(tmp_path)), a_run(parts=parts), channel_node(2))
    assert found["spectrum"]["counts"] == [2.0] * 16


def test_maps_and_what_has_something_to_say() -> None:
    run = a_run()
    assert channel_view.modules(run) == ["module:0.0.0"]
    shown = channel_view.module_map(run, "module:0.0.0")
    assert (shown["columns"], shown["rows"], shown["is_mapped"]) == (3, 3, True)
    assert shown["quantities"][0]["value"][8] is None
    with pytest.raises(NotFoundError, match="no channels of"):
        channel_view.module_map(run, "module:0.0.9")
    worst, more = channel_view.flagged(run)
    assert ([o.node for o in worst], more) == ([channel_node(4), channel_node(8)], 0)
    assert channel_view.modules_of(run, [o.index for o in worst]) == dict.fromkeys(
        (channel_node(4), channel_node(8)), "module:0.0.0"
    )
    assert not channel_view.has_ring(run)
    with pytest.raises(NotFoundError, match="stand in no ring"):
        channel_view.ring_map(run, "photopeak")


def test_a_ring_is_unrolled() -> None:
    run = a_run()
    angle = 2 * np.pi * np.arange(N) / N
    run.channels |= {"x_mm": 100 * np.cos(angle), "y_mm": np.zeros(N), "z_mm": 100 * np.sin(angle)}
    assert channel_view.has_ring(run)
    shown = channel_view.ring_map(run, "")
    assert (shown["columns"], shown["rows"], shown["column"]) == (N, 1, list(range(N)))
    assert shown["quantities"][0]["value"][4] == 540.0
    with pytest.raises(NotFoundError, match="no energy_resolution"):
        channel_view.ring_map(run, "energy_resolution")
