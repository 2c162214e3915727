"""The codec against anything: round trips, truncation, single wrong bits and noise end in a value or a WireError."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc_drivers.petsys import frames, spi, wire
from petqc_drivers.petsys.asic import AsicConfiguration, AsicVersion, fields
from petqc_drivers.petsys.registers import REGISTERS, register

NOISE = st.binary(max_size=300)
VERSIONS = st.sampled_from(list(AsicVersion))
BLOCKS = st.sampled_from(["global", "channel"])


@given(st.integers(0, (1 << 128) - 1), st.integers(0, 255), st.binary(min_size=1, max_size=200))
def test_commands_and_replies_come_back(serial, function, payload):
    command = wire.Command(serial, function, payload)
    assert wire.Command.from_bytes(command.to_bytes()) == command
    reply = wire.Reply(serial, function, payload)
    assert wire.Reply.from_bytes(reply.to_bytes()) == reply


PARSERS = {
    "command": wire.Command.from_bytes,
    "reply": wire.Reply.from_bytes,
    "memory access": wire.parse_memory_access,
    "memory access of counters": lambda b: wire.parse_memory_access(b, word_bytes=4),
    "memory read reply": lambda b: wire.parse_memory_read_reply(b, 8),
    "memory write reply": wire.check_memory_write_reply,
    "asic command": wire.AsicCommand.from_bytes,
    "asic reply": lambda b: wire.parse_asic_reply(b, 184),
    "spi request": spi.SpiRequest.from_bytes,
    "spi reply": lambda b: spi.parse_spi_reply(b, 24),
    "data datagram": frames.parse_data_datagram,
}


@pytest.mark.parametrize("name", PARSERS)
@given(noise=NOISE)
def test_noise_is_parsed_or_refused(name, noise):
    with contextlib.suppress(wire.WireError):  # anything else is what this looks for
        PARSERS[name](noise)


WHOLE = {
    "command": wire.Command(5, 0, wire.MemoryRead(0x203, 6).to_bytes()).to_bytes(),
    "reply": wire.Reply(5, 0, b"\x00\x01\x00").to_bytes(),
    "memory access": register("receiver_enable").write(0xFF).to_bytes(),
    "asic command": wire.AsicCommand(3, 17, 12345).to_bytes(),
    "asic reply": wire.asic_reply(0, value=(1 << 183) + 1, n_bits=184),
    "spi request": spi.max111xx_transfer(4, 0x8064).to_bytes(),
    "data datagram": frames.data_datagram(
        frames.pack_frames(np.arange(4), np.array([0, 2, 0, 1]), np.arange(3, dtype=np.uint64))
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_truncation_and_every_wrong_bit_is_parsed_or_refused(name):
    whole = WHOLE[name]
    PARSERS[name](whole)
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [(int.from_bytes(whole, "big") ^ 1 << bit).to_bytes(len(whole), "big") for bit in range(8 * len(whole))]
    refused = 0
    for data in damaged:
        try:
            PARSERS[name](data)
        except wire.WireError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("name", ["memory read reply", "spi reply", "memory write reply"])
def test_a_reply_of_the_wrong_length_is_refused(name):
    right = {"memory read reply": 10, "spi reply": 5, "memory write reply": 1}[name]
    for n in range(20):
        if n == right:
            PARSERS[name](bytes(n))
        else:
            with pytest.raises(wire.WireError):
                PARSERS[name](bytes(n))


@given(VERSIONS, BLOCKS, st.data())
def test_asic_fields_come_back_and_leave_the_others_alone(version, block, data):
    base = AsicConfiguration.default(block, version)
    values = {
        f.name: data.draw(st.integers(0, f.maximum))
        for f in data.draw(st.lists(st.sampled_from(sorted(fields(block, version).values(), key=lambda f: f.name))))
    }
    changed = base.replace(values)
    assert changed.as_dict() == {**base.as_dict(), **values}
    n_bits = 184 if block == "global" else 125
    command = wire.AsicCommand(1, None if block == "global" else 63, changed.value)
    assert wire.AsicCommand.from_bytes(command.to_bytes()) == command
    reply = wire.asic_reply(0, value=changed.value, n_bits=n_bits)
    assert wire.parse_asic_reply(reply, n_bits) == (0, changed.value)


@given(VERSIONS, BLOCKS, st.data())
def test_an_asic_value_that_does_not_fit_is_refused_not_clamped(version, block, data):
    found = data.draw(st.sampled_from(sorted(fields(block, version).values(), key=lambda f: f.name)))
    value = data.draw(st.one_of(st.integers(max_value=-1), st.integers(min_value=found.maximum + 1)))
    with pytest.raises(wire.WireError, match=found.name):
        AsicConfiguration.default(block, version).replace({found.name: value})
    with pytest.raises(wire.WireError, match="no global field 'gain'"):
        AsicConfiguration.default("global", version).replace({"gain": 1})


def test_differences_name_the_fields():
    wanted = AsicConfiguration.default("channel", AsicVersion.V2C)
    found = wanted.replace({"vth_t1": 3, "qdc_mode": 0})
    assert wanted.differences(found) == "qdc_mode 0 instead of 1, vth_t1 3 instead of 56"
    assert wanted.differences(wanted) == "nothing"
    assert "unnamed bits" in wanted.differences(AsicConfiguration("channel", AsicVersion.V2C, wanted.value ^ 1 << 114))


@pytest.mark.parametrize("found", REGISTERS.values(), ids=str)
def test_registers_hold_their_width_and_no_more(found):
    largest = (1 << found.bits) - 1
    access = wire.parse_memory_access(found.write(largest).to_bytes())
    assert isinstance(access, wire.MemoryWrite)
    assert found.decode(access.data) == largest
    assert found.decode(b"\xff" * found.n_bytes) == largest
    for value in (-1, largest + 1):
        with pytest.raises(wire.WireError, match=found.name):
            found.write(value)


def test_registers_do_not_overlap():
    taken: dict[int, str] = {}
    for found in REGISTERS.values():
        for address in range(found.address, found.address + found.n_bytes):
            assert address not in taken, f"{found.name} and {taken.get(address)} share {address:#06x}"
            taken[address] = found.name


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60), st.integers(0, (1 << 36) - 100))
@settings(max_examples=50)
def test_frames_come_back(shapes, first_id):
    ids = np.arange(first_id, first_id + len(shapes))
    counts = np.array([n for n, _ in shapes], dtype=np.int64)
    lost = np.array([is_lost for _, is_lost in shapes], dtype=np.bool_)
    events = np.arange(counts.sum(), dtype=np.uint64) * np.uint64(0x0123456789ABCDEF)
    words = frames.pack_frames(ids, counts, events, lost)
    scan = frames.scan_frames(words)
    assert (scan.n_words, scan.n_dropped, scan.reason) == (len(words), 0, None)
    assert frames.frame_ids(words, scan.starts).tolist() == ids.tolist()
    assert frames.frame_event_counts(words, scan.starts).tolist() == counts.tolist()
    assert frames.frame_lost_mask(words, scan.starts).tolist() == lost.tolist()
    is_event = np.ones(len(words), dtype=np.bool_)
    is_event[scan.starts] = is_event[scan.starts + 1] = False
    assert words[is_event].tolist() == events.tolist()


def plain_scan(words: list[int]) -> tuple[list[int], int]:
    """Whole frames the slow and obvious way."""
    starts, place = [], 0
    while place + 2 <= len(words):
        size, n = words[place] >> 36 & 0x7FFF, words[place + 1] & 0x7FFF
        if size != n + 2 or place + size > len(words):
            break
        starts.append(place)
        place += size
    return starts, place


WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(lambda size, frame: size << 36 | frame, st.integers(0, 6), st.integers(0, 9)),
    st.integers(0, 6),
)


@given(st.lists(WORDS, max_size=80))
def test_scan_is_the_plain_one(words):
    scan = frames.scan_frames(np.array(words, dtype=np.uint64))
    assert (scan.starts.tolist(), scan.n_words) == plain_scan(words)
    assert scan.n_dropped == len(words) - scan.n_words
    assert (scan.reason is None) == (scan.n_dropped == 0)


def test_frames_that_cannot_be_are_refused():
    one = np.array([0])
    with pytest.raises(wire.WireError, match="36 bits"):
        frames.pack_frames(np.array([1 << 36]), one, np.zeros(0, dtype=np.uint64))
    with pytest.raises(wire.WireError, match="at most"):
        frames.pack_frames(one, np.array([40000]), np.zeros(40000, dtype=np.uint64))
    with pytest.raises(wire.WireError, match="event words"):
        frames.pack_frames(one, np.array([2]), np.zeros(1, dtype=np.uint64))
    with pytest.raises(wire.WireError, match="data datagram"):
        frames.data_datagram(np.zeros(9000, dtype=np.uint64))
    with pytest.raises(wire.WireError, match="tfine"):
        frames.pack_events(frames.Events(*(np.array([1024 if f == "tfine" else 0]) for f in frames.Events._fields)))


def test_a_megabyte_of_noise_makes_no_frame_of_nothing():
    noise = np.random.default_rng(7).integers(0, 1 << 64, 1 << 17, dtype=np.uint64)
    scan = frames.scan_frames(noise)
    assert scan.n_words + scan.n_dropped == len(noise)
    assert len(scan.starts) < 10
