"""Raw recordings cut off, damaged, empty, or unlike their index: what is left is read, the rest is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats.petsys_frames import FRAME_ID_BITS
from petqc.formats.petsys_raw import RawHeader, RawReader, RawStep, RawWriter, finalise_partial, pack_frame

N = 200
SIZES = [3 + k % 7 for k in range(N)]


def frame(k):
    return pack_frame(k, np.arange(SIZES[k] - 2, dtype=np.uint64) + 1000 * k)


@pytest.fixture
def plain(tmp_path):
    """A recording as the vendor's writer leaves it: no manifest."""
    with RawWriter(tmp_path / "x", RawHeader()) as writer:
        writer.start_step()
        for k in range(N):
            writer.write(frame(k))
    (tmp_path / "x.manifest.jsonl").unlink()
    return tmp_path / "x.rawf"


@pytest.fixture
def checked(tmp_path):
    """A recording of four manifest blocks of fifty frames."""
    now = [0.0]
    with RawWriter(tmp_path / "x", RawHeader(), clock=lambda: now[0]) as writer:
        writer.start_step()
        for k in range(N):
            now[0] += 0.02001
            writer.write(frame(k))
    return tmp_path / "x.rawf"


def ids(path, **options):
    with RawReader(path) as reader:
        found = []
        for words in reader.blocks(**options):
            at = 0
            while at < words.size:
                found.append(int(words[at]) & (1 << FRAME_ID_BITS) - 1)
                at += int(words[at]) >> FRAME_ID_BITS & 0x7FFF
        return found, reader


def place(k):
    return 64 + 8 * sum(SIZES[:k])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("cut", "whole", "text"),
    [
        (place(100), 100, None),  # between frames: only the index can tell
        (place(100) + 3, 100, "bytes are left"),  # inside the header's first word
        (place(100) + 8, 100, "cut off after 1"),  # inside the header
        (place(100) + 16, 100, "cut off after 2"),  # before the first event
        (place(100) + 28, 100, "cut off after 3"),  # inside an event
        (64, 0, None),  # nothing but the file header
        (place(0) + 4, 0, "bytes are left"),
    ],
)
def test_a_recording_that_just_ends_gives_all_whole_frames(plain, indexed, cut, whole, text):
    if not indexed:
        plain.with_suffix(".idxf").unlink()
    with plain.open("r+b") as file:
        file.truncate(cut)
    found, reader = ids(plain)
    assert found == list(range(whole))
    assert reader.bytes_read == cut
    if indexed or text:
        assert reader.state == "truncated"
        assert reader.damage.frames_before == whole
        assert reader.damage.offset == place(whole)
        assert (text or "its index goes on to byte") in reader.damage.reason
        assert reader.damage.bytes_after == cut - place(whole)
    else:
        assert reader.state == "complete"
    if not indexed:
        assert reader.steps == (RawStep(64, place(whole), 0, whole - 1),)


@pytest.mark.parametrize("length", [0, 1, 63])
def test_a_file_without_a_whole_header_is_refused(tmp_path, length):
    (tmp_path / "x.rawf").write_bytes(RawHeader().to_bytes()[:length])
    with pytest.raises(BadInputError, match=f"needs 64 bytes and there are {length}"):
        RawReader(tmp_path / "x")


def test_no_such_file_and_no_such_header(tmp_path):
    with pytest.raises(BadInputError, match="No such file"):
        RawReader(tmp_path / "nothing.rawf")
    (tmp_path / "x.rawf").write_bytes(b"This is a text of some length, and surely no recording of frames.")
    with pytest.raises(BadInputError, match="not a raw data header"):
        RawReader(tmp_path / "x")
    (tmp_path / "x.rawf").write_bytes(bytes(64))
    with pytest.raises(BadInputError, match="clock frequency 0"):
        RawReader(tmp_path / "x")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("at", "word", "text"),
    [
        (0, 0, "0 words for 3 events"),
        (0, 0x7FFF << 36, "32767 words for 3 events"),
        (1, 4, "5 words for 4 events"),
        (1, 0x7FFF, "5 words for 32767 events"),
        (0, (1 << 64) - 1, "32767 words for 3 events"),
    ],
)
def test_a_frame_header_that_cannot_be_stops_the_reading_there(plain, indexed, at, word, text):
    if not indexed:
        plain.with_suffix(".idxf").unlink()
    assert SIZES[121] == 5
    with plain.open("r+b") as file:
        file.seek(place(121) + 8 * at)
        file.write(np.uint64(word).tobytes())
    found, reader = ids(plain)
    assert found == list(range(121))
    assert reader.state == "damaged"
    assert reader.damage.offset == place(121)
    assert reader.damage.bytes_after == reader.size - place(121)
    assert text in reader.damage.reason
    assert str(reader.damage).startswith(f"byte {place(121)}: ")
    assert reader.bytes_read == reader.size


def test_damage_in_one_step_leaves_the_next_one_readable(tmp_path):
    with RawWriter(tmp_path / "x", RawHeader()) as writer:
        for step in range(3):
            writer.start_step(step)
            for k in range(10):
                writer.write(pack_frame(100 * step + k, [k]))
    (tmp_path / "x.manifest.jsonl").unlink()
    with (tmp_path / "x.rawf").open("r+b") as file:
        file.seek(64 + 240 + 24 * 4)
        file.write(bytes(8))
    found, reader = ids(tmp_path / "x")
    assert found == [*range(10), *range(100, 104), *range(200, 210)]
    assert [d.bytes_after for d in reader.damages] == [24 * 6]
    assert reader.damages.bytes_left_out == 24 * 6


def test_bytes_that_no_step_names_are_counted(plain):
    lines = [RawStep(place(10), place(50), 10, 49), RawStep(place(60), place(100), 60, 99)]
    plain.with_suffix(".idxf").write_text("".join(s.to_line() for s in lines))
    found, reader = ids(plain)
    assert found == [*range(10, 50), *range(60, 100)]
    assert [(d.offset, d.bytes_after) for d in reader.damages] == [
        (64, place(10) - 64),
        (place(50), place(60) - place(50)),
        (place(100), reader.size - place(100)),
    ]
    assert reader.state == "damaged"


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ("", "empty"),
        ("64\t100\n", "run.idxf:1"),
        ("64\tabc\t0\t1\t0.0\t0.0\n", "run.idxf:1"),
        ("8\t64\t0\t1\t0.0\t0.0\n", "8..64 is impossible"),
        ("64\t101\t0\t1\t0.0\t0.0\n", "64..101 is impossible"),
        ("128\t64\t0\t1\t0.0\t0.0\n", "128..64 is impossible"),
        ("64\t1064\t0\t1\t0.0\t0.0\n72\t80\t0\t1\t0.0\t0.0\n", "begins before the previous step ends"),
    ],
)
def test_an_index_that_cannot_be_is_set_aside_with_a_warning(plain, index, text):
    plain.rename(plain.with_name("run.rawf"))
    plain = plain.with_name("run.rawf")
    plain.with_suffix(".idxf").write_text(index)
    found, reader = ids(plain)
    assert found == list(range(N))
    assert len(reader.warnings) == 1
    assert text in reader.warnings[0]
    assert reader.steps[0].last_frame == N - 1


def test_an_index_far_beyond_the_file(plain):
    plain.with_suffix(".idxf").write_text(RawStep(1 << 40, 1 << 41, 0, 9).to_line())
    found, reader = ids(plain)
    assert found == []
    assert sum(d.bytes_after for d in reader.damages) == reader.size - 64
    assert any("its index goes on to byte" in d.reason for d in reader.damages)


def test_with_a_manifest_a_damaged_block_is_passed_over(checked):
    blocks = [json.loads(text) for text in checked.with_name("x.manifest.jsonl").read_text().splitlines()]
    blocks = [b for b in blocks if b["kind"] == "block"]
    assert [b["frames_in"] for b in blocks] == [50, 50, 50, 50]
    with checked.open("r+b") as file:
        file.seek(blocks[1]["begin"] + 100)  # one flipped byte of an event: no walk over frames can see it
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x40]))
    found, reader = ids(checked)
    assert found == [*range(50), *range(100, 200)]
    assert reader.state == "damaged"
    assert len(reader.damages) == 1
    assert reader.damage.offset == blocks[1]["begin"]
    assert reader.damage.bytes_after == blocks[1]["end"] - blocks[1]["begin"]
    assert reader.damage.frames_before == 50
    assert "CRC-32" in reader.damage.reason
    assert reader.bytes_read == reader.size


def test_frames_that_the_manifest_does_not_know_are_walked(checked):
    manifest = checked.with_name("x.manifest.jsonl")
    lines = manifest.read_bytes().splitlines(keepends=True)
    del lines[3]  # the second block
    lines[1:1] = [
        b'{"kind":"block","begin":1}\n',
        b"\xff\xfe\n",
        b'{"kind":"other"}\n',
        b"[]\n",
        b"[" * 100_000 + b"\n",
    ]
    manifest.write_bytes(b"".join(lines))
    found, reader = ids(checked)
    assert found == list(range(N))
    assert reader.damage is None
    assert len(reader.warnings) == 5
    assert "x.manifest.jsonl:2" in reader.warnings[0]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b'{"kind":"recording","schema":"other"}\n', bytes(range(256)) * 9]
)
def test_a_manifest_that_is_none_does_not_matter(checked, content):
    checked.with_name("x.manifest.jsonl").write_bytes(content)
    found, reader = ids(checked)
    assert found == list(range(N))
    assert reader.damage is None


@pytest.mark.parametrize("field", ["begin", "end", "first_frame", "last_frame", "frames_in", "crc32", "step", "step1"])
@pytest.mark.parametrize("value", [None, "7", [], True, 1.5, -3, 1 << 300, 8])
def test_a_manifest_with_values_that_cannot_be_does_no_harm(checked, field, value):
    partial = checked.with_name("x.rawf.partial")
    checked.rename(partial)
    manifest = checked.with_name("x.manifest.jsonl")
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    changed = [{**line, field: value} if field in line else line for line in lines]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in changed))
    with RawReader(partial) as reader:
        assert reader.steps
        total = sum(words.nbytes for words in reader.blocks())
        assert 64 + total + reader.damages.bytes_left_out == reader.size == reader.bytes_read


def _kill(writer):
    """What the system does when the process dies: the descriptors go, nothing else happens."""
    writer._release()


@pytest.mark.parametrize("torn", [0, 1, 8, 20])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_recording_of_a_killed_process_is_finalised(tmp_path, torn, with_manifest):
    now = [0.0]
    writer = RawWriter(tmp_path / "x", RawHeader(trigger_id=1), clock=lambda: now[0], context={"config_hash": "abc"})
    writer.start_step(1.0)
    for k in range(50):
        now[0] += 0.1
        writer.write(frame(k))
    writer.start_step(2.0)
    for k in range(50, 100):
        now[0] += 0.1
        writer.write(frame(k))
    last_synced = 50 + writer._steps[0].last_frame
    _kill(writer)
    partial = tmp_path / "x.rawf.partial"
    with partial.open("ab") as file:
        file.write(frame(7).tobytes()[:torn])
    manifest = tmp_path / "x.manifest.jsonl"
    if with_manifest:
        with manifest.open("ab") as file:
            file.write(b'{"kind":"block","beg')
    else:
        manifest.unlink()
    size = partial.stat().st_size
    before, reader = ids(partial)
    assert reader.state == "truncated" if with_manifest or torn else "complete"
    path = finalise_partial(partial)
    assert path == tmp_path / "x.rawf"
    assert path.stat().st_size == size
    assert not partial.exists()
    found, reader = ids(path)
    assert found == before
    assert found[:90] == list(range(90))
    assert len(found) <= last_synced + 1
    assert reader.manifest.state == "truncated"
    assert reader.manifest.end["bytes"] == size
    assert len(reader.steps) == (2 if with_manifest else 1)
    assert reader.steps[-1].end == size - torn
    assert reader.steps[0].first_frame == 0
    assert reader.steps[-1].last_frame == found[-1]
    if torn:
        assert reader.damage.bytes_after == torn
    with pytest.raises(BadInputError, match="No such file"):
        finalise_partial(tmp_path / "y.rawf.partial")
    partial.write_bytes(b"")
    with pytest.raises(BadInputError, match="exists already"):
        finalise_partial(partial)


def test_nothing_is_deleted_when_nothing_can_be_read(tmp_path):
    (tmp_path / "x.rawf.partial").write_bytes(b"short")
    with pytest.raises(BadInputError, match="needs 64 bytes"):
        finalise_partial(tmp_path / "x.rawf.partial")
    assert (tmp_path / "x.rawf.partial").read_bytes() == b"short"


def test_an_exception_while_recording_leaves_a_truncated_recording(tmp_path):
    def record():
        with RawWriter(tmp_path / "x", RawHeader()) as writer:
            writer.start_step()
            writer.write(frame(0))
            raise RuntimeError("link lost")

    with pytest.raises(RuntimeError, match="link lost"):
        record()
    found, reader = ids(tmp_path / "x")
    assert found == [0]
    assert reader.state == "truncated"
    assert reader.manifest.end["reason"] == "RuntimeError: link lost"


def test_a_disk_that_fails_leaves_the_partial_recording(tmp_path, monkeypatch):
    import petqc.formats.petsys_recording as module

    now = [0.0]
    writer = RawWriter(tmp_path / "x", RawHeader(), clock=lambda: now[0])
    writer.start_step()
    now[0] = 2.0
    writer.write(frame(0))

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    now[0] = 4.0
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write(frame(1))
    with pytest.raises(BadInputError, match="broken by an earlier write error"):
        writer.write(frame(2))
    writer.close()
    assert not (tmp_path / "x.rawf").exists()
    assert ids(finalise_partial(tmp_path / "x.rawf.partial"))[0] == [0]


def test_data_are_synced_before_the_manifest_names_them(tmp_path, monkeypatch):
    import petqc.formats.petsys_recording as module

    synced = []
    real = module.os.fdatasync
    monkeypatch.setattr(
        module.os, "fdatasync", lambda fd: (real(fd), synced.append((tmp_path / "x.rawf.partial").stat().st_size))
    )
    now = [0.0]
    with RawWriter(tmp_path / "x", RawHeader(), clock=lambda: now[0]) as writer:
        writer.start_step()
        writer.write(frame(0))
        assert synced == []  # not a second, not 4 MiB
        now[0] = 1.0
        writer.write(frame(1))
        assert synced == [place(2)]
        assert writer.bytes_written == place(2)
        manifest = (tmp_path / "x.manifest.jsonl").read_text().splitlines()
        assert json.loads(manifest[-1])["end"] == place(2)
        writer.write(np.concatenate([pack_frame(k, np.zeros(20_000, np.uint64)) for k in range(2, 30)]))
        assert len(synced) == 2  # 4 MiB are full
    assert len(synced) == 3


def test_the_manifest_gives_totals_and_the_files_hash(checked):
    import hashlib

    with RawReader(checked) as reader:
        end = reader.manifest.end
    assert end["sha256"] == hashlib.sha256(checked.read_bytes()).hexdigest()
    assert end["bytes"] == checked.stat().st_size
    assert end["frames_in"] == end["frames_written"] == N
    assert end["events"] == sum(SIZES) - 2 * N
    assert not list(checked.parent.glob("*.partial"))


@given(st.binary(max_size=400), st.integers(0, 400))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_the_reader_fail_otherwise_or_lose_silently(tmp_path_factory, noise, keep):
    folder = tmp_path_factory.mktemp("noise")
    good = RawHeader().to_bytes() + b"".join(frame(k).tobytes() for k in range(20))
    (folder / "x.rawf").write_bytes(good[: 64 + keep] + noise)
    try:
        opened = RawReader(folder / "x")
    except BadInputError as error:
        assert "calibration run" in str(error), "noise may look like counted events, and like nothing else"  # noqa: PT017
        return
    with opened as reader:
        total = sum(words.nbytes for words in reader.blocks())
        assert 64 + total + reader.damages.bytes_left_out == reader.size == reader.bytes_read


def test_a_megabyte_of_noise(tmp_path):
    rng = np.random.default_rng(3)
    for seed in range(5):
        noise = rng.bytes(1 << 20)
        (tmp_path / f"{seed}.rawf").write_bytes(RawHeader().to_bytes() + noise)
        (tmp_path / f"{seed}.idxf").write_bytes(noise[:1000])
        (tmp_path / f"{seed}.manifest.jsonl").write_bytes(noise)
        found, reader = ids(tmp_path / str(seed))
        assert len(found) < 20
        assert reader.state == "damaged"
        (tmp_path / f"n{seed}.rawf").write_bytes(noise)
        with pytest.raises(BadInputError):
            RawReader(tmp_path / f"n{seed}")
