"""PicoQuant time tags: a real file, every record type against an independent reader, literal .pt3 bytes, damage."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import ptufile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats.picoquant import RECORD_TYPES, PicoquantReader, read_picoquant

T2 = [k for k, form in RECORD_TYPES.items() if not form.t3]
T3 = [k for k, form in RECORD_TYPES.items() if form.t3]


def tag(name, kind, value, index=-1, blob=b""):
    return struct.pack("<32siI", name.encode(), index, kind) + value + blob


def integer(name, value, index=-1):
    return tag(name, 0x10000008, struct.pack("<q", value), index)


def real(name, value):
    return tag(name, 0x20000008, struct.pack("<d", value))


def text(name, value):
    blob = value.encode() + b"\0" * (8 - len(value) % 8)
    return tag(name, 0x4001FFFF, struct.pack("<q", len(blob)), blob=blob)


def ptu(kind, words, *, count=None, unit=1e-12, fine=4e-12, extra=b""):
    form = RECORD_TYPES.get(kind)
    tags = [
        text("File_GUID", "{00000000-0000-0000-0000-000000000000}"),
        integer("Measurement_Mode", 3 if form and form.t3 else 2),
        integer("TTResultFormat_TTTRRecType", kind),
        integer("TTResultFormat_BitsPerRecord", 32),
        real("MeasDesc_GlobalResolution", unit),
        real("MeasDesc_Resolution", fine),
        integer("TTResult_NumberOfRecords", len(words) if count is None else count),
        extra,
        tag("Header_End", 0xFFFF0008, bytes(8)),
    ]
    return b"PQTTTR\0\0" + b"1.0.00\0\0" + b"".join(tags) + np.asarray(words, "<u4").tobytes()


def save(folder, data, name="x.ptu"):
    (folder / name).write_bytes(data)
    return folder / name


def everything(path, **options):
    with PicoquantReader(path) as reader:
        parts = list(reader.blocks(**options))
        joined = {
            name: np.concatenate([getattr(p, name) for p in parts]) if parts else np.empty(0)
            for name in ("time_ps", "channel", "delay_ps", "sync_ps", "marker_ps", "marker")
        }
        return joined, sum(p.overflows for p in parts), reader


def test_a_real_file_reads_as_its_readme_says(shared_data):
    path = shared_data / "hydraharp-t2" / "v30_t2.ptu"
    tags, overflows, reader = everything(path, max_records=10_000)
    assert reader.header.record_type.name == "HydraHarp 2 T2"
    assert reader.header.data_offset == 4392
    assert reader.header.global_resolution_ps == 1.0
    assert reader.header.n_records == reader.records_read == 435_319
    assert (tags["time_ps"].size, overflows) == (305_565, 129_754)
    assert (tags["sync_ps"].size, tags["marker_ps"].size) == (0, 0)
    assert set(tags["channel"].tolist()) == {0}
    assert reader.header.tags["HW_InpChannels"] == 2
    assert (reader.header.tags["TTResult_InputRate[0]"], reader.header.tags["TTResult_InputRate[1]"]) == (121_696, 0)
    assert tags["time_ps"][-1] / 1e12 == pytest.approx(4.99996, abs=1e-5)
    gaps = np.diff(tags["time_ps"])
    assert gaps.min() / 1e3 == pytest.approx(81.13, abs=0.01)
    assert np.median(gaps) / 1e6 == pytest.approx(11.296, abs=1e-3)
    per_100_ms = np.bincount(tags["time_ps"] // 10**11, minlength=50)[:50]
    assert (per_100_ms.min(), per_100_ms.max()) == (5886, 6337)
    assert reader.damage is None
    assert reader.bytes_read == reader.size
    with ptufile.PtuFile(path) as other:
        records = other.decode_records()
        photons = records["channel"] >= 0
        assert np.array_equal(records["time"][photons].astype(np.int64), tags["time_ps"])


def words_of(form, rng, n):
    """Random records of every kind a device writes: photons, overflows, markers."""
    if form.picoharp:
        channel = rng.choice([1, 2, 3, 4, 15] if form.t3 else [0, 1, 2, 4, 15], n).astype(np.uint32)
        low = rng.integers(0, 1 << 28, n, dtype=np.uint32)
        special = channel == 15
        if form.t3:
            delay = np.where(special, rng.choice([0, 0, 1, 2, 8], n), low >> 16).astype(np.uint32)
            low = (delay << 16) | (low & 0xFFFF)
        else:
            low = np.where(special & (rng.random(n) < 0.5), low & ~np.uint32(0xF), low).astype(np.uint32)
            low = low if form.t3 else low % np.uint32(210_698_240)
        return channel << 28 | low
    low = rng.integers(0, 1 << 25, n, dtype=np.uint32)
    special = rng.random(n) < 0.3
    channel = np.where(special, rng.choice([63, 63, 1, 2, 4, 8, *([] if form.t3 else [0])], n), rng.integers(0, 8, n))
    few = np.where(form.t3, low & ~np.uint32(0x3FF), 0) | rng.integers(0, 4, n).astype(np.uint32)
    low = np.where(special & (channel == 63), few, low).astype(np.uint32)
    return special.astype(np.uint32) << 31 | channel.astype(np.uint32) << 25 | low


@pytest.mark.parametrize("kind", RECORD_TYPES)
def test_every_record_type_agrees_with_an_independent_reader(tmp_path, kind):
    form = RECORD_TYPES[kind]
    words = words_of(form, np.random.default_rng(kind), 5000)
    unit, fine = (25e-9, 16e-12) if form.t3 else (1e-12, 1e-12)
    path = save(tmp_path, ptu(kind, words, unit=unit, fine=fine))
    tags, overflows, reader = everything(path, max_records=700)
    with ptufile.PtuFile(path) as other:
        records = other.decode_records()
    photons = records["channel"] >= 0
    # the other reader gives syncs of T2 as photons of a channel of their own, or not at all; compare what both have
    times = records["time"].astype(np.int64)
    if form.t3:
        # the other reader counts the four routed inputs of a PicoHarp from 0, the records count them from 1
        assert np.array_equal(records["channel"][photons] + form.picoharp, tags["channel"])
        expected = times[photons] * 25_000 + records["dtime"][photons].astype(np.int64) * 16
        assert np.array_equal(expected, tags["time_ps"])
        assert np.array_equal(records["dtime"][photons] * 16.0, np.rint(tags["delay_ps"]))
        np.testing.assert_allclose(tags["delay_ps"], records["dtime"][photons] * 16.0)
    else:
        ours = np.sort(np.concatenate([tags["time_ps"], tags["sync_ps"]]))
        assert np.array_equal(np.sort(times[photons]), ours)
        assert not tags["delay_ps"].any()
    markers = records["marker"] > 0
    assert np.array_equal(records["marker"][markers], tags["marker"])
    expected = times[markers] * (25_000 if form.t3 else 1)
    if form.picoharp and not form.t3:
        expected = expected - tags["marker"]  # the other reader leaves the marker's bits in its time
    assert np.array_equal(expected, tags["marker_ps"])
    total = tags["time_ps"].size + tags["sync_ps"].size + tags["marker"].size + overflows
    assert total == words.size
    assert reader.damage is None


def test_words_of_a_t2_file_one_by_one(tmp_path):
    words = [
        0 << 31 | 1 << 25 | 100,  # photon, channel 1, 100
        1 << 31 | 63 << 25 | 3,  # three overflows
        0 << 31 | 0 << 25 | 5,  # photon, channel 0
        1 << 31 | 63 << 25 | 0,  # no number: one overflow
        1 << 31 | 0 << 25 | 7,  # sync
        1 << 31 | 4 << 25 | 9,  # marker 4
        1 << 31 | 40 << 25 | 1,  # nothing that exists
    ]
    tags, overflows, reader = everything(save(tmp_path, ptu(0x01010204, words)))
    wrap = 1 << 25
    assert tags["time_ps"].tolist() == [100, 3 * wrap + 5]
    assert tags["channel"].tolist() == [1, 0]
    assert tags["sync_ps"].tolist() == [4 * wrap + 7]
    assert (tags["marker_ps"].tolist(), tags["marker"].tolist()) == ([4 * wrap + 9], [4])
    assert overflows == 2
    assert reader.damage.records_before == 6
    assert reader.damage.bytes_after == 4
    assert "1 records of no known kind, the first one 0xd0000001" in reader.damage.reason


def test_a_sync_period_that_is_no_whole_number_of_ps(tmp_path):
    words = [0 << 25 | 2 << 10 | 3, 1 << 31 | 63 << 25 | 1, 5 << 25 | 100 << 10 | 1023]
    tags, _, _ = everything(save(tmp_path, ptu(0x00010307, words, unit=1 / 40.1e6, fine=5e-12)))
    period = 1e12 / 40.1e6
    assert tags["delay_ps"].tolist() == pytest.approx([10.0, 500.0])
    assert tags["time_ps"].tolist() == [round(3 * period) + 10, round(2047 * period) + 500]


PT3_HEADER = (
    b"PicoHarp 300\0\0\0\0"  # identification, 16 bytes
    b"2.0\0\0\0"  # file format version, 6
    b"PicoHarp Software\0"  # program, 18
    b"2.3.0.0\0\0\0\0\0"  # its version, 12
    b"16/02/12 19:40:04\0"  # time of the file, 18
    b"\r\n"
    + b"T3 Mode".ljust(256, b"\0")  # comment, 256
    # curves, bits per record, routing channels, boards, active curve, measurement mode, sub mode, range, offset,
    # acquisition time in ms, stop at, stop on overflow, restart, linear or logarithmic, axis limits
    + bytes.fromhex(
        "00000000 20000000 04000000 01000000 0b000000 03000000 00000000 06000000 00000000"
        "30750000 ffff0000 01000000 00000000 01000000 00000000 90010000 00000000 a0860100"
    )
    + bytes(8 * 8)  # eight display curves: mapped to, shown
    + bytes(3 * 12)  # three parameters: start, step, end
    + bytes.fromhex("00000000 01000000 00000000 00000000")  # repeat mode, repeats, time, wait
    + b"TTTR Mode".ljust(20, b"\0")
    + b"PicoHarp 300\0\0\0\0"  # board: identification 16, version 8
    + b"2.0\0\0\0\0\0"
    + bytes.fromhex("f35b0f00 01000000 00000000 2c010000 00000000 2c010000")  # serial, divider, discriminators
    + bytes.fromhex("6f12833e")  # resolution 0.256 ns as float32
    + bytes.fromhex("00000000 01000000")  # router model, enabled
    + bytes(4 * 24)  # four router channels
    # external devices, two reserved, sync rate 2500000 /s, input rate, stop after, stop reason, records, image header
    + bytes.fromhex("00000000 00000000 00000000 a0252600 1cb60100 30750000 00000000 05000000 02000000")
    + bytes(8)  # the image header: two words
)
PT3_RECORDS = bytes.fromhex(
    "01000410"  # channel 1, delay 4, sync 1
    "000000f0"  # overflow: 65536 syncs
    "020003f0"  # marker 3 at sync 2
    "ffffff4f"  # channel 4, delay 4095, sync 65535
    "0a000020"  # channel 2, delay 0, sync 10
)


def test_literal_bytes_of_a_pt3_file(tmp_path):
    assert len(PT3_HEADER) == 728 + 8
    tags, overflows, reader = everything(save(tmp_path, PT3_HEADER + PT3_RECORDS, "x.pt3"))
    period = 400_000
    assert reader.header.record_type.name == "PicoHarp T3"
    assert reader.header.global_resolution_ps == period
    assert reader.header.resolution_ps == pytest.approx(256.0, abs=1e-4)
    assert reader.header.n_records == 5
    assert reader.header.tags["Comment"] == "T3 Mode"
    assert reader.header.tags["FileTime"] == "16/02/12 19:40:04"
    assert reader.header.tags["AcquisitionTime"] == 30_000
    assert reader.header.tags["HardwareSerial"] == 1_006_579
    assert tags["channel"].tolist() == [1, 4, 2]
    assert tags["delay_ps"].tolist() == pytest.approx([1024, 4095 * 256, 0], abs=0.1)
    assert tags["time_ps"].tolist() == [
        period + 1024,
        (65536 + 65535) * period + 4095 * 256,
        (65536 + 10) * period,
    ]
    assert (tags["marker"].tolist(), tags["marker_ps"].tolist()) == ([3], [(65536 + 2) * period])
    assert overflows == 1
    assert reader.damage is None


@pytest.mark.parametrize(
    ("offset", "data", "what"),
    [
        (16, b"1.1\0", "file format '1.1'"),
        (328 + 12, b"\2", "with 2 boards"),
        (328 + 20, b"\7", "measurement mode 7"),
        (728 - 24, bytes(4), "sync rate 0 /s"),
        (728 - 4, b"\xff\xff\xff\x7f", "words of image header"),
        (692 - 108, b"\0\0\xc0\x7f", "resolution nan ns"),
    ],
)
def test_a_pt3_header_that_cannot_be_is_refused(tmp_path, offset, data, what):
    raw = bytearray(PT3_HEADER + PT3_RECORDS)
    raw[offset : offset + len(data)] = data
    with pytest.raises(BadInputError, match=what):
        PicoquantReader(save(tmp_path, bytes(raw), "x.pt3"))


def test_headers_that_are_cut_off_anywhere(tmp_path):
    whole = ptu(T2[0], [])
    for data in (whole, PT3_HEADER):
        for cut in range(0, len(data) - 8, 7):
            with pytest.raises(BadInputError, match=r"byte|header|begins"):
                PicoquantReader(save(tmp_path, data[:cut]))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "neither a .ptu nor"),
        (b"PK\3\4" + bytes(100), "neither a .ptu nor"),
        (ptu(0x1234, []), "type 0x00001234 are not known"),
        (ptu(T3[0], [], fine=0.0), "MeasDesc_Resolution is 0.0"),
        (ptu(T2[0], [], unit=float("nan")), "MeasDesc_GlobalResolution is nan"),
        (ptu(T2[0], [], unit=1e300), r"MeasDesc_GlobalResolution is 1e\+300"),
        (ptu(T2[0], [], extra=tag("Odd", 0x777, bytes(8))), "type 0x00000777 does not exist"),
        (ptu(T2[0], [], extra=tag("Long", 0x4001FFFF, struct.pack("<q", 1 << 40))), "bytes is impossible"),
        (ptu(T2[0], [], extra=tag("Long", 0x4001FFFF, struct.pack("<q", 1 << 20))), "bytes too early"),
        (b"PQTTTR\0\0" + bytes(8) + integer("A", 1) * 10_001, "more than 10000 tags"),
    ],
)
def test_ptu_headers_that_cannot_be_are_refused(tmp_path, data, what):
    with pytest.raises(BadInputError, match=what):
        PicoquantReader(save(tmp_path, data))


@pytest.mark.parametrize("seed", range(5))
def test_headers_of_noise_are_refused(tmp_path, seed):
    noise = np.random.default_rng(seed).bytes(1 << 20)
    for start in (b"", b"PQTTTR\0\0", ptu(T2[0], [])[:-48], PT3_HEADER[:328], PT3_HEADER[:16]):
        with pytest.raises(BadInputError):
            PicoquantReader(save(tmp_path, start + noise))


def test_tags_of_every_type(tmp_path):
    extra = b"".join(
        [
            tag("Yes", 0x8, struct.pack("<q", -1)),
            tag("Nothing", 0xFFFF0008, bytes(8)),
            tag("Date", 0x21000008, struct.pack("<d", 41000.5)),
            tag("Floats", 0x2001FFFF, struct.pack("<q", 16), blob=struct.pack("<2d", 1.5, 2.5)),
            tag("Wide", 0x4002FFFF, struct.pack("<q", 8), blob="ab\0\0".encode("utf-16-le")),
            tag("Blob", 0xFFFFFFFF, struct.pack("<q", 3), blob=b"\1\2\3"),
            integer("Rate", 7, 0),
            integer("Rate", 8, 1),
        ]
    )
    header, _, _ = read_picoquant(save(tmp_path, ptu(T2[0], [], extra=extra)))
    found = {k: header.tags[k] for k in ("Yes", "Nothing", "Date", "Floats", "Wide", "Blob", "Rate[0]", "Rate[1]")}
    assert found == {
        "Yes": True,
        "Nothing": None,
        "Date": 41000.5,
        "Floats": (1.5, 2.5),
        "Wide": "ab",
        "Blob": b"\1\2\3",
        "Rate[0]": 7,
        "Rate[1]": 8,
    }


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_records_that_are_cut_off(tmp_path, cut):
    data = ptu(0x01010204, np.arange(10))
    tags, _, reader = everything(save(tmp_path, data[:-cut]))
    whole = (40 - cut) // 4
    assert tags["time_ps"].tolist() == list(range(whole))
    assert reader.damage.records_before == whole
    assert reader.damage.offset + reader.damage.bytes_after == reader.size == reader.bytes_read
    assert "its header says 10 records" in reader.damage.reason


def test_counts_in_the_header_that_do_not_fit(tmp_path):
    tags, _, reader = everything(save(tmp_path, ptu(0x01010204, np.arange(10), count=7)))
    assert tags["time_ps"].size == 7
    assert reader.damage.bytes_after == 12
    # a measurement that was broken off has no count: everything there is, is read
    tags, _, reader = everything(save(tmp_path, ptu(0x01010204, np.arange(10), count=0)))
    assert tags["time_ps"].size == 10
    assert reader.damage is None
    assert everything(save(tmp_path, ptu(0x01010204, [])))[2].damage is None


@pytest.mark.parametrize("kind", RECORD_TYPES)
def test_a_megabyte_of_noise(tmp_path, kind):
    noise = np.random.default_rng(kind).integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32)
    tags, overflows, reader = everything(save(tmp_path, ptu(kind, noise)), max_records=5000)
    found = tags["time_ps"].size + tags["sync_ps"].size + tags["marker"].size + overflows
    assert 4 * found + reader.damages.bytes_left_out == 4 * noise.size
    assert reader.bytes_read == reader.size
    assert (tags["time_ps"] >= 0).all()


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1 << 60)), max_size=40).map(
        lambda x: sorted(x, key=lambda p: p[1])
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_time_tags_round_trip(tmp_path_factory, photons):
    words, wraps = [], 0
    for channel, time in photons:
        while time >> 25 > wraps:
            step = min((time >> 25) - wraps, (1 << 25) - 1)
            words.append(1 << 31 | 63 << 25 | step)
            wraps += step
            if len(words) > 2000:
                return
        words.append(channel << 25 | time & (1 << 25) - 1)
    tags, _, _ = everything(save(tmp_path_factory.mktemp("t"), ptu(0x00010207, words)), max_records=3)
    assert list(zip(tags["channel"].tolist(), tags["time_ps"].tolist(), strict=True)) == photons


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for n in (1 << 20, 10 << 20):
        path = save(tmp_path, ptu(0x01010204, []) + b"", f"{n}.ptu")
        words = np.arange(n, dtype="<u4") & 0x1FFFFFF
        path.write_bytes(ptu(0x01010204, words))
        with PicoquantReader(path) as reader:
            tracemalloc.start()
            total = sum(len(block) for block in reader.blocks(max_records=1 << 18))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == n
    assert peaks[1] < 1.1 * peaks[0]
