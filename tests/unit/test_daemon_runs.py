"""A run and its exit path, against a board that does as it is told or misbehaves at one place."""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.histories import a_run, claim

from petqc.formats.bundle_check import check_bundle
from petqc.formats.petsys_raw import RawHeader, RawReader, RawWriter
from petqc_simulators.recording import write_recording
from petqcd import clock
from petqcd.config import ApiConfig, DeviceConfig, PetqcConfig, QcConfig, SourceConfig
from petqcd.errors import BusyError, PermitError, RefusedError
from petqcd.interlocks import readout_permits as interlocks
from petqcd.interlocks.bias_limits import BiasLimits
from petqcd.measurement import Measurement, count_frames
from petqcd.metrics import Metrics
from petqcd.progress import Bus
from petqcd.readout.board import Received, TimeReference
from petqcd.readout.supervisor import BiasState, DeviceSupervisor
from petqcd.runs import RunManager
from petqcd.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from numpy.typing import NDArray

SECONDS = 0.3
N_FRAMES = 2000
DEADLINE_S = 30


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.ini of a simulated bench."""
    folder = tmp_path_factory.mktemp("bench")
    return folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]


def empty_frames(first: int, n: int) -> NDArray[np.uint64]:
    words = np.zeros((n, 2), np.uint64)
    words[:, 0] = np.arange(first, first + n, dtype=np.uint64) | np.uint64(2 << 36)
    return words.reshape(-1)


@dataclass(slots=True)
class Reading:
    name: str = "temperature_sipm"
    node: str = "asic:0.0.0"
    value: float | None = 24.5
    unit: str = "degC"
    measured: bool = True
    quality: str = "good"
    at_monotonic_s: float = field(default_factory=clock.monotonic_s)
    reason: str | None = None


class FakeBoard:
    """Does what a board does; `fail` makes one of its methods raise, `hang` makes one wait for ever."""

    def __init__(
        self, *, fail: dict[str, Exception] | None = None, hang: str = "", reached: asyncio.Event | None = None
    ) -> None:
        self.fail = fail or {}
        self.hang = hang
        self.reached = reached
        self.calls: list[str] = []
        self.delivered = self._before = 0
        self._flow: asyncio.Task[None] | None = None
        self.before_frames: Callable[[], None] | None = None

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.hang:
            assert self.reached is not None
            self.reached.set()
            await asyncio.Event().wait()
        if name in self.fail:
            raise self.fail[name]

    async def connect(self) -> str:
        await self._call("connect")
        return "a fake board"

    async def configure(self) -> None:
        await self._call("configure")

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        assert overvoltage_share == 1.0, "a source run works at the configured voltage"
        await self._call("bias_on")

    async def bias_off(self) -> BiasState:
        await self._call("bias_off")
        return BiasState.OFF_CONFIRMED

    async def read_environment(self) -> list[Reading]:
        await self._call("read_environment")
        return [Reading()]

    async def time_tag(self) -> int:
        return int(200e6 * clock.monotonic_s())

    async def time_reference(self) -> TimeReference:
        await self._call("time_reference")
        return TimeReference(200_000_000, 0, 0.0, 1)

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        await self._call("start")
        self._before = self.delivered

        async def flow() -> None:
            while True:
                sink(empty_frames(self.delivered, N_FRAMES))
                self.delivered += N_FRAMES
                await asyncio.sleep(0.01)

        self._flow = asyncio.create_task(flow())

    async def stop(self) -> Received:
        if self._flow is not None:
            self._flow.cancel()
            await asyncio.wait({self._flow})
        await self._call("stop")
        return Received(frames=self.delivered - self._before)

    async def wait_failed(self) -> None:
        await self._call("wait_failed")
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        if self._flow is not None:
            self._flow.cancel()
            await asyncio.wait({self._flow})
        await self._call("aclose")


@dataclass(slots=True)
class World:
    """What a run needs around it."""

    store: Store
    bus: Bus
    metrics: Metrics
    device: DeviceSupervisor
    runs: RunManager
    boards: list[FakeBoard]

    async def run(self) -> dict[str, Any]:
        run_id = await self.runs.start("source", source="test")
        async with asyncio.timeout(DEADLINE_S):
            await self.runs.wait()
        return self.store.document(run_id)

    def number(self, name: str) -> float:
        lines = [line for line in self.metrics.text().decode().splitlines() if line.startswith(name + "{")]
        assert len(lines) == 1, name
        return float(lines[0].rsplit(" ", 1)[1])


@asynccontextmanager
async def world(
    state_dir: Path,
    bench: Path,
    *given: FakeBoard,
    limits: bool = True,
    queue_mib: int = 64,
    live_queue_mib: int = 64,
    **qc: Any,
) -> AsyncIterator[World]:
    """given: boards, one for each connection; then good ones. qc: further tables of the configuration."""
    bias = BiasLimits(v_min=0, v_max=50, max_step_v=1, slew_v_per_s=10) if limits else None
    device = DeviceConfig(address="udp://127.0.0.1:9", configuration=bench, simulated=True, bias=bias)
    config = PetqcConfig(
        device=(device,),
        qc=QcConfig(
            source=SourceConfig(seconds=SECONDS, settle_s=0, queue_mib=queue_mib, live_queue_mib=live_queue_mib), **qc
        ),
        api=ApiConfig(listen="127.0.0.1:0"),
    )
    store, bus, metrics = Store(state_dir), Bus(), Metrics("bench", "board", simulated=True)
    boards: list[FakeBoard] = []

    def make(*_: object) -> FakeBoard:
        made = given[len(boards)] if len(boards) < len(given) else FakeBoard()
        boards.append(made)
        return made

    supervisor = DeviceSupervisor(device, state_dir, bus, metrics)
    runs = RunManager(config, store, bus, metrics, supervisor, make)
    try:
        yield World(store, bus, metrics, supervisor, runs, boards)
    finally:
        await runs.aclose()
        store.close()


def test_a_run_goes_through_its_stages_and_is_stored_whole(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench) as w:
            with w.bus.listen() as events:
                document = await w.run()
                seen = [events.get_nowait() for _ in range(events.qsize())]
            (board,) = w.boards
            assert board.calls == [
                "connect",
                "configure",
                "read_environment",
                "bias_on",
                "time_reference",
                "start",
                "wait_failed",
                "stop",
                "bias_off",
                "read_environment",
                "aclose",
            ]
            stages = [e.data["stage"] for e in seen if e is not None and e.name == "progress"]
            assert list(dict.fromkeys(stages)) == ["connect", "configure", "bias", "acquire", "off", "analyse"]
            fractions = [e.data["fraction"] for e in seen if e is not None and e.name == "progress"]
            assert fractions == sorted(fractions)
            assert seen[-1] is not None
            assert seen[-1].name == "finished"
            assert document["simulated"] is True
            assert document["environment"][0]["value"] == 24.5
            assert document["software"]["board"] == "a fake board"
            account = document["account"]
            assert account["frames_received"] == board.delivered
            assert account["frames_recorded"] + account["frames_dropped"] == board.delivered
            assert any("bias is off, read back" in note for note in document["notes"])
            folder = w.store.folder_of(document["run_id"])
            names = {p.name for p in folder.iterdir()}
            assert {"run.json", "channels.parquet", "report.html", "recording.rawf", "config"} <= names
            assert (folder / "config" / "config.ini").is_file()
            assert not (folder / "wire").exists()  # only frames were wanted
            assert check_bundle(folder).is_whole
            with RawReader(folder / "recording.rawf") as reader:
                assert reader.steps[0].frames == board.delivered
            assert w.runs.progress is None
            assert w.number("petqc_run_active") == 0
            assert w.number("petqc_frames_received_total") == board.delivered
            assert w.number("petqc_bias_state") == 0

    asyncio.run(work())


AFTER_CONNECT = ("configure", "read_environment", "bias_on", "time_reference", "start", "wait_failed", "stop")


@pytest.mark.parametrize("place", AFTER_CONNECT)
def test_whatever_fails_bias_goes_off_first_and_the_run_says_why(tmp_path: Path, bench: Path, place: str) -> None:
    async def work() -> None:
        async with world(tmp_path, bench, FakeBoard(fail={place: ConnectionError(f"{place} went wrong")})) as w:
            document = await w.run()
            calls = w.boards[0].calls
            after = calls[calls.index(place) + 1 :]
            assert after[0] == "bias_off"
            assert after[-1] == "aclose"
            assert document["verdict"] == "invalid"
            assert f"{place} went wrong" in document["sentence"]
            assert w.number("petqc_bias_state") == 0
            assert w.number("petqc_runs_invalid_total") == 1
            assert w.number("petqc_run_last_success_timestamp_seconds") == 0
            if place in {"wait_failed", "stop"}:
                with RawReader(w.store.folder_of(document["run_id"]) / "recording.rawf") as reader:
                    assert sum(block.size for block in reader.blocks()) > 0
                    assert reader.damage is None

    asyncio.run(work())


def test_what_is_compiled_first_makes_no_permit_old(
    tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic_s, warm_up, later = clock.monotonic_s, Measurement.warm_up, [0.0]

    def slow(measurement: Measurement) -> None:
        warm_up(measurement)
        later[0] = 10 * interlocks.CONNECTION_AGE_S

    monkeypatch.setattr(clock, "monotonic_s", lambda: monotonic_s() + later[0])
    monkeypatch.setattr(Measurement, "warm_up", slow)

    async def work() -> None:
        async with world(tmp_path, bench) as w:
            await w.run()
            assert "bias_on" in w.boards[0].calls

    asyncio.run(work())


def test_a_run_without_a_source_has_checks_of_its_own(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench) as w:
            given = {"seconds": SECONDS, "settle_s": 0.0}
            run_id = await w.runs.start("lutetium", source="test", parameters=given)
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            document = w.store.document(run_id)
            assert (document["kind"], document["verdict"]) == ("lutetium", "fail")  # every channel is silent
            checks = {check["id"] for check in document["checks"]}
            assert {"lu_energy_scale", "lu_efficiency", "dead_channels", "live_time"} <= checks
            assert not {"photopeak", "ctr_fit", "singles_rate"} & checks
            assert "bias_off" in w.boards[0].calls

    asyncio.run(work())


def test_a_board_that_was_never_reached_is_not_told_anything(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench, FakeBoard(fail={"connect": ConnectionError("nobody there")})) as w:
            document = await w.run()
            assert "bias_off" not in w.boards[0].calls
            assert "nobody there" in document["sentence"]
            assert w.number("petqc_bias_state") == 3

    asyncio.run(work())


@pytest.mark.parametrize("place", AFTER_CONNECT[:-1])
def test_an_abort_at_any_moment_ends_safely_and_as_a_record(tmp_path: Path, bench: Path, place: str) -> None:
    async def work() -> None:
        reached = asyncio.Event()
        async with world(tmp_path, bench, FakeBoard(hang=place, reached=reached)) as w:
            run_id = await w.runs.start("source", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
                assert w.runs.abort() == run_id
                w.runs.abort()  # a second time changes nothing
                await w.runs.wait()
            calls = w.boards[0].calls
            assert calls[calls.index(place) + 1] == "bias_off"
            document = w.store.document(run_id)
            assert document["verdict"] == "invalid"
            assert "stopped by command" in document["sentence"]

    asyncio.run(work())


async def stopped_while(w: World, at_it: threading.Event, off: threading.Event) -> None:
    """Stop a run once a thread of its is at it, which goes on once bias is off; wait for the run's end."""
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.to_thread(at_it.wait, DEADLINE_S)
        w.runs.abort()
        while "bias_off" not in w.boards[0].calls:  # noqa: ASYNC110 - what is waited for is the run's
            await asyncio.sleep(0.01)
        off.set()
        await w.runs.wait()


def test_an_abort_while_the_recording_is_begun_waits_for_it_after_bias_off(
    tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slow must not hold up bias off, nor leave a recording open that nobody finalises."""
    begun, off = threading.Event(), threading.Event()
    original = Measurement.open_recording

    def slow(self: Measurement, *given: Any) -> None:
        begun.set()
        assert off.wait(DEADLINE_S)
        original(self, *given)

    monkeypatch.setattr(Measurement, "open_recording", slow)

    async def work() -> None:
        async with world(tmp_path, bench) as w:
            run_id = await w.runs.start("source", source="test")
            await stopped_while(w, begun, off)
            document = w.store.document(run_id)
            assert "stopped by command" in document["sentence"]
            assert [file["name"] for file in document["raw_files"]] == ["recording.rawf"]
            assert not any("finalised" in note for note in document["notes"])
            assert sorted(p.name for p in w.store.folder_of(run_id).glob("recording*")) == [
                "recording.idxf", "recording.manifest.jsonl", "recording.rawf",
            ]  # fmt: skip

    asyncio.run(work())


def test_the_end_of_the_daemon_stops_the_run_which_becomes_a_record(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        reached = asyncio.Event()
        async with world(tmp_path, bench, FakeBoard(hang="bias_on", reached=reached)) as w:
            run_id = await w.runs.start("source", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
                await w.runs.aclose()
            assert "the daemon was stopped" in w.store.document(run_id)["sentence"]
            with pytest.raises(RefusedError, match="stopping"):
                await w.runs.start("source", source="test")

    asyncio.run(work())


def test_an_off_that_nobody_confirms_is_told_in_the_verdict(tmp_path: Path, bench: Path) -> None:
    board = FakeBoard(fail={"wait_failed": ConnectionError("no frame for 2.0 s"), "bias_off": TimeoutError("silence")})

    async def work() -> None:
        async with world(tmp_path, bench, board) as w:
            document = await w.run()
            assert "no frame for 2.0 s" in document["sentence"]
            assert "UNKNOWN" in document["sentence"]
            assert "hardware switch" in document["sentence"]
            assert w.device.state.bias is BiasState.UNKNOWN
            assert w.number("petqc_bias_state") == 3

    asyncio.run(work())


def test_a_full_disk_ends_the_run_with_bias_off(tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Measurement, _words: NDArray[np.uint64]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Measurement, "write", full)

    async def work() -> None:
        async with world(tmp_path, bench) as w:
            document = await w.run()
            assert "No space left" in document["sentence"]
            assert w.boards[0].calls.index("bias_off") < w.boards[0].calls.index("stop")
            assert document["account"]["frames_dropped"] == w.boards[0].delivered

    asyncio.run(work())


def test_a_recorder_that_lags_drops_whole_chunks_and_counts_every_frame(
    tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    original = Measurement.write

    def slow(self: Measurement, words: NDArray[np.uint64]) -> None:
        gate.wait(10)
        original(self, words)

    monkeypatch.setattr(Measurement, "write", slow)
    board = FakeBoard()
    close = board.bias_off

    async def off_opens_the_gate() -> BiasState:
        # One chunk or two are at the recorder and two wait: however slow this machine is, the sixth is one too many.
        while board.delivered < 6 * N_FRAMES:  # noqa: ASYNC110 - frames flow until the board is stopped
            await asyncio.sleep(0.01)
        gate.set()
        return await close()

    monkeypatch.setattr(board, "bias_off", off_opens_the_gate)
    monkeypatch.setitem(globals(), "N_FRAMES", 30_000)  # 0.5 MiB a chunk against a queue of 1 MiB

    async def work() -> None:
        async with world(tmp_path, bench, board, queue_mib=1) as w:
            document = await w.run()
            account = document["account"]
            assert account["frames_dropped"] > 0
            assert account["frames_recorded"] > 0
            assert account["frames_recorded"] + account["frames_dropped"] == account["frames_received"]
            assert not any("do not add up" in note for note in document["notes"])
            assert w.number("petqc_frames_dropped_total") == account["frames_dropped"]

    asyncio.run(work())


def test_a_second_run_is_refused_and_not_queued(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        reached = asyncio.Event()
        async with world(tmp_path, bench, FakeBoard(hang="configure", reached=reached)) as w:
            run_id = await w.runs.start("source", source="test")
            with pytest.raises(BusyError, match=run_id):
                await w.runs.start("source", source="test")
            w.runs.abort()
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            assert len(w.store.history()) == 1

    asyncio.run(work())


def test_two_commands_at_once_start_one_run(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        reached = asyncio.Event()
        async with world(tmp_path, bench, FakeBoard(hang="connect", reached=reached)) as w:
            both = await asyncio.gather(
                w.runs.start("source", source="a"), w.runs.start("source", source="b"), return_exceptions=True
            )
            assert sorted(type(r).__name__ for r in both) == ["BusyError", "str"]
            w.runs.abort()
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()

    asyncio.run(work())


def test_without_hard_limits_nothing_starts(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench, limits=False) as w:
            with pytest.raises(RefusedError, match=r"\[device.bias\]"):
                await w.runs.start("source", source="test")
            assert w.boards == []
            assert w.store.history() == []
            with pytest.raises(RefusedError, match="no run of kind"):
                await w.runs.start("weekly", source="test")

    asyncio.run(work())


def test_off_needs_no_limits_and_overtakes_a_run(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path / "a", bench, limits=False) as w:
            assert (await w.runs.off()).state is BiasState.OFF_CONFIRMED
            assert w.boards[0].calls == ["bias_off", "aclose"]
        reached = asyncio.Event()
        async with world(tmp_path / "b", bench, FakeBoard(hang="bias_on", reached=reached)) as w:
            run_id = await w.runs.start("source", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
                outcome = await w.runs.off()
                await w.runs.wait()
            assert outcome.state is BiasState.OFF_CONFIRMED
            assert "bias_off" in w.boards[0].calls
            assert "switched off by command" in w.store.document(run_id)["sentence"]

    asyncio.run(work())


def test_an_interrupted_run_found_at_start_becomes_a_record(tmp_path: Path, bench: Path) -> None:
    async def claim() -> None:
        async with world(tmp_path, bench) as w:
            await w.store.begin_run(
                "left-behind",
                kind="source",
                scanner="bench",
                simulated=True,
                started_at=clock.utc_text(),
                config_hash="c",
            )
            folder = w.store.folder_of("left-behind")
            folder.mkdir(parents=True)
            writer = RawWriter(folder / "recording", RawHeader())
            writer.start_step()
            writer.write(empty_frames(0, 10))
            writer.write(np.array([11 | 3 << 36, 1, 5], np.uint64))
            writer._flush()
            writer._release()  # as a process leaves it that was killed
            (folder / "bundle.json.partial").write_text('{"schema": "petqc-bun')

    async def recover() -> None:
        async with world(tmp_path, bench) as w:
            assert await w.runs.recover() == ["left-behind"]
            assert await w.runs.recover() == []
            document = w.store.document("left-behind")
            assert document["verdict"] == "invalid"
            assert "interrupted" in document["sentence"]
            assert any("finalised as truncated" in note for note in document["notes"])
            folder = w.store.folder_of("left-behind")
            with RawReader(folder / "recording.rawf") as reader:
                assert sum(block.size for block in reader.blocks()) > 0
            assert (folder / "run.json").is_file()
            assert not list(folder.glob("*.partial"))

    asyncio.run(claim())
    asyncio.run(recover())


def test_a_run_that_was_concluded_and_not_stored_is_stored_at_the_next_start(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench) as w:
            await claim(w.store, "concluded")
            folder = w.store.folder_of("concluded")
            folder.mkdir(parents=True)
            a_run("concluded").save(folder)
            assert await w.runs.recover() == ["concluded"]
            document = w.store.document("concluded")
            assert document["verdict"] == "pass"
            assert document["checks"] == a_run("concluded").document()["checks"]
            assert any("when the daemon started again" in note for note in document["notes"])

    asyncio.run(work())


def test_permits_refuse_what_is_unknown_stale_or_bad() -> None:
    permits = interlocks.Interlocks()
    with pytest.raises(PermitError, match="identity verified is unknown"):
        permits.require(0.0)
    for name in interlocks.REQUIRED:
        permits.give(interlocks.Permit(name, True, interlocks.Quality.GOOD, 0.0, "test", max_age_s=5.0))
    permits.require(4.9)
    with pytest.raises(PermitError, match="stale"):
        permits.require(5.1)
    with pytest.raises(PermitError, match="stale"):
        permits.require(-1.0)  # from the future: a clock that cannot be believed
    permits.give(interlocks.Permit(interlocks.LINK, True, interlocks.Quality.UNCERTAIN, 0.0, "test"))
    with pytest.raises(PermitError, match="device link is uncertain"):
        permits.require(1.0)
    permits.give(interlocks.Permit(interlocks.LINK, False, interlocks.Quality.GOOD, 0.0, "test", "cable"))
    with pytest.raises(PermitError, match="not given: cable"):
        permits.require(1.0)
    permits.forget()
    assert len(permits.against(1.0)) == len(interlocks.REQUIRED)


def test_frames_are_counted_as_they_are() -> None:
    assert count_frames(empty_frames(5, 17)) == 17
    assert count_frames(np.array([1 | 4 << 36, 2, 7, 7, 2 | 2 << 36, 0], np.uint64)) == 2


def test_a_stop_when_everything_is_acquired_is_told_and_changes_no_verdict(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, bench, FakeBoard()) as w:
            with w.runs.services.bus.listen() as events:
                run_id = await w.runs.start("source", source="test")
                async with asyncio.timeout(DEADLINE_S):
                    while (event := await events.get()) is None or event.data.get("stage") != "analyse":
                        assert w.runs.progress is not None
                        assert w.runs.progress.stopping == "is being stopped"
                    assert "nothing is left to stop" in w.runs.progress.stopping
                    w.runs.abort()
                    await w.runs.wait()
            document = w.store.document(run_id)
            assert "stopped by command" not in document["sentence"]
            assert any(note.startswith("Told to stop (stopped by command)") for note in document["notes"])
            assert "Started by test." in document["notes"]

    asyncio.run(work())
