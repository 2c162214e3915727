"""The report of a run, from a Run that looks like a bench's morning: numbers drawn from a seed, marked simulated.

Longer than other files because the run that all these tests look at is built here.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.channel_map import absolute_channel, asic_node, channel_node
from petqc.limits import Limits, Status, worst
from petqc.report import channels, content_security_policy, maps, render_html, spectra, tables, tiles, write_html
from petqc.report.page import view
from petqc.report.pdf import render_pdf
from petqc.report.text import THIN
from petqc.results import (
    ChannelColumn,
    CheckResult,
    EnvironmentReading,
    Hypothesis,
    RawFile,
    Run,
    RunPart,
    Spectrum,
)

if TYPE_CHECKING:
    from pathlib import Path

MODULES = ("module:0.0.0", "module:0.0.1")
PAIR = "module:0.0.1 - module:0.0.0"
PEAK = Limits(495.7, 505.9, 516.1, 526.3)
SOFT_PEAK = Limits(470.1, 495.7, 526.3, 551.9)
RESOLUTION = Limits(None, None, 12.5, 14.0)
OFFSET = Limits(-75.0, -20.0, 20.0, 75.0)
DEAD, HOT, FEW = (37, 300), (190,), (411, 412)


def make_run(seed: int = 1, modules: int = 2) -> Run:
    """A bench of facing modules of 16 x 16 channels with two dead channels, a hot one and two with few counts."""
    rng = np.random.default_rng(seed)
    n = 256 * modules
    absolute = np.array([absolute_channel(0, 0, i // 64, i % 64) for i in range(n)], np.int32)
    inside = np.arange(n) % 256
    run = Run(
        run_id="2026-03-02T060000Z-bench-0001",
        kind="daily",
        started_at="2026-03-02T06:00:00Z",
        finished_at="2026-03-02T06:05:12.400Z",
        simulated=True,
        verdict=Status.WARN,
        sentence="Scan, but look at Dead channels of module 0.0.0: 1, above the warn limit of 0.",
        software={"petqcd": "0.1.0", "numpy": "2.2.6", "method": "1"},
        config_hash="sha256:" + "3f" * 32,
        calibration_ids={"tdc": "tdc-2026-02-27", "energy": "energy-2026-02-27", "time_offset": "offset-2026-02-28"},
        raw_files=[RawFile("daily-0001.rawf", "ab" * 32)],
        environment=[
            EnvironmentReading("board_temperature", "module:0.0.0", 24.31, "°C", True, "ok", 1.2),
            EnvironmentReading("board_temperature", "module:0.0.1", 24.84, "°C", True, "ok", 1.2),
            EnvironmentReading("bias_voltage", "bias:0.0.0.3", 29.05, "V", False, "ok", 305.0),
            EnvironmentReading("humidity", "scanner", None, "%", True, "stale", 4000.0),
        ],
        account={
            "frames": 30_517_578,
            "frames_lost": 122,
            "frames_partly_lost": 4,
            "hits": 9_412_377,
            "hits_dropped_tdc": 812,
            "out_of_order": 17,
            "live_time_s": 312.4,
        },
        diagnosis=[
            Hypothesis(
                "open bond or broken SiPM",
                "channel:0.0.0.37",
                0.82,
                ("rate 0", "neighbours 2 % low"),
                "measure the current of bias channel 3 with the channel masked and unmasked",
            )
        ],
        notes=["Source: Na-22 point, 0.37 MBq on 2026-01-01."],
        scanner="bench",
    )
    run.channels = {
        "channel": absolute,
        "module": np.array([MODULES[i // 256] if i < 512 else f"module:0.0.{i // 256}" for i in range(n)], object),
        "asic": np.array([asic_node(int(a)) for a in absolute], object),
        "column": (inside % 16).astype(np.int16),
        "row": (inside // 16).astype(np.int16),
    }
    run.columns = _columns(rng, n)
    run.spectra = [_energy(rng, "scanner", 260_000), *(_energy(rng, m, 130_000) for m in MODULES)]
    run.spectra += [_timing(rng, "scanner", 48_000), _timing(rng, PAIR, 48_000)]
    run.checks = _checks()
    run.verdict = worst([c.status for c in run.checks])
    return run


def _columns(rng: np.random.Generator, n: int) -> list[ChannelColumn]:
    counts = rng.poisson(1800 * (1 + 0.12 * np.sin(np.arange(n) / 9.0)))
    counts[[d for d in DEAD if d < n]] = 0
    counts[[h for h in HOT if h < n]] *= 7
    few = [f for f in FEW if f < n]
    counts[few] = 60
    silent = counts < 200

    def column(id_: str, unit: str, value: np.ndarray, sigma: np.ndarray, limits: Limits, why: str) -> ChannelColumn:
        value, sigma = value.astype(float), sigma.astype(float)
        value[silent], sigma[silent] = np.nan, np.nan
        status = np.array([str(limits.judge(v)) for v in value], object)
        reason = np.array([why.format(c) if s else "" for c, s in zip(counts, silent, strict=True)], object)
        return ChannelColumn(id_, unit, value, sigma, counts.astype(np.int64), status, reason)

    peak = rng.normal(511, 4.5, n) + 3 * np.sin(np.arange(n) / 40)
    peak[100 % n] = 463.0
    few_counts = "too few counts: {} of 200"
    columns = [
        column("photopeak", "keV", peak, 22.8 / np.sqrt(counts + 1), SOFT_PEAK, few_counts),
        column("energy_resolution", "%", rng.normal(10.5, 0.5, n), 7.4 / np.sqrt(counts + 1), RESOLUTION, few_counts),
        column("module_time_offset", "ps", rng.normal(0, 14, n), 90 / np.sqrt(counts + 1), OFFSET, few_counts),
    ]
    rate = counts / 312.4
    flat = np.array(["no-limits"] * n, object)
    nothing = np.array([""] * n, object)
    columns.append(ChannelColumn("singles_rate", "1/s", rate, np.sqrt(counts) / 312.4, counts, flat, nothing))
    for id_, which in (("dead_channels", DEAD), ("hot_channels", HOT)):
        flag = np.isin(np.arange(n), which)
        columns.append(
            ChannelColumn(
                id_, "", flag.astype(float), np.zeros(n), counts,
                np.where(flag, "fail", "pass").astype(object), nothing,
            )
        )  # fmt: skip
    return columns


def _energy(rng: np.random.Generator, node: str, n: int) -> Spectrum:
    edges = np.arange(0.0, 1401.0, 4.0)
    centre = (edges[:-1] + edges[1:]) / 2
    sigma = 22.8
    peak = np.exp(-0.5 * ((centre - 511) / sigma) ** 2)
    erfc = np.array([math.erfc((c - 511) / (math.sqrt(2) * sigma)) for c in centre])
    under = 0.055 * erfc + 0.004
    shape = (
        peak + under + 0.16 * np.exp(-centre / 260) * (centre > 60) + 0.05 * np.exp(-0.5 * ((centre - 300) / 70) ** 2)
    )
    shape += 0.045 * np.exp(-0.5 * ((centre - 1275) / 48) ** 2)
    scale = n / shape.sum()
    inside = (centre > 400) & (centre < 650)
    expected = shape * scale
    fit = np.where(inside, expected, np.nan)
    background = np.where(inside, (shape - peak) * scale, np.nan)
    return Spectrum(
        "photopeak", node, "energy", "keV", edges, rng.poisson(expected).astype(float), fit, background, None,
        (425.0, 650.0), "Gaussian on an erfc step and a constant, Poisson likelihood.",
    )  # fmt: skip


def _timing(rng: np.random.Generator, node: str, n: int) -> Spectrum:
    edges = np.arange(-5000.5, 5000.0, 10.0)
    centre = (edges[:-1] + edges[1:]) / 2
    sigma = 214.0 / 2.3548
    shape = np.exp(-0.5 * ((centre - 6) / sigma) ** 2)
    peak = 0.94 * n * shape / shape.sum()
    flat = np.full(centre.size, 0.06 * n / centre.size)
    return Spectrum(
        "ctr_fit", node, "time difference", "ps", edges, rng.poisson(peak + flat).astype(float), peak + flat, flat,
        rng.poisson(flat).astype(float), None, "Gaussian on a flat background, Poisson likelihood.",
    )  # fmt: skip


def _checks() -> list[CheckResult]:
    got = CheckResult.measured
    none = Limits()
    whole_and_modules = (("scanner", 0.0), (MODULES[0], 0.4), (MODULES[1], -0.5))
    asics = [(f"asic:0.0.{chip}", 0.6 * chip - 2.0) for chip in range(8)]
    return [
        *(
            got("photopeak", node, 510.83 + shift, "keV", 0.12, 260_000, PEAK, method="erfc-step/1")
            for node, shift in (*whole_and_modules, *asics)
        ),
        *(
            got("energy_resolution", node, 10.52 + shift, "%", 0.06, 260_000, RESOLUTION)
            for node, shift in (("scanner", 0.0), (MODULES[0], -0.3), (MODULES[1], 2.4))
        ),
        got("window_acceptance", "scanner", 99.71, "%", 0.02, 260_000, Limits(97.5, 99.0)),
        got("ctr_fit", "scanner", 213.9, "ps", 1.1, 45_000, Limits(None, None, 230.0, 245.0), method="gauss-flat/1"),
        got("ctr_nema", "scanner", 216.2, "ps", 3.9, 45_000, none, method="nema-style/1"),
        got("module_time_offset", MODULES[0], -3.1, "ps", 0.6, 45_000, OFFSET),
        got("module_time_offset", MODULES[1], 3.1, "ps", 0.6, 45_000, OFFSET),
        got("singles_rate", "scanner", 30128.6, "1/s", 9.8, 9_412_377, Limits(27000.0, 29000.0, 32000.0, 34000.0)),
        got("prompts", "scanner", 154.1, "1/s", 0.7, 48_144, none),
        got("randoms_delayed", "scanner", 9.2, "1/s", 0.17, 2_880, none),
        got("dead_channels", "scanner", 2, "", 0.0, 512, Limits(None, None, 1.0, 5.0)),
        got("dead_channels", MODULES[0], 1, "", 0.0, 256, Limits(None, None, 2.0, 64.0)),
        got("dead_channels", MODULES[1], 1, "", 0.0, 256, Limits(None, None, 2.0, 64.0)),
        got("hot_channels", "scanner", 1, "", 0.0, 512, Limits(None, None, 2.0, 5.0)),
        got("lost_frames", "scanner", 0.0004, "%", 0.00004, 30_517_578, Limits(None, None, 1.0, 5.0)),
        got("live_time", "scanner", 99.9996, "%", 0.0001, 30_517_578, Limits(95.0, 99.0)),
    ]


VOID = {"meta", "br", "link", "hr", "img", "input"}


class Page(HTMLParser):
    """What a page holds: elements with attributes, ids, links, text by element, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(self.open), data.strip()))

    def with_class(self, tag: str, name: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and name in (a.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(t for where, t in self.texts if "style" not in where)


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return render_html(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_verdict_is_said_in_word_sign_and_sentence(run: Run, page: Page) -> None:
    assert page.with_class("header", "warn")
    heading = [t for where, t in page.texts if "h1" in where]
    assert heading == ["Warning"]
    assert run.sentence in page.text
    assert run.run_id in page.text
    assert "2026-03-02 06:00:00 UTC" in page.text
    assert "5 min 12 s" in page.text
    assert "2 modules, 8 ASICs, 512 channels" in page.text


def test_simulated_runs_say_so_and_real_ones_do_not(run: Run, page: Page) -> None:
    assert page.with_class("p", "simulated")
    assert any("simulated" in t for where, t in page.texts if "title" in where)
    real = Page(render_html(dataclasses.replace(run, simulated=False)))
    assert not real.with_class("p", "simulated")
    assert "simulated" not in real.text.lower()


def test_the_page_needs_nothing_but_itself(html: str, page: Page) -> None:
    for name, attributes in page.elements:
        assert name not in {"script", "link", "img", "iframe", "object", "embed", "form"}
        assert not [a for a in attributes if a.startswith("on") or a == "style"]
        assert all((attributes.get(a) or "#").startswith("#") for a in ("href", "src"))
    assert not re.search(r"(https?:)?//[a-z]", html)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_policy_names_the_hash_of_the_style_sheet(html: str, page: Page) -> None:
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    said = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert said == content_security_policy()
    assert f"style-src 'sha256-{digest}'" in content_security_policy()
    assert "default-src 'none'" in content_security_policy()


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for _, a in page.elements if a.get("href")}
    assert targets <= set(ids)
    labels = {a["aria-labelledby"] for _, a in page.elements if a.get("aria-labelledby")}
    assert labels <= set(ids)


def test_the_six_tiles_give_value_uncertainty_unit_and_limits(page: Page) -> None:
    assert len([a for t, a in page.elements if t == "article"]) == 6
    bars = [a["aria-label"] or "" for a in page.with_class("svg", "limits")]
    assert len(bars) == 5, "prompts have no limits in this run"
    assert any(
        "510.83 ± 0.12 keV" in b and "warn outside 505.9 to 516.1, fail outside 495.7 to 526.3" in b for b in bars
    )
    assert any("213.9 ± 1.1 ps" in b and "warn above 230, fail above 245" in b for b in bars)
    for said in ("216 ± 4 ps", "99.710 ± 0.020 %", "9.20 ± 0.17 1/s"):
        assert said in page.text


def test_spectra_are_drawn_linear_with_pulls_and_logarithmic(page: Page) -> None:
    figures = [a["aria-label"] or "" for a in page.with_class("svg", "figure")]
    system = next(f for f in figures if f.startswith("Linear. Energy of scanner"))
    assert "window 425 to 650 keV" in system
    assert "510.83 ± 0.12 keV" in system
    assert re.search(r"chi-square of the fit \d+ in 62 bins", system)
    assert "Logarithmic: Energy, scanner." in figures
    assert any(f.startswith(f"Time difference of {PAIR}") for f in figures)
    for module in MODULES:
        assert any(f.startswith(f"Energy of {module}:") for f in figures)
    assert page.with_class("path", "pull")
    assert page.with_class("path", "delayed")
    assert page.with_class("rect", "window")


def test_the_half_height_marks_stand_at_the_full_width_at_half_maximum(run: Run) -> None:
    timing = next(s for s in run.spectra if s.id == "ctr_fit")
    peak = spectra.peak_of(timing)
    assert peak is not None
    assert peak.high - peak.low == pytest.approx(214.0, abs=1.0)
    assert peak.position == pytest.approx(6.0, abs=5.0)
    low, high = spectra.close_up(timing)
    assert -700 < low < -600
    assert 600 < high < 700


def test_every_channel_is_on_every_map_with_its_number(page: Page, run: Run) -> None:
    titles = [t for where, t in page.texts if where[-2:] == ("rect", "title")]
    assert len(titles) == 4 * 512
    for number in (0, 255, 511):
        node = channel_node(int(run.channels["channel"][number]))
        assert len([t for t in titles if t.startswith(f"{node} ")]) == 4
    dead = channel_node(int(run.channels["channel"][DEAD[0]]))
    assert f"{dead} column 5 row 2: no number: too few counts: 0 of 200, invalid, dead, suspect" in titles


def test_maps_mark_dead_hot_and_out_of_limits_by_shape(page: Page) -> None:
    maps = page.with_class("svg", "map")
    assert len(maps) == 8
    for shape, count in (("dead", 8), ("hot", 4), ("fail", 1)):
        drawn = [p for p in page.with_class("path", shape) if "sign" in (p["class"] or "")]
        assert len(drawn) == count + 1  # and once in the key
    label = maps[0]["aria-label"] or ""
    assert "of module:0.0.0, 256 channels; median 51" in label
    assert "1 dead; 1 hot; 1 suspect; 1 fail; 1 without a number." in label


def test_a_map_has_row_zero_at_the_bottom_and_colour_by_value() -> None:
    run = make_run()
    column = run.columns[0]
    column.value[0], column.value[255] = 400.0, 700.0  # outside the range of colours on both sides
    found = channels.read_channels(run)
    assert found is not None
    module = found.modules[0]
    colours = maps.colour_range(column.value)
    svg = str(maps.draw_map(column, found, module, colours, has_titles=True))
    first, last = (
        re.search(rf'<rect class="(\w+)" x="(\d+)" y="(\d+)"[^>]*><title>channel:0.0.{c} ', svg)
        for c in ("0.0", "3.63")
    )
    assert first is not None
    assert last is not None
    assert (first[1], last[1]) == ("q0", "q31")
    assert int(first[2]) < int(last[2])
    assert int(first[3]) > int(last[3])


def test_channels_without_a_crystal_map_stand_in_order_of_their_numbers(run: Run) -> None:
    flat = {**run.channels, "column": np.full(512, -1, np.int16), "row": np.full(512, -1, np.int16)}
    text = Page(render_html(dataclasses.replace(run, channels=flat))).text
    assert "no crystal map: by channel number" in text


def test_a_large_scanner_stays_a_small_page() -> None:
    run = make_run(modules=40)
    html = render_html(run)
    assert len(html.encode()) < 3_000_000
    assert "8192 more are in channels.parquet" in html.replace(THIN, "")
    Page(html)


def test_the_page_of_the_bench_is_below_three_megabytes(html: str) -> None:
    assert len(html.encode()) < 3_000_000


def test_the_table_of_checks_has_them_all_and_filters_by_link(run: Run, page: Page) -> None:
    rows = [a for t, a in page.elements if t == "tr" and (a.get("id") or "").startswith("check-")]
    assert len(rows) == len(run.checks)
    links = {a["href"] for t, a in page.elements if t == "a"}
    assert {"#only-warn", "#only-pass", "#only-no-limits", "#checks"} <= links
    assert "#only-fail" not in links  # there is none to show
    for status in set(Status) - {Status.MISSED}:  # a run may be, a result never
        assert f"#only-{status}:target ~ .scroll tbody tr:not(.{status})" in next(
            t for where, t in page.texts if "style" in where
        )


def test_headers_of_tables_have_a_scope(page: Page) -> None:
    headers = [a for t, a in page.elements if t == "th"]
    assert headers
    assert all(a.get("scope") in {"col", "row"} for a in headers)


def test_headings_leave_no_level_out(page: Page) -> None:
    levels = [int(t[1]) for t, _ in page.elements if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_channels_that_need_attention_are_listed_by_address_worst_first(run: Run) -> None:
    found = channels.read_channels(run)
    assert found is not None
    listed = tables.offenders(run, found)
    assert [o.status for o in listed] == sorted((o.status for o in listed), key=tables.STATUS_ORDER.index)
    by_node = {o.node: o for o in listed}
    assert by_node["channel:0.0.0.37"].issues[0][1] is Status.FAIL
    merged = by_node["channel:0.0.0.37"].issues[1]
    assert merged[0].count(",") >= 2  # one reason for all the values that could not be given
    assert merged[2] == "no number: too few counts: 0 of 200"
    assert "channel:0.0.0.0" not in by_node


def test_readings_say_measured_or_commanded_and_how_old(page: Page) -> None:
    assert "commanded" in page.text
    assert "5 min 5 s" in page.text
    assert "1 h 6 min" in page.text
    assert "24.31" in page.text
    assert len(page.with_class("tr", "doubtful")) == 1


def test_the_account_gives_shares(page: Page) -> None:
    assert f"30{THIN}517{THIN}578" in page.text
    assert "0.0004 %" in page.text
    assert "Hits dropped: tdc" in page.text
    assert "0.0086 %" in page.text


def test_traceability_is_complete(run: Run, page: Page) -> None:
    for said in (run.config_hash, *run.calibration_ids.values(), *run.software.values(), "ab" * 32, "daily-0001.rawf"):
        assert said in page.text
    assert "scanner, module, asic: warn outside 505.9 to 516.1, fail outside 495.7 to 526.3" in page.text
    assert "erfc-step/1" in page.text


def test_causes_come_with_address_evidence_and_next_step(page: Page) -> None:
    for said in ("open bond or broken SiPM", "channel:0.0.0.37", "neighbours 2 % low", "Next: measure the current"):
        assert said in page.text


def test_the_same_run_gives_the_same_bytes(run: Run, html: str, tmp_path: Path) -> None:
    assert render_html(run) == html
    assert render_html(make_run()) == html
    assert render_html(make_run(seed=2)) != html
    write_html(run, tmp_path / "a.html")
    write_html(run, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == html.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_a_saved_run_gives_the_same_page(run: Run, html: str, tmp_path: Path) -> None:
    run.save(tmp_path)
    assert render_html(Run.load(tmp_path)) == html


HOSTILE = "</style></svg><script>alert(1)</script>\"' onload='x' {{ 7*7 }} <!-- ]]>"


def test_hostile_strings_stay_text() -> None:
    run = make_run()
    run.run_id = run.kind = run.sentence = run.scanner = run.config_hash = HOSTILE
    run.started_at = run.finished_at = HOSTILE
    run.software = {HOSTILE: HOSTILE}
    run.calibration_ids = {HOSTILE: HOSTILE}
    run.raw_files = [RawFile(HOSTILE, HOSTILE)]
    run.notes = [HOSTILE]
    run.account = {HOSTILE: 1}
    run.environment = [EnvironmentReading(HOSTILE, HOSTILE, 1.0, HOSTILE, True, HOSTILE, 1.0)]
    run.diagnosis = [Hypothesis(HOSTILE, HOSTILE, 0.5, (HOSTILE,), HOSTILE)]
    run.checks = [
        CheckResult.missing(HOSTILE, HOSTILE, HOSTILE, 0, Limits(), HOSTILE, method=HOSTILE),
        CheckResult.missing("photopeak", "scanner", HOSTILE, 0, PEAK, HOSTILE),
    ]
    run.spectra = [
        dataclasses.replace(s, quantity=HOSTILE, unit=HOSTILE, text=HOSTILE, id=HOSTILE) for s in run.spectra
    ]
    run.channels["module"] = np.array([HOSTILE] * 512, object)
    run.columns = [
        dataclasses.replace(run.columns[0], id=HOSTILE, unit=HOSTILE, reason=np.array([HOSTILE] * 512, object))
    ]
    html = render_html(run)
    page = Page(html)
    assert "<script" not in html
    assert not [a for _, a in page.elements if any(k.startswith("on") for k in a)]
    assert HOSTILE in page.text
    assert f"no number: {HOSTILE}" in page.text


def test_a_run_that_measured_nothing_gives_a_page_that_says_why() -> None:
    run = Run(
        run_id="r", kind="daily", started_at="", finished_at="", simulated=False, verdict=Status.INVALID,
        sentence="Not measured: the readout stopped sending after 3.2 s.", software={}, config_hash="",
        calibration_ids={},
    )  # fmt: skip
    page = Page(render_html(run))
    assert page.with_class("header", "invalid")
    assert "the readout stopped sending after 3.2 s" in page.text
    assert "Nothing was measured" in page.text
    assert not [a for t, a in page.elements if t == "article"]
    targets = {(a["href"] or "")[1:] for _, a in page.elements if a.get("href")}
    assert targets <= {a["id"] for _, a in page.elements if a.get("id")}


def test_values_that_are_missing_leave_a_reason_not_a_number() -> None:
    run = make_run()
    run.checks = [
        CheckResult.missing("photopeak", "scanner", "keV", 57, PEAK, "two humps at 29 and 59, not one peak"),
        CheckResult.missing("ctr_fit", PAIR, "ps", 12, Limits(), "too few pairs: 12 of 200"),
    ]
    run.spectra = [dataclasses.replace(s, fit=None, background=None) for s in run.spectra]
    for column in run.columns:
        column.value[:] = np.nan
        column.uncertainty[:] = np.nan
    html = render_html(run)
    page = Page(html)
    assert "two humps at 29 and 59, not one peak" in page.text
    assert "too few pairs: 12 of 200" in page.text
    assert "no number" in page.text
    assert page.with_class("svg", "scale") == []
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)


def test_empty_and_flat_spectra_are_drawn() -> None:
    run = make_run()
    edges = np.array([0.0, 1.0])
    run.spectra = [
        Spectrum("photopeak", "scanner", "energy", "keV", np.arange(0.0, 401.0), np.zeros(400)),
        Spectrum("photopeak", MODULES[0], "energy", "keV", edges, np.array([3.0])),
        Spectrum("ctr_fit", PAIR, "time difference", "ps", np.array([0.0]), np.zeros(0)),
        Spectrum("other", "scanner", "multiplicity", "", np.arange(5.0), np.array([1e7, 1e6, 0.0, 1.0])),
    ]
    page = Page(render_html(run))
    labels = [a["aria-label"] or "" for a in page.with_class("svg", "figure")]
    assert any(label.startswith("Linear. Energy of scanner: 0 counts") for label in labels)
    assert any("Multiplicity of scanner" in label for label in labels)
    assert "This run has no timing histogram." in page.text


@pytest.mark.parametrize("status", list(Status))
def test_each_verdict_has_its_word_and_sign(run: Run, status: Status) -> None:
    page = Page(render_html(dataclasses.replace(run, verdict=status)))
    assert page.with_class("header", status)
    assert {"href": f"#s-{status}"} in [a for t, a in page.elements if t == "use"]
    assert f"s-{status}" in [a.get("id") for t, a in page.elements if t == "symbol"]


def test_a_composed_run_shows_its_parts_with_links(run: Run) -> None:
    parts = [
        RunPart("r-1", "source", Status.WARN, "Scan, but look."),
        RunPart(None, "dark", Status.MISSED, "never began"),
    ]
    composed = dataclasses.replace(run, parts=parts)
    page = Page(render_html(composed))
    assert "../r-1/report.html" in [a.get("href") for t, a in page.elements if t == "a"]
    assert "never began" in page.text
    assert render_pdf(composed).startswith(b"%PDF")


def test_a_replayed_run_says_so_instead_of_being_called_simulated() -> None:
    note = "Replayed: the frames are those of scan.rawf (SHA-256 0123), and say nothing about the detector today."
    run = usual_run(simulated=True, notes=[note])
    page = render_html(run)
    assert "<b>Replayed.</b> The frames are those of scan.rawf (SHA-256 0123)" in page
    assert "<b>Simulated.</b>" not in page
    assert "<b>Simulated.</b>" in render_html(usual_run(simulated=True))


@pytest.mark.parametrize("kind", ["housekeeping", "daily"])
def test_a_run_without_numbers_of_a_source_shows_its_own(kind: str) -> None:
    temperature = CheckResult.measured("temperature_asic", "module:0.0.0", 25.0, "degC", 0.1, 4, Limits(warn_high=30.0))
    locks = CheckResult.measured("lock", "scanner", 0.0, "links", 0.0, 3, Limits(fail_high=0.0))
    none = dataclasses.replace(CheckResult.missing("linearity", "scanner", "%", 0, Limits(), "not applicable"),
                               status=Status.NO_LIMITS)  # fmt: skip
    page = Page(render_html(usual_run(kind=kind, checks=[none, temperature, locks])))
    headings = [a for t, a in page.elements if t == "article"]
    assert len(headings) == 2
    assert "this run has no such check" not in page.text
    assert not {"energy", "timing", "maps", "channels"} & {a.get("id") for _, a in page.elements}


def test_what_has_no_number_for_one_reason_needs_attention_once() -> None:
    nodes = [*MODULES, *(f"asic:0.0.{n}" for n in range(8))]
    checks = [CheckResult.missing("photopeak", node, "keV", 0, PEAK, "the source is missing") for node in nodes]
    checks.append(CheckResult.missing("energy_resolution", "scanner", "%", 0, PEAK, "the source is missing"))
    findings, more = tables.attention(tables.check_table(usual_run(checks=checks)))
    assert (len(findings), more) == (1, 0)
    assert [title for _, title in findings[0].titles] == ["Photopeak position", "Energy resolution"]
    assert findings[0].where.endswith(" and 6 more")


def test_a_module_of_many_that_fails_is_in_the_tile_and_among_the_printed_maps() -> None:
    run = make_run(modules=12)
    nodes = [m.node for m in channels.read_channels(run).modules]  # type: ignore[union-attr]
    peak = CheckResult.measured("photopeak", "scanner", 511.0, "keV", 0.1, 9, PEAK)
    bad = CheckResult.measured("photopeak", nodes[-1], 437.0, "keV", 0.1, 9, PEAK)
    good = [CheckResult.measured("photopeak", node, 511.0, "keV", 0.1, 9, PEAK) for node in nodes[:-1]]
    run.checks = [peak, *good, bad]
    for column in run.columns:
        column.status[run.channels["module"] == nodes[-1]] = "fail"
    tile = next(t for t in tiles.tiles(run) if t.id == "photopeak")
    assert tile.status is Status.PASS
    assert [(m.word, m.status) for m in tile.modules] == [(nodes[-1], Status.FAIL)]
    printed = view(run)["print_modules"]
    assert (len(printed), printed[0]) == (8, nodes[-1])
