"""What the service manager is told, and the log that the journal gets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from petqcd import journal, notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def said(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_without_a_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert notify.tell("READY=1") is False
    assert notify.watchdog_s() is None


def test_a_manager_that_is_gone_harms_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    assert notify.tell("READY=1") is False
    assert "was not told READY=1" in caplog.text


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"petqc-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify.tell("READY=1", "STATUS=serves")
        assert listening.recv(100) == b"READY=1\nSTATUS=serves"


@pytest.mark.parametrize(
    ("asked", "process", "wanted"),
    [
        ("30000000", "", 30.0),
        ("30000000", "this", 30.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("x", "", None),
    ],
)
def test_the_watchdog_is_for_one_process(
    monkeypatch: pytest.MonkeyPatch, asked: str, process: str, wanted: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", asked)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "this" else process)
    assert notify.watchdog_s() == wanted


def test_it_is_fed_while_all_is_well_and_starves_when_something_is_not(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    why = ""

    async def life() -> tuple[list[str], list[str], list[str]]:
        nonlocal why
        async with notify.serving("serves", lambda: why):
            while len(well := well_so_far) < 3:
                await asyncio.sleep(0.01)
                well_so_far.extend(said(manager))
            why = "the scheduler ended by itself"
            said(manager)
            await asyncio.sleep(0.1)
            starved = said(manager)
        return well, starved, said(manager)

    well_so_far: list[str] = []
    well, starved, end = asyncio.run(life())
    assert well[0] == "READY=1\nSTATUS=serves"
    assert set(well[1:]) == {"WATCHDOG=1"}
    assert starved == []
    assert end == ["STOPPING=1\nSTATUS=stopping: bias goes off first"]
    assert "no sign of life to the service manager: the scheduler ended by itself" in caplog.text


def test_a_loop_that_is_late_is_not_fed(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setattr(notify, "MOST_LAG_S", -1.0)

    async def life() -> None:
        async with notify.serving("serves", str):
            await asyncio.sleep(0.1)

    asyncio.run(life())
    assert [line.split("\n")[0] for line in said(manager)] == ["READY=1", "STOPPING=1"]


def test_every_line_for_the_journal_has_its_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = journal.JournalFormatter("%(name)s: %(message)s")
    record = logging.LogRecord("petqcd.runs", logging.WARNING, "", 0, "one\ntwo", (), None)
    assert formatter.format(record) == "<4>petqcd.runs: one\n<4>two"
    record.levelno = logging.DEBUG
    assert formatter.format(record).startswith("<7>")
    with (tmp_path / "log").open("w") as out:
        what = os.fstat(out.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{what.st_dev}:{what.st_ino}")
        assert journal.goes_to_journal(out.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{what.st_dev}:{what.st_ino + 1}")
        assert not journal.goes_to_journal(out.fileno())
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not journal.goes_to_journal(out.fileno())
