"""Wire logs: written, read, cut at every byte, with flipped bits, and full."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from petqc.errors import BadInputError
from petqc.formats.wire_log import HEAD, MOST_PAYLOAD, WireEvent, WireLogReader, WireLogWriter

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "bundle.md"
ABOUT = {"wire": "supply", "transport": "serial", "address": "/dev/ttyS0"}
CHUNKS = [(WireEvent.OPENED, b"/dev/ttyS0"), (WireEvent.SENT, b"\x02HPO\x03"), (WireEvent.RECEIVED, b"\x02hpo\x03")]


def written(folder, chunks=CHUNKS, *, closed=True, limit=1 << 20):
    path = folder / "supply.wire"
    path.unlink(missing_ok=True)
    log = WireLogWriter(path, ABOUT, (0, 10**18), limit=limit)
    for number, (event, payload) in enumerate(chunks, 1):
        log.add(event, payload, (number, 10**18 + number))
    if closed:
        log.close((99, 10**18 + 99))
    else:
        log.sync()
    return path, log


def read(path):
    with WireLogReader(path) as reader:
        return list(reader.records()), reader.damages, reader.end


def test_what_was_written_is_read(tmp_path):
    path, _ = written(tmp_path)
    records, damages, end = read(path)
    assert [(r.event, r.payload) for r in records[1:-1]] == CHUNKS
    assert [r.monotonic_ns for r in records] == [0, 1, 2, 3, 99]
    assert records[2].unix_ns == 10**18 + 2
    assert not damages
    assert end.is_closed
    assert (end.totals.sent, end.totals.received) == (5, 5)
    assert records[-1].content["received"] == 5
    with WireLogReader(path) as reader:
        assert reader.header["wire"] == "supply"


def test_nothing_is_overwritten(tmp_path):
    written(tmp_path)
    with pytest.raises(FileExistsError):
        WireLogWriter(tmp_path / "supply.wire", ABOUT, (0, 0))


def test_a_log_that_was_cut_at_any_byte_of_its_last_record_keeps_the_others(tmp_path):
    path, log = written(tmp_path, closed=False)
    whole = path.read_bytes()
    log.close((0, 0))
    last = len(whole) - HEAD.size - 4 - len(CHUNKS[-1][1])
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        records, damages, end = read(path)
        assert [r.number for r in records] == [0, 1, 2]
        assert not end.is_closed
        assert damages.bytes_left_out == size - last
        assert len(damages) == (size > last)


def test_a_flipped_bit_costs_one_record_and_is_told(tmp_path):
    path, _ = written(tmp_path)
    whole = path.read_bytes()
    begin = len(whole) - sum(HEAD.size + 4 + n for n in (len(read(path)[0][-1].payload), 5))
    for place in range(begin, begin + HEAD.size + 4 + 5):
        for bit in (0, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            records, damages, end = read(path)
            assert [r.number for r in records] == [0, 1, 2, 4], place
            assert damages.first is not None
            assert damages.bytes_left_out == HEAD.size + 4 + 5
            assert not end.is_closed


def test_a_record_that_is_missing_whole_is_noticed(tmp_path):
    path, _ = written(tmp_path)
    whole = path.read_bytes()
    first = HEAD.size + 4 + len(read(path)[0][0].payload)
    path.write_bytes(whole[:first] + whole[first + HEAD.size + 4 + len(CHUNKS[0][1]) :])
    records, damages, _ = read(path)
    assert [r.number for r in records] == [0, 2, 3, 4]
    assert "record 2 follows where 1 is due" in str(damages.first)


@pytest.mark.parametrize("content", [b"", b"\xabWR\x1a", b"RIFF" * 100])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.wire"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="no wire log"):
        WireLogReader(path)


def test_noise_behind_the_header_is_one_damage(tmp_path):
    path, log = written(tmp_path, [], closed=False)
    log.close((0, 0))
    records, *_ = read(path)
    path.write_bytes(records[0].to_bytes() + b"\xabWR\x1a\xff" * 1000)
    records, damages, _ = read(path)
    assert len(records) == 1
    assert damages.total == 1
    assert damages.bytes_left_out == 5000


def test_a_full_log_says_from_where_on_it_only_counts(tmp_path):
    chunk = bytes(1000)
    path, log = written(tmp_path, [(WireEvent.RECEIVED, chunk)] * 100, limit=20_000)
    records, damages, end = read(path)
    assert path.stat().st_size <= 20_000
    kept = sum(r.event is WireEvent.RECEIVED for r in records)
    assert 10 < kept < 20
    gaps = [r for r in records if r.event is WireEvent.GAP]
    assert len(gaps) == 1
    assert "full" in gaps[0].content["why"]
    assert records[-1].content["dropped_records"] == 100 - kept
    assert records[-1].content["dropped_bytes"] == 1000 * (100 - kept) == log.totals.dropped_bytes
    assert end.is_closed
    assert not damages


def test_what_the_recorder_dropped_stands_where_it_is_missing(tmp_path):
    path, log = written(tmp_path, closed=False)
    log.missed(3, 77, "the recorder was too slow", (50, 50))
    log.add(WireEvent.RECEIVED, b"again", (51, 51))
    log.close((52, 52))
    records, _, end = read(path)
    assert records[4].content == {"records": 3, "bytes": 77, "why": "the recorder was too slow"}
    assert (end.totals.dropped_records, end.totals.dropped_bytes) == (3, 77)


def test_a_long_chunk_is_several_records(tmp_path):
    long = bytes(MOST_PAYLOAD + 5)
    path, _ = written(tmp_path, [(WireEvent.RECEIVED, long)], limit=4 << 20)
    records, _, end = read(path)
    assert [len(r.payload) for r in records if r.event is WireEvent.RECEIVED] == [MOST_PAYLOAD, 5]
    assert end.totals.received == len(long)


def test_the_example_of_the_reference_page_prints_what_it_says(tmp_path):
    program, said = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL).groups()
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=30
    )
    assert found.stdout == said
