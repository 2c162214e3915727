"""A ring unrolled: every crystal in its own cell, in the colour of its value; and nothing of the kind for panels."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.limits import Limits, Status
from petqc.report import render_html
from petqc.report.channels import read_channels
from petqc.report.pdf import render_pdf
from petqc.report.png import encode
from petqc.report.ring_maps import palette, ring_maps, ring_of
from petqc.results import ChannelColumn, CheckResult, Run

MODULES, COLUMNS, ROWS = 12, 4, 6
N = MODULES * COLUMNS * ROWS


def warm(module: int) -> CheckResult:
    return CheckResult.measured("temperature", f"module:0.0.{module}", 20.0 + module, "degC", 0.0, 4, Limits())


def a_ring(**more: object) -> Run:
    """Crystals of 12 modules around the y axis; the photopeak rises with the angle, one crystal is dead."""
    index = np.arange(N)
    module, column, row = index // (COLUMNS * ROWS), index % COLUMNS, index // COLUMNS % ROWS
    angle = 2.0 * np.pi * (module * COLUMNS + column + 0.5) / (MODULES * COLUMNS)
    nodes = np.array([f"module:0.0.{m}" for m in module], dtype=object)
    value = 505.0 + 10.0 * angle / (2.0 * np.pi)
    value[17] = np.nan
    status = np.full(N, "pass", object)
    status[40] = "warn"
    run = usual_run(
        channels={
            "channel": index.astype(np.int32) + 64 * module,
            "module": nodes,
            "column": column.astype(np.int16),
            "row": row.astype(np.int16),
            "x_mm": (300.0 * np.cos(angle)).astype(np.float32),
            "y_mm": (4.0 * (row - 2.5)).astype(np.float32),
            "z_mm": (300.0 * np.sin(angle)).astype(np.float32),
            "photopeak.baseline": np.full(N, 510.0),
        },
        columns=[
            ChannelColumn("photopeak", "keV", value, np.full(N, 0.5), np.full(N, 900), status, np.full(N, "", object))
        ],
        checks=[replace(warm(m), baseline=20.0) for m in range(MODULES)],
    )
    return replace(run, **more)


def pixels(drawing: str) -> np.ndarray:
    """Colour numbers of the picture in a drawing, its first row on top; decoded apart from our encoder."""
    found = re.search(r'href="data:image/png;base64,([^"]+)"', drawing)
    assert found is not None
    data = base64.b64decode(found[1])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (depth, kind) == (8, 3)
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    body = data[at + 4 : at + 4 + size]
    assert struct.unpack(">I", data[at + 4 + size : at + 8 + size])[0] == zlib.crc32(b"IDAT" + body)
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any(), "no filter"
    return rows[:, 1:]


def test_each_crystal_is_where_it_stands_and_darker_is_less() -> None:
    run = a_ring()
    found = read_channels(run)
    assert found is not None
    peak, warmth = ring_maps(run, found)
    cells = pixels(str(peak.today))
    assert cells.shape == (ROWS, MODULES * COLUMNS)
    assert (np.diff(cells[0].astype(int)) >= 0).all(), "the photopeak rises with the angle"
    # Channel 17 has no value: module 0, column 1, row 4 of 6, the lowest row at the bottom.
    assert cells[ROWS - 1 - 4, 1] == len(palette()) - 1
    assert (cells == len(palette()) - 1).sum() == 1
    assert peak.since is not None
    change = pixels(str(peak.since))
    assert change[0, 0] < 16 <= change[0, -1], "below and above the baseline"
    assert 'class="sign fail"' in str(peak.today)
    assert warmth.title.startswith("Temperature")
    by_module = pixels(str(warmth.today))[0].reshape(MODULES, COLUMNS)
    assert (by_module == by_module[:, :1]).all()
    assert "12 by" not in str(peak.today)
    assert "6 by 48 crystals" in str(peak.today)


def test_page_and_print_have_it_and_the_page_may_show_pictures_of_its_own_only() -> None:
    page = render_html(a_ring())
    assert page.count("data:image/png") == 4
    assert "img-src data:" in page
    assert "Minus baseline" in page
    assert render_pdf(a_ring()).startswith(b"%PDF")


@pytest.mark.parametrize("missing", ["x_mm", "positions"])
def test_what_is_no_ring_has_no_such_map(missing: str) -> None:
    run = a_ring()
    if missing == "x_mm":
        del run.channels["x_mm"]
    else:
        run.channels["z_mm"] = np.sign(run.channels["z_mm"]) * 50.0
    assert ring_of(run) is None
    assert "image/png" not in render_html(run)


def test_of_a_large_detector_only_what_is_flagged_is_listed_and_drawn_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("petqc.report.maps.MOST_CHANNELS", 100)
    monkeypatch.setattr("petqc.report.tables.MOST_CHECK_ROWS", 20)
    run = a_ring()
    limits = Limits(warn_low=500.0)
    run.checks += [CheckResult.measured("photopeak", f"asic:0.0.{k}", 511.0, "keV", 0.1, 9, limits) for k in range(30)]
    run.checks[-1] = replace(run.checks[-1], status=Status.WARN)
    page = render_html(run)
    assert "11 others are only in the unrolled maps" in page
    assert "29 more of ASICs and bias outputs that pass" in page
    assert 'id="check-0"' in page


def test_a_png_of_one_cell_is_whole() -> None:
    assert encode(np.zeros((1, 1), np.uint8), ["#102030"]).endswith(b"IEND\xaeB`\x82")


def test_no_value_is_lighter_than_every_value_also_in_grey() -> None:
    lightness = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for c in palette()]
    assert lightness[-1] > 1.15 * max(lightness[:-1])
