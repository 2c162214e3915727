"""petqc-safe and the file it reads: what becomes of outputs when the daemon is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import typer
from tests.contract.served_instruments import served

from petqc_drivers.caen_a7585d import CaenA7585dSettings, Register
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.limits import HardLimit, Volts
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.witness import judge
from petqcd import places, small_file
from petqcd.cli.off import off
from petqcd.off import outputs
from petqcd.off import petqc_safe as safe
from petqcd.off.outputs import Output

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.off.outputs import Policy

FASTER = 20.0
"""Simulated seconds per second, so that a supply's own ramps take no time here."""


def limit(name: str) -> HardLimit:
    return HardLimit(channel=name, v_min=Volts(41.0), v_max=Volts(57.0), max_step_v=3.0, slew_v_per_s=200.0)


def energised_c11204() -> HamamatsuC11204Board:
    board = HamamatsuC11204Board()
    board.reference, board.is_on, board.output_v = 30_000, True, 30_000 * 1.812e-3
    board.witness.note(0.0, "supply", on=True)
    return board


def energised_a7585d() -> CaenA7585dBoard:
    board = CaenA7585dBoard(10234)
    board.values |= {Register.VOLTAGE: 54.0, Register.ENABLE: 1.0}
    board.output_v = 54.0
    board.witness.note(0.0, "supply", on=True)
    return board


def c11204(address: str, policy: Policy = "ramp_off", name: str = "hv", state: str = "on") -> Output:
    settings = HamamatsuC11204Settings(
        name=name, address=address, model="C11204-02", serial="SIM00001", limit=limit(name), reply_timeout_s=0.3
    )
    return Output(
        name=name, kind="hamamatsu-c11204", settings=outputs.plain(settings), on_daemon_loss=policy, state=state
    )


def a7585d(address: str, policy: Policy = "ramp_off") -> Output:
    settings = CaenA7585dSettings(name="caen", address=address, serial=10234, limit=limit("caen"), reply_timeout_s=0.3)
    return Output(name="caen", kind="caen-a7585d", settings=outputs.plain(settings), on_daemon_loss=policy, state="on")


def test_each_policy_is_what_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramped, held, at_once = energised_c11204(), energised_c11204(), energised_a7585d()
    with ExitStack() as stack:
        where = [stack.enter_context(served(board, speed=FASTER)) for board in (ramped, held, at_once)]
        outputs.write(
            tmp_path, [c11204(where[0]), c11204(where[1], "hold", name="held"), a7585d(where[2], policy="off")]
        )
        assert safe.main(["--state-dir", str(tmp_path)]) == 0
        assert (ramped.is_on, held.is_on, at_once.is_on) == (False, True, False)
    steps = [line["volts"] for line in ramped.witness.lines if line["event"] == "set" and line["supply"]]
    assert steps == sorted(steps, reverse=True)
    assert len(steps) >= 4
    assert not [line for line in held.witness.lines if line["event"] == "set"]
    assert not [line for line in at_once.witness.lines if line["event"] == "set" and line["supply"]]
    assert not judge(ramped.witness.lines, highest_v=57.0, lowest_code=ramped.model.lowest_code)
    said = capsys.readouterr().out
    assert "held: left as it is" in said
    assert said.count("IN_SAFE_STATE") == 2
    assert [one.state for one in outputs.read(tmp_path).outputs] == ["off", "on", "off"]


def test_what_cannot_be_confirmed_is_said_and_told_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stubborn, fine = energised_c11204(), energised_a7585d()
    stubborn.ignores = {"HOF"}
    with served(stubborn, speed=FASTER) as one, served(fine, speed=FASTER) as other:
        nobody = c11204("socket://127.0.0.1:1", name="nobody")
        outputs.write(tmp_path, [c11204(one), nobody, a7585d(other)])
        assert safe.main(["--state-dir", str(tmp_path), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    states = {device["device"]: device["state"] for device in document["devices"]}
    assert states == {"hv": "UNKNOWN", "nobody": "UNKNOWN", "caen": "IN_SAFE_STATE"}
    assert "plug" in document["devices"][0]["told"]
    assert not fine.is_on


def test_what_is_known_to_be_off_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs.write(tmp_path, [c11204("socket://127.0.0.1:1", state="off")])
    assert safe.main(["--state-dir", str(tmp_path)]) == 0
    assert "no bias output is known to be on" in capsys.readouterr().out


def test_a_damaged_file_lets_the_generation_before_speak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = energised_c11204()
    with served(board, speed=FASTER) as where:
        outputs.write(tmp_path, [c11204(where)])
        outputs.write(tmp_path, [replace(c11204(where), state="unknown")])
        path = tmp_path / places.OUTPUTS
        path.write_bytes(path.read_bytes().replace(b"unknown", b"off"))
        assert safe.main(["--state-dir", str(tmp_path)]) == 0
    assert not board.is_on
    assert "damaged" in capsys.readouterr().err


def test_two_damaged_files_are_no_reason_to_say_that_all_is_well(tmp_path: Path) -> None:
    (tmp_path / places.OUTPUTS).write_text("{")
    assert safe.main(["--state-dir", str(tmp_path)]) == 3


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_no_part_of_a_small_file_passes_for_the_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f.json"
    small_file.write(path, {"a": list(range(40))})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1 - cut])
    assert small_file.read(path) is None or whole[: len(whole) - 1 - cut].endswith(whole[-9:-1])


def test_a_running_daemon_is_not_worked_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = places.hold(tmp_path)
    try:
        assert safe.main(["--state-dir", str(tmp_path)]) == 2
    finally:
        os.close(descriptor)
    assert "petqc off" in capsys.readouterr().err


def test_it_comes_up_without_what_must_not_be_needed() -> None:
    heavy = ("fastapi", "uvicorn", "sqlalchemy", "pydantic", "typer", "prometheus_client", "petqc", "numpy", "numba")
    script = f"import sys, petqcd.off.petqc_safe; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_off_goes_by_what_was_last_written_if_the_configuration_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "petqc.toml"
    config.write_text("[scanner\n")
    first, second = energised_c11204(), energised_a7585d()
    second.values[Register.ENABLE] = 0.0
    with served(first, speed=FASTER) as one, served(second, speed=FASTER) as other:
        outputs.write(tmp_path, [c11204(one), a7585d(other)])
        off(config=config, state_dir=tmp_path)
    assert not first.is_on
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "hv: IN_SAFE_STATE: off, read back after the command",
        "caen: IN_SAFE_STATE: off, read back after the command",
    ]
    assert "not TOML" in said.err
    assert [one.state for one in outputs.read(tmp_path).outputs] == ["off", "off"]


def test_off_that_knows_of_no_output_is_no_success(tmp_path: Path) -> None:
    config = tmp_path / "petqc.toml"
    config.write_text("[scanner\n")
    with pytest.raises(typer.Exit) as ended:
        off(config=config, state_dir=tmp_path)
    assert ended.value.exit_code == 3
