"""Every command and reply of the C11204 against literal bytes, with our codec and with the simulated module."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from petqc_drivers.errors import RemoteProtocolError
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board

GOLDEN = tomllib.loads(Path(__file__).with_name("hamamatsu_c11204.toml").read_text("utf-8"))


def named(entry: dict) -> str:
    return str(entry.get("mnemonic") or entry.get("to") or entry.get("number"))


def test_every_command_has_its_bytes() -> None:
    assert {entry["mnemonic"] for entry in GOLDEN["request"]} == set(wire.REQUEST_DIGITS)
    assert {entry["to"] for entry in GOLDEN["reply"]} == set(wire.REPLY_DIGITS) == set(wire.REQUEST_DIGITS)
    assert {entry["number"] for entry in GOLDEN["error"]} == set(wire.ERRORS)


def test_what_is_published_is_what_stands_here() -> None:
    assert bytes.fromhex(GOLDEN["request"][0]["hex"]) == b"\x02HPO\x03EC\r"
    (error,) = [entry for entry in GOLDEN["error"] if entry["number"] == 4]
    assert bytes.fromhex(error["hex"]) == b"\x02hxx0004\x0321\r"


@pytest.mark.parametrize("entry", GOLDEN["request"], ids=named)
def test_request(entry: dict) -> None:
    raw = bytes.fromhex(entry["hex"])
    assert wire.request(entry["mnemonic"], entry["data"]) == raw
    assert wire.parse_frame(raw) == (entry["mnemonic"], entry["data"])
    reply = HamamatsuC11204Board().receive(raw)
    assert wire.parse_frame(reply)[0] == entry["mnemonic"].lower()


@pytest.mark.parametrize("entry", GOLDEN["reply"], ids=named)
def test_reply(entry: dict) -> None:
    raw = bytes.fromhex(entry["hex"])
    assert wire.end_of_frame(raw + b"more") == len(raw)
    assert wire.parse_reply(entry["to"], raw) == entry["data"]
    assert wire.frame(entry["to"].lower(), entry["data"]) == raw
    for at in range(len(raw)):  # cut anywhere it is no reply, and with any bit flipped it is not this one
        assert wire.end_of_frame(raw[:at]) is None
        for bit in range(8):
            damaged = raw[:at] + bytes((raw[at] ^ 1 << bit,)) + raw[at + 1 :]
            with pytest.raises(RemoteProtocolError):
                wire.parse_reply(entry["to"], damaged)


@pytest.mark.parametrize("entry", GOLDEN["error"], ids=named)
def test_error(entry: dict) -> None:
    raw = bytes.fromhex(entry["hex"])
    with pytest.raises(wire.RefusedByDeviceError, match=f"HON: error {entry['number']}, "):
        wire.parse_reply("HON", raw)
    assert HamamatsuC11204Board()._error(entry["number"]) == raw


def test_conversions() -> None:
    for entry in GOLDEN["voltage"]:
        assert wire.volts(entry["code"]) == pytest.approx(entry["volts"], abs=6e-4)
    for entry in GOLDEN["current"]:
        ua = wire.MODELS[entry["model"]].ua_per_code * entry["code"]
        assert ua / 1000 == pytest.approx(entry["ma"], abs=5e-5)
    for entry in GOLDEN["temperature"]:
        assert wire.degc(entry["code"]) == pytest.approx(entry["degc"], abs=6e-3)
    assert wire.code_of_degc(GOLDEN["temperature_code"]["degc"]) == GOLDEN["temperature_code"]["code"]


def test_what_comes_longer_than_any_reply_is_none() -> None:
    with pytest.raises(RemoteProtocolError, match="without the end"):
        wire.end_of_frame(b"\x02" + b"0" * 60)
