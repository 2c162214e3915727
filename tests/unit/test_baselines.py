"""Accepted baselines: of which runs, kept for ever in a chain, ended by another calibration, and what they change."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.run_documents import usual_run

from petqc.baseline import AcceptedBaseline, of_runs
from petqc.errors import BadInputError
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqcd.baselines import Baselines
from petqcd.config import load_config
from petqcd.errors import RefusedError, StoreError
from petqcd.metrics import Metrics
from petqcd.store import Store

if TYPE_CHECKING:
    from pathlib import Path

SCANNER = load_config(None).scanner.name


def metrics() -> Metrics:
    return Metrics(SCANNER, "board", simulated=True)


def a_run(
    number: int, peak: float, *, verdict: Status = Status.PASS, calibration: str = "a", kind: str = "source"
) -> Run:
    return usual_run(
        run_id=f"run-{number}",
        kind=kind,
        started_at=f"2026-03-{1 + number:02}T06:00:00+00:00",
        finished_at=f"2026-03-{1 + number:02}T06:01:00+00:00",
        verdict=verdict,
        calibration_ids={"tdc": calibration},
        scanner=SCANNER,
        checks=[
            CheckResult.measured("photopeak", "scanner", peak, "keV", 0.1, 900, Limits()),
            CheckResult.measured("photopeak.ewma", "scanner", 1.0, "σ", 0.0, 30, Limits()),
            CheckResult.missing("ctr_fit", "scanner", "ps", 3, Limits(), "too few pairs"),
        ],
    )


async def stored(store: Store, *runs: Run) -> None:
    for run in runs:
        await store.begin_run(
            run.run_id, kind=run.kind, scanner=run.scanner, simulated=True, started_at=run.started_at, config_hash=""
        )
        await store.finish_run(run)


def test_values_are_means_with_the_error_that_the_runs_show() -> None:
    calibration, values = of_runs([a_run(k, peak) for k, peak in enumerate((510.0, 511.0, 512.0))])
    assert calibration == {"tdc": "a"}
    assert values == {"photopeak": {"scanner": (511.0, pytest.approx(1.0 / 3**0.5))}}
    assert of_runs([a_run(1, 511.0)])[1]["photopeak"]["scanner"] == (511.0, 0.1)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"verdict": Status.FAIL}, "run run-2 is fail"),
        ({"verdict": Status.INVALID}, "run run-2 is invalid"),
        ({"calibration": "b"}, "differ in calibration ids"),
        ({"kind": "lutetium"}, "differ in kind"),
    ],
)
def test_runs_that_are_no_scanner_in_good_order_are_refused(other: dict[str, object], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        of_runs([a_run(1, 511.0), a_run(2, 511.0, **other)])


def test_accepted_used_ended_and_all_of_it_kept(tmp_path: Path) -> None:
    async def work() -> None:
        with closing(Store(tmp_path)) as store:
            baselines = Baselines(load_config(None), store, metrics())
            runs = [a_run(k, 511.0 + 0.1 * k) for k in range(6)]
            runs[2].verdict = Status.FAIL
            await stored(store, a_run(20, 500.0, calibration="old"), *runs)
            assert baselines.current("source") is None
            found = await baselines.accept("source", run_ids=[], last=30, who="ana", reason="acceptance")
            assert found.runs == ("run-0", "run-1", "run-3", "run-4", "run-5"), "failed and older calibrations are not"
            assert found.values["photopeak"]["scanner"][0] == pytest.approx(511.26)
            assert baselines.holding("source", {"tdc": "a"}) == (found, "")
            none, why = baselines.holding("source", {"tdc": "b"})
            assert none is None
            assert "made with another calibration" in why
            await baselines.end("source", who="ben", reason="new detector")
            assert baselines.holding("source", {"tdc": "a"}) == (None, "")
            with pytest.raises(RefusedError, match="no accepted baseline"):
                await baselines.end("source", who="ben", reason="again")
            again = await baselines.accept("source", run_ids=["run-5"], last=30, who="ana", reason="again")
            assert [b.number for b in baselines.listing()] == [1, 2, 3]
            assert again.previous == baselines.listing()[1].digest()
            assert AcceptedBaseline.from_document(json.loads(json.dumps(again.document()))) == again

    asyncio.run(work())


def test_the_acceptance_stays_through_calibrations_and_comes_before_the_reference(tmp_path: Path) -> None:
    async def work() -> None:
        with closing(Store(tmp_path)) as store:
            published = metrics()
            baselines = Baselines(load_config(None), store, published)
            await stored(store, a_run(1, 512.0), a_run(2, 510.0, calibration="b"))
            for run_id, is_acceptance in (("run-1", True), ("run-2", False)):
                await baselines.accept(
                    "source", run_ids=[run_id], last=1, who="ana", reason="x", is_acceptance=is_acceptance
                )
            reference, why = baselines.holding("source", {"tdc": "b"})
            assert reference is not None
            assert (reference.number, why) == (2, "")
            now = baselines.held(reference, "source", 1.77e9, {"tdc": "b"})
            assert now.values["photopeak"]["scanner"] == 512.0
            assert now.errors["photopeak"]["scanner"] == reference.values["photopeak"]["scanner"][1] > 0.0
            gauge = 'petqc_acceptance_accepted_timestamp_seconds{device="board",kind="source"'
            line = next(line for line in published.text().decode().splitlines() if line.startswith(gauge))
            assert float(line.rpartition(" ")[2]) > 1e9
            await baselines.end("source", who="ben", reason="new detector", is_acceptance=True)
            assert baselines.held(reference, "source", 1.77e9, {"tdc": "b"}).values["photopeak"]["scanner"] == 510.0
            assert baselines.current("source") == reference

    asyncio.run(work())


def test_a_baseline_cannot_be_changed_taken_out_or_forged(tmp_path: Path) -> None:
    async def work() -> None:
        with closing(Store(tmp_path)) as store:
            await stored(store, *(a_run(k, 511.0) for k in range(3)))
            baselines = Baselines(load_config(None), store, metrics())
            for reason in ("first", "second"):
                await baselines.accept("source", run_ids=[], last=3, who="ana", reason=reason)

    asyncio.run(work())
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
        for statement in ("UPDATE baselines SET kind = 'x'", "DELETE FROM baselines"):
            with pytest.raises(sqlite3.IntegrityError, match="a baseline is never"):
                connection.execute(statement)
        connection.execute("DROP TRIGGER baselines_unchanged")
        text = connection.execute("SELECT document FROM baselines WHERE number = 1").fetchone()[0]
        connection.execute("UPDATE baselines SET document = ? WHERE number = 1", (text.replace("ana", "eve"),))
        connection.commit()
    with (
        closing(Store(tmp_path)) as store,
        pytest.raises(StoreError, match="baseline 2 does not follow the one before"),
    ):
        store.baselines()
