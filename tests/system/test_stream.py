"""From a simulated readout to a recording, as a stream: every frame is found again, and the queue has its bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STREAM = Path(__file__).parents[2] / "benchmarks" / "stream.py"


def test_every_frame_of_a_stream_is_recorded_or_counted_as_dropped(tmp_path):
    subprocess.run(
        [
            *(sys.executable, str(STREAM), "--profile", "bench", "--daemon", "--rate", "1e6"),
            *("--minutes", "0.04", "--json", str(tmp_path / "figures.json")),
        ],
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=False,  # it fails where frames were dropped, which is a matter of how busy the machine is
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    answers = figures["answers"]
    del answers["nothing dropped, nothing lost"]
    assert answers
    assert all(answers.values()), figures
    assert figures["frames_received"] > 0
    assert figures["read_back"]["hits"] > 0
    assert figures["simulator"]["blocks_repeated"] > 0
    assert figures["simulator"]["frames_released"] == (
        figures["frames_received"] + figures["counters"].get("frames_rejected_before_start", 0)
    )
    assert figures["most_waiting_mb"] <= 140, "the queue's bound, and what its worker holds"
