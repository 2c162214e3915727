"""Memory of a daemon over many runs with a source, whose board plays a recording: only the daemon is in the process.

`python -m tests.system.played_runs --runs 60`; with `--plain` without what `petqc serve` does about its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.killed import BOARD
from tests.unit.test_daemon_runs import FakeBoard

from petqc.formats.petsys_raw import RawReader
from petqc_simulators.recording import write_recording
from petqcd import process_memory
from petqcd.app import Daemon
from petqcd.config import load_config
from petqcd.process_health import memory_bytes
from petqcd.readout.board import Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CONFIG = f"""\
{BOARD}[qc.source]
seconds = {{seconds}}
settle_s = 0.0
[api]
listen = "127.0.0.1:0"
"""
PAGES = ("/metrics", "/", "/runs", "/trends", "/devices", "/runs/last", "/api/v1/status")
SECONDS = 1.0
MIB = float(1 << 20)


class Player(FakeBoard):
    """A board whose frames are those of a recording."""

    def __init__(self, blocks: list[NDArray[Any]], frames: int) -> None:
        super().__init__()
        self._blocks, self._frames = blocks, frames

    async def start(self, sink: Callable[[NDArray[Any]], None]) -> None:
        """Let them flow."""
        await self._call("start")

        async def flow() -> None:
            for block in self._blocks:
                sink(block)
                await asyncio.sleep(0)
            await asyncio.Event().wait()

        self._flow = asyncio.create_task(flow())

    async def stop(self) -> Received:
        """No more of them."""
        await super().stop()
        return Received(frames=self._frames)


def read_pages(http: str) -> None:
    for page in PAGES:
        with urllib.request.urlopen(http + page, timeout=60) as answer:  # noqa: S310 - the daemon's own
            answer.read()


async def runs(folder: Path, number: int, *, is_plain: bool) -> None:
    """Run after run, with its pages, and a backup after every tenth; memory in MiB on stdout."""
    files = write_recording(folder / "r", "bench", 1, SECONDS, truth_seconds=0)
    with RawReader(folder / "r") as reader:
        blocks = [block.copy() for block in reader.blocks()]
        frames = reader.frames_read
    (folder / "petqc.toml").write_text(
        CONFIG.format(address="udp://127.0.0.1:9", configuration=folder / files["config"], seconds=SECONDS)
    )
    config = load_config(folder / "petqc.toml")

    def make(*_: Any) -> Any:
        return Player(blocks, frames)

    async with Daemon(config, folder / "state", make) as daemon:
        house = process_memory.Housekeeping(lambda: daemon.runs.progress is None, lambda: None)
        keeping = None if is_plain else asyncio.create_task(house.run())
        daemon.runs.ended = house.run_ended
        for n in range(number):
            await daemon.runs.start("source", source="played")
            await daemon.runs.wait()
            await asyncio.to_thread(read_pages, daemon.http)
            if n % 10 == 9:
                await daemon.backups.make()
            await asyncio.sleep(1.0)
            sys.stdout.write(f"{n + 1} runs: {memory_bytes() / MIB:.0f} MiB, {len(gc.get_objects())} objects\n")
            sys.stdout.flush()
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait({keeping})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--plain", action="store_true", help="without what `petqc serve` does about its memory")
    given = parser.parse_args()
    if not given.plain:
        process_memory.prepare()
    with tempfile.TemporaryDirectory(prefix="petqc-played-") as folder:
        asyncio.run(runs(Path(folder), given.runs, is_plain=given.plain))


if __name__ == "__main__":
    main()
