"""Shared by all tests: where real data is, and a guard against whatever a test leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from petqcd.cli import ONE_THREAD

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
"""As the command does it, and as early: what is computed here is compared with its results to the last digit."""

ROOT = Path(__file__).resolve().parent.parent


def _shared_data() -> Path | None:
    given = os.environ.get("PETQC_SHARED_DATA")
    for folder in (Path(given) if given else None, ROOT.parent / "shared" / "data"):
        if folder is not None and folder.is_dir():
            return folder
    return None


LONG = ("system", "contract")
"""Folders whose tests wait for simulators and daemons: begun first, so that none of them is the last one left."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; files are handed out whole, so that what a file prepares is prepared once."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.parent.name not in LONG, item.path not in slow))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; without it these tests have nothing to read."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("real recordings are not on this machine: set PETQC_SHARED_DATA to their folder")
    return folder


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own descriptor is gone by now
            continue
    return found


def _children() -> set[int]:
    me = os.getpid()
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[1]) == me and fields[0] != "Z":
            found.add(int(entry.name))
    return found


# Opened once per process by libraries and kept on purpose; not ours to close.
_KEPT = ("/dev/null", "/dev/urandom", ".so")


def _leaks(threads: set[int], descriptors: dict[int, str], children: set[int]) -> list[str]:
    left = [
        f"thread {t.name!r}"
        for t in threading.enumerate()
        if t.ident not in threads and t.is_alive() and not t.name.startswith("pytest_timeout")
    ]
    left += [
        f"file descriptor {fd} -> {target}"
        for fd, target in _descriptors().items()
        if descriptors.get(fd) != target and not target.endswith(_KEPT)
    ]
    left += [f"process {pid}" for pid in _children() - children]
    return left


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a task, thread, file descriptor or child process behind."""
    threads = {t.ident for t in threading.enumerate() if t.ident is not None}
    descriptors, children = _descriptors(), _children()
    yield
    deadline = time.monotonic() + 2.0
    left = _leaks(threads, descriptors, children)
    while left and time.monotonic() < deadline:  # a thread that was told to stop may need a moment
        gc.collect()
        time.sleep(0.02)
        left = _leaks(threads, descriptors, children)
    if left:
        pytest.fail("left behind: " + "; ".join(left))


@pytest.fixture(autouse=True)
def no_task_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test whose event loop ended with tasks still running: asyncio.run would hide them by cancelling."""
    left: list[str] = []
    original = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def noting(loop: asyncio.AbstractEventLoop) -> None:
        left.extend(repr(task) for task in asyncio.all_tasks(loop) if not task.done())
        original(loop)

    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", noting)
    yield
    if left:
        pytest.fail("tasks left running: " + "; ".join(left))
