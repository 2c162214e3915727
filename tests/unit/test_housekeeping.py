"""Housekeeping: what is out of lock, silent, bad, wrong or old is found where it is; what was not read is no pass."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.again import same_again
from tests.unit.test_calibration_runs import DEADLINE_S, PulsedBoard, bench, world  # noqa: F401 - bench is a fixture

from petqc.calibrate.ages import TableAge, table_ages
from petqc.channel_map import Topology
from petqc.errors import BadInputError
from petqc.formats.petsys_config import load_config
from petqc.housekeeping import analyse_housekeeping
from petqc.limits import Status
from petqc.qc_input import RunContext
from petqc.reanalyse import Other, reanalyse
from petqc.results import EnvironmentReading, Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOPOLOGY = Topology.from_channels(np.arange(8 * 64, dtype=np.int32), asics_per_module=4)
WATCHED_S = 10.0
CLOCKS = WATCHED_S * 200e6


def reading(name: str, node: str, value: float | None, **other: object) -> EnvironmentReading:
    found = EnvironmentReading(name, node, value, "", value is not None, "good", 0.0)
    return replace(found, **other)  # type: ignore[arg-type]


def readings(at: float, **changed: float | None) -> list[EnvironmentReading]:
    """A healthy board of two modules; at: clocks since it started; changed: by NAME__NODE, _ for : and - for dots."""
    values: dict[tuple[str, str], float | None] = {
        ("uptime", "board:0.0"): at,
        ("pll_lock_time", "board:0.0"): at,
        ("upstream_rx", "board:0.0"): at / 1000,
        ("upstream_rx_bad", "board:0.0"): 3.0,
        ("upstream_errors", "board:0.0"): 0.0,
        ("link_locked", "link:0.0.sync"): 1.0,
        ("link_value", "link:0.0.sync"): 32768.0,
        ("link_errors", "link:0.0.sync"): 0.0,
        ("supply_good", "supply:0.0.lower"): 1.0,
        ("supply_good", "supply:0.0.upper"): 1.0,
        ("supply_vdd1", "module:0.0.0"): 1.351,
        ("bias_supply_on", "scanner"): 0.0,
    }
    for asic in range(8):
        values["temperature_sipm", f"asic:0.0.{asic}"] = 22.0 + 0.1 * asic
        values["temperature_asic", f"asic:0.0.{asic}"] = 25.0
        values["asic_code_errors", f"lane:0.0.{asic}.0"] = 7.0
    for key, value in changed.items():
        name, node = key.split("__")
        values[name, node.replace("_", ":").replace("-", ".")] = value
    return [
        reading(name, node, value, quality="good" if value is not None else "bad", reason=None if value else "silent")
        for (name, node), value in values.items()
    ]


def judged(last: Sequence[EnvironmentReading], ages: Sequence[TableAge] = (TableAge("tdc", 3.0, "set"),)) -> Run:
    first = readings(5e9)
    return analyse_housekeeping(first, last, WATCHED_S, ages, TOPOLOGY, RunContext("h", environment=tuple(last)))


def changed(**values: float | None) -> Run:
    return judged(readings(5e9 + CLOCKS, **values))


def test_a_healthy_board_passes_and_says_on_what() -> None:
    run = changed()
    assert run.verdict is Status.PASS, run.sentence
    assert "link errors 0," in run.sentence
    locked = run.find("clock_lock")
    assert locked is not None
    assert (locked.value, locked.n) == (0.0, 2)
    assert run.find("supply_voltage.vdd1", "module:0.0.0") is not None
    assert {c.node for c in run.checks if c.id == "temperature"} >= {"module:0.0.0", "module:0.0.1", "asic:0.0.7"}


def test_each_fault_is_found_where_it_is() -> None:
    for values, check, node, status in (
        ({"pll_lock_time__board_0-0": 5e9 + 1e3}, "clock_lock", "unit:0.0", Status.FAIL),
        ({"link_locked__link_0-0-sync": 0.0}, "clock_lock", "unit:0.0", Status.FAIL),
        ({"supply_good__supply_0-0-upper": 0.0}, "supply", "unit:0.0", Status.FAIL),
        ({"supply_vdd1__module_0-0-0": 1.27}, "supply_voltage.vdd1", "module:0.0.0", Status.WARN),
        ({"supply_vdd1__module_0-0-0": 1.60}, "supply_voltage.vdd1", "module:0.0.0", Status.FAIL),
        ({"asic_code_errors__lane_0-0-3-0": 9.0}, "link_errors", "unit:0.0", Status.WARN),
        ({"upstream_rx_bad__board_0-0": 2e5}, "link_errors.bad_words", "scanner", Status.FAIL),
        ({"asic_code_errors__lane_0-0-3-0": 1.0}, "link_errors", "unit:0.0", Status.INVALID),
        ({"bias_supply_on__scanner": 1.0}, "bias_off", "scanner", Status.FAIL),
        ({"bias_supply_on__scanner": None}, "bias_off", "scanner", Status.INVALID),
        ({"temperature_sipm__asic_0-0-5": None}, "temperature_sensors", "module:0.0.1", Status.WARN),
        ({"temperature_sipm__asic_0-0-5": 40.0}, "temperature", "asic:0.0.5", Status.FAIL),
        ({"temperature_asic__asic_0-0-5": 28.0}, "temperature_asic", "asic:0.0.5", Status.WARN),
    ):
        run = changed(**values)
        found = run.find(check, node)
        assert found is not None, values
        assert found.status is status, (values, found)
        assert run.verdict is status, (values, run.sentence)
    errors = changed(**{"asic_code_errors__lane_0-0-3-0": 9.0}).find("link_errors", "unit:0.0")
    assert errors is not None
    assert errors.reason == "asic_code_errors of lane:0.0.3.0: 2"


def test_what_was_not_read_is_never_a_pass() -> None:
    last = readings(5e9 + CLOCKS)
    for gone in ("pll_lock_time", "supply_good", "bias_supply_on", "temperature"):
        kept = [r for r in last if not r.name.startswith((gone, "link_locked" if gone == "pll_lock_time" else gone))]
        assert judged(kept).verdict is Status.INVALID, gone
    assert judged(last, ()).verdict is Status.INVALID
    nothing = judged([], ())
    assert nothing.verdict is Status.INVALID
    assert not [c for c in nothing.checks if c.status is Status.PASS]
    commanded = [replace(r, measured=False) if r.name == "bias_supply_on" else r for r in last]
    off = judged(commanded).find("bias_off")
    assert off is not None
    assert off.status is Status.NO_LIMITS


def test_old_tables_warn_and_tables_of_the_future_are_no_age(tmp_path: Path) -> None:
    last = readings(5e9 + CLOCKS)
    run = judged(last, (TableAge("tdc", 200.0, "set"), TableAge("qdc", 3.0, "set")))
    assert run.verdict is Status.WARN
    assert "calibration age (tdc)" in run.sentence
    assert judged(last, (TableAge("tdc", -1.0, "set"),)).verdict is Status.INVALID


def test_tables_of_the_devices_own_have_the_date_of_their_file(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    config = load_config(bench)
    made_s = config.paths["tdc"].stat().st_mtime
    ages = {age.table: age for age in table_ages(config, tmp_path, None, made_s + 86_400.0)}
    assert ages["tdc"].days == 1.0
    assert ages["tdc"].how == "date of the file tdc.tsv"
    assert "channel_map" not in ages


class QuietBoard(PulsedBoard):
    """Tells the readings of a healthy board, one second of clock apart."""

    def __init__(self) -> None:
        super().__init__()
        self.n_read = 0

    async def configure(self, plan: object = None) -> None:
        self.calls.append("configure")
        assert plan is None

    async def read_housekeeping(self) -> list[object]:
        self.n_read += 1
        return [_Reading(r) for r in readings(5e9 + 200e6 * self.n_read) if r.name != "bias_supply_on"]


class _Reading:
    at_monotonic_s = 0.0

    def __init__(self, of: EnvironmentReading) -> None:
        self.name, self.node, self.value, self.unit = of.name, of.node, of.value, of.unit
        self.measured, self.quality, self.reason = of.measured, of.quality, of.reason


def test_the_run_reads_twice_without_bias_and_keeps_every_reading(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        board = QuietBoard()
        async with world(tmp_path, bench, board) as w:
            run_id = await w.runs.start("housekeeping", source="test", parameters={"seconds": 0.05})
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert run.verdict is Status.PASS, run.sentence
            assert board.n_read == 2
            assert board.calls.index("bias_off") < board.calls.index("configure")
            assert {r.name for r in run.environment} >= {"supply_good", "pll_lock_time", "asic_code_errors"}
            assert 'petqc_link_errors{module="scanner",scanner="bench"} 0.0' in w.metrics.text().decode()
            folder = w.store.folder_of(run_id)
            same_again(folder, tmp_path / "copy")
            with pytest.raises(BadInputError, match="tell of the calibration that was in use"):
                reanalyse(folder, Other(folder / "config" / "config.ini"))
            (folder / "inputs.json").unlink()
            with pytest.raises(BadInputError, match=r"inputs\.json is not there"):
                reanalyse(folder)

    asyncio.run(work())


def test_a_counter_without_its_reference_is_told_once_and_other_doubts_of_it_besides() -> None:
    def with_counter(reference: float | None = 0.0, because: str = "no 10 MHz reference", **skew: object) -> Run:
        why = {"quality": "bad", "reason": because}
        return judged(
            [
                *readings(5e9 + CLOCKS),
                reading("instrument_answers", "device:clocks", 1.0),
                reading("clock_reference", "device:clocks", reference, **why),
                reading("clock_skew", "device:clocks", 900.0, **(why | {"quality": "uncertain"} | skew)),
            ]
        )

    run = with_counter()
    reference, answers = run.find("clock_reference"), run.find("instruments")
    assert reference is not None
    assert answers is not None
    assert (reference.status, answers.status) == (Status.WARN, Status.PASS)
    assert "1 timing instrument without its reference clock, where none may be (device:clocks" in run.sentence
    run = with_counter(reason="overflow")
    answers = run.find("instruments")
    assert answers is not None
    assert (answers.status, answers.reason) == (Status.FAIL, "clocks: clock_skew: overflow")
    assert "1 instrument that does not answer as it must, where none may be (clocks: " in run.sentence
    # That nobody knows whether it has one is no want of it.
    answers = with_counter(None, "stale: 18 s old").find("instruments")
    assert answers is not None
    assert answers.status is Status.FAIL


def test_an_instrument_of_a_module_that_is_not_there_is_told() -> None:
    """As of a slip in the configuration: what it reads joins no check, and nobody would notice."""
    at = ["module:0.0.1 - reference", "module:0.0.9 - reference"]
    run = judged(
        [
            *readings(5e9 + CLOCKS),
            reading("instrument_answers", "device:clocks", 1.0),
            *(reading("clock_skew", node, 900.0) for node in at),
        ]
    )
    assert [note for note in run.notes if "in no check" in note] == [
        "What is read of module:0.0.9 is in no check: not in the channel map."
    ]
