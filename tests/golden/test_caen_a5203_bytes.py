"""The timing board's bytes as they were written down: our codec both ways, and the simulated board."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petqc_drivers.caen_a5203 import picotdc, wire
from petqc_drivers.caen_a5203.events import RawEvent, ServiceEvent, StreamParser, service_payload
from petqc_drivers.caen_a5203.registers import BoardCard, Command, Register
from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError
from petqc_simulators.boards.caen_a5203 import CaenA5203Board

GOLDEN: dict[str, Any] = tomllib.loads((Path(__file__).parent / "caen_a5203.toml").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def vectors(name: str) -> Any:
    return pytest.mark.parametrize("v", GOLDEN[name], ids=lambda v: v["section"][:60])


@vectors("request")
def test_request(v: dict[str, Any]) -> None:
    if v["kind"] == "read":
        request: wire.MemoryRead | wire.MemoryWrite = wire.MemoryRead(v["address"], v["n_bytes"])
    else:
        request = wire.MemoryWrite(v["address"], raw(v["data"]))
    assert request.to_bytes() == raw(v["hex"])
    assert wire.parse_request(raw(v["hex"]) + b"A") == (request, len(raw(v["hex"])))
    for cut in range(len(raw(v["hex"]))):
        assert wire.parse_request(raw(v["hex"])[:cut]) == (None, 0)


def test_register_requests_are_those_of_memory() -> None:
    assert wire.read_register(Register.STATUS) == raw(GOLDEN["request"][0]["hex"])
    assert wire.write_register(Register.COMMAND, Command.START) == raw(GOLDEN["request"][1]["hex"])


@vectors("write_reply")
def test_write_reply(v: dict[str, Any]) -> None:
    if v["ok"]:
        wire.check_write_reply(raw(v["hex"]))
    else:
        with pytest.raises(RemoteProtocolError, match="refused"):
            wire.check_write_reply(raw(v["hex"]))


@vectors("tdc_address")
def test_tdc_address(v: dict[str, Any]) -> None:
    assert picotdc.i2c_address(v["tdc"], v["register"], read=v["read"]) == v["value"]
    device, register, read = picotdc.parse_i2c_address(v["value"])
    assert (picotdc.tdc_of(device), register, read) == (v["tdc"], v["register"], v["read"])


@vectors("tdc_power_up")
def test_tdc_power_up(v: dict[str, Any]) -> None:
    steps = picotdc.power_up([5], period_clk=1562)
    assert (v["address"], v["value"]) in [(step.address, step.value) for step in steps]


@vectors("card")
def test_card(v: dict[str, Any]) -> None:
    names = ("serial", "code", "pcb", "model", "name", "form", "channels")
    card = BoardCard(**{name: v[name] for name in names})
    assert card.to_bytes() == raw(v["hex"])
    assert BoardCard.from_bytes(raw(v["hex"])) == card
    with pytest.raises(RemoteProtocolError, match="begins with ffff"):
        BoardCard.from_bytes(b"\xff" * 46)


@vectors("list_event")
def test_list_event(v: dict[str, Any]) -> None:
    parser = StreamParser()
    found = parser.feed(raw(v["hex"])).lists
    assert (found.trigger_id.tolist(), found.timestamp_clk.tolist()) == ([v["trigger_id"]], [v["timestamp_clk"]])
    assert found.channel.tolist() == v["channel"]
    assert found.toa_lsb.tolist() == v["toa_lsb"]
    assert found.is_leading.tolist() == v["is_leading"]
    assert (parser.bytes_skipped, parser.events_damaged, parser.bytes_held) == (0, 0, 0)
    payload = np.frombuffer(raw(v["hex"])[24:-4], "<u4")
    assert RawEvent(0x82, v["trigger_id"], v["timestamp_clk"], payload).to_bytes() == raw(v["hex"])


@vectors("service_event")
def test_service_event(v: dict[str, Any]) -> None:
    (found,) = StreamParser().feed(raw(v["hex"])).service
    names = [name for name in ServiceEvent.__dataclass_fields__ if name not in {"fpga_degc", "tdc_degc"}]
    assert {name: getattr(found, name) for name in names} == {name: v[name] for name in names}
    assert found.fpga_degc == pytest.approx(v["fpga_degc"], abs=0.001)
    assert found.tdc_degc == tuple(v["tdc_degc"])
    assert RawEvent(0x2F, 0, v["timestamp_clk"], service_payload(found)).to_bytes() == raw(v["hex"])


def test_the_simulated_board_answers_with_these_bytes() -> None:
    board = CaenA5203Board(serial=GOLDEN["card"][0]["serial"])
    status, start = (raw(v["hex"]) for v in GOLDEN["request"][:2])
    assert board.handle(start) == raw("00000000")
    assert board.handle(status[:5]) == b""
    assert board.handle(status[5:] + status) == 2 * raw("85000000"), "ready, running, and the TDC not yet powered up"
    card = bytearray()
    for byte in (0x1D2, 0x100, 0x100, 0x100, *[0x100] * 4):
        board.handle(wire.write_register(Register.SPI_DATA, byte))
    for k in range(46):
        board.handle(wire.write_register(Register.SPI_DATA, 0x100 if k < 45 else 0))
        card += board.handle(wire.read_register(Register.SPI_DATA))[:1]
    assert card == raw(GOLDEN["card"][0]["hex"])
    with pytest.raises(RemoteProtocolError, match="no request begins with"):
        board.handle(b"GET / HTTP/1.1\r\n")
    assert board.rejected == 1


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit 32 bits"):
        wire.write_register(Register.STATUS, 1 << 32)
    with pytest.raises(LocalProtocolError, match="does not fit 13 bits"):
        picotdc.TRIGGER_WINDOW.value(width=1 << 13)
    with pytest.raises(LocalProtocolError, match="TDC channels are 0 to 63"):
        picotdc.power_up([64], period_clk=1562)
