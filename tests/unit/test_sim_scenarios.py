"""Scenarios: files of data that say what breaks when; ramps, rates, days, and one in another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from petqc_simulators import control
from petqc_simulators.days import Days
from petqc_simulators.faults import Fault
from petqc_simulators.live_faults import DetectorFaults, LiveFaults
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.scenario import load_scenario, scenario_names
from petqcd.config import SimulatorConfig

if TYPE_CHECKING:
    from pathlib import Path

BENCH = load_profile("bench", source="none")


@pytest.mark.parametrize("name", scenario_names())
def test_each_scenario_that_comes_along_can_be_played(name: str) -> None:
    found = load_scenario(name)
    assert found.title
    assert found.story
    profile = load_profile(found.profile or "bench", source="none")
    seed = found.seed or 1
    of_detector = [fault for fault in found.faults if fault.kind.family == "detector"]
    days = [one.fault for one in found.of_days]
    assert len(Detector(profile, seed, [*of_detector, *days]).plan.faults) == len(of_detector) + len(days)
    # What a command line and petqc.toml can say is the same.
    texts = [str(fault) for fault in found.faults]
    assert [Fault.parse(text) for text in texts] == list(found.faults)
    SimulatorConfig(faults=tuple(texts), scenario=name)


def test_a_ramp_grows_from_nothing_to_its_size() -> None:
    ramp = 10 * BLOCK_S
    detector = Detector(BENCH, 1, [Fault.parse(f"F06=8:module:0.0.1@0~{ramp:.6f}")])
    warm = []
    for _ in range(14):
        detector.advance()
        warm.append(float(detector.effects.warmer_k[1]))
    assert warm[0] == 0.0
    assert warm[5] == pytest.approx(4.0, abs=0.01)
    assert warm == sorted(warm)
    assert warm[-1] == 8.0
    with pytest.raises(ProfileError, match="no ramp"):
        Fault.parse("F21~5")


def test_included_scenarios_are_there_and_the_seed_repeats_the_times(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('seed = 4\n[[fault]]\nkind = "L01"\nevery_s = 5\nlasts_s = 1\nwithin_s = 60\n')
    (tmp_path / "b.toml").write_text('include = ["a.toml", "cooling-failure"]\n[[fault]]\nkind = "F14"\nsize = 50\n')
    alone, both = load_scenario(str(tmp_path / "a.toml")), load_scenario(str(tmp_path / "b.toml"))
    assert 4 < len(alone.faults) < 25
    assert both.faults[: len(alone.faults)] == alone.faults
    assert [fault.kind.id for fault in both.faults[len(alone.faults) :]] == ["F06", "F14"]
    assert load_scenario(str(tmp_path / "a.toml")) == alone
    assert load_scenario(str(tmp_path / "a.toml"), 5).faults != alone.faults
    times = [(fault.onset_s, fault.end_s) for fault in alone.faults]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("titel = 'x'", "titel: unknown key"),
        ("[[fault]]\nkind = 'F99'", "kind: 'F99' is none of"),
        ("[[fault]]\nkind = 'F01'\nsize = -1", "no number of 0 or more"),
        ("[[fault]]\nkind = 'F21'\nramp_s = 3", "has no ramp"),
        ("[[fault]]\nkind = 'F03'\nat_s = 3\nuntil_s = 2", "end after it begins"),
        ("[[fault]]\nkind = 'F03'\nat_day = 3", "needs days_per_run"),
        ("days_per_run = 1\n[[fault]]\nkind = 'L01'\nat_day = 3", "faults of the detector"),
        ("[[fault]]\nkind = 'L01'\nevery_s = 3", "every_s, lasts_s and within_s"),
        ("[[fault]]\nkind = 'L01'\nevery_s = 0.001\nlasts_s = 0.001\nwithin_s = 60", "more than 200"),
        ("days_per_run = 1\ndays = 5000", "more than 1000 runs"),
        ("include = ['odd.toml']", "include each other"),
        ("include = ['nowhere']", "no scenario 'nowhere'"),
        ("[[fault]", "odd.toml"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=why):
        load_scenario(str(path))


def test_days_pass_between_runs_and_the_fault_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "years.toml"
    path.write_text(
        'days_per_run = 100\ndays = 300\n[[fault]]\nkind = "F03"\nsize = 300\nramp_days = 300\nuntil_day = 400\n'
        '[[fault]]\nkind = "F08"\nsize = 100\nat_day = 200\n'
    )
    scenario = load_scenario(str(path))
    assert scenario.runs == 4
    detector = Detector(BENCH, 1)
    live = LiveFaults({"detector": DetectorFaults(detector)})
    days = Days(live, scenario.of_days)
    seen = []
    for day in (0, 100, 200, 300, 400):
        answer = control.answer(live, f'{{"do": "day", "day": {day}}}'.encode(), days)
        assert answer["ok"], answer
        detector.restart()
        shift = detector.effects.bias_shift_v
        seen.append((int((shift != 0).sum()), round(float(shift.min()), 3), float(detector.effects.dark[0])))
        places = [one["nodes"] for one in answer["faults"] if one["id"] == "F03"]
        assert len(places) == (0 if day in (0, 400) else 1)
    assert seen == [(0, 0.0, 1.0), (1, -0.1, 1.0), (1, -0.2, 2.0), (1, -0.3, 2.0), (0, 0.0, 2.0)]
    with pytest.raises(ProfileError, match="time goes on only"):
        days.begin(3.0)
    assert control.answer(live, b'{"do": "day", "day": 1}')["ok"] is False
