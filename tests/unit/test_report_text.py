"""How the report writes numbers, times, limits and nodes, and where its small drawings put them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc.limits import Limits, Status
from petqc.report import maps, spectra, svg, text
from petqc.report.text import MINUS, THIN
from petqc.report.tiles import limit_bar
from petqc.results import CheckResult, Spectrum

PEAK = Limits(495.7, 505.9, 516.1, 526.3)


@pytest.mark.parametrize(
    ("value", "sigma", "said"),
    [
        (510.834, 0.123, "510.83 ± 0.12 keV"),
        (510.834, 0.354, "510.83 ± 0.35 keV"),
        (510.834, 0.355, "510.8 ± 0.4 keV"),
        (510.834, 0.0964, "510.83 ± 0.10 keV"),
        (30128.6, 112.0, f"30{THIN}129 ± 112 keV"),
        (-3.14, 0.6, f"{MINUS}3.1 ± 0.6 keV"),
        (-0.04, 0.6, "0.0 ± 0.6 keV"),
        (2.0, 0.0, "2 keV"),
        (2.0, None, "2 keV"),
        (0.123456, None, "0.1235 keV"),
        (None, 0.1, "–"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_a_value_and_its_uncertainty_have_the_same_decimals(value: float, sigma: float, said: str) -> None:
    assert text.measured(value, sigma, "keV") == said


def test_units_are_written_as_people_do() -> None:
    assert text.measured(21.5, 0.12, "degC") == "21.50 ± 0.12 °C"
    assert text.measured(1.0, None, "1") == "1"


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e6))
def test_rounding_never_moves_a_value_by_half_of_its_uncertainty(value: float, sigma: float) -> None:
    number, shown = (s.replace(THIN, "").replace(MINUS, "-") for s in text.value_and_uncertainty(value, sigma))
    assert abs(float(number) - value) <= max(0.5 * sigma, 0.5e-9) + 1e-9 * abs(value)
    assert float(shown) == pytest.approx(sigma, rel=0.15, abs=0.5 if sigma >= 1 else 0.5e-9)
    assert len(number.partition(".")[2]) == len(shown.partition(".")[2])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(), "none"),
        (PEAK, "warn outside 505.9 to 516.1, fail outside 495.7 to 526.3"),
        (Limits(None, None, 12.5, 14.0), "warn above 12.5, fail above 14"),
        (Limits(97.5, 99.0), "warn below 99, fail below 97.5"),
        (Limits(None, None, 0.0, None), "warn above 0"),
        (Limits(-1.0, None, None, 1.0), f"fail outside {MINUS}1 to 1"),
    ],
)
def test_limits_in_words(limits: Limits, said: str) -> None:
    assert text.limits_text(limits) == said


def test_nodes_are_in_the_order_of_the_hardware() -> None:
    nodes = [
        "scanner", "module:0.0.2", "module:0.0.10", "module:0.0.1 - module:0.0.0", "asic:0.0.9", "asic:0.0.11",
        "asic:0.1.0", "bias:0.0.1.2", "channel:0.0.0.63", "channel:0.0.1.0", "something else",
    ]  # fmt: skip
    backwards = nodes[::-1]
    assert sorted(backwards, key=text.node_sort_key) == nodes
    assert [text.level_of(n) for n in nodes[:5]] == ["scanner", "module", "module", "pair", "asic"]


def test_times() -> None:
    assert text.moment("2026-03-02T08:00:00+02:00") == "2026-03-02 06:00:00 UTC"
    assert text.moment("2026-03-02T08:00:00") == "2026-03-02 08:00:00"
    assert text.moment("yesterday") == "yesterday"
    assert text.duration("2026-03-02T06:00:00Z", "2026-03-02T06:05:12.4Z") == "5 min 12 s"
    assert text.duration("2026-03-02T06:00:00Z", "2026-03-02T06:00:00") == ""  # one of them has no zone
    assert text.duration("2026-03-02T06:00:01Z", "2026-03-02T06:00:00Z") == ""
    assert [text.age(s) for s in (0.04, 1.26, 59.9, 60, 3600, 90_061, float("inf"))] == [
        "0 s", "1.3 s", "59.9 s", "1 min", "1 h", "1 d 1 h", "–",
    ]  # fmt: skip


def test_titles_come_from_the_registry_and_unknown_ids_stay_readable() -> None:
    assert text.title_of("no_such_check.second_width") == "No such check, second width"
    assert text.source_of("no_such_check") == ""


def test_the_place_of_the_value_in_the_bar_is_where_the_limits_say() -> None:
    result = CheckResult.measured("photopeak", "scanner", 516.1, "keV", 0.0, 1, PEAK)
    bar = str(limit_bar(result))
    place = re.search(r'class="value-line" x1="([\d.]+)"', bar)
    ticks = [float(x) for x in re.findall(r'class="axis" x1="([\d.]+)"', bar)]
    assert place is not None
    assert float(place[1]) == max(t for t in ticks if t < max(ticks))  # on the upper warn limit, inside the fail limit
    far = str(limit_bar(dataclasses.replace(result, value=700.0, status=Status.FAIL)))
    assert "value-line" not in far
    assert 'class="value"' in far
    assert limit_bar(dataclasses.replace(result, limits=Limits(), status=Status.NO_LIMITS)) is None


def test_a_pull_that_is_out_is_marked() -> None:
    edges = np.arange(0.0, 21.0)
    fit = np.full(20, 100.0)
    counts = fit.copy()
    counts[7] = 300.0
    spectrum = Spectrum("x", "scanner", "energy", "keV", edges, counts, fit)
    svg = str(spectra.draw(spectrum, "label", size=spectra.LARGE, between=(0.0, 20.0)))
    assert svg.count('class="beyond"') == 1
    found = spectra.agreement(spectrum)
    assert found is not None
    assert (found.chi2, found.n, found.largest) == (400.0, 20, 20.0)


def test_ticks_are_round_and_inside() -> None:
    assert svg.linear_ticks(0.0, 1400.0, 6) == [0.0, 500.0, 1000.0]
    assert svg.linear_ticks(-0.35, 0.35, 4) == pytest.approx([-0.2, 0.0, 0.2])
    assert svg.log_ticks(0.5, 2e4) == [1.0, 10.0, 100.0, 1000.0, 10000.0]
    assert len(svg.log_ticks(1e-9, 1e12)) <= 7


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 10))
def test_ticks_lie_between_the_ends_whatever_they_are(low: float, width: float, about: int) -> None:
    ticks = svg.linear_ticks(low, low + width, about)
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= t <= low + width + slack for t in ticks)
    assert len(ticks) <= about + 1


def test_scales_clip_and_logarithms_take_zero() -> None:
    x = svg.Scale(0.0, 10.0, 100.0, 200.0)
    assert [x.at(v) for v in (-5, 0, 5, 10, 99)] == [100, 100, 150, 200, 200]
    y = svg.Scale(1.0, 100.0, 200.0, 0.0, is_log=True)
    assert [y.at(v) for v in (0, 1, 10, 100)] == [200, 200, 100, 0]


def test_a_histogram_path_goes_over_every_bin() -> None:
    path = svg.steps(np.array([0.0, 1, 2, 3, 4]), np.array([5.0, 5, 2, 7]), floor=10.0)
    assert path == "M0 10V5H2V2H3V7H4V10Z"
    assert svg.line(np.array([0.0, 1, 2, 3]), np.array([1.0, 2, np.nan, 4])) == "M0 1L1 2M3 4"


def test_elements_escape_what_they_are_given() -> None:
    made = svg.tag("text", "<b> & 'c'", class_='"><script>', x=1.04)
    assert str(made) == '<text class="&#34;&gt;&lt;script&gt;" x="1">&lt;b&gt; &amp; &#39;c&#39;</text>'


def test_colours_leave_out_one_per_cent_at_each_end_and_survive_equal_values() -> None:
    values = np.append(np.linspace(0.0, 100.0, 1001), [1e9, np.nan])
    colours = maps.colour_range(values)
    assert colours is not None
    assert 0.5 < colours.low < 1.5
    assert 98.5 < colours.high < 99.5
    assert colours.level(np.array([-1e9, 1e9])).tolist() == [0, maps.LEVELS - 1]
    equal = maps.colour_range(np.full(9, 511.0))
    assert equal is not None
    assert equal.low < 511.0 < equal.high
    assert maps.colour_range(np.full(4, np.nan)) is None


def test_commands_are_marked_and_everything_else_is_escaped() -> None:
    said = text.with_commands("Run `petqc calibrate <tdc>` & repeat")
    assert said == "Run <code>petqc calibrate &lt;tdc&gt;</code> &amp; repeat"
    assert text.with_commands("") == ""
