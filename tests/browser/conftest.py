"""One Chromium and one daemon for all browser tests: stored runs, supplies, a board that never answers."""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright
from tests.conftest import _children, _descriptors, _leaks
from tests.contract.interlocked_bench import Supplies, write_config
from tests.unit.run_documents import stored

from petqc.recorded import analyse_file
from petqc_drivers.petsys import udp_link
from petqc_simulators.control import serving
from petqc_simulators.faults import Fault
from petqc_simulators.live_faults import DetectorFaults, LiveFaults
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqc_simulators.recording import write_recording
from petqcd import clock
from petqcd.app import Daemon
from petqcd.config import load_config
from petqcd.security.access import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from petqc.results import Run

WORDS = "correct horse battery"
BOARD_BIAS = "[device.bias]\nv_min = 0\nv_max = 50\nmax_step_v = 1\nslew_v_per_s = 10\n"
RUNS = 6
EXPECT_MS = 20_000
"""A machine that has much else to do may take its time; nothing here is about speed."""
START_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Console:
    """A daemon with its console, and the simulated supplies around it."""

    http: str
    daemon: Daemon
    supplies: Supplies
    loop: asyncio.AbstractEventLoop


def stored_runs(recordings: list[dict[str, Any]]) -> list[Run]:
    """One measurement, told as one on each of the last days; the newest, another one, a moment ago."""
    healthy, faulty = (
        analyse_file(r["recording"], config=r["config"], kind="source", scanner="bench", simulated=True)
        for r in recordings
    )
    found = []
    for n in range(RUNS):
        measured = healthy if n < RUNS - 1 else faulty
        at_s = clock.unix_s() - timedelta(days=RUNS - 1 - n).total_seconds() - 60
        checks = [
            replace(c, value=c.value * (1 + 0.004 * n)) if c.id == "ctr_fit" and c.value is not None else c
            for c in measured.checks
        ]
        found.append(
            replace(
                measured,
                run_id=f"run-{n}",
                started_at=clock.utc_text(at_s),
                finished_at=clock.utc_text(at_s + 30),
                checks=checks,
                calibration_ids={"energy": "a" if n < RUNS // 2 else "b"},
            )
        )
    return found


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind_by_all() -> Iterator[None]:
    """The guard of every test, around all of these together: daemon and supplies live in this process meanwhile."""
    before = {t.ident for t in threading.enumerate() if t.ident is not None}, _descriptors(), _children()
    yield
    deadline_s = time.monotonic() + EXPECT_MS / 1000
    while (left := _leaks(*before)) and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.02)
    assert left == []


def amounts() -> Counter[str]:
    """How many threads, descriptors and processes there are of each kind: one may be made anew, not one more."""
    found = Counter(f"thread {re.sub(r'[0-9]+', '#', thread.name)}" for thread in threading.enumerate())
    found.update(f"descriptor {target.partition(':[')[0]}" for target in _descriptors().values())
    found["processes"] = len(_children())
    found.pop("thread asyncio_#", None)  # Playwright writes pictures in them
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(console: Console, browser: Browser) -> Iterator[None]:
    """Fail the test that leaves something, around daemon and browser, which are of all."""
    before = amounts()
    yield
    deadline_s = time.monotonic() + EXPECT_MS / 1000
    while (more := amounts() - before) and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.02)
    assert not more


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    stack = ExitStack()
    recording = write_recording(folder / "r", "bench", 1, 0.5, truth_seconds=0)
    faulty = write_recording(folder / "f", "bench", 1, 0.5, faults=["F12=3"], truth_seconds=0)
    patience = stack.enter_context(pytest.MonkeyPatch.context())
    patience.setattr(udp_link, "HANDSHAKE_TIMEOUT_S", EXPECT_MS / 1000)  # a run is there until somebody ends it
    runs = stored_runs([recording, faulty])
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    supplies = Supplies()
    path = write_config(folder, supplies.serve(stack))
    board = f'"udp://127.0.0.1:{silent.getsockname()[1]}"'
    configuration = f'"{recording["config"]}"'
    text = path.read_text().replace('"udp://127.0.0.1:9"', board).replace('"config.ini"', configuration)
    # What answers late must not be taken for lost: a link that is made anew is a thread that no test began.
    text = text.replace("reply_timeout_s = 0.5\n", "").replace("poll_s = 0.2", "poll_s = 1\nreply_timeout_s = 5")
    path.write_text(text.replace("simulated = true\n", f"simulated = true\n{BOARD_BIAS}", 1))
    config = load_config(path)
    detector = Detector(load_profile("bench", source="none"), 3, [Fault.parse("F14=300")])
    faults = LiveFaults({"detector": DetectorFaults(detector)}, detector.plan.faults)
    control = stack.enter_context(serving(faults, folder / "control.sock"))
    ready, found = threading.Event(), []

    async def serve() -> None:
        # One thread that is there before the first test: each test answers for the threads that begin in it.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with Daemon(config, folder / "state") as daemon:
            for run in runs:
                await stored(daemon.store, run)
            daemon.device.control.path = control
            for role in Role:
                await daemon.accounts.users.add(f"one-{role}", role, WORDS, by="test")
            while not all(one.answers for one in daemon.instruments):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.02)
            found.append(Console(daemon.http, daemon, supplies, asyncio.get_running_loop()))
            ready.set()
            await daemon.run_until_stopped()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="daemon")
    thread.start()
    try:
        assert ready.wait(START_DEADLINE_S), "the daemon did not start"
        yield found[0]
    finally:
        if ready.is_set():
            found[0].loop.call_soon_threadsafe(found[0].daemon.stop)
        thread.join()
        stack.close()
        silent.close()
    assert supplies.judged() == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is not on PATH: ./petqc test installs it when run as root on Debian"
    expect.set_options(timeout=EXPECT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """A page of its own context, and everything in it that went wrong."""

    def __init__(self, page: Page, http: str) -> None:
        self.page, self.http = page, http
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.http, "data:", "about:")):
            self.problems.append(f"asked for {url}: the console needs nothing from elsewhere")

    def open(self, path: str) -> Page:
        self.page.goto(self.http + path)
        return self.page

    def login(self, role: str) -> Page:
        page = self.open("/login")
        page.get_by_label("User").fill(f"one-{role}")
        page.get_by_label("Password", exact=True).fill(WORDS)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(self.http + "/")
        return page


@pytest.fixture
def visit(browser: Browser, console: Console) -> Iterator[Any]:
    """Makes visitors: `visit(dark=True, width=390)`; at the end none of them may have met a problem."""
    visitors = []

    def make(*, dark: bool = False, width: int = 1280, scripts: bool = True) -> Visitor:
        context = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900},
            java_script_enabled=scripts,
            locale="en-GB",
            timezone_id="UTC",
        )
        context.set_default_timeout(EXPECT_MS)
        visitors.append(Visitor(context.new_page(), console.http))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.page.context.close()
    assert [problem for visitor in visitors for problem in visitor.problems] == []
