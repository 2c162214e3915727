"""A disk that is really full in mid-run: the run becomes a record once there is room, and nothing stored is lost.

As root on a small tmpfs; without that right, a limit on the size of files stands for it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.unit.test_daemon_runs import DEADLINE_S, FakeBoard, bench, world  # noqa: F401 - bench is a fixture

from petqcd.store import patience, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

SIZE = "48m"


@contextmanager
def small_disk(at: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """What fills it, and what makes room again."""
    at.mkdir()
    if (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(at)], capture_output=True, check=False
        ).returncode
    ):
        ballast = at / "ballast"

        def fill() -> None:
            with ballast.open("ab", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    return

        try:
            yield fill, ballast.unlink
        finally:
            subprocess.run(["umount", str(at)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield (
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1])),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_that_fills_the_disk_is_stored_once_there_is_room(
    tmp_path: Path,
    bench: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(patience, "AGAIN_S", 0.1)
    monkeypatch.setattr(writer, "MEND_FIRST_S", 0.1)
    monkeypatch.setattr(writer, "MEND_LATEST_S", 0.2)

    async def work(fill: Callable[[], None], make_room: Callable[[], None]) -> None:
        good, full = FakeBoard(), FakeBoard()
        async with world(tmp_path / "disk", bench, good, full) as w:
            before = await w.run()
            start = full.start

            async def start_and_fill(sink: Callable[..., None]) -> None:
                await start(sink)
                fill()

            full.start = start_and_fill  # type: ignore[method-assign]
            with w.bus.listen() as news:
                run_id = await w.runs.start("source", source="test")
                async with asyncio.timeout(DEADLINE_S):
                    while "waits for the disk" not in caplog.text:  # noqa: ASYNC110 - the log is where it is told
                        await asyncio.sleep(0.02)
                assert full.calls[-1] == "aclose"
                assert "bias_off" in full.calls
                assert w.runs.progress is not None, "a run that is not stored has not ended"
                make_room()
                async with asyncio.timeout(DEADLINE_S):
                    await w.runs.wait()
                told = [event for _ in range(news.qsize()) if (event := news.get_nowait())]
            assert [e.data["run_id"] for e in told if e.name == "finished"] == [run_id]
            assert not [e for e in told if e.name == "lost"]
            document = w.store.document(run_id)
            assert document["verdict"] == "invalid"
            assert any("finalised as truncated" in note for note in document["notes"])
            assert not list((tmp_path / "disk").glob("runs/*/*.partial"))
            account = document["account"]
            assert account["frames_recorded"] + account["frames_dropped"] == account["frames_received"]
            assert w.store.document(before["run_id"]) == before
            after = await w.run()
            assert after["verdict"] == before["verdict"]
            assert [line.run_id for line in w.store.history(9)] == [after["run_id"], run_id, before["run_id"]]

    with small_disk(tmp_path / "disk") as (fill, make_room):
        asyncio.run(work(fill, make_room))
