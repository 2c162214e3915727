"""Processed events: the vendor's files byte for byte, text, compact forms, and damage."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats.petsys_compact import expand_coincidences, expand_groups, unpack
from petqc.formats.petsys_ldat import (
    COINCIDENCE,
    GROUP,
    SINGLE,
    EventStep,
    LdatReader,
    LdatWriter,
    TextReader,
    TextWriter,
    detect_kind,
    open_event_writer,
    open_events,
)

RECORDS = {
    "petsys-golden/tot/vendor_singles.ldat": ("singles", 72148),
    "petsys-golden/tot/vendor_group.ldat": ("groups", 55733),
    "petsys-golden/tot/vendor_coincidence.ldat": ("coincidences", 11328),
    "petsys-golden/qdc/vendor_singles.ldat": ("singles", 72606),
    "petsys-golden/qdc/vendor_group.ldat": ("groups", 55846),
    "petsys-golden/qdc/vendor_coincidence.ldat": ("coincidences", 11358),
    "tofpet2-group-source/chanCal_Source.ldat": ("groups", 94828),
    "tofpet2-coinc-small/TB_120s_4.0OV_10T1_15T2_5E_coinc.ldat": ("coincidences", 471),
    "tofpet2-coinc-small/petsys_singles_test.ldat": ("singles", 20),
}


def everything(path, kind=None, **options):
    with open_events(path, kind) as reader:
        blocks = list(reader.blocks(**options))
        return (np.concatenate(blocks) if blocks else np.empty(0, reader.dtype)), reader


@pytest.mark.parametrize("name", RECORDS)
def test_real_files_are_recognised_read_and_written_again_byte_for_byte(shared_data, tmp_path, name):
    kind, n = RECORDS[name]
    source = shared_data / name
    records, reader = everything(source, max_records=1000)
    assert reader.kind == kind
    assert records.size == reader.records_read == n
    assert reader.damage is None
    assert reader.warnings == []
    assert reader.bytes_read == reader.size
    with LdatWriter(tmp_path / "out", kind) as writer:
        for part in np.array_split(records, 7):
            writer.write(part)
    assert (tmp_path / "out.ldat").read_bytes() == source.read_bytes()
    if source.with_suffix(".lidx").exists():
        assert (tmp_path / "out.lidx").read_bytes() == source.with_suffix(".lidx").read_bytes()
    with TextWriter(tmp_path / "a.txt", kind) as writer:
        writer.write(records)
    again, text = everything(tmp_path / "a.txt", max_records=999)
    assert isinstance(text, TextReader)
    assert text.kind == kind
    assert text.damage is None
    for column in records.dtype.names:
        if records.dtype[column].kind == "f":
            np.testing.assert_allclose(again[column], records[column], rtol=1e-6, atol=6e-7)
        else:
            assert np.array_equal(again[column], records[column])
    with TextWriter(tmp_path / "b.txt", kind) as writer:
        writer.write(again)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()


def test_the_grouped_source_file_has_the_groups_its_readme_counts(shared_data):
    path = shared_data / "tofpet2-group-source" / "chanCal_Source.ldat"
    groups = 0
    with open_events(path) as reader:
        blocks = list(reader.blocks(max_records=600))
    assert len(blocks) > 100
    for block in blocks:
        starts = np.flatnonzero(block["index"] == 0)
        assert starts[0] == 0
        counts = np.diff(np.append(starts, block.size))
        assert np.array_equal(block["n"][starts], counts)  # every group whole, none cut by a block
        groups += starts.size
    hits = np.concatenate(blocks)
    assert groups == 10_000
    assert np.unique(hits["channel"]).size == 508
    assert set(np.unique(hits["channel"] // 64).tolist()) == {0, 1, 2, 3, 8, 9, 10, 11}
    assert ((hits["channel"] < 256).sum(), (hits["channel"] >= 512).sum()) == (47140, 47688)
    assert (hits["energy"] < 0).sum() == 9
    assert (hits["time_ps"].max() - hits["time_ps"].min()) / 1e12 == pytest.approx(0.292700, abs=5e-7)
    assert np.bincount(hits["channel"]).argmax() == 181
    assert np.bincount(hits["channel"]).max() == 451


def test_the_coincidence_file_has_the_events_its_readme_counts(shared_data):
    records, _ = everything(shared_data / "tofpet2-coinc-small" / "TB_120s_4.0OV_10T1_15T2_5E_coinc.ldat")
    starts = (records["index_a"] == 0) & (records["index_b"] == 0)
    assert starts.sum() == 20
    n_a, n_b = records["n_a"][starts].astype(int), records["n_b"][starts].astype(int)
    assert (n_a + n_b - 1).sum() == 471
    assert (n_a.mean(), n_b.mean()) == (11.4, 13.15)
    assert min(records["energy_a"].min(), records["energy_b"].min()) == pytest.approx(-610.2475, abs=1e-4)
    assert (records["channel_a"].min(), records["channel_a"].max()) == (513, 767)
    assert (records["channel_b"].min(), records["channel_b"].max()) == (1, 252)
    singles, _ = everything(shared_data / "tofpet2-coinc-small" / "petsys_singles_test.ldat")
    assert singles["channel"][:2].tolist() == [717, 525]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", [n for n, (k, _) in RECORDS.items() if "tofpet2" in n and k != "singles"])
def test_compact_files_hold_the_same_events(shared_data, tmp_path, name, text):
    kind = RECORDS[name][0] + "-compact"
    records, _ = everything(shared_data / name)
    with open_event_writer(tmp_path / "c.ldat", kind, text=text) as writer:
        writer.write(records)
    found, reader = everything(tmp_path / "c.ldat", max_records=1)
    assert reader.kind == kind
    assert reader.damage is None
    if not text:
        assert np.array_equal(found, records)
        hits = (
            94828
            if "groups" in kind
            else int(
                (records["n_a"].astype(int) + records["n_b"])[
                    (records["index_a"] == 0) & (records["index_b"] == 0)
                ].sum()
            )
        )
        head = 1 if "groups" in kind else 2
        events = 10_000 if "groups" in kind else 20
        assert (tmp_path / "c.ldat").stat().st_size == head * events + 16 * hits
    assert np.array_equal(found[found.dtype.names[2]], records[records.dtype.names[2]])


def _bytes(kind):
    """Three known records as bytes, written out by hand."""
    single = bytes.fromhex("0100000000000000 0000c03f 07000000")  # 1 ps, 1.5, channel 7
    other = bytes.fromhex("feffffffffffffff 000020c1 ffff3f00")  # -2 ps, -10, channel 4194303
    return {
        "singles": single + other + single,
        "groups": b"\2\0" + single + b"\2\1" + other + b"\1\0" + single,
        "coincidences": (b"\1\0" + single + b"\1\0" + other) * 3,
        "groups-compact": b"\2" + single + other + b"\1" + single,
        "coincidences-compact": b"\2\1" + single + other + single,
    }[kind]


def test_layout_of_the_records(tmp_path):
    expected = {
        "singles": [(1, 1.5, 7), (-2, -10.0, 4194303), (1, 1.5, 7)],
        "groups": [(2, 0, 1, 1.5, 7), (2, 1, -2, -10.0, 4194303), (1, 0, 1, 1.5, 7)],
        "coincidences": [(1, 0, 1, 1.5, 7, 1, 0, -2, -10.0, 4194303)] * 3,
        "groups-compact": [(2, 0, 1, 1.5, 7), (2, 1, -2, -10.0, 4194303), (1, 0, 1, 1.5, 7)],
        "coincidences-compact": [(2, 0, 1, 1.5, 7, 1, 0, 1, 1.5, 7), (2, 1, -2, -10.0, 4194303, 1, 0, 1, 1.5, 7)],
    }
    assert (SINGLE.itemsize, GROUP.itemsize, COINCIDENCE.itemsize) == (16, 18, 36)
    for kind, records in expected.items():
        (tmp_path / "x.ldat").write_bytes(_bytes(kind))
        found, reader = everything(tmp_path / "x.ldat", kind)
        assert found.tolist() == records
        assert reader.damage is None
        with LdatWriter(tmp_path / "y.ldat", kind) as writer:
            writer.write(found)
        assert (tmp_path / "y.ldat").read_bytes() == _bytes(kind)


@pytest.mark.parametrize("kind", ["singles", "groups", "coincidences", "groups-compact", "coincidences-compact"])
def test_a_file_that_is_cut_off_gives_what_is_whole(tmp_path, kind):
    data = _bytes(kind)
    (tmp_path / "x.ldat").write_bytes(data)
    whole, _ = everything(tmp_path / "x.ldat", kind)
    for cut in range(len(data)):
        (tmp_path / "x.ldat").write_bytes(data[:cut])
        found, reader = everything(tmp_path / "x.ldat", kind)
        assert np.array_equal(found, whole[: found.size])
        assert reader.bytes_read == cut
        if reader.damage is not None:
            assert reader.damage.records_before == found.size
            assert reader.damage.offset + reader.damage.bytes_after == cut
        else:
            assert found.size == 0 or cut in (16, 17, 18, 32, 33, 34, 36, 72)


def test_a_record_that_cannot_be_is_left_out_and_counted(tmp_path):
    records = np.zeros(1000, GROUP)
    records["n"], records["channel"], records["time_ps"] = 1, 5, np.arange(1000)
    records["channel"][500] = -1
    records["index"][700] = 1
    (tmp_path / "x.ldat").write_bytes(records.tobytes())
    found, reader = everything(tmp_path / "x.ldat", "groups")
    assert found["time_ps"].tolist() == [k for k in range(1000) if k not in (500, 700)]
    assert [(d.offset, d.records_before, d.bytes_after) for d in reader.damages] == [
        (500 * 18, 500, 18),
        (700 * 18, 699, 18),
    ]


@pytest.mark.parametrize("lost", range(1, 18))
def test_where_bytes_are_missing_reading_stops(tmp_path, lost):
    records = np.zeros(1000, GROUP)
    records["n"], records["channel"], records["time_ps"] = 1, 300_000, 10**15 + 10**6 * np.arange(1000)
    records["energy"] = 31.5
    data = records.tobytes()
    (tmp_path / "x.ldat").write_bytes(data[: 600 * 18] + data[600 * 18 + lost :])
    found, reader = everything(tmp_path / "x.ldat", "groups")
    assert found.size <= 601
    assert np.array_equal(found[:600], records[:600])
    assert reader.damage.bytes_after > 6000
    assert reader.damage.records_before == found.size


def test_kinds_that_cannot_be_told(tmp_path):
    (tmp_path / "x.ldat").write_bytes(b"")
    with pytest.raises(BadInputError, match="empty: it could hold anything"):
        LdatReader(tmp_path / "x.ldat")
    assert everything(tmp_path / "x.ldat", "singles")[0].size == 0
    (tmp_path / "x.ldat").write_bytes(np.random.default_rng(1).bytes(1 << 20))
    with pytest.raises(BadInputError, match="none of the kinds"):
        detect_kind(tmp_path / "x.ldat")
    with pytest.raises(BadInputError, match="No such file"):
        open_events(tmp_path / "y.ldat")
    (tmp_path / "x.txt").write_text("1\t2\t3\t4\n")
    with pytest.raises(BadInputError, match="4 fields"):
        open_events(tmp_path / "x.txt")


@pytest.mark.parametrize("kind", ["singles", "groups", "coincidences", "groups-compact", "coincidences-compact"])
@pytest.mark.parametrize("text", [False, True])
def test_a_megabyte_of_noise_is_read_as_little_and_counted(tmp_path, kind, text):
    noise = np.random.default_rng(11).bytes(1 << 20)
    (tmp_path / "x").write_bytes(noise)
    reader = TextReader(tmp_path / "x", kind) if text else LdatReader(tmp_path / "x", kind)
    with reader:
        records = sum(block.size for block in reader.blocks())
        assert records < 400
        assert reader.bytes_read == reader.size
        assert reader.damages.bytes_left_out > 0.99 * reader.size - 400 * 36
        assert len(reader.damages) <= 1000


def test_steps_and_their_index(tmp_path):
    records = np.zeros(10, SINGLE)
    records["time_ps"] = np.arange(10)
    with LdatWriter(tmp_path / "x.ldat", "singles") as writer:
        writer.start_step(1.5, -2)
        writer.write(records[:4])
        writer.start_step(1e-7)
        writer.write(records[4:])
    assert (
        tmp_path / "x.lidx"
    ).read_text() == "0\t64\t1.500000e+00\t-2.000000e+00\n64\t160\t1.000000e-07\t0.000000e+00\n"
    found, reader = everything(tmp_path / "x.ldat", "singles", step=1)
    assert found["time_ps"].tolist() == list(range(4, 10))
    assert reader.steps[0] == EventStep(0, 64, 1.5, -2.0)
    with pytest.raises(BadInputError, match="there is no step 2"):
        everything(tmp_path / "x.ldat", "singles", step=2)
    (tmp_path / "x.lidx").write_text("0\t64\t0\t0\n64\t999\t0\t0\n")
    found, reader = everything(tmp_path / "x.ldat", "singles")
    assert found.size == 10
    assert "its index goes on to byte 999" in reader.damage.reason
    (tmp_path / "x.lidx").write_text("0\t64\t0\t0\n")
    found, reader = everything(tmp_path / "x.ldat", "singles")
    assert (found.size, reader.damage.offset, reader.damage.bytes_after) == (4, 64, 96)
    for wrong in ("0\t64\n", "64\t160\t0\t0\n", "a\tb\tc\td\n", "64\t0\t0\t0\n"):
        (tmp_path / "x.lidx").write_text(wrong)
        found, reader = everything(tmp_path / "x.ldat", "singles")
        assert found.size == 10
        assert len(reader.warnings) == 1


def test_text_lines_that_do_not_read_are_named(tmp_path):
    good = "5\t1.500000\t7\n"
    (tmp_path / "x").write_text(good + "5\tabc\t7\n" + good + "1 2\n\n" + good + "5\t1\t99999999999\n" + "5\t1.5\t7")
    found, reader = everything(tmp_path / "x", "singles")
    assert found.tolist() == [(5, 1.5, 7)] * 3
    assert [d.offset for d in reader.damages] == [13, 34, 52, 68]
    assert [d.reason.split(":")[0] for d in reader.damages] == ["line 2", "line 4", "line 7", "line 8"]
    assert "cut off here" in reader.damages[-1].reason
    assert [d.records_before for d in reader.damages] == [1, 2, 3, 3]
    for energy in ("1e300", "-1e300", "1e999", "nan", "1e30", "1e-30"):
        (tmp_path / "x").write_text(good + f"5\t{energy}\t7\n")
        found, reader = everything(tmp_path / "x", "singles")
        assert found.tolist() == [(5, 1.5, 7)]
        assert reader.damage.offset == 13
    (tmp_path / "x").write_text("2\n5\t1.5\t7\n5\t1.5\t7\n1\n5\t1.5\n")
    found, reader = everything(tmp_path / "x", "groups-compact")
    assert found.size == 2
    assert (reader.damage.offset, reader.damage.bytes_after) == (18, 8)


def test_a_writer_takes_only_its_own_records_and_names_the_file_at_the_end(tmp_path):
    with LdatWriter(tmp_path / "x", "singles") as writer:
        with pytest.raises(BadInputError, match="singles are records of"):
            writer.write(np.zeros(1, GROUP))
        assert not (tmp_path / "x.ldat").exists()
    assert (tmp_path / "x.ldat").exists()

    def fail():
        with TextWriter(tmp_path / "t.txt", "singles") as writer:
            writer.write(np.zeros(1, SINGLE))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "t.txt").exists()
    with pytest.raises(BadInputError, match="cannot be written"):
        LdatWriter(tmp_path / "nowhere" / "x", "singles")
    broken = np.zeros(2, GROUP)
    broken["n"] = 3
    with LdatWriter(tmp_path / "g", "groups-compact") as writer, pytest.raises(BadInputError, match="whole groups"):
        writer.write(broken)
    pair = np.zeros(1, COINCIDENCE)
    pair["n_a"], pair["n_b"] = 2, 1
    with (
        LdatWriter(tmp_path / "c", "coincidences-compact") as writer,
        pytest.raises(BadInputError, match="records that"),
    ):
        writer.write(pair)


hits_of = st.tuples(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.just(0.0) | st.floats(-(2.0**39), -(2.0**-39), width=32) | st.floats(2.0**-39, 2.0**39, width=32),
    st.integers(0, (1 << 22) - 1),
)


@given(st.lists(st.lists(hits_of, min_size=1, max_size=6), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_groups_round_trip(tmp_path_factory, groups):
    counts = np.array([len(g) for g in groups], np.int64)
    records = expand_groups(counts, np.array([h for g in groups for h in g], SINGLE))
    expected = [(len(g), k, *h) for g in groups for k, h in enumerate(g)]
    assert records.tolist() == expected
    path = tmp_path_factory.mktemp("g") / "x.ldat"
    for kind in ("groups", "groups-compact"):
        with LdatWriter(path, kind) as writer:
            writer.write(records)
        assert np.array_equal(everything(path, kind)[0], records) or not records.size


@given(
    st.lists(
        st.tuples(st.lists(hits_of, min_size=1, max_size=4), st.lists(hits_of, min_size=1, max_size=4)), max_size=6
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_coincidences_round_trip(tmp_path_factory, pairs):
    counts = np.array([(len(a), len(b)) for a, b in pairs], np.int64).reshape(-1, 2)
    hits = np.array([h for a, b in pairs for h in (*a, *b)], SINGLE)
    records = expand_coincidences(counts, hits)
    expected = [
        (len(a), m, *a[m], len(b), n, *b[n])
        for a, b in pairs
        for m, n in [*((0, n) for n in range(len(b))), *((m, 0) for m in range(1, len(a)))]
    ]
    assert records.tolist() == expected
    path = tmp_path_factory.mktemp("c") / "x.ldat"
    for kind in ("coincidences", "coincidences-compact"):
        with LdatWriter(path, kind) as writer:
            writer.write(records)
        assert np.array_equal(everything(path, kind)[0], records) or not records.size
    again, found, used = unpack(np.frombuffer(path.read_bytes(), np.uint8), 2)
    assert used == path.stat().st_size
    assert np.array_equal(again, counts)
    assert np.array_equal(found, hits)


def test_memory_does_not_grow_with_the_file(tmp_path):
    records = np.zeros(1 << 20, SINGLE)
    peaks = []
    for repeats in (1, 10):
        path = tmp_path / f"{repeats}.ldat"
        with LdatWriter(path, "singles") as writer:
            for _ in range(repeats):
                writer.write(records)
        with LdatReader(path, "singles") as reader:
            tracemalloc.start()
            total = sum(block.size for block in reader.blocks())
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == repeats << 20
    assert peaks[1] < 1.1 * peaks[0] < 20_000_000
