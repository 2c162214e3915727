"""How fast a stream of hits goes from a simulated readout to the disk without a frame lost.

    python benchmarks/stream.py [--profile ring-small] [--rate 5e6] [--minutes 10] [--full] [--json OUT.json]

Serves a simulated scanner as `petqc simulate` does (a single board over UDP, several behind a simulated daemon), in a
process of its own on the same machine; connects, configures it and switches its bias on as a run of petqc does; and
records in petqc's own way: driver, bounded queue, recorder. At the end the recording is read back. What is asked for:
every frame received is written or counted as dropped, ids without a gap, memory that does not grow.

The source's activity is chosen for the rate. Photons cannot be followed at 5 Mhit/s on two cores, so the simulator
follows them for one second and then repeats its frames with new times (`[repetition]` in the profile); --full simulates
everything, if need be slower than real time, which shows as slipped time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from served import cpu_s, use_of

from petqc.calibration import CalibrationSet
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_raw import RawHeader, RawReader, RawWriter
from petqc.histograms import QcHistograms
from petqc.processing import ProcessingSettings, Processor
from petqc_drivers.petsys.frames import FRAMES_PER_S, frame_event_counts, frame_ids, scan_frames
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqcd.acquisition import Pipeline
from petqcd.interlocks.bias_limits import BiasLimits
from petqcd.measurement import count_frames
from petqcd.readout.petsys_board import PetsysBoard
from petqcd.readout.supervisor import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_simulators.profile import Profile
    from petqcd.readout.board import Received

TURN_BLOCKS = 191
"""One second of frames, as many as are repeated."""
LIMITS = {"v_min": 0.0, "v_max": 46.0, "max_step_v": 5.0, "slew_v_per_s": 50.0}
QUEUE_BYTES = 128 << 20
"""As the service's default."""


def activity_for(profile: Profile, rate: float) -> float:
    """Activity in Bq at which a profile gives so many hits per second."""

    def measured(activity: float) -> float:
        detector = Detector(replace(profile, source=replace(profile.source, activity_bq=activity)), 1)
        detector.settle()
        detector.advance()
        words = [detector.advance() for _ in range(16)]
        return sum(b.words.size - 2 * (b.starts.size - 1) for b in words) / (16 * BLOCK_S)

    low, high = 0.0, profile.source.activity_bq
    at_low, at_high = measured(low), measured(high)
    for _ in range(3):
        low, high, at_low = high, max(high + (rate - at_high) * (high - low) / (at_high - at_low), 0.0), at_high
        if high == low:
            break
        at_high = measured(high)
    return high


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment: wall seconds since the start of the stream, what came so far, memory and CPU time of both sides."""

    wall_s: float
    frames: int
    hits: int
    waiting_mb: float
    simulated_s: float
    slipped_s: float
    own_mb: float
    simulator_mb: float
    own_cpu_s: float
    simulator_cpu_s: float


@dataclass(slots=True)
class Simulator:
    """A simulator process and what it said."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    def state(self) -> dict[str, Any]:
        return json.loads((Path(self.ready["config"]).parents[1] / "state.json").read_text())


@contextlib.asynccontextmanager
async def simulator(profile: Path, listen: str, memory: str) -> AsyncIterator[Simulator]:
    """`petqc simulate`, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "petqc_simulators", "serve", "--profile", str(profile), "--listen", listen),
        *("--shared-memory", memory, "--json", "--status-every", "0", "--until-stdin-closes"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None  # noqa: S101 - it is a pipe; for the type checker
    assert process.stdout is not None  # noqa: S101
    try:
        async with asyncio.timeout(180):
            found = Simulator(process, json.loads(await process.stdout.readline()))
            while not (Path(found.ready["config"]).parents[1] / "state.json").exists():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.1)
        yield found
    finally:
        process.stdin.close()
        await process.wait()


class Recorder:
    """The recording, as the queue's worker thread needs it; optionally every hit is also processed and counted."""

    def __init__(self, prefix: Path, config: PetsysConfig, trigger_id: int | None, *, analyses: bool) -> None:
        self._writer = RawWriter(prefix, RawHeader(all_charge=True, trigger_id=trigger_id), context={"simulated": True})
        self._writer.start_step()
        self._processor: Processor | None = None
        if analyses:
            calibration = CalibrationSet.from_config(config)
            settings = replace(ProcessingSettings.from_config(config), compacted=False)
            self._processor = Processor(calibration, settings, trigger_id=trigger_id)
            self._histograms = QcHistograms.of(calibration, settings)

    @property
    def frames_recorded(self) -> int:
        return self._writer.frames_in

    @property
    def hits(self) -> int:
        return self._writer.events

    def write(self, words: NDArray[np.uint64]) -> None:
        self._writer.write(words)

    def process(self, words: NDArray[np.uint64]) -> None:
        if self._processor is not None:
            self._histograms.add(self._processor.feed(words))

    def close(self) -> None:
        self._writer.close()

    @property
    def frames_lost(self) -> int:
        """Ids between those recorded that never came here, or were dropped on the way."""
        return self._writer.frames_lost


@dataclass(slots=True)
class Outcome:
    """What a stream came to."""

    samples: list[Sample]
    received: Received
    recorded: int
    dropped: int
    missing: int
    hits: int
    state: dict[str, Any]


async def stream(found: Simulator, folder: Path, seconds: float, *, repeats: bool, analyses: bool) -> Outcome:
    """Bring the scanner up, let it stream for so long, switch it off."""
    ready = found.ready
    config = load_config(Path(ready["config"]))
    endpoint = Endpoint(ready["address"], Path(ready["config"]), ready.get("shared_memory"))
    board = PetsysBoard(endpoint, config, BiasLimits.model_validate(LIMITS))
    try:
        identity = await board.connect()
        say(f"{len(identity.split(';'))} units, configuring …")
        await board.configure()
        say("bias on …")
        await board.bias_on()
        await asyncio.sleep(1)  # the state is written twice a second
        before = found.state()["blocks_repeated"]
        async with asyncio.timeout(120):
            while repeats and found.state()["blocks_repeated"] == before:
                say("the frames that will be repeated are simulated …")
                await asyncio.sleep(1)
        recorder = Recorder(folder / "stream", config, (await board.time_reference()).trigger_id, analyses=analyses)
        failed: list[BaseException] = []
        pipeline = Pipeline(recorder, recorder.process, count_frames, queue_bytes=QUEUE_BYTES, on_failure=failed.append)
        pipeline.start()
        await board.start(pipeline.sink)
        samples = await watch(found, board, pipeline, recorder, seconds)
        received = await board.stop()
        await asyncio.sleep(1)  # the state is written twice a second
        state = found.state()
        pipeline.finish()
        recorder.close()
        if failed:
            raise failed[0]
        return Outcome(
            samples,
            received,
            recorder.frames_recorded,
            pipeline.counts().frames_dropped,
            recorder.frames_lost,
            recorder.hits,
            state,
        )
    finally:
        with contextlib.suppress(Exception):
            say(f"bias {(await board.bias_off()).value}")
        await board.aclose()


async def watch(
    found: Simulator, board: PetsysBoard, pipeline: Pipeline, recorder: Recorder, seconds: float
) -> list[Sample]:
    """A sample each second until the time is over or the flow fails."""
    pid = found.process.pid
    failing = asyncio.ensure_future(board.wait_failed())
    started = told = time.monotonic()
    before = found.state()
    samples: list[Sample] = []
    try:
        while not failing.done():
            counts, state, now = pipeline.counts(), found.state(), time.monotonic()
            samples.append(
                Sample(
                    wall_s=round(now - started, 3),
                    frames=recorder.frames_recorded,
                    hits=recorder.hits,
                    waiting_mb=round(8e-6 * (counts.words_taken - counts.words_done), 2),
                    simulated_s=round(state["elapsed_s"] - before["elapsed_s"], 3),
                    slipped_s=round(state["slipped_s"] - before["slipped_s"], 4),
                    own_mb=round(use_of(os.getpid()).rss_mb, 1),
                    simulator_mb=round(use_of(pid).rss_mb, 1),
                    own_cpu_s=cpu_s(os.getpid()),
                    simulator_cpu_s=cpu_s(pid),
                )
            )
            if now - told >= 10 or len(samples) == 2:
                told = now
                last = samples[-1]
                say(
                    f"{last.wall_s:6.0f} s  {last.hits / max(last.wall_s, 0.1) / 1e6:5.2f} Mhit/s  "
                    f"waiting {last.waiting_mb:5.1f} MB  slipped {last.slipped_s:6.2f} s  "
                    f"memory {last.own_mb:.0f} + {last.simulator_mb:.0f} MB  dropped {counts.frames_dropped}"
                )
            if now - started >= seconds:
                return samples
            await asyncio.wait({failing}, timeout=min(1.0, seconds - (now - started)))
        failing.result()
        return samples
    finally:
        failing.cancel()
        await asyncio.wait({failing})


def verify(prefix: Path) -> dict[str, Any]:
    """Read a recording back: is its index complete, do frame ids follow each other, how many hits are in it."""
    frames = hits = gaps = 0
    last: int | None = None
    with RawReader(prefix.with_name(prefix.name + ".rawf")) as reader:
        is_complete = reader.state == "complete"
        step = reader.steps[0]
        for words in reader.blocks():
            starts = scan_frames(words).starts
            ids, counts = frame_ids(words, starts), frame_event_counts(words, starts)
            steps_between = np.diff(ids, prepend=ids[0] - 1 if last is None else last)
            # Of a run of empty or lost frames the recording holds the first only, as the vendor's do.
            was_empty = np.concatenate(([True], counts[:-1] == 0))
            gaps += int(np.count_nonzero((steps_between != 1) & ~was_empty))
            frames, hits, last = frames + len(ids), hits + int(counts.sum()), int(ids[-1])
        damages = len(reader.damages)
    return {
        "complete": is_complete,
        "first_frame": step.first_frame,
        "last_frame": step.last_frame,
        "frames": frames,
        "hits": hits,
        "gaps": gaps,
        "damages": damages,
    }


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def memory(of_samples: list[float]) -> dict[str, float]:
    """Least and most in MB, and how much more it is in the last quarter of the time than in the first."""
    quarter = max(len(of_samples) // 4, 1)
    grew = statistics.mean(of_samples[-quarter:]) - statistics.mean(of_samples[:quarter])
    return {"least": min(of_samples), "most": max(of_samples), "grew": round(grew, 2)}


def report(outcome: Outcome, read: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The figures as one document, and the questions with their answers."""
    first, last = outcome.samples[0], outcome.samples[-1]
    wall = last.wall_s - first.wall_s
    settled = [s for s in outcome.samples if s.wall_s >= min(5.0, seconds / 2)]
    received = outcome.received
    accounts = outcome.state.get("daqd", {}).get("acquisitions", [])
    return {
        "wall_s": wall,
        "hits_per_s": (last.hits - first.hits) / wall,
        "frames_per_s": (last.frames - first.frames) / wall,
        "frames_received": received.frames,
        "frames_recorded": outcome.recorded,
        "frames_dropped": outcome.dropped,
        "frames_lost_on_the_way": received.frames_lost,
        "counters": dict(received.counters),
        "simulator": {
            "unsent_datagrams": outcome.state["unsent_datagrams"],
            "blocks_repeated": outcome.state["blocks_repeated"],
            **({k: v for k, v in accounts[-1].items() if k != "crc32"} if accounts else {}),
        },
        "simulated_over_wall": (last.simulated_s - first.simulated_s) / wall,
        "slipped_s": last.slipped_s - first.slipped_s,
        "own_cpu_share": (last.own_cpu_s - first.own_cpu_s) / wall,
        "simulator_cpu_share": (last.simulator_cpu_s - first.simulator_cpu_s) / wall,
        "own_mb": memory([s.own_mb for s in settled]),
        "simulator_mb": memory([s.simulator_mb for s in settled]),
        "most_waiting_mb": max(s.waiting_mb for s in outcome.samples),
        "read_back": read,
        "answers": {
            "received = recorded + dropped": received.frames == outcome.recorded + outcome.dropped,
            "nothing dropped, nothing lost": outcome.dropped == 0 and received.frames_lost == 0,
            "recording complete, every id and every hit in it": read["complete"]
            and read["gaps"] == read["damages"] == 0
            and read["hits"] == outcome.hits
            and read["last_frame"] - read["first_frame"] + 1 == outcome.recorded + outcome.missing,
        },
    }


async def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    profile = load_profile(given.profile)
    activity = activity_for(profile, given.rate)
    say(f"{activity / 1000:.0f} kBq give {given.rate / 1e6:g} Mhit/s")
    toml = folder / "streamed.toml"
    turn = 0 if given.full else TURN_BLOCKS
    toml.write_text(
        f'base = "{given.profile}"\n[source]\nactivity_bq = {activity}\n[repetition]\nblocks = {turn}\n', "utf-8"
    )
    listen = f"unix:{folder / 'd.sock'}" if profile.hardware.clock_trigger or given.daemon else "udp://127.0.0.1:0"
    seconds = 60 * given.minutes
    async with simulator(toml, listen, f"/petqc-stream-{os.getpid()}") as found:
        outcome = await stream(found, given.folder or folder, seconds, repeats=not given.full, analyses=given.analyse)
    say("reading the recording back …")
    figures = report(outcome, verify((given.folder or folder) / "stream"), seconds)
    return {"profile": given.profile, "rate_asked": given.rate, "cores": os.cpu_count(), **figures} | {
        "samples": [asdict(s) for s in outcome.samples]
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--profile", default="ring-small", help="bench goes over UDP, ring-small through the daemon")
    options.add_argument("--rate", type=float, default=5e6, help="hits per second")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--full", action="store_true", help="simulate every photon")
    options.add_argument("--daemon", action="store_true", help="a simulated daemon also in front of a single board")
    options.add_argument("--analyse", action="store_true", help="also process every hit while it streams")
    options.add_argument("--folder", type=Path, help="keep the recording here; else it is removed")
    options.add_argument("--json", type=Path, help="also write the figures here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="petqc-stream-") as made:
        where = given.folder or Path(made)
        needed = (8 * given.rate + 16 * FRAMES_PER_S) * 60 * given.minutes
        if shutil.disk_usage(where).free < 1.2 * needed:
            sys.exit(f"the recording needs {needed / 1e9:.0f} GB in {where}")
        figures = asyncio.run(run(given, Path(made)))
    samples = figures.pop("samples")
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps({**figures, "samples": samples}, indent=1) + "\n")
    sys.exit(0 if all(figures["answers"].values()) else 1)


if __name__ == "__main__":
    main()
