"""From a recording with three faults to three causes at their addresses; `benchmarks/diagnosis.py` has all faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.limits import Status
from petqc.recorded import analyse_file
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from pathlib import Path


def test_three_faults_in_one_recording_are_named_each_at_its_place(tmp_path: Path) -> None:
    planted = write_recording(tmp_path / "run", "bench", 301, 3.0, faults=["F03", "F12=3", "F01"], truth_seconds=0.05)
    run = analyse_file(planted["recording"], config=planted["config"])
    assert run.verdict is Status.FAIL
    named = {h.cause[:3]: h for h in run.diagnosis[:3]}
    assert {cause: [h.node] for cause, h in named.items()} == {f["id"]: f["nodes"] for f in planted["faults"]}
    assert all(h.evidence and h.next_step for h in named.values())
    first = run.diagnosis[0]
    assert run.sentence.endswith(f"Most likely: {first.cause}, at ASIC {first.node.partition(':')[2]}.")
