"""How many hits the simulator makes in a second of one core."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure

from petqc_drivers.petsys.frames import frame_event_counts, scan_frames
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from figures import Size


def figures(size: Size) -> Iterator[Figure]:
    detector = Detector(load_profile("bench"), 1, stream_name="speed")
    detector.settle()
    detector.advance()
    blocks, began = [], time.thread_time()
    until = time.perf_counter() + (0.2 if size.quick else 5.0)
    while time.perf_counter() < until:
        blocks.append(detector.advance().words)
    took_s = time.thread_time() - began
    hits = sum(int(frame_event_counts(words, scan_frames(words).starts).sum()) for words in blocks)
    rate = hits / took_s / 1e6
    yield Figure(
        "simulate-bench",
        "simulated bench",
        rate,
        "Mhit/s a core",
        "every photon followed, at the bench's own rate",
        5.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_recording(Path(folder) / "warm", "signa", 1, BLOCK_S, source="na22", truth_seconds=0)
        began = time.process_time()
        wrote = write_recording(
            Path(folder) / "run", "signa", 1, BLOCK_S if size.quick else 0.3, source="na22", truth_seconds=0
        )
        rate = wrote["hits"] / (time.process_time() - began) / 1e6
    yield Figure(
        "simulate-signa",
        "a ring of 20 160 crystals into a recording",
        rate,
        "Mhit/s a core",
        "processor time, set-up included",
        2.0,
    )
