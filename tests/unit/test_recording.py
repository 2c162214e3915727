"""Recording: taps tell, a thread writes, nothing waits; and what a run leaves is a bundle that says what is whole."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.test_daemon_runs import DEADLINE_S, FakeBoard, bench, world  # noqa: F401 - bench is a fixture

from petqc.errors import BadInputError
from petqc.formats.bundle import BUNDLE_JSON, begin_bundle, read_bundle, role_of, seal_bundle
from petqc.formats.bundle_check import check_bundle
from petqc.formats.wire_log import WireEvent, WireLogReader, WireLogWriter
from petqc.limits import Status
from petqc.reanalyse import Other, reanalyse
from petqc.results import EnvironmentReading, Run, RunPart
from petqc.run_names import expected_id
from petqc_drivers.errors import LinkLostError
from petqc_drivers.transport.recording import WAS_OPEN, RecordedPort, Tap, recorded
from petqcd.recording import wires
from petqcd.recording.wires import WireLogs

if TYPE_CHECKING:
    from pathlib import Path


def said(folder: Path, name: str) -> list[tuple[str, bytes]]:
    with WireLogReader(folder / "wire" / f"{name}.wire") as log:
        found = [(r.event.name.lower(), r.payload) for r in log.records()]
        assert log.end.is_closed
    return found[1:-1]


class Port:
    """Answers `pong`, then nothing, then is gone."""

    longest_wait_s = 0.1

    def __init__(self) -> None:
        self.answers = [b"pong", b""]

    def write(self, _data: bytes, _timeout_s: float) -> None:
        pass

    def read(self, _timeout_s: float) -> bytes:
        if not self.answers:
            raise LinkLostError("the other end closed the connection", device="supply")
        return self.answers.pop(0)

    def clear(self) -> bytes:
        return b"stray"

    def device_clear(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_everything_that_crosses_a_port_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    tap = Tap("supply", "serial", "/dev/ttyS0", omits="nothing")
    logs = WireLogs(tmp_path, lambda _tap: {"device": "hv", "kind": "hamamatsu-c11204"})
    with recorded(logs):
        port = RecordedPort(Port(), tap)
        assert port.clear() == b"stray"
        port.write(b"ping", 1.0)
        assert port.read(1.0) == b"pong"
        assert port.read(1.0) == b""
        with pytest.raises(LinkLostError):
            port.read(1.0)
        port.close()
        tap.closed()  # a second time is nothing
    port.write(b"after", 1.0)
    logs.close()
    assert said(tmp_path, "supply") == [
        ("opened", b"/dev/ttyS0"),
        ("received", b"stray"),
        ("sent", b"ping"),
        ("received", b"pong"),
        ("failed", b"supply: the other end closed the connection"),
        ("closed", b""),
    ]
    with WireLogReader(tmp_path / "wire" / "supply.wire") as log:
        assert log.header == {
            "schema": "petqc-wire/1", "wire": "supply", "transport": "serial", "address": "/dev/ttyS0",
            "device": "hv", "kind": "hamamatsu-c11204", "omits": "nothing",
        }  # fmt: skip
    assert not logs.remarks


def test_two_connections_at_once_are_two_wires_and_one_after_the_other_are_one(tmp_path: Path) -> None:
    first, second, third = (Tap("readout", "udp", "127.0.0.1:9") for _ in range(3))
    first.opened()
    logs = WireLogs(tmp_path, lambda _tap: {})
    with recorded(logs):
        first.sent(b"1")
        second.opened()
        second.sent(b"2")
        second.closed()
        first.closed()
        third.opened()
        third.sent(b"3")
    logs.close()
    third.closed()
    assert said(tmp_path, "readout") == [
        ("opened", WAS_OPEN.encode()), ("sent", b"1"), ("closed", b""), ("opened", b"127.0.0.1:9"), ("sent", b"3"),
    ]  # fmt: skip
    assert said(tmp_path, "readout-2") == [("opened", b"127.0.0.1:9"), ("sent", b"2"), ("closed", b"")]


def test_a_recorder_that_cannot_keep_up_drops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "QUEUE_BYTES", 10_000)
    monkeypatch.setattr(wires, "EVERY_S", 60.0)
    tap = Tap("stream", "tcp", "there:1")
    logs = WireLogs(tmp_path, lambda _tap: {})
    with recorded(logs):
        for _ in range(20):
            tap.received(bytes(800))
    logs.close()
    found = said(tmp_path, "stream")
    kept = [event for event, _ in found].count("received")
    assert 5 <= kept < 20
    event, gap = found[-1]
    assert event == "gap"
    assert json.loads(gap) == {
        "records": 20 - kept, "bytes": 800 * (20 - kept), "why": "the recorder could not keep up with the wires",
    }  # fmt: skip


def test_a_disk_that_fails_ends_one_log_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = Tap("bad", "tcp", "there:1"), Tap("good", "tcp", "there:2")
    add = WireLogWriter.add

    def full(self: WireLogWriter, *arguments: Any) -> None:
        if self.path.name == "bad.wire":
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(WireLogWriter, "add", full)
    logs = WireLogs(tmp_path, lambda _tap: {})
    with recorded(logs):
        for tap in (bad, good, bad, good):
            tap.sent(b"x")
    logs.close()
    assert logs.remarks == ["The wire log bad ends before the run: No space left on device."]
    assert said(tmp_path, "good") == [("sent", b"x")] * 2


def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "CLOSE_S", 0.05)
    go_on = threading.Event()
    monkeypatch.setattr(WireLogWriter, "sync", lambda _self: go_on.wait(30))
    tap = Tap("slow", "tcp", "there:1")
    logs = WireLogs(tmp_path, lambda _tap: {})
    with recorded(logs):
        tap.sent(b"x")
    logs.close()
    assert "did not take the wire logs" in logs.remarks[0]
    tap.sent(b"y")
    go_on.set()
    logs._thread.join(30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with a wire log, sealed."""
    run = tmp_path / "run"
    (run / "wire").mkdir(parents=True)
    begin_bundle(run, {"run_id": "r", "kind": "source", "recorded": "everything"})
    log = WireLogWriter(run / "wire" / "hv.wire", {"wire": "hv", "device": "hv", "kind": "k", "transport": "tcp",
                                                  "address": "a"}, (0, 0))  # fmt: skip
    log.add(WireEvent.SENT, b"abc", (1, 1))
    log.add(WireEvent.RECEIVED, b"defgh", (2, 2))
    log.close((3, 3))
    (run / "config").mkdir()
    (run / "config" / "config.ini").write_text("[main]\n")
    (run / "petqc.json").write_text("{}")
    seal_bundle(run)
    return run


def test_a_sealed_bundle_names_every_file_and_wire(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.state == "complete"
    assert [(f.name, f.role) for f in bundle.files] == [
        ("config/config.ini", "configuration"), ("petqc.json", "petqc"), ("wire/hv.wire", "wire"),
    ]  # fmt: skip
    (wire,) = bundle.wires
    assert (wire.name, wire.device, wire.sent, wire.received, wire.dropped) == ("hv", "hv", 3, 5, 0)
    assert bundle.about["run_id"] == "r"
    assert check_bundle(folder).is_whole
    assert role_of("recording.manifest.jsonl") == "frames-manifest"


def test_what_was_changed_cut_or_lost_is_named_with_what_is_still_whole(folder: Path) -> None:
    path = folder / "wire" / "hv.wire"
    path.write_bytes(path.read_bytes()[:-5])
    (folder / "petqc.json").unlink()
    (folder / "config" / "config.ini").write_text("[mean]\n")
    found = check_bundle(folder)
    assert not found.is_whole
    told = {finding.name: finding.problem for finding in found.problems}
    assert told == {
        "config/config.ini": "was changed: its SHA-256 is another",
        "petqc.json": "is not there",
        "wire/hv.wire": f"has {path.stat().st_size} bytes, and had {path.stat().st_size + 5}",
    }
    assert "3 whole records" in next(f.remark for f in found.findings if f.role == "wire")


def test_a_bundle_whose_process_died_reads_as_truncated_and_can_be_sealed_later(folder: Path) -> None:
    path = folder / "wire" / "hv.wire"
    path.write_bytes(path.read_bytes()[:-5])
    begin_bundle(folder, {"run_id": "r", "kind": "source"})
    bundle = read_bundle(folder)
    assert bundle.state == "recording"
    assert "never ended" in bundle.reason
    assert [file.name for file in bundle.files] == ["config/config.ini", "petqc.json", "wire/hv.wire"]
    found = check_bundle(folder)
    assert not found.problems
    assert not found.is_whole
    sealed = seal_bundle(folder)
    assert (sealed.state, sealed.reason) == ("truncated", "wire/hv.wire was cut")
    assert not check_bundle(folder).problems


MANIFEST = {"schema": "petqc-bundle/1", "state": "complete"}
FILE = {"name": "x", "role": "other", "bytes": 1, "sha256": ""}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no manifest"),
        ("[]", "no manifest"),
        ('{"schema": "petqc-bundle/2"}', "petqc-bundle/2"),
        ('{"schema": "petqc-bundle/1", "state": "good"}', "unknown state"),
        ('{"schema": "petqc-bundle/1", "state": "complete", "files": [{"name": 1}]}', "no manifest"),
        (json.dumps(MANIFEST | {"files": [FILE | {"name": "../secret"}]}), "outside"),
        (json.dumps(MANIFEST | {"files": [FILE | {"bytes": "1"}]}), "no manifest"),
    ],
)
def test_manifests_that_are_none_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / BUNDLE_JSON).write_text(text)
    with pytest.raises(BadInputError, match=told):
        read_bundle(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no bundle"):
        check_bundle(tmp_path)


def test_a_run_records_wires_and_readings_where_that_is_wanted(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    tap = Tap("hv", "serial", "/dev/ttyS0")

    async def work() -> None:
        board = FakeBoard()
        async with world(tmp_path, bench, board) as w:
            start = board.start

            async def told(sink: Any) -> None:
                tap.sent(b"HPO")
                await start(sink)

            board.start = told  # type: ignore[method-assign]
            run_id = await w.runs.start("source", source="test", parameters={"record": "everything"})
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            folder = w.store.folder_of(run_id)
            bundle = read_bundle(folder)
            assert check_bundle(folder).is_whole
            assert bundle.about["recorded"] == "everything"
            assert said(folder, "hv") == [("sent", b"HPO")]
            lines = [json.loads(line) for line in (folder / "environment.jsonl").read_text().splitlines()]
            assert {line["name"] for line in lines} == {"temperature_sipm"}
            assert "petqc.json" in {file.name for file in bundle.files}

    asyncio.run(work())


def test_a_run_that_was_stopped_leaves_a_truncated_bundle_which_is_analysed_as_far_as_it_goes(
    tmp_path: Path,
    bench: Path,  # noqa: F811
) -> None:
    async def work() -> Path:
        async with world(tmp_path, bench, FakeBoard(fail={"wait_failed": ConnectionError("cable out")})) as w:
            document = await w.run()
            return w.store.folder_of(document["run_id"])

    folder = asyncio.run(work())
    bundle = read_bundle(folder)
    assert bundle.state == "truncated"
    assert "cable out" in bundle.reason
    again = reanalyse(folder)
    assert again.reanalysis_of == bundle.about["run_id"]
    assert again.run_id == expected_id(bundle)
    assert again.sentence.startswith("Re-analysis of a truncated recording: ")
    assert again.account["frames"] > 0
    assert any(isinstance(reading, EnvironmentReading) for reading in again.environment)
    assert again.to_json() == reanalyse(folder).to_json()
    shutil.copytree(folder / "config", folder.parent / "other")
    other = folder.parent / "other" / "config.ini"
    calibrated = reanalyse(folder, Other(other, "set-1"))
    assert calibrated.calibration_ids == again.calibration_ids | {"set": "set-1"}
    assert calibrated.run_id != again.run_id
    assert any("with another calibration (set)" in note for note in calibrated.notes)
    (folder / "config" / "tdc.tsv").write_text("# another\n")
    with pytest.raises(BadInputError, match=r"config/tdc.tsv (has|was)"):
        reanalyse(folder)


def test_what_is_not_analysed_again_says_what_to_do_instead(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no recording"):
        reanalyse(folder)
    begin_bundle(folder, {"run_id": "r", "kind": "a site's own"})
    seal_bundle(folder)
    with pytest.raises(BadInputError, match="kind a site's own are not analysed again, only source, lutetium, mr-del"):
        reanalyse(folder)
    run = Run("d", "daily", "", "", False, Status.PASS, "", {}, "", {}, parts=[RunPart("p", "source", Status.PASS, "")])
    run.save(tmp_path)
    with pytest.raises(BadInputError, match="composed of other runs: analyse one of p"):
        reanalyse(tmp_path)
