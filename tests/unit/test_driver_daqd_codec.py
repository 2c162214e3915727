"""The codec of the daemon's messages: whatever is written is read back, whatever comes is read or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.petsys import daqd_wire as dw
from petqc_drivers.petsys.wire import Command, Reply, WireError

pointers = st.integers(0, dw.POINTER_MODULO - 1)
serials = st.integers(0, (1 << 128) - 1)


@given(st.integers(0, 0xFFFF), st.binary(max_size=2048))
def test_requests_return(kind, payload):
    data = dw.Request(kind, payload).to_bytes()
    assert dw.parse_header(data[:4]) == (kind, len(payload))
    assert data[4:] == payload


@given(st.binary(max_size=8))
def test_a_header_is_read_or_refused(header):
    try:
        _, rest = dw.parse_header(header)
    except WireError:
        return
    assert 0 <= rest <= dw.MAX_REQUEST_BYTES


@given(st.integers(0, 31), st.integers(0, 31), serials, st.integers(0, 255), st.binary(max_size=200))
def test_front_end_commands_return(port, slave, serial, function, payload):
    command = dw.FrontEndCommand(port, slave, Command(serial, function, payload))
    assert dw.FrontEndCommand.from_payload(command.to_request().payload) == command


@given(serials, st.integers(0, 255), st.binary(min_size=1, max_size=200))
def test_front_end_replies_return(serial, function, payload):
    reply = Reply(serial, function, payload)
    data = dw.front_end_reply(reply)
    assert dw.reply_rest_bytes(dw.Message.FRONT_END, data[:2]) == len(data) - 2
    assert dw.parse_front_end_reply(data) == reply


@given(st.binary(max_size=64))
def test_every_reply_is_read_or_refused(data):
    for parse in (
        dw.SharedMemoryInfo.from_bytes,
        dw.Pointers.from_bytes,
        dw.PortCounters.from_bytes,
        dw.parse_ports_reply,
        dw.parse_card_temperature_reply,
        dw.parse_status_reply,
        dw.parse_front_end_reply,
        dw.FrontEndCommand.from_payload,
        dw.parse_acquisition,
        dw.parse_set_read_pointer,
        dw.parse_minimum_frame,
    ):
        try:
            parse(data)
        except WireError:
            continue


@given(st.sampled_from(list(dw.Message)), st.binary(min_size=2, max_size=2))
def test_no_head_makes_a_client_wait_for_much(kind, head):
    try:
        rest = dw.reply_rest_bytes(kind, head)
    except WireError:
        return
    assert 0 <= rest <= 2048


@given(pointers, st.integers(0, dw.RING_SLOTS))
def test_waiting_is_what_was_written(read, count):
    assert dw.Pointers((read + count) % dw.POINTER_MODULO, read, is_acquiring=True).waiting == count


@given(pointers, st.integers(1, dw.RING_SLOTS - 1))
def test_a_write_pointer_that_went_back_is_none(read, back):
    assert dw.Pointers((read - back) % dw.POINTER_MODULO, read, is_acquiring=True).waiting is None


@given(st.integers(dw.POINTER_MODULO, 0xFFFF_FFFF), pointers)
def test_pointers_beyond_the_end_are_none(beyond, good):
    assert dw.Pointers(beyond, good, is_acquiring=True).waiting is None
    assert dw.Pointers(good, beyond, is_acquiring=True).waiting is None


@given(st.text(max_size=20))
def test_a_name_cannot_lead_elsewhere(name):
    try:
        good = dw.check_shared_memory_name(name)
    except WireError:
        return
    assert good.startswith("/")
    assert "/" not in good[1:]
    assert good[1:] not in {"", ".", ".."}


@pytest.mark.parametrize(
    "name", ["", "/", "daqd_shm", "/../etc/passwd", "/..", "/.", "/a b", "/a\n", "/a\0", "/" + "x" * 255]
)
def test_bad_names(name):
    with pytest.raises(WireError):
        dw.SharedMemoryInfo(name).to_bytes()


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(WireError, match="overflows"):
        dw.Request(dw.Message.FRONT_END, bytes(2049)).to_bytes()
    with pytest.raises(WireError, match="16 bits"):
        dw.Request(dw.Message.GATE, bytes(16_381)).to_bytes()
    with pytest.raises(WireError, match="is not 0"):
        dw.set_read_pointer_request(dw.POINTER_MODULO)
    with pytest.raises(WireError, match="64 bits"):
        dw.minimum_frame_request(-1)
    with pytest.raises(WireError, match="slave 32"):
        dw.FrontEndCommand(0, 32, Command(0, 0, b"")).to_request()
    with pytest.raises(WireError, match="port 65536"):
        dw.port_counters_request(1 << 16)


def test_a_port_without_a_card_is_told_by_its_length():
    assert dw.reply_rest_bytes(dw.Message.FRONT_END, b"\xff\xff") == 0
    with pytest.raises(WireError, match="no DAQ card"):
        dw.parse_front_end_reply(b"\xff\xff")
    assert dw.parse_front_end_reply(b"\x11\x00" + bytes(17)) is None, "17 bytes are too few for an answer"
