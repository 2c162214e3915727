"""A recording to coincidences and histograms: on one core and on two, and against the readout maker's own converter.

The maker's `convert_raw_to_coincidence` is theirs: build it from its public sources and give its path.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from figures import Figure
from hot_path import full

from petqc.calibration import CalibrationSet
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_frames import HEADER_BYTES, RawHeader
from petqc.formats.petsys_raw import RawReader
from petqc.processing import ProcessingSettings
from petqc.recorded import Asked, raw_frames
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from figures import Size

LEAST_TIMES = {"charge": 8.0, "tot": 5.0}
CHARGE_ONLY = ("qdc_calibration_table", "energy_kev_table", "energy_window_kev")


class Recorded(NamedTuple):
    """A recording and what it means."""

    raw: Path
    config: Path


def in_charge(folder: Path, seconds: float) -> Recorded:
    """Of the bench; without a manifest, whose checksums the maker's converter does not look at."""
    written = write_recording(folder / "run", "bench", 1, seconds, truth_seconds=0)
    (folder / "run.manifest.jsonl").unlink()
    return Recorded(folder / "run.rawf", folder / written["config"])


def as_tot(charge: Recorded, folder: Path) -> Recorded:
    """The same words under a header that says ToT, without the tables that only charge needs."""
    folder.mkdir()
    data = charge.raw.read_bytes()
    header = replace(RawHeader.from_bytes(data), all_charge=False)
    (folder / "run.rawf").write_bytes(header.to_bytes() + data[HEADER_BYTES:])
    (folder / "run.idxf").write_bytes(charge.raw.with_suffix(".idxf").read_bytes())
    for path in charge.config.parent.iterdir():
        text = path.read_text()
        if path == charge.config:
            text = "\n".join(line for line in text.splitlines() if not line.startswith(CHARGE_ONLY)) + "\n"
        if path.name == "acquisition_mode.tsv":
            text = text.replace("qdc", "tot")
        (folder / path.name).write_text(text)
    return Recorded(folder / "run.rawf", folder / charge.config.name)


def pass_of(recorded: Recorded) -> Callable[[], int]:
    """Reading, events, both windows and all histograms on one thread; gives the number of hits."""
    config = load_config(recorded.config)
    calibration, settings = CalibrationSet.from_config(config), ProcessingSettings.from_config(config)

    def work() -> int:
        with RawReader(recorded.raw) as reader:
            return full(calibration, settings, reader.blocks()).account.hits

    return work


def cpu_of_children_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(size: Size) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        charge = in_charge(folder, size.seconds)
        yield _two_cores(charge, size)
        for mode, recorded in (("charge", charge), ("tot", as_tot(charge, folder / "tot"))):
            yield _maker(mode, recorded, size)


def _two_cores(recorded: Recorded, size: Size) -> Figure:
    every = os.sched_getaffinity(0)
    walls: dict[int, list[float]] = {1: [], 2: []}
    try:
        for turn in range(size.repeats + 1):
            for cores, wall in walls.items():
                os.sched_setaffinity(0, sorted(every)[:cores])
                began = time.perf_counter()
                raw_frames([recorded.raw], Asked(recorded.config))
                if turn:
                    wall.append(time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, every)
    one_s, two_s = (statistics.median(wall) for wall in walls.values())
    how = f"wall time from configuration and recording to all histograms: {one_s:.2f} s and {two_s:.2f} s"
    return Figure("two-cores", "a recording on two cores against one", one_s / two_s if len(every) > 1 else None,
                  "×", how, 1.7)  # fmt: skip


def _maker(mode: str, recorded: Recorded, size: Size) -> Figure:
    what, goal = f"events and histograms, {mode}, × maker's converter", LEAST_TIMES[mode]
    if size.maker is None:
        how = "not compared: give the maker's convert_raw_to_coincidence with --maker"
        return Figure(f"maker-{mode}", what, None, "×", how, goal)
    work = pass_of(recorded)
    hits = work()
    out = recorded.raw.with_name("maker")
    command = [str(size.maker), "--config", str(recorded.config), "-i", str(recorded.raw.with_suffix("")),
               "-o", str(out), "--writeBinary"]  # fmt: skip
    ours, theirs = [], []
    for _ in range(size.repeats):
        theirs.append(cpu_of_children_s(command))
        began = time.process_time()
        work()
        ours.append(time.process_time() - began)
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    how = f"in turn, processor time: {1e9 * theirs_s / hits:.0f} and {1e9 * ours_s / hits:.0f} ns a hit"
    return Figure(f"maker-{mode}", what, theirs_s / ours_s, "×", how, goal)
