"""The detection matrix: what it makes of results, whatever their order."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("detection_matrix")


def line(fault: str, *, seen: bool = True, node: bool = True, cause: bool = True, seed: int = 1) -> dict[str, Any]:
    right = {"node_right": node, "cause_right": cause} if fault != "healthy" else {}
    return {
        "profile": "bench", "seconds": 15.0, "seed": seed, "fault": fault, "commit": "abc", "detected": seen, **right,
    }  # fmt: skip


def test_sizes_are_told_apart_and_what_is_missed_is_said(matrix: Any) -> None:
    lines = [
        line("F03=50", seen=False, node=False, cause=False), line("F03=50", seed=2),
        line("F03"), line("F03", cause=False, seed=2), line("F03=200"), line("F03=200", seed=2),
        line("healthy", seen=False), line("healthy", seed=2),
    ]  # fmt: skip
    found, healthy = matrix.cells(lines)
    assert healthy == {"bench": [2, 1]}
    half, typical = found["bench", "F03", "half"], found["bench", "F03", "typical"]
    assert (half.runs, half.noticed, half.node) == (2, 1, 1)
    assert (typical.noticed, typical.node, typical.cause) == (2, 2, 1)
    assert matrix.seen_from(found, "bench", "F03") == "typical on; half missed in 1 of 2"
    assert (half.sign, typical.sign, found["bench", "F03", "twice"].sign) == ("○", "◐", "●")
    assert (half.delay(), typical.delay(), matrix.Cell(4, 0).delay()) == ("2", "1", "–")
    text = matrix.page(lines, "matrix.svg")
    assert "| F03 bias drift of one output | fall in mV: 100 | 1/2 · 2/2 · 2/2 | 1/2 · 2/2 · 2/2 |" in text
    assert "commit abc.\nFalse alarms of healthy runs: 1 of 2: 50 %" in text
    assert "◐ 1/2/2 of 2" in matrix.drawn(lines)
    assert "○ 1/1/1 of 2" in matrix.drawn(lines)


def test_the_right_place_of_what_nobody_noticed_counts_for_nothing(matrix: Any) -> None:
    found, _ = matrix.cells([line("F12", seen=False)])
    assert found["bench", "F12", "typical"].node == 0
    assert matrix.seen_from(found, "bench", "F12") == "not always; typical missed in 1 of 1"


def test_intervals_are_those_that_wilson_gives(matrix: Any) -> None:
    assert matrix.interval(4, 4) == "4 of 4: 100 % (51 to 100)"
    assert matrix.interval(8, 10) == "8 of 10: 80 % (49 to 94)"
    assert matrix.interval(0, 0) == "–"


def test_the_page_names_the_commands_that_make_its_results_again(matrix: Any) -> None:
    lines = [line("F03", seed=7), line("F12", seed=8), line("F03=50", seed=9), line("F03=200", seed=9)]
    begin, end = (
        "python benchmarks/diagnosis.py --profile bench --seconds 15 --seeds ",
        " --results benchmarks/results/detection.jsonl",
    )
    assert matrix.commands(lines) == [
        f"{begin}9 --faults F03 --sizes 0.5 2{end}",
        f"{begin}7-8 --faults F03 F12 --sizes 1{end}",
    ]


def test_sizes_that_do_not_exist_are_not_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    diagnosis = importlib.import_module("diagnosis")
    assert diagnosis.at_size("F01", 0.5) is None
    assert diagnosis.at_size("F03", 0.5) == "F03=50"
    assert diagnosis.at_size("F22", 0.5) == "F22=1.5"
    assert diagnosis.at_size("F03", 1.0) == "F03"
    assert diagnosis.at_size("F03", 1e3) is None


def test_a_campaign_does_again_nothing_that_its_results_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    diagnosis = importlib.import_module("diagnosis")
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line(fault, seed=7)) + "\n" for fault in ("healthy", "F03=50")))
    before = results.read_bytes()
    diagnosis.campaign("bench", 15.0, [7], ["F03=50"], results)
    assert results.read_bytes() == before
    assert len(diagnosis.read(results)) == 2


def test_the_page_and_its_picture_are_those_of_the_results_beside_them(matrix: Any) -> None:
    lines = matrix.read(BENCHMARKS / "results" / "detection.jsonl")
    kept = BENCHMARKS.parent / "docs" / "reference" / "detection-matrix.md"
    assert matrix.page(lines, "detection-matrix.svg") == kept.read_text("utf-8")
    assert matrix.drawn(lines) == kept.with_suffix(".svg").read_text("utf-8")
