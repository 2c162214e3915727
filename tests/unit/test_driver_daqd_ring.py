"""The reader of the shared ring against memory that lies, is cut short, or changes while it is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petqc_drivers.errors import ConnectError, LinkLostError
from petqc_drivers.petsys.daqd_ring import STEP_SLOTS, SharedRing
from petqc_drivers.petsys.daqd_wire import RING_BYTES, RING_SLOTS, SLOT_WORDS, SharedMemoryInfo
from petqc_drivers.petsys.frames import pack_frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "/ring"


class Memory:
    """The object as its owner sees it."""

    def __init__(self, folder: Path, n_bytes: int = RING_BYTES) -> None:
        self.path = folder / NAME[1:]
        with self.path.open("wb") as file:
            file.truncate(n_bytes)
        self.words = np.memmap(self.path, dtype="<u8", mode="r+")

    def close(self) -> None:
        del self.words

    def put(self, slot: int, words: np.ndarray) -> None:
        self.words[slot * SLOT_WORDS : slot * SLOT_WORDS + len(words)] = words


def frame(number: int, events: list[int], *, is_lost: bool = False) -> np.ndarray:
    return pack_frames(
        np.array([number]), np.array([len(events)]), np.array(events, dtype=np.uint64), np.array([is_lost])
    )


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    memory = Memory(tmp_path)
    yield memory
    memory.close()


@pytest.fixture
def ring(memory: Memory) -> Iterator[SharedRing]:
    ring = SharedRing(SharedMemoryInfo(NAME), device="daemon", folder=memory.path.parent)
    yield ring
    ring.close()


ROOM_WORDS = 1 << 17


def room() -> np.ndarray:
    return np.zeros(ROOM_WORDS, dtype=np.uint64)


def take(ring: SharedRing, first: int, count: int, into: np.ndarray) -> tuple[int, list[int], dict[str, int]]:
    """Slots taken, the words, what was rejected."""
    taken = ring.take(first, count, into.data.cast("B"))
    assert taken.n_bytes == 8 * taken.scan.n_words
    return taken.slots, into[: taken.scan.n_words].tolist(), dict(taken.rejected)


def test_frames_come_as_they_were_written_also_over_the_end(memory, ring):
    frames = [frame(7, [1, 2, 3]), frame(8, []), frame(9, [4], is_lost=True), frame(10, list(range(SLOT_WORDS - 2)))]
    for i, words in enumerate(frames):
        memory.put((RING_SLOTS - 2 + i) % RING_SLOTS, words)
    expected = np.concatenate(frames).tolist()
    assert take(ring, RING_SLOTS - 2, 4, room()) == (4, expected, {})
    assert take(ring, 2 * RING_SLOTS - 2, 4, room()) == (4, expected, {}), "pointers count twice the slots"


def test_a_step_is_half_the_ring_and_fits_the_room(memory, ring):
    for slot in range(RING_SLOTS):
        memory.words[slot * SLOT_WORDS] = slot | 2 << 36
    slots, words, rejected = take(ring, 5, RING_SLOTS, room())
    assert (slots, rejected) == (STEP_SLOTS, {})
    assert [w & 0xFFFF for w in words[::2]] == list(range(5, 5 + STEP_SLOTS))
    for slot in range(20):
        memory.put(slot, frame(slot, list(range(8000))))
    slots, words, _ = take(ring, 0, 20, room())
    assert slots == ROOM_WORDS // 8002
    assert len(words) == slots * 8002


def test_nothing_to_take(ring):
    assert take(ring, 0, 0, room()) == (0, [], {})
    assert take(ring, 0, -3, room()) == (0, [], {})


def test_headers_that_lie_are_rejected_and_counted(memory, ring):
    """SHM-04."""
    good = frame(3, [11, 12])
    lies = [
        np.array([1 | 2 << 36, 1], dtype=np.uint64),  # size without its event
        np.array([1 | 9000 << 36, 8998], dtype=np.uint64),  # consistent, and longer than a slot
        np.array([1 | 1 << 36, 0], dtype=np.uint64),
        np.full(2, 0xFFFF_FFFF_FFFF_FFFF, dtype=np.uint64),
        np.zeros(2, dtype=np.uint64),
    ]
    for slot, words in enumerate([good, *lies, good]):
        memory.put(slot, words)
    assert take(ring, 0, 7, room()) == (7, [*good.tolist(), *good.tolist()], {"slot-inconsistent": 5})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)), max_size=40),
    first=st.integers(0, (1 << 32) - 1),
    count=st.integers(-5, 1 << 33),
)
def test_no_content_and_no_pointer_reads_beyond_the_ring(memory, ring, heads, first, count):
    for i, head in enumerate(heads):
        memory.put((first + i) % RING_SLOTS, np.array(head, dtype=np.uint64))
    into = room()
    taken = ring.take(first, count, into.data.cast("B"))
    assert 0 <= taken.slots <= min(max(count, 0), STEP_SLOTS)
    assert len(taken.scan.starts) + sum(taken.rejected.values()) == taken.slots
    assert taken.scan.n_words <= ROOM_WORDS


def test_frames_longer_than_the_first_look(memory, ring):
    sizes = [61, 0, 62, 63, 200, 5, 1022]
    frames = [frame(slot, list(range(1000 * slot, 1000 * slot + size))) for slot, size in enumerate(sizes)]
    for slot, one in enumerate(frames):
        memory.put(slot, one)
    assert take(ring, 0, len(sizes), room()) == (len(sizes), np.concatenate(frames).tolist(), {})


@pytest.mark.parametrize("length", [2, 300])
def test_a_slot_that_changes_while_it_is_read_is_rejected(memory, ring, monkeypatch, length):
    """SHM-05: the writer comes to slot 1 when its header has been copied, and the rest of a long frame has not."""
    for slot in range(3):
        memory.put(slot, frame(slot, [slot] * length))
    original, calls = ring._copy, []

    def copy(*arguments):
        original(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            memory.put(1, frame(16_385, [5]))

    monkeypatch.setattr(ring, "_copy", copy)
    expected = [*frame(0, [0] * length).tolist(), *frame(2, [2] * length).tolist()]
    assert take(ring, 0, 3, room()) == (3, expected, {"slot-torn": 1})


def test_memory_that_is_cut_short_is_an_error_and_no_bus_error(memory, ring):
    """SHM-03: this process is still here to say so."""
    memory.put(0, frame(0, [1]))
    os.truncate(memory.path, 4096)
    assert take(ring, 0, 1, room())[0] == 1, "what is still there is still read"
    assert not ring.is_current
    with pytest.raises(LinkLostError, match=r"ring was cut short while it was read"):
        take(ring, 100, 10, room())


def test_another_object_under_the_same_name_is_noticed(memory, ring):
    assert ring.is_current
    memory.path.unlink()
    assert not ring.is_current
    again = Memory(memory.path.parent)
    assert again.path == memory.path
    again.close()
    assert not ring.is_current, "same name and size, another object"


@pytest.mark.parametrize("n_bytes", [0, 4096, RING_BYTES - 8, RING_BYTES + 8])
def test_another_size_is_refused(tmp_path, n_bytes):
    """SHM-02."""
    path = tmp_path / NAME[1:]
    path.write_bytes(b"")
    os.truncate(path, n_bytes)
    with pytest.raises(ConnectError, match=f"has {n_bytes} bytes instead of 1074266112"):
        SharedRing(SharedMemoryInfo(NAME), device="daemon", folder=tmp_path)


def test_another_layout_is_refused(memory):
    with pytest.raises(ConnectError, match="slots have 65536 bytes instead of 65568"):
        SharedRing(SharedMemoryInfo(NAME, 65_536), device="daemon", folder=memory.path.parent)


def test_what_is_no_shared_memory_is_refused(tmp_path):
    with pytest.raises(ConnectError, match="No such file"):
        SharedRing(SharedMemoryInfo(NAME), device="daemon", folder=tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "ring").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConnectError, match="cannot be opened"):
        SharedRing(SharedMemoryInfo(NAME), device="daemon", folder=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConnectError, match="bytes instead of"):
        SharedRing(SharedMemoryInfo("/folder"), device="daemon", folder=tmp_path)


def test_a_reader_that_ends_leaves_the_object(memory, ring):
    ring.close()
    assert memory.path.stat().st_size == RING_BYTES
