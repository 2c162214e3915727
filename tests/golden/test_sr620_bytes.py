"""Lines of the SR620 against literal text, with our codec and with the simulated counter."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError
from petqc_drivers.sr620 import wire
from petqc_simulators.boards.sr620 import ClockPair, Sr620

GOLDEN = tomllib.loads(Path(__file__).with_name("sr620.toml").read_text("utf-8"))


@pytest.mark.parametrize("entry", GOLDEN["setup"], ids=lambda entry: str(entry["size"]))
def test_setup(entry: dict) -> None:
    assert wire.set_up(size=entry["size"], is_clock_external=entry["external"]) == entry["text"]
    board = Sr620(ClockPair())
    reply = board.receive(wire.line(f"{entry['text']};{wire.SETUP}"))
    mode, size, byte = wire.setup(reply)
    assert (mode, size) == (wire.Mode.TIME, entry["size"])
    assert (wire.SetupByte.CLOCK_EXTERNAL in byte) == entry["external"]
    assert board.receive(b"*ESR?\n") == b"128\r\n"  # switched on, and no command refused


def test_what_comes_back() -> None:
    (entry,) = GOLDEN["stup"]
    assert wire.setup(entry["text"].encode()) == (entry["mode"], entry["size"], entry["byte"])
    (entry,) = GOLDEN["result"]
    assert wire.numbers(entry["text"].encode(), 2) == tuple(entry["values"])
    (entry,) = GOLDEN["identity"]
    assert wire.identity(entry["text"].encode()) == ("SR620", entry["serial"], "1.48")
    assert Sr620(ClockPair()).receive(b"*IDN?\n") == entry["text"].encode()
    (entry,) = GOLDEN["errors"]
    assert wire.Errors(int(wire.numbers(entry["text"].encode())[0])) is wire.Errors.NO_CLOCK
    board = Sr620(ClockPair())
    board.reference_lost = True
    board.receive(b"CLCK1\n")
    assert board.receive(b"ERRS?\n") == entry["text"].encode()


def test_what_cannot_be() -> None:
    with pytest.raises(LocalProtocolError):
        wire.set_up(size=3, is_clock_external=True)
    for nonsense in (b"0,0,1\n", b"9,0,1,0,9,0,0,64\n", b"0,0,1,0,99,0,0,64\n", b"x\n"):
        with pytest.raises(RemoteProtocolError):
            wire.setup(nonsense)
    for nonsense in (b"nan\n", b"1e999\n", b"1;2\n", b"\x80\n"):
        with pytest.raises(RemoteProtocolError):
            wire.numbers(nonsense)
