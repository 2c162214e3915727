"""Daily QC reports of Siemens scanners: an equivalent report, its damages, and its way into the history."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import typer
from tests.unit.siemens_report import report
from typer.testing import CliRunner

if TYPE_CHECKING:
    from pathlib import Path

from petqc.errors import BadInputError
from petqc.limits import Status
from petqc.results import CheckResult, Run
from petqc.vendor_reports import imported_run
from petqc.vendor_reports.siemens_daily_qc import ITEMS, read_siemens_daily_qc
from petqcd.cli import exchange
from petqcd.errors import NotFoundError, StoreError
from petqcd.store import Store


def read(folder: Path, text: str) -> Run:
    path = folder / "PETQCReport.xml"
    path.write_text(text)
    return read_siemens_daily_qc(path)


def test_every_item_and_every_block_becomes_a_value_with_the_reports_bounds(tmp_path: Path) -> None:
    run = read(tmp_path, report())
    assert run.kind == "siemens-daily-qc"
    assert run.run_id == "siemens-PETCT7-20240305T062011Z"
    assert run.started_at == "2024-03-05T06:20:11+00:00"
    assert (run.verdict, run.simulated, run.scanner) == (Status.PASS, False, "PETCT7")
    assert {c.id for c in run.checks if c.node == "scanner"} == {item.check for item in ITEMS}
    randoms = run.find("siemens_randoms")
    assert randoms is not None
    assert (randoms.value, randoms.unit, randoms.uncertainty) == (101.4, "%", None)
    assert (randoms.limits.fail_low, randoms.limits.fail_high) == (85.0, 115.0)
    offset = run.find("siemens_time_offset", "block:1.0")
    assert offset is not None
    assert (offset.value, offset.unit, offset.limits.fail_low) == (-0.21, "bin", -0.5)
    assert run.calibration_ids["full_setup"] == "2024-03-01T09:00:00+01:00"
    assert run.raw_files[0].name == "PETQCReport.xml"
    assert run.sentence.startswith("The scanner's own daily QC says 'Passed'")


def test_efficiencies_of_blocks_are_percent_of_their_mean(tmp_path: Path) -> None:
    run = read(tmp_path, report(efficiencies=(0.4, 0.5, 0.5, 0.6)))
    found = [c.value for c in run.checks if c.id == "siemens_block_efficiency" and c.node != "scanner"]
    assert found == pytest.approx([80.0, 100.0, 100.0, 120.0])


def test_the_activity_is_that_of_the_day(tmp_path: Path) -> None:
    run = read(tmp_path, report())
    assert run.account["source_assayed_bq"] == pytest.approx(2.0 * 3.7e7)
    # 271 days after the assay: one half-life of Ge-68 within a thousandth.
    assert run.account["source_bq"] == pytest.approx(3.7e7, rel=2e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"randoms": "118.2"}, "measured randoms"),
        ({"efficiencies": (0.3, 0.5, 0.5, 0.5)}, "block efficiency of block 0.0"),
        ({"system": "Failed"}, "'Failed'"),
        ({"decision": "Failed"}, "measured randoms"),
    ],
)
def test_what_is_outside_or_not_passed_fails_and_is_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    run = read(tmp_path, report(**change))
    assert run.verdict is Status.FAIL
    assert told in run.sentence


def test_items_that_newer_software_leaves_out_are_named(tmp_path: Path) -> None:
    run = read(tmp_path, report(without=("jTAFitX", "kTAFitY", "lTAResidual")))
    assert run.verdict is Status.PASS
    assert "not in this report: time alignment fit x, time alignment fit y, time alignment residual" in run.notes


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[: len(text) // 2], "not well-formed"),
        (lambda text: text.replace("SystemQualityReport", "ServiceReport"), "another kind: <ServiceReport>"),
        (lambda text: text.replace("<aValue>101.4<", "<aValue>many<"), "<cMeasureRandoms>: 'many' is not a number"),
        (lambda text: text.replace("<aValue>101.4<", "<aValue>nan<"), "is not a number"),
        (lambda text: text.replace("+01:00</bScandate>", "</bScandate>"), "has no time zone"),
        (lambda text: text.replace("<dBlock>1</dBlock>", "", 1), "values for"),
        (lambda text: text.replace("<dBlock>1</dBlock>", "<dBlock>0</dBlock>"), "stands there twice"),
        (lambda text: text.replace("<SystemQ", '<!DOCTYPE x [<!ENTITY a "b">]><SystemQ', 1), "document type"),
        (lambda text: text.replace("fDetailedSystemQualityReport", "gDetailed"), "none of the items"),
        (
            lambda text: text.replace("<bMeasure>cps/Bq/cc", "<bMeasure>cps/kBq/cc", 1),
            "bounds in 'cps/Bq/cc' and 'cps/kB",
        ),
        (
            lambda text: text.replace("31.0</aValue><bMeasure>%", "0.31</aValue><bMeasure>1"),
            "value is in '1', its bounds in",
        ),
    ],
)
def test_damaged_reports_are_refused_with_the_file_and_the_place(tmp_path: Path, damage, told: str) -> None:
    with pytest.raises(BadInputError, match=told) as caught:
        read(tmp_path, damage(report()))
    assert str(tmp_path / "PETQCReport.xml") in str(caught.value)


def test_imported_once_and_never_taken_for_the_last_run(tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Store(tmp_path / "state")) as store:
            run = read(tmp_path, report())
            assert await store.import_run(run)
            assert not await store.import_run(run)
            with pytest.raises(StoreError, match="made from other files"):
                await store.import_run(read(tmp_path, report(randoms="101.5")))
            assert store.document(run.run_id)["verdict"] == "pass"
            assert [line.run_id for line in store.history()] == [run.run_id]
            with pytest.raises(NotFoundError):
                store.line("last")

    asyncio.run(main())


def test_only_reports_of_known_kinds_come_in(tmp_path: Path) -> None:
    run = read(tmp_path, report())
    assert imported_run(run.document()).run_id == run.run_id
    run.kind = "daily"
    with pytest.raises(BadInputError, match="runs of kind 'daily' are not imported"):
        imported_run(run.document())
    with pytest.raises(BadInputError, match="not the document of a run"):
        imported_run({"schema": "petqc-run/1"})


def test_a_value_keeps_its_place_in_the_document(tmp_path: Path) -> None:
    again = Run.from_document(read(tmp_path, report()).document())
    assert isinstance(again.checks[0], CheckResult)
    assert again.to_json() == read(tmp_path, report()).to_json()


def test_a_damaged_report_keeps_no_other_out(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.xml", tmp_path / "b.xml"
    good.write_text(report())
    bad.write_text(report()[:500])
    state = ["--state-dir", str(tmp_path / "state")]
    app = typer.Typer()
    exchange.register(app)
    done = CliRunner().invoke(app, ["import", "siemens-daily-qc", str(bad), str(good), str(good), *state])
    assert done.exit_code == 2
    assert "1 of 3 reports imported" in done.stdout
    assert "1 were there already; 1 could not be read" in done.stdout
    assert f"{bad}: is not well-formed XML" in done.stderr


def test_imported_history_stands_behind_what_was_measured_here_by_its_dates(tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Store(tmp_path / "state")) as store:
            at = "2026-03-02T06:00:00+00:00"
            await store.begin_run("own", kind="daily", scanner="s", simulated=False, started_at=at, config_hash="c")
            for day in ("07", "05", "06"):
                await store.import_run(read(tmp_path, report().replace("2024-03-05T07:20", f"2024-03-{day}T07:20")))
            days = [line.started_at[:10] for line in store.history()]
            assert days == ["2026-03-02", "2024-03-07", "2024-03-06", "2024-03-05"]
            paged, before = [], None
            while page := store.history(1, before=before):
                paged += [line.started_at[:10] for line in page]
                before = page[-1].sequence
            assert paged == days
            assert store.kinds() == ["daily", "siemens-daily-qc"]
            with pytest.raises(NotFoundError, match="no run has ended yet"):
                store.line("last")

    asyncio.run(main())
