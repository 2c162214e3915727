"""Raw recordings: what the reader gives, what the writer stores, and that both agree with the vendor's files."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc.errors import BadInputError
from petqc.formats import petsys_frames as pf
from petqc.formats.petsys_kernels import store_frames, walk_frames
from petqc.formats.petsys_raw import RawHeader, RawReader, RawStep, RawWriter, pack_frame
from petqc.formats.petsys_tables import TABLES

GOLDEN = {"tot": (7214, 73195, 3, 7616), "qdc": (7216, 73440, 2, 7616)}


def frames_of(words):
    """Plain twin of the kernels' walk: (id, n_events, lost bits, words of the frame)."""
    found, at = [], 0
    while at < len(words):
        size, n = int(words[at]) >> 36 & 0x7FFF, int(words[at + 1]) & 0x7FFF
        assert size == n + 2
        found.append((int(words[at]) & (1 << 36) - 1, n, int(words[at + 1]) >> 15 & 3, words[at : at + size]))
        at += size
    return found


def store_plainly(words, state=None):
    """Plain twin of the writer's compaction; state is (last id, last type)."""
    last_id, last_type = state or (None, "data")
    out = []
    for frame_id, n, lost, frame in frames_of(words):
        if last_id is not None and frame_id > last_id + 1:
            out.append(pack_frame(last_id + 1, lost=True))
            last_type = "empty"
        last_id = frame_id
        kind = "data" if n else "lost" if lost else "empty"
        if kind == "data" or kind != last_type:
            out.append(frame)
        last_type = kind
    return (np.concatenate(out) if out else np.empty(0, np.uint64)), (last_id, last_type)


def write(prefix, words, **header):
    with RawWriter(prefix, RawHeader(**header)) as writer:
        writer.start_step()
        writer.write(words)
    return writer


def read(path, **options):
    with RawReader(path) as reader:
        blocks = list(reader.blocks(**options))
        return (np.concatenate(blocks) if blocks else np.empty(0, np.uint64)), reader


@pytest.mark.parametrize("mode", GOLDEN)
def test_golden_recording_reads_as_its_readme_says(shared_data, mode):
    words, reader = read(shared_data / "petsys-golden" / mode / "run.rawf")
    frames, events, first, last = GOLDEN[mode]
    found = frames_of(words)
    assert len(found) == reader.frames_read == frames
    assert sum(f[1] for f in found) == events
    assert reader.steps == (RawStep(64, reader.size, first, last),)
    assert reader.header == RawHeader(200_000_000, mode == "qdc", 1700000000.0, 3, False, 0)
    assert reader.damage is None
    assert reader.state == "complete"
    assert reader.bytes_read == reader.size
    assert reader.modes is None


@pytest.mark.parametrize("mode", GOLDEN)
@pytest.mark.parametrize("max_words", [1, 40_000, 1 << 20])
def test_golden_recording_is_written_again_byte_for_byte(shared_data, tmp_path, mode, max_words):
    source = shared_data / "petsys-golden" / mode / "run"
    with RawReader(source) as reader, RawWriter(tmp_path / "run", reader.header) as writer:
        for number, step in enumerate(reader.steps):
            writer.start_step(step.step1, step.step2)
            for words in reader.blocks(max_words, step=number):
                writer.write(words, compacted=True)
            writer.end_step(last_frame=step.last_frame)
    for suffix in (".rawf", ".idxf"):
        assert (tmp_path / f"run{suffix}").read_bytes() == source.with_suffix(suffix).read_bytes()


@pytest.mark.parametrize("mode", GOLDEN)
def test_frames_as_they_left_the_board_are_compacted_to_the_golden_bytes(shared_data, tmp_path, mode):
    """Runs of lost frames put back as they were in the ring come out of the writer as the file has them."""
    source = shared_data / "petsys-golden" / mode / "run"
    words, _ = read(source)
    ring, last = [], None
    for frame_id, n, lost, frame in frames_of(words):
        if last is not None:
            ring += [pack_frame(k, lost=bool(last[2])) for k in range(last[0] + 1, frame_id)]
        ring.append(frame)
        last = (frame_id, n, lost)
    writer = write(
        tmp_path / "run", np.concatenate(ring), sync_epoch_s=1700000000.0, trigger_id=3, all_charge=mode == "qdc"
    )
    assert (tmp_path / "run.rawf").read_bytes() == source.with_suffix(".rawf").read_bytes()
    assert (tmp_path / "run.idxf").read_bytes() == source.with_suffix(".idxf").read_bytes()
    assert (writer.frames_written, writer.events) == GOLDEN[mode][:2]
    assert writer.frames_in == len(ring)
    assert writer.frames_lost == 457


def test_runs_and_gaps_are_stored_as_the_vendor_does(tmp_path):
    frames = [
        pack_frame(10),
        pack_frame(11),  # second of a run of empty frames: not stored
        pack_frame(12, [1, 2, 3]),
        pack_frame(13, lost=True),
        pack_frame(14, lost=True),  # second of a run of lost frames: not stored
        pack_frame(15),
        pack_frame(16, [4], lost=True),
        pack_frame(20),  # 17 to 19 are missing; counts as the second of the gap's run
        pack_frame(21, lost=True),
        pack_frame(22, [5]),
        pack_frame(22, [6]),  # not above the one before: stored, counted
        pack_frame(23),
        pack_frame(24),
    ]
    writer = write(tmp_path / "x", np.concatenate(frames))
    words, reader = read(tmp_path / "x")
    stored = [(i, n, bool(lost)) for i, n, lost, _ in frames_of(words)]
    assert stored == [
        (10, 0, False),
        (12, 3, False),
        (13, 0, True),
        (15, 0, False),
        (16, 1, True),
        (17, 0, True),
        (21, 0, True),
        (22, 1, False),
        (22, 1, False),
        (23, 0, False),
    ]
    assert reader.steps == (RawStep(64, reader.size, 10, 24),)
    assert reader.steps[0].frames == 15
    assert (writer.frames_in, writer.frames_written, writer.events) == (13, 10, 6)
    assert (writer.frames_lost, writer.frames_partly_lost, writer.frames_out_of_order) == (6, 1, 1)


def test_a_step_starts_afresh_and_only_its_frames_are_read(tmp_path):
    with RawWriter(tmp_path / "x", RawHeader()) as writer:
        writer.start_step(1.5, -2)
        writer.write(np.concatenate([pack_frame(5), pack_frame(6)]))
        writer.start_step(2.5)
        writer.write(np.concatenate([pack_frame(100), pack_frame(101, [7])]))
        writer.end_step()
        writer.start_step(3)
    assert (tmp_path / "x.idxf").read_text() == (
        "64\t80\t5\t6\t1.500000\t-2.000000\n80\t120\t100\t101\t2.500000\t0.000000\n120\t120\t0\t-1\t3.000000\t0.000000\n"
    )
    words, reader = read(tmp_path / "x", step=1)
    assert [f[0] for f in frames_of(words)] == [100, 101]
    assert reader.damage is None
    assert reader.steps[2].frames == 0
    with RawReader(tmp_path / "x") as reader, pytest.raises(BadInputError, match="there is no step 3"):
        list(reader.blocks(step=3))


@pytest.mark.parametrize("mixed", [False, True])
def test_modes_go_into_a_modf_file_and_come_back(tmp_path, mixed):
    modes = np.array([(0, 0, 1, c, c % 2) for c in range(64)], TABLES["acquisition_mode"].dtype) if mixed else None
    with RawWriter(tmp_path / "x", RawHeader(mixed=mixed), modes=modes) as writer:
        writer.start_step()
        writer.write(pack_frame(1, [9]))
    with RawReader(tmp_path / "x") as reader:
        assert (reader.modes is None) is not mixed
        if mixed:
            assert np.array_equal(reader.modes, modes)
            assert "0\t0\t1\t3\tqdc\n" in (tmp_path / "x.modf").read_text()
    if mixed:
        (tmp_path / "x.modf").unlink()
        with pytest.raises(BadInputError, match="mixes ToT and charge"):
            RawReader(tmp_path / "x")
    with pytest.raises(BadInputError, match="modes" if not mixed else "mode table"):
        RawWriter(tmp_path / "y", RawHeader(mixed=not mixed), modes=modes)


def test_the_kernel_is_loaded_before_the_first_frames_come(tmp_path, monkeypatch):
    """Loading it takes seconds in which a thread that empties a ring of 84 ms does not run."""
    sizes = []

    def store(words, *arguments):
        sizes.append(words.size)
        return store_frames(words, *arguments)

    monkeypatch.setattr("petqc.formats.petsys_kernels.store_frames", store)
    with RawWriter(tmp_path / "a", RawHeader()) as writer:
        assert sizes == [0]
        writer.start_step()
        writer.write(pack_frame(5, [7]))
    assert sizes == [0, 3]
    assert read(tmp_path / "a.rawf")[0].tolist() == pack_frame(5, [7]).tolist()


def test_the_writer_refuses_what_it_cannot_keep(tmp_path):
    writer = RawWriter(tmp_path / "x", RawHeader())
    try:
        with pytest.raises(BadInputError, match="no step is open"):
            writer.write(pack_frame(1))
        writer.start_step()
        with pytest.raises(BadInputError, match="word 2 of 5 does not begin a whole frame"):
            writer.write(np.concatenate([pack_frame(1), np.full(3, 7, np.uint64)]))
        with pytest.raises(BadInputError, match="exists already"):
            RawWriter(tmp_path / "x", RawHeader())
    finally:
        writer.close()
    writer.close()
    assert writer.frames_in == 1
    with pytest.raises(BadInputError, match="closed"):
        writer.start_step()
    with pytest.raises(BadInputError, match="cannot hold 32766 events"):
        pack_frame(1, [0] * 32766)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"frequency_hz": 0}, "frequency"),
        ({"trigger_id": 5000}, "trigger id"),
        ({"sync_epoch_s": float("nan")}, "synchronisation"),
        ({"created_time_tag": -1}, "time tag"),
    ],
)
def test_a_header_that_cannot_be_is_refused(change, what):
    with pytest.raises(BadInputError, match=what):
        RawHeader(**change)


@given(
    st.builds(
        RawHeader,
        st.integers(1, (1 << 32) - 1),
        st.booleans(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(0, 1023),
        st.booleans(),
        st.integers(0, (1 << 64) - 1),
    )
)
def test_header_round_trip(header):
    assert len(header.to_bytes()) == 64
    assert RawHeader.from_bytes(header.to_bytes()) == header


def _frame(draw_id, kind, n):
    return pack_frame(draw_id, range(n) if kind in ("data", "part") else (), lost=kind in ("lost", "part"))


frame_lists = st.lists(
    st.tuples(st.integers(-1, 4), st.sampled_from(["data", "empty", "empty", "lost", "part"]), st.integers(1, 5)),
    max_size=60,
)


@given(frame_lists, st.integers(0, 1 << 35), st.lists(st.integers(0, 60), max_size=4))
@settings(deadline=None)
def test_kernels_agree_with_plain_python(steps, first, cuts):
    ids, frame_id = [], first
    for jump, *_ in steps:
        frame_id = max(0, frame_id + 1 + jump)
        ids.append(frame_id)
    frames = [_frame(i, kind, n) for i, (_, kind, n) in zip(ids, steps, strict=True)]
    words = np.concatenate(frames) if frames else np.empty(0, np.uint64)
    result = np.empty(pf.N_WALK, np.int64)
    walk_frames(words, result)
    expected = [
        words.size,
        len(frames),
        sum(f[1] for f in frames_of(words)),
        *(ids[:1] or [-1]),
        *(ids[-1:] or [-1]),
        0,
    ]
    assert result.tolist() == expected
    walk_frames.py_func(words, result)
    assert result.tolist() == expected

    plain, _ = store_plainly(words)
    state = np.zeros(pf.N_STATE, np.int64)
    state[pf.S_LAST_ID], state[pf.S_FIRST_ID] = pf.NO_FRAME_YET, -1
    out = np.zeros(2 * words.size + 4, np.uint64)
    fill = 0
    edges = sorted({0, len(frames), *(c for c in cuts if c < len(frames))})
    for a, b in itertools.pairwise(edges):
        part = np.concatenate(frames[a:b])
        done = np.zeros(3, np.int64)
        store_frames(part, 0, out, fill, out.size, False, state, done)
        assert done[0] == part.size
        assert done[2] == pf.WHOLE
        fill = int(done[1])
    assert np.array_equal(out[:fill], plain)
    assert state[pf.S_FRAMES_WRITTEN] == len(frames_of(plain))
    skipped = sum(max(0, b - a - 1) for a, b in itertools.pairwise(ids))
    assert state[pf.S_FRAMES_LOST] == skipped + sum(kind == "lost" for _, kind, _ in steps)


@given(frame_lists)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(tmp_path_factory, steps):
    frame_id, frames = 0, []
    for jump, kind, n in steps:
        frame_id += 1 + max(jump, 0)
        frames.append(_frame(frame_id, kind, n))
    words = np.concatenate(frames) if frames else np.empty(0, np.uint64)
    folder = tmp_path_factory.mktemp("round")
    write(folder / "x", words)
    found, reader = read(folder / "x", max_words=1)
    assert np.array_equal(found, store_plainly(words)[0])
    assert reader.state == "complete"


def _recording(path, n_frames, rng):
    events = rng.integers(0, 1 << 63, 1000, dtype=np.uint64)
    block = np.concatenate([pack_frame(k, events) for k in range(500)])
    with path.open("wb") as file:
        file.write(RawHeader().to_bytes())
        for start in range(0, n_frames, 500):
            moved = block.copy().reshape(500, 1002)
            moved[:, 0] += np.uint64(start)
            file.write(moved.tobytes())


def _peak(path):
    with RawReader(path) as reader:
        tracemalloc.start()
        total = sum(block.size for block in reader.blocks())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total * 8 + 64 == reader.size == reader.bytes_read
    return peak


def test_memory_does_not_grow_with_the_file(tmp_path):
    rng = np.random.default_rng(7)
    _recording(tmp_path / "small.rawf", 2_500, rng)
    _recording(tmp_path / "large.rawf", 25_000, rng)
    assert (tmp_path / "large.rawf").stat().st_size > 200_000_000
    small, large = _peak(tmp_path / "small.rawf"), _peak(tmp_path / "large.rawf")
    assert large < 1.1 * small
    assert large < 40_000_000


def test_a_file_of_gigabytes_is_read_in_bounded_memory(tmp_path):
    """Three gigabytes that are holes between frame headers, so that no disk is needed."""
    size, n = 32767, 12_000
    with (tmp_path / "x.rawf").open("wb") as file:
        file.write(RawHeader().to_bytes())
        header = pack_frame(0, [0] * (size - 2))[:2]
        for k in range(n):
            header[0] = size << 36 | k
            file.seek(64 + 8 * size * k)
            file.write(header.tobytes())
        file.truncate(64 + 8 * size * n)
    with RawReader(tmp_path / "x") as reader:
        assert reader.size > 3_000_000_000
        tracemalloc.start()
        frames = sum(1 for block in reader.blocks() if block.size) and reader.frames_read
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert frames == n
        assert reader.damage is None
    assert peak < 40_000_000
