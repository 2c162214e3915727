"""A day composed of runs: each a record of its own, the worst verdict for the whole, and what ends a day early."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.test_daemon_runs import (  # noqa: F401 - bench is a fixture
    DEADLINE_S,
    FakeBoard,
    Reading,
    World,
    bench,
    world,
)

from petqc.composed import compose
from petqc.limits import Limits, Status
from petqc.qc_input import RunContext
from petqc.results import ChannelColumn, CheckResult, EnvironmentReading, RawFile, Run, RunPart
from petqcd import clock
from petqcd.config import DailyConfig, HousekeepingConfig
from petqcd.errors import RefusedError
from petqcd.readout.supervisor import BiasState
from petqcd.store import kind_of

if TYPE_CHECKING:
    from pathlib import Path

QC = {"housekeeping": HousekeepingConfig(seconds=0.05), "daily": DailyConfig(runs=("housekeeping", "source"))}
TITLES = {"housekeeping": "housekeeping", "source": "QC with a source", "dark": "dark counts"}
CONTEXT = RunContext("day", "daily", started_at="2026-03-02T06:00:00+00:00", finished_at="2026-03-02T06:10:00+00:00")


def a_part(kind: str, verdict: Status, *checks: CheckResult, **other: Any) -> Run:
    run = Run(f"r-{kind}", kind, CONTEXT.started_at, CONTEXT.finished_at, True, verdict, f"said of {kind}.", {}, "", {})
    run.checks = list(checks)
    for name, value in other.items():
        setattr(run, name, value)
    return run


def whole(*runs: Run, ended: str = "", missed: str = "") -> Run:
    parts = [RunPart(r.run_id, r.kind, r.verdict, r.sentence) for r in runs]
    parts += [RunPart(None, missed, Status.MISSED, "Not begun.")] if missed else []
    return compose(CONTEXT, parts, runs, TITLES, ended=ended)


def test_the_worst_verdict_counts_and_the_sentence_says_whose() -> None:
    good, bad = a_part("source", Status.PASS), a_part("housekeeping", Status.FAIL)
    assert (whole(good, a_part("dark", Status.PASS)).sentence) == "said of source. Also as it should be: dark counts."
    run = whole(bad, good)
    assert run.verdict is Status.FAIL
    assert run.sentence == "Housekeeping: said of housekeeping. Other parts: QC with a source pass."
    assert whole(a_part("source", Status.WARN), a_part("housekeeping", Status.PASS)).sentence == (
        "said of source. Other parts: housekeeping pass."
    )
    for verdict in (Status.WARN, Status.INVALID, Status.FAIL):
        assert whole(good, a_part("dark", verdict)).verdict is verdict
    missed = whole(good, missed="dark", ended="the bias outputs are unknown")
    assert missed.verdict is Status.INVALID
    assert "the bias outputs are unknown" in missed.sentence
    assert whole(bad, missed="source", ended="stopped").verdict is Status.FAIL
    assert whole().verdict is Status.INVALID
    again = Run.from_document(run.document())
    assert again.parts == run.parts


def test_checks_columns_and_readings_of_all_parts_come_together() -> None:
    limits = Limits(warn_high=1.0)
    warm = CheckResult.measured("temperature", "module:0.0.0", 2.0, "degC", 0.0, 1, limits)
    cool = replace(warm, value=0.5, status=Status.PASS)
    peak = CheckResult.measured("photopeak", "scanner", 511.0, "keV", 0.1, 9, Limits())

    def columns(check: str, channels: list[int]) -> dict[str, Any]:
        n = len(channels)
        text = np.full(n, "pass", object)
        column = ChannelColumn(check, "", np.arange(n) + 1.0, np.ones(n), np.ones(n, np.int64), text, text)
        return {"columns": [column], "channels": {"channel": np.array(channels, np.int32)}}

    reading = EnvironmentReading("temperature_sipm", "asic:0.0.0", 20.0, "degC", True, "good", 1.0)
    first = a_part("housekeeping", Status.WARN, warm, **columns("a", [1, 2, 9]), environment=[reading])
    first.finished_at = "2026-03-02T06:04:00+00:00"
    second = a_part("source", Status.PASS, cool, peak, **columns("b", [0, 1]), account={"frames": 7})
    second.raw_files = [RawFile("recording.rawf", "00")]
    run = whole(first, second)
    assert [(c.id, c.value) for c in run.checks] == [("temperature", 2.0), ("photopeak", 511.0)]
    assert run.channels["channel"].tolist() == [0, 1, 2, 9]
    a, b = run.columns
    assert np.isnan(a.value[0])
    assert a.value[1:].tolist() == [1.0, 2.0, 3.0]
    assert b.value[:2].tolist() == [1.0, 2.0]
    assert b.status[2:].tolist() == ["invalid", "invalid"]
    assert run.environment[0].age_s == 361.0
    assert run.account == {"frames": 7}
    assert run.raw_files == [RawFile("../r-source/recording.rawf", "00")]


def test_the_day_knows_where_the_crystals_are_whichever_part_was_first() -> None:
    def channels(numbers: list[int], x_mm: float, bias: str) -> dict[str, Any]:
        n = len(numbers)
        return {"channel": np.array(numbers), "x_mm": np.full(n, x_mm), "bias": np.full(n, bias, object)}

    house = a_part("housekeeping", Status.PASS, channels=channels([0, 1, 5], np.nan, ""))
    source = a_part("source", Status.PASS, channels=channels([0, 1, 5], 150.0, "bias:0.0.0.1"))
    source.channels["photopeak.baseline"] = np.array([510.0, 511.0, 512.0])
    for parts in ((house, source), (source, house)):
        day = whole(*parts).channels
        assert day["x_mm"].tolist() == [150.0] * 3
        assert set(day["bias"]) == {"bias:0.0.0.1"}
        assert day["photopeak.baseline"].tolist() == [510.0, 511.0, 512.0]
    more = a_part("housekeeping", Status.PASS, channels=channels([0, 1, 5, 7], np.nan, ""))
    assert np.isnan(whole(more, source).channels["photopeak.baseline"][3])


class HouseBoard(FakeBoard):
    """Has the readings that housekeeping wants."""

    channels = range(512)
    n_read = 0

    async def read_housekeeping(self) -> list[Reading]:
        await self._call("read_housekeeping")
        self.n_read += 1
        named = {
            "pll_lock_time": ("board:0.0", 1e9 * self.n_read),
            "upstream_errors": ("board:0.0", 0.0),
            "supply_good": ("supply:0.0.upper", 1.0),
        }
        sensors = [Reading(node=f"asic:0.0.{k}") for k in range(8)]
        return [*sensors, *(Reading(name, node, value, "") for name, (node, value) in named.items())]


async def day(w: World) -> Run:
    run_id = await w.runs.start("daily", source="test")
    async with asyncio.timeout(DEADLINE_S):
        await w.runs.wait()
    return Run.load(w.store.folder_of(run_id))


def test_a_day_is_its_parts_one_after_the_other(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, HouseBoard(), **QC) as w:
            with w.bus.listen() as events:
                run = await day(w)
                seen = [e for _ in range(events.qsize()) if (e := events.get_nowait()) is not None]
            house, source = (Run.load(w.store.folder_of(p.run_id)) for p in run.parts if p.run_id)
            assert (house.kind, house.verdict, source.kind) == ("housekeeping", Status.PASS, "source")
            assert run.verdict is source.verdict  # nothing was in front of the detector: worse than housekeeping
            assert run.sentence.startswith(source.sentence)
            assert {c.id for c in run.checks} >= {"clock_lock", "dead_channels"}
            told = [e.data for e in seen if e.name == "progress"]
            assert {d["run_id"] for d in told} == {run.run_id}
            assert [d["fraction"] for d in told] == sorted(d["fraction"] for d in told)
            assert list(dict.fromkeys(d["part"] for d in told)) == [
                "housekeeping, part 1 of 2", "source, part 2 of 2",
            ]  # fmt: skip
            assert [e.data["run_id"] for e in seen if e.name == "finished"] == [
                house.run_id, source.run_id, run.run_id,
            ]  # fmt: skip
            assert "bias_on" not in w.boards[0].calls
            lines = w.store.history(5)
            assert [line.kind for line in lines] == ["source", "housekeeping", "daily"]
            assert lines[0].part_of == lines[2].sequence
            assert lines[2].part_of is None
            assert w.store.line("last").run_id == run.run_id
            assert [line.run_id for line in w.store.history(5, "source")] == [source.run_id]
            text = w.metrics.text().decode()
            assert 'petqc_qc_run_verdict{kind="housekeeping",scanner="bench"} 0.0' in text
            assert 'petqc_run_verdict{scanner="bench"} -1.0' not in text

    asyncio.run(work())


def test_a_part_that_cannot_run_does_not_keep_the_others_from_running(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        broken = HouseBoard(fail={"configure": ConnectionError("no answer")})
        async with world(tmp_path, bench, broken, **QC) as w:
            run = await day(w)
            assert run.parts[0].verdict is Status.INVALID
            assert "no answer" in run.parts[0].sentence
            assert "bias_on" in w.boards[1].calls
        async with world(tmp_path / "b", bench, HouseBoard(), limits=False, **QC) as w:
            run = await day(w)  # no hard limits: the run with a source is refused, housekeeping needs none
            assert [(p.kind, p.verdict) for p in run.parts] == [
                ("housekeeping", Status.PASS), ("source", Status.INVALID),
            ]  # fmt: skip
            assert "hard limits are not configured" in run.parts[1].sentence
            assert run.verdict is Status.INVALID
            assert len(w.boards) == 1

    asyncio.run(work())


def test_outputs_that_are_not_known_to_be_off_end_the_day(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        silent = HouseBoard(fail={"bias_off": TimeoutError("silence")})
        async with world(tmp_path, bench, silent, **QC) as w:
            run = await day(w)
            assert [p.verdict for p in run.parts] == [Status.INVALID, Status.MISSED]
            assert run.parts[1].run_id is None
            assert run.verdict is Status.INVALID
            assert "bias outputs of board are unknown" in run.sentence
            assert len(w.boards) == 1  # nobody even spoke to the board again
            assert w.device.state.bias is BiasState.UNKNOWN

    asyncio.run(work())


def test_an_abort_ends_the_whole_day_with_bias_off(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        reached = asyncio.Event()
        board = HouseBoard(hang="read_housekeeping", reached=reached)
        async with world(tmp_path, bench, board, **QC) as w:
            run_id = await w.runs.start("daily", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
                assert w.runs.abort() == run_id
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert [p.verdict for p in run.parts] == [Status.INVALID, Status.MISSED]
            assert "stopped by command" in run.sentence
            assert w.boards[0].calls[-1] == "aclose"
            assert "bias_off" in w.boards[0].calls
            assert w.runs.progress is None

    asyncio.run(work())


def test_parts_can_be_chosen_and_set_for_one_day_and_nothing_else(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, **QC) as w:
            for wrong, said in (
                ({"runs": ["source", "source"]}, "twice"),
                ({"runs": ["source"], "settings": {"dark": {}}}, "no part of this day"),
                ({"settings": {"source": {"secunds": 1}}}, "secunds"),
                ({"seconds": 3}, r"\[qc.source\]"),
            ):
                with pytest.raises(RefusedError, match=said):
                    await w.runs.start("daily", source="test", parameters=wrong)
            assert w.store.history(5) == []
            given = {"runs": ["source"], "settings": {"source": {"seconds": 0.1}}}
            run_id = await w.runs.start("daily", source="test", parameters=given)
            await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert [p.kind for p in run.parts] == ["source"]

    asyncio.run(work())


def test_a_day_that_a_dead_daemon_left_is_made_of_what_there_is(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def die() -> None:
        async with world(tmp_path, bench, **QC) as w:
            told = {"scanner": "bench", "simulated": True, "started_at": clock.utc_text(), "config_hash": "c"}
            sequence = await w.store.begin_run("the-day", kind="daily", **told)
            await w.store.begin_run("its-part", kind="source", part_of=sequence, **told)

    async def recover() -> None:
        async with world(tmp_path, bench, **QC) as w:
            assert await w.runs.recover() == ["the-day", "its-part"]
            run = Run.from_document(w.store.document("the-day"))
            assert [(p.run_id, p.verdict) for p in run.parts] == [("its-part", Status.INVALID)]
            assert "interrupted" in run.sentence
            assert await w.runs.recover() == []

    asyncio.run(die())
    asyncio.run(recover())


def test_daily_runs_of_before_are_the_history_of_source_runs(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, HouseBoard(), **QC) as w:
            told = {"scanner": "bench", "simulated": True, "started_at": clock.utc_text(), "config_hash": "c"}
            await w.store.begin_run("older", kind="daily", **told)
            older = replace(a_part("daily", Status.PASS), run_id="older", scanner="bench")
            await w.store.finish_run(older)
            new = await day(w)
            source = new.parts[1].run_id
            assert [line.run_id for line in w.store.history(9, "source")] == [source, "older"]
            assert [line.run_id for line in w.store.history(9, "daily")] == [new.run_id, "older"]
            assert kind_of(w.store.document("older")) == "source"
            assert kind_of(w.store.document(new.run_id)) == "daily"

    asyncio.run(work())
