"""Lines of a Julabo circulator against literal bytes, with our codec and with the simulated circulator."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError
from petqc_drivers.julabo import wire
from petqc_simulators.boards.julabo import JulaboBoard

GOLDEN = tomllib.loads(Path(__file__).with_name("julabo.toml").read_text("utf-8"))


def raw(entry: dict) -> bytes:
    return bytes.fromhex(entry["hex"])


@pytest.mark.parametrize("entry", GOLDEN["command"], ids=lambda entry: entry["hex"])
def test_command(entry: dict) -> None:
    address = entry.get("rs485_address")
    assert wire.line(entry["text"], rs485_address=address) == raw(entry)
    assert JulaboBoard(rs485_address=address).receive(raw(entry)).endswith(b"\r\n")
    assert JulaboBoard(rs485_address=9).receive(raw(entry)) == b""


@pytest.mark.parametrize("entry", GOLDEN["setting"], ids=lambda entry: entry["command"])
def test_setting(entry: dict) -> None:
    assert wire.line(wire.setting(entry["command"], entry["value"])) == raw(entry)
    board = JulaboBoard()
    assert board.receive(raw(entry)) == b""  # never answered
    assert board.told == [(entry["command"], entry["value"])]


def test_every_setting_has_its_bytes() -> None:
    assert {entry["command"] for entry in GOLDEN["setting"]} == set(wire.SETTINGS)


def test_every_question_is_answered_by_a_number() -> None:
    board = JulaboBoard()
    for question in wire.NUMBERS:
        wire.number(board.receive(wire.line(question)))


@pytest.mark.parametrize("entry", GOLDEN["number"], ids=lambda entry: entry["hex"])
def test_number(entry: dict) -> None:
    assert wire.end_of_line(raw(entry) + b"more") == len(raw(entry))
    assert wire.number(raw(entry)) == entry.get("value")


@pytest.mark.parametrize("entry", GOLDEN["status"], ids=lambda entry: entry["text"])
def test_status(entry: dict) -> None:
    assert wire.status(raw(entry)) == (entry["number"], entry["text"])
    assert wire.STATUS_TEXTS[entry["number"]] == entry["text"]
    board = JulaboBoard()
    board.values["in_mode_05"] = 1.0
    board.alarm = entry["number"] if entry["number"] < 0 else None
    assert board.receive(b"status\r") == raw(entry)


def test_version() -> None:
    (entry,) = GOLDEN["version"]
    assert wire.text(raw(entry)) == entry["text"]
    assert JulaboBoard(entry["text"]).receive(b"VERSION\r") == raw(entry)
    late = b"20.01\r\n"
    assert wire.end_of_version(late + raw(entry)) == len(late) + len(raw(entry))
    assert wire.end_of_version(late) is None


@pytest.mark.parametrize(
    "nonsense", [b"nan\n", b"inf\n", b"1e999\n", b"20,01\n", b"\n", b"ERR\n", b"20.01 20.02\n", b"\x80\x81\n", b"-\n"]
)
def test_what_is_no_number(nonsense: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.number(nonsense)
    with pytest.raises(RemoteProtocolError):
        wire.status(nonsense)


def test_what_is_never_sent() -> None:
    for command, value in (("out_sp_00", float("nan")), ("out_sp_00", float("inf")), ("out_sp_09", 1.0)):
        with pytest.raises(LocalProtocolError):
            wire.setting(command, value)
    with pytest.raises(RemoteProtocolError, match="without the end"):
        wire.end_of_line(b"x" * 200)
