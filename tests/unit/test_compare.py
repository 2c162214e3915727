"""Two runs side by side: significance, what is only in one of them, and what else differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.run_documents import usual_run

from petqc.compare import compare
from petqc.limits import Limits
from petqc.past import since_run
from petqc.results import CheckResult, EnvironmentReading, Hypothesis, RawFile, Run
from petqcd.cli.show import print_comparison

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(warn_low=500.0, warn_high=520.0)


def a_run(peak: float | None, *, name: str = "a", calibration: str = "x", resolution: float = 10.0) -> Run:
    measured = CheckResult.measured
    return usual_run(
        run_id=name,
        software={"petqc": "1"},
        config_hash="c",
        calibration_ids={"tdc": calibration},
        checks=[
            CheckResult.missing("photopeak", "scanner", "keV", 3, LIMITS, "too few counts")
            if peak is None
            else measured("photopeak", "scanner", peak, "keV", 0.3, 900, LIMITS),
            measured("energy_resolution", "scanner", resolution, "%", 0.1, 900, Limits()),
            measured("photopeak.step", "scanner", 9.0, "σ", 0.0, 30, Limits(warn_high=4.0)),
        ],
    )


def test_a_change_is_told_over_the_errors_of_both() -> None:
    found = compare(a_run(511.0), a_run(513.0, name="b", resolution=10.1)).differences
    assert [d.check for d in found] == ["photopeak", "energy_resolution"]
    assert found[0].change == pytest.approx(2.0)
    assert found[0].sigmas == pytest.approx(2.0 / (0.3 * 2**0.5))
    assert [d.has_moved for d in found] == [True, False]


def test_other_statuses_and_missing_numbers_come_first_and_are_never_a_small_change() -> None:
    lost = compare(a_run(511.0), a_run(None, resolution=12.0)).differences
    assert (lost[0].check, lost[0].b, lost[0].change, lost[0].has_moved) == ("photopeak", None, None, True)
    warned = compare(a_run(511.0), a_run(521.0, resolution=20.0)).differences[0]
    assert (warned.check, warned.status_b) == ("photopeak", "warn")


def test_what_else_differs_is_named() -> None:
    assert compare(a_run(511.0), a_run(511.0, calibration="y")).remarks == ["calibration tdc: x and y"]
    assert compare(a_run(511.0), a_run(511.0)).remarks == []


def test_the_table_has_what_moved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    a, b = a_run(511.0), a_run(513.0, name="b")
    print_comparison(a, b, compare(a, b))
    out = capsys.readouterr().out
    assert "1 of 2 values moved" in out
    assert "4.7" in out
    assert "Energy resolution" not in out


def test_runs_are_compared_from_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from petqcd.cli.history import compare as command

    for name, peak in (("one", 511.0), ("two", 515.0)):
        (tmp_path / name).mkdir()
        a_run(peak, name=name).save(tmp_path / name)
    command(str(tmp_path / "one"), str(tmp_path / "two"), state_dir=tmp_path, as_json=True)
    assert '"has_moved": true' in capsys.readouterr().out


def test_a_reanalysis_is_told_with_what_is_the_same() -> None:
    again = a_run(511.0, name="a-again")
    again.reanalysis_of = a_run(511.0).run_id
    found = compare(a_run(511.0), again)
    assert found.n_same == len(found.differences)
    assert found.remarks == ["the second is a re-analysis of the first"]
    again.raw_files = [RawFile("other.rawf", "00")]
    assert "they are of different recordings" in compare(a_run(511.0), again).remarks
    assert compare(again, a_run(511.0)).remarks[0] == "the first is a re-analysis of run a"


def test_readings_and_causes_that_differ_are_told() -> None:
    a, b = a_run(511.0), a_run(511.0, name="b")
    for run, warm in ((a, 21.04), (b, 25.0)):
        run.environment = [EnvironmentReading("temperature_asic", "asic:0.0.0", warm, "degC", True, "good", 1.0)]
    b.environment.append(EnvironmentReading("humidity", "scanner", None, "%", True, "absent", 1.0, "no sensor"))
    b.diagnosis = [Hypothesis("warm module", "module:0.0.0", 1.0, (), "cool it")]
    assert compare(a, b).remarks == [
        "likeliest cause: none and warm module at module:0.0.0",
        "readings: 1 of 1 differ, 1 are in one of them only (temperature asic at asic:0.0.0 21.04 degC and 25 degC)",
    ]


def test_a_channel_more_that_is_dead_has_moved_and_has_no_noise() -> None:
    def dead(count: float, error: float) -> Run:
        check = CheckResult.measured("dead_channels", "scanner", count, "channels", error, 9, Limits(warn_high=2.0))
        return usual_run(checks=[check])

    for error in (0.0, 2e-233):
        (found,) = compare(dead(0.0, error), dead(1.0, error)).differences
        assert (found.sigmas, found.has_moved) == (None, True)
        assert not compare(dead(1.0, error), dead(1.0, error)).differences[0].has_moved
        changes = since_run(dead(1.0, error), dead(0.0, error), "the run before")
        assert [(c.check, c.sigmas) for c in changes.found] == [("dead_channels", None)]
