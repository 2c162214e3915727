"""The codec of the daemon's messages against bytes that were written down from the interface reference."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from petqc_drivers.petsys import daqd_wire as dw
from petqc_drivers.petsys.wire import Command, Reply

GOLDEN: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "petsys.toml").read_text())["daqd"]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def of(*names: str) -> Any:
    return pytest.mark.parametrize(
        "v", [v for v in GOLDEN if v["message"] in names], ids=lambda v: f"{v['message']}: {v['section'][:40]}"
    )


def payload_of(v: dict[str, Any]) -> bytes:
    """The payload behind a header that must say what kind of message and how long it is."""
    request = raw(v["request"])
    kind, length = dw.parse_header(request[: dw.HEADER_BYTES])
    assert kind == dw.Message[v["message"].upper()]
    assert length == len(request) - dw.HEADER_BYTES
    return request[dw.HEADER_BYTES :]


@of(*{v["message"] for v in GOLDEN})
def test_the_length_of_the_reply_is_known_from_its_head(v):
    reply, kind = raw(v["reply"]), dw.Message[v["message"].upper()]
    n_head = dw.reply_head_bytes(kind)
    assert n_head + dw.reply_rest_bytes(kind, reply[:n_head]) == len(reply)


def test_quit_gets_no_reply():
    assert dw.reply_head_bytes(dw.Message.QUIT) == 0
    assert dw.reply_head_bytes(0x7777) == 0


@of("acquisition")
def test_acquisition(v):
    assert dw.acquisition_request(is_on=bool(v["value"])).to_bytes() == raw(v["request"])
    assert dw.parse_acquisition(payload_of(v)) is bool(v["value"])


@of("shared_memory")
def test_shared_memory(v):
    assert dw.Request(dw.Message.SHARED_MEMORY).to_bytes() == raw(v["request"])
    info = dw.SharedMemoryInfo(v["name"], v["slot_bytes"])
    assert info.to_bytes() == raw(v["reply"])
    assert dw.SharedMemoryInfo.from_bytes(raw(v["reply"])) == info
    garbage = bytearray(raw(v["reply"]))
    garbage[2:8] = b"\xaa" * 6
    assert dw.SharedMemoryInfo.from_bytes(bytes(garbage)) == info, "padding is garbage"


@of("pointers")
def test_pointers(v):
    assert dw.Request(dw.Message.POINTERS).to_bytes() == raw(v["request"])
    pointers = dw.Pointers(v["write"], v["read"], v["acquiring"])
    assert pointers.to_bytes() == raw(v["reply"])
    assert dw.Pointers.from_bytes(raw(v["reply"])) == pointers
    assert dw.Pointers.from_bytes(raw(v["reply"])[:2] + b"\xaa\xaa" + raw(v["reply"])[4:]) == pointers
    assert pointers.waiting == v["waiting"]


@of("set_read_pointer")
def test_set_read_pointer(v):
    assert dw.set_read_pointer_request(v["value"]).to_bytes() == raw(v["request"])
    assert dw.parse_set_read_pointer(payload_of(v)) == v["value"]
    assert dw.parse_set_read_pointer(raw(v["reply"])) == v["value"]


@of("front_end")
def test_front_end(v):
    command = dw.FrontEndCommand(v["port"], v["slave"], Command(v["serial"], v["function"], raw(v["payload"])))
    assert command.to_request().to_bytes() == raw(v["request"])
    assert dw.FrontEndCommand.from_payload(payload_of(v)) == command
    answer = Reply(v["serial"], v["function"], raw(v["answer"])) if "answer" in v else None
    assert dw.front_end_reply(answer) == raw(v["reply"])
    assert dw.parse_front_end_reply(raw(v["reply"])) == answer


@of("ports")
def test_ports(v):
    assert dw.Request(dw.Message.PORTS).to_bytes() == raw(v["request"])
    assert dw.parse_ports_reply(raw(v["reply"])) == tuple(v["ports"])
    assert dw.ports_reply(sum(1 << port for port in v["ports"])) == raw(v["reply"])


@of("port_counters")
def test_port_counters(v):
    assert dw.port_counters_request(v["value"]).to_bytes() == raw(v["request"])
    counters = dw.PortCounters(*v["counters"])
    assert counters.to_bytes() == raw(v["reply"])
    assert dw.PortCounters.from_bytes(raw(v["reply"])) == counters


@of("sorter", "coincidence_filter", "idle_time", "gate")
def test_switches_of_the_card(v):
    kind = dw.Message[v["message"].upper()]
    assert dw.Request(kind, raw(v["payload"])).to_bytes() == raw(v["request"])
    assert payload_of(v) == raw(v["payload"])
    assert dw.parse_status_reply(raw(v["reply"])) == v["status"]
    assert dw.status_reply(v["status"]) == raw(v["reply"])


@of("minimum_frame")
def test_minimum_frame(v):
    assert dw.minimum_frame_request(v["value"]).to_bytes() == raw(v["request"])
    assert dw.parse_minimum_frame(payload_of(v)) == v["value"]
    assert dw.parse_status_reply(raw(v["reply"])) == 0


@of("card_temperature")
def test_card_temperature(v):
    assert dw.Request(dw.Message.CARD_TEMPERATURE).to_bytes() == raw(v["request"])
    assert dw.parse_card_temperature_reply(raw(v["reply"])) == tuple(v["degc"])
    assert dw.card_temperature_reply(tuple(v["degc"])) == raw(v["reply"])


def test_the_ring_has_the_size_every_reader_checks():
    assert dw.RING_BYTES == 1_074_266_112
    assert (dw.SLOT_BYTES, dw.RING_SLOTS, dw.POINTER_MODULO) == (65_568, 16_384, 32_768)
