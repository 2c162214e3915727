"""The command: what it prints, and how fast it starts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.formats.petsys_config import load_config
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqc_drivers.petsys.bias import BiasChannel
from petqc_simulators.__main__ import parser as simulators_parser
from petqc_simulators.recording import write_recording
from petqcd.cli.replaying import PASSED_ON, read_arguments
from petqcd.cli.show import chosen, print_run
from petqcd.config import BENCH_BIAS
from petqcd.errors import ConfigError, RefusedError
from petqcd.readout.petsys_board import PetsysBoard
from petqcd.readout.petsys_settings import CHANNEL_OFF, asic_settings, bias_settings, bias_targets, febds, switched_off
from petqcd.readout.supervisor import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.formats.petsys_config import PetsysConfig


def result(id_: str, node: str, value: float | None, limits: Limits | None = None) -> CheckResult:
    if value is None:
        return CheckResult.missing(id_, node, "keV", 3, limits or Limits(), "too few counts")
    return CheckResult.measured(id_, node, value, "keV", 0.2, 1000, limits or Limits())


TIGHT = Limits(495.0, 505.0, 517.0, 527.0)


def a_run(*, simulated: bool = True) -> Run:
    return usual_run(
        run_id="r1",
        simulated=simulated,
        verdict=Status.FAIL,
        sentence="Do not scan: photopeak of module 0.0.1.",
        checks=[
            result("photopeak", "scanner", 511.04, TIGHT),
            result("photopeak", "module:0.0.1", 530.0, TIGHT),
            result("photopeak", "asic:0.0.0", 511.0, TIGHT),
            result("photopeak", "asic:0.0.1", 531.0, TIGHT),
            result("energy_resolution", "scanner", None, TIGHT),
            result("singles_rate", "scanner", 1000.0),
            result("singles_rate", "module:0.0.1", 500.0),
            result("from_another_version", "scanner", 5.0, TIGHT),
        ],
    )


@pytest.fixture(autouse=True)
def a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go to a pipe that nobody gave a width."""
    monkeypatch.delenv("COLUMNS", raising=False)


def test_the_table_shows_value_uncertainty_limits_and_a_status_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(a_run(), where={"report": "/somewhere/report.html"})
    out = capsys.readouterr().out
    assert "SIMULATED" in out
    assert "Do not scan" in out
    assert "511.04 ± 0.20 keV" in out
    assert "warn outside 505 to 517" in out
    assert "✔ pass" in out
    assert "✖ fail" in out
    assert "no number: too few counts" in out
    assert "/somewhere/report.html" in out
    assert "\x1b[" not in out  # no colour where nobody sees it
    print_run(a_run(simulated=False))
    assert "SIMULATED" not in capsys.readouterr().out


def test_a_table_shows_the_upper_levels_and_whatever_is_flagged() -> None:
    shown, hidden = chosen(a_run().checks, everything=False)
    places = [(c.id, c.node) for c in shown]
    assert ("photopeak", "asic:0.0.1") in places
    assert ("photopeak", "asic:0.0.0") not in places
    assert ("singles_rate", "scanner") in places
    assert ("singles_rate", "module:0.0.1") not in places
    assert places[-1] == ("from_another_version", "scanner")
    assert hidden == 0
    flagged = [result("photopeak", f"asic:0.0.{i}", 531.0, TIGHT) for i in range(30)]
    shown, hidden = chosen(flagged, everything=False)
    assert len(shown) + hidden == 30
    assert hidden > 0
    everything, none = chosen(a_run().checks, everything=True)
    assert len(everything) == len(a_run().checks)
    assert none == 0


@pytest.mark.parametrize("argument", ["--help", "version"])
def test_nothing_heavy_is_loaded_to_say_who_one_is(argument: str) -> None:
    program = (
        "import sys; sys.argv = ['petqc', sys.argv[1]]\n"
        "from petqcd.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'numba', 'scipy', 'pyarrow', 'matplotlib', 'fastapi', 'sqlalchemy', 'uvicorn', 'pydantic', "
        "'prometheus_client'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "petqc" in done.stdout


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> PetsysConfig:
    folder = tmp_path_factory.mktemp("board")
    return load_config(folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"])


def test_settings_of_the_board_come_from_its_tables(board: PetsysConfig) -> None:
    settings = asic_settings(board)[0, 0]
    assert febds(board) == {(0, 0)}
    assert settings.mode == "qdc"
    assert settings.mode_of == {}
    assert settings.expected_chips == frozenset(range(8))
    assert len(settings.per_channel) == 512
    row, zero = board.require("disc_settings")[5], board.require("disc_calibration")[5]
    fields = settings.per_channel[int(row["chip"]), int(row["channel"])]
    assert fields["vth_t1"] == int(zero["zero_t1"] - row["vth_t1"])
    assert fields["baseline_t"] == int(zero["baseline_t"])
    bias = bias_settings(board, BENCH_BIAS)
    assert (bias.mezzanines, bias.starts_with) == ({}, {})
    outputs = bias.outputs
    targets = bias_targets(board)
    assert set(outputs) == set(targets)
    assert len(targets) == 32
    first = board.require("bias_settings")[0]
    assert targets[BiasChannel(0, 0, 0, 0)].value == pytest.approx(
        float(first["offset"] + first["breakdown"] + first["overvoltage"])
    )
    for channel, output in outputs.items():
        assert output.limit.channel == str(channel)
        assert output.limit.v_max.value == BENCH_BIAS.v_max
        assert targets[channel].value < BENCH_BIAS.v_max


def test_a_detector_that_is_biased_from_elsewhere_is_not_called_on(board: PetsysConfig, tmp_path: Path) -> None:
    without = replace(board, tables={**board.tables, "bias_settings": board.require("bias_settings")[:0]})
    connection = PetsysBoard(Endpoint("udp://127.0.0.1:9", tmp_path), without, BENCH_BIAS)
    with pytest.raises(RefusedError, match="names no bias output"):
        asyncio.run(connection.bias_on())


def changed(config: PetsysConfig, table: str, row: int, **values: float) -> PetsysConfig:
    copy = np.array(config.tables[table])  # type: ignore[index]
    for name, value in values.items():
        copy[name][row] = value
    return replace(config, tables={**config.tables, table: copy})  # type: ignore[dict-item]


def test_a_threshold_that_does_not_fit_is_refused_and_never_clamped(board: PetsysConfig) -> None:
    with pytest.raises(ConfigError, match=r"channel 0\.0\.0\.7: vth_e = -\d+ is outside 0\.\.63"):
        asic_settings(changed(board, "disc_settings", 7, vth_e=100.0))


def test_a_channel_without_a_calibration_is_switched_off_or_refused(board: PetsysConfig) -> None:
    unusable = changed(board, "disc_calibration", 7, zero_t1=-1.0)
    assert asic_settings(unusable)[0, 0].per_channel[0, 7] == {"trigger_mode_1": CHANNEL_OFF}
    assert switched_off(unusable) == [(0, 0, 0, 7)]
    assert switched_off(board) == []
    fewer = {**board.tables, "disc_calibration": board.tables["disc_calibration"][1:]}
    with pytest.raises(ConfigError, match=r"channel 0\.0\.0\.0 has no discriminator calibration"):
        asic_settings(replace(board, tables=fewer))


def test_a_compared_replay_takes_its_options_in_any_order() -> None:
    fault, run = ("--fault", "F09=20:channel:0.0.5.20"), ("--compare", "last")
    for words in ((*fault, *run, "night"), ("night", *run, *fault), (*run, "night", "--loop", "--fault=" + fault[1])):
        given, rest = read_arguments(words)
        assert (given.path, given.compare) == ("night", "last")
        assert [word for word in rest if word != "--loop"] == list(fault)


def test_a_compared_replay_knows_every_option_of_the_replay_that_has_a_value() -> None:
    commands = next(a for a in simulators_parser()._actions if a.dest == "command").choices
    with_value = {
        name
        for action in commands["replay"]._actions
        if action.nargs is None
        for name in action.option_strings
        if name.startswith("--")
    }
    assert with_value - {"--compare", "--state-dir"} == set(PASSED_ON)
