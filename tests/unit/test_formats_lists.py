"""List-mode text with a descriptor, .spe spectra and Janus lists: real files, damage, and bounded memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats.janus_list import JanusReader, read_janus_list
from petqc.formats.list_text import ListColumn, ListDescriptor, ListTextReader, read_list_text
from petqc.formats.spe import read_spe

SIMPLE = ListDescriptor((ListColumn("a", 0), ListColumn("b", 1, scale=-2.0, offset=1.0, zero_is_missing=True)))


def test_the_two_detector_list_has_the_counts_of_its_readme(shared_data):
    path = shared_data / "na22-list-180deg" / "na22_coinc.txt"
    events = read_list_text(path, ListDescriptor.shipped("two_energies_and_tac"))
    assert len(events) == events.lines == 26_991
    assert np.isfinite(events["tac"]).sum() == 17_322
    assert (np.isnan(events["tac"]) & np.isnan(events["energy_1"]) & np.isnan(events["energy_2"])).sum() == 13
    in_peak = [((e >= 1420) & (e <= 1450)).sum() for e in (events["energy_1"], events["energy_2"])]
    assert in_peak == [9212, 10_007]
    both = (np.abs(events["energy_1"] - 1435) <= 15) & (np.abs(events["energy_2"] - 1435) <= 15)
    assert both.sum() == 3733
    assert np.isfinite(events["tac"][both]).sum() == 3261
    assert np.nanmedian(events["tac"][both]) == 2632
    assert events.damage is None


@pytest.mark.parametrize(("name", "n"), [("Na2_1", 16_383), ("LYSO3", 7_337), ("Co2_1", 15_842)])
def test_the_triple_lists_have_the_events_of_their_readme(shared_data, name, n):
    descriptor = ListDescriptor.shipped("lyso_and_two_nai")
    events = read_list_text(shared_data / "na22-nai-lyso-triples" / f"{name}.dst", descriptor)
    assert len(events) == events.lines == n
    assert events.damage is None
    assert events["event"][0] == {"Na2_1": 6e6, "LYSO3": 3e6, "Co2_1": 4e6}[name]
    both = (np.abs(events["charge_nai_1_nvs"] - 23.5) <= 3) & (np.abs(events["charge_nai_2_nvs"] - 19) <= 3)
    if name == "Na2_1":
        assert both.sum() == 4179
        assert events["charge_nai_1_nvs"][0] == pytest.approx(16.91313)
        assert events["time_difference_ns"][0] == pytest.approx(-10.60)
        assert math.isnan(events["time_difference_ns"][2])
        assert events["height_nai_2_mv"][0] == pytest.approx(56.5)


def test_columns_are_scaled_and_zeros_are_missing(tmp_path):
    (tmp_path / "x").write_text("1 2\n3 0 # nothing\n\n# a comment\n5 -0.0\n")
    events = read_list_text(tmp_path / "x", SIMPLE)
    assert events["a"].tolist() == [1, 3, 5]
    assert events["b"][0] == -3
    assert np.isnan(events["b"][1:]).all()
    assert events.lines == 5


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_separators_and_headings(tmp_path, separator):
    (tmp_path / "x").write_text(f"name{separator}value\r\nunit{separator}V\r\n1{separator} 2 \r\n3{separator}4\r\n")
    text = f"separator = {separator!r}\nskip_lines = 2\ncomment = ''\n"
    text += "[[column]]\nname = 'v'\nindex = 1\nquantity = 'energy'\nunit = 'V'\n"
    descriptor = ListDescriptor.from_toml(text.replace("'\\t'", '"\\t"'))
    assert descriptor.columns[0] == ListColumn("v", 1, "energy", "", "V")
    events = read_list_text(tmp_path / "x", descriptor)
    assert events["v"].tolist() == [2, 4]


def test_lines_that_do_not_read_are_left_out_and_named(tmp_path):
    (tmp_path / "x").write_bytes(b"1 1.7e308\n1e999 1\n2 2\n")
    assert read_list_text(tmp_path / "x", SIMPLE)["a"].tolist() == [2]
    (tmp_path / "x").write_bytes(b"1 2\nabc 2\n3\n4 5\nnan 1\n6 \xff7\n7 8 9\n")
    events = read_list_text(tmp_path / "x", SIMPLE)
    assert events["a"].tolist() == [1, 4, 7]
    assert [(d.offset, d.records_before, d.bytes_after) for d in events.damages] == [
        (4, 1, 6),
        (10, 1, 2),
        (16, 2, 6),
        (22, 2, 5),
    ]
    assert "line 3: 1 fields, 2 are needed" in events.damages[1].reason


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", r"no \[\[column\]\]"),
        ("column = 3", r"no \[\[column\]\]"),
        ("x = ", "not TOML"),
        ("column = [1]", "not a table"),
        ("[[column]]\nname='a'", "index missing"),
        ("[[column]]\nname='a'\nindex=0\ncolour='red'", "unknown key 'colour'"),
        ("[[column]]\nname='a'\nindex='0'", "index is '0', not int"),
        ("[[column]]\nname='a'\nindex=true", "index is True, not int"),
        ("[[column]]\nname='a'\nindex=-1", "outside 0..999"),
        ("[[column]]\nname='a'\nindex=0\nscale=0", "give no number"),
        ("[[column]]\nname='a'\nindex=0\nscale=nan", "give no number"),
        ("[[column]]\nname='a'\nindex=0\nquantity='mass'", "quantity 'mass' is none of"),
        ("[[column]]\nname='a'\nindex=0\n[[column]]\nname='a'\nindex=1", "two columns have one name"),
        ("separator='x'\n[[column]]\nname='a'\nindex=0", "separator 'x' is none of"),
        ("skip_lines=-1\n[[column]]\nname='a'\nindex=0", "skip_lines is -1"),
        ("skip_lines=1.5\n[[column]]\nname='a'\nindex=0", "skip_lines is 1.5, not int"),
    ],
)
def test_a_descriptor_with_a_mistake_is_refused(tmp_path, text, what):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(BadInputError, match=what) as caught:
        ListDescriptor.load(tmp_path / "d.toml")
    assert "d.toml" in str(caught.value)


def test_files_and_descriptors_that_are_not_there(tmp_path):
    with pytest.raises(BadInputError, match="cannot be opened"):
        read_list_text(tmp_path / "no", SIMPLE)
    with pytest.raises(BadInputError, match="cannot be read"):
        ListDescriptor.load(tmp_path / "no")
    with pytest.raises(BadInputError, match="two_energies_and_tac"):
        ListDescriptor.shipped("no")
    (tmp_path / "x").write_text("")
    events = read_list_text(tmp_path / "x", SIMPLE)
    assert (len(events), events.lines, events.damage) == (0, 0, None)


@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), max_size=30), st.integers(1, 7))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_round_trip(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("l") / "x"
    path.write_text("".join("{!r};{!r};{!r}\n".format(*row) for row in rows))
    columns = tuple(ListColumn(n, k) for k, n in enumerate("abc"))
    with ListTextReader(path, ListDescriptor(columns, separator=";")) as reader:
        parts = list(reader.blocks(max_lines=block))
        assert reader.damage is None
        assert reader.bytes_read == reader.size
    found = [row for p in parts for row in zip(p["a"].tolist(), p["b"].tolist(), p["c"].tolist(), strict=True)]
    assert found == rows


def test_a_megabyte_of_noise_is_counted(tmp_path):
    noise = np.random.default_rng(2).bytes(1 << 20)
    (tmp_path / "x").write_bytes(noise)
    with ListTextReader(tmp_path / "x", SIMPLE) as reader:
        records = sum(part["a"].size for part in reader.blocks())
        assert records == reader.records_read < 10
        assert reader.bytes_read == reader.size
        assert reader.damages.total > 1000 >= len(reader.damages)
    with pytest.raises(BadInputError, match=r"no \$DATA section"):
        read_spe(tmp_path / "x")
    with pytest.raises(BadInputError, match="column names"):
        read_janus_list(tmp_path / "x")


def test_memory_does_not_grow_with_the_list(tmp_path):
    peaks = []
    for n in (20_000, 200_000):
        (tmp_path / str(n)).write_text("12.5 7.25\n" * n)
        with ListTextReader(tmp_path / str(n), SIMPLE) as reader:
            tracemalloc.start()
            total = sum(part["a"].size for part in reader.blocks(max_lines=5000))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == n
    assert peaks[1] < 1.1 * peaks[0]


# -- spectra


def test_the_spectrum_has_the_totals_of_its_readme(shared_data):
    spectrum = read_spe(shared_data / "csi-ba133-cs137-spectrum" / "SGM102432.spe")
    assert (spectrum.counts.size, spectrum.counts.sum()) == (4094, 166_239)
    assert (spectrum.live_s, spectrum.real_s) == (300.0, 300.0)
    assert spectrum.first_channel == 0
    assert spectrum.measured_at.isoformat() == "2018-07-11T00:00:00"
    assert spectrum.spec_id.startswith("Spectrum from a D3S CsI detector")
    assert spectrum.energy == ()
    assert spectrum.damage is None


SPE = (
    "$SPEC_ID:\nmine\n$DATE_MEA:\n02-28-2020 13:14:15\n$MEAS_TIM:\n9.5 10\n$DATA:\n5 8\n1\n2 3\n4\n"
    "$ENER_FIT:\n0.5 2.0\n$MCA_CAL:\n3\n1.0 2.0 0.0 keV\n$ROI:\n0\n"
)


def test_sections_of_a_spectrum(tmp_path):
    (tmp_path / "x.spe").write_text(SPE)
    spectrum = read_spe(tmp_path / "x.spe")
    assert spectrum.counts.tolist() == [1, 2, 3, 4]
    assert spectrum.first_channel == 5
    assert (spectrum.live_s, spectrum.real_s) == (9.5, 10)
    assert spectrum.measured_at.isoformat() == "2020-02-28T13:14:15"
    assert (spectrum.energy, spectrum.energy_unit) == ((1.0, 2.0, 0.0), "keV")
    assert spectrum.sections["ROI"] == ("0",)
    (tmp_path / "x.spe").write_bytes(SPE.replace("\n", "\r\n").split("$MCA_CAL")[0].encode())
    assert read_spe(tmp_path / "x.spe").energy == (0.5, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "counts", "reason"),
    [
        ("2 3\n", "2 x\n", [1, 2], "the count of channel 7 is 'x'"),
        ("2 3\n", "2 -3\n", [1, 2], "the count of channel 7 is '-3'"),
        ("4\n$ENER", "$ENER", [1, 2, 3], "3 counts, channels 5 to 8 need 4"),
        ("4\n$ENER", "4\n5\n$ENER", [1, 2, 3, 4], "5 counts for 4 channels"),
        ("9.5 10", "short", [1, 2, 3, 4], "$MEAS_TIM is 'short'"),
        ("9.5 10", "-1 10", [1, 2, 3, 4], "$MEAS_TIM is '-1 10'"),
        ("02-28-2020", "31-31-2020", [1, 2, 3, 4], None),
        ("0.0 keV", "x", [1, 2, 3, 4], None),
    ],
)
def test_a_spectrum_with_a_mistake_says_so(tmp_path, old, new, counts, reason):
    (tmp_path / "x.spe").write_text(SPE.replace(old, new))
    spectrum = read_spe(tmp_path / "x.spe")
    assert spectrum.counts.tolist() == counts
    assert (spectrum.damage is None) == (reason is None)
    if reason:
        assert reason in spectrum.damage.reason


@pytest.mark.parametrize(
    "text", ["", "$DATA:\n", "$DATA:\n5\n1\n", "$DATA:\n8 5\n1\n", "$DATA:\n0 99999999\n1\n", "$X:\n1\n"]
)
def test_what_is_no_spectrum_is_refused(tmp_path, text):
    (tmp_path / "x.spe").write_text(text)
    with pytest.raises(BadInputError, match=r"DATA|no spectrum"):
        read_spe(tmp_path / "x.spe")


def test_a_spectrum_that_is_cut_off_anywhere(tmp_path):
    for cut in range(SPE.index("5 8") + 4, len(SPE)):
        (tmp_path / "x.spe").write_text(SPE[:cut])
        spectrum = read_spe(tmp_path / "x.spe")
        assert spectrum.counts.tolist() == [1, 2, 3, 4][: spectrum.counts.size]
        assert (spectrum.damage is None) == (spectrum.counts.size == 4)
    with (tmp_path / "x.spe").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BadInputError, match="bytes are no spectrum"):
        read_spe(tmp_path / "x.spe")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_spe(tmp_path / "no.spe")


# -- Janus lists


def test_the_janus_list_has_the_events_of_its_readme(shared_data):
    events = read_janus_list(shared_data / "janus-dt5202-run10" / "Run10_list.txt")
    assert (len(events), events.n_events) == (192, 8)
    assert events.n_channels.tolist() == [24] * 8
    assert events.trigger_id.tolist() == list(range(8))
    np.testing.assert_allclose(events.time_us, 288.696 + 1000 * np.arange(8), rtol=1e-12)
    assert (events.values["hg"].max(), events.values["lg"].max()) == (4018, 1573)
    assert (events.values["hg"] == 0).sum() == 14
    assert np.array_equal(events.channel, np.tile(np.arange(24), 8))
    assert np.array_equal(np.bincount(events.event), [24] * 8)
    assert events.heading["Board"] == "5202"
    assert events.heading["File Format Version"] == "3.4"
    assert events.heading["Janus Release"] == "4.3.0"
    assert events.heading["Acquisition Mode"] == "Spectroscopy"
    assert events.damage is None


JANUS = (
    "// Board: 5202\n//****\nBrd  Ch  LG  HG  TStamp_us  TrgID  NChs\n"
    "0 00 10 20 1.5 0 2\n0 01 11 21\n1 05 12 22 2.5 1 1\n0 03 13 23 3.5 2 3\n0 04 14 24\n0 05 15 25\n"
)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_blocks_hold_whole_events(tmp_path, block):
    (tmp_path / "x.txt").write_text(JANUS)
    with JanusReader(tmp_path / "x.txt") as reader:
        parts = list(reader.blocks(max_lines=block))
        assert reader.damage is None
        assert reader.bytes_read == reader.size
    assert [p.n_events for p in parts] == {1: [1, 1, 1], 2: [1, 2], 3: [2, 1], 100: [3]}[block]
    assert np.concatenate([p.event for p in parts]).tolist() == [0, 0, 1, 2, 2, 2]
    assert np.concatenate([p.board for p in parts]).tolist() == [0, 0, 1, 0, 0, 0]
    assert np.concatenate([p.values["hg"] for p in parts]).tolist() == [20, 21, 22, 23, 24, 25]
    assert np.concatenate([p.n_channels for p in parts]).tolist() == [2, 1, 3]


@pytest.mark.parametrize("cut", range(JANUS.index("0 00"), len(JANUS)))
def test_a_janus_list_that_is_cut_off_anywhere(tmp_path, cut):
    (tmp_path / "x.txt").write_text(JANUS[:cut])
    events = read_janus_list(tmp_path / "x.txt")
    whole = JANUS[:cut].count("\n") - 3
    assert len(events) == whole
    assert (events.damage is None) == (JANUS[cut - 1] == "\n" and whole in (0, 2, 3))
    if JANUS[cut - 1] != "\n":
        assert any("cut off here" in d.reason for d in events.damages)


@pytest.mark.parametrize(
    ("old", "new", "lines", "reason"),
    [
        ("0 01 11 21\n", "", 5, "event 0 has 1 lines, its first line says 2"),
        ("0 01 11 21\n", "0 01 11\n", 5, "line 5: 3 fields, where 4 or 7"),
        ("0 01 11 21\n", "0 01 11 x\n", 5, "are not numbers"),
        ("0 01 11 21\n", "0 01 nan 1e999\n", 5, "are not numbers"),
        ("0 01 11 21\n", "0 01.5 11 21\n", 5, "channel 1.5 does not exist"),
        ("0 01 11 21\n", "0 9999 11 21\n", 5, "channel 9999 does not exist"),
        ("0 00 10 20 1.5 0 2\n", "", 4, "line 4: belongs to an event whose first line is missing"),
    ],
)
def test_a_janus_list_with_a_mistake_says_so(tmp_path, old, new, lines, reason):
    (tmp_path / "x.txt").write_text(JANUS.replace(old, new))
    events = read_janus_list(tmp_path / "x.txt")
    assert len(events) == lines
    assert any(reason in d.reason for d in events.damages)


@pytest.mark.parametrize("text", ["", "// only a heading\n", "// x\na b c\n", "Brd Ch Ch\n", "\n\n"])
def test_what_is_no_janus_list_is_refused(tmp_path, text):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(BadInputError, match="column names"):
        read_janus_list(tmp_path / "x.txt")
    with pytest.raises(BadInputError, match="cannot be opened"):
        read_janus_list(tmp_path / "no.txt")


def test_a_janus_list_of_nothing_and_of_noise(tmp_path):
    head = JANUS[: JANUS.index("0 00")]
    (tmp_path / "x.txt").write_text(head)
    events = read_janus_list(tmp_path / "x.txt")
    assert (len(events), events.n_events, events.values["hg"].size, events.damage) == (0, 0, 0, None)
    (tmp_path / "x.txt").write_bytes(head.encode() + np.random.default_rng(8).bytes(1 << 20))
    events = read_janus_list(tmp_path / "x.txt")
    assert len(events) == 0
    assert events.damages.bytes_left_out > 0.99 * (1 << 20)
