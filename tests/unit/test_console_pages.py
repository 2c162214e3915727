"""Pages of the console without a browser: runs with every verdict on every page, and a page that cannot be made."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING

from tests.unit.run_documents import stored, usual_run
from tests.unit.test_calibration_sets import origin, tdc_tables
from tests.unit.test_daemon_web import ask, board_config, daemon
from tests.unit.test_diagnosis import a_dead_asic
from tests.unit.test_report import PEAK, make_run

from petqc.calibrate.sets import create_set
from petqc.formats.petsys_config import load_config
from petqc.limits import Limits, Status
from petqc.results import CheckResult
from petqcd.web.console import run as run_page

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from petqc.results import Run
    from petqcd.app import Daemon

__all__ = ["board_config"]
"""A fixture."""


def runs() -> list[Run]:
    """One run with each verdict, and what comes with it: causes, a suggestion to mask, numbers that are missing."""
    off = CheckResult.measured("photopeak", "scanner", 480.0, "keV", 0.1, 9, PEAK)
    missing = [CheckResult.missing("photopeak", f"asic:0.0.{n}", "keV", 0, PEAK, "no source") for n in range(4)]
    unlimited = CheckResult.measured("ctr_fit", "scanner", 220.0, "ps", 1.0, 9, Limits())
    found = [
        make_run(),
        usual_run(verdict=Status.PASS, checks=[unlimited]),
        a_dead_asic(),
        usual_run(verdict=Status.FAIL, checks=[off, unlimited]),
        usual_run(verdict=Status.INVALID, checks=missing),
        usual_run(verdict=Status.INVALID, sentence="The run was stopped."),
        usual_run(kind="housekeeping", verdict=Status.WARN, checks=[unlimited]),
    ]
    at = "2026-03-{:02}T06:00:00+00:00"
    return [
        dataclasses.replace(run, run_id=f"run-{n}", started_at=at.format(n + 1), finished_at=at.format(n + 1))
        for n, run in enumerate(found)
    ]


def test_a_run_with_any_verdict_is_shown_on_every_page(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            for run in runs():
                await stored(d.store, run)
                for path in (
                    "/", "/runs", f"/runs/{run.run_id}", f"/compare?a=run-0&b={run.run_id}", f"/trends?kind={run.kind}",
                ):  # fmt: skip
                    status, _, body = await asyncio.to_thread(ask, d.http, "GET", path)
                    assert (path, status) == (path, 200)
                    if path.startswith("/runs/"):
                        text = body.decode()
                        assert all(one.next_step in text for one in run.diagnosis)
                        assert ("Needs attention" in text) == any(
                            c.status in {Status.WARN, Status.FAIL, Status.INVALID} for c in run.checks
                        )

    asyncio.run(work())


def test_sets_and_baselines_are_shown_with_what_they_say_and_which_one_is_used(
    tmp_path: Path, board_config: Path
) -> None:
    async def calibrations(d: Daemon) -> str:
        status, _, body = await asyncio.to_thread(ask, d.http, "GET", "/calibrations")
        assert status == 200
        return body.decode()

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            assert "None yet" in await calibrations(d)
            parent = load_config(board_config)
            made = create_set(d.store.sets, "tdc", parent, tdc_tables(parent), origin(parent))
            shown = await calibrations(d)
            assert made.id in shown
            assert made.sentence in shown
            assert f'href="/runs/{made.run_id}"' in shown
            assert "in use</td>" not in shown
            await d.calibrations.accept(made.id, who="ana", reason="after service")
            await stored(d.store, dataclasses.replace(runs()[1], kind="source"))
            await d.baselines.accept("source", run_ids=[], last=1, who="ana", reason="as it was accepted")
            shown = await calibrations(d)
            assert "in use</td>" in shown
            assert "accepted by ana" in shown
            assert "as it was accepted" in shown

    asyncio.run(work())


def test_a_page_that_cannot_be_made_says_what_still_works(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("of a secret")

    monkeypatch.setattr(run_page, "_read", broken)

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            status, headers, body = await asyncio.to_thread(ask, d.http, "GET", "/runs/run-0")
            assert (status, headers["content-type"]) == (500, "text/html; charset=utf-8")
            assert b"says nothing about the scanner" in body
            assert b"petqc off" in body
            assert b"secret" not in body
            assert (await asyncio.to_thread(ask, d.http, "GET", "/"))[0] == 200
            monkeypatch.setattr(d.instruments, "documents_in_turns", broken)
            status, headers, body = await asyncio.to_thread(ask, d.http, "GET", "/api/v1/devices")
            assert (status, headers["content-type"]) == (500, "application/json")
            assert json.loads(body)["code"] == "internal"
            assert b"secret" not in body

    asyncio.run(work())
    assert "ZeroDivisionError" in caplog.text
