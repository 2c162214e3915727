"""An instrument from a recording of its wire: what was said then is said again, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from petqc.formats.bundle import begin_bundle, seal_bundle
from petqc.formats.wire_log import WireEvent, WireLogWriter
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.recorded_instrument import COMMANDS, RecordedInstrument
from petqc_simulators.recording import write_recording
from petqc_simulators.replay import find_source, instruments_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SENT, RECEIVED = WireEvent.SENT, WireEvent.RECEIVED
SAID = (
    (SENT, b"in_pv_00\r", 0.0),
    (RECEIVED, b"20.0", 0.02),
    (RECEIVED, b"2\r\n", 0.03),
    (SENT, b"out_sp_00 15\r", 1.0),
    (SENT, b"in_pv_00\r", 2.0),
    (RECEIVED, b"19.50\r\n", 2.05),
    (SENT, b"status\r", 3.0),
    (WireEvent.TIMEOUT, b"a reply", 4.0),
)


OFF, ON = b"\x02hpo off\r", b"\x02hpo on\r"
ASK, GO_ON, GO_OFF = b"\x02HPO\x03EC\r", b"\x02HON\x03EA\r", b"\x02HOF\x03E2\r"
OF_A_SUPPLY = tuple(
    (event, data, at_s + later_s)
    for at_s, request, reply in (
        (0.0, ASK, OFF + b"1"),
        (1.0, ASK, OFF + b"2"),
        (2.0, GO_ON, b"\x02hon\r"),
        (3.0, ASK, ON + b"1"),
        (4.0, ASK, ON + b"2"),
        (5.0, ASK, ON + b"3"),
        (6.0, GO_OFF, b"\x02hof\r"),
        (7.0, ASK, OFF + b"3"),
    )
    for event, data, later_s in ((SENT, request, 0.0), (RECEIVED, reply, 0.001))
)


def log_of(
    path: Path,
    device: str = "chiller",
    kind: str = "julabo",
    transport: str = "serial",
    said: Sequence[tuple[WireEvent, bytes, float]] = SAID,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"wire": device, "device": device, "kind": kind, "transport": transport, "address": "/dev/ttyS0"}
    log = WireLogWriter(path, about, (1, 1))
    for event, data, at_s in said:
        log.add(event, data, (int(1e9 * (1.0 + at_s)), int(1e9 * at_s)))
    log.close((int(9e9), int(9e9)))
    return path


def test_a_request_is_answered_as_then_in_order_and_at_the_pace_of_then(tmp_path: Path) -> None:
    one = RecordedInstrument("chiller", log_of(tmp_path / "chiller.wire"))
    said = []
    for wait_s in (0.01, 0.02):
        assert one.receive(b"in_pv_00\r" if wait_s == 0.01 else b"") == b""
        said.append(one.let_pass(wait_s))
    assert said == [b"", b"20.02\r\n"]
    one.receive(b"in_pv")
    one.receive(b"_00\r")
    assert one.let_pass(0.1) == b"19.50\r\n"
    one.receive(b"in_pv_00\r")  # used up: nearest in time
    assert one.let_pass(0.1) == b"20.02\r\n"


def test_a_supply_is_on_from_its_command_on_however_often_it_is_asked(tmp_path: Path) -> None:
    path = log_of(tmp_path / "hv.wire", "hv", "hamamatsu-c11204", said=OF_A_SUPPLY)
    one = RecordedInstrument("hv", path, "hamamatsu-c11204", frames_at_s=1.0 + 4.5)

    def asked(request: bytes, times: int = 1) -> list[bytes]:
        found = []
        for _ in range(times):
            one.receive(request)
            found.append(one.let_pass(0.01))
        return found

    assert asked(ASK, 5) == [OFF + b"1", OFF + b"2", *[OFF + b"1"] * 3]
    assert not one.is_as_with_frames
    for _ in range(2):  # a second run is answered as the first one
        assert asked(GO_ON) == [b"\x02hon\r"]
        assert one.is_as_with_frames
        assert asked(ASK) == [ON + b"1"]
        one.frames_begin()
        assert asked(ASK, 4) == [ON + b"3", *[ON + b"1"] * 3]
        assert asked(GO_OFF) == [b"\x02hof\r"]
        assert asked(ASK, 3) == [OFF + b"3"] * 3
        assert not one.is_as_with_frames


def test_a_line_of_questions_changes_nothing() -> None:
    is_command = COMMANDS["keithley-smu"]
    for line in (b"*IDN?\n", b':READ? "defbuffer1",SOUR,READ\n', b":OUTP?;:SYST:ERR?\n"):
        assert not is_command(line)
    for line in (b":OUTP OFF;:OUTP?;*IDN?\n", b":SOUR:VOLT:LEV +1.000;:SOUR:VOLT:LEV?\n", b"*CLS\n", b"\n"):
        assert is_command(line)


def test_what_was_not_answered_then_or_not_asked_gets_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = RecordedInstrument("chiller", log_of(tmp_path / "chiller.wire"))
    one.receive(b"status\r")
    one.receive(b"out_sp_00 15\r")
    assert one.let_pass(10.0) == b""
    assert (one.answered, one.unknown) == (2, 0)
    one.receive(b"out_sp_00 99\r")
    one.receive(b"out_sp_00 99\r")
    assert one.let_pass(10.0) == b""
    assert one.unknown == 2
    assert capsys.readouterr().err.count("was not asked in the recording") == 1


def test_a_bundle_brings_its_instruments(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_recording(folder / "recording", load_profile("bench", source="none"), 1, 0.01, truth_seconds=0)
    log_of(folder / "wire" / "chiller.wire")
    log_of(folder / "wire" / "board.wire", "board", "petsys-udp", "udp")
    (folder / "petqc.json").write_text(
        '{"device": [{"name": "board", "kind": "petsys-udp"}, {"name": "chiller", "kind": "julabo", "model": "FL601", '
        '"address": "/dev/ttyS0", "baud": null, "modules": ["0.0.0"]}]}'
    )
    begin_bundle(folder, {"run_id": "x"})
    seal_bundle(folder)
    source = find_source(folder)
    sides, tables = instruments_of(source)
    assert list(sides) == ["chiller"]
    assert tables["chiller"] == {
        "name": "chiller", "kind": "julabo", "model": "FL601", "modules": ["0.0.0"], "simulated": True,
    }  # fmt: skip
    (folder / "wire" / "chiller.wire").unlink()
    with pytest.raises(ProfileError, match=r"chiller\.wire"):
        instruments_of(source)
