"""PETsys configuration directories and tables: real ones, written ones, and ones with mistakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats.petsys_config import (
    TABLES,
    AsicParameters,
    HwTrigger,
    PetqcSection,
    SwTrigger,
    format_table,
    load_config,
    parse_table,
    write_config,
    write_table,
)

LINES = {"tot": 1013, "qdc": 1016}


@pytest.mark.parametrize("mode", LINES)
def test_the_golden_configuration_reads_whole(shared_data, mode):
    folder = shared_data / "petsys-golden" / mode
    config = load_config(folder)
    sizes = {kind: table.size for kind, table in config.tables.items()}
    assert sizes == {
        "tdc": 8192,
        "qdc": 4096,
        "time_offset": 1024,
        "channel_map": LINES[mode],
        "trigger_map": 30,
        "disc_calibration": 0,
        "disc_settings": 0,
        "bias_calibration": 0,
        "bias_settings": 0,
    }
    assert config.sw_trigger == SwTrigger(3, 1, 5.0, 400.0, 7.0, 15.0, 1.5)
    assert config.hw_trigger == HwTrigger()
    assert config.asic_parameters == AsicParameters({"disc_lsb_T1": 60}, {})
    assert config.petqc == PetqcSection(4, None)
    assert len(config.warnings) == 1
    assert "acquisition_mode_settings.tsv does not exist" in config.warnings[0]
    assert config.file_hashes["tdc"] == hashlib.sha256((folder / "tdc_calibration.tsv").read_bytes()).hexdigest()
    first = (folder / "qdc_calibration.tsv").read_text().splitlines()[0].split()
    assert [float(f) for f in first] == list(config.tables["qdc"][0].item())
    with pytest.raises(BadInputError, match=r"acquisition_mode_settings\.tsv does not exist"):
        config.require("acquisition_mode")
    with pytest.raises(BadInputError, match="energy_calibration_table is not set"):
        config.require("energy")
    assert config.require("tdc") is config.tables["tdc"]


def test_tables_of_other_laboratories(shared_data):
    folder = shared_data / "petsys-settings-a"
    table, warnings = parse_table("disc_settings", (folder / "disc_settings_FEM128.tsv").read_text())
    assert (table.size, warnings) == (256, ())
    assert table[0].item() == (0, 0, 10, 0, 12.0, 21.0, 1.0)
    table, warnings = parse_table("channel_map", (folder / "map_channel.tsv").read_text())
    assert (table.size, warnings) == (1024, ())
    assert table[0].item() == (0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    table, warnings = parse_table("bias_calibration", (folder / "bias_calibration.tsv").read_text(), name="bias.tsv")
    assert table.size == 1232
    assert warnings == ("bias.tsv:1: no slot column: taken as slot 0",)
    assert table[0].item() == (0, 0, 0, 0, 834, 1.007406, 190086)
    # the file for spreadsheets beside them is no table of this kind, and says so line by line
    table, warnings = parse_table("bias_settings", (folder / "bias_map_corrected.csv").read_text())
    assert table.size == 0
    assert len(warnings) == 130


def test_every_line_that_is_not_used_is_named():
    lines = [
        "# port slave chip channel t0_ps",
        "0 0 0 0 1.5",
        "0 0 0 1",  # 3
        "0 0 0 2 abc",  # 4
        "0\t0\t0\t3\t-7e2 # a comment after it",
        "0 0 64 4 1.0",  # 6
        "0 0 0 5 nan",  # 7
        "0 0 0 6 inf",  # 8
        "0 0 0 7.5 1",  # 9
        "",
        "0 0 0 0 2.5",  # 11
        "0 0 0 8 1 2",  # 12
        "0 0 99999999999 8 1",  # 13
        "-1 0 0 9 1",  # 14
        "0 0 0 63 1\r",
    ]
    text = "\n".join(lines)
    table, warnings = parse_table("time_offset", text, name="t.tsv")
    assert table.tolist() == [(0, 0, 0, 3, -700.0), (0, 0, 0, 0, 2.5), (0, 0, 0, 63, 1.0)]
    assert sorted(int(w.split(":")[1]) for w in warnings) == [3, 4, 6, 7, 8, 9, 11, 12, 13, 14]
    texts = "\n".join(warnings)
    assert "t.tsv:3: 4 fields where 5 are needed" in texts
    assert "t.tsv:4: t0_ps is 'abc', not a number" in texts
    assert "t.tsv:6: chip is 64, outside 0..63" in texts
    assert "t.tsv:9: channel is '7.5', not a whole number" in texts
    assert "t.tsv:11: port 0 slave 0 chip 0 channel 0 again: replaces line 2" in texts
    assert "t.tsv:13: chip 99999999999 does not fit 32 bits" in texts


def test_a_trigger_map_is_symmetric_and_its_last_line_counts():
    table, warnings = parse_table("trigger_map", "0 1 M\n2 2 M\n1 0 C\n3 4096 C\n5 6 X\n")
    assert table.tolist() == [(2, 2, 0), (1, 0, 1)]
    assert len(warnings) == 3
    table, warnings = parse_table("energy_kev", "0 0 0 1 12.5 inf\n0 0 0 2 nan inf\n")
    assert table.tolist() == [(0, 0, 0, 1, 12.5, float("inf"))]
    assert len(warnings) == 1


def test_a_megabyte_of_noise_is_no_table_and_no_list_of_warnings():
    noise = np.random.default_rng(5).bytes(1 << 20).decode("utf-8", "replace")
    table, warnings = parse_table("qdc", noise)
    assert table.size == 0
    assert len(warnings) == 1001
    assert "more lines with problems" in warnings[-1]


_FIELDS = [
    "0",
    "7",
    "64",
    "+3",
    "-1",
    "1.0",
    "1e3",
    "1_0",
    "3000000000",
    "0x1",
    "٣",
    "T",
    "E",
    "TE",
    "t",
    "nan",
    "inf",
    "-0.0",
]
_FIELDS += ["1e400", "4.9e-324", "0.1", ".5", "#", "2#3", '"1"', "1\0"]
_GAPS = [" ", "\t", "  ", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\n"]


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(_GAPS), st.sampled_from(_FIELDS)), max_size=11), max_size=4),
    st.lists(st.integers(0, 3), min_size=2, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_a_table_reads_the_same_at_once_and_line_by_line(odd, channels):
    """With a comment at its end a table is read line by line."""
    lines = [f"0 0 0 {c} {t} {b} 1 2.5 3 -4e-1" for c in channels for t in range(2) for b in "TE"]
    lines[2:2] = ["".join(gap + field for gap, field in line) for line in odd]
    for text in ("\n".join(lines), "\n".join(lines[: 2 + len(odd)])):
        at_once, warnings = parse_table("tdc", text)
        by_line, same = parse_table("tdc", f"{text}\n#")
        assert warnings == same
        assert at_once.tobytes() == by_line.tobytes()
    good = "\n".join(dict.fromkeys(line for line in lines[2 + len(odd) :]))
    assert parse_table("tdc", good)[0].tobytes() == parse_table("tdc", f"{good}\n#")[0].tobytes()


def _tables(kind):
    form = TABLES[kind]
    columns = []
    for column in form.columns:
        if column.words:
            columns.append(st.integers(0, len(column.words) - 1))
        elif column.whole:
            low = -(1 << 31) if column.low is None else int(column.low)
            columns.append(st.integers(low, (1 << 31) - 1 if column.high is None else int(column.high)))
        else:
            columns.append(st.floats(allow_nan=False, allow_infinity=column.inf_allowed))
    key = (lambda row: frozenset(row[: form.n_key])) if form.symmetric else (lambda row: row[: form.n_key])
    rows = st.lists(st.tuples(*columns), max_size=8, unique_by=key)
    return rows.map(lambda found: np.array(found, form.dtype))


@pytest.mark.parametrize("kind", TABLES)
def test_tables_round_trip(kind):
    @given(_tables(kind))
    @settings(max_examples=25, deadline=None)
    def check(table):
        found, warnings = parse_table(kind, format_table(kind, table))
        assert warnings == ()
        assert found.tobytes() == table.tobytes()

    check()


@given(_tables("energy_kev"), _tables("bias_map"), _tables("trigger_map"))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_configuration_round_trip(tmp_path_factory, energy, bias, trigger):
    folder = tmp_path_factory.mktemp("config") / "new"
    sw = SwTrigger(group_max_hits=7, coincidence_time_window=0.1, group_min_energy=-2.5)
    hw = HwTrigger(group_min_energy=3)
    asic = AsicParameters({"disc_lsb_T1": 60}, {"trigger_mode_1": 3, "dead_time": 0})
    own = PetqcSection(2, (425.0, 650.5))
    tables = {"energy_kev": energy, "bias_map": bias, "trigger_map": trigger}
    path = write_config(folder, tables, sw_trigger=sw, hw_trigger=hw, asic_parameters=asic, petqc=own)
    config = load_config(path)
    assert (config.sw_trigger, config.hw_trigger, config.asic_parameters, config.petqc) == (sw, hw, asic, own)
    assert config.warnings == ()
    for kind, table in tables.items():
        assert np.array_equal(config.tables[kind], table)
    assert "energy" not in config.tables
    assert config.tables["tdc"].size == 0
    assert load_config(path).config_hash == config.config_hash
    write_table(folder / "energy_kev.tsv", "energy_kev", np.zeros(1, energy.dtype))
    assert load_config(path).config_hash != config.config_hash


def test_a_table_of_other_columns_is_not_written(tmp_path):
    with pytest.raises(BadInputError, match="a qdc table has the columns port"):
        write_table(tmp_path / "t", "qdc", np.zeros(1, TABLES["tdc"].dtype))


def _config(folder, text):
    (folder / "config.ini").write_text(text)
    return folder / "config.ini"


def test_keys_are_read_as_the_vendor_reads_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "map.tsv").write_text("0 0 0 1 5 1 2 3 4 5\n")
    (tmp_path / "home" / "tdc.tsv").write_text("0 0 0 1 2 E 0.5 100 200 -1\n")
    (tmp_path / "qdc.tsv").write_text("")
    path = _config(
        tmp_path / "sub",
        "[MAIN]\nCHANNEL_MAP = %cdir%/map.tsv ; a comment\nTDC_calibration_table=%HOME%/tdc.tsv\n"
        "qdc_calibration_table = %PWD%/qdc.tsv # another\n"
        "[sw_trigger]\nGroup_Time_Window = 7\ngroup_max_multiplicity = 9\nunheard_of = 1\n"
        "[Asic_Parameters]\nGLOBAL.vbl = 0b101\nchannel.attenuator = 0x10\nother.x = 1\n"
        "[hw_trigger]\n[something]\nkey = 1\n",
    )
    config = load_config(Path("sub"))
    assert config.path == Path("sub/config.ini")
    assert config.tables["channel_map"].tolist() == [(0, 0, 0, 1, 5, 1, 2, 3.0, 4.0, 5.0)]
    assert config.tables["tdc"].tolist() == [(0, 0, 0, 1, 2, 1, 0.5, 100.0, 200.0, -1.0)]
    assert config.tables["qdc"].size == 0
    assert config.sw_trigger == SwTrigger(group_time_window=7.0)
    assert config.asic_parameters == AsicParameters({"vbl": 5}, {"attenuator": 16})
    texts = "\n".join(config.warnings)
    assert len(config.warnings) == 4
    assert "group_max_multiplicity = 9 has no effect" in texts
    assert "unheard_of is not a setting" in texts
    assert "other.x is neither" in texts
    assert "[something] key" in texts
    assert load_config(path).config_hash == config.config_hash


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[sw_trigger]\ngroup_time_window = wide\n", "group_time_window = 'wide' is not a number"),
        ("[sw_trigger]\ngroup_max_hits = 3.5\n", "is not a whole number"),
        ("[sw_trigger]\ngroup_max_energy = inf\n", "is not a finite number"),
        ("[asic_parameters]\nglobal.x = yes\n", "is not a whole number"),
        ("[petqc]\nasics_per_module = 0\n", "outside 1..64"),
        ("[petqc]\nenergy_window_kev = 650 425\n", "is not a window"),
        ("[petqc]\nenergy_window_kev = 425\n", "is not a window"),
        ("[main]\na = 1\na = 2\n", "already exists"),
        ("key = 1\n", "no section headers"),
        ("[main]\nonly words\n", "parsing errors"),
    ],
)
def test_a_configuration_with_a_mistake_is_refused_and_says_where(tmp_path, text, what):
    path = _config(tmp_path, text)
    with pytest.raises(BadInputError, match=r"config\.ini") as caught:
        load_config(path)
    assert what in str(caught.value)


def test_no_configuration(tmp_path):
    with pytest.raises(BadInputError, match="does not exist"):
        load_config(tmp_path)
    (tmp_path / "config.ini").write_bytes(np.random.default_rng(1).bytes(1 << 20))
    with pytest.raises(BadInputError, match=r"config\.ini"):
        load_config(tmp_path)
    (tmp_path / "config.ini").write_text("")
    assert load_config(tmp_path).tables == {}
