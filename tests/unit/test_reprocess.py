"""Many recordings analysed again: what is found, fetched, done, stored once, and said of what was not."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import distributed
import fsspec
import pytest
import typer
from fsspec.implementations.memory import MemoryFileSystem
from tests.unit.recorded_bundles import bundle_of
from tests.unit.test_calibration_sets import origin, tdc_tables

from petqc.calibrate.sets import create_set
from petqc.errors import BadInputError
from petqc.formats.bundle import read_bundle
from petqc.formats.petsys_config import load_config
from petqc.limits import Status
from petqc.recorded.kinds import KINDS
from petqc.results import Run
from petqc.run_names import RECORDINGS, expected_id
from petqc.vendor_reports import imported_run
from petqcd.cli import reprocess as command
from petqcd.errors import ConfigError, NotFoundError, StoreError, UnreachableError
from petqcd.reprocess import campaign
from petqcd.reprocess.campaign import Campaign, scheduler_at
from petqcd.reprocess.places import Place
from petqcd.reprocess.work import Calibration, Order, Outcome, analyse_one, like_this
from petqcd.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def cluster(workers: int) -> distributed.LocalCluster:
    """A scheduler on a socket with workers, all in this process."""
    how: dict[str, Any] = {
        "processes": False,
        "protocol": "tcp",
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
    }
    return distributed.LocalCluster(n_workers=workers, threads_per_worker=1, **how)


@pytest.fixture(scope="module", autouse=True)
def _threads_that_dask_keeps() -> None:
    with cluster(1) as there:
        done(there.scheduler_address, Order(Place("/nowhere/at/all"), like_this()))


@pytest.fixture
def address() -> Iterator[str]:
    with cluster(1) as there:
        yield there.scheduler_address


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("runs") / "r1")


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def run(capsys: pytest.CaptureFixture[str], bundles: list[Any], **options: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(typer.Exit) as ended:
        command.reprocess(bundles=[str(one) for one in bundles], as_json=True, **options)
    return ended.value.exit_code, json.loads(capsys.readouterr().out)


def test_a_store_of_objects_a_set_and_a_scheduler_and_nothing_is_done_twice(
    tmp_path: Path, bundle: Path, address: str, memory: MemoryFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    own = load_config(bundle / "config" / "config.ini")
    info = create_set(tmp_path / "sets", "tdc", own, tdc_tables(own), replace(origin(own), scanner="bench"))
    memory.put(str(tmp_path / "sets" / info.id), f"/sets/{info.id}", recursive=True)
    memory.put(str(bundle), "/runs/r1", recursive=True)
    memory.put(str(bundle), "/runs/changed", recursive=True)
    memory.pipe("/runs/changed/recording.rawf", b"x" + memory.cat("/runs/changed/recording.rawf")[1:])
    memory.pipe(
        "/runs/housekeeping/bundle.json", b'{"schema": "petqc-bundle/1", "state": "complete", "kind": "housekeeping"}'
    )
    memory.pipe("/runs/torn/bundle.json", b'{"schema": "petqc-bund')
    asked: dict[str, Any] = {
        "calibration": f"memory://sets/{info.id}", "output": "memory://results", "state_dir": tmp_path / "state",
    }  # fmt: skip
    code, found = run(capsys, ["memory://runs"], scheduler=address, retries=0, **asked)
    assert code == 4
    said = {Place(one["bundle"]).name: one for one in found["bundles"]}
    assert {name: one["state"] for name, one in said.items()} == {
        "r1": "analysed", "changed": "not analysed", "housekeeping": "left out", "torn": "not analysed",
    }  # fmt: skip
    assert "recording.rawf was changed" in said["changed"]["why"]
    assert "no manifest" in said["torn"]["why"]
    run_id = said["r1"]["run_id"]
    ids = load_config(tmp_path / "sets" / info.id / "config.ini").file_hashes
    assert run_id == expected_id(read_bundle(bundle), {**ids, "set": info.id})
    kept = json.loads(memory.cat(f"/results/{run_id}/run.json"))
    assert (kept["reanalysis_of"], kept["calibration_ids"]["set"]) == ("r1", info.id)
    assert memory.exists(f"/results/{run_id}/channels.parquet")
    with closing(Store(tmp_path / "state")) as store:
        assert store.document(run_id) == kept
        assert [line.run_id for line in store.history()] == [run_id]

    # Nobody is at this address: what is there already is found without a worker.
    code, found = run(capsys, ["memory://runs/r*"], scheduler="tcp://127.0.0.1:9", **asked)
    assert (code, found["counts"]) == (0, {"there already": 1})
    assert found["bundles"][0]["verdict"] == kept["verdict"]
    # The same bundle from elsewhere is the same recording, also where it was computed all the same.
    code, found = run(capsys, [bundle], scheduler=address, **{**asked, "output": str(tmp_path / "there")})
    assert (code, found["counts"]) == (0, {"there already": 1})
    assert (tmp_path / "there" / run_id / "run.json").read_bytes() == memory.cat(f"/results/{run_id}/run.json")
    with pytest.raises(ConfigError, match="runs of kind housekeeping make a calibration, or tell of the"):
        command.reprocess(bundles=["memory://runs/housekeeping"], **asked)


def test_every_kind_that_is_analysed_again_is_reprocessed() -> None:
    assert set(RECORDINGS) == set(KINDS)


class Flaky(MemoryFileSystem):
    """A store that answers only every third question for a file."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - as the class above has it
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    asked = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("flaky://")))

    def get_file(self, *arguments: Any, **options: Any) -> None:
        type(self).asked += 1
        if self.asked % 3:
            raise OSError("the store does not answer")
        super().get_file(*arguments, **options)


def done(address: str, *orders: Order, **how: Any) -> list[Outcome]:
    found: list[Outcome] = []
    with scheduler_at(address) as client:
        Campaign(**how).run(client, orders, found.append)
    return found


def test_reading_is_tried_again_and_what_is_broken_is_not(address: str) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    system = fsspec.filesystem("flaky")
    system.pipe("/empty/bundle.json", b'{"schema": "petqc-bundle/1", "state": "complete", "kind": "source"}')
    order = Order(Place.of("flaky://empty"), like_this())
    (one,) = done(address, order, retries=2)
    assert (one.state, Flaky.asked) == ("not analysed", 3)
    assert "has no recording" in one.why or "configurations" in one.why
    (one,) = done(address, order, retries=1)
    assert (one.why, Flaky.asked) == ("OSError: the store does not answer", 5)


def test_a_worker_that_is_not_like_the_one_who_asks_computes_nothing(address: str, bundle: Path) -> None:
    order = Order(Place.of(str(bundle)), {**like_this(), "numpy": "1.0"})
    (one,) = done(address, order, retries=0)
    assert one.state == "not analysed"
    assert "not 1.0: its results would be others" in one.why


def test_a_set_of_another_scanner_is_refused(bundle: Path, tmp_path: Path) -> None:
    given = Calibration(Place.of(str(tmp_path)), "0001-tdc", "", "north")
    found = analyse_one(Order(Place.of(str(bundle)), like_this(), given))
    assert found.state == "not analysed"
    assert "is a run of bench, and calibration set 0001-tdc is of north" in found.why
    own = load_config(bundle / "config" / "config.ini")
    info = create_set(tmp_path, "tdc", own, tdc_tables(own), replace(origin(own), scanner="bench"))
    found = analyse_one(
        Order(Place.of(str(bundle)), like_this(), Calibration(Place.of(str(tmp_path / info.id)), info.id, ""))
    )
    assert "another set here" in found.why
    found = analyse_one(
        Order(Place.of(str(bundle)), like_this(), Calibration(Place.of(str(tmp_path / "gone")), "gone", ""))
    )
    assert "there is no such folder" in found.why


def test_schedulers_that_are_not_there_or_have_nobody_to_work(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr(campaign, "_LOOK_S", 0.05)
    with pytest.raises(UnreachableError, match=r"tcp://127.0.0.1:9: no scheduler answers .*refused"):
        done("tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="nowhere"):
        done("tcp://nowhere")
    with cluster(0) as there, pytest.raises(UnreachableError, match=r"no worker for 0.1 s; 1 are not done"):
        done(there.scheduler_address, Order(Place.of(str(bundle)), like_this()), workerless_s=0.1)


def test_a_history_that_takes_nothing_ends_the_campaign_and_says_so_of_all(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def held(*_: Any, **__: Any) -> None:
        raise StoreError("a daemon uses this state directory already")

    monkeypatch.setattr("petqcd.cli.importing.import_runs", held)
    monkeypatch.setattr(command, "STORE_PATIENCE_S", 0.0)

    def doing(orders: list[Order], _scheduler: Any, _workers: Any, _retries: int, results: Any) -> None:
        document = Run("x-again-1", "source", "", "", True, Status.PASS, "", {}, "", {}).to_json()
        for order in orders:
            results(Outcome(order.bundle.url, "analysed", "x-again-1", "pass", document=document))

    monkeypatch.setattr(command, "_do", doing)
    shutil.copytree(bundle, tmp_path / "r2")
    code, found = run(capsys, [bundle, tmp_path / "r2", tmp_path / "gone"], state_dir=tmp_path / "state")
    assert code == StoreError.exit_code
    assert found["counts"] == {"not analysed": 3}
    assert [one["why"].partition(" ")[0] for one in found["bundles"]] == ["is", "a", "a"]


def test_schemes_that_need_a_package_name_it() -> None:
    fsspec.register_implementation("far", "no_such_package.Far", clobber=True, errtxt="Install no_such_package")
    with pytest.raises(ConfigError, match=r"far:// needs another package here and on every worker: Install no_such"):
        Place.of("far://bucket/run").has("bundle.json")
    with pytest.raises(ConfigError, match="nowhere"):
        Place.of("nowhere://x").has("bundle.json")


def test_a_re_analysis_is_never_taken_for_a_run_of_its_kind(tmp_path: Path) -> None:
    now = "2026-01-01T06:00:00+00:00"
    run = Run("r-again-1", "source", now, now, True, Status.PASS, "", {}, "", {}, reanalysis_of="r", scanner="bench")

    async def main() -> None:
        with closing(Store(tmp_path)) as store:
            assert await store.import_run(imported_run(run.document()))
            assert not await store.import_run(run)
            assert store.reanalyses() == {"r-again-1": "pass"}
            assert [(line.run_id, line.kind) for line in store.history()] == [("r-again-1", "source-again")]
            assert store.document("r-again-1")["kind"] == "source"
            assert not store.history(50, "source")
            assert not store.values("source", scanner="bench", simulated=True, checks=(), most=9)
            assert len(store.values("source-again", scanner="bench", simulated=True, checks=(), most=9)) == 1
            for asked in (lambda: store.last_document("source"), lambda: store.line("last")):
                with pytest.raises(NotFoundError):
                    asked()

    asyncio.run(main())
    with pytest.raises(BadInputError, match="runs of kind 'source' are not imported"):
        imported_run({**run.document(), "run_id": "r"})


def test_exit_codes_say_the_worst() -> None:
    def of(*found: tuple[Any, str]) -> int:
        return command._exit_code([Outcome("b", state, verdict=verdict) for state, verdict in found])

    assert of(("analysed", "pass"), ("there already", "warn"), ("left out", "")) == 0
    assert of(("analysed", "pass"), ("there already", "fail")) == 1
    assert of(("analysed", "fail"), ("analysed", "invalid")) == 4
    assert of(("analysed", "fail"), ("not analysed", "")) == of(("analysed", "pass"), ("not stored", "pass")) == 4
