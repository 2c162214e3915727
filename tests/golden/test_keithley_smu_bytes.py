"""Messages of the source meters against literal text, with our codec, behind the guard, and with the simulated ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.errors import LimitError, RemoteProtocolError
from petqc_drivers.keithley_smu import guard, wire
from petqc_drivers.limits import HardLimit, Volts
from petqc_simulators.boards.keithley_smu import KeithleySmu
from petqc_simulators.physics.leakage import SipmLoad

GOLDEN = tomllib.loads(Path(__file__).with_name("keithley_smu.toml").read_text("utf-8"))


def limit(v_max: float = 57.0, v_min: float = -1.0) -> HardLimit:
    return HardLimit(channel="smu", v_min=Volts(v_min), v_max=Volts(v_max), max_step_v=1.0, slew_v_per_s=5.0)


@pytest.mark.parametrize("entry", GOLDEN["level"], ids=lambda entry: str(entry["volts"]))
def test_level(entry: dict) -> None:
    raw = entry["text"].encode()
    assert wire.level(wire.level_code(entry["volts"])) == raw
    assert guard.set_voltage(Volts(entry["volts"]), limit(), channel="smu").payloads == (raw,)
    board = KeithleySmu(SipmLoad())
    (came_back,) = wire.numbers(board.receive(raw))
    assert came_back == pytest.approx(entry["volts"], abs=1e-3)
    assert board.told_v == [pytest.approx(entry["volts"], abs=1e-3)]


@pytest.mark.parametrize("entry", GOLDEN["current_limit"], ids=lambda entry: entry["model"])
def test_current_limit(entry: dict) -> None:
    raw, model = entry["text"].encode(), wire.MODELS[entry["model"]]
    assert wire.current_limit(model, entry["nanoamps"]) == raw
    assert wire.parse_current_limit(raw) == entry["nanoamps"]
    (came_back,) = wire.numbers(KeithleySmu(SipmLoad(), model=entry["model"]).receive(raw))
    assert came_back == pytest.approx(1e-9 * entry["nanoamps"])
    with pytest.raises(LimitError):
        guard.set_current_limit(entry["nanoamps"] + 1, most=entry["nanoamps"], model=model, channel="smu")


@pytest.mark.parametrize("entry", GOLDEN["identity"], ids=lambda entry: entry["model"])
def test_identity(entry: dict) -> None:
    wanted = (entry["model"], entry["serial"], entry["firmware"])
    assert wire.identity(entry["text"].encode()) == wanted
    assert wire.end_of_identity(b"1\n" + entry["text"].encode()) == len(entry["text"]) + 2
    board = KeithleySmu(SipmLoad(), model=entry["model"], serial=entry["serial"])
    assert board.receive(b"*IDN?\n") == entry["text"].encode()


@pytest.mark.parametrize("entry", GOLDEN["numbers"], ids=lambda entry: entry["text"])
def test_numbers(entry: dict) -> None:
    wanted = tuple(None if value == "none" else value for value in entry["values"])
    assert wire.numbers(entry["text"].encode(), len(wanted)) == wanted


@pytest.mark.parametrize("entry", GOLDEN["error"], ids=lambda entry: entry["text"])
def test_error(entry: dict) -> None:
    assert wire.error(entry["text"].encode())[0] == entry["number"]


@pytest.mark.parametrize("entry", GOLDEN["interlock"], ids=lambda entry: f"{entry['model']} {entry['answer'].strip()}")
def test_interlock(entry: dict) -> None:
    board = KeithleySmu(SipmLoad(), model=entry["model"])
    board.interlock_is_closed = entry["is_closed"]
    assert board.receive(entry["text"].encode()) == entry["answer"].encode()
    assert board.receive(wire.line(wire.INTERLOCK)) == entry["answer"][-2:].encode()


@pytest.mark.parametrize("nonsense", [b"nan\n", b"inf\n", b"1e999\n", b"1,5\n", b"\n", b"ERR\n", b"\xff\n", b"1;2\n"])
def test_what_is_no_number(nonsense: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.numbers(nonsense)


@given(st.floats(), st.floats(1.0, 200.0))
def test_no_message_exceeds_any_limit(wanted_v: float, v_max: float) -> None:
    try:
        sealed = guard.set_voltage(Volts(wanted_v), limit(v_max), channel="smu")
    except LimitError:
        return
    told_v = wire.V_STEP * wire.parse_level(sealed.payloads[0])
    assert -1.0 <= told_v <= v_max + 1e-9
    assert abs(told_v) <= abs(wanted_v) + 1e-9


def test_every_millivolt_against_a_limit_of_either_sign() -> None:
    """Set-points are multiples of a millivolt: all that it can give, and some beyond."""
    for low, high in ((0, 57_000), (-57_000, -1_000)):
        given_limit, refused = limit(high / 1000, low / 1000), 0
        for code in range(-210_010, 210_011):
            try:
                (payload,) = guard.set_voltage(Volts(code / 1000), given_limit, channel="smu").payloads
            except LimitError:
                assert not low <= code <= high
                refused += 1
            else:
                assert wire.parse_level(payload) == code
        assert refused == 420_021 - (high - low + 1)
    given_limit = limit(57.0, 0.0)
    with pytest.raises(LimitError):
        guard.set_voltage(Volts(1.0), None, channel="smu")
    zero = guard.set_zero(channel="smu")
    assert guard.switch_on(zero, channel="smu").payloads == (b":OUTP ON;:OUTP?\n",)
    with pytest.raises(LimitError):
        guard.switch_on(guard.set_voltage(Volts(1.0), given_limit, channel="smu"), channel="smu")
