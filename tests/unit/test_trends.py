"""Trends over stored runs: what is judged by what, where the calibration changed, and what people wrote beside it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.unit.run_documents import usual_run
from tests.unit.test_daemon_web import ask, board_config, daemon

from petqc.limits import Limits
from petqc.results import CheckResult, RawFile
from petqcd.errors import NotFoundError
from petqcd.store.annotations import AnnotationKind, annotate, read_annotations
from petqcd.web import run_view, trends

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.results import Run
    from petqcd.app import Daemon

__all__ = ["board_config"]

LIMITS = Limits(fail_high=230.0, warn_high=225.0)


def a_run(number: int, value: float | None, calibration: str, day: int) -> Run:
    at = f"2026-03-{day:02d}T06:00:00+00:00"
    check = (
        CheckResult.missing("ctr_fit", "scanner", "ps", 0, LIMITS, "too few counts")
        if value is None
        else CheckResult.measured("ctr_fit", "scanner", value, "ps", 0.5, 1000, LIMITS)
    )
    run = usual_run(run_id=f"r{number}", kind="source", started_at=at, finished_at=at, checks=[check])
    return replace(run, scanner="bench", calibration_ids={"time_offsets": calibration})


async def store(d: Daemon, run: Run) -> None:
    await d.store.begin_run(
        run.run_id, kind=run.kind, scanner=run.scanner, simulated=True, started_at=run.started_at, config_hash=""
    )
    d.store.folder_of(run.run_id).mkdir(parents=True)
    await d.store.finish_run(run)


def test_a_trend_and_what_stands_beside_it(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            with pytest.raises(NotFoundError, match="no source run gave ctr_fit"):
                trends.trend(d, kind="source", check="ctr_fit", node="scanner")
            for number, (value, calibration) in enumerate([(220.0, "a"), (None, "a"), (221.0, "b"), (226.0, "b")]):
                await store(d, a_run(number, value, calibration, 1 + number))
            said = await annotate(
                d.store, at="2026-03-02T12:00:00+00:00", kind=AnnotationKind.SERVICE, text="a <b>", who="physicist-1"
            )
            assert read_annotations(d.store) == [said]
            found = trends.trend(d, kind="source", check="ctr_fit", node="scanner")
            # A run without the number is no point, and no zero.
            assert [(p["run_id"], p["value"], p["status"]) for p in found["points"]] == [
                ("r0", 220.0, "pass"),
                ("r2", 221.0, "pass"),
                ("r3", 226.0, "warn"),
            ]
            assert [p["calibration"] for p in found["points"]] == [0, 1, 1]
            assert (found["unit"], found["limits"]["fail_high"], found["accepted"]) == ("ps", 230.0, None)
            assert [a["text"] for a in found["annotations"]] == ["a <b>"]
            assert trends.quantity_documents(d.store, "source") == [
                {"check": "ctr_fit", "node": "scanner", "unit": "ps", "runs": 3}
            ]
            assert trends.quantities(d.store, "dark") == []
            # A stored run without files still has its document; there is no spectrum in it to be shown.
            run = run_view.load(d.store, "r0")
            assert (run.run_id, run_view.spectra(run)) == ("r0", [])
            with pytest.raises(NotFoundError, match="no spectrum energy of scanner"):
                run_view.spectrum(run, "energy", "scanner")

    asyncio.run(work())


def test_imported_history_of_another_scanner_trends_in_order_and_in_one_unit(
    tmp_path: Path, board_config: Path
) -> None:
    def one(day: int, value: float, unit: str, scanner: str) -> Run:
        at = f"2025-03-{day:02d}T06:00:00+00:00"
        check = CheckResult.measured("siemens_randoms", "scanner", value, unit, 0.0, 0, Limits(fail_high=115.0))
        run = usual_run(
            run_id=f"{scanner}-{day}", kind="siemens-daily-qc", started_at=at, finished_at=at, checks=[check]
        )
        return replace(run, scanner=scanner, simulated=False, raw_files=[RawFile(f"{scanner}{day}.xml", "0" * 64)])

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            for run in (one(3, 101.0, "%", "B"), one(1, 99.0, "%", "B"), one(2, 1.0, "1", "B"), one(1, 90.0, "%", "A")):
                await d.store.import_run(run)
            found = trends.trend(d, kind="siemens-daily-qc", check="siemens_randoms", node="scanner")
            assert (found["scanner"], found["simulated"], found["unit"]) == ("B", False, "%")
            assert [p["value"] for p in found["points"]] == [99.0, 101.0]
            assert found["in_other_units"] == 1
            asked = {"kind": "siemens-daily-qc", "check": "siemens_randoms", "node": "scanner"}
            assert [p["value"] for p in trends.trend(d, scanner="A", **asked)["points"]] == [90.0]
            for path, told in (("/trends?kind=siemens-daily-qc", b"<option selected>B</option>"),
                               ("/trends?kind=siemens-daily-qc", b"<option selected>scanner</option>"),
                               ("/runs", b"<option>siemens-daily-qc</option>")):  # fmt: skip
                status, _, page = await asyncio.to_thread(ask, d.http, "GET", path)
                assert status == 200
                assert told in page

    asyncio.run(work())
